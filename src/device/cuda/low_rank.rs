//! What low-rank adapters hold on the GPU, behind a weight and behind a table, and the way it gets
//! there. `adapters` makes and fills it, the kernels read it (kernels/adapters.cu).
//!
//! Everything is allocated at load. An installation goes through two pinned buffers on the one
//! stream, so steps that were enqueued before still see the old adapter slot and nothing waits for
//! it but the host, while the stream reaches the copies.

use std::sync::Arc;

use super::abi;
use super::context::{Context, Event};
use super::device_ptr::DevicePtr;
use super::memory::{Memory, Pinned};
use crate::device::{AdapterCapacity, AdapterPart, DType, TablePart};
use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::internal;

/// Bytes of one pinned buffer.
const CHUNK_BYTES: usize = 4 << 20;
/// q, k and v.
const PARTS_MAX: usize = abi::ADAPTER_PARTS as usize;
/// Blocks that share a sum, where rows are few: in a decode step.
const SPLITS: usize = abi::SHRINK_SPLITS as usize;
const FEW_ROWS: usize = 256;

/// Blocks that share a sum over `rows` rows.
pub(super) fn splits(rows: usize) -> usize {
    if rows <= FEW_ROWS {
        SPLITS
    } else {
        1
    }
}

/// What all adapted weights of a device share.
#[derive(Default)]
pub struct Adapters {
    /// Some weight has adapter slots.
    pub(super) stage: Option<Stage>,
    /// A x of one row at most: parts times rank.
    pub(super) width: usize,
    /// A x of a step's rows, f32.
    pub(super) low: Option<Memory>,
    /// Token rows of a step at most; 0 before `reserve`.
    pub(super) step_tokens: usize,
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

/// Adapters of one weight, in one piece of memory: A `[adapter slot][part][rank][inputs]`, B
/// transposed `[adapter slot][rank][outputs]`, ranks `[adapter slot][part]`.
pub struct AdapterMatrices {
    pub(super) memory: Memory,
    pub(super) capacity: AdapterCapacity,
    /// Outputs of each part.
    pub(super) parts: Vec<usize>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) element_bytes: usize,
}

impl AdapterMatrices {
    pub(super) fn new(
        context: &Arc<Context>,
        inputs: usize,
        outputs: usize,
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

    pub(super) fn b_offset(&self) -> usize {
        let rows = self.capacity.slots * self.parts.len() * self.capacity.rank;
        aligned(rows * self.inputs * self.element_bytes)
    }

    /// Where B is.
    pub(super) fn b(&self) -> DevicePtr {
        self.memory.address.offset_bytes(self.b_offset())
    }

    /// Where the ranks are.
    pub(super) fn ranks(&self) -> DevicePtr {
        self.memory.address.offset_bytes(self.ranks_offset())
    }

    pub(super) fn ranks_offset(&self) -> usize {
        let b = self.capacity.slots * self.capacity.rank * self.outputs * self.element_bytes;
        self.b_offset() + aligned(b)
    }

    pub(super) fn install(
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
    buffers: Vec<(Pinned, Event)>,
    next: usize,
}

impl Stage {
    pub(super) fn new(context: &Arc<Context>) -> Result<Stage> {
        let buffer = |_| Ok((Pinned::new(context, CHUNK_BYTES)?, Event::new(context, false)?));
        Ok(Stage { buffers: (0..2).map(buffer).collect::<Result<_>>()?, next: 0 })
    }

    pub(super) fn put(&mut self, memory: &Memory, offset: usize, bytes: &[u8]) -> Result<()> {
        for (n, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            let (pinned, free) = &mut self.buffers[self.next];
            free.wait()?;
            pinned.bytes_mut()[..chunk.len()].copy_from_slice(chunk);
            memory.write_at(offset + n * CHUNK_BYTES, pinned, chunk.len())?;
            free.record()?;
            self.next = (self.next + 1) % self.buffers.len();
        }
        Ok(())
    }
}

/// Adapters of one table, in one piece of memory: A `[adapter slot][row of the table][rank]`, each
/// adapter slot with room for the largest rank, B transposed `[adapter slot][largest rank][width]`,
/// ranks `[adapter slot]`.
pub struct TableAdapterMatrices {
    pub(super) memory: Memory,
    pub(super) capacity: AdapterCapacity,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) element_bytes: usize,
}

impl TableAdapterMatrices {
    pub(super) fn new(
        context: &Arc<Context>,
        rows: usize,
        width: usize,
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
    pub(super) fn slot_bytes(&self) -> [usize; 2] {
        [self.rows, self.width].map(|n| self.capacity.rank * n * self.element_bytes)
    }

    /// Where B begins, and where the ranks do.
    pub(super) fn offsets(&self) -> [usize; 2] {
        let [a, b] = self.slot_bytes().map(|bytes| aligned(self.capacity.slots * bytes));
        [a, a + b]
    }

    pub(super) fn install(
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

/// Device memory is aligned to 256 bytes, and so is each of its parts.
pub(super) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}
