//! The states of the CPU device: what layers keep of each sequence beside pages, and copies of it.
//! It knows neither sequences nor what a state means.

use super::buffer::Buffer;
use crate::device::{DeviceLimits, StateShape};
use crate::error::Result;
use crate::ids::{SlotId, SnapshotId};

/// `[slots, then snapshots][layer][matrices | last inputs]`, in f32.
pub struct StatePool {
    memory: Buffer<f32>,
    shape: StateShape,
    slots: usize,
}

/// A layer's part of a state.
pub struct LayerState<'a> {
    /// `[head][row][column]`
    pub matrices: &'a mut [f32],
    /// `[tail_rows][tail_width]`, oldest first.
    pub tail: &'a mut [f32],
}

impl StatePool {
    /// # Errors
    /// Unavailable: no memory for so many states.
    pub fn new(limits: &DeviceLimits) -> Result<StatePool> {
        let shape = limits.state;
        let entries = limits.slots.saturating_add(limits.snapshots);
        let len = entries.saturating_mul(entry_len(&shape));
        let memory = Buffer::zeroed(len).map_err(|e| e.context("states: "))?;
        Ok(StatePool { memory, shape, slots: limits.slots })
    }

    /// Copy a slot's state.
    pub fn save(&mut self, slot: SlotId, snapshot: SnapshotId) {
        self.copy(slot.index(), self.slots + snapshot.index());
    }

    /// Copy it back, to any slot.
    pub fn restore(&mut self, slot: SlotId, snapshot: SnapshotId) {
        self.copy(self.slots + snapshot.index(), slot.index());
    }

    fn copy(&mut self, from: usize, to: usize) {
        let len = entry_len(&self.shape);
        self.memory.copy_within(from * len..(from + 1) * len, to * len);
    }

    /// A layer's part of the state of each of these slots, which differ, in their order.
    pub fn of_slots(
        &mut self,
        layer: usize,
        slots: impl Iterator<Item = SlotId>,
    ) -> Vec<LayerState<'_>> {
        let matrices_len = matrices_len(&self.shape);
        let layer_len = matrices_len + tail_len(&self.shape);
        let entries = self.memory.chunks_exact_mut(entry_len(&self.shape).max(1));
        let mut entries: Vec<_> = entries.take(self.slots).map(Some).collect();
        let taken = slots.filter_map(|slot| entries.get_mut(slot.index())?.take());

        let layers = taken.map(|entry| &mut entry[layer * layer_len..(layer + 1) * layer_len]);
        let parts = layers.map(|layer| layer.split_at_mut(matrices_len));
        parts.map(|(matrices, tail)| LayerState { matrices, tail }).collect()
    }
}

fn matrices_len(shape: &StateShape) -> usize {
    shape.heads.saturating_mul(shape.rows).saturating_mul(shape.columns)
}

fn tail_len(shape: &StateShape) -> usize {
    shape.tail_rows.saturating_mul(shape.tail_width)
}

fn entry_len(shape: &StateShape) -> usize {
    shape.layers.saturating_mul(matrices_len(shape).saturating_add(tail_len(shape)))
}
