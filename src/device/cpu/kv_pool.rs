//! The pages of the CPU device: K and V of all layers, or latent vectors, as stored. It knows
//! neither sequences nor heads' queries.

use half::{bf16, f16};

use super::buffer::Buffer;
use super::fp8::{self, E4M3, E5M2};
use super::numbers::{bf16_to_f32, f16_to_f32};
use crate::device::{DeviceLimits, KvRow, KvType};
use crate::error::Result;
use crate::ids::PageId;

enum Memory {
    F32(Buffer<f32>),
    F16(Buffer<u16>),
    BF16(Buffer<u16>),
    E4m3(Buffer<u8>),
    E5m2(Buffer<u8>),
}

/// Of each layer `[page][half][head][token][d]`; of latent vectors one half of one head.
pub struct Pool {
    memory: Memory,
    layers: Vec<Layer>,
    pub(super) page_size: usize,
}

/// How pages of a layer lie.
struct Layer {
    /// Its first element.
    start: usize,
    halves: usize,
    heads: usize,
    /// Elements of a head.
    dim: usize,
}

/// Which half of a page.
#[derive(Clone, Copy)]
pub enum Half {
    /// Keys, or latent vectors.
    K = 0,
    /// Values.
    V = 1,
}

impl Pool {
    /// # Errors
    /// Unavailable: no memory for so many pages.
    pub fn new(limits: &DeviceLimits) -> Result<Pool> {
        let mut len = 0usize;
        let layer = |row: &KvRow| {
            let start = len;
            let tokens = limits.pages.saturating_mul(limits.page_size);
            len = len.saturating_add(tokens.saturating_mul(row.elements()));
            match *row {
                KvRow::Heads { kv_heads, head_dim } => {
                    Layer { start, halves: 2, heads: kv_heads, dim: head_dim }
                }
                KvRow::Latent { width } => Layer { start, halves: 1, heads: 1, dim: width },
            }
        };
        let layers = limits.kv.rows.iter().map(layer).collect();
        let memory = match limits.kv.dtype {
            KvType::F32 => Buffer::zeroed(len).map(Memory::F32),
            KvType::F16 => Buffer::zeroed(len).map(Memory::F16),
            KvType::BF16 => Buffer::zeroed(len).map(Memory::BF16),
            KvType::E4m3 => Buffer::zeroed(len).map(Memory::E4m3),
            KvType::E5m2 => Buffer::zeroed(len).map(Memory::E5m2),
        };
        let memory = memory.map_err(|e| e.context("KV cache: "))?;
        Ok(Pool { memory, layers, page_size: limits.page_size })
    }

    #[inline(always)]
    pub(super) fn offset(
        &self,
        layer: usize,
        page: PageId,
        half: Half,
        head: usize,
        token: usize,
    ) -> usize {
        let Layer { start, halves, heads, dim } = self.layers[layer];
        let half = page.index() * halves + half as usize;
        start + ((half * heads + head) * self.page_size + token) * dim
    }

    /// Write one head's k or v of one position; in eight bits, divided by `scale`.
    #[allow(clippy::too_many_arguments)]
    pub fn store(
        &mut self,
        layer: usize,
        pages: &[PageId],
        position: usize,
        half: Half,
        head: usize,
        values: &[f32],
        scale: f32,
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
            Memory::E4m3(m) => {
                let out = m[range].iter_mut().zip(values);
                out.for_each(|(o, &x)| *o = fp8::encode::<E4M3>(x / scale));
            }
            Memory::E5m2(m) => {
                let out = m[range].iter_mut().zip(values);
                out.for_each(|(o, &x)| *o = fp8::encode::<E5M2>(x / scale));
            }
        }
    }

    /// `count` elements of one head as f32; converted into `scratch` if need be. Those of eight
    /// bits are multiplied with `scale`.
    #[inline(always)]
    pub(super) fn tokens<'a>(
        &'a self,
        at: usize,
        count: usize,
        scale: f32,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        let range = at..at + count;

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
            Memory::E4m3(m) => {
                let out = &mut scratch[..range.len()];
                let pairs = out.iter_mut().zip(&m[range]);
                pairs.for_each(|(o, &b)| *o = fp8::decode::<E4M3>(b) * scale);
                out
            }
            Memory::E5m2(m) => {
                let out = &mut scratch[..range.len()];
                let pairs = out.iter_mut().zip(&m[range]);
                pairs.for_each(|(o, &b)| *o = fp8::decode::<E5M2>(b) * scale);
                out
            }
        }
    }
}
