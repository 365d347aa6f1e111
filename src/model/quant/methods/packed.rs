//! `quant_method: gptq` and `awq`: integers of a few bits in words. Rows of [`super`].

use serde_json::Value;

use super::super::format::{Format, Packing};
use super::super::names::{bounded, Names};
use super::super::pattern::Patterns;
use super::super::scheme::{Answer, Rule};
use super::layers::{
    self, bits, either, flag, for_one_kernel, group, plain_head, short_list, Read,
};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::Object;

/// How the layers of GPTQ are packed, unless `dynamic` says otherwise.
#[derive(Debug, Clone, Copy)]
struct Gptq {
    packing: Packing,
    bits: u32,
    group: Option<usize>,
    symmetric: bool,
    desc_act: bool,
}

impl Gptq {
    /// Why there are no such codes, in vLLM's words.
    fn refusal(self) -> Option<String> {
        let Gptq { bits, symmetric, .. } = self;
        let sym = if symmetric { "True" } else { "False" };
        let stored = matches!(bits, 2 | 3 | 4 | 8);
        (!stored).then(|| format!("Unsupported quantization config: bits={bits}, sym={sym}"))
    }

    fn answer(self) -> Answer {
        if let Some(why) = self.refusal() {
            return Answer::Refused(format!("{{layer}}: {why}"));
        }
        let Gptq { packing, bits, group, symmetric, desc_act } = self;
        // With one group for a whole row the order of inputs says nothing.
        let ordered = desc_act && group.is_some();
        Answer::Has(Format::Packed { packing, bits, group, symmetric, ordered })
    }

    /// What a rule of `dynamic` changes.
    fn with(self, over: &Object) -> Result<Gptq> {
        let has = |key| over.given(key).is_some();
        Ok(Gptq {
            packing: self.packing,
            bits: if has("bits") { bits(over, "bits")? } else { self.bits },
            group: if has("group_size") { group(over, "group_size")? } else { self.group },
            symmetric: over.flag("sym")?.unwrap_or(self.symmetric),
            desc_act: over.flag("desc_act")?.unwrap_or(self.desc_act),
        })
    }
}

/// # Errors
/// One line that names the key.
pub fn gptq(quant: &Object) -> Result<Read> {
    let base = Gptq {
        packing: gptq_packing(quant)?,
        bits: bits(quant, "bits")?,
        group: group(quant, "group_size")?,
        symmetric: flag(quant, "sym")?,
        desc_act: flag(quant, "desc_act")?,
    };
    if let Some(why) = base.refusal() {
        return Err(Error::Unsupported(format!("{}: {why}", quant.name("bits"))));
    }

    let mut rules = Vec::new();
    if !quant.flag("lm_head")?.unwrap_or(false) {
        rules.push(plain_head());
    }
    let only = blocks(quant, "modules_in_block_to_quantize")?;
    if !only.is_empty() {
        rules.push(Rule::Of(Names::NotContaining(only), Answer::Plain));
    }
    rules.extend(dynamic(quant, base)?);
    Ok(layers::read("auto_gptq", rules, base.answer()))
}

/// Which of two conventions the zeros follow.
fn gptq_packing(quant: &Object) -> Result<Packing> {
    if quant.flag("is_marlin_format")?.unwrap_or(false) {
        return Err(for_one_kernel(quant, "is_marlin_format", "marlin", "gptq"));
    }
    let key = either(quant, ["checkpoint_format", "format"]);
    match quant.text(key)? {
        None | Some("gptq") => Ok(Packing::Gptq),
        Some("gptq_v2") => Ok(Packing::GptqV2),
        Some(other) => Err(for_one_kernel(quant, key, other, "gptq")),
    }
}

/// A list of names, or of lists of names.
fn blocks(quant: &Object, key: &str) -> Result<Vec<String>> {
    let wrong = || quant.wrong(key, "a list of strings, or of lists of strings");
    let mut names = Vec::new();
    for value in quant.list(key)?.unwrap_or_default() {
        let inner = match value {
            Value::Array(inner) => inner.as_slice(),
            other => std::slice::from_ref(other),
        };
        for name in inner {
            names.push(name.as_str().ok_or_else(wrong)?.to_string());
        }
    }
    bounded(names, &quant.name(key))
}

/// `{"-:regex": …}` layers stay as they are, `{"+:regex": {…}}` have other sizes.
fn dynamic(quant: &Object, base: Gptq) -> Result<Vec<Rule>> {
    const KEY: &str = "dynamic";
    let Some(dynamic) = quant.object(KEY)? else { return Ok(Vec::new()) };
    let mut patterns = Patterns::of(quant.name(KEY));
    let mut rules = Vec::new();
    for key in dynamic.keys() {
        let (text, answer) = match key.strip_prefix("-:") {
            Some(text) => (text, Answer::Plain),
            None => {
                let over = dynamic.needed(key, "an object", dynamic.object(key)?)?;
                (key.strip_prefix("+:").unwrap_or(key), base.with(&over)?.answer())
            }
        };
        let pattern = patterns.at_start(text)?;
        rules.push(Rule::Of(Names::Pattern(pattern), answer));
    }
    Ok(rules)
}

/// # Errors
/// One line that names the key.
pub fn awq(quant: &Object) -> Result<Read> {
    let key = either(quant, ["version", "format"]);
    if let Some(version) = quant.text(key)?.filter(|v| !v.eq_ignore_ascii_case("gemm")) {
        return Err(for_one_kernel(quant, key, version, "gemm"));
    }
    let key = either(quant, ["bits", "w_bit"]);
    let bits = bits(quant, key)?;
    if bits != 4 {
        return Err(invalid!("{}: Unsupported num_bits = {bits}. Supported: 4.", quant.name(key)));
    }
    let group = group(quant, either(quant, ["group_size", "q_group_size"]))?;
    let symmetric = !flag(quant, "zero_point")?;

    let mut rules = Vec::new();
    if !quant.flag("lm_head")?.unwrap_or(false) {
        rules.push(plain_head());
    }
    let plain = short_list(quant, "modules_to_not_convert")?;
    rules.push(Rule::Of(Names::Containing(plain), Answer::Plain));
    let format = Format::Packed { packing: Packing::Awq, bits, group, symmetric, ordered: false };
    Ok(layers::read("auto_awq", rules, Answer::Has(format)))
}
