//! [`QuantScheme`]: which format each linear of a quantised checkpoint has, as a list of rules of
//! which the first that hits decides, and what the checkpoint says of its KV cache. `recognise`
//! makes it of a checkpoint's files, `load` asks it layer by layer. It knows no file and no tensor.

use std::collections::HashMap;

use super::format::{Format, MX_GROUP};
use super::names::{self, LayerKind, Names, Spelled};
use crate::device::DType;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json;

/// What a checkpoint says of its KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvScheme {
    /// `kv_cache_dtype: auto` means fp8_e4m3.
    pub fp8: bool,
    /// Scales of K and V are read from the checkpoint (`k_scale`, `v_scale`, …): a number, or one
    /// for each head. Else they are 1, whatever tensors there are.
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
    /// Weights are stored plain and quantised as they are loaded.
    pub online: bool,
    /// Where it stands, for messages: `config.json: 'quantization_config'`.
    pub(super) named: String,
    /// In front of names, as the family has them.
    pub(super) prefixes: &'static [&'static str],
    /// Which layers have which format.
    pub(super) layers: Layers,
}

/// Which layers have which format.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    /// The first that hits a name decides.
    pub rules: Vec<Rule>,
    /// Of names that no rule hits.
    pub otherwise: Answer,
}

/// Which names a rule hits, and what is said of them.
#[derive(Debug, Clone)]
pub(super) enum Rule {
    /// The same of all.
    Of(Names, Answer),
    /// Of each its own, by the whole name.
    Each(HashMap<String, Answer>),
}

/// What is said of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// It stays as it is.
    Plain,
    /// It has this format.
    Has(Format),
    /// It has one that is not supported, why: `{layer}` stands for its name. Not an error before a
    /// layer is asked for: a configuration may speak of parts of a model that are not served.
    Refused(String),
}

impl QuantScheme {
    /// The format of the weight that is made of these parts (names of the checkpoint without
    /// `.weight`): q, k and v; gate and up; of experts those of all. None: it is stored in 16 or 32
    /// bits. `is_plain` says whether a part has a `.weight` of 16 or 32 bits and no scale: such a
    /// part is plain whatever the lists say, but where all is quantised as it is loaded.
    ///
    /// # Errors
    /// Unsupported: a format that is not supported. InvalidArgument: parts have different formats,
    /// or some have one and some have none.
    pub fn format_of(
        &self,
        kind: LayerKind,
        parts: &[String],
        is_plain: &dyn Fn(&str) -> bool,
    ) -> Result<Option<Format>> {
        let whole = names::fused(kind, parts);
        let mut first = None;
        for part in parts {
            let stays = !self.online && is_plain(part);
            let format = if stays { None } else { self.of_part(kind, part, &whole)? };
            if *first.get_or_insert(format) != format {
                return Err(self.mixed(&whole));
            }
        }
        Ok(first.flatten())
    }

    /// Inputs that share a scale of experts of which ranks hold whole groups, some one more than
    /// others. None: ranks hold equal parts, or none at all, as in vLLM, which rounds the parts of
    /// this one format.
    pub fn uneven_expert_group(&self) -> Option<usize> {
        let of_stack = |rule: &Rule| matches!(rule, Rule::Of(_, Answer::Has(Format::Mxfp4Stack)));
        self.layers.rules.iter().any(of_stack).then_some(MX_GROUP)
    }

    /// What the rules say of a part of the weight `whole`.
    fn of_part(&self, kind: LayerKind, part: &str, whole: &str) -> Result<Option<Format>> {
        let at = |e: Error| e.context(&format!("{}: ", self.named)).on_one_line();
        let layer = Spelled::new(kind, self.prefixes, part, whole);
        match self.layers.answer(&layer).map_err(at)? {
            Answer::Plain => Ok(None),
            Answer::Has(format) => Ok(Some(*format)),
            Answer::Refused(why) => {
                let why = why.replacen("{layer}", &json::cut(part), 1);
                Err(at(Error::Unsupported(why)))
            }
        }
    }

    /// Parts of `whole` have different formats.
    fn mixed(&self, whole: &str) -> Error {
        let named = &self.named;
        let whole = json::cut(whole);
        let error = if self.method == "compressed-tensors" {
            invalid!(
                "{named}: Found different quantization schemes for the shards of {whole}. vLLM \
                 requires all to use the same scheme."
            )
        } else {
            invalid!(
                "{named}: Detected some but not all shards of {whole} are quantized. All shards \
                 of fused layers to have the same precision."
            )
        };
        error.on_one_line()
    }
}

impl Layers {
    fn answer(&self, layer: &Spelled) -> Result<&Answer> {
        for rule in &self.rules {
            match rule {
                Rule::Of(names, answer) => {
                    if names.hit(layer)? {
                        return Ok(answer);
                    }
                }
                Rule::Each(answers) => {
                    if let Some(answer) = layer.names.iter().find_map(|name| answers.get(name)) {
                        return Ok(answer);
                    }
                }
            }
        }
        Ok(&self.otherwise)
    }
}
