//! Attention over K and V of heads: its buffers, and the ops that it is. `decoder` calls it; it
//! knows no norm around it and no output product.

use super::config::{KeysFrom, LayerAttention};
use super::weights::{HeadAttention, QkNorms};
use crate::device::{AttnSpec, Device, Rope};
use crate::error::Result;
use crate::internal;

/// Activations, `[step_tokens, _]`, as wide as the widest layer needs them.
pub(super) struct HeadBuffers<T> {
    /// q, k and v; or q alone.
    qkv: T,
    /// q and k, where k becomes v too.
    qk: Option<T>,
}

impl<T> HeadBuffers<T> {
    pub(super) fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        layers: &[LayerAttention],
        tokens: usize,
    ) -> Result<HeadBuffers<T>> {
        let widest = layers.iter().map(|layer| layer.attn.row_width()).max().unwrap_or(1);
        let at_once = layers.iter().filter(|layer| layer.keys == KeysFrom::OneProduct);
        let qk = at_once.map(|layer| qk_width(&layer.attn)).max();
        Ok(HeadBuffers {
            qkv: dev.tensor(tokens, widest)?,
            qk: qk.map(|width| dev.tensor(tokens, width)).transpose()?,
        })
    }
}

fn qk_width(attn: &AttnSpec) -> usize {
    attn.q_width() + attn.kv_heads * attn.head_dim
}

/// What a layer's attention goes by.
pub(super) struct HeadRules<'a> {
    pub attn: &'a AttnSpec,
    pub keys: KeysFrom,
    pub rope: Option<&'a Rope>,
    pub clip_qkv: Option<f32>,
    pub norms_after_rope: bool,
    pub encoder: bool,
}

impl HeadRules<'_> {
    /// Attention of `input` into `out`, before the output product. `place`: the number of the layer
    /// that keeps its K and V, among those that keep some.
    pub(super) fn run<D: Device>(
        mut self,
        dev: &mut D,
        place: usize,
        weights: &HeadAttention<D::Weight>,
        input: &D::Tensor,
        buffers: &mut HeadBuffers<D::Tensor>,
        out: &mut D::Tensor,
    ) -> Result<()> {
        self.products(dev, weights, input, buffers)?;
        let qkv = &mut buffers.qkv;
        if let Some(limit) = self.clip_qkv {
            dev.clamp(limit, qkv)?;
        }
        if self.norms_after_rope {
            // What is stored here the store behind the norms overwrites.
            dev.rope_store(place, self.attn, self.rope.take(), qkv)?;
        }
        self.norms(dev, weights, qkv)?;

        dev.reshape(out, self.attn.q_width())?;
        if self.encoder {
            if let Some(rope) = self.rope {
                dev.rotate(self.attn, rope, qkv)?;
            }
            return dev.attend_all(self.attn, qkv, out);
        }
        dev.rope_store(place, self.attn, self.rope, qkv)?;
        match &weights.slopes {
            Some(slopes) => dev.attend_alibi(place, self.attn, slopes, qkv, out),
            None => dev.attend(place, self.attn, weights.sinks.as_ref(), qkv, out),
        }
    }

    /// What the layer makes of q, k and v.
    fn products<D: Device>(
        &self,
        dev: &mut D,
        weights: &HeadAttention<D::Weight>,
        input: &D::Tensor,
        buffers: &mut HeadBuffers<D::Tensor>,
    ) -> Result<()> {
        let HeadBuffers { qkv, qk } = buffers;
        let product = &weights.qkv;
        let bias = product.bias.as_ref();
        dev.reshape(qkv, self.attn.row_width())?;
        if self.keys != KeysFrom::OneProduct {
            return dev.linear(&product.weight, bias, input, qkv);
        }

        let Some(qk) = qk else { return Err(internal!("q and k without their buffer")) };
        dev.reshape(qk, qk_width(self.attn))?;
        dev.linear(&product.weight, bias, input, qk)?;
        dev.values_of_keys(self.attn, qk, qkv)
    }

    fn norms<D: Device>(
        &self,
        dev: &mut D,
        weights: &HeadAttention<D::Weight>,
        qkv: &mut D::Tensor,
    ) -> Result<()> {
        let q = self.attn.q_width();
        match &weights.qk_norms {
            Some(QkNorms { q, k: Some(k) }) => dev.norm_heads(self.attn, q, k, qkv)?,
            Some(QkNorms { q: norm, k: None }) => dev.norm_parts(norm, 0..q, qkv)?,
            None => {}
        }
        match &weights.value_norm {
            Some(norm) => {
                let kv = self.attn.kv_heads * self.attn.head_dim;
                dev.norm_parts(norm, q + kv..q + 2 * kv, qkv)
            }
            None => Ok(()),
        }
    }
}
