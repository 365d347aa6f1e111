//! Attention on the CPU: over the pages of a sequence, or over its rows of this step. Each (token
//! row, head) is computed alone and in the order of positions, so batch mix and chunking change no
//! bit.

use std::ops::Range;

use parking_lot::Mutex;

use super::buffer::Tensor;
use super::kv_pool::{Half, Pool};
use super::numbers::{self, exp, tanh};
use super::rope::RopeTable;
use super::simd::{dots, with_isa, Isa};
use super::state::apply_gate;
use super::weight::Weight;
use super::{Cpu, SHARED_FROM_ATTENTION_MACS};
use crate::device::batch::BatchChunk;
use crate::device::host_slots::SlotRow;
use crate::device::{AttentionOps, AttnSpec, DeviceTypes, Gate, Join, KvScales, Norm, Rope};
use crate::error::Result;
use crate::ids::PageId;
use crate::internal;

impl AttentionOps for Cpu {
    fn norm_heads(
        &mut self,
        spec: &AttnSpec,
        q: &Norm<Weight>,
        k: &Norm<Weight>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        let q_width = spec.heads * spec.head_dim;
        let width = q_width + spec.kv_heads * spec.head_dim;
        if q.weight.join == Join::Sum {
            return self.norm_over_ranks(q, k, [q_width, width], qkv);
        }

        for r in 0..self.rows() {
            let (q_row, k_row) = qkv.row_mut(r)[..width].split_at_mut(q_width);
            for (norm, row) in [(q, q_row), (k, k_row)] {
                let w = norm.weight.vector();
                let part = spec.norm_part(norm.kind, w.len());
                let weights = w.chunks_exact(part).cycle();
                for (head, w) in row.chunks_exact_mut(part).zip(weights) {
                    let x = head.to_vec();
                    numbers::norm(norm.kind, norm.eps, w, None, &x, head);
                }
            }
        }
        Ok(())
    }

    fn values_of_keys(&mut self, spec: &AttnSpec, qk: &Tensor, qkv: &mut Tensor) -> Result<()> {
        let (q, kv) = (spec.q_width(), spec.kv_heads * spec.head_dim);
        for r in 0..self.rows() {
            let (from, to) = (qk.row(r), qkv.row_mut(r));
            to[..q + kv].copy_from_slice(&from[..q + kv]);
            to[q + kv..q + 2 * kv].copy_from_slice(&from[q..q + kv]);
        }
        Ok(())
    }

    fn rope_store(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        let Cpu { slots, ropes, pool, .. } = self;
        let pool = pool.as_mut().ok_or_else(|| internal!("no pages were reserved"))?;
        let last = slots.token_rows.iter().map(|r| r.position).max().unwrap_or(0);
        let table = rope.map(|rope| RopeTable::among(ropes, rope, last));

        let (q, kv) = (spec.q_width(), spec.own_kv_heads() * spec.head_dim);
        for (r, row) in slots.token_rows.iter().enumerate() {
            let SlotRow { pages, images, .. } = slots.row(row.slot)?;
            let vector = qkv.row_mut(r);
            if let Some(table) = table {
                match images.as_ref().filter(|_| table.has_axes()) {
                    None => turn(table, spec, row.position, vector),
                    Some(images) => {
                        let positions = images.positions_of(row.position);
                        let heads = vector[..q + kv].chunks_exact_mut(spec.head_dim);
                        heads.for_each(|h| table.rotate_by(positions, h));
                        grow(table, row.position, &mut vector[..q]);
                    }
                }
            }

            if spec.q_only {
                continue;
            }
            let (k, v) = vector[q..].split_at(kv);
            let KvScales { k: k_scale, v: v_scale } = spec.kv_scales;
            for (half, values, scale) in [(Half::K, k, k_scale), (Half::V, v, v_scale)] {
                for (head, values) in values.chunks_exact(spec.head_dim).enumerate() {
                    pool.store(layer, pages, row.position, half, head, values, scale);
                }
            }
        }
        Ok(())
    }

    fn rotate(&mut self, spec: &AttnSpec, rope: &Rope, qkv: &mut Tensor) -> Result<()> {
        let Cpu { slots, ropes, .. } = self;
        let last = slots.token_rows.iter().map(|r| r.position).max().unwrap_or(0);
        let table = RopeTable::among(ropes, rope, last);
        for (r, row) in slots.token_rows.iter().enumerate() {
            turn(table, spec, row.position, qkv.row_mut(r));
        }
        Ok(())
    }

    fn attend(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        sinks: Option<&Weight>,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let added = ScoresOfHeads { sinks: sinks.map(Weight::vector), slopes: None };
        self.attend_pages(layer, spec, added, qkv, out)
    }

    fn attend_alibi(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        slopes: &Weight,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let added = ScoresOfHeads { sinks: None, slopes: Some(slopes.vector()) };
        self.attend_pages(layer, spec, added, qkv, out)
    }

    fn gate_output(&mut self, gate: &Tensor, out: &mut Tensor) -> Result<()> {
        for r in 0..self.rows() {
            let mut gates = gate.row(r).to_vec();
            apply_gate(Gate::Sigmoid, &mut gates);
            out.row_mut(r).iter_mut().zip(gates).for_each(|(o, gate)| *o *= gate);
        }
        Ok(())
    }

    fn attend_all(&mut self, spec: &AttnSpec, qkv: &Tensor, out: &mut Tensor) -> Result<()> {
        let batch = self.slots.batch();
        batch.whole_sequences("attend_all")?;
        let turned = Turned::new(spec, qkv, batch.rows);

        let q = spec.heads * spec.head_dim;
        let keys: usize = batch.chunks.iter().map(|chunk| chunk.tokens * chunk.tokens).sum();
        let worth_it = batch.rows > 1 && 2 * keys * q >= SHARED_FROM_ATTENTION_MACS;

        let rows_of = |chunk: &BatchChunk| {
            let rows = chunk.rows();
            rows.clone().map(move |row| (row, seen(spec, row, &rows)))
        };
        let sequences = || batch.chunks.iter().flat_map(rows_of);
        let width = out.width;
        let todo = Mutex::new(out.data.chunks_exact_mut(width).zip(sequences()));

        self.workers.share(worth_it, &|| {
            let mut scores = Vec::new();
            loop {
                let Some((out, (row, sequence))) = todo.lock().next() else { return };
                let q = &qkv.row(row)[..q];
                with_isa(
                    self.isa,
                    #[inline(always)]
                    || attend_whole_row(self.isa, &turned, spec, sequence, q, out, &mut scores),
                );
            }
        });
        Ok(())
    }
}

impl Cpu {
    /// Attention over pages, with what heads add to scores.
    fn attend_pages(
        &self,
        layer: usize,
        spec: &AttnSpec,
        added: ScoresOfHeads,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let pool = self.pool.as_ref().ok_or_else(|| internal!("no pages were reserved"))?;
        let rows = &self.slots.token_rows;
        let q = spec.heads * spec.head_dim;
        let keys: usize = rows.iter().map(|r| r.position + 1).sum();
        let worth_it = rows.len() > 1 && 2 * keys * q >= SHARED_FROM_ATTENTION_MACS;

        let width = out.width;
        let todo = Mutex::new(out.data.chunks_exact_mut(width).zip(rows).enumerate());
        let lost = Mutex::new(None);
        self.workers.share(worth_it, &|| {
            let mut scratch = Scratch::new(pool, spec.head_dim);
            loop {
                let Some((r, (out, row))) = todo.lock().next() else { return };
                let slot = match self.slots.row(row.slot) {
                    Ok(slot) => slot,
                    Err(e) => return *lost.lock() = Some(e),
                };
                let keys = Keys { pool, layer, pages: &slot.pages };
                let seen = Seen::of(spec, slot, row.position);
                let q = &qkv.row(r)[..q];
                with_isa(
                    self.isa,
                    #[inline(always)]
                    || attend_row(self.isa, keys, spec, added, seen, q, out, &mut scratch),
                );
            }
        });

        lost.into_inner().map_or(Ok(()), Err)
    }

    /// Norm q and k, each over the elements of all ranks: `ends` of q and of k in a row. K may be
    /// held by several ranks, all of it equally often.
    fn norm_over_ranks(
        &mut self,
        q: &Norm<Weight>,
        k: &Norm<Weight>,
        ends: [usize; 2],
        qkv: &mut Tensor,
    ) -> Result<()> {
        let [q_end, k_end] = ends;
        let halves = [(q, 0..q_end), (k, q_end..k_end)];
        let rows = self.rows();
        let ranks = self.rank().of;

        let mut squares = Vec::with_capacity(2 * rows);
        for r in 0..rows {
            let row = qkv.row(r);
            let sums = halves.iter().map(|(_, part)| sum_of_squares(&row[part.clone()]));
            squares.extend(sums);
        }
        self.group(&q.weight.name)?.sum(&mut squares)?;

        for (r, squares) in squares.chunks_exact(2).enumerate() {
            for ((norm, part), sum) in halves.iter().zip(squares) {
                let mean = sum / (ranks * part.len()) as f32;
                let row = &mut qkv.row_mut(r)[part.clone()];
                let x = row.to_vec();
                numbers::rms_norm(norm.kind, norm.eps, norm.weight.vector(), mean, &x, row);
            }
        }
        Ok(())
    }
}

/// Rotate q and k in a row of q, k and v; q grows as the rope says.
fn turn(table: &RopeTable, spec: &AttnSpec, position: usize, vector: &mut [f32]) {
    let (q, kv) = (spec.q_width(), spec.own_kv_heads() * spec.head_dim);
    let heads = vector[..q + kv].chunks_exact_mut(spec.head_dim);
    heads.for_each(|head| table.rotate(position, head));
    grow(table, position, &mut vector[..q]);
}

fn grow(table: &RopeTable, position: usize, q: &mut [f32]) {
    if let Some(growth) = table.growth(position) {
        q.iter_mut().for_each(|x| *x *= growth);
    }
}

fn sum_of_squares(x: &[f32]) -> f32 {
    numbers::sum_by(x, |v| v * v)
}

/// What heads add: a score that has no value, and by what they lower scores with distance.
#[derive(Clone, Copy)]
struct ScoresOfHeads<'a> {
    sinks: Option<&'a [f32]>,
    slopes: Option<&'a [f32]>,
}

/// Working memory of one thread.
struct Scratch {
    /// `[q heads of a KV head, positions]`
    scores: Vec<f32>,
    /// Of each of these heads, the sum of its weights.
    totals: Vec<f32>,
    /// K or V of a page.
    converted: Vec<f32>,
}

impl Scratch {
    fn new(pool: &Pool, dim: usize) -> Scratch {
        Scratch {
            scores: Vec::new(),
            totals: Vec::new(),
            converted: vec![0.0; pool.page_size * dim],
        }
    }
}

/// Whose keys and values: a layer's, in the pages of one sequence.
#[derive(Clone, Copy)]
struct Keys<'a> {
    pool: &'a Pool,
    layer: usize,
    pages: &'a [PageId],
}

/// The keys that a row sees.
#[derive(Clone, Copy)]
struct Seen {
    first: usize,
    last: usize,
    /// Its own.
    position: usize,
}

impl Seen {
    /// Those before it, and those of its image.
    fn of(spec: &AttnSpec, slot: &SlotRow, position: usize) -> Seen {
        let [first, last] = match &slot.images {
            Some(images) => images.seen_from(position, spec.window.is_some()),
            None => [position; 2],
        };
        Seen { first: spec.first_key(position).min(first), last, position }
    }
}

/// out = softmax(q k^T * scale) v for all heads of one token row over what it sees. `q` is
/// `[heads, head_dim]`, as is `out`. K and V of a page are read once for all q heads that share
/// them.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn attend_row(
    isa: Isa,
    keys: Keys,
    spec: &AttnSpec,
    added: ScoresOfHeads,
    seen: Seen,
    q: &[f32],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let Keys { pool, layer, pages } = keys;
    let d = spec.head_dim;
    let group = spec.heads / spec.kv_heads;
    let Seen { first, last, position } = seen;
    let seen = last + 1 - first;
    let Scratch { scores, totals, converted } = scratch;
    scores.resize(group * seen, 0.0);
    totals.resize(group, 0.0);

    let heads = q.chunks_exact(group * d).zip(out.chunks_exact_mut(group * d));
    for (kv_head, (q, out)) in heads.enumerate() {
        for run in Runs::new(pool.page_size, first, last) {
            let from = pool.offset(layer, pages[run.page], Half::K, kv_head, run.token);
            let keys = pool.tokens(from, run.count * d, spec.kv_scales.k, converted);
            let of_heads = q.chunks_exact(d).zip(scores.chunks_exact_mut(seen)).enumerate();
            for (g, (q, scores)) in of_heads {
                let scores = &mut scores[run.at - first..run.at - first + run.count];
                dots(isa, q, keys, scores);
                scores.iter_mut().for_each(|s| *s = score(spec, *s));
                if let Some(slopes) = added.slopes {
                    lower(slopes[kv_head * group + g], position as f32 - run.at as f32, scores);
                }
            }
        }
        for (g, (total, scores)) in totals.iter_mut().zip(scores.chunks_exact_mut(seen)).enumerate()
        {
            *total = softmax(scores, added.sinks.map(|sinks| sinks[kv_head * group + g]));
        }

        out.fill(0.0);
        for run in Runs::new(pool.page_size, first, last) {
            let from = pool.offset(layer, pages[run.page], Half::V, kv_head, run.token);
            let values = pool.tokens(from, run.count * d, spec.kv_scales.v, converted);
            for (out, scores) in out.chunks_exact_mut(d).zip(scores.chunks_exact(seen)) {
                weigh(values, d, &scores[run.at - first..run.at - first + run.count], out);
            }
        }
        for (out, total) in out.chunks_exact_mut(d).zip(totals.iter()) {
            let inverse = 1.0 / total;
            out.iter_mut().for_each(|o| *o *= inverse);
        }
    }
}

/// out += sum over tokens of p * v; `values` is `[tokens, width]`, a v the front of a row. 32 sums
/// at a time stay in registers over the tokens, in whose order each of them is added up.
#[inline(always)]
pub(super) fn weigh(values: &[f32], width: usize, scores: &[f32], out: &mut [f32]) {
    const WIDE: usize = 32;
    let d = out.len();
    let mut column = 0;
    while column + WIDE <= d {
        let mut sums: [f32; WIDE] = std::array::from_fn(|i| out[column + i]);
        for (v, &p) in values.chunks_exact(width).zip(scores) {
            let v = &v[column..column + WIDE];
            sums.iter_mut().zip(v).for_each(|(o, &v)| *o += p * v);
        }
        out[column..column + WIDE].copy_from_slice(&sums);
        column += WIDE;
    }
    for (v, &p) in values.chunks_exact(width).zip(scores) {
        out[column..].iter_mut().zip(&v[column..]).for_each(|(o, &v)| *o += p * v);
    }
}

/// Positions of one page: `count` of them, the first is `at` in the sequence and `token` in the
/// page.
pub(super) struct Run {
    pub(super) at: usize,
    pub(super) page: usize,
    pub(super) token: usize,
    pub(super) count: usize,
}

/// Cuts `at..=last` at page borders.
pub(super) struct Runs {
    page_size: usize,
    at: usize,
    last: usize,
}

impl Runs {
    #[inline(always)]
    pub(super) fn new(page_size: usize, first: usize, last: usize) -> Runs {
        Runs { page_size, at: first, last }
    }
}

impl Iterator for Runs {
    type Item = Run;

    #[inline(always)]
    fn next(&mut self) -> Option<Run> {
        if self.at > self.last {
            return None;
        }
        let (at, page) = (self.at, self.at / self.page_size);
        let token = at % self.page_size;
        let count = (self.page_size - token).min(self.last + 1 - at);
        self.at += count;
        Some(Run { at, page, token, count })
    }
}

#[inline(always)]
fn score(spec: &AttnSpec, product: f32) -> f32 {
    let s = product * spec.scale;
    match spec.softcap {
        Some(cap) => cap * tanh(s / cap),
        None => s,
    }
}

/// Scores of keys that follow each other, the first `distance` in front of the query.
#[inline(always)]
fn lower(slope: f32, distance: f32, scores: &mut [f32]) {
    for (n, score) in scores.iter_mut().enumerate() {
        *score -= slope * (distance - n as f32);
    }
}

/// scores = e^(score - max); returns their sum, with the sink's.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32], sink: Option<f32>) -> f32 {
    let max = sink.map_or(numbers::max(scores), |sink| numbers::max(scores).max(sink));
    scores.iter_mut().for_each(|s| *s = exp(*s - max));
    let total = numbers::sum_by(scores, |p| p);
    sink.map_or(total, |sink| total + exp(sink - max))
}

/// K and V of all rows of a step, each `[kv head][row][d]`: a head's rows follow each other.
pub(super) struct Turned {
    k: Vec<f32>,
    v: Vec<f32>,
    rows: usize,
}

impl Turned {
    pub(super) fn new(spec: &AttnSpec, qkv: &Tensor, rows: usize) -> Turned {
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

/// The rows of a sequence that one of them sees.
fn seen(spec: &AttnSpec, row: usize, sequence: &Range<usize>) -> Range<usize> {
    match spec.window {
        Some(window) => {
            let first = (row + 1).saturating_sub(window).max(sequence.start);
            first..row.saturating_add(window).min(sequence.end)
        }
        None => sequence.clone(),
    }
}

pub(super) fn attend_whole_row(
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
        let total = softmax(scores, None);
        out.fill(0.0);
        weigh(&turned.v[range], d, scores, out);
        let inverse = 1.0 / total;
        out.iter_mut().for_each(|o| *o *= inverse);
    }
}
