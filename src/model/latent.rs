//! Attention over latent vectors in the forward pass: its buffers and the order of its ops, the
//! same for prompts and single tokens. Called by `decoder` layer by layer.

use super::config::LatentShape;
use super::weights::{LatentAttention, LatentQuery};
use crate::device::{Device, LatentSpec, Rope};
use crate::error::Result;
use crate::internal;

/// Activations, `[step_tokens, _]`.
pub(super) struct LatentBuffers<T> {
    shape: LatentShape,
    heads: usize,
    /// What q is made of, and the same normed; only where two products make it.
    low: Option<[T; 2]>,
    q: T,
    latent: T,
    /// q of each head as latent vectors are met.
    queries: T,
    /// Sums of latent vectors of each head.
    sums: T,
}

impl<T> LatentBuffers<T> {
    /// For so many of the model's heads.
    pub(super) fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        shape: &LatentShape,
        heads: usize,
        tokens: usize,
    ) -> Result<LatentBuffers<T>> {
        let low = match shape.q_rank {
            Some(rank) => Some([dev.tensor(tokens, rank)?, dev.tensor(tokens, rank)?]),
            None => None,
        };
        Ok(LatentBuffers {
            shape: *shape,
            heads,
            low,
            q: dev.tensor(tokens, heads * shape.q_dim())?,
            latent: dev.tensor(tokens, shape.width())?,
            queries: dev.tensor(tokens, heads * shape.width())?,
            sums: dev.tensor(tokens, heads * shape.rank)?,
        })
    }

    /// Attention of `input` into `out`, `[R, heads * value]`, before the output product.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn run<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        layer: usize,
        weights: &LatentAttention<D::Weight>,
        scale: f32,
        rope: Option<&Rope>,
        input: &T,
        out: &mut T,
    ) -> Result<()> {
        let LatentShape { rank, nope, rotary, .. } = self.shape;
        let spec = LatentSpec { heads: self.heads, rank, rotary, nope, scale };
        let Some(rope) = rope else {
            return Err(internal!("latent vectors that are not rotated"));
        };

        match (&weights.q, &mut self.low) {
            (LatentQuery::Whole(whole), _) => {
                dev.linear(&whole.weight, None, input, &mut self.q)?;
            }
            (LatentQuery::LowRank { down, norm, up }, Some([low, normed])) => {
                dev.linear(&down.weight, None, input, low)?;
                dev.norm(norm, low, normed)?;
                dev.linear(&up.weight, None, normed, &mut self.q)?;
            }
            (LatentQuery::LowRank { .. }, None) => {
                return Err(internal!("q of two products without their buffers"));
            }
        }
        dev.linear(&weights.latent.weight, None, input, &mut self.latent)?;

        dev.multiply_heads(&weights.keys, &self.q, &mut self.queries)?;
        let Self { q, latent, queries, .. } = self;
        dev.store_latent(layer, &spec, &weights.latent_norm, rope, q, latent, queries)?;
        dev.attend_latent(layer, &spec, &self.queries, &mut self.sums)?;
        dev.multiply_heads(&weights.values, &self.sums, out)
    }
}
