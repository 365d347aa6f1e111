//! Fours of E2M1: NVFP4, and OCP's MXFP4 linear by linear or all experts in one tensor, as GPT-OSS
//! stores them.

use super::form::Unpacked;
use super::layer::{LayerTensors, Sense};
use crate::device::{Bytes, QuantForm, QuantPart};
use crate::error::Result;
use crate::model::checkpoint::StoredType;

const BYTES: [StoredType; 1] = [StoredType::U8];

/// `rows` x `cols` fours with a scale for each 16 and one for all.
pub(super) fn unpack_nvfp4<'a>(
    layer: &LayerTensors<'a>,
    modelopt: bool,
    form: QuantForm,
    rows: usize,
    cols: usize,
) -> Result<Unpacked<'a>> {
    let weight = if modelopt { "weight" } else { "weight_packed" };
    let codes = layer.raw(weight, &BYTES, &[&[rows, cols / 2]])?.bytes;
    let shape = [rows, form.groups(cols)];
    let mut scales = layer.numbers("weight_scale", &[&shape], Sense::NotNegative)?;
    if modelopt {
        let global = layer.number("weight_scale_2")?;
        scales.iter_mut().for_each(|scale| *scale *= global);
    } else {
        let global = layer.number("weight_global_scale")?;
        scales.iter_mut().for_each(|scale| *scale /= global);
    }
    let part = QuantPart { rows, cols, codes, scales, offsets: Vec::new() };
    Ok(Unpacked { form, part, order: Vec::new() })
}

/// `rows` x `cols` fours with a power of two for each 32.
pub(super) fn unpack_mxfp4<'a>(
    layer: &LayerTensors<'a>,
    form: QuantForm,
    rows: usize,
    cols: usize,
) -> Result<Unpacked<'a>> {
    let codes = layer.raw("weight_packed", &BYTES, &[&[rows, cols / 2]])?.bytes;
    let scales = layer.powers("weight_scale", &[rows, form.groups(cols)])?;
    let part = QuantPart { rows, cols, codes, scales, offsets: Vec::new() };
    Ok(Unpacked { form, part, order: Vec::new() })
}

/// `<name>_blocks` and `<name>_scales` of `count` experts; a gate's rows and an up's take turns
/// there.
pub(super) fn unpack_stack<'a>(
    layer: &LayerTensors<'a>,
    name: &str,
    form: QuantForm,
    count: usize,
    rows: usize,
    cols: usize,
    gated: bool,
) -> Result<Vec<Unpacked<'a>>> {
    let groups = form.groups(cols);
    let blocks = layer.raw(&format!("{name}_blocks"), &BYTES, &[&[count, rows, groups, 16]])?.bytes;
    let scales = layer.powers(&format!("{name}_scales"), &[count, rows, groups])?;

    let row_bytes = form.codes.row_bytes(cols);
    let each = |expert: usize| {
        let first = expert * rows;
        let codes = blocks.slice(first * row_bytes..(first + rows) * row_bytes);
        let scales = &scales[first * groups..(first + rows) * groups];
        let (codes, scales) = if gated {
            let codes = Bytes::Shared(gates_first(&codes.load()?, row_bytes).into());
            (codes, gates_first(scales, groups))
        } else {
            (codes, scales.to_vec())
        };
        let part = QuantPart { rows, cols, codes, scales, offsets: Vec::new() };
        Ok(Unpacked { form, part, order: Vec::new() })
    };
    (0..count).map(each).collect()
}

/// Rows 0, 2, 4, ... and then 1, 3, 5, ...
fn gates_first<T: Copy>(rows: &[T], width: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(rows.len());
    for first in [0, 1] {
        rows.chunks_exact(width.max(1)).skip(first).step_by(2).for_each(|row| out.extend(row));
    }
    out
}
