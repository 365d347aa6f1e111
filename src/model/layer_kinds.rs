//! Which layers of a model call the same ops with the same shapes. Called by `decoder`, which
//! rehearses one of each kind.

use super::config::LayerAttention;
use super::weights::{FeedForward, Layer};

/// The first layer of each kind.
pub(super) fn first_of_each<W>(attention: &[LayerAttention], layers: &[Layer<W>]) -> Vec<usize> {
    let kind = |index: &usize| {
        let LayerAttention { attn, rope, keys } = &attention[*index];
        let layer = &layers[*index];
        let mixer = layer.mixer.as_ref().map(std::mem::discriminant);
        let feed_forward = layer.feed_forward.as_ref().map(std::mem::discriminant);
        let ffn = match &layer.feed_forward {
            Some(FeedForward::Mlp(mlp)) => mlp.width,
            Some(FeedForward::Both(both)) => both.mlp.width,
            Some(FeedForward::Experts(_)) | None => 0,
        };
        let heads = (attn.kv_heads, attn.head_dim, std::mem::discriminant(keys));
        ((attn.window, attn.chunk), *rope, heads, mixer, feed_forward, ffn)
    };
    let mut kinds = Vec::new();
    let is_new = |index: &usize| {
        let new = !kinds.contains(&kind(index));
        kinds.extend(new.then(|| kind(index)));
        new
    };
    (0..layers.len()).filter(is_new).collect()
}
