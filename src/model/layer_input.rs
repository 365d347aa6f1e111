//! An input of each layer's own (Gemma 4's per-layer embeddings): what makes it of a step's tokens,
//! and what a layer makes of it. `decoder` calls it; it knows no residual's norm.

use super::config::ModelSpec;
use super::weights::{LayerInput, LayerTable};
use crate::device::{Activation, Columns, Device};
use crate::error::Result;

/// Activations, `[step_tokens, _]`.
pub(super) struct LayerInputBuffers<T> {
    /// Of a layer, and of all.
    width: usize,
    all: usize,
    /// Of all layers, side by side.
    inputs: T,
    /// What the product over the embedding gives, on the way there.
    projected: T,
    /// A layer's gate, and what it leaves of the input.
    gate: T,
    gated: T,
}

impl<T> LayerInputBuffers<T> {
    pub(super) fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        spec: &ModelSpec,
        tokens: usize,
    ) -> Result<Option<LayerInputBuffers<T>>> {
        let Some(width) = spec.layer_input else { return Ok(None) };
        let all = spec.layers * width;
        Ok(Some(LayerInputBuffers {
            width,
            all,
            inputs: dev.tensor(tokens, all)?,
            projected: dev.tensor(tokens, all)?,
            gate: dev.tensor(tokens, width)?,
            gated: dev.tensor(tokens, width)?,
        }))
    }

    /// The inputs of all layers of the step's tokens, whose scaled embedding is `embedded`.
    pub(super) fn look_up<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        weights: &LayerTable<D::Weight>,
        embedded: &T,
    ) -> Result<()> {
        let LayerTable { table, scale, projection, norm } = weights;
        dev.embed(table, *scale, &mut self.inputs)?;
        dev.linear(&projection.weight, None, embedded, &mut self.projected)?;
        dev.norm_parts(norm, 0..self.all, &mut self.projected)?;
        dev.add(&self.projected, &mut self.inputs)
    }

    /// What layer `index` makes of its input by the residual, before its norm, into `out`.
    pub(super) fn run<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        weights: &LayerInput<D::Weight>,
        index: usize,
        act: Activation,
        residual: &T,
        out: &mut T,
    ) -> Result<()> {
        let LayerInputBuffers { width, inputs, gate, gated, .. } = self;
        dev.linear_act(&weights.gate.weight, None, act, residual, gate)?;
        let own = Columns { tensor: &*inputs, first: index * *width };
        dev.multiply(Columns { tensor: &*gate, first: 0 }, own, gated)?;
        dev.linear(&weights.out.weight, None, gated, out)
    }
}
