//! Low-rank adapters (LoRA) as every device gets them: how much place there is, and the matrices of
//! one, for a linear and for a table. `model` makes them, devices take them apart; they know
//! neither files nor sequences.

use super::types::DeviceTypes;
use super::HostTensor;
use crate::error::Result;
use crate::ids::AdapterSlotId;

/// Room for low-rank adapters (LoRA) behind a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterCapacity {
    /// Adapters that may be there at the same time.
    pub slots: usize,
    /// The largest rank.
    pub rank: usize,
}

/// What an adapter does to one part of a weight: y += B (A x). Its scale is in B.
pub struct AdapterPart<'a> {
    /// `[rank, inputs]`, of the weight's element type.
    pub a: HostTensor<'a>,
    /// B transposed, `[rank, outputs of the part]`, of the same type.
    pub b: HostTensor<'a>,
}

/// What an adapter does to a table: row t += B a, a the t-th row of `a`. Its scale is in B.
pub struct TablePart<'a> {
    /// `[rows of the table, rank]`, of the table's element type.
    pub a: HostTensor<'a>,
    /// B transposed, `[rank, width]`, of the same type.
    pub b: HostTensor<'a>,
}

impl TablePart<'_> {
    /// The rank, if both matrices fit a table of `rows` x `width`.
    ///
    /// # Errors
    /// Internal: they do not fit each other, the table or the capacity.
    pub fn rank(&self, rows: usize, width: usize, capacity: AdapterCapacity) -> Result<usize> {
        let (a, b) = (&self.a, &self.b);
        let fits = a.rows == rows && a.cols == b.rows && b.cols == width && b.rows <= capacity.rank;
        if fits && is_whole(a) && is_whole(b) {
            return Ok(b.rows);
        }
        Err(crate::internal!(
            "an adapter of {} x {} and {} x {} for a table of {rows} x {width}, rank {}",
            a.rows,
            a.cols,
            b.rows,
            b.cols,
            capacity.rank
        ))
    }
}

fn is_whole(tensor: &HostTensor<'_>) -> bool {
    tensor.bytes.len() == tensor.rows * tensor.cols * tensor.dtype.bytes()
}

impl AdapterPart<'_> {
    /// The rank, if both matrices fit.
    ///
    /// # Errors
    /// Internal: they do not fit each other, the weight or the capacity. Whoever reads adapters
    /// from files checks that before.
    pub fn rank(&self, inputs: usize, outputs: usize, capacity: AdapterCapacity) -> Result<usize> {
        let (a, b) = (&self.a, &self.b);
        let fits = a.rows == b.rows && a.rows <= capacity.rank && a.cols == inputs;
        if fits && b.cols == outputs && is_whole(a) && is_whole(b) {
            return Ok(a.rows);
        }
        Err(crate::internal!(
            "an adapter of {} x {} and {} x {} for {inputs} inputs, {outputs} outputs, rank {}",
            a.rows,
            a.cols,
            b.rows,
            b.cols,
            capacity.rank
        ))
    }
}

/// Low-rank adapters behind weights.
pub trait AdapterOps: DeviceTypes {
    /// Make room behind a weight that rows are multiplied with: from now on `linear`, `linear_act`
    /// and `logits` add, before bias, activation and cap, what the adapter slot of a row's adapter
    /// holds for it. Rows without an adapter, and all weights without room, cost what they did.
    /// `parts` are the outputs that an adapter treats on their own; they add up to the weight's.
    fn adapt(
        &mut self,
        weight: &mut Self::Weight,
        parts: &[usize],
        capacity: AdapterCapacity,
    ) -> Result<()>;

    /// The same behind a weight that rows are looked up in: from now on `embed` adds, before the
    /// scale, what the adapter slot holds for the token. A tied head has both rooms, each for
    /// itself.
    fn adapt_table(&mut self, table: &mut Self::Weight, capacity: AdapterCapacity) -> Result<()>;

    /// Fill an adapter slot of one weight between two steps, one entry per part; None: this adapter
    /// leaves the part alone. Steps that run already still see what was there.
    fn install(
        &mut self,
        weight: &mut Self::Weight,
        adapter_slot: AdapterSlotId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()>;

    /// The same for a table.
    fn install_table(
        &mut self,
        table: &mut Self::Weight,
        adapter_slot: AdapterSlotId,
        part: Option<TablePart<'_>>,
    ) -> Result<()>;
}
