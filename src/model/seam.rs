//! The end of a sublayer whose last product is plain: into `delta`, or with the residual and its
//! norm in one op. `decoder` calls it; it runs no layer.

use super::weights::{FeedForward, Layer, Linear, Mixer};
use crate::device::{Device, Norm, Seam, Sublayer};
use crate::error::Result;

/// What follows a sublayer's output straight away.
pub(super) struct Behind<'a, W> {
    /// Over the residual.
    pub norm: &'a Norm<W>,
    /// The sublayer that alone reads what comes of it.
    pub next: Option<Sublayer<'a, W>>,
}

/// `linear` of `x` into `delta`; with something `behind` on to the residual and `normed`, where
/// nothing else stands between.
pub(super) fn output<D: Device>(
    dev: &mut D,
    linear: &Linear<D::Weight>,
    x: &D::Tensor,
    behind: Option<Behind<'_, D::Weight>>,
    delta: &mut D::Tensor,
    residual: &mut D::Tensor,
    normed: &mut D::Tensor,
) -> Result<()> {
    let bias = linear.bias.as_ref();
    match behind {
        Some(Behind { norm, next }) => {
            let seam = Seam { norm, delta, residual, normed, next };
            dev.linear_add_norm(&linear.weight, bias, x, seam)
        }
        None => dev.linear(&linear.weight, bias, x, delta),
    }
}

/// A layer's attention, where it is all that reads what comes into the layer and ends in a seam.
pub(super) fn attention<W>(layer: &Layer<W>) -> Option<Sublayer<'_, W>> {
    layer.norm_behind_attention()?;
    match &layer.mixer {
        Some(Mixer::Heads(heads)) if heads.gate.is_none() => {
            Some(Sublayer { first: &heads.qkv.weight, last: &heads.out.weight })
        }
        _ => None,
    }
}

/// A layer's MLP, where it is all that reads what attention leaves and ends in a seam.
pub(super) fn mlp<W>(layer: &Layer<W>) -> Option<Sublayer<'_, W>> {
    layer.norm_behind_feed_forward()?;
    match &layer.feed_forward {
        Some(FeedForward::Mlp(mlp)) => {
            Some(Sublayer { first: &mlp.up.weight, last: &mlp.down.weight })
        }
        _ => None,
    }
}
