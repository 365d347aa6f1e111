//! The part of layers that keeps a state: its buffers, and the ops that it is. `decoder` calls it;
//! it knows no norm around it and no pages.

use super::config::{ChannelScanShape, ModelSpec, RecurrentKind, ScanShape};
use super::shard::Shard;
use super::weights::{ChannelScan, GatedDelta, Mixer, SelectiveScan, ShortConv};
use crate::device::{ChannelScanSpec, Columns, ConvSpec, DeltaSpec, DeltaWeights, Device, Gate};
use crate::device::{GateOrder, GatedNorm, ScanSpec, ScanWeights};
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
    scan: Option<ScanSpec>,
    /// Of a scan of Mamba 1.
    channels: Option<ChannelBuffers<T>>,
    /// The output of what stands beside attention, before it is added to attention's.
    beside: Option<T>,
}

struct RuleBuffers<T> {
    delta: DeltaSpec,
    gate: Gate,
    /// Beta and rate of each value head.
    rates: T,
}

struct ChannelBuffers<T> {
    scan: ChannelScanSpec,
    /// Width of what rates are made of.
    rank: usize,
    /// That.
    low_rates: T,
    /// B and C.
    bc: T,
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
        let mut scan = None;
        let mut channels = None;
        let (rule, input) = match kind {
            RecurrentKind::GatedDelta { delta, gate } => {
                let rates = dev.tensor(tokens, 2 * delta.value_heads)?;
                (Some(RuleBuffers { delta, gate, rates }), width + delta.value_width())
            }
            RecurrentKind::ShortConv { .. } => (None, 3 * width),
            RecurrentKind::SelectiveScan(ScanShape { scan: spec, .. }) => {
                scan = Some(spec);
                (None, width + spec.inner_width() + spec.heads)
            }
            RecurrentKind::ChannelScan(ChannelScanShape { scan, rank, .. }) => {
                channels = Some(ChannelBuffers {
                    scan,
                    rank,
                    low_rates: dev.tensor(tokens, rank)?,
                    bc: dev.tensor(tokens, 2 * scan.state)?,
                    rates: dev.tensor(tokens, width)?,
                });
                (None, 2 * width)
            }
        };

        let beside = spec.sublayers.iter().any(|parts| parts.attention && parts.state);
        let silu = rule.is_some() || scan.is_some() || channels.is_some();
        Ok(Some(RecurrentBuffers {
            convolution: ConvSpec { taps: recurrent.taps, width, silu },
            input: dev.tensor(tokens, input)?,
            convolved: dev.tensor(tokens, width)?,
            values: dev.tensor(tokens, kind.out_width())?,
            rule,
            scan,
            channels,
            beside: beside.then(|| dev.tensor(tokens, spec.hidden)).transpose()?,
        }))
    }

    /// From the layer's input to what is added to the residual, or, beside attention, to its
    /// `output`. `place`: its number among layers
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
            Mixer::SelectiveScan(layer) => self.selective_scan(dev, place, layer, input, output),
            Mixer::ChannelScan(layer) => self.channel_scan(dev, place, layer, input, output),
            Mixer::Beside(_, layer) => {
                // Taken for the call, so that every step finds the same tensor.
                let Some(mut own) = self.beside.take() else {
                    return Err(internal!("nothing stands beside attention"));
                };
                let done = self.selective_scan(dev, place, layer, input, &mut own);
                let done = done.and_then(|()| dev.add(&own, output));
                self.beside = Some(own);
                done
            }
            Mixer::Heads(_) | Mixer::Latent(_) => {
                Err(internal!("a layer with attention keeps no state"))
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
        let gated = GatedNorm {
            gate: rule.gate,
            first: self.convolution.width,
            part: rule.delta.value_dim,
            order: GateOrder::NormFirst,
        };
        dev.norm_gated(&gated, Some(norm), &self.input, &mut self.values)?;
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

    fn selective_scan<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        place: usize,
        layer: &SelectiveScan<D::Weight>,
        input: &T,
        output: &mut T,
    ) -> Result<()> {
        let Some(scan) = &self.scan else {
            return Err(internal!("a selective scan without its shape"));
        };
        let SelectiveScan { input: product, convolution, convolution_bias, norm, out, .. } = layer;
        dev.linear(&product.weight, product.bias.as_ref(), input, &mut self.input)?;
        let conv = &self.convolution;
        let bias = convolution_bias.as_ref();
        dev.short_convolution(place, conv, convolution, bias, &self.input, &mut self.convolved)?;

        let SelectiveScan { log_decay, rate_bias, skip, .. } = layer;
        let weights = ScanWeights { log_decay, rate_bias, skip };
        let rates = Columns { tensor: &self.input, first: conv.width + scan.inner_width() };
        dev.selective_scan(place, scan, weights, &self.convolved, rates, &mut self.values)?;
        let gated = GatedNorm {
            gate: Gate::Silu,
            first: conv.width,
            part: scan.inner_width() / scan.groups,
            order: GateOrder::GateFirst,
        };
        dev.norm_gated(&gated, norm.as_ref(), &self.input, &mut self.values)?;
        dev.linear(&out.weight, out.bias.as_ref(), &self.values, output)
    }

    fn channel_scan<D: Device<Tensor = T>>(
        &mut self,
        dev: &mut D,
        place: usize,
        layer: &ChannelScan<D::Weight>,
        input: &T,
        output: &mut T,
    ) -> Result<()> {
        let Some(b) = &mut self.channels else {
            return Err(internal!("a scan of channels without its buffers"));
        };
        let ChannelScan { input: product, convolution, convolution_bias, .. } = layer;
        dev.linear(&product.weight, product.bias.as_ref(), input, &mut self.input)?;
        let conv = &self.convolution;
        let bias = convolution_bias.as_ref();
        dev.short_convolution(place, conv, convolution, bias, &self.input, &mut self.convolved)?;

        // Rates, B and C of what is convolved.
        let ChannelScan { low_rates, bc, norms, rates, out, .. } = layer;
        dev.linear(&low_rates.weight, None, &self.convolved, &mut b.low_rates)?;
        dev.linear(&bc.weight, None, &self.convolved, &mut b.bc)?;
        if let Some([of_rates, of_b, of_c]) = norms {
            let state = b.scan.state;
            dev.norm_parts(of_rates, 0..b.rank, &mut b.low_rates)?;
            dev.norm_parts(of_b, 0..state, &mut b.bc)?;
            dev.norm_parts(of_c, state..2 * state, &mut b.bc)?;
        }
        dev.linear(&rates.weight, None, &b.low_rates, &mut b.rates)?;

        let ChannelScan { log_decay, rate_bias, skip, .. } = layer;
        let weights = ScanWeights { log_decay, rate_bias, skip };
        let values = &mut self.values;
        dev.channel_scan(place, &b.scan, weights, &self.convolved, &b.rates, &b.bc, values)?;
        let gated = GatedNorm {
            gate: Gate::Silu,
            first: conv.width,
            part: conv.width,
            order: GateOrder::GateFirst,
        };
        dev.norm_gated(&gated, None, &self.input, values)?;
        dev.linear(&out.weight, out.bias.as_ref(), values, output)
    }
}
