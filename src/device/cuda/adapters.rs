//! Low-rank adapters behind a weight on the GPU: their banks, the way adapters get there, and the
//! two launches around a GEMM. `Cuda`'s linear ops and `logits` call it; it knows no sequence:
//! which bank a row uses, the kernels read from what the step's first kernel wrote.
//!
//! Everything is allocated at load. An installation goes through two pinned buffers on the one
//! stream, so steps that were enqueued before still see the old bank and nothing waits for it but
//! the host, while the stream reaches the copies.

use std::sync::Arc;

use super::codes::NO_ACTIVATION;
use super::context::{Context, Event};
use super::memory::{Memory, Pinned};
use super::skinny::End;
use super::weights::Weight;
use super::Cuda;
use crate::device::{AdapterPart, AdapterRoom, DType};
use crate::error::Result;
use crate::ids::BankId;
use crate::internal;

/// Bytes of one pinned buffer.
const CHUNK_BYTES: usize = 4 << 20;
/// As in kernels/adapters.cu.
const WARPS: usize = 16;
const WINDOW: usize = 32;
const TILE_ROWS: usize = 8;
const COLUMNS: usize = 128;
const EXPAND_THREADS: usize = 2 * COLUMNS;
/// Rows of A of a block.
const A_ROWS: usize = 16;
/// Blocks that share a sum, where rows are few: in a decode step.
const SPLITS: usize = 4;
const FEW_ROWS: usize = 256;
/// Blocks that share a window's tiles, at most.
const MOST_TILES: usize = 8;
/// q, k and v.
const PARTS_MAX: usize = 3;

/// Banks of one weight, in one piece of memory: A `[bank][part][rank][inputs]`, B transposed
/// `[bank][rank][outputs]`, ranks `[bank][part]`.
pub struct Banks {
    memory: Memory,
    room: AdapterRoom,
    /// Outputs of each part.
    parts: Vec<usize>,
    inputs: usize,
    outputs: usize,
    element_bytes: usize,
}

impl Banks {
    fn new(
        context: &Arc<Context>,
        (inputs, outputs): (usize, usize),
        parts: &[usize],
        room: AdapterRoom,
        dtype: DType,
    ) -> Result<Banks> {
        if parts.len() > PARTS_MAX || parts.iter().sum::<usize>() != outputs {
            return Err(internal!("adapters for parts {parts:?} of {outputs} outputs"));
        }
        let element_bytes = dtype.bytes();
        let a = room.banks * parts.len() * room.rank * inputs * element_bytes;
        let b = room.banks * room.rank * outputs * element_bytes;
        let bytes = aligned(a) + aligned(b) + 4 * room.banks * parts.len();
        let memory = Memory::new(context, bytes, "LoRA adapters (max_loras, max_lora_rank)")?;
        // Ranks of 0: a bank that nobody filled does nothing.
        memory.fill(0)?;
        let parts = parts.to_vec();
        Ok(Banks { memory, room, parts, inputs, outputs, element_bytes })
    }

    fn b_offset(&self) -> usize {
        let rows = self.room.banks * self.parts.len() * self.room.rank;
        aligned(rows * self.inputs * self.element_bytes)
    }

    /// Where the ranks are.
    fn ranks(&self) -> u64 {
        self.memory.address + self.ranks_offset() as u64
    }

    fn ranks_offset(&self) -> usize {
        let b = self.room.banks * self.room.rank * self.outputs * self.element_bytes;
        self.b_offset() + aligned(b)
    }

    fn install(
        &self,
        stage: &mut Stage,
        dtype: DType,
        bank: BankId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        let (count, bank) = (self.parts.len(), bank.index());
        if bank >= self.room.banks || parts.len() != count {
            return Err(internal!("{} parts for bank {bank} of {}", parts.len(), self.room.banks));
        }
        let (size, rank) = (self.element_bytes, self.room.rank);
        let mut ranks = Vec::with_capacity(4 * count);
        let mut b = vec![0u8; rank * self.outputs * size];
        let (mut first, mut highest) = (0, 0);
        for (n, (part, &outputs)) in parts.iter().zip(&self.parts).enumerate() {
            let mut rows = 0;
            if let Some(part) = part {
                if part.a.dtype != dtype || part.b.dtype != dtype {
                    return Err(internal!("an adapter of another type than {dtype:?}"));
                }
                rows = part.rank(self.inputs, outputs, self.room)?;
                let at = (bank * count + n) * rank * self.inputs * size;
                stage.put(&self.memory, at, &part.a.bytes.load()?)?;
                let from = part.b.bytes.load()?;
                for (to, from) in
                    b.chunks_exact_mut(self.outputs * size).zip(from.chunks_exact(outputs * size))
                {
                    to[first * size..(first + outputs) * size].copy_from_slice(from);
                }
            }
            ranks.extend((rows as u32).to_le_bytes());
            highest = highest.max(rows);
            first += outputs;
        }
        let at = self.b_offset() + bank * rank * self.outputs * size;
        stage.put(&self.memory, at, &b[..highest * self.outputs * size])?;
        stage.put(&self.memory, self.ranks_offset() + 4 * bank * count, &ranks)
    }
}

/// Two pinned buffers that take turns.
pub(super) struct Stage {
    lanes: Vec<(Pinned, Event)>,
    next: usize,
}

impl Stage {
    fn new(context: &Arc<Context>) -> Result<Stage> {
        let lane = |_| Ok((Pinned::new(context, CHUNK_BYTES)?, Event::new(context, false)?));
        Ok(Stage { lanes: (0..2).map(lane).collect::<Result<_>>()?, next: 0 })
    }

    pub(super) fn put(&mut self, memory: &Memory, offset: usize, bytes: &[u8]) -> Result<()> {
        for (n, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            let (pinned, free) = &mut self.lanes[self.next];
            free.wait()?;
            pinned.bytes_mut()[..chunk.len()].copy_from_slice(chunk);
            memory.write_at(offset + n * CHUNK_BYTES, pinned, chunk.len())?;
            free.record()?;
            self.next = (self.next + 1) % self.lanes.len();
        }
        Ok(())
    }
}

/// What all adapted weights of a device share.
#[derive(Default)]
pub struct Adapters {
    /// Some weight has banks.
    pub(super) stage: Option<Stage>,
    /// A x of one row at most: parts times rank.
    width: usize,
    /// A x of a step's rows, f32.
    low: Option<Memory>,
    /// Token rows of a step at most; 0 before `reserve`.
    step_tokens: usize,
}

impl Adapters {
    /// Before the first step; weights that get banks later are as welcome.
    pub fn reserve(&mut self, context: &Arc<Context>, step_tokens: usize) -> Result<()> {
        self.step_tokens = step_tokens;
        let bytes = 4 * step_tokens.max(SPLITS * FEW_ROWS) * self.width;
        if self.low.as_ref().map_or(0, |low| low.bytes) < bytes {
            self.low = Some(Memory::new(context, bytes, "products of LoRA adapters")?);
        }
        Ok(())
    }
}

impl Cuda {
    pub(super) fn make_banks(
        &mut self,
        weight: &mut Weight,
        parts: &[usize],
        room: AdapterRoom,
    ) -> Result<()> {
        let shape = (weight.inputs, weight.outputs);
        weight.banks = Some(Banks::new(&self.context, shape, parts, room, self.dtype)?);
        self.adapters.width = self.adapters.width.max(parts.len() * room.rank);
        self.make_stage()?;
        let context = self.context.clone();
        self.adapters.reserve(&context, self.adapters.step_tokens)
    }

    pub(super) fn make_stage(&mut self) -> Result<()> {
        if self.adapters.stage.is_none() {
            self.adapters.stage = Some(Stage::new(&self.context)?);
        }
        Ok(())
    }

    pub(super) fn fill_bank(
        &mut self,
        weight: &Weight,
        bank: BankId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        self.context.bind()?;
        match (&weight.banks, &mut self.adapters.stage) {
            (Some(banks), Some(stage)) => banks.install(stage, self.dtype, bank, parts),
            _ => Err(internal!("{} has no room for adapters", weight.name)),
        }
    }

    /// y = end(x W^T + what the rows' adapters give + bias). Addresses as in [`Cuda::product`].
    pub(super) fn adapted_product(
        &mut self,
        rows: usize,
        weight: &Weight,
        bias: u64,
        end: End,
        [x, y]: [u64; 2],
    ) -> Result<()> {
        let Some(banks) = weight.banks.as_ref().filter(|_| self.slots.batch.adapters) else {
            return self.product(rows, weight, bias, end, [x, y]);
        };
        let outputs = weight.outputs;
        // Before the product, whose weights then come while these sums are made.
        self.shrink(rows, banks, end, x)?;
        if end == End::Logits {
            self.product(rows, weight, bias, end, [x, y])?;
            return self.expand(rows, banks, end, y);
        }
        let sums = match end {
            End::Gated(_) => self.scratch(rows * outputs * self.dtype.bytes())?,
            End::Act(_) | End::Logits => y,
        };
        self.product(rows, weight, 0, End::Act(NO_ACTIVATION), [x, sums])?;
        self.expand(rows, banks, end, sums)?;
        self.finish(rows, outputs, bias, end, [sums, y])
    }

    /// Blocks across the rows, and how many of them share a window.
    fn tiles(rows: usize, banks: &Banks) -> (usize, u32) {
        let window = rows.min(WINDOW);
        // Each bank of a window ends with a tile that is not full.
        let banks = banks.room.banks.min(window);
        let tiles = ((window + banks * (TILE_ROWS - 1)) / TILE_ROWS).clamp(1, MOST_TILES);
        (rows.div_ceil(WINDOW) * tiles, tiles as u32)
    }

    fn low(&self) -> Result<u64> {
        let low = self.adapters.low.as_ref().ok_or_else(|| internal!("a step before reserve"))?;
        Ok(low.address)
    }

    /// Token rows of rows of logits; 0: the rows are token rows.
    fn row_of(&self, end: End) -> Result<u64> {
        match end {
            End::Logits => Ok(self.reserved()?.steps.device.gather_row.address),
            End::Act(_) | End::Gated(_) => Ok(0),
        }
    }

    /// low = A x, of each row's bank.
    fn shrink(&self, rows: usize, banks: &Banks, end: End, x: u64) -> Result<()> {
        let device = &self.reserved()?.steps.device;
        let (count, rank) = (banks.parts.len(), banks.room.rank);
        let (across, tiles) = Cuda::tiles(rows, banks);
        self.kernels.adapter_shrink.launch(
            &self.context,
            [across, splits(rows) * (count * rank).div_ceil(A_ROWS)],
            32 * WARPS as u32,
            &[
                &x,
                &(rows as u32),
                &tiles,
                &device.bank_of.address,
                &self.row_of(end)?,
                &banks.memory.address,
                &banks.ranks(),
                &(banks.inputs as u32),
                &(count as u32),
                &(rank as u32),
                &(splits(rows) as u32),
                &self.low()?,
            ],
        )
    }

    /// y += B low, of each row's bank.
    fn expand(&self, rows: usize, banks: &Banks, end: End, y: u64) -> Result<()> {
        let device = &self.reserved()?.steps.device;
        let (count, rank, outputs) = (banks.parts.len(), banks.room.rank, banks.outputs);
        let end0 = banks.parts[0];
        let end1 = end0 + banks.parts.get(1).copied().unwrap_or(outputs - end0);
        let wide = [outputs, end0, end1].iter().all(|end| end.is_multiple_of(8));
        let per_block = COLUMNS * if wide { 8 } else { 1 };
        let (across, tiles) = Cuda::tiles(rows, banks);
        let kernel = match end {
            End::Logits => &self.kernels.adapter_expand_logits,
            End::Act(_) | End::Gated(_) => &self.kernels.adapter_expand,
        };
        kernel.launch(
            &self.context,
            [across, outputs.div_ceil(per_block)],
            EXPAND_THREADS as u32,
            &[
                &y,
                &(rows as u32),
                &tiles,
                &device.bank_of.address,
                &self.row_of(end)?,
                &self.low()?,
                &(banks.memory.address + banks.b_offset() as u64),
                &banks.ranks(),
                &(outputs as u32),
                &(count as u32),
                &(rank as u32),
                &(splits(rows) as u32),
                &(end0 as u32),
                &(end1 as u32),
            ],
        )
    }
}

fn splits(rows: usize) -> usize {
    if rows <= FEW_ROWS {
        SPLITS
    } else {
        1
    }
}

/// Device memory is aligned to 256 bytes, and so is each of its parts.
pub(super) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}
