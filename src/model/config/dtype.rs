//! The element type that a model computes in: the user's, else the checkpoint's if the device has
//! it, else the device's first choice. Called by `config` alone.

use super::keys::parse_dtype;
use super::spec::SpecOptions;
use crate::device::DType;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};
use crate::model::architectures::Family;

/// `auto` keeps 16-bit types; float32 becomes the device's first choice (float32 on CPU, bfloat16
/// on GPUs; float16 where a model embeds), as does a type that the device or the family lacks.
///
/// # Errors
/// The user's type is none, or not for this device or model; config.json's is none that is read.
pub fn choose(
    config: &Object,
    family: &Family,
    pools: bool,
    options: &SpecOptions,
) -> Result<DType> {
    let fits = |d: &DType| !(family.no_float16 && *d == DType::F16);
    if !matches!(options.dtype, "" | "auto") {
        return match parse_dtype(options.dtype) {
            Some(d) if !fits(&d) => Err(invalid!(
                "The model type '{}' does not support float16. Reason: Numerical instability. \
                 Please use bfloat16 or float32 instead.",
                config.text("model_type")?.map_or(family.architecture.into(), json::cut)
            )),
            Some(d) if options.supported.is_empty() || options.supported.contains(&d) => Ok(d),
            Some(_) => Err(invalid!("dtype '{}' is not supported by the device.", options.dtype)),
            None => Err(invalid!(
                "dtype must be one of auto, half, float16, bfloat16, float, float32, got '{}'.",
                options.dtype
            )),
        };
    }

    let stored = stated_dtype(config)?.or(options.stored_dtype);
    Ok(match stored {
        Some(d @ (DType::F16 | DType::BF16)) if options.supported.contains(&d) && fits(&d) => d,
        _ if pools && options.supported.contains(&DType::F16) && fits(&DType::F16) => DType::F16,
        _ => options.supported.iter().copied().find(fits).unwrap_or(DType::F32),
    })
}

/// The type that config.json says its weights have.
fn stated_dtype(config: &Object) -> Result<Option<DType>> {
    let key = if config.given("dtype").is_some() { "dtype" } else { "torch_dtype" };
    match config.text(key)? {
        None | Some("auto") => Ok(None),
        Some(name) => match parse_dtype(name) {
            Some(dtype) => Ok(Some(dtype)),
            None => Err(Error::Unsupported(format!(
                "{}: '{}' is not supported; supported: float32, float16, bfloat16. 'dtype' in \
                 model.json goes before it.",
                config.name(key),
                json::cut(name)
            ))),
        },
    }
}
