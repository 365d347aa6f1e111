//! Layers that keep a state: the products in front of a gated delta rule in one order, whatever
//! the checkpoint's, convolutions and vectors. Part of `load`, which asks for it layer by layer.

use std::ops::Range;

use super::cut;
use super::linears::Stack;
use super::loader::{dummy, Loader, Upload};
use crate::device::{DeltaSpec, Device, HostTensor, Join, NormKind, Source, WeightKind};
use crate::error::Result;
use crate::internal;
use crate::model::architectures::{self, DeltaProjections};
use crate::model::checkpoint::WeightSource;
use crate::model::config::{RecurrentKind, RecurrentSpec};
use crate::model::quant::unpack::Values;
use crate::model::shard::Cut;
use crate::model::weights::{GatedDelta, Linear, Mixer, ShortConv};

impl<D: Device> Loader<'_, D> {
    /// What a layer with a state has in place of attention.
    pub(super) fn recurrent(
        &mut self,
        i: usize,
        row: &architectures::Recurrent,
        recurrent: &RecurrentSpec,
    ) -> Result<Mixer<D::Weight>> {
        match (row, &recurrent.kind) {
            (
                architectures::Recurrent::GatedDelta(row),
                RecurrentKind::GatedDelta { delta, .. },
            ) => Ok(Mixer::GatedDelta(self.gated_delta(i, row, recurrent, delta)?)),
            (architectures::Recurrent::ShortConv(row), RecurrentKind::ShortConv { width }) => {
                Ok(Mixer::ShortConv(self.short_conv(i, row, recurrent, *width)?))
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
        let log_decay = self.head_vector(self.layer_name(i, row.log_decay), delta, &heads)?;
        let rate_bias = self.head_vector(self.layer_name(i, row.rate_bias), delta, &heads)?;
        let norm = self.layer_name(i, row.norm);
        let norm = self.norm_of_kind(NormKind::Rms, &norm, delta.value_dim)?;

        let out = [self.layer_name(i, row.out)];
        let cut = shard.recurrent_out(&recurrent.kind);
        let out = self.linear(&out, &[spec.hidden], delta.value_width(), false, &cut)?;
        Ok(GatedDelta { mixed, rates, convolution, log_decay, rate_bias, norm, out })
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
    fn convolution(
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

    /// An element of each of the rank's value heads.
    fn head_vector(&mut self, name: String, delta: &DeltaSpec, cut: &Cut) -> Result<D::Weight> {
        let heads = delta.value_heads;
        let parts = self.parts(std::slice::from_ref(&name), &[heads], 1, false)?;
        let mut source = parts.unwrap_or(Source::Constant(0.0));
        if matches!(cut, Cut::Outputs(_)) {
            source = cut::outputs(source, None, &cut.rows(1), false)?;
        }
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Vector,
            outputs: cut.outputs(heads),
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(source),
        })
    }
}

/// Where the parts of all groups lie, of which each holds a part after the other: those of the
/// first part, then those of the second, ...
fn by_part(groups: usize, parts: &[usize]) -> Vec<Range<usize>> {
    let whole: usize = parts.iter().sum();
    let mut rows = Vec::with_capacity(groups * parts.len());
    let mut start = 0;
    for part in parts {
        rows.extend((0..groups).map(|g| g * whole + start..g * whole + start + part));
        start += part;
    }
    rows
}

/// Matrices as one vector, row behind row.
fn flat(source: Source<'_>) -> Source<'_> {
    let Source::Parts(parts) = source else { return source };
    let flat = parts.into_iter().map(|part| {
        let rows = part.rows * part.cols;
        HostTensor { rows, cols: 1, ..part }
    });
    Source::Parts(flat.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_groups_are_taken_apart() {
        let rows: Vec<usize> = by_part(2, &[1, 2]).into_iter().flatten().collect();
        assert_eq!(rows, [0, 3, 1, 2, 4, 5]);
    }
}
