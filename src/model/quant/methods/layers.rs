//! What the readers of configurations have in common: lists of names as rules, sizes of groups, and
//! the formats that several methods have. Called by the files of [`super`]. It knows no method.

use std::collections::HashSet;

use super::super::format::{ByteCodes, Format, Inputs};
use super::super::names::{bounded, LayerKind, Names};
use super::super::scheme::{Answer, KvScheme, Layers, Rule};
use crate::device::{DType, ScaleOver};
use crate::error::Result;
use crate::invalid;
use crate::json::Object;

/// What a configuration says.
#[derive(Debug)]
pub struct Read {
    /// The method's name, as vLLM says it once it knows the checkpoint.
    pub method: &'static str,
    pub layers: Layers,
    pub kv: KvScheme,
    /// Element types that the model may compute in.
    pub dtypes: &'static [DType],
}

/// vLLM computes a quantised model in 16 bits. float32 is allowed beside: it is what the CPU device
/// computes in whatever the dtype, and what kernels are compared with.
pub const ANY_DTYPE: &[DType] = &[DType::BF16, DType::F16, DType::F32];

/// Inputs that share a scale are at most those of a row.
const MAX_GROUP: i64 = 1 << 20;

impl Read {
    /// The same with what is said of the KV cache.
    pub fn with_kv(self, kv: KvScheme) -> Read {
        Read { kv, ..self }
    }
}

/// A configuration whose KV cache has no scales, in any dtype.
pub fn read(method: &'static str, rules: Vec<Rule>, otherwise: Answer) -> Read {
    let layers = Layers { rules, otherwise };
    Read { method, layers, kv: KvScheme::default(), dtypes: ANY_DTYPE }
}

/// The head stays as it is.
pub fn plain_head() -> Rule {
    Rule::Of(Names::Kind(LayerKind::Head), Answer::Plain)
}

/// E4M3 with its scale behind this name.
pub fn e4m3(scale: &'static str, over: ScaleOver, inputs: Inputs) -> Format {
    Format::Bytes { codes: ByteCodes::E4m3, scale, over, inputs }
}

/// Names in a list of strings; absent and null: none.
///
/// # Errors
/// InvalidArgument: the key holds something else.
pub fn names(quant: &Object, key: &str) -> Result<Vec<String>> {
    let names = quant.texts(key)?.unwrap_or_default();
    Ok(names.into_iter().map(str::to_string).collect())
}

/// The same of a list that is looked through name by name.
///
/// # Errors
/// As `names`; it is too long.
pub fn short_list(quant: &Object, key: &str) -> Result<Vec<String>> {
    bounded(names(quant, key)?, &quant.name(key))
}

/// Layers of these names stay as they are.
pub fn plain(names: Vec<String>) -> Rule {
    Rule::Of(Names::Equal(HashSet::from_iter(names)), Answer::Plain)
}

/// The first of these keys that is there, or the first.
pub fn either<'k>(quant: &Object, keys: [&'k str; 2]) -> &'k str {
    let [first, second] = keys;
    if quant.given(first).is_none() && quant.given(second).is_some() {
        second
    } else {
        first
    }
}

/// A flag that must be there.
///
/// # Errors
/// InvalidArgument: it is not, or no flag.
pub fn flag(quant: &Object, key: &str) -> Result<bool> {
    quant.needed(key, "true or false", quant.flag(key)?)
}

/// Bits of a code.
///
/// # Errors
/// InvalidArgument: none, or no such number.
pub fn bits(quant: &Object, key: &str) -> Result<u32> {
    let bits = quant.integer(key, 1, 32)?.and_then(|bits| u32::try_from(bits).ok());
    quant.needed(key, "an integer in 1..=32", bits)
}

/// Inputs that share a scale; none (-1): all of a row.
///
/// # Errors
/// InvalidArgument: absent, or no such number.
pub fn group(quant: &Object, key: &str) -> Result<Option<usize>> {
    let group = quant.integer(key, -1, MAX_GROUP)?;
    match quant.needed(key, "an integer", group)? {
        0 => Err(quant.wrong(key, "-1 or an integer above 0")),
        group => Ok(usize::try_from(group).ok()),
    }
}

/// `[128, 128]`, the only size of blocks.
///
/// # Errors
/// InvalidArgument: another value.
pub fn block(quant: &Object, key: &str) -> Result<()> {
    match quant.positives(key, 2)?.as_deref() {
        Some([128.0, 128.0]) => Ok(()),
        _ => Err(quant.wrong(key, "[128, 128]")),
    }
}

/// Weights that only another program's kernel reads.
pub fn for_one_kernel(quant: &Object, key: &str, value: &str, to: &str) -> crate::error::Error {
    invalid!(
        "{}: '{}' weights are packed for one kernel; convert the checkpoint to {to}.",
        quant.name(key),
        crate::json::cut(value)
    )
}
