//! Arguments with a closed set of values, and those that are only checked, because one value of
//! them is built. Called by `args`.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::values::{self, Reader};
use crate::device::{DType, KvType};
use crate::error::{nearest, Result};
use crate::invalid;
use crate::json;
use crate::model::config::{parse_dtype, ConfigFormat};
use crate::model::hub::Token;
use crate::sampling::python::quoted;

/// Tokens of a page, where `block_size` is not set.
pub(super) const DEFAULT_BLOCK_SIZE: u32 = 16;

/// Where weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadFormat {
    /// Mistral's own format if the folder is in it, else safetensors if there are any, else what
    /// else it holds and we can read.
    Auto,
    /// The same without Mistral's own.
    HuggingFace,
    /// `consolidated*.safetensors`, in Mistral's own format.
    Mistral,
    /// `*.safetensors`, and nothing else.
    Safetensors,
    /// pytorch_model.bin.
    Torch,
    /// A GGUF file.
    Gguf,
    /// No files: small random numbers in the shapes of config.json.
    Dummy,
}

/// Which tokenizer files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerMode {
    /// Mistral's own where the folder has weights in its format, else Hugging Face's.
    Auto,
    /// tokenizer.json and its like.
    HuggingFace,
    /// tekken.json, or a tokenizer.model.v*.
    Mistral,
}

/// The key `device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceArg {
    /// A visible GPU, and the CPU only where there is none.
    Auto,
    /// The CPU, although there may be a GPU.
    Cpu,
    /// A GPU, and nothing where none can be used.
    Cuda,
}

/// Which eos ids of generation_config.json count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GenerationConfig {
    /// "auto" and "vllm": the file beside the model, if any.
    Model,
    /// The file in this folder.
    Folder(PathBuf),
}

/// Arguments that are checked but need no field, because only one value is built.
pub(super) fn check_switches(map: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<()> {
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
    check_prefix_unit(&mut read, warnings)?;

    read.one_of("scheduling_policy", &["fcfs", "priority"])?;
    read.one_of("logprobs_mode", &["raw_logprobs"])?;
    Ok(())
}

pub(super) fn config_format(read: &mut Reader) -> Result<ConfigFormat> {
    Ok(match read.one_of("config_format", &["auto", "hf", "mistral"])?.as_deref() {
        Some("hf") => ConfigFormat::HuggingFace,
        Some("mistral") => ConfigFormat::Mistral,
        _ => ConfigFormat::Auto,
    })
}

pub(super) fn tokenizer_mode(read: &mut Reader) -> Result<TokenizerMode> {
    Ok(match read.one_of("tokenizer_mode", &["auto", "hf", "slow", "mistral"])?.as_deref() {
        Some("hf") => TokenizerMode::HuggingFace,
        Some("slow") => {
            read.say("tokenizer_mode 'slow' is served by the fast tokenizer".into());
            TokenizerMode::HuggingFace
        }
        Some("mistral") => TokenizerMode::Mistral,
        _ => TokenizerMode::Auto,
    })
}

/// Prefixes are found by whole pages, whatever finer unit is asked for.
fn check_prefix_unit(read: &mut Reader, warnings: &mut Vec<String>) -> Result<()> {
    let Some(unit) = read.at_least::<u32>("prefix_match_unit", 1)? else { return Ok(()) };
    let page = read.at_least::<u32>("block_size", 1)?.unwrap_or(DEFAULT_BLOCK_SIZE);
    if !page.is_multiple_of(unit) {
        return Err(invalid!(
            "block_size ({page}) must be a multiple of prefix_match_unit ({unit})"
        ));
    }
    if unit != page {
        warnings.push(format!(
            "'prefix_match_unit' has no effect here: prefixes are found by pages of block_size \
             ({page}) tokens"
        ));
    }
    Ok(())
}

pub(super) fn max_model_len(read: &mut Reader) -> Result<(Option<u32>, bool)> {
    match read.int("max_model_len")? {
        None => Ok((None, false)),
        Some(-1) => Ok((None, true)),
        Some(n) => match u32::try_from(n) {
            Ok(n) if n > 0 => Ok((Some(n), false)),
            _ => Err(invalid!("max_model_len must be -1 or in [1, {}], got {n}", u32::MAX)),
        },
    }
}

pub(super) fn dtype(read: &mut Reader, key: &str) -> Result<Option<DType>> {
    let names = ["auto", "half", "float16", "bfloat16", "float", "float32"];
    Ok(read.one_of(key, &names)?.as_deref().and_then(parse_dtype))
}

/// As vLLM spells a type.
pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
    }
}

/// None: `auto`.
pub(super) fn kv_cache_dtype(read: &mut Reader) -> Result<Option<KvType>> {
    const NAMES: [&str; 6] = ["auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"];
    match read.string("kv_cache_dtype")?.as_deref() {
        None | Some("auto") => Ok(None),
        Some("float16") => Ok(Some(KvType::F16)),
        Some("bfloat16") => Ok(Some(KvType::BF16)),
        Some("fp8" | "fp8_e4m3") => Ok(Some(KvType::E4m3)),
        Some("fp8_e5m2") => Ok(Some(KvType::E5m2)),
        Some(other) => Err(invalid!(
            "Invalid kv_cache_dtype: {}. Valid values are: [{}]",
            quoted(&json::cut(other)),
            NAMES.map(quoted).join(", ")
        )),
    }
}

pub(super) fn load_format(read: &mut Reader) -> Result<LoadFormat> {
    let names = ["auto", "hf", "mistral", "safetensors", "pt", "gguf", "dummy"];
    Ok(match read.one_of("load_format", &names)?.as_deref() {
        Some("hf") => LoadFormat::HuggingFace,
        Some("mistral") => LoadFormat::Mistral,
        Some("safetensors") => LoadFormat::Safetensors,
        Some("pt") => LoadFormat::Torch,
        Some("gguf") => LoadFormat::Gguf,
        Some("dummy") => LoadFormat::Dummy,
        _ => LoadFormat::Auto,
    })
}

pub(super) fn device(read: &mut Reader) -> Result<DeviceArg> {
    match read.string("device")?.as_deref() {
        None | Some("auto") => Ok(DeviceArg::Auto),
        Some("cpu") => Ok(DeviceArg::Cpu),
        Some("cuda") => Ok(DeviceArg::Cuda),
        Some(other) => {
            let meant = match other.to_ascii_lowercase().as_str() {
                "gpu" | "nvidia" => Some("cuda"),
                name if name.starts_with("cuda") => Some("cuda"),
                name => nearest(name, ["auto", "cpu", "cuda"]),
            };
            let meant = meant.map(|name| format!("; did you mean '{name}'?")).unwrap_or_default();
            Err(invalid!(
                "device: got {}, expected 'auto', 'cpu' or 'cuda'{meant}",
                quoted(&json::cut(other))
            ))
        }
    }
}

/// The method in small letters, as vLLM takes it; which ones there are is known to the model. No
/// text is none.
pub(super) fn quantization(read: &mut Reader) -> Result<Option<String>> {
    let method = read.string("quantization")?.map(|name| name.to_ascii_lowercase());
    Ok(method.filter(|name| !name.is_empty()))
}

/// A token, true (the environment's, which null means too) or false (none).
pub(super) fn hf_token(map: &Map<String, Value>) -> Result<Token> {
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
pub(super) fn ignore_patterns(map: &Map<String, Value>) -> Result<Vec<String>> {
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
pub(super) fn performance_mode(read: &mut Reader) -> Result<bool> {
    let mode = read.one_of("performance_mode", &["balanced", "interactivity", "throughput"])?;
    Ok(mode.as_deref() == Some("throughput"))
}

pub(super) fn generation_config(read: &mut Reader) -> Result<GenerationConfig> {
    Ok(match read.string("generation_config")?.as_deref() {
        None | Some("auto" | "vllm") => GenerationConfig::Model,
        Some(folder) => GenerationConfig::Folder(PathBuf::from(folder)),
    })
}
