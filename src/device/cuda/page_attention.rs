//! Attention over pages, by what they hold: K and V of heads, or latent vectors. `Cuda::begin` has
//! the work list of a step made here, the ops launch what they find. It knows no kernel.

use std::sync::Arc;

use super::context::Context;
use super::latent_attention::{self, LatentAttention};
use super::module::Kernels;
use super::paged_attention::{self, Attention};
use crate::device::batch::BatchChunk;
use crate::device::{DType, DeviceLimits, KvRow, KvShape};
use crate::error::Result;
use crate::internal;

/// Bytes for the parts of split sequences, at most.
pub fn parts_bytes(kv: &KvShape) -> usize {
    match kv.row {
        KvRow::Heads { kv_heads, head_dim } => paged_attention::parts_bytes(kv_heads, head_dim),
        KvRow::Latent { .. } => latent_attention::PARTS_BYTES,
    }
}

/// What attends to pages.
pub enum PageAttention {
    /// They hold K and V of heads.
    Heads(Attention),
    /// They hold latent vectors.
    Latent(LatentAttention),
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
        Ok(match limits.kv.row {
            KvRow::Heads { kv_heads, head_dim } => {
                let kv = limits.kv.dtype;
                let heads = Attention::new(context, kernels, dtype, kv, kv_heads, head_dim)?;
                PageAttention::Heads(heads)
            }
            KvRow::Latent { width } => {
                PageAttention::Latent(LatentAttention::new(context, kernels, dtype, width)?)
            }
        })
    }

    /// Make the work list of a step. Whether all steps with as many rows are launched alike.
    pub fn plan(&mut self, chunks: &[BatchChunk]) -> bool {
        match self {
            PageAttention::Heads(heads) => heads.plan(chunks),
            PageAttention::Latent(latent) => latent.plan(chunks),
        }
    }

    /// The work list, in words.
    pub fn words(&self) -> &[u32] {
        match self {
            PageAttention::Heads(heads) => heads.words(),
            PageAttention::Latent(latent) => latent.words(),
        }
    }

    /// # Errors
    /// Internal: pages hold latent vectors.
    pub fn heads(&mut self) -> Result<&mut Attention> {
        match self {
            PageAttention::Heads(heads) => Ok(heads),
            PageAttention::Latent(_) => Err(internal!("heads over pages of latent vectors")),
        }
    }

    /// # Errors
    /// Internal: pages hold K and V of heads.
    pub fn latent(&mut self) -> Result<&mut LatentAttention> {
        match self {
            PageAttention::Latent(latent) => Ok(latent),
            PageAttention::Heads(_) => Err(internal!("latent vectors over pages of heads")),
        }
    }
}
