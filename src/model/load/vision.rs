//! A vision tower's weights. Every rank holds all of it. Part of `load`.

use super::linears;
use super::loader::{dummy, Loader, Upload, Vector};
use crate::device::{Device, Join, Norm, NormKind, Source, WeightKind};
use crate::error::Result;
use crate::model::checkpoint::WeightSource;
use crate::model::config::VisionSpec;
use crate::model::quant::unpack::Values;
use crate::model::shard::Cut;
use crate::model::weights::{Linear, Mlp, TowerLayer, TowerWeights};

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
        let mut layers = Vec::new();
        for i in 0..vision.depth {
            let name = |name: &str| format!("{prefix}{}.{i}.{name}", row.layers);
            let up = row.up.map(name);
            layers.push(TowerLayer {
                norms: [
                    self.tower_norm(&name(row.norms[0]), width)?,
                    self.tower_norm(&name(row.norms[1]), width)?,
                ],
                // In one part: not the decoder's heads.
                qkv: self.tower_linear(name(row.qkv), 3 * width, width)?,
                out: self.tower_linear(name(row.out), width, width)?,
                mlp: Mlp {
                    up: self.linear(&up, &[vision.ffn; 2], width, true, &Cut::Whole)?,
                    down: self.tower_linear(name(row.down), width, vision.ffn)?,
                    activation: None,
                    width: vision.ffn,
                },
            });
        }

        let merged = vision.settings.merge * vision.settings.merge * width;
        Ok(TowerWeights {
            patches,
            layers,
            merge_norm: self.tower_norm(&name(row.merge_norm), width)?,
            merge: [
                self.tower_linear(name(row.merge[0]), merged, merged)?,
                self.tower_linear(name(row.merge[1]), self.spec.hidden, merged)?,
            ],
        })
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
    fn patch_product(&mut self, name: &str, vision: &VisionSpec) -> Result<D::Weight> {
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
        self.upload(Upload {
            name: &name,
            kind: WeightKind::Linear,
            outputs: vision.width,
            inputs,
            transposed: false,
            join: Join::None,
            values: Values::plain(source),
        })
    }

    fn tower_norm(&mut self, name: &str, width: usize) -> Result<Norm<D::Weight>> {
        let weight = self.vector(Vector {
            name: format!("{name}.weight"),
            width,
            neutral: 1.0,
            plus: 0.0,
            scale: 1.0,
            cut: &Cut::Whole,
            order: None,
        })?;
        Ok(Norm { kind: NormKind::Rms, eps: EPS, weight, bias: None })
    }
}
