//! Tables on the GPU: the lookup, and the low-rank adapters behind a table with their adapter slots
//! and the way they get there, which is that of `adapters`. `Cuda::embed` calls it.

use std::sync::Arc;

use super::adapters::{aligned, Stage};
use super::context::Context;
use super::memory::Memory;
use super::weights::Weight;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{AdapterCapacity, DType, TablePart};
use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::internal;

/// Adapters of one table, in one piece of memory: A `[adapter slot][row of the table][rank]`, each
/// adapter slot with room for the largest rank, B transposed `[adapter slot][largest rank][width]`,
/// ranks `[adapter slot]`.
pub struct TableAdapterMatrices {
    memory: Memory,
    capacity: AdapterCapacity,
    rows: usize,
    width: usize,
    element_bytes: usize,
}

impl TableAdapterMatrices {
    fn new(
        context: &Arc<Context>,
        (rows, width): (usize, usize),
        capacity: AdapterCapacity,
        dtype: DType,
    ) -> Result<TableAdapterMatrices> {
        let element_bytes = dtype.bytes();
        let [a, b] =
            [rows, width].map(|n| aligned(capacity.slots * capacity.rank * n * element_bytes));
        let bytes = a + b + 4 * capacity.slots;
        let memory = Memory::new(context, bytes, "LoRA adapters (max_loras, max_lora_rank)")?;
        // Ranks of 0: an adapter slot that nobody filled does nothing.
        memory.fill(0)?;
        Ok(TableAdapterMatrices { memory, capacity, rows, width, element_bytes })
    }

    /// Bytes of A and of B of one adapter slot.
    fn slot_bytes(&self) -> [usize; 2] {
        [self.rows, self.width].map(|n| self.capacity.rank * n * self.element_bytes)
    }

    /// Where B begins, and where the ranks do.
    fn offsets(&self) -> [usize; 2] {
        let [a, b] = self.slot_bytes().map(|bytes| aligned(self.capacity.slots * bytes));
        [a, a + b]
    }

    fn install(
        &self,
        stage: &mut Stage,
        dtype: DType,
        slot: AdapterSlotId,
        part: Option<TablePart<'_>>,
    ) -> Result<()> {
        let slot = slot.index();
        if slot >= self.capacity.slots {
            return Err(internal!("a table for slot {slot} of {}", self.capacity.slots));
        }
        let ([a_bytes, b_bytes], [b_offset, ranks_offset]) = (self.slot_bytes(), self.offsets());
        let mut rank = 0;
        if let Some(part) = part {
            if part.a.dtype != dtype || part.b.dtype != dtype {
                return Err(internal!("an adapter of another type than {dtype:?}"));
            }
            rank = part.rank(self.rows, self.width, self.capacity)?;
            stage.put(&self.memory, slot * a_bytes, &part.a.bytes.load()?)?;
            stage.put(&self.memory, b_offset + slot * b_bytes, &part.b.bytes.load()?)?;
        }
        stage.put(&self.memory, ranks_offset + 4 * slot, &(rank as u32).to_le_bytes())
    }
}

impl Cuda {
    pub(super) fn make_table_adapters(
        &mut self,
        table: &mut Weight,
        capacity: AdapterCapacity,
    ) -> Result<()> {
        let shape = (table.outputs, table.inputs);
        table.table_adapters =
            Some(TableAdapterMatrices::new(&self.context, shape, capacity, self.dtype)?);
        self.make_stage()
    }

    pub(super) fn fill_table_adapter_slot(
        &mut self,
        table: &Weight,
        slot: AdapterSlotId,
        part: Option<TablePart<'_>>,
    ) -> Result<()> {
        self.context.bind()?;
        match (&table.table_adapters, &mut self.adapters.stage) {
            (Some(slots), Some(stage)) => slots.install(stage, self.dtype, slot, part),
            _ => Err(internal!("{} has no room for adapters", table.name)),
        }
    }

    /// `Device::embed`.
    pub(super) fn look_up(&self, table: &Weight, scale: f32, out: &Tensor) -> Result<()> {
        let rows = self.rows();
        let out = out.at(rows, table.inputs, "embed");
        if let Some(slots) = table.table_adapters.as_ref().filter(|_| self.slots.batch.adapters) {
            return self.look_up_adapted(rows, table, slots, scale, out);
        }
        self.kernels.embed.launch(
            &self.context,
            [rows, 1],
            ROW_THREADS,
            &[
                &self.reserved()?.steps.device.token.address,
                &table.matrix(),
                &(table.outputs as u32),
                &(table.inputs as u32),
                &scale,
                &out,
            ],
        )
    }

    /// The same in a step in which some row has an adapter. `out` is an address.
    fn look_up_adapted(
        &self,
        rows: usize,
        table: &Weight,
        slots: &TableAdapterMatrices,
        scale: f32,
        out: u64,
    ) -> Result<()> {
        let device = &self.reserved()?.steps.device;
        let address = slots.memory.address;
        let [b, ranks] = slots.offsets().map(|offset| address + offset as u64);
        self.kernels.embed_adapted.launch(
            &self.context,
            [rows, 1],
            ROW_THREADS,
            &[
                &device.token.address,
                &device.adapter_slot_of.address,
                &table.matrix(),
                &(table.outputs as u32),
                &(table.inputs as u32),
                &scale,
                &address,
                &b,
                &ranks,
                &(slots.capacity.rank as u32),
                &out,
            ],
        )
    }
}
