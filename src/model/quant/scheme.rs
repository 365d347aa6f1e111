//! [`QuantScheme`]: which format each linear of a quantised checkpoint has, as a list of rules of
//! which the first that hits decides, and what the checkpoint says of its KV cache. `recognise` makes
//! it of a checkpoint's files, `load` asks it layer by layer. It knows no file and no tensor.

use super::format::Format;
use super::names::{self, LayerKind, Names, Spelled};
use crate::device::DType;
use crate::error::Result;
use crate::invalid;
use crate::json;

/// What a checkpoint says of its KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvScheme {
    /// `kv_cache_dtype: auto` means fp8_e4m3.
    pub fp8: bool,
    /// Scales of K and V are read from the checkpoint (`k_scale`, `v_scale`, …); else they are 1.
    pub scales: bool,
    /// `kv_cache_dtype: fp8_e5m2` contradicts the checkpoint.
    pub no_e5m2: bool,
}

/// How a checkpoint is quantised, or is to be as it is loaded.
#[derive(Debug, Clone)]
pub struct QuantScheme {
    /// The method's name, as vLLM says it.
    pub method: &'static str,
    /// Of the KV cache.
    pub kv: KvScheme,
    /// Element types that the model may compute in.
    pub dtypes: &'static [DType],
    /// In front of names, as the family has them.
    pub(super) prefixes: &'static [&'static str],
    /// The first that hits a name decides.
    pub(super) rules: Vec<Rule>,
    /// Of names that no rule hits.
    pub(super) otherwise: Option<Format>,
    /// Weights are stored plain and quantised as they are loaded.
    pub(super) online: bool,
}

/// Which names a rule hits, and what they have; none: they stay as they are.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub which: Names,
    pub format: Option<Format>,
}

impl QuantScheme {
    /// The format of the weight that is made of these parts (names of the checkpoint without
    /// `.weight`): q, k and v; gate and up; of experts those of all. None: it is stored in 16 or 32
    /// bits. `is_plain` says whether a part has a `.weight` of 16 or 32 bits and no scale: such a
    /// part is plain whatever the lists say.
    ///
    /// # Errors
    /// InvalidArgument: parts have different formats, or some have one and some have none.
    pub fn format_of(
        &self,
        kind: LayerKind,
        parts: &[String],
        is_plain: &dyn Fn(&str) -> bool,
    ) -> Result<Option<Format>> {
        let whole = names::fused(kind, parts);
        let mut formats = Vec::with_capacity(parts.len());
        for part in parts {
            let stays = !self.online && is_plain(part);
            formats.push(if stays { None } else { self.of_part(kind, part, &whole) });
        }

        let first = formats.first().copied().flatten();
        if formats.iter().all(|format| *format == first) {
            return Ok(first);
        }
        Err(invalid!(
            "Detected some but not all shards of {} are quantized. All shards of fused layers to \
             have the same precision.",
            json::cut(&whole)
        ))
    }

    /// What the rules say of a part of the weight `whole`.
    fn of_part(&self, kind: LayerKind, part: &str, whole: &str) -> Option<Format> {
        let spelled = Spelled::new(kind, self.prefixes, part, whole);
        let rule = self.rules.iter().find(|rule| rule.which.hit(&spelled));
        rule.map_or(self.otherwise, |rule| rule.format)
    }
}
