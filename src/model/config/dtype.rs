//! The element type that a model computes in: the user's, else the checkpoint's if the device has
//! it, else the device's first choice. Called by `config` alone.

use super::keys::parse_dtype;
use super::spec::SpecOptions;
use crate::device::DType;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};
use crate::model::architectures::Family;
use crate::model::quant::QuantScheme;

/// `auto` keeps 16-bit types; float32 becomes the device's first choice (float32 on CPU, bfloat16
/// on GPUs; float16 where a model embeds), as does a type that the device or the family lacks. A
/// quantised checkpoint whose config.json says nothing is taken for bfloat16: its tensors say what
/// scales are in, not what it computes in.
///
/// # Errors
/// The user's type is none, or not for this device, model or method of quantisation; config.json's
/// is none that is read.
pub fn choose(
    config: &Object,
    family: &Family,
    quant: Option<&QuantScheme>,
    pools: bool,
    options: &SpecOptions,
) -> Result<DType> {
    if !matches!(options.dtype, "" | "auto") {
        return named(config, family, quant, options);
    }

    let of_family = |d: &DType| !(family.no_float16 && *d == DType::F16);
    let of_method = |d: &DType| quant.is_none_or(|quant| quant.dtypes.contains(d));
    let fits = |d: &DType| options.supported.contains(d) && of_family(d) && of_method(d);
    let unsaid = match quant {
        Some(quant) if !quant.online => Some(DType::BF16),
        _ => options.stored_dtype,
    };
    let stored = stated_dtype(config)?.or(unsaid);
    Ok(match stored {
        Some(d @ (DType::F16 | DType::BF16)) if fits(&d) => d,
        _ if pools && fits(&DType::F16) => DType::F16,
        _ => options.supported.iter().copied().find(fits).unwrap_or(DType::F32),
    })
}

/// The type that the user names.
fn named(
    config: &Object,
    family: &Family,
    quant: Option<&QuantScheme>,
    options: &SpecOptions,
) -> Result<DType> {
    let Some(dtype) = parse_dtype(options.dtype) else {
        return Err(invalid!(
            "dtype must be one of auto, half, float16, bfloat16, float, float32, got '{}'.",
            options.dtype
        ));
    };

    if family.no_float16 && dtype == DType::F16 {
        return Err(invalid!(
            "The model type '{}' does not support float16. Reason: Numerical instability. Please \
             use bfloat16 or float32 instead.",
            config.text("model_type")?.map_or(family.architecture.into(), json::cut)
        ));
    }

    if let Some(quant) = quant.filter(|quant| !quant.dtypes.contains(&dtype)) {
        let supported: Vec<&str> = quant.dtypes.iter().copied().map(torch_name).collect();
        return Err(invalid!(
            "{} is not supported for quantization method {}. Supported dtypes: [{}]",
            torch_name(dtype),
            quant.method,
            supported.join(", ")
        ));
    }
    if !options.supported.is_empty() && !options.supported.contains(&dtype) {
        return Err(invalid!("dtype '{}' is not supported by the device.", options.dtype));
    }
    Ok(dtype)
}

/// As messages of the Python backend call a type.
fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "torch.float32",
        DType::F16 => "torch.float16",
        DType::BF16 => "torch.bfloat16",
    }
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
