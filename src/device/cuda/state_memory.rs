//! The memory of states on the GPU, and copies of them. `Cuda` reserves it, ops take addresses from
//! it; it knows no op.

use std::sync::Arc;

use super::abi;
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::memory::Memory;
use crate::device::batch::Batch;
use crate::device::{DType, DeviceLimits, StateShape, SPARES_MAX};
use crate::error::{Error, Result};
use crate::internal;

// A chunk of drafts goes token by token: chunks.cu writes no spares.
const _: () = assert!(1 + SPARES_MAX < abi::RULE_TOKENS as usize);

/// The states of all slots, then copies of states (kernels/abi_state.h).
pub struct States {
    memory: Memory,
    limits: DeviceLimits,
    /// Bytes of a sequence's state, of a layer in it, and of the layer's matrices.
    entry: usize,
    layer: usize,
    matrices: usize,
}

impl States {
    /// # Errors
    /// Unsupported: keys wider than the kernel holds. No memory.
    pub fn new(context: &Arc<Context>, limits: &DeviceLimits, dtype: DType) -> Result<States> {
        const WIDEST: usize = abi::DELTA_MAX_KEY_DIM as usize;
        let shape = limits.state;
        if shape.columns > WIDEST {
            return Err(Error::Unsupported(format!(
                "keys of {} elements in layers that keep a state are not supported on GPUs, at \
                 most {WIDEST} are.",
                shape.columns
            )));
        }

        let matrices = shape.matrix_bytes() as usize;
        let layer = matrices + shape.tail_bytes(dtype.bytes()) as usize;
        if limits.spares > SPARES_MAX {
            return Err(internal!("{} spares of {SPARES_MAX}", limits.spares));
        }
        let entry = layer * shape.layers;
        let memory = Memory::new(context, entry * limits.states(), "states of sequences")?;
        Ok(States { memory, limits: limits.clone(), entry, layer, matrices })
    }

    /// What a state holds.
    pub fn shape(&self) -> StateShape {
        self.limits.state
    }

    /// From one slot's state to the next one's.
    pub fn slot_bytes(&self) -> u64 {
        self.entry_bytes() * (1 + self.limits.spares as u64)
    }

    /// From a slot's state to its first spare, and from there to the next one.
    pub fn entry_bytes(&self) -> u64 {
        self.entry as u64
    }

    /// Spares of a slot.
    pub fn spares(&self) -> u32 {
        self.limits.spares as u32
    }

    /// A layer's matrices in the state of slot 0.
    pub fn matrices(&self, layer: usize) -> DevicePtr {
        self.memory.address.offset_bytes(layer * self.layer)
    }

    /// A layer's last inputs in the state of slot 0.
    pub fn tails(&self, layer: usize) -> DevicePtr {
        self.matrices(layer).offset_bytes(self.matrices)
    }

    /// Copies in front of a step, on the stream and in their order.
    pub fn copy(&self, batch: &Batch) -> Result<()> {
        if self.entry == 0 {
            return Ok(());
        }
        for copy in &batch.state_copies {
            let place = |place| self.limits.state_place(place) * self.entry;
            self.memory.copy_within(place(copy.from), place(copy.to), self.entry)?;
        }
        Ok(())
    }
}
