//! The KV pool and attention over its pages, with rope. Each (token row, head) is computed alone
//! and in the order of positions, so batch mix and chunking change no bit.

use half::{bf16, f16};

use super::buffer::Buffer;
use super::numbers::{self, bf16_to_f32, exp, f16_to_f32, tanh};
use super::simd::{dots, Isa};
use crate::device::{AttnSpec, DType, DeviceLimits, KvShape, Rope};
use crate::error::Result;
use crate::ids::PageId;

enum Memory {
    F32(Buffer<f32>),
    F16(Buffer<u16>),
    BF16(Buffer<u16>),
}

/// `[layer][page][K|V][kv head][token][d]`.
pub struct Pool {
    memory: Memory,
    shape: KvShape,
    pages: usize,
    page_size: usize,
}

#[derive(Clone, Copy)]
pub enum Half {
    K = 0,
    V = 1,
}

impl Pool {
    /// # Errors
    /// Unavailable: no memory for so many pages.
    pub fn new(limits: &DeviceLimits) -> Result<Pool> {
        let shape = limits.kv.clone();
        let per_page = 2 * shape.kv_heads * limits.page_size * shape.head_dim;
        let len = shape.layers.saturating_mul(limits.pages).saturating_mul(per_page);
        let memory = match shape.dtype {
            DType::F32 => Buffer::zeroed(len).map(Memory::F32),
            DType::F16 => Buffer::zeroed(len).map(Memory::F16),
            DType::BF16 => Buffer::zeroed(len).map(Memory::BF16),
        };
        let memory = memory.map_err(|e| e.context("KV cache: "))?;
        Ok(Pool { memory, shape, pages: limits.pages, page_size: limits.page_size })
    }

    #[inline(always)]
    fn offset(&self, layer: usize, page: PageId, half: Half, head: usize, token: usize) -> usize {
        let page = (layer * self.pages + page.index()) * 2 + half as usize;
        ((page * self.shape.kv_heads + head) * self.page_size + token) * self.shape.head_dim
    }

    /// Write one head's k or v of one position.
    pub fn store(
        &mut self,
        layer: usize,
        pages: &[PageId],
        position: usize,
        half: Half,
        head: usize,
        values: &[f32],
    ) {
        let page = pages[position / self.page_size];
        let at = self.offset(layer, page, half, head, position % self.page_size);
        let range = at..at + values.len();
        match &mut self.memory {
            Memory::F32(m) => m[range].copy_from_slice(values),
            Memory::F16(m) => {
                let out = m[range].iter_mut().zip(values);
                out.for_each(|(o, &x)| *o = f16::from_f32(x).to_bits());
            }
            Memory::BF16(m) => {
                let out = m[range].iter_mut().zip(values);
                out.for_each(|(o, &x)| *o = bf16::from_f32(x).to_bits());
            }
        }
    }

    /// `count` tokens from the start of a page as f32, `[count, d]`; converted into `scratch` if
    /// need be.
    #[inline(always)]
    fn tokens<'a>(&'a self, at: usize, count: usize, scratch: &'a mut [f32]) -> &'a [f32] {
        let range = at..at + count * self.shape.head_dim;
        match &self.memory {
            Memory::F32(m) => &m[range],
            Memory::F16(m) => {
                let out = &mut scratch[..range.len()];
                out.iter_mut().zip(&m[range]).for_each(|(o, &h)| *o = f16_to_f32(h));
                out
            }
            Memory::BF16(m) => {
                let out = &mut scratch[..range.len()];
                out.iter_mut().zip(&m[range]).for_each(|(o, &h)| *o = bf16_to_f32(h));
                out
            }
        }
    }
}

/// Working memory of one thread.
pub struct Scratch {
    scores: Vec<f32>,
    converted: Vec<f32>,
}

impl Scratch {
    pub fn new(pool: &Pool) -> Scratch {
        Scratch { scores: Vec::new(), converted: vec![0.0; pool.page_size * pool.shape.head_dim] }
    }
}

/// Whose keys and values: a layer's, in the pages of one sequence.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub pool: &'a Pool,
    pub layer: usize,
    pub pages: &'a [PageId],
}

/// out = softmax(q k^T * scale) v for all heads of one token row at `position`. `q` is
/// `[heads, head_dim]`, as is `out`.
#[inline(always)]
pub fn attend_row(
    isa: Isa,
    keys: Keys,
    spec: &AttnSpec,
    position: usize,
    q: &[f32],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let Keys { pool, layer, pages } = keys;
    let d = spec.head_dim;
    let group = spec.heads / spec.kv_heads;
    let first = spec.window.map_or(0, |w| (position + 1).saturating_sub(w));
    let Scratch { scores, converted } = scratch;
    scores.resize(position + 1 - first, 0.0);
    for (head, (q, out)) in q.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
        let kv_head = head / group;
        for run in Runs::new(pool.page_size, first, position) {
            let from = pool.offset(layer, pages[run.page], Half::K, kv_head, run.token);
            let keys = pool.tokens(from, run.count, converted);
            let scores = &mut scores[run.at - first..run.at - first + run.count];
            dots(isa, q, keys, scores);
            scores.iter_mut().for_each(|s| *s = score(spec, *s));
        }
        let total = softmax(scores);
        out.fill(0.0);
        for run in Runs::new(pool.page_size, first, position) {
            let from = pool.offset(layer, pages[run.page], Half::V, kv_head, run.token);
            let values = pool.tokens(from, run.count, converted);
            let scores = &scores[run.at - first..run.at - first + run.count];
            weigh(values, scores, out);
        }
        let inverse = 1.0 / total;
        out.iter_mut().for_each(|o| *o *= inverse);
    }
}

/// out += sum over tokens of p * v; `values` is `[tokens, d]`. 32 sums at a time stay in registers
/// over the tokens, in whose order each of them is added up.
#[inline(always)]
pub(super) fn weigh(values: &[f32], scores: &[f32], out: &mut [f32]) {
    const WIDE: usize = 32;
    let d = out.len();
    let mut column = 0;
    while column + WIDE <= d {
        let mut sums: [f32; WIDE] = std::array::from_fn(|i| out[column + i]);
        for (v, &p) in values.chunks_exact(d).zip(scores) {
            let v = &v[column..column + WIDE];
            sums.iter_mut().zip(v).for_each(|(o, &v)| *o += p * v);
        }
        out[column..column + WIDE].copy_from_slice(&sums);
        column += WIDE;
    }
    for (v, &p) in values.chunks_exact(d).zip(scores) {
        out[column..].iter_mut().zip(&v[column..]).for_each(|(o, &v)| *o += p * v);
    }
}

/// Positions of one page: `count` of them, the first is `at` in the sequence and `token` in the
/// page.
struct Run {
    at: usize,
    page: usize,
    token: usize,
    count: usize,
}

/// Cuts `at..=last` at page borders.
struct Runs {
    page_size: usize,
    at: usize,
    last: usize,
}

impl Runs {
    #[inline(always)]
    fn new(page_size: usize, first: usize, last: usize) -> Runs {
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
pub(super) fn score(spec: &AttnSpec, product: f32) -> f32 {
    let s = product * spec.scale;
    match spec.softcap {
        Some(cap) => cap * tanh(s / cap),
        None => s,
    }
}

/// scores = e^(score - max); returns their sum.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32]) -> f32 {
    let max = numbers::max(scores);
    scores.iter_mut().for_each(|s| *s = exp(*s - max));
    numbers::sum_by(scores, |p| p)
}

/// cos and sin by position, filled as positions come up; one per set of frequencies.
pub struct RopeTable {
    rope: Rope,
    /// `[position][cos | sin][rotary_dim / 2]`
    rows: Vec<f32>,
}

impl RopeTable {
    pub fn new(rope: &Rope) -> RopeTable {
        RopeTable { rope: rope.clone(), rows: Vec::new() }
    }

    pub fn is_for(&self, rope: &Rope) -> bool {
        self.rope == *rope
    }

    /// Make room for positions up to `last`.
    pub fn extend_to(&mut self, last: usize) {
        let width = self.rope.rotary_dim;
        for position in self.rows.len() / width..=last {
            let angles = self.rope.inv_freq.iter().map(|f| position as f32 * f);
            let magnitude = self.rope.magnitude;
            self.rows.extend(angles.clone().map(|a| a.cos() * magnitude));
            self.rows.extend(angles.map(|a| a.sin() * magnitude));
        }
    }

    /// Rotate one head: element i pairs with i + rotary_dim / 2.
    #[inline(always)]
    pub fn rotate(&self, position: usize, head: &mut [f32]) {
        let width = self.rope.rotary_dim;
        let row = &self.rows[position * width..(position + 1) * width];
        let (cos, sin) = row.split_at(width / 2);
        let (low, high) = head[..width].split_at_mut(width / 2);
        for (((a, b), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}
