//! `quant_method: compressed-tensors`: groups of layers, each with the arguments of its weights and
//! inputs, of which the format follows. A row of [`super`].

use std::collections::HashMap;

use super::super::format::{ByteCodes, Format, Inputs, Packing};
use super::super::names::{bounded, Names};
use super::super::pattern::Patterns;
use super::super::scheme::{Answer, KvScheme, Rule};
use super::compressed_args::{args, Args, Order, Strategy};
use super::layers::{self, e4m3, names, Read};
use crate::device::ScaleOver;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};

const IGNORE: &str = "ignore";
const GROUPS: &str = "config_groups";
const KV: &str = "kv_cache_scheme";
/// Formats whose products may round their inputs.
const ROUNDS_INPUTS: [&str; 4] =
    ["naive-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized"];

/// # Errors
/// One line that names the key.
pub fn read(quant: &Object) -> Result<Read> {
    refuse_sparsity(quant)?;
    if quant.given("transform_config").is_some_and(|t| t.as_object().is_none_or(|t| !t.is_empty()))
    {
        return Err(Error::Unsupported(format!(
            "{}: transforms are not supported; use a checkpoint that was made without them.",
            quant.name("transform_config")
        )));
    }

    let mut rules = Vec::new();
    let ignored = names(quant, IGNORE)?;
    rules.extend(named_rules(quant, IGNORE, ignored.into_iter().map(|n| (n, Answer::Plain)))?);
    let targets = targets(quant)?;
    // What no name hits is found by the name of its class, as `Linear`.
    let is_class = |target: &&String| !target.contains('.') && !target.starts_with("re:");
    let classes = targets.iter().map(|(target, _)| target).filter(is_class).cloned().collect();
    let classes = bounded(classes, &quant.name(GROUPS))?;
    let answers: HashMap<_, _> = targets.iter().cloned().collect();
    rules.extend(named_rules(quant, GROUPS, targets.into_iter())?);
    rules.extend(classes.into_iter().filter_map(|target| {
        let answer = answers.get(&target)?.clone();
        Some(Rule::Of(Names::Class(target.to_ascii_lowercase()), answer))
    }));
    let kv = kv_scheme(quant)?;
    Ok(layers::read("compressed-tensors", rules, Answer::Plain).with_kv(kv))
}

fn refuse_sparsity(quant: &Object) -> Result<()> {
    let Some(sparsity) = quant.object("sparsity_config")? else { return Ok(()) };
    match sparsity.list("targets")? {
        None | Some([]) => Ok(()),
        Some(_) => Err(Error::Unsupported(format!(
            "{}: Sparsity support has been removed from compressed-tensors. Please use a model \
             without sparsity configuration.",
            quant.name("sparsity_config")
        ))),
    }
}

/// Rules in the order of `entries`: whole names, and regular expressions behind `re:`.
fn named_rules(
    quant: &Object,
    key: &str,
    entries: impl Iterator<Item = (String, Answer)>,
) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    let mut each = HashMap::new();
    let mut patterns = Patterns::of(quant.name(key));
    for (name, answer) in entries {
        let Some(text) = name.strip_prefix("re:") else {
            each.entry(name).or_insert(answer);
            continue;
        };
        // Whole names that stand before an expression are looked at before it.
        if !each.is_empty() {
            rules.push(Rule::Each(std::mem::take(&mut each)));
        }
        rules.push(Rule::Of(Names::Pattern(patterns.at_start(text)?), answer));
    }
    if !each.is_empty() {
        rules.push(Rule::Each(each));
    }
    Ok(rules)
}

/// The targets of all groups; of equal ones the last group counts, in the place of the first.
fn targets(quant: &Object) -> Result<Vec<(String, Answer)>> {
    let groups = quant.needed(GROUPS, "an object", quant.object(GROUPS)?)?;
    let format = quant.needed("format", "the name of a format", quant.text("format")?)?;
    let mut all: Vec<(String, Answer)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for key in groups.keys() {
        let group = groups.needed(key, "an object", groups.object(key)?)?;
        let targets = group.needed("targets", "a list of strings", group.texts("targets")?)?;
        // Attention is quantised with its KV cache.
        if matches!(targets[..], [only] if only.ends_with("Attention")) {
            continue;
        }
        let answer = answer(&group, format)?;
        for target in targets {
            match places.get(target).and_then(|&at| all.get_mut(at)) {
                Some((_, old)) => *old = answer.clone(),
                None => {
                    places.insert(target.to_string(), all.len());
                    all.push((target.to_string(), answer.clone()));
                }
            }
        }
    }
    Ok(all)
}

/// What a group's layers have; why not, if it is nothing that is supported.
fn answer(group: &Object, format: &str) -> Result<Answer> {
    let weights = group.needed("weights", "an object", args(group, "weights")?)?;
    let inputs = args(group, "input_activations")?;
    let outputs = args(group, "output_activations")?;
    let format = group.text("format")?.unwrap_or(format);
    if let Some(format) = format_of(&weights, inputs.as_ref(), outputs.as_ref(), format) {
        return Ok(Answer::Has(format));
    }

    if format == "marlin-24" {
        return Ok(Answer::Refused(format!(
            "{}: '{format}' weights are packed for one kernel; convert the checkpoint to \
             pack-quantized.",
            group.name("format")
        )));
    }
    let shown = |args: &Option<Args>| args.as_ref().map_or("None".into(), Args::to_string);
    Ok(Answer::Refused(format!(
        "No compressed-tensors compatible scheme was found for layer_name='{{layer}}', \
         weight_quant={}, input_quant={}, output_quant={}, format='{}'",
        weights,
        shown(&inputs),
        shown(&outputs),
        json::cut(format)
    )))
}

/// The first that fits, in vLLM's order; NVFP4 and MXFP4 are multiplied with inputs as they are, as
/// vLLM does on Hopper, and so are four bits with E4M3 inputs.
fn format_of(
    weights: &Args,
    inputs: Option<&Args>,
    outputs: Option<&Args>,
    format: &str,
) -> Option<Format> {
    if weights.dynamic || outputs.is_some() {
        return None;
    }
    let is_nvfp4 =
        |a: &Args| a.float && a.bits == 4 && a.symmetric && a.strategy == Strategy::TensorGroup(16);
    if is_nvfp4(weights) {
        return inputs.is_none_or(is_nvfp4).then_some(Format::Nvfp4 { modelopt: false });
    }
    if weights.float && weights.symmetric && weights.strategy == Strategy::Group(32) {
        return match weights.bits {
            4 => Some(Format::Mxfp4),
            8 if weights.byte_scales => Some(Format::Mxfp8),
            _ => None,
        };
    }
    if !weights.float && format == "pack-quantized" {
        return packed(weights, inputs);
    }
    if !ROUNDS_INPUTS.contains(&format) || weights.bits != 8 || !weights.symmetric {
        return None;
    }

    let over = match weights.strategy {
        Strategy::Tensor => ScaleOver::Matrix,
        Strategy::Channel => ScaleOver::Row,
        Strategy::Block => ScaleOver::Block,
        _ => return None,
    };
    if weights.float {
        return Some(e4m3("weight_scale", over, e4m3_inputs(over, inputs)));
    }
    let inputs = int8_inputs(over, inputs?)?;
    Some(Format::Bytes { codes: ByteCodes::Int8, scale: "weight_scale", over, inputs })
}

/// Integers in words: with inputs as they are, or four bits with inputs in E4M3.
fn packed(weights: &Args, inputs: Option<&Args>) -> Option<Format> {
    let group = match weights.strategy {
        Strategy::Group(group) => Some(group),
        Strategy::Channel => None,
        _ => return None,
    };
    let e4m3_rows = |a: &Args| {
        let weights = weights.bits == 4 && weights.symmetric && group.is_some();
        let rows = a.float && a.bits == 8 && a.symmetric && a.dynamic;
        weights && rows && a.strategy == Strategy::Token
    };
    if !inputs.is_none_or(e4m3_rows) || !(2..=8).contains(&weights.bits) {
        return None;
    }
    Some(Format::Packed {
        packing: Packing::CompressedTensors,
        bits: weights.bits,
        group,
        symmetric: weights.symmetric,
        ordered: weights.order == Order::Stored && group.is_some(),
    })
}

/// Inputs that are described in a way that no product has are taken as they are, as in vLLM.
fn e4m3_inputs(over: ScaleOver, inputs: Option<&Args>) -> Inputs {
    match inputs {
        Some(a) if a.float && a.dynamic && over == ScaleOver::Block => Inputs::E4m3Block,
        Some(a) if a.float && a.dynamic => Inputs::E4m3Row,
        Some(a) if a.float && a.symmetric && a.strategy == Strategy::Tensor => Inputs::E4m3Tensor,
        _ => Inputs::Plain,
    }
}

fn int8_inputs(over: ScaleOver, inputs: &Args) -> Option<Inputs> {
    if over == ScaleOver::Block || inputs.float || inputs.bits != 8 {
        return None;
    }
    let symmetric = inputs.symmetric;
    match (inputs.strategy, inputs.dynamic) {
        (Strategy::Tensor, false) => Some(Inputs::Int8Tensor { symmetric }),
        (Strategy::Token, true) => Some(Inputs::Int8Row { symmetric }),
        _ => None,
    }
}

fn kv_scheme(quant: &Object) -> Result<KvScheme> {
    let scales = KvScheme { fp8: false, scales: true, no_e5m2: false };
    let Some(kv) = quant.object(KV)? else { return Ok(scales) };
    let bits = kv.given("num_bits");
    let kind = kv.given("type");
    if bits.and_then(|b| b.as_u64()) != Some(8) || kind.and_then(|k| k.as_str()) != Some("float") {
        let shown = |value: Option<&serde_json::Value>| match value {
            Some(serde_json::Value::String(text)) => json::cut(text),
            Some(value) => json::shown(value),
            None => "None".into(),
        };
        return Err(Error::Unsupported(format!(
            "{}: Currently supported kv cache quantization is num_bits=8, type=float, however \
             received num_bits={}, type={}",
            quant.name(KV),
            shown(bits),
            shown(kind)
        )));
    }

    let strategy = kv.text("strategy")?;
    if !matches!(strategy, Some("tensor" | "attn_head")) {
        return Err(invalid!(
            "{}: Invalid strategy for compressed-tensors KV cache. Expected strategies: tensor, \
             attn_head, found strategy: {}",
            quant.name(KV),
            json::cut(strategy.unwrap_or("None"))
        ));
    }
    if !kv.flag("symmetric")?.unwrap_or(true) {
        return Err(Error::Unsupported(format!(
            "{}: Only support symmetric scaling factor for compressed-tensors KV cache. However \
             found symmetric: False",
            quant.name(KV)
        )));
    }
    Ok(KvScheme { fp8: true, scales: true, no_e5m2: true })
}
