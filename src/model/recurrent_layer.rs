//! The first sublayer of layers that keep a state: its buffers, and the ops that it is. `decoder`
//! calls it; it knows no norm around it and no pages.

use super::config::ModelSpec;
use super::shard::Shard;
use super::weights::GatedDelta;
use crate::device::{ConvSpec, DeltaSpec, DeltaWeights, Device, Gate, GatedNorm};
use crate::error::Result;

/// Activations, `[step_tokens, _]`, and the shapes of the ops.
pub(super) struct RecurrentBuffers<T> {
    delta: DeltaSpec,
    convolution: ConvSpec,
    gate: Gate,
    /// q, k, v and the gate of the output.
    mixed: T,
    /// Beta and rate of each value head.
    rates: T,
    /// q, k and v behind the convolution.
    convolved: T,
    /// Of each value head.
    values: T,
}

impl<T> RecurrentBuffers<T> {
    pub(super) fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        spec: &ModelSpec,
        shard: &Shard,
        tokens: usize,
    ) -> Result<Option<RecurrentBuffers<T>>> {
        let Some((recurrent, delta)) = spec.recurrent.as_ref().zip(shard.delta) else {
            return Ok(None);
        };
        let width = delta.mixed_width();
        Ok(Some(RecurrentBuffers {
            delta,
            convolution: ConvSpec { taps: recurrent.taps, width, silu: true },
            gate: recurrent.gate,
            mixed: dev.tensor(tokens, width + delta.value_width())?,
            rates: dev.tensor(tokens, 2 * delta.value_heads)?,
            convolved: dev.tensor(tokens, width)?,
            values: dev.tensor(tokens, delta.value_width())?,
        }))
    }

    /// From the layer's input to what is added to the residual. `place`: its number among layers
    /// with a state.
    pub(super) fn run<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        place: usize,
        layer: &GatedDelta<D::Weight>,
        input: &T,
        output: &mut T,
    ) -> Result<()> {
        let GatedDelta { mixed, rates, convolution, log_decay, rate_bias, norm, out } = layer;
        dev.linear(&mixed.weight, mixed.bias.as_ref(), input, &mut self.mixed)?;
        dev.linear(&rates.weight, rates.bias.as_ref(), input, &mut self.rates)?;
        let conv = &self.convolution;
        dev.short_convolution(place, conv, convolution, None, &self.mixed, &mut self.convolved)?;

        let weights = DeltaWeights { log_decay, rate_bias };
        let (mixed, rates) = (&self.convolved, &self.rates);
        dev.delta_rule(place, &self.delta, weights, mixed, rates, &mut self.values)?;
        let gated = GatedNorm { gate: self.gate, first: self.convolution.width };
        dev.norm_gated(&gated, norm, &self.mixed, &mut self.values)?;
        dev.linear(&out.weight, out.bias.as_ref(), &self.values, output)
    }
}
