//! The values of a weight on its way to the device, output by output, whatever source and types
//! they come from. `weight` packs them as they are, `online` makes codes of them. It knows no
//! layout.

use std::borrow::Cow;
use std::ops::Range;

use super::numbers::{bf16_to_f32, f16_to_f32};
use crate::device::{Bytes, DType, HostTensor, Source, WeightDesc};
use crate::error::Result;
use crate::{internal, invalid};

/// Any [`Source`] by rows of outputs.
pub(super) struct Values<'a> {
    desc: &'a WeightDesc<'a>,
    /// First output of each part, then the number of all.
    starts: Vec<usize>,
    /// Parts that are stored `[inputs, outputs]`, whole: a row of outputs is a column there.
    turned: Vec<Cow<'a, [u8]>>,
}

impl<'a> Values<'a> {
    /// # Errors
    /// Parts that do not add up to `outputs` x `inputs`, or cannot be read.
    pub(super) fn new(desc: &'a WeightDesc<'a>) -> Result<Values<'a>> {
        let mut starts = Vec::new();
        let mut turned = Vec::new();
        if let Source::Parts(parts) | Source::Quantise { parts, .. } = &desc.source {
            let mut total = 0;
            for part in parts {
                starts.push(total);
                total += desc.part_outputs(part)?;
                if desc.transposed {
                    turned.push(part.bytes.load()?);
                }
            }
            starts.push(total);
            if total != desc.outputs {
                return Err(invalid!(
                    "{}: parts have {total} outputs, expected {}.",
                    desc.name,
                    desc.outputs
                ));
            }
        }
        Ok(Values { desc, starts, turned })
    }

    /// Hand each (output, input, value) of some outputs to `take`.
    pub(super) fn rows(
        &self,
        outputs: Range<usize>,
        scratch: &mut Vec<u8>,
        mut take: impl FnMut(usize, usize, f32),
    ) -> Result<()> {
        let inputs = self.desc.inputs;
        let parts = match &self.desc.source {
            Source::Parts(parts) | Source::Quantise { parts, .. } => parts,
            Source::Dummy { seed, scale } => {
                for (o, i) in outputs.flat_map(|o| (0..inputs).map(move |i| (o, i))) {
                    take(o, i, uniform(seed.wrapping_add((o * inputs + i) as u64)) * scale);
                }
                return Ok(());
            }
            Source::Codes { .. } => {
                return Err(internal!("{}: codes without their form", self.desc.name));
            }
            Source::Constant(x) => {
                outputs.for_each(|o| (0..inputs).for_each(|i| take(o, i, *x)));
                return Ok(());
            }
        };

        for (n, part) in parts.iter().enumerate() {
            let (start, end) = (self.starts[n], self.starts[n + 1]);
            let of_part = outputs.start.max(start)..outputs.end.min(end);
            if of_part.is_empty() {
                continue;
            }

            let rows = of_part.start - start..of_part.end - start;
            let first = of_part.start;
            match self.turned.get(n) {
                Some(bytes) => columns(part, bytes, rows, |r, i, x| take(first + r, i, x)),
                None => lines(part, rows, scratch, |r, i, x| take(first + r, i, x))?,
            }
        }
        Ok(())
    }
}

/// Rows of a part as they are stored; they count from 0 for `take`.
fn lines(
    part: &HostTensor,
    rows: Range<usize>,
    scratch: &mut Vec<u8>,
    mut take: impl FnMut(usize, usize, f32),
) -> Result<()> {
    let row_bytes = part.cols * part.dtype.bytes();
    let bytes = match part.bytes.slice(rows.start * row_bytes..rows.end * row_bytes) {
        Bytes::InMemory(bytes) => bytes,
        stored => {
            scratch.resize(stored.len(), 0);
            stored.read(0, scratch)?;
            &scratch[..]
        }
    };
    for (r, row) in bytes.chunks_exact(row_bytes.max(1)).enumerate() {
        elements(part.dtype, row, |i, x| take(r, i, x));
    }
    Ok(())
}

/// The same of rows that are stored as columns.
fn columns(
    part: &HostTensor,
    bytes: &[u8],
    rows: Range<usize>,
    mut take: impl FnMut(usize, usize, f32),
) {
    let size = part.dtype.bytes();
    for (input, row) in bytes.chunks_exact((part.cols * size).max(1)).enumerate() {
        elements(part.dtype, &row[rows.start * size..rows.end * size], |r, x| take(r, input, x));
    }
}

/// Stored elements in f32.
#[inline]
fn elements(dtype: DType, bytes: &[u8], mut take: impl FnMut(usize, f32)) {
    let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).enumerate();
    match dtype {
        DType::F32 => {
            let words = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            words.enumerate().for_each(|(i, x)| take(i, x));
        }
        DType::F16 => halves().for_each(|(i, h)| take(i, f16_to_f32(h))),
        DType::BF16 => halves().for_each(|(i, h)| take(i, bf16_to_f32(h))),
    }
}

/// Uniform in [-1, 1) from the top 24 bits of a mixed counter (the finaliser of SplitMix64).
pub(super) fn uniform(counter: u64) -> f32 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}
