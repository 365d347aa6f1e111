//! What Gemma 4 has beside the usual: an input of each layer's own, a scalar behind it, norms of v,
//! and experts beside an MLP. Part of `load`, which asks for it layer by layer.

use super::loader::{Loader, Upload, Vector};
use crate::device::{Device, Join, Norm, NormKind, Source, WeightKind};
use crate::error::Result;
use crate::model::architectures::BesideMlp;
use crate::model::checkpoint::WeightSource;
use crate::model::quant::unpack::Values;
use crate::model::shard::Cut;
use crate::model::weights::{Both, Experts, LayerInput, LayerTable, Mlp, QkNorms};

impl<D: Device> Loader<'_, D> {
    /// What makes the inputs of all layers of the tokens. With P the product over the embedding x,
    /// and T the table: `(rms(P x / sqrt(hidden)) + T[token] * sqrt(width)) / sqrt(2)`.
    pub(super) fn layer_table(&mut self) -> Result<Option<LayerTable<D::Weight>>> {
        let spec = self.spec;
        let Some((row, width)) = spec.family.layer_inputs.as_ref().zip(spec.layer_input) else {
            return Ok(None);
        };
        let all = spec.layers * width;
        let table = self.token_rows_of(row.table, all)?;
        let name = [self.name(row.projection)];
        let projection = self.linear(&name, &[all], spec.hidden, false, &Cut::Whole)?;

        let name = self.name(row.norm);
        let scale = std::f32::consts::FRAC_1_SQRT_2;
        let norm = self.scaled_norm(&name, width, scale)?;
        // A norm forgets the size of its input, but for its epsilon.
        let norm = Norm { eps: norm.eps * spec.hidden as f32, ..norm };
        let scale = (width as f32).sqrt() * scale;
        Ok(Some(LayerTable { table, scale, projection, norm }))
    }

    /// What a layer makes of its input.
    pub(super) fn layer_input(&mut self, i: usize) -> Result<Option<LayerInput<D::Weight>>> {
        let spec = self.spec;
        let Some((row, width)) = spec.family.layer_inputs.as_ref().zip(spec.layer_input) else {
            return Ok(None);
        };
        let gate = [self.layer_name(i, row.gate)];
        let gate = self.linear(&gate, &[width], spec.hidden, false, &Cut::Whole)?;
        let out = [self.layer_name(i, row.out)];
        let out = self.linear(&out, &[spec.hidden], width, false, &Cut::Whole)?;
        let post = self.layer_name(i, row.post);
        Ok(Some(LayerInput { gate, out, post: self.added_norm(&post)? }))
    }

    /// The number that a layer's output is multiplied by.
    pub(super) fn layer_scalar(&mut self, i: usize) -> Result<Option<f32>> {
        let Some(name) = self.spec.family.layer_scalar else { return Ok(None) };
        let name = self.layer_name(i, name);
        match self.format {
            WeightSource::Files(checkpoint) if !self.shapes_only => {
                Ok(checkpoint.tensor(&name, 1, 1)?.values()?.first().copied())
            }
            _ => Ok(Some(1.0)),
        }
    }

    /// A norm over each head of v, without a weight.
    pub(super) fn value_norm(&mut self, i: usize) -> Result<Norm<D::Weight>> {
        self.unweighted_norm(i, "self_attn.v_norm")
    }

    /// Norms over each head of q and k, without weights.
    pub(super) fn unweighted_norms(&mut self, i: usize) -> Result<QkNorms<D::Weight>> {
        let q = self.unweighted_norm(i, "self_attn.q_norm")?;
        Ok(QkNorms { q, k: Some(self.unweighted_norm(i, "self_attn.k_norm")?) })
    }

    /// A norm over heads whose weight is 1; `name` is for messages.
    fn unweighted_norm(&mut self, i: usize, name: &str) -> Result<Norm<D::Weight>> {
        let width = self.spec.attention[i].attn.head_dim;
        let weight = self.upload(Upload {
            name: &self.layer_name(i, name),
            kind: WeightKind::Vector,
            outputs: width,
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(Source::Constant(1.0)),
        })?;
        Ok(Norm { kind: NormKind::Rms, eps: self.spec.inner_eps, weight, bias: None })
    }

    /// Experts beside an MLP.
    pub(super) fn beside(
        &mut self,
        i: usize,
        names: &BesideMlp,
        mlp: Mlp<D::Weight>,
        experts: Experts<D::Weight>,
    ) -> Result<Both<D::Weight>> {
        let hidden = self.spec.hidden;
        let scale = self.vector(Vector {
            name: self.layer_name(i, names.router_scale),
            width: hidden,
            neutral: 1.0,
            plus: 0.0,
            scale: (hidden as f32).powf(-0.5),
            cut: &Cut::Whole,
            order: None,
        })?;
        let eps = self.spec.norm_eps;
        let router_norm = Norm { kind: NormKind::Rms, eps, weight: scale, bias: None };
        let experts_norm = self.norm(&self.layer_name(i, names.norm), 1.0)?;
        let mlp_post = self.added_norm(&self.layer_name(i, names.post[0]))?;
        let experts_post = self.added_norm(&self.layer_name(i, names.post[1]))?;
        Ok(Both { mlp, experts, router_norm, experts_norm, mlp_post, experts_post })
    }
}
