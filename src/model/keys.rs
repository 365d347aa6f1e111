//! Keys of config.json as types of this crate: sizes, flags, element types, ids. Called by
//! `config` and the files that read parts of it. What a family calls a key is said by its row.

use serde_json::Value;

use super::config::SpecOptions;
use super::families::{self, Eps, Family, Flag};
use crate::device::{Activation, DType};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::invalid;
use crate::json::{self, Object};

/// Lengths and vocabularies above this are a mistake in the file, not a model.
pub const MAX_DIMENSION: usize = 1 << 24;
/// The same of hidden sizes, heads and MLPs. Products of two widths, or of a width and a
/// vocabulary, stay inside a `usize`.
pub const MAX_WIDTH: usize = 1 << 20;
const INTEGER: &str = "an integer";

/// A count of tokens or rows that must be there.
///
/// # Errors
/// It is missing, null, or not in 1..=[`MAX_DIMENSION`].
pub fn dimension(config: &Object, key: &str) -> Result<usize> {
    config.needed(key, INTEGER, config.count(key, MAX_DIMENSION)?)
}

/// A width; None if it is null.
///
/// # Errors
/// It is not in 1..=[`MAX_WIDTH`].
pub fn width(config: &Object, key: &str) -> Result<Option<usize>> {
    config.count(key, MAX_WIDTH)
}

/// A width that must be there.
///
/// # Errors
/// It is missing, null, or not in 1..=[`MAX_WIDTH`].
pub fn needed_width(config: &Object, key: &str) -> Result<usize> {
    config.needed(key, INTEGER, width(config, key)?)
}

/// # Errors
/// The key is missing, null, or neither true nor false.
pub fn flag(config: &Object, flag: Flag) -> Result<bool> {
    match flag {
        Flag::Always => Ok(true),
        Flag::Never => Ok(false),
        Flag::Key(key) => config.needed(key, "true or false", config.flag(key)?),
    }
}

/// A number that must be there.
///
/// # Errors
/// It is missing, null, or no positive number.
pub fn positive(config: &Object, key: &str) -> Result<f64> {
    config.needed(key, "a positive number", config.positive(key)?)
}

/// # Errors
/// The key is missing, null, or no number above 0 and up to 1.
pub fn norm_eps(config: &Object, eps: Eps) -> Result<f32> {
    match eps {
        Eps::Fixed(x) => Ok(x),
        Eps::Key(key) => match positive(config, key)? {
            x if x <= 1.0 => Ok(x as f32),
            _ => Err(config.wrong(key, "a number above 0 and up to 1")),
        },
    }
}

/// # Errors
/// The key is missing or no string; an activation that is not built.
pub fn activation(config: &Object, family: &Family) -> Result<Activation> {
    let key = family.keys.activation;
    let name = config.text(key)?.or(family.keys.activation_null);
    let name = config.needed(key, "the name of an activation", name)?;
    families::activation(name, family.gated).ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: '{}' is not supported; supported: {}.",
            config.name(key),
            json::cut(name),
            families::activations(family.gated).join(", ")
        ))
    })
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
/// on GPUs; float16 where a model embeds), as does a type that the device or the family lacks.
///
/// # Errors
/// The user's type is none, or not for this device or model; config.json's is none that is read.
pub fn choose_dtype(
    config: &Object,
    family: &Family,
    pools: bool,
    options: &SpecOptions,
) -> Result<DType> {
    let fits = |d: &DType| !(family.no_float16 && *d == DType::F16);
    if !matches!(options.dtype, "" | "auto") {
        return match parse_dtype(options.dtype) {
            Some(d) if !fits(&d) => Err(invalid!(
                "The model type '{}' does not support float16. Reason: Numerical instability. \
                 Please use bfloat16 or float32 instead.",
                config.text("model_type")?.map_or(family.architecture.into(), json::cut)
            )),
            Some(d) if options.supported.is_empty() || options.supported.contains(&d) => Ok(d),
            Some(_) => Err(invalid!("dtype '{}' is not supported by the device.", options.dtype)),
            None => Err(invalid!(
                "dtype must be one of auto, half, float16, bfloat16, float, float32, got '{}'.",
                options.dtype
            )),
        };
    }

    let stored = stated_dtype(config)?.or(options.stored_dtype);
    Ok(match stored {
        Some(d @ (DType::F16 | DType::BF16)) if options.supported.contains(&d) && fits(&d) => d,
        _ if pools && options.supported.contains(&DType::F16) && fits(&DType::F16) => DType::F16,
        _ => options.supported.iter().copied().find(fits).unwrap_or(DType::F32),
    })
}

/// The type that config.json says its weights have.
fn stated_dtype(config: &Object) -> Result<Option<DType>> {
    let key = if config.given("dtype").is_some() { "dtype" } else { "torch_dtype" };
    match config.text(key)? {
        None | Some("auto") => Ok(None),
        Some(name) => match parse_dtype(name) {
            Some(dtype) => Ok(Some(dtype)),
            None => Err(Error::Unsupported(format!(
                "{}: '{}' is not supported; supported: float32, float16, bfloat16. 'dtype' in \
                 model.json goes before it.",
                config.name(key),
                json::cut(name)
            ))),
        },
    }
}

/// generation_config.json's, else config.json's. Ids that the model cannot sample are left out,
/// since they can never end a text.
///
/// # Errors
/// The key holds something else than ids.
pub fn eos_token_ids(
    config: &Object,
    generation: Option<&Object>,
    vocab_size: usize,
) -> Result<Vec<TokenId>> {
    const KEY: &str = "eos_token_id";
    let object = generation.unwrap_or(config);
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|x| u32::try_from(x).ok()).map(TokenId);
        id.ok_or_else(|| object.wrong(KEY, "a token id or a list of them"))
    };
    let ids: Vec<TokenId> = match object.given(KEY) {
        None => Vec::new(),
        Some(Value::Array(ids)) => ids.iter().map(id).collect::<Result<_>>()?,
        Some(value) => vec![id(value)?],
    };
    let (ids, never): (Vec<_>, Vec<_>) =
        ids.into_iter().partition(|id| (id.0 as usize) < vocab_size);
    if let Some(id) = never.first() {
        tracing::warn!(
            "{} names {id}, which is outside of the vocabulary of {vocab_size}: it never ends a \
             text",
            object.name(KEY)
        );
    }
    Ok(ids)
}
