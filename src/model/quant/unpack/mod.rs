//! Tensors of a quantised weight -> the one form that devices take. Called by `load` with the
//! format that a scheme says and the names of the weight's parts; each format's own tensors are
//! known to the files beside this one.
//!
//! | file | holds |
//! |---|---|
//! | `form` | what a format becomes, before a tensor is read |
//! | `layer` | tensors by name, with the checks that all formats share |
//! | `byte_codes` | a byte for each element |
//! | `packed` | integers of a few bits: compressed-tensors, AWQ, GPTQ |
//! | `words` | the same as functions of words |
//! | `fours` | fours of E2M1 |
//! | `nf4` | bitsandbytes' four bits |

mod byte_codes;
mod form;
mod fours;
mod layer;
mod nf4;
mod packed;
mod words;

use super::{Format, Packing};
use crate::device::{unpacked, InputQuant, QuantForm, Source};
use crate::error::{Error, Result};
use crate::internal;
use crate::model::checkpoint::Checkpoint;
use byte_codes::ByteFormat;
use form::Unpacked;
use layer::LayerTensors;
pub use layer::{read, zeroed};
use packed::PackedFormat;

/// A weight's values, and the form in which the device holds them; none: plain.
pub struct Values<'a> {
    /// Of `source`, if it is codes or becomes some.
    pub form: Option<QuantForm>,
    /// Where they come from.
    pub source: Source<'a>,
}

/// What is asked for: parts that are stacked along the outputs.
pub struct Wanted<'n> {
    /// Of the parts, without `.weight`.
    pub names: &'n [String],
    /// Of each part.
    pub outputs: &'n [usize],
    /// Of all of them.
    pub inputs: usize,
}

impl<'a> Values<'a> {
    /// Values that are held as they are.
    pub fn plain(source: Source<'a>) -> Values<'a> {
        Values { form: None, source }
    }
}

impl Wanted<'_> {
    fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// Parts of a format that is stored as codes. Parts that do not go together (other orders of their
/// inputs, other tables) are unpacked, with a line in the log.
///
/// # Errors
/// A tensor that is missing or has another type or shape, or numbers that are none (one line that
/// names file and tensor, and what the configuration says); groups that do not divide the inputs.
pub fn linear<'a>(
    checkpoint: &'a Checkpoint,
    format: &Format,
    wanted: &Wanted,
) -> Result<Values<'a>> {
    let form = form_of(format, wanted)?;
    let part = |(name, &rows): (&String, &usize)| {
        let layer = LayerTensors { checkpoint, name: name.clone() };
        part(&layer, format, form, rows, wanted.inputs).map_err(|e| by_config(e, format))
    };
    let parts = wanted.names.iter().zip(wanted.outputs).map(part).collect::<Result<_>>()?;
    joined(wanted.name(), parts)
}

/// All experts' matrices in one tensor, [`Format::Mxfp4Stack`]. `wanted` has its name and what one
/// expert has, gates and ups together if `gated`.
///
/// # Errors
/// As `linear`.
pub fn stack<'a>(
    checkpoint: &'a Checkpoint,
    format: &Format,
    wanted: &Wanted,
    count: usize,
    gated: bool,
) -> Result<Values<'a>> {
    let form = form_of(format, wanted)?;
    let name = wanted.name();
    let outputs = wanted.outputs.iter().sum();
    let (module, own) = name.rsplit_once('.').unwrap_or(("", name));
    let layer = LayerTensors { checkpoint, name: module.to_string() };
    let parts = fours::unpack_stack(&layer, own, form, count, outputs, wanted.inputs, gated);
    joined(name, parts.map_err(|e| by_config(e, format))?)
}

/// The form in which `linear`'s weight is held, by names and orders of inputs alone; none: plain.
///
/// # Errors
/// As `linear`, of groups and orders.
pub fn form_held(
    checkpoint: &Checkpoint,
    format: &Format,
    wanted: &Wanted,
) -> Result<Option<QuantForm>> {
    let form = form_of(format, wanted)?;
    let orders = orders(checkpoint, format, wanted)?;
    let alike = orders.iter().all(|order| *order == orders[0]);
    Ok(alike.then_some(form))
}

/// Whether `linear`'s codes lie in another order than the inputs.
///
/// # Errors
/// As `form_held`.
pub fn is_ordered(checkpoint: &Checkpoint, format: &Format, wanted: &Wanted) -> Result<bool> {
    Ok(orders(checkpoint, format, wanted)?.iter().any(|order| !order.is_empty()))
}

/// Of each part the order of its inputs, as in `Source::Codes`; none where there cannot be one.
fn orders(checkpoint: &Checkpoint, format: &Format, wanted: &Wanted) -> Result<Vec<Vec<u32>>> {
    let form = form_of(format, wanted)?;
    let Format::Packed { packing, bits, symmetric, ordered, .. } = *format else {
        return Ok(Vec::new());
    };
    let format = PackedFormat { packing, bits: bits as usize, symmetric, ordered };
    let order = |name: &String| {
        let layer = LayerTensors { checkpoint, name: name.clone() };
        packed::order(&layer, &format, &form, wanted.inputs)
    };
    wanted.names.iter().map(order).collect()
}

/// The same values, unpacked if they are codes: for weights that are held plain always.
///
/// # Errors
/// The codes cannot be read.
pub fn plain(values: Values<'_>) -> Result<Values<'_>> {
    match (values.form, values.source) {
        (Some(form), Source::Codes { parts, order }) => {
            let plain = parts.iter().map(|part| unpacked(&form, part, &order));
            Ok(Values::plain(Source::Parts(plain.collect::<Result<_>>()?)))
        }
        (_, Source::Quantise { parts, .. }) => Ok(Values::plain(Source::Parts(parts))),
        (_, source) => Ok(Values::plain(source)),
    }
}

/// The form that a format's weight has, by its shape alone.
///
/// # Errors
/// InvalidArgument: the inputs are no whole number of groups.
pub fn form_of(format: &Format, wanted: &Wanted) -> Result<QuantForm> {
    form::form_of(format, wanted.inputs)
        .map_err(|e| by_config(e.context(&format!("{}: ", wanted.name())), format))
}

/// One part, by its format.
fn part<'a>(
    layer: &LayerTensors<'a>,
    format: &Format,
    form: QuantForm,
    rows: usize,
    cols: usize,
) -> Result<Unpacked<'a>> {
    match *format {
        Format::Bytes { codes, scale, over, inputs } => {
            byte_codes::unpack(layer, &ByteFormat { codes, scale, over, inputs }, form, rows, cols)
        }
        Format::Mxfp8 => byte_codes::unpack_mx(layer, form, rows, cols),
        Format::Packed { packing, bits, group: _, symmetric, ordered } => {
            let bits = bits as usize;
            let format = PackedFormat { packing, bits, symmetric, ordered };
            packed::unpack(layer, &format, form, rows, cols)
        }
        Format::Nvfp4 { modelopt } => fours::unpack_nvfp4(layer, modelopt, form, rows, cols),
        Format::Mxfp4 => fours::unpack_mxfp4(layer, form, rows, cols),
        Format::Nf4 => nf4::unpack(layer, form, rows, cols),
        Format::Mxfp4Stack | Format::Online { .. } => {
            Err(internal!("{}: {format:?} is not stored part by part", layer.name))
        }
    }
}

/// Parts of one form as codes, else their values.
fn joined<'a>(name: &str, parts: Vec<Unpacked<'a>>) -> Result<Values<'a>> {
    let Some(first) = parts.first() else { return Err(internal!("{name}: no parts")) };
    let form = QuantForm { inputs: joined_inputs(&parts), ..first.form };
    let alike = |part: &Unpacked| {
        let form = QuantForm { inputs: first.form.inputs, ..part.form };
        form == first.form && part.order == first.order
    };
    if parts.iter().all(alike) {
        let order = first.order.clone();
        let parts = parts.into_iter().map(|part| part.part).collect();
        return Ok(Values { form: Some(form), source: Source::Codes { parts, order } });
    }

    let elements: usize = parts.iter().map(|part| part.part.rows * part.part.cols).sum();
    tracing::warn!(
        "{name}: its parts differ in the order of inputs or the table of codes, so it is unpacked: \
         {:.1} MiB in 16 bits instead of {:.1} MiB of codes",
        mib(2 * elements),
        mib(elements * first.form.codes.bits() / 8)
    );
    let plain = parts.iter().map(|part| unpacked(&part.form, &part.part, &part.order));
    Ok(Values { form: None, source: Source::Parts(plain.collect::<Result<_>>()?) })
}

/// How all parts round their inputs, which are the same: static steps by the largest range.
fn joined_inputs(parts: &[Unpacked]) -> Option<InputQuant> {
    let mut all = parts.iter().filter_map(|part| part.form.inputs);
    let first = all.next()?;
    Some(all.fold(first, |a, b| match (a, b) {
        (InputQuant::E4m3Tensor { step: a }, InputQuant::E4m3Tensor { step: b }) => {
            InputQuant::E4m3Tensor { step: a.max(b) }
        }
        (
            InputQuant::Int8Tensor { step: a, zero: None },
            InputQuant::Int8Tensor { step: b, zero: None },
        ) => InputQuant::Int8Tensor { step: a.max(b), zero: None },
        (
            InputQuant::Int8Tensor { step: a, zero: Some(za) },
            InputQuant::Int8Tensor { step: b, zero: Some(zb) },
        ) if (a, za) != (b, zb) => {
            let least = (a * (-128.0 - f32::from(za))).min(b * (-128.0 - f32::from(zb)));
            let largest = (a * (127.0 - f32::from(za))).max(b * (127.0 - f32::from(zb)));
            let step = (largest - least) / 255.0;
            let zero = (-128.0 - least / step).round_ties_even().clamp(-128.0, 127.0) as i8;
            InputQuant::Int8Tensor { step, zero: Some(zero) }
        }
        _ => a,
    }))
}

/// An error of a tensor, with what the configuration says of it.
fn by_config(error: Error, format: &Format) -> Error {
    match error {
        Error::InvalidArgument(_) | Error::NotFound(_) => {
            error.with_end(&format!(" (quantization_config: {})", says(format)))
        }
        other => other,
    }
}

fn says(format: &Format) -> String {
    match format {
        Format::Bytes { codes, over, inputs, .. } => {
            format!("bytes of {codes:?}, a scale for each {over:?}, inputs {inputs:?}")
        }
        Format::Packed { packing, bits, group, symmetric, .. } => {
            let packing = match packing {
                Packing::CompressedTensors => "pack-quantized",
                Packing::Awq => "awq",
                Packing::Gptq => "gptq",
                Packing::GptqV2 => "gptq_v2",
            };
            let group = group.map_or("none".to_string(), |group| group.to_string());
            format!("{packing}, bits {bits}, group_size {group}, symmetric {symmetric}")
        }
        Format::Nvfp4 { .. } => "nvfp4, group_size 16".to_string(),
        Format::Mxfp4 | Format::Mxfp4Stack => "mxfp4, group_size 32".to_string(),
        Format::Mxfp8 => "mxfp8, group_size 32".to_string(),
        Format::Nf4 => "bitsandbytes, nf4".to_string(),
        Format::Online { over, .. } => format!("fp8 as it is loaded, a scale for each {over:?}"),
    }
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1u64 << 20) as f64
}

#[cfg(test)]
mod tests;
