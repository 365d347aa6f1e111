//! Integers of a few bits in words: compressed-tensors' `pack-quantized`, AWQ's and GPTQ's tensors,
//! their scales, zeros and orders of inputs.

use super::form::Unpacked;
use super::layer::{read, LayerTensors, Sense};
use super::words::{words_of, Lie, Packed};
use crate::device::{Bytes, QuantForm, QuantPart};
use crate::error::Result;
use crate::invalid;
use crate::model::checkpoint::{RawTensor, StoredType};
use crate::model::quant::Packing;

/// What [`crate::model::quant::Format::Packed`] says.
pub(super) struct PackedFormat {
    pub packing: Packing,
    /// 2 to 8.
    pub bits: usize,
    pub symmetric: bool,
    pub ordered: bool,
}

const WORDS: [StoredType; 1] = [StoredType::I32];

/// `rows` x `cols` integers with their scales and, if there are any, zeros.
pub(super) fn unpack<'a>(
    layer: &LayerTensors<'a>,
    format: &PackedFormat,
    form: QuantForm,
    rows: usize,
    cols: usize,
) -> Result<Unpacked<'a>> {
    let weight = Matrix { layer, format, rows, cols, groups: form.groups(cols) };
    match format.packing {
        Packing::CompressedTensors => weight.compressed(form),
        Packing::Awq => weight.awq(form),
        Packing::Gptq => weight.gptq(form, 1),
        Packing::GptqV2 => weight.gptq(form, 0),
    }
}

/// The order of a part's inputs: as in `Source::Codes`.
pub(super) fn order(
    layer: &LayerTensors,
    format: &PackedFormat,
    form: &QuantForm,
    cols: usize,
) -> Result<Vec<u32>> {
    Matrix { layer, format, rows: 0, cols, groups: form.groups(cols) }.order()
}

struct Matrix<'a, 'l> {
    layer: &'l LayerTensors<'a>,
    format: &'l PackedFormat,
    rows: usize,
    cols: usize,
    groups: usize,
}

impl<'a> Matrix<'a, '_> {
    fn compressed(&self, form: QuantForm) -> Result<Unpacked<'a>> {
        let (rows, cols, groups) = (self.rows, self.cols, self.groups);
        let bits = self.format.bits;
        if self.layer.has("weight_shape") {
            let types = [StoredType::I64, StoredType::I32];
            let raw = self.layer.raw("weight_shape", &types, &[&[2]])?;
            let says = raw.integers()?;
            if says != [rows as i64, cols as i64] {
                return Err(raw.wrong(format!("is {says:?}, expected [{rows}, {cols}]")));
            }
        }

        // Older versions fill words with whole fields; the width tells.
        let dense = words_of(cols, bits, false);
        let loose = words_of(cols, bits, true);
        let shapes: [&[usize]; 2] = [&[rows, dense], &[rows, loose]];
        let shapes = if dense == loose { &shapes[..1] } else { &shapes };
        let raw = self.layer.raw("weight_packed", &WORDS, shapes)?;
        let is_loose = raw.shape != [rows, dense];

        let shapes: [&[usize]; 2] = [&[rows, groups], &[rows]];
        let shapes = if groups == 1 { &shapes[..] } else { &shapes[..1] };
        let scales = self.layer.numbers("weight_scale", shapes, Sense::Finite)?;
        let offsets = if self.format.symmetric {
            Vec::new()
        } else {
            let zeros = self.compressed_zeros()?;
            self.offsets(&scales, |row, group| i32::from(zeros[group * rows + row]))
        };
        let order = self.order()?;

        // Rows of whole words of fours are codes as they lie in the file.
        let as_stored = bits == 4 && order.is_empty() && cols.is_multiple_of(8);
        let codes =
            if as_stored { raw.bytes } else { self.codes(&raw, Lie::Along, is_loose, &order)? };
        Ok(self.unpacked(form, codes, scales, offsets, order))
    }

    /// `[groups, rows]`. They are packed along the outputs.
    fn compressed_zeros(&self) -> Result<Vec<u8>> {
        let (rows, cols, bits) = (self.groups, self.rows, self.format.bits);
        let dense = words_of(cols, bits, false);
        let loose = words_of(cols, bits, true);
        let shapes: [&[usize]; 2] = [&[dense, rows], &[loose, rows]];
        let shapes = if dense == loose { &shapes[..1] } else { &shapes };
        let raw = self.layer.raw("weight_zero_point", &WORDS, shapes)?;
        let loose = raw.shape != [dense, rows];
        let bytes = raw.bytes.load()?;
        Packed { bytes: &bytes, lie: Lie::Across, bits, loose, rows, cols }.fields()
    }

    fn awq(&self, form: QuantForm) -> Result<Unpacked<'a>> {
        let (rows, cols, groups) = (self.rows, self.cols, self.groups);
        if !rows.is_multiple_of(8) || self.format.bits != 4 {
            let bits = self.format.bits;
            return Err(invalid!(
                "{}: {rows} outputs of {bits} bits are no whole number of words of eight outputs \
                 of 4 bits, as AWQ packs them.",
                self.layer.name
            ));
        }
        let raw = self.layer.raw("qweight", &WORDS, &[&[cols, rows / 8]])?;
        let codes = self.codes(&raw, Lie::Awq, false, &[])?;

        let scales = self.turned_scales()?;
        let offsets = if self.format.symmetric {
            Vec::new()
        } else {
            let raw = self.layer.raw("qzeros", &WORDS, &[&[groups, rows / 8]])?;
            let bytes = raw.bytes.load()?;
            let (lie, bits, loose, cols) = (Lie::Awq, 4, false, groups);
            let zeros = Packed { bytes: &bytes, lie, bits, loose, rows, cols }.fields()?;
            self.offsets(&scales, |row, group| i32::from(zeros[row * groups + group]))
        };
        Ok(self.unpacked(form, codes, scales, offsets, Vec::new()))
    }

    /// Zeros are those that are stored and `more`.
    fn gptq(&self, form: QuantForm, more: i32) -> Result<Unpacked<'a>> {
        let (rows, cols, groups) = (self.rows, self.cols, self.groups);
        let bits = self.format.bits;
        let raw = self.layer.raw("qweight", &WORDS, &[&[words_of(cols, bits, false), rows]])?;
        let order = self.order()?;
        let codes = self.codes(&raw, Lie::Across, false, &order)?;

        let scales = self.turned_scales()?;
        let offsets = if self.format.symmetric {
            Vec::new()
        } else {
            let words = words_of(rows, bits, false);
            let raw = self.layer.raw("qzeros", &WORDS, &[&[groups, words]])?;
            let bytes = raw.bytes.load()?;
            let (lie, loose) = (Lie::Along, false);
            let zeros = Packed { bytes: &bytes, lie, bits, loose, rows: groups, cols: rows };
            let zeros = zeros.fields()?;
            let mask = (1 << bits) - 1;
            let zero = |row, group| (i32::from(zeros[group * rows + row]) + more) & mask;
            self.offsets(&scales, zero)
        };
        Ok(self.unpacked(form, codes, scales, offsets, order))
    }

    /// `scales`, stored `[groups, rows]`, as `[rows, groups]`.
    fn turned_scales(&self) -> Result<Vec<f32>> {
        let (rows, groups) = (self.rows, self.groups);
        let stored = self.layer.numbers("scales", &[&[groups, rows]], Sense::Finite)?;
        let turned = (0..rows).flat_map(|row| (0..groups).map(move |group| (row, group)));
        Ok(turned.map(|(row, group)| stored[group * rows + row]).collect())
    }

    /// What zeros add to a group's values: they are (field - zero) * scale, codes are the field
    /// less half of its range.
    fn offsets(&self, scales: &[f32], zero: impl Fn(usize, usize) -> i32) -> Vec<f32> {
        let half = 1 << (self.format.bits - 1);
        let groups = self.groups;
        let offset =
            |(at, scale): (usize, &f32)| (half - zero(at / groups, at % groups)) as f32 * scale;
        scales.iter().enumerate().map(offset).collect()
    }

    /// Inputs by their group, of each group in their own order; none if that is how they lie. Where
    /// they lie otherwise the tensor says so, whatever the configuration says.
    fn order(&self) -> Result<Vec<u32>> {
        let name = match self.format.packing {
            Packing::CompressedTensors => "weight_g_idx",
            Packing::Gptq | Packing::GptqV2 => "g_idx",
            Packing::Awq => return Ok(Vec::new()),
        };
        if !self.format.ordered && !self.layer.has(name) {
            return Ok(Vec::new());
        }
        let raw = self.layer.raw(name, &WORDS, &[&[self.cols]])?;
        let of = raw.integers()?;
        // What compressed-tensors has where nothing was ordered.
        if self.format.packing == Packing::CompressedTensors && of.contains(&-1) {
            return Ok(Vec::new());
        }

        let group = self.cols / self.groups.max(1);
        let mut members = vec![0usize; self.groups];
        for (k, &g) in of.iter().enumerate() {
            let Some(count) = usize::try_from(g).ok().and_then(|g| members.get_mut(g)) else {
                let groups = self.groups;
                return Err(raw.wrong(format!(
                    "puts input {k} into group {g} of {groups} (group_size {group})"
                )));
            };
            *count += 1;
        }
        if let Some(g) = members.iter().position(|&count| count != group) {
            let count = members[g];
            return Err(
                raw.wrong(format!("gives group {g} {count} inputs, expected group_size {group}"))
            );
        }
        if of.is_sorted() {
            return Ok(Vec::new());
        }
        let mut order: Vec<u32> = (0..self.cols as u32).collect();
        order.sort_by_key(|&k| of[k as usize]);
        Ok(order)
    }

    fn codes(&self, raw: &RawTensor, lie: Lie, loose: bool, order: &[u32]) -> Result<Bytes<'a>> {
        let bytes = read(&raw.bytes)?;
        let (bits, rows, cols) = (self.format.bits, self.rows, self.cols);
        let packed = Packed { bytes: &bytes, lie, bits, loose, rows, cols };
        Ok(Bytes::Shared(packed.codes(order)?.into()))
    }

    fn unpacked(
        &self,
        form: QuantForm,
        codes: Bytes<'a>,
        scales: Vec<f32>,
        offsets: Vec<f32>,
        order: Vec<u32>,
    ) -> Unpacked<'a> {
        let part = QuantPart { rows: self.rows, cols: self.cols, codes, scales, offsets };
        Unpacked { form, part, order }
    }
}
