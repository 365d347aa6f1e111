//! Layers that keep a state: the products in front of a gated delta rule in one order, whatever
//! the checkpoint's, convolutions and vectors. Part of `load`, which asks for it layer by layer.

use std::ops::Range;

use super::cut;
use super::linears::Stack;
use super::loader::{dummy, flat, Loader, Upload};
use crate::device::{DeltaSpec, Device, HostTensor, Join, Norm, NormKind, Source, WeightKind};
use crate::error::Result;
use crate::internal;
use crate::model::architectures::{self, DeltaProjections, ScanLayers};
use crate::model::checkpoint::WeightSource;
use crate::model::config::{RecurrentKind, RecurrentSpec, ScanShape};
use crate::model::quant::unpack::Values;
use crate::model::row_ranges::{by_part, scan_input};
use crate::model::shard::Cut;
use crate::model::weights::{GatedDelta, Linear, Mixer, SelectiveScan, ShortConv};

impl<D: Device> Loader<'_, D> {
    /// What a layer with a state has in place of attention.
    pub(super) fn recurrent(
        &mut self,
        i: usize,
        row: &architectures::Recurrent,
        recurrent: &RecurrentSpec,
    ) -> Result<Mixer<D::Weight>> {
        // A kind is made by its row.
        match (row, &recurrent.kind) {
            (
                architectures::Recurrent::GatedDelta(row),
                RecurrentKind::GatedDelta { delta, .. },
            ) => Ok(Mixer::GatedDelta(self.gated_delta(i, row, recurrent, delta)?)),
            (architectures::Recurrent::ShortConv(row), RecurrentKind::ShortConv { width }) => {
                Ok(Mixer::ShortConv(self.short_conv(i, row, recurrent, *width)?))
            }
            (architectures::Recurrent::SelectiveScan(row), RecurrentKind::SelectiveScan(shape)) => {
                let scan = self.selective_scan(i, row, recurrent, shape)?;
                Ok(match row.layers {
                    ScanLayers::BesideAttention => Mixer::Beside(self.head_attention(i)?, scan),
                    _ => Mixer::SelectiveScan(scan),
                })
            }
            (architectures::Recurrent::ChannelScan(row), RecurrentKind::ChannelScan(shape)) => {
                Ok(Mixer::ChannelScan(self.channel_scan(i, row, recurrent, shape)?))
            }
            _ => Err(internal!("layer {i} is {:?}, its row another", recurrent.kind)),
        }
    }

    fn short_conv(
        &mut self,
        i: usize,
        row: &architectures::ShortConv,
        recurrent: &RecurrentSpec,
        width: usize,
    ) -> Result<ShortConv<D::Weight>> {
        let hidden = self.spec.hidden;
        let names = [self.layer_name(i, row.input)];
        let stack = Stack {
            names: &names,
            outputs: &[3 * width],
            rows: Vec::new(),
            inputs: hidden,
            kind: WeightKind::Linear,
            rotated: 0,
        };
        let cut = self.shard.channels(width, 3);
        let input = self.stacked(&stack, false, &cut)?;

        let cut = self.shard.channels(width, 1);
        let convolution = self.convolution(i, row.convolution, recurrent, &cut)?;
        let cut = self.shard.recurrent_out(&recurrent.kind);
        let out = [self.layer_name(i, row.out)];
        let out = self.linear(&out, &[hidden], width, false, &cut)?;
        Ok(ShortConv { input, convolution, out })
    }

    fn gated_delta(
        &mut self,
        i: usize,
        row: &architectures::GatedDelta,
        recurrent: &RecurrentSpec,
        delta: &DeltaSpec,
    ) -> Result<GatedDelta<D::Weight>> {
        let (spec, shard) = (self.spec, self.shard);
        let [mixed, rates] = self.projections(i, row.projections, delta)?;
        let cut = shard.mixed(delta, false);
        let convolution = self.convolution(i, row.convolution, recurrent, &cut)?;
        let heads = shard.value_heads(delta, 1);
        let count = delta.value_heads;
        let none = Join::None;
        let log_decay = self.layer_name(i, row.log_decay);
        let log_decay = self.part_of_vector(log_decay, count, &heads, none)?;
        let rate_bias = self.layer_name(i, row.rate_bias);
        let rate_bias = self.part_of_vector(rate_bias, count, &heads, none)?;
        let norm = self.layer_name(i, row.norm);
        let norm = self.norm_of_kind(NormKind::Rms, &norm, delta.value_dim)?;

        let out = [self.layer_name(i, row.out)];
        let cut = shard.recurrent_out(&recurrent.kind);
        let out = self.linear(&out, &[spec.hidden], delta.value_width(), false, &cut)?;
        Ok(GatedDelta { mixed, rates, convolution, log_decay, rate_bias, norm, out })
    }

    fn selective_scan(
        &mut self,
        i: usize,
        row: &architectures::SelectiveScan,
        recurrent: &RecurrentSpec,
        shape: &ScanShape,
    ) -> Result<SelectiveScan<D::Weight>> {
        let (hidden, shard) = (self.spec.hidden, self.shard);
        let scan = &shape.scan;
        let name = |part: &str| format!("{}.{part}", row.module);

        // The checkpoint has the gate first.
        let names = [self.layer_name(i, &name("in_proj"))];
        let rows = scan_input(scan).to_vec();
        let stack = Stack {
            names: &names,
            outputs: &[rows.iter().map(Range::len).sum()],
            rows,
            inputs: hidden,
            kind: WeightKind::Linear,
            rotated: 0,
        };
        let factors = self.spec.factors;
        let cut = shard.scan_input(scan);
        let input = self.stacked_times(&factors.scan, &stack, shape.bias, &cut)?;

        let cut = shard.scan_channels(scan);
        let convolution = self.convolution(i, &name("conv1d"), recurrent, &cut)?;
        let bias = self.layer_name(i, &name("conv1d.bias"));
        let channels = scan.mixed_width();
        let convolution_bias = shape
            .convolution_bias
            .then(|| self.part_of_vector(bias, channels, &cut, Join::None))
            .transpose()?;
        let heads = shard.scan_share(scan.heads);
        let mut of_heads = |part: &str| {
            let name = self.layer_name(i, &name(part));
            self.part_of_vector(name, scan.heads, &heads, Join::None)
        };
        let log_decay = of_heads("A_log")?;
        let rate_bias = of_heads("dt_bias")?;
        let skip = of_heads("D")?;

        let norm = self.scan_norm(self.layer_name(i, &name("norm.weight")), shape)?;
        let out = [self.layer_name(i, &name("out_proj"))];
        let cut = shard.recurrent_out(&recurrent.kind);
        let factor = [factors.scan_out];
        let out =
            self.linear_times(&factor, &out, &[hidden], scan.inner_width(), shape.bias, &cut)?;
        Ok(SelectiveScan {
            input,
            convolution,
            convolution_bias,
            log_decay,
            rate_bias,
            skip,
            norm,
            out,
        })
    }

    /// Over the gated output of a scan, if it has one. That of a single group is over all ranks.
    fn scan_norm(&mut self, name: String, shape: &ScanShape) -> Result<Option<Norm<D::Weight>>> {
        if !shape.normed {
            return Ok(None);
        }
        let (scan, shard) = (&shape.scan, self.shard);
        let cut = shard.scan_share(scan.inner_width());
        let is_shared = !scan.groups.is_multiple_of(shard.rank.of);
        let join = if is_shared { Join::Sum } else { Join::None };
        let weight = self.part_of_vector(name, scan.inner_width(), &cut, join)?;
        let eps = self.spec.inner_eps;
        Ok(Some(Norm { kind: NormKind::Rms, eps, weight, bias: None }))
    }

    /// q|k|v|gate and beta|rate.
    fn projections(
        &mut self,
        i: usize,
        projections: DeltaProjections,
        delta: &DeltaSpec,
    ) -> Result<[Linear<D::Weight>; 2]> {
        let shard = self.shard;
        let (width, values) = (delta.mixed_width(), delta.value_width());
        let heads = delta.value_heads;
        let mut stack = |names: &[&str], outputs: &[usize], rows, cut: &Cut| {
            let names: Vec<String> = names.iter().map(|name| self.layer_name(i, name)).collect();
            let inputs = self.spec.hidden;
            let kind = WeightKind::Linear;
            let stack = Stack { names: &names, outputs, rows, inputs, kind, rotated: 0 };
            self.stacked(&stack, false, cut)
        };

        let of_mixed = shard.mixed(delta, true);
        let of_rates = shard.value_heads(delta, 2);
        match projections {
            DeltaProjections::Apart { mixed, gate, rates } => Ok([
                stack(&[mixed, gate], &[width, values], Vec::new(), &of_mixed)?,
                stack(&rates, &[heads, heads], Vec::new(), &of_rates)?,
            ]),
            DeltaProjections::ByKeyHead { mixed_and_gate, rates } => {
                let shared = heads / delta.key_heads;
                let of_values = shared * delta.value_dim;
                let parts = [delta.key_dim, delta.key_dim, of_values, of_values];
                let rows = by_part(delta.key_heads, &parts);
                let mixed = stack(&[mixed_and_gate], &[width + values], rows, &of_mixed)?;
                let rows = by_part(delta.key_heads, &[shared, shared]);
                Ok([mixed, stack(&[rates], &[2 * heads], rows, &of_rates)?])
            }
        }
    }

    /// `[channels, 1, taps]` as a vector of the rank's channels, each with its taps.
    pub(super) fn convolution(
        &mut self,
        i: usize,
        name: &str,
        recurrent: &RecurrentSpec,
        cut: &Cut,
    ) -> Result<D::Weight> {
        let (channels, taps) = (recurrent.kind.channels(), recurrent.taps);
        let name = format!("{}.weight", self.layer_name(i, name));

        let source = match self.format {
            WeightSource::Files(checkpoint) if !self.shapes_only => {
                let tensor = checkpoint.stack(&name, channels, 1, taps)?;
                let parts = vec![HostTensor { rows: channels, cols: taps, ..tensor }];
                let source = match cut {
                    Cut::Outputs(_) => {
                        cut::outputs(Source::Parts(parts), None, &cut.rows(1), false)?
                    }
                    Cut::Whole | Cut::Inputs { .. } => Source::Parts(parts),
                };
                flat(source)
            }
            _ => self.of_rank(dummy(&name, taps)),
        };
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Vector,
            outputs: cut.outputs(channels) * taps,
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(source),
        })
    }

    /// What a rank holds of a vector of `elements`.
    pub(super) fn part_of_vector(
        &mut self,
        name: String,
        elements: usize,
        cut: &Cut,
        join: Join,
    ) -> Result<D::Weight> {
        let parts = self.parts(std::slice::from_ref(&name), &[elements], 1, false)?;
        let mut source = parts.unwrap_or(Source::Constant(0.0));
        if matches!(cut, Cut::Outputs(_)) {
            source = cut::outputs(source, None, &cut.rows(1), false)?;
        }
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Vector,
            outputs: cut.outputs(elements),
            inputs: 1,
            transposed: false,
            join,
            values: Values::plain(source),
        })
    }
}
