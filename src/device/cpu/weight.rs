//! Weights of the CPU device, and how they are packed at upload. A linear is cut into panels of
//! [`LANES`] outputs, `[panel][input][lane]`, so that the lanes of a vector register are outputs:
//! each output then adds its products in the order of the inputs, whatever the number of rows
//! (docs/architecture.md, Laws: row-invariant CPU products).

use bytemuck::Zeroable;
use half::{bf16, f16};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::code_packing::CodeRows;
use super::lanes::{Lanes, LANES};
use super::low_rank::{Adapters, TableAdapters};
use super::online;
use super::panels::{Elements, Held, Panels};
use super::sources::Values;
use super::workers::Workers;
use crate::device::{DType, Join, QuantForm, QuantPart, Source, WeightDesc, WeightKind};
use crate::error::{Error, Result};
use crate::internal;

enum Store {
    Panels(Panels),
    /// Row-major, for lookups.
    Table(Elements),
    Vector(Vec<f32>),
    /// A matrix of each expert, or of each head.
    Stack(Vec<Panels>),
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
    /// What ops do with the ranks' shares.
    pub join: Join,
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
    /// If the weight was not loaded for experts or heads: a mistake in the decoder.
    pub fn stack(&self) -> &[Panels] {
        match &self.store {
            Store::Stack(stack) => stack,
            _ => panic!("{} was not loaded for experts or heads", self.name),
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
    /// If the weight is a stack: a mistake in the decoder.
    pub fn table_row(&self, row: usize, mut take: impl FnMut(usize, f32)) {
        let width = self.inputs;
        match &self.store {
            Store::Table(e) => (0..width).for_each(|i| take(i, e.get(row * width + i))),
            Store::Panels(p) => p.row(row, take),
            Store::Vector(v) => take(0, v[row]),
            Store::Stack(_) => panic!("{} was not loaded as a table", self.name),
        }
    }

    /// Copy `desc` into the layout for its kind.
    ///
    /// # Errors
    /// Parts that do not add up to `outputs` x `inputs`, or cannot be read; no memory.
    pub fn pack(desc: &WeightDesc, workers: &Workers) -> Result<Weight> {
        let (outputs, inputs) = (desc.outputs, desc.inputs);
        let packed = || match &desc.quant {
            Some(form) => coded(desc, form),
            None => plain(desc),
        };
        let store = workers.install(packed).map_err(|e| match e {
            // What was read says the file; what was not given, nothing.
            Error::Unavailable(_) => e.context(&format!("{}: ", desc.name)),
            other => other,
        })?;
        let name = desc.name.to_string();
        Ok(Weight {
            store,
            name,
            outputs,
            inputs,
            join: desc.join,
            adapters: None,
            table_adapters: None,
        })
    }
}

/// Elements in the layout for their kind.
fn plain(desc: &WeightDesc) -> Result<Store> {
    let values = Values::new(desc)?;
    let outputs = desc.outputs;
    match desc.kind {
        WeightKind::Vector => {
            let mut vector = vec![0.0; outputs];
            values.rows(0..outputs, &mut Vec::new(), |o, _, x| vector[o] = x)?;
            Ok(Store::Vector(vector))
        }
        WeightKind::Table => table(desc, &values).map(Store::Table),
        kind => in_panels(kind, outputs, |first, lanes| panels(desc, &values, first, lanes)),
    }
}

/// Codes in panels.
fn coded(desc: &WeightDesc, form: &QuantForm) -> Result<Store> {
    let made: [QuantPart; 1];
    let (parts, order): (&[QuantPart], &[u32]) = match &desc.source {
        Source::Codes { parts, order } => (parts, order),
        Source::Quantise { over, .. } => {
            made = [online::quantised(desc, form, *over)?];
            (&made, &[])
        }
        Source::Dummy { seed, scale } => {
            made = [online::dummy(desc, form, *seed, *scale)?];
            (&made, &[])
        }
        Source::Parts(_) | Source::Constant(_) => {
            return Err(internal!("{}: elements are no codes", desc.name));
        }
    };
    desc.judge_codes(form, parts, order)?;
    let rows = CodeRows::new(form, parts, desc.inputs, order);
    in_panels(desc.kind, desc.outputs, |first, lanes| rows.panels(first, lanes))
}

/// The panels of a linear, or of each matrix of a stack; `make` gets first outputs.
fn in_panels(
    kind: WeightKind,
    outputs: usize,
    make: impl Fn(usize, Lanes) -> Result<Panels>,
) -> Result<Store> {
    let (count, gated) = match kind {
        WeightKind::Experts { count, gated } => (count, gated),
        WeightKind::Heads { count } => (count, false),
        kind => {
            let gated = kind == WeightKind::GateUp;
            return make(0, Lanes { outputs, gated }).map(Store::Panels);
        }
    };
    let lanes = Lanes { outputs: outputs / count, gated };
    let stack = (0..count).map(|n| make(n * lanes.outputs, lanes));
    stack.collect::<Result<_>>().map(Store::Stack)
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

/// Outputs from `first` on in panels.
fn panels(desc: &WeightDesc, values: &Values, first: usize, lanes: Lanes) -> Result<Panels> {
    let inputs = desc.inputs;
    let size = LANES * inputs;
    let elements = fill(desc, lanes.count() * size, size, |panel, scratch, set| {
        for (run, output) in lanes.runs(panel) {
            let start = first + output;
            values.rows(start..start + run.len(), scratch, |o, i, x| {
                set(i * LANES + run.start + o - start, x);
            })?;
        }
        Ok(())
    })?;
    Ok(Panels { held: Held::Plain(elements), inputs, lanes })
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
