//! config.json (and generation_config.json) -> [`ModelSpec`]: every shape and rule of a model,
//! checked, so that `decoder` never meets a bad one. Called by `engine` at load. It knows no tensor
//! and no device beyond the element types it is told are supported.

use std::path::Path;

use serde_json::{Map, Value};

use super::families::{self, Eps, Family, Flag, Positions, FAMILIES};
use super::rope;
use crate::device::{Activation, DType, KvShape, Rope};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::invalid;

/// Shapes above this are a mistake in the file, not a model; it keeps products inside a `usize`.
const MAX_DIMENSION: u64 = 1 << 24;
/// Used when config.json names no length at all, as the incumbent does.
const FALLBACK_LEN: usize = 2048;

/// What the user asked for, and what the device can do.
#[derive(Debug, Clone, Default)]
pub struct SpecOptions<'a> {
    /// Deep-merged into config.json before anything is read.
    pub hf_overrides: Option<&'a Map<String, Value>>,
    /// `auto`, `half`, `float16`, `bfloat16`, `float`, `float32`. Empty means auto.
    pub dtype: &'a str,
    /// The element type of the stored weights, for a config.json that does not say.
    pub stored_dtype: Option<DType>,
    /// Supported by the device, best first. A float32 checkpoint under `auto` gets the first.
    pub supported: &'a [DType],
    /// None and -1 mean the derived length.
    pub max_model_len: Option<i64>,
}

/// A model that can be served. Built by [`ModelSpec::read`] only.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    pub family: &'static Family,
    /// Rows of the token table; may exceed the tokenizer's size.
    pub vocab_size: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    /// Width of the token table; `hidden` but for OPT-350m.
    pub embed_width: usize,
    pub norm_eps: f32,
    pub activation: Activation,
    /// None: learned positions.
    pub rope: Option<Rope>,
    /// Positions the model was made for; rows of a learned table, less its offset.
    pub derived_len: usize,
    pub tied: bool,
    pub qkv_bias: bool,
    pub out_bias: bool,
    pub mlp_bias: bool,
    pub norm_affine: bool,
    pub pre_norm: bool,
    /// Element type of matrices on the device.
    pub dtype: DType,
    pub max_model_len: usize,
    /// generation_config.json's, else config.json's; the tokenizer's own come on top.
    pub eos_token_ids: Vec<TokenId>,
}

impl ModelSpec {
    /// Read `<dir>/config.json` and `<dir>/generation_config.json`.
    ///
    /// # Errors
    /// One line naming the file and key: missing or broken file, unknown architecture, a shape that
    /// does not fit, an option the forward pass lacks.
    pub fn read(dir: &Path, options: &SpecOptions) -> Result<ModelSpec> {
        let mut config = read_object(&dir.join("config.json"))?;
        let generation = dir.join("generation_config.json");
        let generation = match generation.exists() {
            true => Some(read_object(&generation)?),
            false => None,
        };
        if let Some(overrides) = options.hf_overrides {
            merge(&mut config, overrides);
        }
        if let Some(Value::Object(text)) = config.remove("text_config") {
            merge(&mut config, &text);
        }
        Self::from_config(&config, generation.as_ref(), options)
    }

    /// The same from parsed files.
    pub fn from_config(
        config: &Map<String, Value>,
        generation: Option<&Map<String, Value>>,
        options: &SpecOptions,
    ) -> Result<ModelSpec> {
        let family = family_of(config)?;
        refuse_unsupported(config, family)?;
        let keys = &family.keys;
        let hidden = dimension(config, keys.hidden)?;
        let heads = dimension(config, keys.heads)?;
        let kv_heads = match keys.kv_heads {
            Some(key) => optional_dimension(config, key)?.unwrap_or(heads),
            None => heads,
        };
        let head_dim = head_dim(config, hidden, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(invalid!(
                "config.json: {} {heads} is not a multiple of num_key_value_heads {kv_heads}.",
                keys.heads
            ));
        }
        let ffn = match optional_dimension(config, keys.ffn)? {
            Some(ffn) => ffn,
            None if keys.ffn_default_4x => 4 * hidden,
            None => return Err(missing(keys.ffn)),
        };
        let embed_width = match keys.embed_width {
            Some(key) => optional_dimension(config, key)?.unwrap_or(hidden),
            None => hidden,
        };
        let (rope, factor) = match family.positions {
            Positions::Rope => {
                (Some(rope::from_config(config, head_dim)?), rope::length_factor(config)?)
            }
            Positions::Learned { .. } => (None, 1.0),
        };
        let length = DerivedLen::of(config, factor);
        let max_model_len = length.choose(options.max_model_len, rope.is_none())?;
        Ok(ModelSpec {
            family,
            vocab_size: dimension(config, "vocab_size")?,
            hidden,
            layers: dimension(config, keys.layers)?,
            heads,
            kv_heads,
            head_dim,
            ffn,
            embed_width,
            norm_eps: norm_eps(config, family.eps),
            activation: activation(config, family)?,
            rope,
            derived_len: length.tokens(),
            tied: flag(config, Flag::Key("tie_word_embeddings", family.tied)),
            qkv_bias: flag(config, family.qkv_bias),
            out_bias: flag(config, family.out_bias),
            mlp_bias: flag(config, family.mlp_bias),
            norm_affine: flag(config, family.norm_affine),
            pre_norm: flag(config, family.pre_norm),
            dtype: choose_dtype(config, options)?,
            max_model_len,
            eos_token_ids: eos_token_ids(config, generation)?,
        })
    }

    /// Shape of the KV pool. `kv_cache_dtype` is `auto` (as the weights) or an element type's name.
    ///
    /// # Errors
    /// A `kv_cache_dtype` that is none of these.
    pub fn kv_shape(&self, kv_cache_dtype: &str) -> Result<KvShape> {
        let dtype = match kv_cache_dtype {
            "" | "auto" => self.dtype,
            name => parse_dtype(name).ok_or_else(|| {
                Error::Unsupported(format!(
                    "kv_cache_dtype '{name}' is not supported; supported: auto, float16, bfloat16, \
                     float32."
                ))
            })?,
        };
        Ok(KvShape { layers: self.layers, kv_heads: self.kv_heads, head_dim: self.head_dim, dtype })
    }
}

/// How long the checkpoint says it may get, and by which key.
struct DerivedLen {
    key: &'static str,
    /// As the incumbent computes it: a float, since a rope factor may be one.
    len: Option<f64>,
    model_max_length: Option<f64>,
}

impl DerivedLen {
    /// The smallest of all length keys times the rope factor; `model_max_length` replaces it.
    fn of(config: &Map<String, Value>, factor: f64) -> DerivedLen {
        const KEYS: [&str; 9] = [
            "max_position_embeddings",
            "n_positions",
            "max_seq_len",
            "seq_length",
            "model_max_length",
            "max_target_positions",
            "max_sequence_length",
            "max_seq_length",
            "seq_len",
        ];
        let value = |key: &str| config.get(key).and_then(Value::as_f64).filter(|&x| x >= 1.0);
        let mut found = DerivedLen { key: KEYS[0], len: None, model_max_length: None };
        for key in KEYS {
            match value(key) {
                Some(x) if found.len.is_none_or(|len| x < len) => {
                    (found.key, found.len) = (key, Some(x));
                }
                _ => {}
            }
        }
        found.model_max_length = value("model_max_length");
        if let Some(x) = found.model_max_length {
            (found.key, found.len) = ("model_max_length", Some(x));
        }
        found.len = found.len.map(|x| x * factor);
        found
    }

    fn tokens(&self) -> usize {
        self.len.map_or(FALLBACK_LEN, |x| x.min(MAX_DIMENSION as f64) as usize)
    }

    /// The user's length if it fits. A learned table ends where it ends, so there the environment
    /// variable that lets longer ones pass has no effect.
    fn choose(&self, user: Option<i64>, learned: bool) -> Result<usize> {
        let user = match user {
            None | Some(-1) => return Ok(self.tokens()),
            Some(x) if x >= 1 && x as u64 <= MAX_DIMENSION => x as usize,
            Some(x) => {
                return Err(invalid!(
                    "max_model_len must be -1 or in 1..={MAX_DIMENSION}, got {x}."
                ))
            }
        };
        let Some(len) = self.len else { return Ok(user) };
        if user as f64 <= len || self.model_max_length.is_some_and(|m| user as f64 <= m) {
            return Ok(user);
        }
        let allowed = std::env::var("VLLM_ALLOW_LONG_MAX_MODEL_LEN");
        if !learned && allowed.is_ok_and(|v| v.trim() == "1") {
            return Ok(user);
        }
        let model_max = self.model_max_length.map_or("None".to_string(), |m| m.to_string());
        Err(invalid!(
            "User-specified max_model_len ({user}) is greater than the derived max_model_len \
             ({}={len:.1} or model_max_length={model_max} in model's config.json). To allow \
             overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1. \
             VLLM_ALLOW_LONG_MAX_MODEL_LEN must be used with extreme caution. If the model uses \
             relative position encoding (RoPE), positions exceeding derived_max_model_len lead to \
             nan. If the model uses absolute position encoding, positions exceeding \
             derived_max_model_len will cause a CUDA array out-of-bounds error.",
            self.key
        ))
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound(format!("{} not found.", path.display())),
        _ => invalid!("{}: cannot be read: {e}.", path.display()),
    })?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(invalid!("{}: is not a JSON object.", path.display())),
        Err(e) => Err(invalid!("{}: is not valid JSON: {e}.", path.display())),
    }
}

/// Objects are merged key by key, anything else is replaced.
fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

fn family_of(config: &Map<String, Value>) -> Result<&'static Family> {
    let names = || FAMILIES.iter().map(|f| f.architecture).collect::<Vec<_>>().join(", ");
    match config.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str) {
        Some(name) => families::find(name).ok_or_else(|| {
            Error::Unsupported(format!(
                "config.json: model architecture '{name}' is not supported; supported: {}.",
                names()
            ))
        }),
        None => {
            Err(invalid!("config.json: 'architectures' must be a list with one of: {}.", names()))
        }
    }
}

fn refuse_unsupported(config: &Map<String, Value>, family: &Family) -> Result<()> {
    for &key in family.must_be_off {
        if truthy(config.get(key)) {
            return Err(Error::Unsupported(format!(
                "config.json: '{key}' is set, which {} does not support here.",
                family.architecture
            )));
        }
    }
    if truthy(config.get("quantization_config")) {
        let method = config.get("quantization_config").and_then(|q| q.get("quant_method"));
        return Err(Error::Unsupported(format!(
            "config.json: quantization_config (quant_method {}) is not supported; use a checkpoint \
             in float32, float16 or bfloat16.",
            method.unwrap_or(&Value::Null)
        )));
    }
    Ok(())
}

fn truthy(value: Option<&Value>) -> bool {
    !matches!(value, None | Some(Value::Null | Value::Bool(false)))
}

fn missing(key: &str) -> Error {
    invalid!("config.json: '{key}' is missing.")
}

fn optional_dimension(config: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(x) if (1..=MAX_DIMENSION).contains(&x) => Ok(Some(x as usize)),
            _ => Err(invalid!(
                "config.json: '{key}' must be an integer in 1..={MAX_DIMENSION}, got {value}."
            )),
        },
    }
}

fn dimension(config: &Map<String, Value>, key: &str) -> Result<usize> {
    optional_dimension(config, key)?.ok_or_else(|| missing(key))
}

fn head_dim(config: &Map<String, Value>, hidden: usize, heads: usize) -> Result<usize> {
    match optional_dimension(config, "head_dim")? {
        Some(d) => Ok(d),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(invalid!(
            "config.json: hidden size {hidden} is not a multiple of the {heads} attention heads \
             and 'head_dim' is missing."
        )),
    }
}

fn norm_eps(config: &Map<String, Value>, eps: Eps) -> f32 {
    match eps {
        Eps::Fixed(x) => x,
        Eps::Key(key, default) => {
            config.get(key).and_then(Value::as_f64).map_or(default, |x| x as f32)
        }
    }
}

fn activation(config: &Map<String, Value>, family: &Family) -> Result<Activation> {
    let key = family.keys.activation;
    let name = config.get(key).and_then(Value::as_str).ok_or_else(|| missing(key))?;
    families::activation(name, family.gated)
        .ok_or_else(|| Error::Unsupported(format!("config.json: {key} '{name}' is not supported.")))
}

fn flag(config: &Map<String, Value>, flag: Flag) -> bool {
    match flag {
        Flag::Always => true,
        Flag::Never => false,
        Flag::Key(key, default) => config.get(key).and_then(Value::as_bool).unwrap_or(default),
    }
}

/// An element type by any name that configs and users write.
pub fn parse_dtype(name: &str) -> Option<DType> {
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" | "float" => Some(DType::F32),
        "float16" | "half" => Some(DType::F16),
        "bfloat16" => Some(DType::BF16),
        _ => None,
    }
}

/// `auto` keeps 16-bit types; float32 becomes the device's first choice (float32 on CPU, bfloat16
/// on GPUs), as does a type that the device lacks.
fn choose_dtype(config: &Map<String, Value>, options: &SpecOptions) -> Result<DType> {
    let first = options.supported.first().copied().unwrap_or(DType::F32);
    if !matches!(options.dtype, "" | "auto") {
        return match parse_dtype(options.dtype) {
            Some(d) if options.supported.is_empty() || options.supported.contains(&d) => Ok(d),
            Some(_) => Err(invalid!("dtype '{}' is not supported by the device.", options.dtype)),
            None => Err(invalid!(
                "dtype must be one of auto, half, float16, bfloat16, float, float32, got '{}'.",
                options.dtype
            )),
        };
    }
    let stored = config.get("dtype").or_else(|| config.get("torch_dtype"));
    let stored = stored.and_then(Value::as_str).and_then(parse_dtype).or(options.stored_dtype);
    Ok(match stored {
        Some(d @ (DType::F16 | DType::BF16)) if options.supported.contains(&d) => d,
        _ => first,
    })
}

fn eos_token_ids(
    config: &Map<String, Value>,
    generation: Option<&Map<String, Value>>,
) -> Result<Vec<TokenId>> {
    let (file, object) = match generation {
        Some(object) => ("generation_config.json", object),
        None => ("config.json", config),
    };
    let id = |value: &Value| match value.as_u64().and_then(|x| u32::try_from(x).ok()) {
        Some(x) => Ok(TokenId(x)),
        None => Err(invalid!("{file}: 'eos_token_id' must hold token ids, got {value}.")),
    };
    match object.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(value) => Ok(vec![id(value)?]),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
