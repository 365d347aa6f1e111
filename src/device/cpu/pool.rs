//! Encoders on the CPU: attention over a whole sequence without pages, and token rows to vectors.
//! `Cpu` calls it. As everywhere on this device, a row's numbers depend on its sequence alone.

use std::ops::Range;

use parking_lot::Mutex;

use super::attention::{score, softmax, weigh};
use super::buffer::Tensor;
use super::simd::{dots, with_isa, Isa};
use super::{Cpu, SHARED_FROM_ATTENTION_MACS};
use crate::device::slots::Slots;
use crate::device::{AttnSpec, Pooling};
use crate::error::Result;
use crate::internal;
use crate::plan::StepResult;

/// K and V of all rows of a step, each `[kv head][row][d]`: a head's rows follow each other.
struct Turned {
    k: Vec<f32>,
    v: Vec<f32>,
    rows: usize,
}

impl Turned {
    fn new(spec: &AttnSpec, qkv: &Tensor, rows: usize) -> Turned {
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let turned = |from: usize| -> Vec<f32> {
            let head = |h: usize| {
                let at = from + h * spec.head_dim;
                (0..rows).flat_map(move |r| &qkv.row(r)[at..at + spec.head_dim])
            };
            (0..spec.kv_heads).flat_map(head).copied().collect()
        };
        Turned { k: turned(q), v: turned(q + kv), rows }
    }
}

/// `Device::attend_all`.
pub(super) fn attend_all(dev: &Cpu, spec: &AttnSpec, qkv: &Tensor, out: &mut Tensor) -> Result<()> {
    let batch = &dev.slots.batch;
    for logits_row in &batch.logits {
        batch.whole(logits_row)?;
    }
    if batch.logits.len() != batch.sequences().count() {
        return Err(internal!("attention over a prompt that is not fed to its end"));
    }
    let turned = Turned::new(spec, qkv, batch.rows.len());
    let q = spec.heads * spec.head_dim;
    let sequences = || batch.sequences().flat_map(|s| s.clone().map(move |row| (row, s.clone())));
    let keys: usize = batch.sequences().map(|s| s.len() * s.len()).sum();
    let worth_it = batch.rows.len() > 1 && 2 * keys * q >= SHARED_FROM_ATTENTION_MACS;
    let width = out.width;
    let todo = Mutex::new(out.data.chunks_exact_mut(width).zip(sequences()));
    dev.workers.share(worth_it, &|| {
        let mut scores = Vec::new();
        loop {
            let Some((out, (row, sequence))) = todo.lock().next() else { return };
            let q = &qkv.row(row)[..q];
            with_isa(
                dev.isa,
                #[inline(always)]
                || attend_row(dev.isa, &turned, spec, sequence, q, out, &mut scores),
            );
        }
    });
    Ok(())
}

/// out = softmax(q k^T * scale) v for all heads of one row over the rows of its sequence.
#[inline(always)]
fn attend_row(
    isa: Isa,
    turned: &Turned,
    spec: &AttnSpec,
    sequence: Range<usize>,
    q: &[f32],
    out: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let d = spec.head_dim;
    let group = spec.heads / spec.kv_heads;
    scores.resize(sequence.len(), 0.0);
    for (head, (q, out)) in q.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
        let first = head / group * turned.rows;
        let range = (first + sequence.start) * d..(first + sequence.end) * d;
        dots(isa, q, &turned.k[range.clone()], scores);
        scores.iter_mut().for_each(|s| *s = score(spec, *s));
        let total = softmax(scores);
        out.fill(0.0);
        weigh(&turned.v[range], scores, out);
        let inverse = 1.0 / total;
        out.iter_mut().for_each(|o| *o *= inverse);
    }
}

/// `Device::pool`.
pub(super) fn pool(slots: &Slots, kind: Pooling, x: &Tensor, out: &mut Tensor) -> Result<()> {
    for (s, logits_row) in slots.batch.logits.iter().enumerate() {
        let out = out.row_mut(s);
        match kind {
            Pooling::Last => out.copy_from_slice(x.row(logits_row.row)),
            Pooling::First => out.copy_from_slice(x.row(slots.batch.whole(logits_row)?.start)),
            Pooling::Mean => {
                let rows = slots.batch.whole(logits_row)?;
                let count = rows.len() as f32;
                out.fill(0.0);
                for row in rows {
                    out.iter_mut().zip(x.row(row)).for_each(|(o, x)| *o += x);
                }
                out.iter_mut().for_each(|o| *o /= count);
            }
        }
    }
    Ok(())
}

/// `Device::hand_over`: the step's result.
pub(super) fn hand_over(slots: &Slots, pooled: &Tensor) -> StepResult {
    let mut result = StepResult { step: slots.batch.step, ..StepResult::default() };
    for (s, logits_row) in slots.batch.logits.iter().enumerate() {
        result.push_vector(logits_row.slot, pooled.row(s).to_vec());
    }
    result
}
