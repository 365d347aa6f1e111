//! A byte for each element: E4M3 and two's complement, with scales of the matrix, of rows, of
//! blocks or of groups. The bytes stay in the file until the device reads them.

use super::form::{rounding, Unpacked, BLOCK};
use super::layer::{LayerTensors, Sense};
use crate::device::{InputQuant, QuantForm, QuantPart, ScaleOver};
use crate::error::Result;
use crate::model::checkpoint::StoredType;
use crate::model::quant::{ByteCodes, Inputs};

/// What [`crate::model::quant::Format::Bytes`] says.
pub(super) struct ByteFormat {
    pub codes: ByteCodes,
    pub scale: &'static str,
    pub over: ScaleOver,
    pub inputs: Inputs,
}

/// `rows` x `cols` bytes and their scales.
pub(super) fn unpack<'a>(
    layer: &LayerTensors<'a>,
    format: &ByteFormat,
    form: QuantForm,
    rows: usize,
    cols: usize,
) -> Result<Unpacked<'a>> {
    let stored = match format.codes {
        ByteCodes::E4m3 => StoredType::F8E4M3,
        ByteCodes::Int8 => StoredType::I8,
    };
    let codes = layer.raw("weight", &[stored], &[&[rows, cols]])?.bytes;
    let scales = scales(layer, format, rows, cols)?;
    let inputs = inputs(layer, format)?;

    let part = QuantPart { rows, cols, codes, scales, offsets: Vec::new() };
    Ok(Unpacked { form: QuantForm { inputs, ..form }, part, order: Vec::new() })
}

/// The same of [`crate::model::quant::Format::Mxfp8`].
pub(super) fn unpack_mx<'a>(
    layer: &LayerTensors<'a>,
    form: QuantForm,
    rows: usize,
    cols: usize,
) -> Result<Unpacked<'a>> {
    let codes = layer.raw("weight", &[StoredType::F8E4M3], &[&[rows, cols]])?.bytes;
    let scales = layer.powers("weight_scale", &[rows, form.groups(cols)])?;
    let part = QuantPart { rows, cols, codes, scales, offsets: Vec::new() };
    Ok(Unpacked { form, part, order: Vec::new() })
}

/// `[rows, groups]`, whatever shares a scale in the checkpoint.
fn scales(layer: &LayerTensors, format: &ByteFormat, rows: usize, cols: usize) -> Result<Vec<f32>> {
    let read = |shapes: &[&[usize]]| layer.numbers(format.scale, shapes, Sense::NotNegative);
    match format.over {
        ScaleOver::Matrix => {
            let one = read(&[&[], &[1], &[1, 1]])?;
            Ok(vec![one.first().copied().unwrap_or(1.0); rows])
        }
        ScaleOver::Row => read(&[&[rows], &[rows, 1]]),
        ScaleOver::Block => {
            let down = rows.div_ceil(BLOCK);
            let across = cols.div_ceil(BLOCK);
            let blocks = read(&[&[down, across], &[down, 1, across, 1]])?;
            let line = |row: usize| &blocks[row / BLOCK * across..][..across];
            Ok((0..rows).flat_map(line).copied().collect())
        }
    }
}

/// How inputs are rounded, by the checkpoint's numbers where they are static.
fn inputs(layer: &LayerTensors, format: &ByteFormat) -> Result<Option<InputQuant>> {
    let step = || {
        // Checkpoints with `weight_scale_inv` may spell it so.
        let other = format.scale == "weight_scale_inv" && layer.has("activation_scale");
        layer.number(if other { "activation_scale" } else { "input_scale" })
    };
    Ok(match format.inputs {
        Inputs::E4m3Tensor | Inputs::Int8Tensor { symmetric: true } => {
            rounding(format.inputs, step()?, None)
        }
        Inputs::Int8Tensor { symmetric: false } => {
            let zero = layer.integer("input_zero_point", -128..=127)?;
            rounding(format.inputs, step()?, Some(zero as i8))
        }
        _ => rounding(format.inputs, 1.0, None),
    })
}
