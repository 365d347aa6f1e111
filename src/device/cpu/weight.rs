//! Weights of the CPU device, and how they are packed at upload. A linear is cut into panels of
//! [`LANES`] outputs, `[panel][input][lane]`, so that the lanes of a vector register are outputs:
//! each output then adds its products in the order of the inputs, whatever the number of rows
//! (docs/architecture.md, Laws: row-invariant CPU products).

use std::borrow::Cow;
use std::ops::Range;

use bytemuck::Zeroable;
use half::{bf16, f16};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::low_rank::{Adapters, TableAdapters};
use super::numbers::{bf16_to_f32, f16_to_f32};
use super::workers::Workers;
use crate::device::{Bytes, DType, HostTensor, Source, WeightDesc, WeightKind};
use crate::error::{Error, Result};
use crate::{internal, invalid};

/// Outputs of a panel: four AVX-512 registers.
pub const LANES: usize = 64;

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
    /// `[panel][input][lane]`.
    pub elements: Elements,
    /// Of a row.
    pub inputs: usize,
    /// Of the matrix; gates and ups together.
    pub outputs: usize,
    /// A panel holds 32 gates and then the 32 ups that belong to them.
    pub gated: bool,
}

impl Panels {
    /// Panels.
    pub fn count(&self) -> usize {
        panel_count(self.outputs, self.gated)
    }

    /// Of all elements.
    pub fn bytes(&self) -> usize {
        match &self.elements {
            Elements::F32(b) => b.len() * 4,
            Elements::F16(b) | Elements::BF16(b) => b.len() * 2,
        }
    }

    /// Lanes of a panel and the first output that they compute; padding is left out.
    pub fn runs(&self, panel: usize) -> [(Range<usize>, usize); 2] {
        runs(self.outputs, self.gated, panel)
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

fn runs(outputs: usize, gated: bool, panel: usize) -> [(Range<usize>, usize); 2] {
    let half = outputs / 2;
    let first = panel * LANES;
    let column = first / 2;
    if gated {
        let count = (LANES / 2).min(half - column);
        [(0..count, column), (LANES / 2..LANES / 2 + count, half + column)]
    } else {
        [(0..LANES.min(outputs - first), first), (0..0, 0)]
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
    /// As in the checkpoint, for errors.
    pub name: String,
    /// Rows.
    pub outputs: usize,
    /// Elements of a row.
    pub inputs: usize,
    /// Where there is room for adapters behind it.
    pub adapters: Option<Adapters>,
    /// The same for rows that are looked up.
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
    /// Parts that do not add up to `outputs` x `inputs`, or cannot be read; no memory.
    pub fn pack(desc: &WeightDesc, workers: &Workers) -> Result<Weight> {
        let values = Values::new(desc)?;
        let (outputs, inputs) = (desc.outputs, desc.inputs);
        let packed = || match desc.kind {
            WeightKind::Vector => {
                let mut vector = vec![0.0; outputs];
                values.rows(0..outputs, &mut Vec::new(), |o, _, x| vector[o] = x)?;
                Ok(Store::Vector(vector))
            }
            WeightKind::Table => table(desc, &values).map(Store::Table),
            WeightKind::Linear | WeightKind::GateUp | WeightKind::TableAndLinear => {
                let gated = desc.kind == WeightKind::GateUp;
                panels(desc, &values, 0, outputs, gated).map(Store::Panels)
            }
            WeightKind::Experts { count, gated } => {
                let each = outputs / count;
                let stack = |n: usize| panels(desc, &values, n * each, each, gated);
                (0..count).map(stack).collect::<Result<_>>().map(Store::Experts)
            }
        };
        let store = workers.install(packed).map_err(|e| match e {
            // What was read says the file; what was not given, nothing.
            Error::Unavailable(_) => e.context(&format!("{}: ", desc.name)),
            other => other,
        })?;
        let name = desc.name.to_string();
        Ok(Weight { store, name, outputs, inputs, adapters: None, table_adapters: None })
    }
}

/// Row-major.
fn table(desc: &WeightDesc, values: &Values) -> Result<Elements> {
    let (outputs, inputs) = (desc.outputs, desc.inputs);
    fill(desc, outputs * inputs, LANES * inputs, |n, scratch, set| {
        let first = n * LANES;
        let rows = first..outputs.min(first + LANES);
        values.rows(rows, scratch, |o, i, x| set((o - first) * inputs + i, x))
    })
}

/// Outputs `first..first + outputs` of a weight in panels.
fn panels(
    desc: &WeightDesc,
    values: &Values,
    first: usize,
    outputs: usize,
    gated: bool,
) -> Result<Panels> {
    let inputs = desc.inputs;
    let size = LANES * inputs;
    let len = panel_count(outputs, gated) * size;
    let elements = fill(desc, len, size, |panel, scratch, set| {
        for (lanes, output) in runs(outputs, gated, panel) {
            let start = first + output;
            values.rows(start..start + lanes.len(), scratch, |o, i, x| {
                set(i * LANES + lanes.start + o - start, x);
            })?;
        }
        Ok(())
    })?;
    Ok(Panels { elements, inputs, outputs, gated })
}

/// Where `place` puts an element of its chunk.
type Set<'s> = &'s mut dyn FnMut(usize, f32);

/// Make `len` elements in chunks of `chunk`; `place` is told which chunk it is to set, and has
/// memory that it may use.
fn fill<F>(desc: &WeightDesc, len: usize, chunk: usize, place: F) -> Result<Elements>
where
    F: Fn(usize, &mut Vec<u8>, Set) -> Result<()> + Sync,
{
    fn run<T: Zeroable + Send>(
        len: usize,
        chunk: usize,
        place: &(impl Fn(usize, &mut Vec<u8>, Set) -> Result<()> + Sync),
        convert: impl Fn(f32) -> T + Sync,
    ) -> Result<Buffer<T>> {
        let mut buffer = Buffer::zeroed(len)?;
        let chunks = buffer.par_chunks_mut(chunk.max(1)).enumerate();
        chunks.try_for_each_init(Vec::new, |scratch, (n, out)| {
            place(n, scratch, &mut |i, x| out[i] = convert(x))
        })?;
        Ok(buffer)
    }
    match desc.dtype {
        DType::F32 => run(len, chunk, &place, |x| x).map(Elements::F32),
        DType::F16 => run(len, chunk, &place, |x| f16::from_f32(x).to_bits()).map(Elements::F16),
        DType::BF16 => run(len, chunk, &place, |x| bf16::from_f32(x).to_bits()).map(Elements::BF16),
    }
}

/// Any [`Source`] by rows of outputs.
struct Values<'a> {
    desc: &'a WeightDesc<'a>,
    /// First output of each part, then the number of all.
    starts: Vec<usize>,
    /// Parts that are stored `[inputs, outputs]`, whole: a row of outputs is a column there.
    turned: Vec<Cow<'a, [u8]>>,
}

impl<'a> Values<'a> {
    fn new(desc: &'a WeightDesc<'a>) -> Result<Values<'a>> {
        let mut starts = Vec::new();
        let mut turned = Vec::new();
        if let Source::Parts(parts) = &desc.source {
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
    fn rows(
        &self,
        outputs: Range<usize>,
        scratch: &mut Vec<u8>,
        mut take: impl FnMut(usize, usize, f32),
    ) -> Result<()> {
        let inputs = self.desc.inputs;
        let parts = match &self.desc.source {
            Source::Parts(parts) => parts,
            Source::Dummy { seed, scale } => {
                for (o, i) in outputs.flat_map(|o| (0..inputs).map(move |i| (o, i))) {
                    take(o, i, uniform(seed.wrapping_add((o * inputs + i) as u64)) * scale);
                }
                return Ok(());
            }
            Source::Codes { .. } | Source::Quantise { .. } => {
                return Err(internal!("{}: codes are not held here yet", self.desc.name));
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
fn uniform(counter: u64) -> f32 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}
