//! `quant_method: mxfp4`, as GPT-OSS stores its experts, and `bitsandbytes`. Rows of [`super`].

use super::super::format::Format;
use super::super::names::{LayerKind, Names};
use super::super::scheme::{Answer, Rule};
use super::layers::{self, plain_head, short_list, Read};
use crate::device::DType;
use crate::error::{Error, Result};
use crate::json::Object;

/// Experts only; f16 lacks the range of such weights.
///
/// # Errors
/// None so far.
pub fn mxfp4(_quant: &Object) -> Result<Read> {
    let experts = Rule::Of(Names::Kind(LayerKind::Experts), Answer::Has(Format::Mxfp4Stack));
    let read = layers::read("gpt_oss_mxfp4", vec![experts], Answer::Plain);
    Ok(Read { dtypes: &[DType::BF16, DType::F32], ..read })
}

/// # Errors
/// One line that names the key.
pub fn bitsandbytes(quant: &Object) -> Result<Read> {
    const EIGHT: &str = "load_in_8bit";
    const FOUR: &str = "load_in_4bit";
    const TYPE: &str = "bnb_4bit_quant_type";
    const STORAGE: &str = "bnb_4bit_quant_storage";
    let is_eight = quant.flag(EIGHT)?.unwrap_or(false);
    if is_eight {
        return Err(Error::Unsupported(format!(
            "{}: LLM.int8 is not supported; use load_in_4bit or an fp8 checkpoint.",
            quant.name(EIGHT)
        )));
    }
    if !quant.flag(FOUR)?.unwrap_or(false) {
        return Err(quant.wrong(FOUR, "true"));
    }
    if quant.text(TYPE)?.is_some_and(|kind| kind != "nf4") {
        return Err(quant.wrong(TYPE, "nf4"));
    }
    if quant.text(STORAGE)?.is_some_and(|kind| kind != "uint8") {
        return Err(quant.wrong(STORAGE, "uint8"));
    }
    let skipped = short_list(quant, "llm_int8_skip_modules")?;
    let rules = vec![plain_head(), Rule::Of(Names::Component(skipped), Answer::Plain)];
    Ok(layers::read("bitsandbytes", rules, Answer::Has(Format::Nf4)))
}
