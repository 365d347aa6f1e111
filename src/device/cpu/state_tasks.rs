//! The work of a step on matrices of layers that keep a state: a task for each head of each
//! sequence, shared out over threads. `state` makes them; nothing here knows what is computed.

use parking_lot::Mutex;

use super::buffer::Tensor;
use super::simd::{with_isa, Isa};
use super::state_pool::LayerStates;
use super::workers::Workers;
use super::SHARED_FROM_STATE_MACS;
use crate::device::batch::BatchChunk;

/// A sequence's rows of one head.
pub(super) struct Task<'a> {
    pub chunk: &'a BatchChunk,
    pub head: usize,
    /// `[rows of a matrix][columns]`
    pub matrix: &'a mut [f32],
    /// The matrix behind each row but the last, where that is kept.
    pub spares: Vec<&'a mut [f32]>,
    /// `[token rows][rows of a matrix]`, what comes of them.
    pub y: Vec<f32>,
}

/// The tasks of these sequences, of so many heads whose matrices have `shape`: rows and columns.
pub(super) fn tasks_of<'a>(
    chunks: &'a [BatchChunk],
    states: Vec<LayerStates<'a>>,
    heads: usize,
    shape: [usize; 2],
) -> Vec<Task<'a>> {
    let len = shape[0] * shape[1];
    let mut tasks = Vec::with_capacity(chunks.len() * heads);
    for (chunk, LayerStates { own, spares }) in chunks.iter().zip(states) {
        let mut kept: Vec<_> =
            spares.into_iter().map(|spare| spare.matrices.chunks_exact_mut(len)).collect();
        for (head, matrix) in own.matrices.chunks_exact_mut(len).take(heads).enumerate() {
            let spares = kept.iter_mut().filter_map(Iterator::next).collect();
            let y = vec![0.0; chunk.tokens * shape[0]];
            tasks.push(Task { chunk, head, matrix, spares, y });
        }
    }
    tasks
}

/// Run all tasks, by several threads if so many multiplications are worth it.
pub(super) fn share<'a>(
    workers: &Workers,
    isa: Isa,
    macs: usize,
    tasks: &mut [Task<'a>],
    run: impl Fn(&mut Task<'a>) + Sync,
) {
    let worth_it = tasks.len() > 1 && macs >= SHARED_FROM_STATE_MACS;
    let todo = Mutex::new(tasks.iter_mut());
    workers.share(worth_it, &|| loop {
        let Some(task) = todo.lock().next() else { return };
        with_isa(
            isa,
            #[inline(always)]
            || run(task),
        );
    });
}

/// What came of all tasks, each head of `width` columns in its place.
pub(super) fn write_heads(tasks: &[Task], width: usize, out: &mut Tensor) {
    for Task { chunk, head, y, .. } in tasks {
        let columns = head * width..(head + 1) * width;
        for (row, y) in chunk.rows().zip(y.chunks_exact(width)) {
            out.row_mut(row)[columns.clone()].copy_from_slice(y);
        }
    }
}
