//! Attention over pages, by what they hold: K and V of heads, or latent vectors. `Cuda::begin` has
//! the work list of a step made here, the ops launch what they find. It knows no kernel. Where
//! layers have heads of different shapes, each shape has a list of its own.

use std::sync::Arc;

use super::context::Context;
use super::latent_attention::{self, LatentAttention};
use super::module::Kernels;
use super::paged_attention::{self, Attention};
use super::shared_keys::SharedKeys;
use super::worklist::KeysEnd;
use crate::device::batch::BatchChunk;
use crate::device::{AttnSpec, DType, DeviceLimits, KvRow, KvShape};
use crate::error::Result;
use crate::internal;

/// What a layer reads less, at least, where keys that sequences share are read once: 12 us out of
/// an H200's L2, where what they share often is. Rotation, shared keys and their parts take as long
/// (ci/runs/2026-11-30-h200-shared.md).
pub const LEAST_SHARED_BYTES: usize = 144 << 20;
/// Keys of a layer that L2 does not hold beside everything else are read from memory again, in more
/// than twice the time.
const HELD_BYTES: usize = 48 << 20;

/// Bytes for the parts of split sequences, at most.
pub fn parts_bytes(kv: &KvShape) -> usize {
    let of_kind = |row: KvRow| match row {
        KvRow::Heads { kv_heads, head_dim } => paged_attention::parts_bytes(kv_heads, head_dim),
        KvRow::Latent { .. } => latent_attention::PARTS_BYTES,
    };
    kv.kinds().into_iter().map(of_kind).sum()
}

/// What attends to pages.
pub enum PageAttention {
    /// They hold K and V of heads, of some shapes.
    Heads {
        /// Of each shape.
        shapes: Vec<Attention>,
        /// Of each layer the shape that it has.
        of_layer: Vec<usize>,
        /// The lists of all shapes, where there are several.
        words: Vec<u32>,
    },
    /// They hold latent vectors.
    Latent(Box<LatentAttention>),
}

impl PageAttention {
    /// # Errors
    /// No memory for the parts of split sequences.
    pub fn new(
        context: &Arc<Context>,
        kernels: &Kernels,
        dtype: DType,
        limits: &DeviceLimits,
    ) -> Result<PageAttention> {
        let kinds = limits.kv.kinds();
        if let Some(KvRow::Latent { width }) = kinds.first() {
            let latent = LatentAttention::new(context, kernels, dtype, *width)?;
            return Ok(PageAttention::Latent(Box::new(latent)));
        }

        let mut shapes = Vec::with_capacity(kinds.len());
        for kind in &kinds {
            let KvRow::Heads { kv_heads, head_dim } = *kind else {
                return Err(internal!("pages of heads and of latent vectors"));
            };
            let heads = [kv_heads, head_dim];
            shapes.push(Attention::new(context, kernels, dtype, limits, heads)?);
        }
        let shape_of = |row: &KvRow| kinds.iter().position(|kind| kind == row).unwrap_or(0);
        let of_layer = limits.kv.rows.iter().map(shape_of).collect();
        Ok(PageAttention::Heads { shapes, of_layer, words: Vec::new() })
    }

    /// What `find` finds of keys that sequences share, if a layer reads at least so many bytes out
    /// of L2 less where they are read once; nothing where they cannot be.
    pub fn shared_keys(
        &self,
        least_bytes: usize,
        find: impl FnOnce() -> Vec<SharedKeys>,
    ) -> Vec<SharedKeys> {
        let PageAttention::Heads { shapes, .. } = self else { return Vec::new() };
        let key_bytes = shapes.iter().filter_map(Attention::shared_key_bytes).max();
        let Some(key_bytes) = key_bytes else { return Vec::new() };

        let mut shared = find();
        let saved = |group: &SharedKeys| {
            let cost = if group.keys * key_bytes > HELD_BYTES { 2 } else { 1 };
            cost * key_bytes * group.saved()
        };
        if shared.iter().map(saved).sum::<usize>() < least_bytes {
            shared.clear();
        }
        shared
    }

    /// Make the work list of a step, in which `shared` keys are read once. Whether all steps with
    /// as many rows are launched alike that share keys as this one does.
    pub fn plan(
        &mut self,
        chunks: &[BatchChunk],
        keys_end: KeysEnd<'_>,
        shared: &[SharedKeys],
    ) -> bool {
        let (shapes, words) = match self {
            PageAttention::Latent(latent) => return latent.plan(chunks),
            PageAttention::Heads { shapes, words, .. } => (shapes, words),
        };
        words.clear();
        let several = shapes.len() > 1;
        let rows = chunks.iter().map(|chunk| chunk.tokens).sum();
        let mut repeats = true;
        for shape in shapes {
            let start = words.len();
            repeats &= shape.plan(chunks, keys_end, shared, start);
            if several {
                words.extend_from_slice(shape.words());
                // Where the next list begins is part of a recorded launch.
                let end = words.len().max(start + shape.most_words(rows));
                words.resize(end, 0);
            }
        }
        repeats
    }

    /// The work list, in words.
    pub fn words(&self) -> &[u32] {
        match self {
            PageAttention::Heads { shapes, .. } if shapes.len() == 1 => shapes[0].words(),
            PageAttention::Heads { words, .. } => words,
            PageAttention::Latent(latent) => latent.words(),
        }
    }

    /// Of the shape of a layer's heads.
    ///
    /// # Errors
    /// Internal: pages hold latent vectors; there is no such layer.
    pub fn heads(&mut self, layer: usize) -> Result<&mut Attention> {
        let PageAttention::Heads { shapes, of_layer, .. } = self else {
            return Err(internal!("heads over pages of latent vectors"));
        };
        let shape = of_layer.get(layer).and_then(|&shape| shapes.get_mut(shape));
        shape.ok_or_else(|| internal!("layer {layer} has no pages"))
    }

    /// See [`Attention::rotates`], of a layer.
    pub fn rotates(&self, layer: usize, spec: &AttnSpec, half: usize) -> bool {
        let PageAttention::Heads { shapes, of_layer, .. } = self else { return false };
        let shape = of_layer.get(layer).and_then(|&shape| shapes.get(shape));
        shape.is_some_and(|shape| shape.rotates(spec, half))
    }

    /// # Errors
    /// Internal: pages hold K and V of heads.
    pub fn latent(&mut self) -> Result<&mut LatentAttention> {
        match self {
            PageAttention::Latent(latent) => Ok(latent),
            PageAttention::Heads { .. } => Err(internal!("latent vectors over pages of heads")),
        }
    }
}
