//! Norms of q and k with weights of each head: one matrix, or a vector for each. Part of `load`,
//! which asks for them layer by layer.

use super::cut;
use super::loader::{flat, Loader, Upload};
use super::reorder;
use crate::device::{Device, Join, Norm, Source, WeightKind};
use crate::error::Result;
use crate::model::quant::unpack::Values;
use crate::model::shard::Cut;
use crate::model::weights::QkNorms;

impl<D: Device> Loader<'_, D> {
    /// Of a layer's q and k, by these names.
    pub(super) fn norms_of_each_head(
        &mut self,
        i: usize,
        names: [&str; 2],
        listed: bool,
    ) -> Result<QkNorms<D::Weight>> {
        let (spec, shard) = (self.spec, self.shard);
        let attn = &spec.attention[i].attn;
        let [q, k] = names.map(|name| self.layer_name(i, name));
        let q = self.norm_of_each_head(&q, attn.heads, listed, &shard.q_norm(spec, i))?;
        let cut = shard.k_norm(spec, i);
        let own = (!attn.q_only).then(|| self.norm_of_each_head(&k, attn.kv_heads, listed, &cut));
        Ok(QkNorms { q, k: own.transpose()? })
    }

    fn norm_of_each_head(
        &mut self,
        name: &str,
        heads: usize,
        listed: bool,
        cut: &Cut,
    ) -> Result<Norm<D::Weight>> {
        let d = self.spec.head_dim;
        let parts = if listed {
            let names: Vec<String> =
                (0..heads).map(|head| format!("{name}.norms.{head}.weight")).collect();
            self.parts(&names, &vec![d; heads], 1, false)?
        } else {
            self.parts(&[format!("{name}.weight")], &[heads], d, false)?.map(flat)
        };

        let mut source = parts.unwrap_or(Source::Constant(1.0));
        if matches!(cut, Cut::Outputs(_)) {
            source = cut::outputs(source, None, &cut.rows(1), false)?;
        }
        let held = cut.outputs(heads * d);
        if let Some(order) = self.head_order() {
            source = reorder::heads(source, None, order, held)?;
        }
        // Each head has its own mean, so there is none over ranks.
        let weight = self.upload(Upload {
            name,
            kind: WeightKind::Vector,
            outputs: held,
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(source),
        })?;
        let kind = self.spec.family.norm;
        Ok(Norm { kind, eps: self.spec.inner_eps, weight, bias: None })
    }
}
