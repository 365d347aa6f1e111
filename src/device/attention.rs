//! Attention: q, k and v of the current batch, the pages of its sequences, and what is done to
//! heads before they meet.

use std::sync::Arc;

use super::dtype::KvScales;
use super::types::DeviceTypes;
use super::{Norm, NormKind};
use crate::error::Result;

/// Rotation of q and k ("neox": element i pairs with i + rotary_dim / 2).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Rotated dimensions of a head, from the front; the rest pass through. 0: q grows at most.
    pub rotary_dim: usize,
    /// `rotary_dim / 2` inverse frequencies, scaling already applied.
    pub inv_freq: Vec<f32>,
    /// Multiplies cos and sin (yarn, longrope); else 1.
    pub magnitude: f32,
    /// q grows with its position, all dimensions of it.
    pub growth: Option<QueryGrowth>,
    /// Of each frequency by which of a token's three positions it turns (0, 1 or 2), in sequences
    /// with images; None: all by the first, as in texts.
    pub axes: Option<Arc<[u8]>>,
}

/// Rotated q times 1 + beta ln(1 + floor((position + ahead) / length)), as Llama 4 and Ministral 3
/// keep attention sharp over long texts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryGrowth {
    /// Above 0.
    pub beta: f32,
    /// Positions are counted from here on.
    pub ahead: u32,
    /// Positions before the first step; above 0.
    pub length: u32,
}

/// Shape and rule of one layer's attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttnSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Multiplies q.k, e.g. head_dim^-0.5.
    pub scale: f32,
    /// Key j is visible to query i if i - j < window (and j <= i); in `attend_all` if |i - j| <
    /// window.
    pub window: Option<usize>,
    /// Positions are cut into runs of so many; key j is visible to query i if both are of one run
    /// (and j <= i). There is no window then.
    pub chunk: Option<usize>,
    /// cap * tanh(s / cap) on scores, before the mask.
    pub softcap: Option<f32>,
    /// Of K and V in pages of eight bits.
    pub kv_scales: KvScales,
    /// K and V are those that another layer stored: rows hold q alone.
    pub q_only: bool,
}

impl AttnSpec {
    /// Elements of a row of q|k|v, or of q alone.
    pub fn row_width(&self) -> usize {
        self.q_width() + 2 * self.own_kv_heads() * self.head_dim
    }

    /// Elements of q in a row.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// KV heads that a row holds.
    pub fn own_kv_heads(&self) -> usize {
        if self.q_only {
            0
        } else {
            self.kv_heads
        }
    }

    /// Elements that a norm of q or k with so many weights works on at a time.
    pub fn norm_part(&self, kind: NormKind, weights: usize) -> usize {
        match kind {
            NormKind::Layer => self.head_dim,
            NormKind::Rms | NormKind::RmsPlusOne => weights,
        }
    }

    /// The first key that is visible at `position`.
    pub fn first_key(&self, position: usize) -> usize {
        match (self.chunk, self.window) {
            (Some(chunk), _) => position / chunk * chunk,
            (None, Some(window)) => (position + 1).saturating_sub(window),
            (None, None) => 0,
        }
    }
}

/// Ops of attention over the current batch.
pub trait AttentionOps: DeviceTypes {
    /// In `[R, (heads + 2 kv_heads) * head_dim]` q|k|v, before `rope_store`: norm q and k in place.
    /// Norm weights of `head_dim` elements work on each head alone, those of `heads * head_dim` (k:
    /// `kv_heads * head_dim`) over all heads together, with `Join::Sum` over those of all ranks.
    /// The kind `Layer` works on each head alone, whether weights are a head's or all heads'.
    fn norm_heads(
        &mut self,
        spec: &AttnSpec,
        q: &Norm<Self::Weight>,
        k: &Norm<Self::Weight>,
        qkv: &mut Self::Tensor,
    ) -> Result<()>;

    /// `qkv` of rows q|k: v is k as it is; `[R, (heads + kv_heads) * head_dim]` ->
    /// `[R, (heads + 2 kv_heads) * head_dim]`.
    fn values_of_keys(
        &mut self,
        spec: &AttnSpec,
        qk: &Self::Tensor,
        qkv: &mut Self::Tensor,
    ) -> Result<()>;

    /// In `[R, (heads + 2 kv_heads) * head_dim]` q|k|v: rotate q and k by their positions (no rope:
    /// leave them), let q grow if the rope says so, then write k and v of `layer` to the slots'
    /// pages of group 0. Pages of eight bits get k / scale and v / scale rounded to the nearest
    /// number of their type, ties to even; what is beyond the largest becomes the largest. Rows of
    /// q alone are rotated, and nothing is written.
    fn rope_store(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut Self::Tensor,
    ) -> Result<()>;

    /// The same without pages: q and k in `qkv` are rotated, and nothing is stored.
    fn rotate(&mut self, spec: &AttnSpec, rope: &Rope, qkv: &mut Self::Tensor) -> Result<()>;

    /// `out[r]` = causal attention of q in `qkv` over the slot's pages, positions 0..=position(r);
    /// `[R, heads * head_dim]`. Any mix of chunks and single rows. Pages of eight bits are read as
    /// number * scale, the step's own tokens like all others. `sinks`: a score for each head that
    /// takes its share of the weights and has no value; scale and cap do not touch it. Where images
    /// of a sequence are seen both ways, their tokens see all of their image too, in the
    /// layers and whatever the window as `BothWays` says: the step feeds such an image to its end.
    /// A device may make a `rope_store` right in front of it as part of it: what `qkv` holds
    /// afterwards is not said.
    fn attend(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        sinks: Option<&Self::Weight>,
        qkv: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// The same without sinks, where score of head h, key j and query i is lowered by
    /// `slopes[h] * (i - j)`, behind scale and cap (ALiBi).
    fn attend_alibi(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        slopes: &Self::Weight,
        qkv: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r] *= sigmoid(gate[r])`, element by element; `[R, heads * head_dim]`.
    fn gate_output(&mut self, gate: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;

    /// `out[r]` = attention of q in `qkv` over k and v in `qkv` of all rows of its sequence, behind
    /// it too, within the window; `[R, heads * head_dim]`. No pages: the step feeds its sequences
    /// as a whole.
    fn attend_all(
        &mut self,
        spec: &AttnSpec,
        qkv: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
}
