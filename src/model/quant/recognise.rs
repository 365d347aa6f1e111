//! `quantization_config` of config.json -> [`QuantScheme`]. Called by `config`. It knows no tensor.

use super::format::{ByteCodes, Format, Inputs};
use super::names::{LayerKind, Names};
use super::scheme::{KvScheme, QuantScheme, Rule};
use crate::device::{DType, ScaleOver};
use crate::error::{Error, Result};
use crate::json::{self, Object};

const KEY: &str = "quantization_config";

/// What config.json says of a family whose names begin with one of `prefixes`; None: the checkpoint
/// is not quantised.
///
/// # Errors
/// One line that names the key: a method or a value of it that is not supported.
pub fn scheme(config: &Object, prefixes: &'static [&'static str]) -> Result<Option<QuantScheme>> {
    let Some(quant) = config.object(KEY)? else { return Ok(None) };
    match quant.text("quant_method")? {
        Some("fp8") => fp8(&quant, prefixes).map(Some),
        method => Err(Error::Unsupported(format!(
            "{} (quant_method {}) is not supported; use a checkpoint in float32, float16 or \
             bfloat16.",
            config.name(KEY),
            json::cut(method.unwrap_or("null"))
        ))),
    }
}

fn fp8(quant: &Object, prefixes: &'static [&'static str]) -> Result<QuantScheme> {
    let scheme = quant.text("activation_scheme")?;
    let scheme = quant.needed("activation_scheme", "'static' or 'dynamic'", scheme)?;
    let format = match quant.given("weight_block_size") {
        Some(_) => Format::Bytes {
            codes: ByteCodes::E4m3,
            scale: "weight_scale_inv",
            over: ScaleOver::Block,
            inputs: Inputs::E4m3Block,
        },
        None => Format::Bytes {
            codes: ByteCodes::E4m3,
            scale: "weight_scale",
            over: ScaleOver::Matrix,
            inputs: if scheme == "static" { Inputs::E4m3Tensor } else { Inputs::E4m3Row },
        },
    };
    let ignored = match quant.list("ignored_layers")? {
        None | Some([]) => quant.list("modules_to_not_convert")?,
        list => list,
    };
    let ignored = ignored.unwrap_or_default().iter();
    let ignored = ignored.filter_map(|name| name.as_str().map(str::to_string)).collect();
    Ok(QuantScheme {
        method: "fp8",
        kv: KvScheme { fp8: false, scales: true, no_e5m2: true },
        dtypes: &[DType::BF16, DType::F16, DType::F32],
        prefixes,
        rules: vec![
            Rule { which: Names::Equal(ignored), format: None },
            Rule { which: Names::Kind(LayerKind::Head), format: None },
        ],
        otherwise: Some(format),
        online: false,
    })
}
