//! Tables on the GPU: the lookup, and the low-rank adapters behind a table with their banks and the
//! way they get there, which is that of `adapters`. `Cuda::embed` calls it.

use std::sync::Arc;

use super::adapters::{aligned, Stage};
use super::context::Context;
use super::memory::Memory;
use super::weights::Weight;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{AdapterRoom, DType, TablePart};
use crate::error::Result;
use crate::ids::BankId;
use crate::internal;

/// Banks of one table, in one piece of memory: A `[bank][row of the table][rank]`, each bank with
/// room for the largest rank, B transposed `[bank][largest rank][width]`, ranks `[bank]`.
pub struct TableBanks {
    memory: Memory,
    room: AdapterRoom,
    rows: usize,
    width: usize,
    element_bytes: usize,
}

impl TableBanks {
    fn new(
        context: &Arc<Context>,
        (rows, width): (usize, usize),
        room: AdapterRoom,
        dtype: DType,
    ) -> Result<TableBanks> {
        let element_bytes = dtype.bytes();
        let [a, b] = [rows, width].map(|n| aligned(room.banks * room.rank * n * element_bytes));
        let bytes = a + b + 4 * room.banks;
        let memory = Memory::new(context, bytes, "LoRA adapters (max_loras, max_lora_rank)")?;
        // Ranks of 0: a bank that nobody filled does nothing.
        memory.fill(0)?;
        Ok(TableBanks { memory, room, rows, width, element_bytes })
    }

    /// Bytes of A and of B of one bank.
    fn bank_bytes(&self) -> [usize; 2] {
        [self.rows, self.width].map(|n| self.room.rank * n * self.element_bytes)
    }

    /// Where B begins, and where the ranks do.
    fn offsets(&self) -> [usize; 2] {
        let [a, b] = self.bank_bytes().map(|bytes| aligned(self.room.banks * bytes));
        [a, a + b]
    }

    fn install(
        &self,
        stage: &mut Stage,
        dtype: DType,
        bank: BankId,
        part: Option<TablePart<'_>>,
    ) -> Result<()> {
        let bank = bank.index();
        if bank >= self.room.banks {
            return Err(internal!("a table for bank {bank} of {}", self.room.banks));
        }
        let ([a_bytes, b_bytes], [b_offset, ranks_offset]) = (self.bank_bytes(), self.offsets());
        let mut rank = 0;
        if let Some(part) = part {
            if part.a.dtype != dtype || part.b.dtype != dtype {
                return Err(internal!("an adapter of another type than {dtype:?}"));
            }
            rank = part.rank(self.rows, self.width, self.room)?;
            stage.put(&self.memory, bank * a_bytes, &part.a.bytes.load()?)?;
            stage.put(&self.memory, b_offset + bank * b_bytes, &part.b.bytes.load()?)?;
        }
        stage.put(&self.memory, ranks_offset + 4 * bank, &(rank as u32).to_le_bytes())
    }
}

impl Cuda {
    pub(super) fn make_table_banks(&mut self, table: &mut Weight, room: AdapterRoom) -> Result<()> {
        let shape = (table.outputs, table.inputs);
        table.table_banks = Some(TableBanks::new(&self.context, shape, room, self.dtype)?);
        self.make_stage()
    }

    pub(super) fn fill_table_bank(
        &mut self,
        table: &Weight,
        bank: BankId,
        part: Option<TablePart<'_>>,
    ) -> Result<()> {
        self.context.bind()?;
        match (&table.table_banks, &mut self.adapters.stage) {
            (Some(banks), Some(stage)) => banks.install(stage, self.dtype, bank, part),
            _ => Err(internal!("{} has no room for adapters", table.name)),
        }
    }

    /// `Device::embed`.
    pub(super) fn look_up(&self, table: &Weight, scale: f32, out: &Tensor) -> Result<()> {
        let rows = self.rows();
        let out = out.at(rows, table.inputs, "embed");
        if let Some(banks) = table.table_banks.as_ref().filter(|_| self.slots.batch.adapters) {
            return self.look_up_adapted(rows, table, banks, scale, out);
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
        banks: &TableBanks,
        scale: f32,
        out: u64,
    ) -> Result<()> {
        let device = &self.reserved()?.steps.device;
        let address = banks.memory.address;
        let [b, ranks] = banks.offsets().map(|offset| address + offset as u64);
        self.kernels.embed_adapted.launch(
            &self.context,
            [rows, 1],
            ROW_THREADS,
            &[
                &device.token.address,
                &device.bank_of.address,
                &table.matrix(),
                &(table.outputs as u32),
                &(table.inputs as u32),
                &scale,
                &address,
                &b,
                &ranks,
                &(banks.room.rank as u32),
                &out,
            ],
        )
    }
}
