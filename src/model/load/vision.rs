//! A vision tower's weights. Every rank holds all of it. Part of `load`.

use super::linears;
use super::loader::{dummy, Loader, Upload, Vector};
use crate::device::{Device, Join, Norm, NormKind, Source, WeightKind};
use crate::error::Result;
use crate::model::architectures::MergerNames;
use crate::model::checkpoint::WeightSource;
use crate::model::config::VisionSpec;
use crate::model::quant::unpack::Values;
use crate::model::shard::Cut;
use crate::model::weights::{Linear, Merger, Mlp, TowerLayer, TowerWeights};

/// Of all norms of towers.
const EPS: f32 = 1e-6;

impl<D: Device> Loader<'_, D> {
    pub(super) fn tower(&mut self, vision: &VisionSpec) -> Result<TowerWeights<D::Weight>> {
        let row = vision.tower;
        let width = vision.width;
        let prefix = match self.format {
            WeightSource::Files(checkpoint) => row
                .prefixes
                .iter()
                .find(|prefix| linears::has(checkpoint, &format!("{prefix}{}", row.patches))),
            WeightSource::Dummy => None,
        };
        let prefix = prefix.or(row.prefixes.first()).copied().unwrap_or("");
        let name = |name: &str| format!("{prefix}{name}");

        let patches = self.patch_product(&name(row.patches), vision)?;
        let places = match (row.places, vision.places) {
            (Some(places), Some(side)) => Some(self.places(&name(places), side, width)?),
            _ => None,
        };
        let mut layers = Vec::new();
        for i in 0..vision.depth {
            let name = |name: &str| format!("{prefix}{}.{i}.{name}", row.layers);
            let up: Vec<String> = row.up.iter().map(|up| name(up)).collect();
            let outputs = vec![vision.ffn; up.len()];
            layers.push(TowerLayer {
                norms: [
                    self.tower_norm(row.norm, &name(row.norms[0]), width)?,
                    self.tower_norm(row.norm, &name(row.norms[1]), width)?,
                ],
                // In one part: not the decoder's heads.
                qkv: self.tower_linear(name(row.qkv), 3 * width, width)?,
                out: self.tower_linear(name(row.out), width, width)?,
                mlp: Mlp {
                    up: self.linear(&up, &outputs, width, true, &Cut::Whole)?,
                    down: self.tower_linear(name(row.down), width, vision.ffn)?,
                    activation: None,
                    width: vision.ffn,
                },
            });
        }

        let merger = self.merger(prefix, &row.merger, vision, width)?;
        let mut deep = Vec::new();
        for (i, names) in
            vision.deep.iter().zip(row.deep.iter().cycle()).map(|(_, n)| n).enumerate()
        {
            let prefix = format!("{prefix}{}.{i}.", names.mergers);
            deep.push(self.merger(&prefix, &names.names, vision, vision.square() * width)?);
        }
        Ok(TowerWeights { patches, places, layers, merger, deep })
    }

    /// A merger whose norm is so wide.
    fn merger(
        &mut self,
        prefix: &str,
        names: &MergerNames,
        vision: &VisionSpec,
        norm_width: usize,
    ) -> Result<Merger<D::Weight>> {
        let name = |name: &str| format!("{prefix}{name}");
        let merged = vision.square() * vision.width;
        Ok(Merger {
            norm: self.tower_norm(vision.tower.norm, &name(names.norm), norm_width)?,
            products: [
                self.tower_linear(name(names.products[0]), merged, merged)?,
                self.tower_linear(name(names.products[1]), self.spec.hidden, merged)?,
            ],
        })
    }

    /// A table of vectors of places.
    fn places(&mut self, name: &str, side: usize, width: usize) -> Result<D::Weight> {
        let name = format!("{name}.weight");
        let parts = self.parts(std::slice::from_ref(&name), &[side * side], width, false)?;
        let source = parts.unwrap_or_else(|| dummy(&name, width));
        self.whole_table(&name, side * side, width, Values::plain(source))
    }

    fn tower_linear(
        &mut self,
        name: String,
        outputs: usize,
        inputs: usize,
    ) -> Result<Linear<D::Weight>> {
        self.linear(&[name], &[outputs], inputs, true, &Cut::Whole)
    }

    /// A convolution whose windows do not overlap is a product.
    fn patch_product(&mut self, name: &str, vision: &VisionSpec) -> Result<Linear<D::Weight>> {
        let bias = format!("{name}.bias");
        let name = format!("{name}.weight");
        let side = vision.settings.patch;
        let shape = [vision.width, 3, vision.settings.copies, side, side];
        let inputs = shape[1..].iter().product();
        let source = match self.format {
            WeightSource::Files(checkpoint) if !self.shapes_only => {
                Source::Parts(vec![checkpoint.convolution(&name, &shape)?])
            }
            _ => dummy(&name, inputs),
        };
        let weight = self.upload(Upload {
            name: &name,
            kind: WeightKind::Linear,
            outputs: vision.width,
            inputs,
            transposed: false,
            join: Join::None,
            values: Values::plain(source),
        })?;
        let has_bias = vision.tower.patch_bias;
        let bias = has_bias.then(|| self.tower_vector(bias, vision.width, 0.0)).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn tower_vector(&mut self, name: String, width: usize, neutral: f32) -> Result<D::Weight> {
        let (plus, scale, cut, order) = (0.0, 1.0, &Cut::Whole, None);
        self.vector(Vector { name, width, neutral, plus, scale, cut, order })
    }

    fn tower_norm(&mut self, kind: NormKind, name: &str, width: usize) -> Result<Norm<D::Weight>> {
        let weight = self.tower_vector(format!("{name}.weight"), width, 1.0)?;
        let bias = match kind {
            NormKind::Layer => Some(self.tower_vector(format!("{name}.bias"), width, 0.0)?),
            NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        Ok(Norm { kind, eps: EPS, weight, bias })
    }
}
