//! What low-rank adapters hold on the CPU: y += B (A x) behind a weight, row by row, and the same
//! behind a table. A row's numbers depend on its own adapter and nothing else: A x is one dot
//! product per rank, B adds the ranks in order to the finished sums of a panel
//! (docs/architecture.md, Laws: row-invariant CPU products). It knows no sequence.

use crate::device::{AdapterCapacity, AdapterPart, TablePart};
use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::internal;

/// One part's matrices, in f32.
pub(super) struct Low {
    rank: usize,
    /// `[rank, inputs]`
    pub(super) a: Vec<f32>,
    /// `[rank, outputs of the part]`
    b: Vec<f32>,
}

/// What hangs on a weight.
pub struct Adapters {
    pub(super) inputs: usize,
    /// First output of each part, then the number of all outputs.
    pub(super) starts: Vec<usize>,
    pub(super) capacity: AdapterCapacity,
    /// By adapter slot, then part.
    pub(super) slots: Vec<Vec<Option<Low>>>,
}

impl Adapters {
    /// Empty slots; `parts` are the outputs of each part of the weight.
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
    /// Empty slots behind a table of `rows` x `width`.
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

/// A x of every row of a step that has an adapter.
pub struct Delta<'a> {
    pub(super) adapters: &'a Adapters,
    /// Of the step's rows.
    pub(super) slots: &'a [Option<AdapterSlotId>],
    /// `[rows, parts, rank]`
    pub(super) low: Vec<f32>,
    /// Elements of a row in `low`.
    pub(super) stride: usize,
}

impl Delta<'_> {
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
