//! Quantised weights as every device gets them, in one form whatever format they came in: codes of
//! four or eight bits, a scale for each group of a row's codes, an offset for each where the format
//! has zeros or minima, the order of the inputs where it is not the usual one, and how the product
//! rounds what it multiplies them with. `model` brings every format into this form, devices hold it
//! as suits them. It knows no format's name and no tensor's.
//!
//! value(n, k) = `scale(n, k / group)` * `decode(code(n, k))` + `offset(n, k / group)`

use std::ops::Range;

use super::bytes::Bytes;
use crate::error::Result;

/// How a code becomes a number. Codes of four bits lie two to a byte, the earlier in the low half.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CodeType {
    /// Eight bits: sign, four of exponent (bias 7), three of fraction; no infinities, 0x7f and 0xff
    /// are no numbers (OCP's E4M3). At most 448.
    E4m3,
    /// Eight bits, two's complement.
    Int8,
    /// Four bits: the code less 8.
    Int4,
    /// Four bits: sign, two of exponent, one of fraction: 0, 0.5, 1, 1.5, 2, 3, 4, 6 (OCP's E2M1).
    E2m1,
    /// Four bits: an entry of this table.
    Table([f32; 16]),
}

/// Values of [`CodeType::E2m1`] without sign.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

impl CodeType {
    /// Bits of a code: 4 or 8.
    pub fn bits(self) -> usize {
        match self {
            CodeType::E4m3 | CodeType::Int8 => 8,
            CodeType::Int4 | CodeType::E2m1 | CodeType::Table(_) => 4,
        }
    }

    /// Bytes of a row of so many codes; with four bits an odd last code has a byte of its own.
    pub fn row_bytes(self, codes: usize) -> usize {
        (codes * self.bits()).div_ceil(8)
    }

    /// The number that a code stands for; of four bits only the low half of `code` counts.
    pub fn decode(self, code: u8) -> f32 {
        let low = usize::from(code & 15);
        match self {
            CodeType::E4m3 => e4m3_to_f32(code),
            CodeType::Int8 => f32::from(code.cast_signed()),
            CodeType::Int4 => low as f32 - 8.0,
            CodeType::E2m1 if low < 8 => E2M1[low],
            CodeType::E2m1 => -E2M1[low - 8],
            CodeType::Table(table) => table[low],
        }
    }

    /// All numbers by code; of four bits the first 16 count.
    pub fn numbers(self) -> [f32; 256] {
        std::array::from_fn(|code| self.decode(code as u8))
    }
}

/// A number of OCP's E4M3.
pub fn e4m3_to_f32(code: u8) -> f32 {
    let exponent = i32::from(code >> 3 & 15);
    let fraction = f32::from(code & 7);
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction * (-9f32).exp2(),
        _ => (1.0 + fraction / 8.0) * ((exponent - 7) as f32).exp2(),
    };
    if code & 0x80 == 0 {
        size
    } else {
        -size
    }
}

/// How a product rounds its inputs, row by row of activations, before it multiplies: codes times a
/// step. In f32, from the model's element type; casts go to the nearest, ties to even, and
/// saturate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum InputQuant {
    /// E4M3 with one step for all rows: code = cast(clamp(x * (1 / step), ±448)).
    E4m3Tensor {
        /// The step.
        step: f32,
    },
    /// E4M3 with a step for each row: max(largest |x| / 448, 1 / (448 * 512)); code = cast(x /
    /// step).
    E4m3Row,
    /// E4M3 with a step for each 128 inputs of a row: max(largest |x|, 1e-10) / 448; code = cast(x
    /// / step).
    E4m3Block,
    /// Bytes with one step: code = round(x / step); with a zero, round(x * (1 / step)) + zero, and
    /// x is (code - zero) * step.
    Int8Tensor {
        /// The step.
        step: f32,
        /// Of asymmetric ones.
        zero: Option<i8>,
    },
    /// Bytes with a step for each row, largest |x| / 127: code = round(x * (127 / largest)).
    Int8Row,
    /// Bytes with a step for each row, (largest - least) / 255, and a zero, round(-128 - least /
    /// step): code = round(x * (1 / step)) + zero. Equal inputs stay what they are.
    Int8RowWithZero,
}

/// Inputs that share a step in [`InputQuant::E4m3Block`].
pub const INPUT_BLOCK: usize = 128;

/// What a device must know of a quantised weight beside its shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantForm {
    /// What codes mean.
    pub codes: CodeType,
    /// Neighbouring codes of a row that share a scale; the last group of a row may be shorter. As
    /// many as there are inputs: a scale for each row.
    pub group: usize,
    /// Groups have offsets.
    pub offsets: bool,
    /// How the inputs are rounded; none: they are taken as they are.
    pub inputs: Option<InputQuant>,
}

impl QuantForm {
    /// Groups of a row of so many inputs.
    pub fn groups(&self, inputs: usize) -> usize {
        inputs.div_ceil(self.group.max(1))
    }
}

/// Codes of some outputs of a weight.
#[derive(Clone)]
pub struct QuantPart<'a> {
    /// Outputs.
    pub rows: usize,
    /// Codes of a row.
    pub cols: usize,
    /// Row by row, each in whole bytes: [`CodeType::row_bytes`].
    pub codes: Bytes<'a>,
    /// `[rows, groups]`.
    pub scales: Vec<f32>,
    /// The same, or empty.
    pub offsets: Vec<f32>,
}

impl QuantPart<'_> {
    /// The values of some rows, row by row: what the codes mean, in f32. The definition that
    /// devices are held to.
    ///
    /// # Errors
    /// The codes cannot be read.
    pub fn values(&self, form: &QuantForm, rows: Range<usize>) -> Result<Vec<f32>> {
        let row_bytes = form.codes.row_bytes(self.cols);
        let bytes = self.codes.slice(rows.start * row_bytes..rows.end * row_bytes);
        let bytes = bytes.load()?;
        let groups = form.groups(self.cols);
        let numbers = form.codes.numbers();
        let mut values = Vec::with_capacity(rows.len() * self.cols);

        for (row, line) in rows.zip(bytes.chunks_exact(row_bytes.max(1))) {
            for col in 0..self.cols {
                let code = if form.codes.bits() == 8 {
                    line[col]
                } else {
                    line[col / 2] >> (4 * (col % 2)) & 15
                };
                let at = row * groups + col / form.group.max(1);
                let scaled = self.scales[at] * numbers[usize::from(code)];
                values.push(match self.offsets.get(at) {
                    Some(offset) => scaled + offset,
                    None => scaled,
                });
            }
        }
        Ok(values)
    }
}

/// What shares a scale where a plain weight is quantised on its way to the device, to E4M3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleOver {
    /// The whole matrix, stacked parts together; of experts each one's: largest |w| / 448, codes by
    /// multiplication with the inverse.
    Matrix,
    /// Each row: max(largest |w| / 448, 1 / (448 * 512)), codes by division.
    Row,
    /// Each 128 x 128: max(largest |w|, 1e-4) / 448, codes by multiplication with the inverse.
    Block,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_e4m3_are_those_of_its_definition() {
        let known = [(0x00, 0.0), (0x01, 1.0 / 512.0), (0x08, 1.0 / 64.0), (0x38, 1.0)];
        let more = [(0x7e, 448.0), (0xfe, -448.0), (0xb8, -1.0), (0x07, 7.0 / 512.0)];
        for (code, value) in known.into_iter().chain(more) {
            assert_eq!(e4m3_to_f32(code), value, "{code:#x}");
        }
        assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
    }

    #[test]
    fn values_are_scale_times_number_plus_offset() {
        let form = QuantForm { codes: CodeType::Int4, group: 2, offsets: true, inputs: None };
        let part = QuantPart {
            rows: 2,
            cols: 3,
            codes: Bytes::Shared(vec![0x98, 0x0f, 0x10, 0x07].into()),
            scales: vec![1.0, 2.0, 0.5, 4.0],
            offsets: vec![0.0, 1.0, -1.0, 0.25],
        };
        let values = part.values(&form, 0..2).unwrap();
        assert_eq!(values, [0.0, 1.0, 15.0, -5.0, -4.5, -3.75]);
        assert_eq!(part.values(&form, 1..2).unwrap(), values[3..]);
    }
}
