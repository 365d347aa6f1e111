//! A matrix as products read it: elements or codes in panels. `weight` holds it, `simd` multiplies
//! by it. It knows no source.

use super::buffer::Buffer;
use super::codes::Codes;
use super::lanes::{Lanes, LANES};
use super::numbers::{bf16_to_f32, f16_to_f32};

/// Elements as they are stored.
pub enum Elements {
    /// As stored.
    F32(Buffer<f32>),
    /// Bits of halves.
    F16(Buffer<u16>),
    /// Bits of bfloat16s.
    BF16(Buffer<u16>),
}

impl Elements {
    /// The i-th one.
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Elements::F32(b) => b[i],
            Elements::F16(b) => f16_to_f32(b[i]),
            Elements::BF16(b) => bf16_to_f32(b[i]),
        }
    }
}

/// What panels hold.
pub enum Held {
    /// `[panel][input][lane]`.
    Plain(Elements),
    /// The same, packed.
    Codes(Box<Codes>),
}

/// A matrix for `linear`.
pub struct Panels {
    /// Of all panels.
    pub held: Held,
    /// Of a row.
    pub inputs: usize,
    /// Where outputs lie.
    pub lanes: Lanes,
}

impl Panels {
    /// What a product of one row reads, in bytes; of codes what it writes and reads on the way too.
    pub fn work_bytes(&self) -> usize {
        match &self.held {
            Held::Plain(Elements::F32(b)) => b.len() * 4,
            Held::Plain(Elements::F16(b) | Elements::BF16(b)) => b.len() * 2,
            Held::Codes(codes) => codes.packed.len() / codes.line_bytes() * LANES * 4,
        }
    }

    /// Feed the weights of output `row` to `take`, input by input.
    ///
    /// # Panics
    /// If these are codes: a mistake in the decoder.
    pub fn row(&self, row: usize, mut take: impl FnMut(usize, f32)) {
        let Held::Plain(elements) = &self.held else { panic!("codes are no table") };
        let base = row / LANES * LANES * self.inputs + row % LANES;
        (0..self.inputs).for_each(|i| take(i, elements.get(base + i * LANES)));
    }
}
