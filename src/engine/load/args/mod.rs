//! model.json: vLLM's EngineArgs, parsed once into types that cannot be wrong. `triton` reads the
//! file and logs the warnings, the engine uses the result. It never looks at a model, a device or a
//! file.
//!
//! Strings mean what they say: `"false"` is false and `"0.5"` is a half, each with a warning.
//!
//! | file | what |
//! |---|---|
//! | `key`, `table` | every key that vLLM ever had, and its class |
//! | `keys` | what becomes of the keys of a file, by their classes |
//! | `values` | JSON values as typed arguments, with the coercions |
//! | `choices` | arguments with a closed set of values |
//! | `limits`, `lora`, `media`, `operation` | arguments that belong together |
//! | `pooling`, `speculation`, `structured` | others |

mod choices;
mod key;
mod keys;
mod limits;
mod lora;
mod media;
mod operation;
mod pooling;
mod speculation;
mod structured;
mod table;
mod values;

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::fault::Faults;
use crate::device::{DType, KvType};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json;
use crate::model::config::ConfigFormat;
use crate::model::config::PoolerOptions;
use crate::model::hub::Token;
use crate::sampling::StructuredOptions;
pub(super) use choices::dtype_name;
pub use choices::{DeviceArg, GenerationConfig, LoadFormat, TokenizerMode};
pub use limits::LimitArgs;
pub use lora::LoraArgs;
pub use media::MediaArgs;
pub use operation::{HistogramBuckets, OperationArgs};
pub use speculation::{DraftKind, SpeculationArgs};
use values::Reader;

/// model.json after validation. `None` = not set: the default depends on the model or the device.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineArgs {
    /// Name of the file that they were read from, for messages.
    pub file: String,
    /// Local folder or Hugging Face id.
    pub model: String,
    /// Folder or id of another tokenizer; `None` = the model's.
    pub tokenizer: Option<String>,
    /// Folder or id of another config.json; `None` = the model's.
    pub hf_config_path: Option<String>,
    /// Branch, tag or commit of `model` on the hub; `None` = main.
    pub revision: Option<String>,
    /// The same of `tokenizer`.
    pub tokenizer_revision: Option<String>,
    /// Hugging Face cache folder.
    pub download_dir: Option<PathBuf>,
    /// With which the hub is asked.
    pub hf_token: Token,
    /// Shell patterns of files that are not downloaded.
    pub ignore_patterns: Vec<String>,
    /// `None` = auto: the checkpoint's, as the device allows.
    pub dtype: Option<DType>,
    /// How the checkpoint is quantised, or is to be as it is loaded, in small letters; `None`: as
    /// the checkpoint says.
    pub quantization: Option<String>,
    /// Where weights come from.
    pub load_format: LoadFormat,
    /// Which file describes the model.
    pub config_format: ConfigFormat,
    /// Which tokenizer files are read.
    pub tokenizer_mode: TokenizerMode,
    /// Which device serves.
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
    /// Full pages are found again by a hash of their tokens.
    pub enable_prefix_caching: bool,
    /// A prompt may be fed in several steps.
    pub enable_chunked_prefill: bool,
    /// Token rows of one step. `None` = by the device.
    pub max_num_batched_tokens: Option<u32>,
    /// Sequences that run at the same time. `None` = by the device.
    pub max_num_seqs: Option<u32>,
    /// Double the defaults of `max_num_seqs` and `max_num_batched_tokens`.
    pub throughput_mode: bool,
    /// Devices that share each layer; see [`EngineArgs::check_parallel`] and
    /// [`EngineArgs::check_ranks`].
    pub tensor_parallel_size: u32,
    /// Groups of GPUs that share the layers out.
    pub pipeline_parallel_size: u32,
    /// Engines behind one instance, each with the whole model on devices of its own.
    pub data_parallel_size: u32,
    /// No CUDA graphs.
    pub enforce_eager: bool,
    /// Requests without a seed of their own derive one from this.
    pub seed: i64,
    /// Send to a stream after the first token, each this many tokens, and the end.
    pub stream_interval: u32,
    /// Prompts longer than this are chunked to it. 0 = off.
    pub long_prefill_token_threshold: u32,
    /// Element type of pages; `None` = the model's.
    pub kv_cache_dtype: Option<KvType>,
    /// Share of pages that admission leaves free, [0, 1).
    pub watermark: f64,
    /// A prompt is admitted only if all of it fits.
    pub scheduler_reserve_full_isl: bool,
    /// Cut the model's length to its window instead of using the window.
    pub disable_sliding_window: bool,
    /// Cap of `logprobs`, -1 = the vocabulary.
    pub max_logprobs: i64,
    /// Which eos ids of generation_config.json count.
    pub generation_config: GenerationConfig,
    /// Merged deep into config.json.
    pub hf_overrides: Map<String, Value>,
    /// `enable_lora`.
    pub lora: Option<LoraArgs>,
    /// Log the parameters of each request.
    pub enable_log_requests: bool,
    /// `runner`, `convert`, `pooler_config`: generate or embed, and how.
    pub pooler: PoolerOptions,
    /// True switches custom metrics off.
    pub disable_log_stats: bool,
    /// Limits of the queue and of a step.
    pub limits: LimitArgs,
    /// Images.
    pub media: MediaArgs,
    /// Log, watchdog, histograms.
    pub operation: OperationArgs,
    /// `structured_outputs_config`: what holds for every request.
    pub structured_outputs: StructuredOptions,
    /// `speculative_config`; None: no drafts.
    pub speculation: Option<SpeculationArgs>,
    /// `additional_config.inject_faults`: break on purpose, in tests.
    pub inject_faults: Option<Faults>,
}

/// `data_parallel_size` at most.
const MAX_ENGINES: u32 = 64;

impl EngineArgs {
    /// [`EngineArgs::parse_file`] for text that comes from no file.
    ///
    /// # Errors
    /// As there.
    pub fn parse(text: &str) -> Result<(EngineArgs, Vec<String>)> {
        EngineArgs::parse_file(text, "model.json")
    }

    /// Parse the text of a file of engine arguments; `file` is its name for messages. Beside the
    /// arguments: one line of warning for each key that was coerced, ignored or is out of date.
    ///
    /// # Errors
    /// InvalidArgument or Unsupported with one line that names the file, the key, the value and
    /// what is allowed.
    pub fn parse_file(text: &str, file: &str) -> Result<(EngineArgs, Vec<String>)> {
        let value =
            json::parse(text.as_bytes()).map_err(|e| invalid!("{file} is not valid JSON: {e}"))?;
        let Value::Object(mut map) = value else {
            return Err(invalid!(
                "{file} must hold one JSON object of engine arguments, got {}",
                values::kind(&value)
            ));
        };
        let mut warnings = Vec::new();
        let at = |e: Error| e.context(&format!("{file}: "));
        let inject_faults = Faults::take(&mut map).map_err(at)?;
        keys::judge(&mut map, file, &mut warnings).map_err(Error::on_one_line)?;
        let mut args = EngineArgs::from_map(&map, inject_faults, &mut warnings)
            .map_err(|e| at(e).on_one_line())?;
        args.file = file.into();
        for warning in &mut warnings {
            *warning = format!("{file}: {}", warning.replace(char::is_control, " "));
        }
        Ok((args, warnings))
    }

    fn from_map(
        map: &Map<String, Value>,
        inject_faults: Option<Faults>,
        warnings: &mut Vec<String>,
    ) -> Result<EngineArgs> {
        choices::check_switches(map, warnings)?;
        let mut read = Reader::new(map, warnings);
        let ranks = read.at_least("tensor_parallel_size", 1)?.unwrap_or(1);
        let speculation = speculation::read(map, ranks, &mut read)?;
        let (max_model_len, fit_max_model_len) = choices::max_model_len(&mut read)?;

        let args = EngineArgs {
            file: String::new(),
            model: read.string("model")?.unwrap_or_else(|| "Qwen/Qwen3-0.6B".into()),
            tokenizer: read.string("tokenizer")?,
            hf_config_path: read.string("hf_config_path")?,
            revision: read.string("revision")?,
            tokenizer_revision: read.string("tokenizer_revision")?,
            download_dir: read.string("download_dir")?.map(PathBuf::from),
            hf_token: choices::hf_token(map)?,
            ignore_patterns: choices::ignore_patterns(map)?,
            dtype: choices::dtype(&mut read, "dtype")?,
            quantization: choices::quantization(&mut read)?,
            load_format: choices::load_format(&mut read)?,
            config_format: choices::config_format(&mut read)?,
            tokenizer_mode: choices::tokenizer_mode(&mut read)?,
            device: choices::device(&mut read)?,
            max_model_len,
            fit_max_model_len,
            gpu_memory_utilization: read.float("gpu_memory_utilization")?.unwrap_or(0.92),
            kv_cache_memory_bytes: read.at_least("kv_cache_memory_bytes", 1)?,
            num_gpu_blocks_override: read.at_least("num_gpu_blocks_override", 1)?,
            block_size: read.at_least("block_size", 1)?.unwrap_or(choices::DEFAULT_BLOCK_SIZE),
            enable_prefix_caching: read.boolean("enable_prefix_caching")?.unwrap_or(true),
            enable_chunked_prefill: read.boolean("enable_chunked_prefill")?.unwrap_or(true),
            max_num_batched_tokens: read.at_least("max_num_batched_tokens", 1)?,
            max_num_seqs: read.at_least("max_num_seqs", 1)?,
            throughput_mode: choices::performance_mode(&mut read)?,
            tensor_parallel_size: ranks,
            pipeline_parallel_size: read.at_least("pipeline_parallel_size", 1)?.unwrap_or(1),
            data_parallel_size: read.at_least("data_parallel_size", 1)?.unwrap_or(1),
            enforce_eager: read.boolean("enforce_eager")?.unwrap_or(false),
            seed: read.int("seed")?.unwrap_or(0),
            stream_interval: read.at_least("stream_interval", 1)?.unwrap_or(1),
            long_prefill_token_threshold: read
                .at_least("long_prefill_token_threshold", 0)?
                .unwrap_or(0),
            kv_cache_dtype: choices::kv_cache_dtype(&mut read)?,
            watermark: read.float("watermark")?.unwrap_or(0.0),
            scheduler_reserve_full_isl: read.boolean("scheduler_reserve_full_isl")?.unwrap_or(true),
            disable_sliding_window: read.boolean("disable_sliding_window")?.unwrap_or(false),
            max_logprobs: read.int("max_logprobs")?.unwrap_or(20),
            generation_config: choices::generation_config(&mut read)?,
            hf_overrides: read.object("hf_overrides")?,
            pooler: pooling::read(&mut read)?,
            lora: lora::read(map, &mut read)?,
            enable_log_requests: read.boolean("enable_log_requests")?.unwrap_or(false),
            disable_log_stats: read.boolean("disable_log_stats")?.unwrap_or(false),
            structured_outputs: structured::read(&mut read)?,
            limits: limits::read(&mut read)?,
            media: media::read(&mut read)?,
            operation: operation::read(&mut read)?,
            speculation,
            inject_faults,
        };
        args.check_ranges()?;
        Ok(args)
    }

    fn check_ranges(&self) -> Result<()> {
        let share = self.gpu_memory_utilization;
        if !(share > 0.0 && share <= 1.0) {
            return Err(invalid!("gpu_memory_utilization must be in (0, 1], got {share}"));
        }

        if !(0.0..1.0).contains(&self.watermark) {
            return Err(invalid!("watermark must be in [0, 1), got {}", self.watermark));
        }

        let engines = self.data_parallel_size;
        if engines > MAX_ENGINES {
            return Err(invalid!("data_parallel_size is {engines}, at most {MAX_ENGINES}."));
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
        self.limits.check(self.max_num_batched_tokens, self.max_num_seqs)
    }

    /// What an instance group of this kind can run.
    ///
    /// # Errors
    /// InvalidArgument for KIND_GPU with several GPUs per model.
    pub fn check_parallel(&self, kind_gpu: bool) -> Result<()> {
        let tp = self.tensor_parallel_size;
        let pp = self.pipeline_parallel_size;
        let dp = self.data_parallel_size;
        if !kind_gpu || (tp, pp, dp) == (1, 1, 1) {
            return Ok(());
        }
        Err(invalid!(
            "KIND_GPU is currently for single-GPU models, please specify KIND_MODEL in the model's \
             config.pbtxt for multi-GPU models"
        ))
    }

    /// How many devices may share a model: several on the CPU, one on GPUs.
    ///
    /// # Errors
    /// Unsupported: more of them, or groups of them.
    pub fn check_ranks(&self) -> Result<()> {
        let pp = self.pipeline_parallel_size;
        if pp > 1 {
            return Err(Error::Unsupported(format!(
                "pipeline_parallel_size {pp} in model.json: layers are not shared out. Set it to \
                 1, and tensor_parallel_size to the number of GPUs, or serve more instances."
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
