//! Codes that are made at upload: of plain weights, and any for dummy ones. `weight` packs them.
//! Scales and roundings are those of [`ScaleOver`]; it knows no layout.

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use super::fp8::{encode, E4M3};
use super::sources::{uniform, Values};
use crate::device::quant::INPUT_BLOCK;
use crate::device::{
    Bytes, CodeType, DType, QuantForm, QuantPart, ScaleOver, WeightDesc, WeightKind,
};
use crate::error::{Error, Result};
use crate::internal;

/// Largest number of E4M3.
const E4M3_MAX: f32 = 448.0;
/// Least step of a row.
const ROW_FLOOR: f32 = 1.0 / (448.0 * 512.0);
/// Least of the largest of a block.
const BLOCK_FLOOR: f32 = 1e-4;

/// A plain weight as codes.
///
/// # Errors
/// Internal: a form that such codes do not have. Parts that cannot be read; no memory.
pub(super) fn quantised(
    desc: &WeightDesc,
    form: &QuantForm,
    over: ScaleOver,
) -> Result<QuantPart<'static>> {
    let blocks_fit = over != ScaleOver::Block || INPUT_BLOCK.is_multiple_of(form.group);
    if form.codes != CodeType::E4m3 || form.offsets || form.group == 0 || !blocks_fit {
        return Err(internal!("{}: {over:?} gives no codes of {form:?}", desc.name));
    }
    let plain = Plain { values: Values::new(desc)?, dtype: desc.dtype, inputs: desc.inputs };
    let (outputs, inputs) = (desc.outputs, desc.inputs);
    let groups = form.groups(inputs);
    let matrix = match desc.kind {
        WeightKind::Experts { count, .. } => outputs / count.max(1),
        _ => outputs,
    };

    let mut codes = zeros::<u8>(outputs.saturating_mul(inputs))?;
    let mut scales = zeros::<f32>(outputs.saturating_mul(groups))?;
    let of_matrices = codes
        .chunks_mut((matrix * inputs).max(1))
        .zip(scales.chunks_mut((matrix * groups).max(1)))
        .enumerate();
    for (n, (codes, scales)) in of_matrices {
        let first = n * matrix;
        let whole = match over {
            ScaleOver::Matrix => Some(plain.largest(first..first + matrix)? / E4M3_MAX),
            ScaleOver::Row | ScaleOver::Block => None,
        };
        let of_blocks = codes
            .par_chunks_mut((INPUT_BLOCK * inputs).max(1))
            .zip(scales.par_chunks_mut((INPUT_BLOCK * groups).max(1)))
            .enumerate();
        of_blocks.try_for_each_init(Scratch::default, |scratch, (block, (codes, scales))| {
            let start = first + block * INPUT_BLOCK;
            let end = (first + matrix).min(start + INPUT_BLOCK);
            let values = plain.rows(start..end, scratch)?;
            let to = Made { form, inputs, codes, scales };
            match (over, whole) {
                (_, Some(scale)) => to.by_inverse(values, |_| scale),
                (ScaleOver::Row, _) => to.by_rows(values),
                _ => {
                    let largest = columns_largest(values, inputs);
                    to.by_inverse(values, |i| largest[i / INPUT_BLOCK].max(BLOCK_FLOOR) / E4M3_MAX);
                }
            }
            Ok::<(), Error>(())
        })?;
    }

    let codes = Bytes::Shared(codes.into());
    Ok(QuantPart { rows: outputs, cols: inputs, codes, scales, offsets: Vec::new() })
}

/// Any codes, and scales by which none is larger than `size`.
///
/// # Errors
/// No memory.
pub(super) fn dummy(
    desc: &WeightDesc,
    form: &QuantForm,
    seed: u64,
    size: f32,
) -> Result<QuantPart<'static>> {
    let finite = form.codes.numbers().into_iter().filter(|n| n.is_finite());
    let largest = finite.fold(0.0, |most: f32, n| most.max(n.abs()));
    let scale = if largest > 0.0 { size / largest } else { 0.0 };
    let scales_len = desc.outputs.saturating_mul(form.groups(desc.inputs));

    let mut codes = zeros::<u8>(desc.outputs.saturating_mul(form.codes.row_bytes(desc.inputs)))?;
    codes.par_iter_mut().enumerate().for_each(|(i, code)| {
        let any = (uniform(seed.wrapping_add(i as u64)) * 128.0) as i8;
        let no_number = form.codes == CodeType::E4m3 && any & 0x7f == 0x7f;
        *code = if no_number { 0 } else { any.cast_unsigned() };
    });
    let mut scales = zeros::<f32>(scales_len)?;
    scales.fill(scale);
    let offsets = if form.offsets { zeros(scales_len)? } else { Vec::new() };
    let codes = Bytes::Shared(codes.into());
    Ok(QuantPart { rows: desc.outputs, cols: desc.inputs, codes, scales, offsets })
}

fn zeros<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(len).map_err(|_| {
        let mib = (len as u128 * std::mem::size_of::<T>() as u128) >> 20;
        Error::Unavailable(format!("no memory for {mib} MiB: use a smaller model."))
    })?;
    all.resize(len, T::default());
    Ok(all)
}

/// Values as the device would hold them plain: the codes are made of those.
struct Plain<'a> {
    values: Values<'a>,
    dtype: DType,
    inputs: usize,
}

impl Plain<'_> {
    /// Of some outputs, row by row.
    fn rows<'s>(&self, outputs: Range<usize>, scratch: &'s mut Scratch) -> Result<&'s [f32]> {
        let Scratch { bytes, values } = scratch;
        let first = outputs.start;
        values.resize(outputs.len() * self.inputs, 0.0);
        self.values.rows(outputs, bytes, |o, i, x| {
            values[(o - first) * self.inputs + i] = match self.dtype {
                DType::F32 => x,
                DType::F16 => f16::from_f32(x).to_f32(),
                DType::BF16 => bf16::from_f32(x).to_f32(),
            };
        })?;
        Ok(values)
    }

    /// The largest size of some outputs' values.
    fn largest(&self, outputs: Range<usize>) -> Result<f32> {
        let starts: Vec<usize> = outputs.clone().step_by(INPUT_BLOCK).collect();
        let of_blocks = starts.into_par_iter().map_init(Scratch::default, |scratch, start| {
            Ok(largest(self.rows(start..outputs.end.min(start + INPUT_BLOCK), scratch)?))
        });
        of_blocks.try_reduce(|| 0.0, |a, b| Ok(a.max(b)))
    }
}

#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    values: Vec<f32>,
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most: f32, x| most.max(x.abs()))
}

/// Of each [`INPUT_BLOCK`] columns of some rows.
fn columns_largest(values: &[f32], inputs: usize) -> Vec<f32> {
    let mut all = vec![0f32; inputs.div_ceil(INPUT_BLOCK)];
    for row in values.chunks_exact(inputs.max(1)) {
        for (most, columns) in all.iter_mut().zip(row.chunks(INPUT_BLOCK)) {
            *most = most.max(largest(columns));
        }
    }
    all
}

/// Codes and scales of some outputs.
struct Made<'a> {
    form: &'a QuantForm,
    inputs: usize,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl Made<'_> {
    /// By multiplication with the inverse of the scale of an input.
    fn by_inverse(self, values: &[f32], scale: impl Fn(usize) -> f32) {
        let Made { form, inputs, codes, scales } = self;
        let rows = values.chunks_exact(inputs.max(1)).zip(codes.chunks_exact_mut(inputs.max(1)));
        for ((row, codes), scales) in rows.zip(scales.chunks_exact_mut(form.groups(inputs).max(1)))
        {
            let groups = row.chunks(form.group).zip(codes.chunks_mut(form.group)).zip(scales);
            for (group, ((row, codes), to)) in groups.enumerate() {
                *to = scale(group * form.group);
                // All of them are 0 then.
                let inverse = if *to == 0.0 { 0.0 } else { 1.0 / *to };
                codes.iter_mut().zip(row).for_each(|(code, x)| *code = encode::<E4M3>(x * inverse));
            }
        }
    }

    /// By division by the scale of the row.
    fn by_rows(self, values: &[f32]) {
        let Made { form, inputs, codes, scales } = self;
        let rows = values.chunks_exact(inputs.max(1)).zip(codes.chunks_exact_mut(inputs.max(1)));
        for ((row, codes), scales) in rows.zip(scales.chunks_exact_mut(form.groups(inputs).max(1)))
        {
            let scale = (largest(row) / E4M3_MAX).max(ROW_FLOOR);
            scales.fill(scale);
            codes.iter_mut().zip(row).for_each(|(code, &x)| *code = encode::<E4M3>(x / scale));
        }
    }
}
