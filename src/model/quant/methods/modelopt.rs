//! `quant_method: modelopt` and hf_quant_config.json: an algorithm for all layers but those that
//! are excluded, or one for each. Also `mxfp8`, the same under another name. Rows of [`super`].

use std::collections::HashMap;

use serde_json::Value;

use super::super::format::{Format, Inputs};
use super::super::names::Names;
use super::super::pattern::Wildcard;
use super::super::scheme::{Answer, KvScheme, Rule};
use super::layers::{self, e4m3, either, short_list, Read};
use crate::device::ScaleOver;
use crate::error::{Error, Result};
use crate::json::{cut, Object};

/// For layers of its own each; what each has is said in [`LAYERS`].
pub const MIXED: &str = "MIXED_PRECISION";
/// By the names of layers, in a configuration of [`MIXED`].
pub const LAYERS: &str = "quantized_layers";
const ALGO: &str = "quant_algo";
/// In messages, as vLLM lists them.
const ALGOS: [&str; 7] =
    ["FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4", "MXFP8", MIXED];
/// Inputs that share a scale in NVFP4.
const NVFP4_GROUP: i64 = 16;

/// An algorithm's name, what vLLM calls the method, and what layers have.
fn algorithm(name: &str) -> Option<(&'static str, Format)> {
    Some(match name {
        "FP8" => ("modelopt", e4m3("weight_scale", ScaleOver::Matrix, Inputs::E4m3Tensor)),
        "FP8_PER_CHANNEL_PER_TOKEN" => {
            ("modelopt", e4m3("weight_scale", ScaleOver::Row, Inputs::E4m3Row))
        }
        "FP8_PB_WO" | "FP8_BLOCK_SCALES" => {
            ("modelopt", e4m3("weight_scale", ScaleOver::Block, Inputs::E4m3Block))
        }
        "NVFP4" | "W4A16_NVFP4" => ("modelopt_fp4", Format::Nvfp4 { modelopt: true }),
        "MXFP8" => ("modelopt_mxfp8", Format::Mxfp8),
        _ => return None,
    })
}

/// The object that holds `quant_algo`: the whole, or `quantization` in it.
pub fn inner<'a>(quant: &Object<'a>) -> Result<Object<'a>> {
    Ok(quant.object("quantization")?.unwrap_or_else(|| quant.clone()))
}

/// The algorithm, in capitals.
pub fn algo(inner: &Object) -> Result<Option<String>> {
    Ok(inner.text(ALGO)?.map(str::to_ascii_uppercase))
}

/// # Errors
/// One line that names the key.
pub fn read(quant: &Object) -> Result<Read> {
    let nested = quant.given("quantization").is_some();
    let inner = inner(quant)?;
    let algo = inner.needed(ALGO, "the name of an algorithm", algo(&inner)?)?;
    let kv = kv_scheme(quant, &inner, nested)?;
    let ignore =
        if nested { "exclude_modules" } else { either(quant, ["ignore", "exclude_modules"]) };
    let mut rules = excluded(&inner, ignore)?;
    if algo == MIXED {
        rules.push(Rule::Each(each_layer(&inner)?));
        return Ok(layers::read("modelopt_mixed", rules, Answer::Plain).with_kv(kv));
    }

    let Some((method, format)) = algorithm(&algo) else {
        let named = inner.name(ALGO);
        let why = if nested {
            format!("Unknown ModelOpt quant algo: {}", cut(&algo))
        } else {
            let algos = ALGOS.map(|name| format!("'{name}'")).join(", ");
            format!(
                "ModelOpt currently only supports: [{algos}] quantizations in vLLM. Please check \
                 the `hf_quant_config.json` file for your model's quant configuration."
            )
        };
        return Err(Error::Unsupported(format!("{named}: {why}")));
    };
    judge_group(&inner, format)?;
    Ok(layers::read(method, rules, Answer::Has(format)).with_kv(kv))
}

/// `quant_method: mxfp8`, which excludes layers as `fp8` does.
///
/// # Errors
/// One line that names the key.
pub fn mxfp8(quant: &Object) -> Result<Read> {
    if quant.given("quantization").is_some() || quant.given(ALGO).is_some() {
        return read(quant);
    }
    let rules = excluded(quant, either(quant, ["ignored_layers", "modules_to_not_convert"]))?;
    let kv = kv_scheme(quant, quant, true)?;
    Ok(layers::read("modelopt_mxfp8", rules, Answer::Has(Format::Mxfp8)).with_kv(kv))
}

/// Parts of names, and wildcards.
fn excluded(quant: &Object, key: &str) -> Result<Vec<Rule>> {
    let names = short_list(quant, key)?;
    let wild = |name: &&String| name.contains(['*', '?', '[']);
    let wildcards = names.iter().filter(wild).map(|name| Wildcard::new(name)).collect();
    Ok(vec![
        Rule::Of(Names::Containing(names), Answer::Plain),
        Rule::Of(Names::Wild(wildcards), Answer::Plain),
    ])
}

fn judge_group(object: &Object, format: Format) -> Result<()> {
    const KEY: &str = "group_size";
    let is_nvfp4 = matches!(format, Format::Nvfp4 { .. });
    if is_nvfp4 && object.integer(KEY, 0, i64::MAX)?.is_some_and(|group| group != NVFP4_GROUP) {
        return Err(object.wrong(KEY, "16"));
    }
    Ok(())
}

fn each_layer(quant: &Object) -> Result<HashMap<String, Answer>> {
    let layers = quant.needed(LAYERS, "an object", quant.object(LAYERS)?)?;
    let mut answers = HashMap::new();
    for name in layers.keys() {
        let layer = layers.needed(name, "an object", layers.object(name)?)?;
        let algo = layer.needed(ALGO, "the name of an algorithm", algo(&layer)?)?;
        let answer = match algorithm(&algo) {
            Some((_, format)) => {
                judge_group(&layer, format)?;
                Answer::Has(format)
            }
            None => {
                Answer::Refused(format!("{{layer}}: Unknown ModelOpt quant algo: {}", cut(&algo)))
            }
        };
        answers.insert(name.to_string(), answer);
    }
    if answers.is_empty() {
        return Err(quant.wrong(LAYERS, "an object that is not empty"));
    }
    Ok(answers)
}

/// `kv_cache_quant_algo`, or (as in compressed-tensors) `kv_cache_scheme`. A cache of another kind
/// is kept in the model's type: that is what a checkpoint without a word of it gets.
fn kv_scheme(quant: &Object, inner: &Object, nested: bool) -> Result<KvScheme> {
    let fp8 = if nested {
        inner.text("kv_cache_quant_algo")?.is_some_and(|algo| algo.eq_ignore_ascii_case("FP8"))
    } else {
        // Some have a word here, which says nothing.
        let scheme = quant.given("kv_cache_scheme").and_then(Value::as_object);
        let said = |key: &str| scheme.and_then(|scheme| scheme.get(key));
        let bits = said("num_bits").and_then(Value::as_u64);
        bits == Some(8) && said("type").and_then(Value::as_str) == Some("float")
    };
    Ok(KvScheme { fp8, scales: true, no_e5m2: true })
}
