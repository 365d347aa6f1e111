//! `quant_method: fp8`: E4M3 with a scale for each matrix (static or dynamic inputs) or for each
//! 128 x 128 (DeepSeek, Qwen3-FP8). A row of [`super`].

use super::super::format::Inputs;
use super::super::names::Names;
use super::super::scheme::{Answer, KvScheme, Rule};
use super::layers::{self, block, e4m3, plain, plain_head, short_list, Read};
use crate::device::ScaleOver;
use crate::error::Result;
use crate::invalid;
use crate::json::{cut, Object};

/// # Errors
/// One line that names the key.
pub fn read(quant: &Object) -> Result<Read> {
    let format = e4m3_format(quant)?;
    let key = match quant.list("ignored_layers")? {
        None | Some([]) => "modules_to_not_convert",
        Some(_) => "ignored_layers",
    };
    let ignored = short_list(quant, key)?;
    let rules = vec![
        plain_head(),
        Rule::Of(Names::ExpertsOf(ignored.clone()), Answer::Plain),
        plain(ignored),
    ];
    let kv = KvScheme { fp8: false, scales: true, no_e5m2: true };
    Ok(layers::read("fp8", rules, Answer::Has(format)).with_kv(kv))
}

fn e4m3_format(quant: &Object) -> Result<super::super::format::Format> {
    const SCHEME: &str = "activation_scheme";
    let scheme = quant.needed(SCHEME, "'static' or 'dynamic'", quant.text(SCHEME)?)?;
    let is_static = match scheme {
        "static" => true,
        "dynamic" => false,
        other => {
            let other = cut(other);
            return Err(invalid!("{}: Unsupported activation scheme {other}", quant.name(SCHEME)));
        }
    };

    // Other encodings, and experts in four bits beside.
    if !matches!(quant.text("fmt")?, None | Some("e4m3" | "float8_e4m3fn")) {
        return Err(quant.wrong("fmt", "e4m3"));
    }
    if quant.given("store_dtype").is_some() {
        return Err(quant.wrong("store_dtype", "absent"));
    }

    if quant.given("weight_block_size").is_none() {
        let inputs = if is_static { Inputs::E4m3Tensor } else { Inputs::E4m3Row };
        return Ok(e4m3("weight_scale", ScaleOver::Matrix, inputs));
    }
    block(quant, "weight_block_size")?;
    if is_static {
        return Err(invalid!(
            "{}: The block-wise quantization only supports dynamic activation scheme for now, but \
             got {scheme} activation scheme.",
            quant.name(SCHEME)
        ));
    }
    Ok(e4m3("weight_scale_inv", ScaleOver::Block, Inputs::E4m3Block))
}
