//! Low-rank adapters behind a weight on the GPU: their adapter slots, the way adapters get there,
//! and the two launches around a GEMM. `Cuda`'s linear ops and `logits` call it; it knows no
//! sequence: which adapter slot a row uses, the kernels read from what the step's first kernel
//! wrote.
//!
//! Everything is allocated at load. An installation goes through two pinned buffers on the one
//! stream, so steps that were enqueued before still see the old adapter slot and nothing waits for
//! it but the host, while the stream reaches the copies.

use std::sync::Arc;

use super::codes::NO_ACTIVATION;
use super::context::{Context, Event};
use super::gemm_small_m::End;
use super::memory::{Memory, Pinned};
use super::weights::Weight;
use super::Cuda;
use crate::device::{AdapterCapacity, AdapterPart, DType};
use crate::error::Result;
use crate::ids::AdapterSlotId;
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

/// Adapters of one weight, in one piece of memory: A `[adapter slot][part][rank][inputs]`, B
/// transposed `[adapter slot][rank][outputs]`, ranks `[adapter slot][part]`.
pub struct AdapterMatrices {
    memory: Memory,
    capacity: AdapterCapacity,
    /// Outputs of each part.
    parts: Vec<usize>,
    inputs: usize,
    outputs: usize,
    element_bytes: usize,
}

impl AdapterMatrices {
    fn new(
        context: &Arc<Context>,
        (inputs, outputs): (usize, usize),
        parts: &[usize],
        capacity: AdapterCapacity,
        dtype: DType,
    ) -> Result<AdapterMatrices> {
        if parts.len() > PARTS_MAX || parts.iter().sum::<usize>() != outputs {
            return Err(internal!("adapters for parts {parts:?} of {outputs} outputs"));
        }
        let element_bytes = dtype.bytes();
        let a = capacity.slots * parts.len() * capacity.rank * inputs * element_bytes;
        let b = capacity.slots * capacity.rank * outputs * element_bytes;
        let bytes = aligned(a) + aligned(b) + 4 * capacity.slots * parts.len();
        let memory = Memory::new(context, bytes, "LoRA adapters (max_loras, max_lora_rank)")?;
        // Ranks of 0: an adapter slot that nobody filled does nothing.
        memory.fill(0)?;
        let parts = parts.to_vec();
        Ok(AdapterMatrices { memory, capacity, parts, inputs, outputs, element_bytes })
    }

    fn b_offset(&self) -> usize {
        let rows = self.capacity.slots * self.parts.len() * self.capacity.rank;
        aligned(rows * self.inputs * self.element_bytes)
    }

    /// Where the ranks are.
    fn ranks(&self) -> u64 {
        self.memory.address + self.ranks_offset() as u64
    }

    fn ranks_offset(&self) -> usize {
        let b = self.capacity.slots * self.capacity.rank * self.outputs * self.element_bytes;
        self.b_offset() + aligned(b)
    }

    fn install(
        &self,
        stage: &mut Stage,
        dtype: DType,
        slot: AdapterSlotId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        let (count, slot) = (self.parts.len(), slot.index());
        if slot >= self.capacity.slots || parts.len() != count {
            return Err(internal!(
                "{} parts for slot {slot} of {}",
                parts.len(),
                self.capacity.slots
            ));
        }
        let (size, rank) = (self.element_bytes, self.capacity.rank);
        let mut ranks = Vec::with_capacity(4 * count);
        let mut b = vec![0u8; rank * self.outputs * size];
        let (mut first, mut highest) = (0, 0);
        for (n, (part, &outputs)) in parts.iter().zip(&self.parts).enumerate() {
            let mut rows = 0;
            if let Some(part) = part {
                if part.a.dtype != dtype || part.b.dtype != dtype {
                    return Err(internal!("an adapter of another type than {dtype:?}"));
                }
                rows = part.rank(self.inputs, outputs, self.capacity)?;
                let at = (slot * count + n) * rank * self.inputs * size;
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
        let at = self.b_offset() + slot * rank * self.outputs * size;
        stage.put(&self.memory, at, &b[..highest * self.outputs * size])?;
        stage.put(&self.memory, self.ranks_offset() + 4 * slot * count, &ranks)
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
    /// Some weight has adapter slots.
    pub(super) stage: Option<Stage>,
    /// A x of one row at most: parts times rank.
    width: usize,
    /// A x of a step's rows, f32.
    low: Option<Memory>,
    /// Token rows of a step at most; 0 before `reserve`.
    step_tokens: usize,
}

impl Adapters {
    /// Before the first step; weights that get adapter slots later are as welcome.
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
    pub(super) fn make_adapters(
        &mut self,
        weight: &mut Weight,
        parts: &[usize],
        capacity: AdapterCapacity,
    ) -> Result<()> {
        let shape = (weight.inputs, weight.outputs);
        weight.adapters =
            Some(AdapterMatrices::new(&self.context, shape, parts, capacity, self.dtype)?);
        self.adapters.width = self.adapters.width.max(parts.len() * capacity.rank);
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

    pub(super) fn fill_adapter_slot(
        &mut self,
        weight: &Weight,
        slot: AdapterSlotId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        self.context.bind()?;
        match (&weight.adapters, &mut self.adapters.stage) {
            (Some(slots), Some(stage)) => slots.install(stage, self.dtype, slot, parts),
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
        let Some(slots) = weight.adapters.as_ref().filter(|_| self.slots.batch.adapters) else {
            return self.product(rows, weight, bias, end, [x, y]);
        };
        let outputs = weight.outputs;
        // Before the product, whose weights then come while these sums are made.
        self.shrink(rows, slots, end, x)?;
        if end == End::Logits {
            self.product(rows, weight, bias, end, [x, y])?;
            return self.expand(rows, slots, end, y);
        }
        let sums = match end {
            End::Gated(_) => self.scratch(rows * outputs * self.dtype.bytes())?,
            End::Act(_) | End::Logits => y,
        };
        self.product(rows, weight, 0, End::Act(NO_ACTIVATION), [x, sums])?;
        self.expand(rows, slots, end, sums)?;
        self.finish(rows, outputs, bias, end, [sums, y])
    }

    /// Blocks across the rows, and how many of them share a window.
    fn tiles(rows: usize, slots: &AdapterMatrices) -> (usize, u32) {
        let window = rows.min(WINDOW);
        // Each adapter slot of a window ends with a tile that is not full.
        let slots = slots.capacity.slots.min(window);
        let tiles = ((window + slots * (TILE_ROWS - 1)) / TILE_ROWS).clamp(1, MOST_TILES);
        (rows.div_ceil(WINDOW) * tiles, tiles as u32)
    }

    fn low(&self) -> Result<u64> {
        let low = self.adapters.low.as_ref().ok_or_else(|| internal!("a step before reserve"))?;
        Ok(low.address)
    }

    /// Token rows of logits rows; 0: the rows are token rows.
    fn row_of(&self, end: End) -> Result<u64> {
        match end {
            End::Logits => Ok(self.reserved()?.steps.device.gather_row.address),
            End::Act(_) | End::Gated(_) => Ok(0),
        }
    }

    /// low = A x, of each row's adapter slot.
    fn shrink(&self, rows: usize, slots: &AdapterMatrices, end: End, x: u64) -> Result<()> {
        let device = &self.reserved()?.steps.device;
        let (count, rank) = (slots.parts.len(), slots.capacity.rank);
        let (across, tiles) = Cuda::tiles(rows, slots);
        self.kernels.adapter_shrink.launch(
            &self.context,
            [across, splits(rows) * (count * rank).div_ceil(A_ROWS)],
            32 * WARPS as u32,
            &[
                &x,
                &(rows as u32),
                &tiles,
                &device.adapter_slot_of.address,
                &self.row_of(end)?,
                &slots.memory.address,
                &slots.ranks(),
                &(slots.inputs as u32),
                &(count as u32),
                &(rank as u32),
                &(splits(rows) as u32),
                &self.low()?,
            ],
        )
    }

    /// y += B low, of each row's adapter slot.
    fn expand(&self, rows: usize, slots: &AdapterMatrices, end: End, y: u64) -> Result<()> {
        let device = &self.reserved()?.steps.device;
        let (count, rank, outputs) = (slots.parts.len(), slots.capacity.rank, slots.outputs);
        let end0 = slots.parts[0];
        let end1 = end0 + slots.parts.get(1).copied().unwrap_or(outputs - end0);
        let wide = [outputs, end0, end1].iter().all(|end| end.is_multiple_of(8));
        let per_block = COLUMNS * if wide { 8 } else { 1 };
        let (across, tiles) = Cuda::tiles(rows, slots);
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
                &device.adapter_slot_of.address,
                &self.row_of(end)?,
                &self.low()?,
                &(slots.memory.address + slots.b_offset() as u64),
                &slots.ranks(),
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
