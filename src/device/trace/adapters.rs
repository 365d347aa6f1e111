//! What low-rank adapters would hold, move and compute.

use super::{bytes, Trace, TraceTensor, TraceWeight};
use crate::device::{AdapterCapacity, AdapterOps, AdapterPart, TablePart};
use crate::error::Result;
use crate::ids::AdapterSlotId;

impl AdapterOps for Trace {
    fn adapt(
        &mut self,
        weight: &mut TraceWeight,
        parts: &[usize],
        capacity: AdapterCapacity,
    ) -> Result<()> {
        let low = capacity.rank * (parts.len() * weight.inputs + weight.outputs);
        let slot = low as u64 * element_bytes(weight) + 4 * parts.len() as u64;
        self.held.adapters += capacity.slots as u64 * slot;
        self.low_width = self.low_width.max(capacity.rank * parts.len());
        weight.adapters = Some((parts.len(), capacity));
        Ok(())
    }

    fn adapt_table(&mut self, table: &mut TraceWeight, capacity: AdapterCapacity) -> Result<()> {
        let elements = capacity.rank * (table.outputs + table.inputs);
        let slot = elements as u64 * element_bytes(table) + 4;
        self.held.adapters += capacity.slots as u64 * slot;
        table.table_adapters = Some(capacity);
        Ok(())
    }

    fn install(
        &mut self,
        _weight: &mut TraceWeight,
        _adapter_slot: AdapterSlotId,
        _parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        Ok(())
    }

    fn install_table(
        &mut self,
        _table: &mut TraceWeight,
        _adapter_slot: AdapterSlotId,
        _part: Option<TablePart<'_>>,
    ) -> Result<()> {
        Ok(())
    }
}

impl Trace {
    /// Two more launches: A x of all parts, then B of it onto the output. Every row counts, at the
    /// largest rank; an adapter slot is read once.
    pub(super) fn adapter_launches(
        &mut self,
        rows: usize,
        weight: &TraceWeight,
        (parts, capacity): (usize, AdapterCapacity),
        x: &TraceTensor,
        out: &TraceTensor,
    ) {
        let low = capacity.rank * parts;
        let low_bytes = (4 * rows * low) as u64;
        let (a, b) = (low * weight.inputs, capacity.rank * weight.outputs);
        let slots = (capacity.slots * x.bytes) as u64;
        let read = bytes(rows, x) + slots * a as u64;
        let shrink = (rows, weight.inputs, low);
        self.launch("adapter_shrink", shrink, read, low_bytes, 2 * (rows * a) as u64);
        let both = bytes(rows, out);
        let read = low_bytes + both + slots * b as u64;
        let expand = (rows, low, weight.outputs);
        self.launch("adapter_expand", expand, read, both, 2 * (rows * b) as u64);
    }

    /// What `embed` reads beside the table, and its FLOPs: a row of A for each row, B of an adapter
    /// slot once.
    pub(super) fn table_adapter_work(&self, rows: usize, table: &TraceWeight) -> (u64, u64) {
        let Some(capacity) = table.table_adapters.filter(|_| self.slots.batch().adapters) else {
            return (0, 0);
        };
        let elements = capacity.rank * (rows + capacity.slots * table.inputs);
        let flops = 2 * (rows * capacity.rank * table.inputs) as u64;
        (elements as u64 * element_bytes(table), flops)
    }
}

fn element_bytes(weight: &TraceWeight) -> u64 {
    weight.bytes / (weight.outputs * weight.inputs).max(1) as u64
}
