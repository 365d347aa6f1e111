//! Keys of config.json as types of this crate: sizes, flags, element types, ids. Called by
//! `config` and the files that read parts of it. What a family calls a key is said by its row.

use serde_json::Value;

use crate::device::{Activation, DType, XIelu};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::json::{self, Object};
use crate::model::architectures::{Eps, Family, Flag};

/// Lengths and vocabularies above this are a mistake in the file, not a model.
pub const MAX_DIMENSION: usize = 1 << 24;
/// The same of hidden sizes, heads and MLPs. Products of two widths, or of a width and a
/// vocabulary, stay inside a `usize`.
pub const MAX_WIDTH: usize = 1 << 20;
/// Each layer has weights and pages of its own: published models stay below 200.
pub const MAX_LAYERS: usize = 4096;
const INTEGER: &str = "an integer";

/// Names of activations in config.json: of MLPs with a gate, and without.
const GATED: &[(&str, Activation)] = &[
    ("silu", Activation::SiluGated),
    ("swish", Activation::SiluGated),
    ("swiglu", Activation::SiluGated),
    ("gelu", Activation::GeluGated),
    ("gelu_pytorch_tanh", Activation::GeluTanhGated),
    ("gelu_new", Activation::GeluTanhGated),
    ("gelu_fast", Activation::GeluTanhGated),
];
/// As its class begins; each layer has learned its own numbers.
const XIELU: Activation =
    Activation::XIelu(XIelu { positive: 0.8, negative: 0.8, linear: 0.5, limit: -1e-6 });
const PLAIN: &[(&str, Activation)] = &[
    ("xielu", XIELU),
    ("relu", Activation::Relu),
    ("relu2", Activation::ReluSquared),
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
];

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

    let known = if family.gated { GATED } else { PLAIN };
    let activation = known.iter().find(|(known, _)| *known == name);
    activation.map(|&(_, activation)| activation).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|&(name, _)| name).collect();
        Error::Unsupported(format!(
            "{}: '{}' is not supported; supported: {}.",
            config.name(key),
            json::cut(name),
            names.join(", ")
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

/// `architectures[0]`, if there is one.
///
/// # Errors
/// The key holds something else than a list of names.
pub fn architecture<'a>(config: &Object<'a>) -> Result<Option<&'a str>> {
    let expected = "a list of names";
    let Some(list) = config.list("architectures")? else { return Ok(None) };
    let name =
        |value: &'a Value| value.as_str().ok_or_else(|| config.wrong("architectures", expected));
    list.first().map(name).transpose()
}

/// Whether a key switches something on that is off when it is absent, null or false.
pub fn is_on(value: Option<&Value>) -> bool {
    !matches!(value, None | Some(Value::Null | Value::Bool(false)))
}
