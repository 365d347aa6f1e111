//! THE forward pass, written once over [`Device`]. `engine` loads a [`Decoder`] and drives it step
//! by step. Families differ in data ([`ModelSpec`], [`Weights`]), never in code. It knows no
//! tokens' values, no pages, no graphs and no streams.

use super::config::ModelSpec;
use super::load::{self, Weights};
use super::weights::LoadFormat;
use crate::device::{Activation, AttnSpec, Device, Limits, Norm, Rope};
use crate::error::Result;
use crate::plan::{Late, StepPlan};

/// A decoder on a device: weights and the buffers of a step.
pub struct Decoder<D: Device> {
    weights: Weights<D::Weight>,
    attn: AttnSpec,
    rope: Option<Rope>,
    activation: Activation,
    pre_norm: bool,
    buffers: Buffers<D::Tensor>,
}

/// Activations, `[step_tokens, _]` up to `attn` and `[slots, _]` from `picked` on. Made once, so
/// that their addresses never change.
struct Buffers<T> {
    /// Token vectors as wide as the table; only where a projection follows.
    embedded: Option<T>,
    residual: T,
    /// A block's output, before it is added.
    delta: T,
    normed: T,
    qkv: T,
    attn: T,
    ffn: T,
    picked: T,
    projected: Option<T>,
    logits: T,
}

impl<D: Device> Decoder<D> {
    /// Upload the weights, make the buffers, reserve pages and slots: all memory is taken here.
    ///
    /// # Errors
    /// Those of [`load::load`]; out of memory on the device.
    pub fn load(
        spec: &ModelSpec,
        format: &LoadFormat,
        dev: &mut D,
        limits: &Limits,
    ) -> Result<Decoder<D>> {
        let weights = load::load(spec, format, dev)?;
        let (tokens, slots) = (limits.step_tokens, limits.slots);
        let q = spec.heads * spec.head_dim;
        let qkv = q + 2 * spec.kv_heads * spec.head_dim;
        let optional = |dev: &mut D, on: bool, rows| match on {
            true => dev.tensor(rows, spec.embed_width).map(Some),
            false => Ok(None),
        };
        let buffers = Buffers {
            embedded: optional(dev, weights.project_in.is_some(), tokens)?,
            residual: dev.tensor(tokens, spec.hidden)?,
            delta: dev.tensor(tokens, spec.hidden)?,
            normed: dev.tensor(tokens, spec.hidden)?,
            qkv: dev.tensor(tokens, qkv)?,
            attn: dev.tensor(tokens, q)?,
            ffn: dev.tensor(tokens, spec.ffn)?,
            picked: dev.tensor(slots, spec.hidden)?,
            projected: optional(dev, weights.project_out.is_some(), slots)?,
            logits: dev.logits_tensor(slots, spec.vocab_size)?,
        };
        dev.reserve(limits)?;
        let attn = AttnSpec {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: (spec.head_dim as f32).powf(-0.5),
            window: None,
            softcap: None,
        };
        Ok(Decoder {
            weights,
            attn,
            rope: spec.rope.clone(),
            activation: spec.activation,
            pre_norm: spec.pre_norm,
            buffers,
        })
    }

    /// Begin a step and enqueue its forward pass, up to the logits of the sampling rows.
    pub fn step(&mut self, dev: &mut D, plan: &StepPlan) -> Result<()> {
        dev.begin(plan)?;
        self.embed(dev)?;
        for layer in 0..self.weights.layers.len() {
            self.layer(dev, layer)?;
        }
        self.head(dev)
    }

    /// Enqueue the choice of tokens: the second half of the step begun last.
    pub fn sample(&mut self, dev: &mut D, late: &Late) -> Result<()> {
        dev.sample(&mut self.buffers.logits, late)
    }

    /// The first `rows` rows of the last step's logits, `[rows, vocab]`, in the order of its
    /// sampling rows. Waits. A device may change them while it samples, so read before.
    pub fn logits(&self, dev: &mut D, rows: usize) -> Result<Vec<f32>> {
        dev.read(&self.buffers.logits, rows)
    }

    fn embed(&mut self, dev: &mut D) -> Result<()> {
        let (w, b) = (&self.weights, &mut self.buffers);
        match (&w.project_in, &mut b.embedded) {
            (Some(project), Some(embedded)) => {
                dev.embed(&w.embed, 1.0, embedded)?;
                dev.linear(project, None, embedded, &mut b.residual)?;
            }
            _ => dev.embed(&w.embed, 1.0, &mut b.residual)?,
        }
        if let Some((table, offset)) = &w.positions {
            dev.add_positions(table, *offset, &mut b.residual)?;
        }
        match &w.first {
            Some(norm) => dev.norm(norm, &b.residual, &mut b.normed),
            None => Ok(()),
        }
    }

    fn layer(&mut self, dev: &mut D, index: usize) -> Result<()> {
        let (b, pre) = (&mut self.buffers, self.pre_norm);
        let layer = &self.weights.layers[index];
        let (qkv, out) = (&layer.qkv, &layer.attn_out);
        let input = if pre { &b.normed } else { &b.residual };
        dev.linear(&qkv.weight, qkv.bias.as_ref(), input, &mut b.qkv)?;
        dev.rope_store(index, &self.attn, self.rope.as_ref(), &mut b.qkv)?;
        dev.attend(index, &self.attn, &b.qkv, &mut b.attn)?;
        dev.linear(&out.weight, out.bias.as_ref(), &b.attn, &mut b.delta)?;
        b.seam(dev, &layer.after_attn, pre)?;

        let (up, down) = (&layer.up, &layer.down);
        let act = self.activation;
        let input = if pre { &b.normed } else { &b.residual };
        dev.linear_act(&up.weight, up.bias.as_ref(), act, input, &mut b.ffn)?;
        dev.linear(&down.weight, down.bias.as_ref(), &b.ffn, &mut b.delta)?;
        b.seam(dev, &layer.after_mlp, pre)
    }

    fn head(&mut self, dev: &mut D) -> Result<()> {
        let (w, b) = (&self.weights, &mut self.buffers);
        let last = if self.pre_norm { &b.normed } else { &b.residual };
        dev.gather(last, &mut b.picked)?;
        let head = w.head.as_ref().unwrap_or(&w.embed);
        match (&w.project_out, &mut b.projected) {
            (Some(project), Some(projected)) => {
                dev.linear_gathered(project, &b.picked, projected)?;
                dev.logits(head, None, projected, &mut b.logits)
            }
            _ => dev.logits(head, None, &b.picked, &mut b.logits),
        }
    }
}

impl<T> Buffers<T> {
    /// Between two blocks: add the block's output, norm. In norm-after models the normed vectors
    /// are the residual that goes on, so the two buffers change roles; an even number of times per
    /// layer.
    fn seam<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        norm: &Norm<D::Weight>,
        pre_norm: bool,
    ) -> Result<()> {
        dev.add_norm(norm, &self.delta, &mut self.residual, &mut self.normed)?;
        if !pre_norm {
            std::mem::swap(&mut self.residual, &mut self.normed);
        }
        Ok(())
    }
}
