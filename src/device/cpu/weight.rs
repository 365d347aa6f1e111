//! Weights of the CPU device, and how they are packed at upload. A linear is cut into panels of
//! [`LANES`] outputs, `[panel][input][lane]`, so that the lanes of a vector register are outputs:
//! each output then adds its products in the order of the inputs, whatever the number of rows
//! (design law 12).

use half::{bf16, f16};
use rayon::prelude::*;

use super::adapters::{Adapters, TableAdapters};
use super::buffer::Buffer;
use super::numbers::{bf16_to_f32, f16_to_f32};
use super::workers::Workers;
use crate::device::{DType, HostTensor, Source, WeightDesc, WeightKind};
use crate::error::Result;
use crate::invalid;

/// Outputs of a panel: four AVX-512 registers.
pub const LANES: usize = 64;

/// Elements as they are stored.
pub enum Elements {
    F32(Buffer<f32>),
    F16(Buffer<u16>),
    BF16(Buffer<u16>),
}

impl Elements {
    fn get(&self, i: usize) -> f32 {
        match self {
            Elements::F32(b) => b[i],
            Elements::F16(b) => f16_to_f32(b[i]),
            Elements::BF16(b) => bf16_to_f32(b[i]),
        }
    }
}

/// A matrix for `linear`.
pub struct Panels {
    pub elements: Elements,
    pub inputs: usize,
    pub outputs: usize,
    /// A panel holds 32 gates and then the 32 ups that belong to them.
    pub gated: bool,
}

impl Panels {
    pub fn count(&self) -> usize {
        panel_count(self.outputs, self.gated)
    }

    pub fn bytes(&self) -> usize {
        match &self.elements {
            Elements::F32(b) => b.len() * 4,
            Elements::F16(b) | Elements::BF16(b) => b.len() * 2,
        }
    }

    /// Lanes of a panel and the first output that they compute; padding is left out.
    pub fn runs(&self, panel: usize) -> [(std::ops::Range<usize>, usize); 2] {
        let half = self.outputs / 2;
        let first = panel * LANES;
        let column = first / 2;
        match self.gated {
            false => [(0..LANES.min(self.outputs - first), first), (0..0, 0)],
            true => {
                let count = (LANES / 2).min(half - column);
                [(0..count, column), (LANES / 2..LANES / 2 + count, half + column)]
            }
        }
    }

    /// Which output a lane computes, if it is not padding.
    pub fn output_of(&self, panel: usize, lane: usize) -> Option<usize> {
        output_of(self.outputs, self.gated, panel, lane)
    }
}

fn panel_count(outputs: usize, gated: bool) -> usize {
    if gated {
        (outputs / 2).div_ceil(LANES / 2)
    } else {
        outputs.div_ceil(LANES)
    }
}

fn output_of(outputs: usize, gated: bool, panel: usize, lane: usize) -> Option<usize> {
    let half = outputs / 2;
    let column = panel * (LANES / 2) + lane % (LANES / 2);
    match (gated, lane < LANES / 2) {
        (false, _) => Some(panel * LANES + lane).filter(|&o| o < outputs),
        (true, true) => Some(column).filter(|&o| o < half),
        (true, false) => Some(half + column).filter(|_| column < half),
    }
}

enum Store {
    Panels(Panels),
    /// Row-major, for lookups.
    Table(Elements),
    Vector(Vec<f32>),
    /// A matrix of each expert.
    Experts(Vec<Panels>),
}

/// What `upload` returns.
pub struct Weight {
    store: Store,
    pub name: String,
    pub outputs: usize,
    pub inputs: usize,
    pub adapters: Option<Adapters>,
    pub table_adapters: Option<TableAdapters>,
}

impl Weight {
    /// # Panics
    /// If the weight was not loaded as a linear: a mistake in the decoder.
    pub fn panels(&self) -> &Panels {
        match &self.store {
            Store::Panels(p) => p,
            _ => panic!("{} was not loaded for a linear", self.name),
        }
    }

    /// # Panics
    /// If the weight was not loaded as a stack of experts: a mistake in the decoder.
    pub fn experts(&self) -> &[Panels] {
        match &self.store {
            Store::Experts(stack) => stack,
            _ => panic!("{} was not loaded for experts", self.name),
        }
    }

    /// # Panics
    /// If the weight was not loaded as a vector: a mistake in the decoder.
    pub fn vector(&self) -> &[f32] {
        match &self.store {
            Store::Vector(v) => v,
            _ => panic!("{} was not loaded as a vector", self.name),
        }
    }

    /// Feed row `row` of a table to `take`, column by column.
    ///
    /// # Panics
    /// If the weight is a stack of experts: a mistake in the decoder.
    pub fn table_row(&self, row: usize, mut take: impl FnMut(usize, f32)) {
        let width = self.inputs;
        match &self.store {
            Store::Table(e) => (0..width).for_each(|i| take(i, e.get(row * width + i))),
            Store::Panels(p) => {
                let base = row / LANES * LANES * width + row % LANES;
                (0..width).for_each(|i| take(i, p.elements.get(base + i * LANES)));
            }
            Store::Vector(v) => take(0, v[row]),
            Store::Experts(_) => panic!("{} was not loaded as a table", self.name),
        }
    }

    /// Copy `desc` into the layout for its kind.
    ///
    /// # Errors
    /// Parts that do not add up to `outputs` x `inputs`.
    pub fn pack(desc: &WeightDesc, workers: &Workers) -> Result<Weight> {
        let values = Values::new(desc)?;
        let (outputs, inputs) = (desc.outputs, desc.inputs);
        let store = match desc.kind {
            WeightKind::Vector => Store::Vector((0..outputs).map(|o| values.get(o, 0)).collect()),
            WeightKind::Table => {
                let place = |start: usize, out: &mut dyn FnMut(usize, f32)| {
                    let row = start / inputs;
                    (0..inputs).for_each(|i| out(i, values.get(row, i)));
                };
                Store::Table(workers.install(|| fill(desc.dtype, outputs * inputs, inputs, place)))
            }
            WeightKind::Linear | WeightKind::GateUp | WeightKind::TableAndLinear => {
                let gated = desc.kind == WeightKind::GateUp;
                Store::Panels(workers.install(|| panels(desc, &values, 0, outputs, gated)))
            }
            WeightKind::Experts { count, gated } => {
                let each = outputs / count;
                let stack = |n: usize| panels(desc, &values, n * each, each, gated);
                Store::Experts(workers.install(|| (0..count).map(stack).collect()))
            }
        };
        let (name, adapters, table_adapters) = (desc.name.to_string(), None, None);
        Ok(Weight { store, name, outputs, inputs, adapters, table_adapters })
    }
}

/// Outputs `first..first + outputs` of a weight in panels.
fn panels(desc: &WeightDesc, values: &Values, first: usize, outputs: usize, gated: bool) -> Panels {
    let inputs = desc.inputs;
    let size = LANES * inputs;
    let place = |start: usize, out: &mut dyn FnMut(usize, f32)| {
        let panel = start / size;
        for lane in 0..LANES {
            let Some(o) = output_of(outputs, gated, panel, lane) else { continue };
            (0..inputs).for_each(|i| out(i * LANES + lane, values.get(first + o, i)));
        }
    };
    let elements = fill(desc.dtype, panel_count(outputs, gated) * size, size, place);
    Panels { elements, inputs, outputs, gated }
}

/// Make `len` elements in chunks of `chunk`; `place` is told where a chunk starts and sets its
/// elements.
fn fill<F>(dtype: DType, len: usize, chunk: usize, place: F) -> Elements
where
    F: Fn(usize, &mut dyn FnMut(usize, f32)) + Sync,
{
    fn run<T: Copy + Default + Send>(
        len: usize,
        chunk: usize,
        place: &(impl Fn(usize, &mut dyn FnMut(usize, f32)) + Sync),
        convert: impl Fn(f32) -> T + Sync,
    ) -> Buffer<T> {
        let mut buffer = Buffer::zeroed(len, T::default());
        buffer.par_chunks_mut(chunk.max(1)).enumerate().for_each(|(n, out)| {
            place(n * chunk, &mut |i, x| out[i] = convert(x));
        });
        buffer
    }
    match dtype {
        DType::F32 => Elements::F32(run(len, chunk, &place, |x| x)),
        DType::F16 => Elements::F16(run(len, chunk, &place, |x| f16::from_f32(x).to_bits())),
        DType::BF16 => Elements::BF16(run(len, chunk, &place, |x| bf16::from_f32(x).to_bits())),
    }
}

/// Any [`Source`] as a function of (output, input).
struct Values<'a> {
    desc: &'a WeightDesc<'a>,
    /// First output of each part.
    starts: Vec<usize>,
}

impl<'a> Values<'a> {
    fn new(desc: &'a WeightDesc<'a>) -> Result<Values<'a>> {
        let mut starts = Vec::new();
        if let Source::Parts(parts) = &desc.source {
            let mut total = 0;
            for part in parts {
                starts.push(total);
                total += desc.part_outputs(part)?;
            }
            if total != desc.outputs {
                return Err(invalid!(
                    "{}: parts have {total} outputs, expected {}.",
                    desc.name,
                    desc.outputs
                ));
            }
        }
        Ok(Values { desc, starts })
    }

    #[inline]
    fn get(&self, output: usize, input: usize) -> f32 {
        match &self.desc.source {
            Source::Parts(parts) => {
                let n = self.starts.partition_point(|&s| s <= output) - 1;
                let (part, row) = (&parts[n], output - self.starts[n]);
                match self.desc.transposed {
                    true => element(part, input * part.cols + row),
                    false => element(part, row * part.cols + input),
                }
            }
            Source::Dummy { seed, scale } => {
                let index = (output * self.desc.inputs + input) as u64;
                uniform(seed.wrapping_add(index)) * scale
            }
            Source::Constant(x) => *x,
        }
    }
}

#[inline]
fn element(part: &HostTensor, i: usize) -> f32 {
    let b = part.bytes;
    match part.dtype {
        DType::F32 => f32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]]),
        DType::F16 => f16_to_f32(u16::from_le_bytes([b[2 * i], b[2 * i + 1]])),
        DType::BF16 => bf16_to_f32(u16::from_le_bytes([b[2 * i], b[2 * i + 1]])),
    }
}

/// Uniform in [-1, 1) from the top 24 bits of a mixed counter (the finaliser of SplitMix64).
fn uniform(counter: u64) -> f32 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}
