//! Low-rank adapters behind a weight of the CPU device: y += B (A x), row by row, and behind a
//! table. A row's numbers depend on its own adapter and nothing else: A x is one dot product per
//! rank, B adds the ranks in order to the finished sums of a panel (design law 12). The ops that
//! multiply and look up call it; it knows no sequence.

use parking_lot::Mutex;

use super::buffer::Tensor;
use super::numbers;
use super::simd::{with_isa, Isa};
use super::workers::Workers;
use crate::device::{AdapterCapacity, AdapterPart, TablePart};
use crate::error::{Error, Result};
use crate::ids::AdapterSlotId;
use crate::internal;

/// One part's matrices, in f32.
struct Low {
    rank: usize,
    /// `[rank, inputs]`
    a: Vec<f32>,
    /// `[rank, outputs of the part]`
    b: Vec<f32>,
}

/// What hangs on a weight.
pub struct Adapters {
    inputs: usize,
    /// First output of each part, then the number of all outputs.
    starts: Vec<usize>,
    capacity: AdapterCapacity,
    /// By adapter slot, then part.
    slots: Vec<Vec<Option<Low>>>,
}

impl Adapters {
    pub fn new(inputs: usize, parts: &[usize], capacity: AdapterCapacity) -> Adapters {
        let mut starts = vec![0];
        starts.extend(parts.iter().scan(0, |end, part| {
            *end += part;
            Some(*end)
        }));
        let slots = (0..capacity.slots).map(|_| Vec::new()).collect();
        Adapters { inputs, starts, capacity, slots }
    }

    /// # Errors
    /// Internal: an adapter slot, a part or a shape that there is no room for.
    pub fn install(
        &mut self,
        slot: AdapterSlotId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        let count = self.slots.len();
        if slot.index() >= count || parts.len() + 1 != self.starts.len() {
            return Err(internal!("{} parts for slot {slot} of {count}", parts.len()));
        }
        let mut lows = Vec::with_capacity(parts.len());
        for (part, ends) in parts.iter().zip(self.starts.windows(2)) {
            let Some(part) = part else {
                lows.push(None);
                continue;
            };
            let rank = part.rank(self.inputs, ends[1] - ends[0], self.capacity)?;
            let (a, b) = (part.a.values()?, part.b.values()?);
            lows.push(Some(Low { rank, a, b }));
        }
        self.slots[slot.index()] = lows;
        Ok(())
    }
}

/// What hangs on a table.
pub struct TableAdapters {
    rows: usize,
    width: usize,
    capacity: AdapterCapacity,
    slots: Vec<Option<TableLow>>,
}

/// One adapter's matrices, in f32.
struct TableLow {
    rank: usize,
    /// `[rows of the table, rank]`
    a: Vec<f32>,
    /// `[rank, width]`
    b: Vec<f32>,
}

impl TableAdapters {
    pub fn new(rows: usize, width: usize, capacity: AdapterCapacity) -> TableAdapters {
        let slots = (0..capacity.slots).map(|_| None).collect();
        TableAdapters { rows, width, capacity, slots }
    }

    /// # Errors
    /// Internal: an adapter slot or a shape that there is no room for.
    pub fn install(&mut self, slot: AdapterSlotId, part: Option<TablePart<'_>>) -> Result<()> {
        let count = self.slots.len();
        let place = self.slots.get_mut(slot.index());
        let place = place.ok_or_else(|| internal!("a table for slot {slot} of {count}"))?;
        *place = match part {
            Some(part) => {
                let rank = part.rank(self.rows, self.width, self.capacity)?;
                let (a, b) = (part.a.values()?, part.b.values()?);
                Some(TableLow { rank, a, b })
            }
            None => None,
        };
        Ok(())
    }

    /// Add to the table's row `row` what the adapter slot holds for it.
    pub fn add(&self, slot: AdapterSlotId, row: usize, out: &mut [f32]) {
        let Some(TableLow { rank, a, b }) = &self.slots[slot.index()] else { return };
        let low = &a[row * rank..(row + 1) * rank];
        for (t, b) in low.iter().zip(b.chunks_exact(self.width)) {
            out.iter_mut().zip(b).for_each(|(out, b)| *out += t * b);
        }
    }
}

pub fn no_room(weight: &str) -> Error {
    internal!("{weight} has no room for adapters")
}

/// A x of every row of a step that has an adapter.
pub struct Delta<'a> {
    adapters: &'a Adapters,
    slots: &'a [Option<AdapterSlotId>],
    /// `[rows, parts, rank]`
    low: Vec<f32>,
    /// Elements of a row in `low`.
    stride: usize,
}

impl<'a> Delta<'a> {
    /// `adapter slots` are those of the step's rows.
    pub fn new(
        isa: Isa,
        workers: &Workers,
        adapters: &'a Adapters,
        slots: &'a [Option<AdapterSlotId>],
        x: &Tensor,
    ) -> Delta<'a> {
        let (rank, inputs) = (adapters.capacity.rank, adapters.inputs);
        let stride = rank * (adapters.starts.len() - 1);
        let mut low = vec![0.0; slots.len() * stride];
        let rows = low.chunks_exact_mut(stride.max(1)).zip(slots).enumerate();
        let todo = Mutex::new(rows.filter_map(|(r, (low, slot))| Some((r, low, (*slot)?))));
        let worth_it = slots.len() * stride * inputs >= super::SHARED_FROM_ATTENTION_MACS;
        workers.share(worth_it, &|| loop {
            let Some((r, low, slot)) = todo.lock().next() else { return };
            let x = &x.row(r)[..inputs];
            let parts = low.chunks_exact_mut(rank).zip(&adapters.slots[slot.index()]);
            with_isa(
                isa,
                #[inline(always)]
                || {
                    for (low, part) in parts {
                        let Some(part) = part else { continue };
                        let rows = part.a.chunks_exact(inputs);
                        low.iter_mut().zip(rows).for_each(|(t, a)| *t = numbers::dot(a, x));
                    }
                },
            );
        });
        Delta { adapters, slots, low, stride }
    }

    /// Add the delta of row `r` to its sums of the outputs from `first` on.
    #[inline(always)]
    pub fn add(&self, r: usize, first: usize, sums: &mut [f32]) {
        let Some(slot) = self.slots[r] else { return };
        let Adapters { starts, slots, capacity, .. } = self.adapters;
        let end = first + sums.len();
        for (n, part) in slots[slot.index()].iter().enumerate() {
            let (start, stop) = (starts[n].max(first), starts[n + 1].min(end));
            let Some(part) = part.as_ref().filter(|_| start < stop) else { continue };
            let low = &self.low[r * self.stride + n * capacity.rank..][..part.rank];
            let width = starts[n + 1] - starts[n];
            let sums = &mut sums[start - first..stop - first];
            for (t, b) in low.iter().zip(part.b.chunks_exact(width)) {
                let b = &b[start - starts[n]..];
                sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += t * b);
            }
        }
    }
}
