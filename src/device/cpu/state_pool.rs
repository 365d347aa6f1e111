//! The states of the CPU device: what layers keep of each sequence beside pages, and copies of it.
//! It knows neither sequences nor what a state means.

use super::buffer::Buffer;
use crate::device::batch::BatchChunk;
use crate::device::{DeviceLimits, StateCopy, StateShape};
use crate::error::Result;

/// `[place][layer][matrices | last inputs]`, in f32; places are those of `DeviceLimits`.
pub struct StatePool {
    memory: Buffer<f32>,
    limits: DeviceLimits,
}

/// A layer's part of a state.
pub struct LayerState<'a> {
    /// `[head][row][column]`
    pub matrices: &'a mut [f32],
    /// `[tail_rows][tail_width]`, oldest first.
    pub tail: &'a mut [f32],
}

/// A layer's states of a sequence that runs.
pub struct LayerStates<'a> {
    /// Moved on by the step.
    pub own: LayerState<'a>,
    /// Behind each row of its chunk but the last; none where the chunk has more than are kept.
    pub spares: Vec<LayerState<'a>>,
}

impl StatePool {
    /// # Errors
    /// Unavailable: no memory for so many states.
    pub fn new(limits: &DeviceLimits) -> Result<StatePool> {
        let len = limits.states().saturating_mul(entry_len(&limits.state));
        let memory = Buffer::zeroed(len).map_err(|e| e.context("states: "))?;
        Ok(StatePool { memory, limits: limits.clone() })
    }

    /// Copy a state.
    pub fn copy(&mut self, copy: &StateCopy) {
        let len = entry_len(&self.limits.state);
        let [from, to] = [copy.from, copy.to].map(|place| self.limits.state_place(place) * len);
        self.memory.copy_within(from..from + len, to);
    }

    /// A layer's part of the states of each of these sequences, whose slots differ, in their order.
    pub fn of_chunks(&mut self, layer: usize, chunks: &[BatchChunk]) -> Vec<LayerStates<'_>> {
        let DeviceLimits { state: shape, spares, slots, .. } = &self.limits;
        let entry_len = entry_len(shape).max(1);
        let of_slots = self.memory.chunks_exact_mut((1 + spares) * entry_len);
        let mut of_slots: Vec<_> = of_slots.take(*slots).map(Some).collect();
        let taken = chunks.iter().filter_map(|chunk| {
            let kept = if chunk.tokens <= 1 + spares { chunk.tokens - 1 } else { 0 };
            Some((of_slots.get_mut(chunk.slot.index())?.take()?, kept))
        });

        taken
            .filter_map(|(states, kept)| {
                let mut parts =
                    states.chunks_exact_mut(entry_len).map(|entry| of_layer(shape, layer, entry));
                let own = parts.next()?;
                Some(LayerStates { own, spares: parts.take(kept).collect() })
            })
            .collect()
    }
}

fn of_layer<'a>(shape: &StateShape, layer: usize, entry: &'a mut [f32]) -> LayerState<'a> {
    let matrices_len = matrices_len(shape);
    let layer_len = matrices_len + tail_len(shape);
    let part = &mut entry[layer * layer_len..(layer + 1) * layer_len];
    let (matrices, tail) = part.split_at_mut(matrices_len);
    LayerState { matrices, tail }
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
