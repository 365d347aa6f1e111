//! Layers with the selective scan of Mamba 1: its products, of which one is taken apart, and its
//! vectors. Part of `load`, which asks for it layer by layer.

use std::ops::Range;

use super::cut;
use super::linears::Stack;
use super::loader::{dummy, flat, Loader, Upload};
use crate::device::{Device, Join, Norm, NormKind, WeightKind};
use crate::error::Result;
use crate::model::architectures::{self, ChannelNorms};
use crate::model::config::{ChannelScanShape, RecurrentSpec};
use crate::model::quant::unpack::Values;
use crate::model::shard::Cut;
use crate::model::weights::{ChannelScan, Linear};

impl<D: Device> Loader<'_, D> {
    pub(super) fn channel_scan(
        &mut self,
        i: usize,
        row: &architectures::ChannelScan,
        recurrent: &RecurrentSpec,
        shape: &ChannelScanShape,
    ) -> Result<ChannelScan<D::Weight>> {
        let hidden = self.spec.hidden;
        let ChannelScanShape { scan, rank, .. } = *shape;
        let part = |part: &str| format!("{}.{part}", row.module);
        let channels = self.shard.channels(scan.width, 1);
        let summed = self.shard.recurrent_out(&recurrent.kind);

        let names = [self.layer_name(i, &part("in_proj"))];
        let stack = Stack {
            names: &names,
            outputs: &[2 * scan.width],
            rows: Vec::new(),
            inputs: hidden,
            kind: WeightKind::Linear,
            rotated: 0,
        };
        let cut = self.shard.channels(scan.width, 2);
        let input = self.stacked(&stack, shape.bias, &cut)?;
        let convolution = self.convolution(i, &part("conv1d"), recurrent, &channels)?;
        let bias = self.layer_name(i, &part("conv1d.bias"));
        let convolution_bias = shape
            .convolution_bias
            .then(|| self.part_of_vector(bias, scan.width, &channels, Join::None))
            .transpose()?;

        let x_proj = self.layer_name(i, &part("x_proj"));
        let [low_rates, bc] = self.taken_apart(&x_proj, shape, &summed)?;
        let norms = self.channel_norms(i, row, shape)?;
        let rates = self.layer_name(i, &part("dt_proj"));
        let rates = self.product(&rates, scan.width, rank, &channels, None)?;

        let mut vector = |name: &str| {
            let name = self.layer_name(i, &part(name));
            self.part_of_vector(name, scan.width, &channels, Join::None)
        };
        let rate_bias = vector("dt_proj.bias")?;
        let skip = vector("D")?;
        let log_decay = self.layer_name(i, &part("A_log"));
        let log_decay = self.rows_as_vector(&log_decay, scan.width, scan.state, &channels)?;
        let out = [self.layer_name(i, &part("out_proj"))];
        let out = self.linear(&out, &[hidden], scan.width, shape.bias, &summed)?;
        Ok(ChannelScan {
            input,
            convolution,
            convolution_bias,
            low_rates,
            bc,
            norms,
            rates,
            log_decay,
            rate_bias,
            skip,
            out,
        })
    }

    /// What makes what rates are made of, and what makes B and C: rows of one product.
    fn taken_apart(
        &mut self,
        name: &str,
        shape: &ChannelScanShape,
        cut: &Cut,
    ) -> Result<[Linear<D::Weight>; 2]> {
        let ChannelScanShape { scan, rank, .. } = *shape;
        let outputs = rank + 2 * scan.state;
        let names = [name.to_string()];
        let mut rows_of = |rows: Range<usize>| {
            let stack = Stack {
                names: &names,
                outputs: &[outputs],
                rows: vec![rows],
                inputs: scan.width,
                kind: WeightKind::Linear,
                rotated: 0,
            };
            self.stacked(&stack, false, cut)
        };
        Ok([rows_of(0..rank)?, rows_of(rank..outputs)?])
    }

    /// Of what rates are made of, of B and of C.
    fn channel_norms(
        &mut self,
        i: usize,
        row: &architectures::ChannelScan,
        shape: &ChannelScanShape,
    ) -> Result<Option<[Norm<D::Weight>; 3]>> {
        let widths = [shape.rank, shape.scan.state, shape.scan.state];
        let names = match row.norms {
            ChannelNorms::None => return Ok(None),
            ChannelNorms::Weighted(names) => names.map(Some),
            ChannelNorms::Unweighted(_) => [None; 3],
        };

        let mut norm = |part: usize| match names[part] {
            Some(name) => {
                let name = self.layer_name(i, &format!("{}.{name}", row.module));
                self.norm_of_kind(NormKind::Rms, &name, widths[part])
            }
            None => self.unit_norm("ones", widths[part], shape.norm_eps.unwrap_or(0.0)),
        };
        Ok(Some([norm(0)?, norm(1)?, norm(2)?]))
    }

    /// The rank's rows of a matrix, one behind the other.
    fn rows_as_vector(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
        cut: &Cut,
    ) -> Result<D::Weight> {
        let parts = self.parts(&[name.to_string()], &[rows], columns, false)?;
        let mut source = parts.unwrap_or_else(|| dummy(name, columns));
        if matches!(cut, Cut::Outputs(_)) {
            source = cut::outputs(source, None, &cut.rows(1), false)?;
        }
        self.upload(Upload {
            name,
            kind: WeightKind::Vector,
            outputs: cut.outputs(rows) * columns,
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(flat(source)),
        })
    }
}
