//! `quant_method: auto-round` (vLLM's `inc`): the packings of other methods, with sizes of their
//! own for some layers. A row of [`super`].

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::super::format::{Format, Inputs, Packing};
use super::super::names::{bounded, Names};
use super::super::pattern::Patterns;
use super::super::scheme::{Answer, Rule};
use super::layers::{self, bits, block, e4m3, either, group, plain_head, Read};
use crate::device::ScaleOver;
use crate::error::{Error, Result};
use crate::json::{cut, Object};

/// A key of `extra_config` with one of these is a regular expression.
const SPECIAL: &str = r"*+?^$()[]{}|\";
/// Values of `packing_format`, as vLLM lists them.
const PACKINGS: [&str; 4] =
    ["auto_round:auto_awq", "auto_round:auto_gptq", "auto_round:fp8", "auto_round:llm_compressor"];

/// What a layer's sizes mean.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Integers(Packing),
    /// E4M3 in blocks of 128 x 128.
    Fp8,
    /// Groups of 32 with powers of two.
    Mx,
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    kind: Kind,
    bits: u32,
    group: Option<usize>,
    symmetric: bool,
}

impl Sizes {
    fn answer(self) -> Answer {
        let Sizes { kind, bits, group, symmetric } = self;
        match (kind, bits) {
            (_, 16..) => Answer::Plain,
            (Kind::Integers(Packing::Awq), 4) | (Kind::Integers(Packing::Gptq), 2 | 3 | 4 | 8) => {
                let Kind::Integers(packing) = kind else { return Answer::Plain };
                let ordered = false;
                Answer::Has(Format::Packed { packing, bits, group, symmetric, ordered })
            }
            (Kind::Fp8, 8) => {
                Answer::Has(e4m3("weight_scale_inv", ScaleOver::Block, Inputs::E4m3Block))
            }
            (Kind::Mx, 4) => Answer::Has(Format::Mxfp4),
            (Kind::Mx, 8) => Answer::Has(Format::Mxfp8),
            _ => Answer::Refused(format!("{{layer}}: Unsupported weight_bits: {bits}")),
        }
    }

    /// What an entry of `extra_config` changes.
    fn with(self, over: &Object) -> Result<Sizes> {
        let has = |key| over.given(key).is_some();
        let other_group = has("group_size") && matches!(self.kind, Kind::Integers(_));
        Ok(Sizes {
            kind: self.kind,
            bits: if has("bits") { bits(over, "bits")? } else { self.bits },
            group: if other_group { group(over, "group_size")? } else { self.group },
            symmetric: over.flag("sym")?.unwrap_or(self.symmetric),
        })
    }
}

/// # Errors
/// One line that names the key.
pub fn read(quant: &Object) -> Result<Read> {
    let base = sizes(quant)?;
    if let Answer::Refused(why) = base.answer() {
        let why = why.trim_start_matches("{layer}: ");
        return Err(Error::Unsupported(format!("{}: {why}", quant.name("bits"))));
    }
    let mut rules = extra(quant, base)?;
    let blocks = block_names(quant)?;
    if blocks.is_empty() {
        rules.push(plain_head());
    } else {
        rules.push(Rule::Of(Names::NotUnder(blocks), Answer::Plain));
    }
    Ok(layers::read("inc", rules, base.answer()))
}

fn sizes(quant: &Object) -> Result<Sizes> {
    let bits = bits(quant, "bits")?;
    let symmetric = quant.flag("sym")?.unwrap_or(true);
    let data_type = quant.text("data_type")?.unwrap_or("int");
    let default = match data_type {
        "fp" | "fp8" => "auto_round:fp8",
        mx if mx.starts_with("mx_fp") => "auto_round:llm_compressor",
        _ => "auto_round:auto_gptq",
    };
    let packing = quant.text("packing_format")?.unwrap_or(default);

    let kind = match (data_type, packing) {
        ("int", "auto_round:auto_gptq") => Kind::Integers(Packing::Gptq),
        ("int", "auto_round:auto_awq") => Kind::Integers(Packing::Awq),
        ("fp" | "fp8", "auto_round:fp8") => Kind::Fp8,
        (mx, "auto_round:llm_compressor") if mx.starts_with("mx_fp") => Kind::Mx,
        _ => {
            return Err(Error::Unsupported(format!(
            "{}: Unsupported packing_format: {} of data_type {}, currently only support {{{}}}.",
            quant.name("packing_format"),
            cut(packing),
            cut(data_type),
            PACKINGS.map(|name| format!("'{name}'")).join(", ")
        )))
        }
    };
    let group = match kind {
        Kind::Integers(_) => group(quant, "group_size")?,
        Kind::Mx if quant.integer("group_size", 32, 32)?.is_some() => Some(32),
        Kind::Mx => return Err(quant.wrong("group_size", "32")),
        Kind::Fp8 => {
            block(quant, "group_size")?;
            None
        }
    };
    Ok(Sizes { kind, bits, group, symmetric })
}

/// Sizes of single layers: by their whole names, then by the ends of them, then by expressions.
fn extra(quant: &Object, base: Sizes) -> Result<Vec<Rule>> {
    const KEY: &str = "extra_config";
    let Some(extra) = quant.object(KEY)? else { return Ok(Vec::new()) };
    let mut whole = HashMap::new();
    let mut ends: Vec<(Answer, HashSet<String>)> = Vec::new();
    let mut patterns = Patterns::of(quant.name(KEY));
    let mut hits = Vec::new();
    for key in extra.keys() {
        let over = extra.needed(key, "an object", extra.object(key)?)?;
        let answer = base.with(&over)?.answer();
        if key.contains(|c| SPECIAL.contains(c)) {
            hits.push(Rule::Of(Names::Pattern(patterns.anywhere(key)?), answer));
            continue;
        }
        whole.insert(key.to_string(), answer.clone());
        // Few answers, many names.
        match ends.iter_mut().find(|(other, _)| *other == answer) {
            Some((_, names)) => {
                names.insert(key.to_string());
            }
            None => ends.push((answer, HashSet::from([key.to_string()]))),
        }
    }

    let mut rules = vec![Rule::Each(whole)];
    rules.extend(ends.into_iter().map(|(answer, names)| Rule::Of(Names::Ending(names), answer)));
    rules.extend(hits);
    Ok(rules)
}

/// `block_name_to_quantize`: names between commas, or a list of them.
fn block_names(quant: &Object) -> Result<Vec<String>> {
    let key = either(quant, ["block_name_to_quantize", "to_quant_block_names"]);
    let names: Vec<String> = match quant.given(key) {
        None => Vec::new(),
        Some(Value::String(text)) => text.split(',').map(|name| name.trim().to_string()).collect(),
        Some(Value::Array(_)) => layers::names(quant, key)?,
        Some(_) => return Err(quant.wrong(key, "a string or a list of strings")),
    };
    bounded(names, &quant.name(key))
}
