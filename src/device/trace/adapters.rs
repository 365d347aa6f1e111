//! Low-rank adapters in the accountant's book: their memory and launches. `Trace` calls it from its
//! ops; it knows no op's caller.

use super::{bytes, Trace, TraceTensor, TraceWeight};
use crate::device::AdapterRoom;

impl Trace {
    /// Two more launches: A x of all parts, then B of it onto the output. Every row counts, at the
    /// largest rank; a bank is read once.
    pub(super) fn adapter_launches(
        &mut self,
        rows: usize,
        weight: &TraceWeight,
        (parts, room): (usize, AdapterRoom),
        x: &TraceTensor,
        out: &TraceTensor,
    ) {
        let low = room.rank * parts;
        let low_bytes = (4 * rows * low) as u64;
        let (a, b) = (low * weight.inputs, room.rank * weight.outputs);
        let banks = (room.banks * x.bytes) as u64;
        let read = bytes(rows, x) + banks * a as u64;
        let shrink = (rows, weight.inputs, low);
        self.launch("adapter_shrink", shrink, read, low_bytes, 2 * (rows * a) as u64);
        let both = bytes(rows, out);
        let read = low_bytes + both + banks * b as u64;
        let expand = (rows, low, weight.outputs);
        self.launch("adapter_expand", expand, read, both, 2 * (rows * b) as u64);
    }

    /// What `embed` reads beside the table, and its FLOPs: a row of A for each row, B of a bank
    /// once.
    pub(super) fn table_adapter_work(&self, rows: usize, table: &TraceWeight) -> (u64, u64) {
        let Some(room) = table.table_adapters.filter(|_| self.slots.batch.adapters) else {
            return (0, 0);
        };
        let elements = room.rank * (rows + room.banks * table.inputs);
        let flops = 2 * (rows * room.rank * table.inputs) as u64;
        (elements as u64 * element_bytes(table), flops)
    }

    pub(super) fn make_table_room(&mut self, table: &mut TraceWeight, room: AdapterRoom) {
        let elements = room.rank * (table.outputs + table.inputs);
        let bank = elements as u64 * element_bytes(table) + 4;
        self.held.adapters += room.banks as u64 * bank;
        table.table_adapters = Some(room);
    }

    /// A holds `parts` matrices of `rank` rows, B one row per rank; each bank knows its ranks.
    pub(super) fn make_room(
        &mut self,
        weight: &mut TraceWeight,
        parts: &[usize],
        room: AdapterRoom,
    ) {
        let low = room.rank * (parts.len() * weight.inputs + weight.outputs);
        let bank = low as u64 * element_bytes(weight) + 4 * parts.len() as u64;
        self.held.adapters += room.banks as u64 * bank;
        self.low_width = self.low_width.max(room.rank * parts.len());
        weight.adapters = Some((parts.len(), room));
    }
}

fn element_bytes(weight: &TraceWeight) -> u64 {
    weight.bytes / (weight.outputs * weight.inputs).max(1) as u64
}
