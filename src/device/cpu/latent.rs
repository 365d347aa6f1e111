//! Attention over latent vectors on the CPU. Each (token row, head) is computed alone and in the
//! order of positions, and products have the order of all others here, so batch mix and chunking
//! change no bit.

use parking_lot::Mutex;

use super::attention::{softmax, weigh, Run, Runs};
use super::buffer::Tensor;
use super::kv_pool::{Half, Pool};
use super::numbers;
use super::rope::RopeTable;
use super::simd::{dots, with_isa, Isa};
use super::weight::Weight;
use super::{Cpu, SHARED_FROM_ATTENTION_MACS};
use crate::device::{LatentOps, LatentSpec, Norm, Rope};
use crate::error::Result;
use crate::ids::PageId;
use crate::internal;

impl LatentOps for Cpu {
    fn multiply_heads(&mut self, weight: &Weight, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let rows = self.rows();
        if rows == 0 {
            return Ok(());
        }
        let stack = weight.stack();
        let heads = stack.len();
        let (x_dim, out_dim) = (x.width / heads, out.width / heads);
        let (mut input, mut output) = (Vec::new(), Vec::new());
        for (head, panels) in stack.iter().enumerate() {
            let (inputs, outputs) = (panels.inputs, panels.lanes.outputs);
            if inputs > x_dim || outputs > out_dim {
                return Err(internal!("{}: heads of {x_dim} and {out_dim}", weight.name));
            }

            input.clear();
            for r in 0..rows {
                input.extend_from_slice(&x.row(r)[head * x_dim..head * x_dim + inputs]);
            }
            output.resize(rows * outputs, 0.0);
            self.multiply(rows, panels, None, None, &input, &mut output);
            for (r, product) in output.chunks_exact(outputs).enumerate() {
                let at = head * out_dim;
                out.row_mut(r)[at..at + outputs].copy_from_slice(product);
            }
        }
        Ok(())
    }

    fn store_latent(
        &mut self,
        layer: usize,
        spec: &LatentSpec,
        norm: &Norm<Weight>,
        rope: &Rope,
        q: &Tensor,
        latent: &Tensor,
        queries: &mut Tensor,
    ) -> Result<()> {
        let Cpu { slots, ropes, pool, .. } = self;
        let pool = pool.as_mut().ok_or_else(|| internal!("no pages were reserved"))?;
        let last = slots.token_rows.iter().map(|r| r.position).max().unwrap_or(0);
        let table = RopeTable::among(ropes, rope, last);
        let weights = norm.weight.vector();

        let mut stored = vec![0.0; spec.width()];
        for (r, row) in slots.token_rows.iter().enumerate() {
            let vector = &latent.row(r)[..spec.width()];
            let (front, end) = stored.split_at_mut(spec.rank);
            numbers::norm(norm.kind, norm.eps, weights, None, &vector[..spec.rank], front);
            end.copy_from_slice(&vector[spec.rank..]);
            table.rotate(row.position, end);
            let pages = &slots.row(row.slot)?.pages;
            pool.store(layer, pages, row.position, Half::K, 0, &stored, 1.0);

            let heads = q.row(r).chunks_exact(spec.q_dim());
            let queries = queries.row_mut(r).chunks_exact_mut(spec.width());
            for (head, query) in heads.zip(queries) {
                let end = &mut query[spec.rank..];
                end.copy_from_slice(&head[spec.nope..]);
                table.rotate(row.position, end);
            }
        }
        Ok(())
    }

    fn attend_latent(
        &mut self,
        layer: usize,
        spec: &LatentSpec,
        queries: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let pool = self.pool.as_ref().ok_or_else(|| internal!("no pages were reserved"))?;
        let rows = &self.slots.token_rows;
        let keys: usize = rows.iter().map(|r| r.position + 1).sum();
        let macs = keys * spec.heads * (spec.width() + spec.rank);
        let worth_it = rows.len() > 1 && macs >= SHARED_FROM_ATTENTION_MACS;

        let width = out.width;
        let todo = Mutex::new(out.data.chunks_exact_mut(width).zip(rows).enumerate());
        let lost = Mutex::new(None);
        self.workers.share(worth_it, &|| {
            let mut scratch = Scratch::new(pool, spec.width());
            loop {
                let Some((r, (out, row))) = todo.lock().next() else { return };
                let keys = match self.slots.row(row.slot) {
                    Ok(slot) => {
                        let width = spec.width();
                        Keys { pool, layer, pages: &slot.pages, width, last: row.position }
                    }
                    Err(e) => return *lost.lock() = Some(e),
                };
                let queries = queries.row(r);
                with_isa(
                    self.isa,
                    #[inline(always)]
                    || attend_row(self.isa, &keys, spec, queries, out, &mut scratch),
                );
            }
        });

        lost.into_inner().map_or(Ok(()), Err)
    }
}

/// Working memory of one thread.
struct Scratch {
    /// `[heads, positions]`
    scores: Vec<f32>,
    /// Of each head, the sum of its weights.
    totals: Vec<f32>,
    /// Vectors of a page.
    converted: Vec<f32>,
}

impl Scratch {
    fn new(pool: &Pool, width: usize) -> Scratch {
        let converted = vec![0.0; pool.page_size * width];
        Scratch { scores: Vec::new(), totals: Vec::new(), converted }
    }
}

/// Latent vectors of a layer in the pages of one sequence, up to a position.
struct Keys<'a> {
    pool: &'a Pool,
    layer: usize,
    pages: &'a [PageId],
    /// Elements of a vector.
    width: usize,
    last: usize,
}

impl Keys<'_> {
    /// Those of a run, `[count, width]`.
    #[inline(always)]
    fn of<'b>(&'b self, run: &Run, converted: &'b mut [f32]) -> &'b [f32] {
        let from = self.pool.offset(self.layer, self.pages[run.page], Half::K, 0, run.token);
        self.pool.tokens(from, run.count * self.width, 1.0, converted)
    }
}

/// All heads of one token row: `queries` is `[heads, width]`, `out` `[heads, rank]`. Vectors of a
/// page are read twice for all heads.
#[inline(always)]
fn attend_row(
    isa: Isa,
    keys: &Keys,
    spec: &LatentSpec,
    queries: &[f32],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let (width, rank, seen) = (spec.width(), spec.rank, keys.last + 1);
    let Scratch { scores, totals, converted } = scratch;
    scores.resize(spec.heads * seen, 0.0);
    totals.resize(spec.heads, 0.0);

    for run in Runs::new(keys.pool.page_size, 0, keys.last) {
        let vectors = keys.of(&run, converted);
        for (q, scores) in queries.chunks_exact(width).zip(scores.chunks_exact_mut(seen)) {
            let scores = &mut scores[run.at..run.at + run.count];
            dots(isa, q, vectors, scores);
            scores.iter_mut().for_each(|s| *s *= spec.scale);
        }
    }
    for (total, scores) in totals.iter_mut().zip(scores.chunks_exact_mut(seen)) {
        *total = softmax(scores, None);
    }

    let out = &mut out[..spec.heads * rank];
    out.fill(0.0);
    for run in Runs::new(keys.pool.page_size, 0, keys.last) {
        let vectors = keys.of(&run, converted);
        for (out, scores) in out.chunks_exact_mut(rank).zip(scores.chunks_exact(seen)) {
            weigh(vectors, width, &scores[run.at..run.at + run.count], out);
        }
    }
    for (out, total) in out.chunks_exact_mut(rank).zip(totals.iter()) {
        let inverse = 1.0 / total;
        out.iter_mut().for_each(|o| *o *= inverse);
    }
}
