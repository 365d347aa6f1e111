//! model.json: vLLM's EngineArgs, parsed once into types that cannot be wrong. The door reads the
//! file and logs the warnings, [`keys`] lists what may stand in it, the engine uses the result. It
//! never looks at a model, a device or a file.
//!
//! Strings mean what they say: `"false"` is false and `"0.5"` is a half, each with a warning.

mod keys;
mod lora;
mod pooling;
mod values;

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::fault::Faults;
use crate::device::DType;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json;
use crate::model::config::parse_dtype;
use crate::model::hub::Token;
use crate::model::pooling::PoolerOptions;
use crate::sampling::python::quoted;
use crate::sampling::StructuredOptions;
pub use lora::LoraArgs;
use values::Reader;

/// Where weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadFormat {
    /// safetensors if there are any, else what else the folder holds and we can read.
    Auto,
    Safetensors,
    /// pytorch_model.bin.
    Torch,
    /// No files: small random numbers in the shapes of config.json.
    Dummy,
}

/// The key `device`, which older files carry; new ones may use it to ask for the CPU engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceArg {
    /// A visible GPU, and the CPU only where there is none.
    Auto,
    Cpu,
}

/// Which eos ids of generation_config.json count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GenerationConfig {
    /// "auto" and "vllm": the file beside the model, if any.
    Model,
    /// The file in this folder.
    Folder(PathBuf),
}

/// model.json after validation. `None` = not set: the default depends on the model or the device.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineArgs {
    /// Local folder or Hugging Face id.
    pub model: String,
    /// Folder or id of another tokenizer; `None` = the model's.
    pub tokenizer: Option<String>,
    pub revision: Option<String>,
    pub tokenizer_revision: Option<String>,
    /// Hugging Face cache folder.
    pub download_dir: Option<PathBuf>,
    pub hf_token: Token,
    /// Shell patterns of files that are not downloaded.
    pub ignore_patterns: Vec<String>,
    /// `None` = auto: the checkpoint's, as the device allows.
    pub dtype: Option<DType>,
    pub load_format: LoadFormat,
    pub device: DeviceArg,
    /// Prompt and output together. `None` = the model's own limit.
    pub max_model_len: Option<u32>,
    /// `max_model_len: -1`: shrink the model's limit to what the KV pool holds.
    pub fit_max_model_len: bool,
    /// Share of the device's memory for weights, activations and pages, (0, 1].
    pub gpu_memory_utilization: f64,
    /// Bytes for pages; wins over `gpu_memory_utilization`.
    pub kv_cache_memory_bytes: Option<u64>,
    /// Number of pages; wins over everything.
    pub num_gpu_blocks_override: Option<u32>,
    /// Tokens of a page, a multiple of 16.
    pub block_size: u32,
    pub enable_prefix_caching: bool,
    pub enable_chunked_prefill: bool,
    pub max_num_batched_tokens: Option<u32>,
    pub max_num_seqs: Option<u32>,
    /// Double the defaults of `max_num_seqs` and `max_num_batched_tokens`.
    pub throughput_mode: bool,
    pub tensor_parallel_size: u32,
    pub pipeline_parallel_size: u32,
    /// No CUDA graphs.
    pub enforce_eager: bool,
    pub seed: i64,
    /// Send to a stream after the first token, each this many tokens, and the end.
    pub stream_interval: u32,
    /// Prompts longer than this are chunked to it. 0 = off.
    pub long_prefill_token_threshold: u32,
    /// Element type of pages; `None` = the model's.
    pub kv_cache_dtype: Option<DType>,
    /// Share of pages that admission leaves free, [0, 1).
    pub watermark: f64,
    /// A prompt is admitted only if all of it fits.
    pub scheduler_reserve_full_isl: bool,
    pub disable_sliding_window: bool,
    /// Cap of `logprobs`, -1 = the vocabulary.
    pub max_logprobs: i64,
    pub generation_config: GenerationConfig,
    /// Merged deep into config.json.
    pub hf_overrides: Map<String, Value>,
    /// `enable_lora`.
    pub lora: Option<LoraArgs>,
    pub enable_log_requests: bool,
    /// `runner`, `convert`, `pooler_config`: generate or embed, and how.
    pub pooler: PoolerOptions,
    /// True switches custom metrics off.
    pub disable_log_stats: bool,
    /// `structured_outputs_config`: what holds for every request.
    pub structured_outputs: StructuredOptions,
    /// `additional_config.inject_faults`: break on purpose, in tests.
    pub inject_faults: Option<Faults>,
}

impl EngineArgs {
    /// Parse the text of model.json. Beside the arguments: one line of warning for each key that
    /// was coerced, ignored or is out of date.
    ///
    /// # Errors
    /// InvalidArgument or Unsupported with one line that names the key, the value and what is
    /// allowed.
    pub fn parse(text: &str) -> Result<(EngineArgs, Vec<String>)> {
        let value = json::parse(text.as_bytes())
            .map_err(|e| invalid!("model.json is not valid JSON: {e}"))?;
        match value {
            Value::Object(map) => EngineArgs::from_map(map).map_err(Error::on_one_line),
            other => Err(invalid!(
                "model.json must hold one JSON object of engine arguments, got {}",
                values::kind(&other)
            )),
        }
    }

    fn from_map(mut map: Map<String, Value>) -> Result<(EngineArgs, Vec<String>)> {
        let mut warnings = Vec::new();
        modernise(&mut map, &mut warnings)?;
        let inject_faults = Faults::take(&mut map)?;
        check_keys(&map, &mut warnings)?;
        check_switches(&map, &mut warnings)?;
        let mut read = Reader::new(&map, &mut warnings);
        let (max_model_len, fit_max_model_len) = max_model_len(&mut read)?;
        let args = EngineArgs {
            model: read.string("model")?.unwrap_or_else(|| "Qwen/Qwen3-0.6B".into()),
            tokenizer: read.string("tokenizer")?,
            revision: read.string("revision")?,
            tokenizer_revision: read.string("tokenizer_revision")?,
            download_dir: read.string("download_dir")?.map(PathBuf::from),
            hf_token: hf_token(&map)?,
            ignore_patterns: ignore_patterns(&map)?,
            dtype: dtype(&mut read, "dtype")?,
            load_format: load_format(&mut read)?,
            device: device(&mut read)?,
            max_model_len,
            fit_max_model_len,
            gpu_memory_utilization: read.float("gpu_memory_utilization")?.unwrap_or(0.92),
            kv_cache_memory_bytes: read.at_least("kv_cache_memory_bytes", 1)?,
            num_gpu_blocks_override: read.at_least("num_gpu_blocks_override", 1)?,
            block_size: read.at_least("block_size", 1)?.unwrap_or(16),
            enable_prefix_caching: read.boolean("enable_prefix_caching")?.unwrap_or(true),
            enable_chunked_prefill: read.boolean("enable_chunked_prefill")?.unwrap_or(true),
            max_num_batched_tokens: read.at_least("max_num_batched_tokens", 1)?,
            max_num_seqs: read.at_least("max_num_seqs", 1)?,
            throughput_mode: performance_mode(&mut read)?,
            tensor_parallel_size: read.at_least("tensor_parallel_size", 1)?.unwrap_or(1),
            pipeline_parallel_size: read.at_least("pipeline_parallel_size", 1)?.unwrap_or(1),
            enforce_eager: read.boolean("enforce_eager")?.unwrap_or(false),
            seed: read.int("seed")?.unwrap_or(0),
            stream_interval: read.at_least("stream_interval", 1)?.unwrap_or(1),
            long_prefill_token_threshold: read
                .at_least("long_prefill_token_threshold", 0)?
                .unwrap_or(0),
            kv_cache_dtype: kv_cache_dtype(&mut read)?,
            watermark: read.float("watermark")?.unwrap_or(0.0),
            scheduler_reserve_full_isl: read.boolean("scheduler_reserve_full_isl")?.unwrap_or(true),
            disable_sliding_window: read.boolean("disable_sliding_window")?.unwrap_or(false),
            max_logprobs: read.int("max_logprobs")?.unwrap_or(20),
            generation_config: generation_config(&mut read)?,
            hf_overrides: read.object("hf_overrides")?,
            pooler: pooling::read(&mut read)?,
            lora: lora::read(&map, &mut read)?,
            enable_log_requests: read.boolean("enable_log_requests")?.unwrap_or(false),
            disable_log_stats: read.boolean("disable_log_stats")?.unwrap_or(false),
            structured_outputs: structured_outputs(&mut read)?,
            inject_faults,
        };
        args.check_ranges()?;
        Ok((args, warnings))
    }

    fn check_ranges(&self) -> Result<()> {
        let share = self.gpu_memory_utilization;
        if !(share > 0.0 && share <= 1.0) {
            return Err(invalid!("gpu_memory_utilization must be in (0, 1], got {share}"));
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(invalid!("watermark must be in [0, 1), got {}", self.watermark));
        }
        if !self.block_size.is_multiple_of(16) {
            return Err(invalid!(
                "Block size must be a multiple of 16. block_size is {}",
                self.block_size
            ));
        }
        if self.max_logprobs < -1 {
            return Err(invalid!("max_logprobs must be at least -1, got {}", self.max_logprobs));
        }
        if let (Some(tokens), Some(seqs)) = (self.max_num_batched_tokens, self.max_num_seqs) {
            if tokens < seqs {
                return Err(invalid!(
                    "max_num_batched_tokens ({tokens}) must be greater than or equal to \
                     max_num_seqs ({seqs})."
                ));
            }
        }
        Ok(())
    }

    /// What an instance group of this kind can run.
    ///
    /// # Errors
    /// InvalidArgument for KIND_GPU with several GPUs per model, Unsupported for several GPUs at
    /// all.
    pub fn check_parallel(&self, kind_gpu: bool) -> Result<()> {
        let (tp, pp) = (self.tensor_parallel_size, self.pipeline_parallel_size);
        if u64::from(tp) * u64::from(pp) <= 1 {
            return Ok(());
        }
        if kind_gpu {
            return Err(invalid!(
                "KIND_GPU is currently for single-GPU models, please specify KIND_MODEL in the \
                 model's config.pbtxt for multi-GPU models"
            ));
        }
        Err(Error::Unsupported(format!(
            "tensor_parallel_size {tp} and pipeline_parallel_size {pp} in model.json: this version \
             serves a model on one device, set both to 1"
        )))
    }
}

/// Rewrite keys of older releases to today's, with a warning each.
fn modernise(map: &mut Map<String, Value>, warnings: &mut Vec<String>) -> Result<()> {
    let mut overrides = Map::new();
    for key in ["rope_scaling", "rope_theta"] {
        if let Some(value) = map.remove(key).filter(|v| !v.is_null()) {
            warnings
                .push(format!("model.json: '{key}' is out of date, read as hf_overrides.{key}"));
            overrides.insert(key.into(), value);
        }
    }
    if !overrides.is_empty() {
        match map.entry("hf_overrides").or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(given) => given.extend(overrides),
            other => return Err(values::wrong("hf_overrides", "an object", other)),
        }
    }
    pooling::modernise(map, warnings)?;
    let speculative = [
        "speculative_config",
        "speculative_model",
        "num_speculative_tokens",
        "spec_method",
        "spec_model",
        "spec_tokens",
    ];
    let mut asked = false;
    for key in speculative {
        asked |= map.remove(key).is_some_and(|v| !v.is_null());
    }
    if asked {
        warnings.push(
            "model.json: speculative decoding is not built: the model is served without it, \
             answers are the same"
                .into(),
        );
    }
    Ok(())
}

/// Every key must be known; what is ignored or refused is said here.
fn check_keys(map: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<()> {
    let find = |table: &[(&'static str, &'static str)], key: &str| {
        table.iter().find(|(name, _)| *name == key).map(|(_, default)| *default)
    };
    for (key, value) in map {
        let key = key.as_str();
        if keys::READ.contains(&key) || keys::QUIET.contains(&key) || key == "device" {
            continue;
        }
        if keys::LEGACY.contains(&key) {
            warnings.push(format!("model.json: '{key}' is no engine argument any more: ignored"));
        } else if let Some(default) = find(keys::IGNORE, key) {
            if !values::is_default(value, default) {
                warnings
                    .push(format!("model.json: '{key}' has no effect here: {value} is ignored"));
            }
        } else if let Some(default) = find(keys::REJECT, key) {
            let vllm_itself = key == "model_impl" && value == "vllm";
            if !values::is_default(value, default) && !vllm_itself {
                return Err(Error::Unsupported(format!(
                    "model.json: '{key}': {value} is not supported, remove it or use {default}"
                )));
            }
        } else {
            return Err(invalid!(
                "AsyncEngineArgs.__init__() got an unexpected keyword argument {}",
                quoted(key)
            ));
        }
    }
    Ok(())
}

/// Arguments that are checked but need no field, because only one value is built.
fn check_switches(map: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<()> {
    let mut quiet = Vec::new();
    let mut read = Reader::new(map, &mut quiet);
    if read.boolean("skip_tokenizer_init")?.unwrap_or(false) {
        return Err(invalid!("skip_tokenizer_init must be false: requests carry text"));
    }
    if read.int("max_num_partial_prefills")?.unwrap_or(1) > 1 {
        return Err(invalid!(
            "Concurrent Partial Prefill is not supported. We recommend to remove Concurrent \
             Partial Prefill from your config."
        ));
    }
    if let Some(name) = read.string("quantization")? {
        return Err(Error::Unsupported(format!(
            "quantization {} is not supported by this version: serve an unquantised checkpoint",
            quoted(&name)
        )));
    }
    read.one_of("config_format", &["auto", "hf"])?;
    read.one_of("scheduling_policy", &["fcfs", "priority"])?;
    read.one_of("logprobs_mode", &["raw_logprobs"])?;
    if let Some(path) = read.string("hf_config_path")? {
        return Err(Error::Unsupported(format!(
            "hf_config_path {} is not supported",
            quoted(&path)
        )));
    }
    if read.one_of("tokenizer_mode", &["auto", "hf", "slow"])?.as_deref() == Some("slow") {
        warnings.push("model.json: tokenizer_mode 'slow' is served by the fast tokenizer".into());
    }
    Ok(())
}

fn max_model_len(read: &mut Reader) -> Result<(Option<u32>, bool)> {
    match read.int("max_model_len")? {
        None => Ok((None, false)),
        Some(-1) => Ok((None, true)),
        Some(n) => match u32::try_from(n) {
            Ok(n) if n > 0 => Ok((Some(n), false)),
            _ => Err(invalid!("max_model_len must be -1 or in [1, {}], got {n}", u32::MAX)),
        },
    }
}

fn dtype(read: &mut Reader, key: &str) -> Result<Option<DType>> {
    let names = ["auto", "half", "float16", "bfloat16", "float", "float32"];
    Ok(read.one_of(key, &names)?.as_deref().and_then(parse_dtype))
}

fn kv_cache_dtype(read: &mut Reader) -> Result<Option<DType>> {
    let names = ["auto", "float16", "bfloat16"];
    Ok(read.one_of("kv_cache_dtype", &names)?.as_deref().and_then(parse_dtype))
}

fn load_format(read: &mut Reader) -> Result<LoadFormat> {
    let names = ["auto", "hf", "safetensors", "pt", "dummy"];
    Ok(match read.one_of("load_format", &names)?.as_deref() {
        Some("safetensors") => LoadFormat::Safetensors,
        Some("pt") => LoadFormat::Torch,
        Some("dummy") => LoadFormat::Dummy,
        _ => LoadFormat::Auto,
    })
}

fn device(read: &mut Reader) -> Result<DeviceArg> {
    match read.string("device")?.as_deref() {
        Some("cpu") => Ok(DeviceArg::Cpu),
        None | Some("auto" | "cuda" | "gpu") => Ok(DeviceArg::Auto),
        Some(other) => {
            Err(invalid!("device: got {}, expected 'auto', 'cuda' or 'cpu'", quoted(other)))
        }
    }
}

/// Which backend makes no difference: there is one. What it decides besides would have to be known.
fn structured_outputs(read: &mut Reader) -> Result<StructuredOptions> {
    const KEY: &str = "structured_outputs_config";
    let config = read.object(KEY)?;
    let mut options = StructuredOptions::default();
    let mut quiet = Vec::new();
    let mut read = Reader::new(&config, &mut quiet);
    options.disable_any_whitespace = read.boolean("disable_any_whitespace")?.unwrap_or(false);
    options.disable_additional_properties =
        read.boolean("disable_additional_properties")?.unwrap_or(false);
    let backends = ["auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"];
    read.one_of("backend", &backends)?;
    for (key, value) in &config {
        let known = ["backend", "disable_any_whitespace", "disable_additional_properties"];
        let quiet = ["disable_fallback", "enable_in_reasoning", "reasoning_parser_plugin"];
        let parser = key == "reasoning_parser" && (value == "" || value.is_null());
        if !known.contains(&key.as_str()) && !quiet.contains(&key.as_str()) && !parser {
            return Err(Error::Unsupported(format!(
                "model.json: {KEY}.{key}: {value} is not supported, remove it"
            )));
        }
    }
    Ok(options)
}

/// A token, true (the environment's, which null means too) or false (none).
fn hf_token(map: &Map<String, Value>) -> Result<Token> {
    match map.get("hf_token") {
        None | Some(Value::Null | Value::Bool(true)) => Ok(Token::Environment),
        Some(Value::Bool(false)) => Ok(Token::None),
        Some(Value::String(token)) => Ok(Token::Given(token.clone())),
        Some(other) => {
            Err(invalid!("hf_token must be a string or a boolean, got {}", values::kind(other)))
        }
    }
}

/// One pattern or a list; by default the second copies that some models carry in `original/`.
fn ignore_patterns(map: &Map<String, Value>) -> Result<Vec<String>> {
    let wrong = |v: &Value| values::wrong("ignore_patterns", "a string or a list of strings", v);
    match map.get("ignore_patterns") {
        None | Some(Value::Null) => Ok(vec!["original/**/*".into()]),
        Some(Value::String(pattern)) => Ok(vec![pattern.clone()]),
        Some(Value::Array(list)) => {
            let text = |v: &Value| v.as_str().map(str::to_string).ok_or_else(|| wrong(v));
            list.iter().map(text).collect()
        }
        Some(other) => Err(wrong(other)),
    }
}

/// "throughput" doubles the defaults of max_num_seqs and max_num_batched_tokens.
fn performance_mode(read: &mut Reader) -> Result<bool> {
    let mode = read.one_of("performance_mode", &["balanced", "interactivity", "throughput"])?;
    Ok(mode.as_deref() == Some("throughput"))
}

fn generation_config(read: &mut Reader) -> Result<GenerationConfig> {
    Ok(match read.string("generation_config")?.as_deref() {
        None | Some("auto" | "vllm") => GenerationConfig::Model,
        Some(folder) => GenerationConfig::Folder(PathBuf::from(folder)),
    })
}

#[cfg(test)]
mod tests;
