//! The memory of states on the GPU, and copies of them. `Cuda` reserves it, ops take addresses from
//! it; it knows no op.

use std::sync::Arc;

use super::abi;
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::memory::Memory;
use crate::device::{DType, DeviceLimits, StateShape};
use crate::error::{Error, Result};
use crate::plan::{SlotChange, StepPlan};

/// The states of all slots, then copies of states (kernels/abi_state.h).
pub struct States {
    memory: Memory,
    shape: StateShape,
    slots: usize,
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
        let entry = layer * shape.layers;
        let count = limits.slots + limits.snapshots;
        let memory = Memory::new(context, entry * count, "states of sequences")?;
        Ok(States { memory, shape, slots: limits.slots, entry, layer, matrices })
    }

    /// What a state holds.
    pub fn shape(&self) -> StateShape {
        self.shape
    }

    /// From one slot's state to the next one's.
    pub fn entry_bytes(&self) -> u64 {
        self.entry as u64
    }

    /// A layer's matrices in the state of slot 0.
    pub fn matrices(&self, layer: usize) -> DevicePtr {
        self.memory.address.offset_bytes(layer * self.layer)
    }

    /// A layer's last inputs in the state of slot 0.
    pub fn tails(&self, layer: usize) -> DevicePtr {
        self.matrices(layer).offset_bytes(self.matrices)
    }

    /// Copies that a plan asks for, on the stream and in the order of its changes.
    pub fn copy(&self, plan: &StepPlan) -> Result<()> {
        if self.entry == 0 {
            return Ok(());
        }
        for change in &plan.changes {
            let (from, to) = match change {
                SlotChange::SaveState { slot, snapshot } => {
                    (slot.index(), self.slots + snapshot.index())
                }
                SlotChange::RestoreState { slot, snapshot } => {
                    (self.slots + snapshot.index(), slot.index())
                }
                _ => continue,
            };
            self.memory.copy_within(from * self.entry, to * self.entry, self.entry)?;
        }
        Ok(())
    }
}
