//! The first sublayer of layers that keep a state: its buffers, and the ops that it is. `decoder`
//! calls it; it knows no norm around it and no pages.

use super::config::{ModelSpec, RecurrentKind};
use super::shard::Shard;
use super::weights::{GatedDelta, Mixer, ShortConv};
use crate::device::{Columns, ConvSpec, DeltaSpec, DeltaWeights, Device, Gate, GatedNorm};
use crate::error::Result;
use crate::internal;

/// Activations, `[step_tokens, _]`, and the shapes of the ops.
pub(super) struct RecurrentBuffers<T> {
    convolution: ConvSpec,
    /// What the layer's first product gives.
    input: T,
    /// Behind the convolution.
    convolved: T,
    /// What the output product reads.
    values: T,
    /// Of the gated delta rule.
    rule: Option<RuleBuffers<T>>,
}

struct RuleBuffers<T> {
    delta: DeltaSpec,
    gate: Gate,
    /// Beta and rate of each value head.
    rates: T,
}

impl<T> RecurrentBuffers<T> {
    pub(super) fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        spec: &ModelSpec,
        shard: &Shard,
        tokens: usize,
    ) -> Result<Option<RecurrentBuffers<T>>> {
        let Some((recurrent, kind)) = spec.recurrent.as_ref().zip(shard.recurrent) else {
            return Ok(None);
        };
        let width = kind.channels();
        let (rule, input) = match kind {
            RecurrentKind::GatedDelta { delta, gate } => {
                let rates = dev.tensor(tokens, 2 * delta.value_heads)?;
                (Some(RuleBuffers { delta, gate, rates }), width + delta.value_width())
            }
            RecurrentKind::ShortConv { .. } => (None, 3 * width),
        };
        Ok(Some(RecurrentBuffers {
            convolution: ConvSpec { taps: recurrent.taps, width, silu: rule.is_some() },
            input: dev.tensor(tokens, input)?,
            convolved: dev.tensor(tokens, width)?,
            values: dev.tensor(tokens, kind.out_width())?,
            rule,
        }))
    }

    /// From the layer's input to what is added to the residual. `place`: its number among layers
    /// with a state.
    pub(super) fn run<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        place: usize,
        layer: &Mixer<D::Weight>,
        input: &T,
        output: &mut T,
    ) -> Result<()> {
        match layer {
            Mixer::GatedDelta(layer) => self.gated_delta(dev, place, layer, input, output),
            Mixer::ShortConv(layer) => self.short_conv(dev, place, layer, input, output),
            Mixer::Heads(_) | Mixer::Latent(_) | Mixer::Missing => {
                Err(internal!("a layer without a state"))
            }
        }
    }

    fn gated_delta<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        place: usize,
        layer: &GatedDelta<D::Weight>,
        input: &T,
        output: &mut T,
    ) -> Result<()> {
        let GatedDelta { mixed, rates, convolution, log_decay, rate_bias, norm, out } = layer;
        let Some(rule) = &mut self.rule else {
            return Err(internal!("a gated delta rule without its buffers"));
        };
        dev.linear(&mixed.weight, mixed.bias.as_ref(), input, &mut self.input)?;
        dev.linear(&rates.weight, rates.bias.as_ref(), input, &mut rule.rates)?;
        let conv = &self.convolution;
        dev.short_convolution(place, conv, convolution, None, &self.input, &mut self.convolved)?;

        let weights = DeltaWeights { log_decay, rate_bias };
        let (mixed, rates) = (&self.convolved, &rule.rates);
        dev.delta_rule(place, &rule.delta, weights, mixed, rates, &mut self.values)?;
        let gated = GatedNorm { gate: rule.gate, first: self.convolution.width };
        dev.norm_gated(&gated, norm, &self.input, &mut self.values)?;
        dev.linear(&out.weight, out.bias.as_ref(), &self.values, output)
    }

    fn short_conv<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        place: usize,
        layer: &ShortConv<D::Weight>,
        input: &T,
        output: &mut T,
    ) -> Result<()> {
        let ShortConv { input: product, convolution, out } = layer;
        let width = self.convolution.width;
        dev.linear(&product.weight, product.bias.as_ref(), input, &mut self.input)?;
        let columns = |part: usize| Columns { tensor: &self.input, first: part * width };
        dev.multiply(columns(0), columns(2), &mut self.values)?;

        let conv = &self.convolution;
        dev.short_convolution(place, conv, convolution, None, &self.values, &mut self.convolved)?;
        let convolved = Columns { tensor: &self.convolved, first: 0 };
        dev.multiply(columns(1), convolved, &mut self.values)?;
        dev.linear(&out.weight, out.bias.as_ref(), &self.values, output)
    }
}
