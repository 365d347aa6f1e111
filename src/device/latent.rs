//! Attention over latent vectors (multi-head latent attention): of each token the pages hold one
//! vector for all heads. Its front, `rank` wide, makes K and V of every head by a matrix of the
//! head's; its end, `rotary` wide, is rotated and belongs to K alone. The matrices of K are
//! multiplied into q and those of V into what attention gives, so attention itself reads latent
//! vectors only: K is all of a vector, V its front.

use super::types::DeviceTypes;
use super::{Norm, Rope};
use crate::error::Result;

/// Shape and rule of such attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentSpec {
    /// Query heads.
    pub heads: usize,
    /// The front of a latent vector, of which V is made.
    pub rank: usize,
    /// Its end, which is rotated.
    pub rotary: usize,
    /// Of a head of q before its rotated end; what is multiplied by the matrix of K.
    pub nope: usize,
    /// Multiplies scores.
    pub scale: f32,
}

impl LatentSpec {
    /// Elements of a latent vector.
    pub fn width(&self) -> usize {
        self.rank + self.rotary
    }

    /// Elements of a head of q, as it is projected.
    pub fn q_dim(&self) -> usize {
        self.nope + self.rotary
    }
}

/// Ops of attention over latent vectors over the current batch.
pub trait LatentOps: DeviceTypes {
    /// `out[r, h, ..o] = x[r, h, ..i] W_h^T` with W_h `[o, i]`, the matrix of head h of a weight of
    /// kind `Heads`. Rows of x and out hold the heads one behind the other; what a head has behind
    /// the first i elements is not read, what it has behind the first o is left as it is.
    fn multiply_heads(
        &mut self,
        weight: &Self::Weight,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// Of q `[R, heads * (nope + rotary)]` and `latent` `[R, rank + rotary]`: norm the front of
    /// `latent` (RMS kinds only), rotate its end and the end of each head of q by their positions;
    /// write `latent` to the slots' pages of group 0, and the ends of q to those of the heads of
    /// `queries`, `[R, heads * (rank + rotary)]`.
    #[allow(clippy::too_many_arguments)]
    fn store_latent(
        &mut self,
        layer: usize,
        spec: &LatentSpec,
        norm: &Norm<Self::Weight>,
        rope: &Rope,
        q: &Self::Tensor,
        latent: &Self::Tensor,
        queries: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r, h]` = causal attention of `queries[r, h]` over the slot's latent vectors, positions
    /// 0..=position(r): weights by their products, sums of their fronts; `[R, heads * rank]`.
    fn attend_latent(
        &mut self,
        layer: usize,
        spec: &LatentSpec,
        queries: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
}
