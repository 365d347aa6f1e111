//! A vision tower's weights. Every rank holds all of it. Part of `load`.

use super::linears;
use super::loader::{dummy, Loader, Upload, Vector};
use super::tower_mlp::wide_rows;
use crate::device::{Bytes, DType, Device, HostTensor, Join, Norm, NormKind, Source, WeightKind};
use crate::error::Result;
use crate::image::Kind;
use crate::internal;
use crate::model::architectures::{
    Joined, MergerEps, MergerNames, MergerProduct, MergerWidth, Places, Turns,
};
use crate::model::checkpoint::WeightSource;
use crate::model::config::{PlacesSpec, VisionSpec};
use crate::model::quant::unpack::Values;
use crate::model::shard::Cut;
use crate::model::weights::{
    Linear, MergeNorm, MergeProduct, Merger, Standard, TowerLayer, TowerWeights,
};

impl<'a, D: Device> Loader<'a, D> {
    pub(super) fn tower(&mut self, vision: &VisionSpec) -> Result<TowerWeights<D::Weight>> {
        let row = vision.tower;
        let width = vision.width;
        let [prefix, behind] = self.tower_prefixes(vision);
        let name = |name: &str| format!("{prefix}{name}");

        let patches = self.patch_product(&name(row.patches), vision)?;
        let places = self.places(prefix, vision)?;
        let first = row.first.map(|norm| self.tower_norm(vision, row.norm, &name(norm), width));
        let first = first.transpose()?;
        let mlp_width = self.tower_mlp_width(vision, prefix)?;
        let mut layers = Vec::new();
        for i in 0..vision.depth {
            let prefix = name(&format!("{}.{i}.", row.layers));
            layers.push(self.tower_layer(vision, &prefix, mlp_width)?);
        }
        let last = row.last.map(|norm| self.tower_norm(vision, row.norm, &name(norm), width));
        let last = last.transpose()?;

        let mut merger = self.merger(behind, &row.merger, vision)?;
        merger.standard = self.standard(prefix, vision)?;
        let mut deep = Vec::new();
        let names = row.deep.iter().cycle();
        for (i, (_, names)) in vision.deep.iter().zip(names).enumerate() {
            let prefix = format!("{behind}{}.{i}.", names.mergers);
            deep.push(self.merger(&prefix, &names.names, vision)?);
        }
        let row_end = row.any_resolution.as_ref();
        let row_end = row_end.map(|names| self.row_end(behind, names.row_end)).transpose()?;
        Ok(TowerWeights { patches, places, first, layers, last, row_end, merger, deep })
    }

    /// The vector that ends rows of images: beside what makes tokens, in a table.
    fn row_end(&mut self, behind: &str, name: &str) -> Result<D::Weight> {
        let outer = behind.trim_end_matches('.').rsplit_once('.');
        let name = outer.map_or(name.to_string(), |(outer, _)| format!("{outer}.{name}"));
        let width = self.spec.hidden;
        let parts = self.table_parts(std::slice::from_ref(&name), &[1], width)?;
        let source = parts.unwrap_or_else(|| dummy(&name, width));
        self.whole_table(&name, 1, width, Values::plain(source))
    }

    /// In front of the tower's names, and of those of what is behind it.
    fn tower_prefixes(&self, vision: &VisionSpec) -> [&'static str; 2] {
        let row = vision.tower;
        let found = match self.format {
            WeightSource::Files(checkpoint) => row
                .prefixes
                .iter()
                .find(|[prefix, _]| linears::has(checkpoint, &format!("{prefix}{}", row.patches))),
            WeightSource::Dummy => None,
        };
        found.or(row.prefixes.first()).copied().unwrap_or_default()
    }

    /// The layer of this prefix.
    fn tower_layer(
        &mut self,
        vision: &VisionSpec,
        prefix: &str,
        mlp_width: usize,
    ) -> Result<TowerLayer<D::Weight>> {
        let (row, width) = (vision.tower, vision.width);
        let name = |name: &str| format!("{prefix}{name}");
        // In one part: not the decoder's heads.
        let qkv: Vec<String> = row.qkv.iter().map(|qkv| name(qkv)).collect();
        let outputs = vec![3 * width / qkv.len(); qkv.len()];
        let (out, scales) = (name(row.out), row.layer_scales.map(|scales| name(scales[0])));
        let columns = [width, width];
        let qk_norms = match row.qk_norms {
            Some([q, k]) => Some([
                self.tower_norm(vision, row.norm, &name(q), width)?,
                self.tower_norm(vision, row.norm, &name(k), width)?,
            ]),
            None => None,
        };

        Ok(TowerLayer {
            norms: [
                self.tower_norm(vision, row.norm, &name(row.norms[0]), width)?,
                self.tower_norm(vision, row.norm, &name(row.norms[1]), width)?,
            ],
            post_norms: match row.post_norms {
                Some([attn, mlp]) => Some([
                    self.tower_norm(vision, row.norm, &name(attn), width)?,
                    self.tower_norm(vision, row.norm, &name(mlp), width)?,
                ]),
                None => None,
            },
            qkv: match row.turns {
                Turns::HalfEach(_) => self.halves_apart(vision, &qkv)?,
                _ => self.linear(&qkv, &outputs, width, vision.qkv_bias, &Cut::Whole)?,
            },
            qk_norms,
            head_norms: match row.head_norms {
                Some([q, k]) => Some([
                    self.tower_head_norm(vision, &name(q))?,
                    self.tower_head_norm(vision, &name(k))?,
                    self.unit_norm(&name("v"), vision.head_dim(), vision.eps)?,
                ]),
                None => None,
            },
            out: self.scaled(vision, [Some(&out), scales.as_ref()], columns, row.out_bias)?,
            mlp: self.tower_mlp(vision, prefix, mlp_width)?,
        })
    }

    /// q, k and v of heads whose halves are turned apart: each head of q and k has its second and
    /// third quarter the other way round, so that what goes together lies half a head apart.
    fn halves_apart(&mut self, vision: &VisionSpec, names: &[String]) -> Result<Linear<D::Weight>> {
        let width = vision.width;
        let mut bytes = Vec::new();
        for (nth, name) in names.iter().enumerate() {
            let weight = [format!("{name}.weight")];
            let Some(rows) = self.numbers(&weight, width, width)? else {
                let outputs = vec![width; names.len()];
                return self.linear(names, &outputs, width, false, &Cut::Whole);
            };
            for row in 0..width {
                let from = if nth < 2 { in_quarters(row, vision.head_dim()) } else { row };
                let values = &rows[from * width..(from + 1) * width];
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        let name = names.first().cloned().unwrap_or_default();
        let shape = [names.len() * width, width];
        let weight = self.folded(&name, WeightKind::Linear, shape, &bytes)?;
        Ok(Linear { weight, bias: None })
    }

    /// A norm of each head of q or k, in the order of their elements.
    fn tower_head_norm(&mut self, vision: &VisionSpec, name: &str) -> Result<Norm<D::Weight>> {
        let (row, width) = (vision.tower, vision.head_dim());
        let weight = [format!("{name}.weight")];
        let values = match row.turns {
            Turns::HalfEach(_) => self.numbers(&weight, width, 1)?,
            _ => None,
        };
        let Some(values) = values else { return self.tower_norm(vision, row.norm, name, width) };
        let ordered = (0..width).map(|i| values[in_quarters(i, width)]);
        let bytes: Vec<u8> = ordered.flat_map(f32::to_le_bytes).collect();
        let weight = self.folded(name, WeightKind::Vector, [width, 1], &bytes)?;
        Ok(Norm { kind: row.norm, eps: vision.eps, weight, bias: None })
    }

    /// What becomes of means of patches first, by vectors of the tower.
    fn standard(
        &mut self,
        prefix: &str,
        vision: &VisionSpec,
    ) -> Result<Option<Standard<D::Weight>>> {
        let Some([bias, scale]) = vision.tower.merger.standard else { return Ok(None) };
        let width = vision.width;
        Ok(Some(Standard {
            factor: (width as f32).sqrt(),
            bias: self.tower_vector(format!("{prefix}{bias}"), width)?,
            scale: self.tower_vector(format!("{prefix}{scale}"), width)?,
        }))
    }

    fn merger(
        &mut self,
        prefix: &str,
        names: &MergerNames,
        vision: &VisionSpec,
    ) -> Result<Merger<D::Weight>> {
        let square = vision.square() * vision.width;
        let row = if names.joined == Joined::Mean { vision.width } else { square };
        let norm = match names.norm {
            Some(norm) => {
                let kind = norm.kind.unwrap_or(vision.tower.norm);
                let width = if norm.joined { row } else { vision.width };
                let eps = match norm.eps {
                    MergerEps::Tower => vision.eps,
                    MergerEps::Fixed(eps) => eps,
                    MergerEps::Decoder => self.spec.norm_eps,
                };
                let name = format!("{prefix}{}", norm.name);
                let own = if norm.unit {
                    self.unit_norm(&name, width, vision.eps)?
                } else {
                    self.tower_norm(vision, kind, &name, width)?
                };
                Some(MergeNorm { norm: Norm { eps, ..own }, joined: norm.joined })
            }
            None => None,
        };

        let mut inputs = row;
        let mut products = Vec::new();
        for product in names.products {
            let outputs = match product.outputs {
                MergerWidth::Patch => vision.width,
                MergerWidth::Square => square,
                MergerWidth::Decoder => self.spec.hidden,
            };
            let turned = products.is_empty() && names.joined == Joined::ChannelsFirst;
            let parts = if turned { vision.square() } else { 1 };
            let linear = self.merge_product(prefix, product, outputs, inputs, parts)?;
            products.push(MergeProduct { linear, outputs, activation: product.activation });
            inputs = outputs;
        }
        Ok(Merger { joined: names.joined, standard: None, norm, products })
    }

    /// A product of a merger; `parts` above 1: its columns are those of so many patches by channel,
    /// and are put patch by patch.
    fn merge_product(
        &mut self,
        prefix: &str,
        product: &MergerProduct,
        outputs: usize,
        inputs: usize,
        parts: usize,
    ) -> Result<Linear<D::Weight>> {
        let name = format!("{prefix}{}", product.name);
        if parts == 1 && !product.transposed {
            return self.linear(&[name], &[outputs], inputs, product.bias, &Cut::Whole);
        }
        if product.bias {
            return Err(internal!("{name}: a bias of a product that is put in order"));
        }
        let name = if product.transposed { name } else { format!("{name}.weight") };
        let names = std::slice::from_ref(&name);

        let source = self.parts(names, &[outputs], inputs, product.transposed)?;
        let ordered: Vec<u8>;
        let source = match source {
            Some(Source::Parts(tensors)) if parts > 1 => {
                let mut values = Vec::new();
                for tensor in &tensors {
                    values.extend(tensor.values()?);
                }
                ordered = by_patch(&values, inputs, parts);
                let (dtype, bytes) = (DType::F32, Bytes::InMemory(&ordered));
                Source::Parts(vec![HostTensor { dtype, rows: outputs, cols: inputs, bytes }])
            }
            Some(source) => source,
            None => dummy(&name, inputs),
        };
        let weight = self.upload(Upload {
            name: &name,
            kind: WeightKind::Linear,
            outputs,
            inputs,
            transposed: product.transposed,
            join: Join::None,
            values: Values::plain(source),
        })?;
        Ok(Linear { weight, bias: None })
    }

    /// A product to the tower's width, times a vector of that name, if there is one: folded into
    /// it, before it is rounded. Of `columns[0]` inputs, with columns of zeros up to `columns[1]`.
    pub(super) fn scaled(
        &mut self,
        vision: &VisionSpec,
        [name, scales]: [Option<&String>; 2],
        columns: [usize; 2],
        bias: bool,
    ) -> Result<Linear<D::Weight>> {
        let (width, name) = (vision.width, name.cloned().unwrap_or_default());
        let [inputs, all] = columns;
        let one = |name: &str| [name.to_string()];
        let (weights, biases) = (one(&format!("{name}.weight")), one(&format!("{name}.bias")));
        let factors = match scales {
            Some(scales) => self.numbers(&one(scales), width, 1)?,
            None => None,
        };
        if factors.is_none() && inputs == all {
            return self.linear(&[name], &[width], inputs, bias, &Cut::Whole);
        }

        let factors = factors.as_deref();
        let weight = match self.numbers(&weights, width, inputs)? {
            Some(read) => {
                let bytes = wide_rows(&read, factors, columns);
                self.folded(&weights[0], WeightKind::Linear, [width, all], &bytes)?
            }
            None => self.upload(Upload {
                name: &weights[0],
                kind: WeightKind::Linear,
                outputs: width,
                inputs: all,
                transposed: false,
                join: Join::None,
                values: Values::plain(dummy(&weights[0], all)),
            })?,
        };
        if !bias {
            return Ok(Linear { weight, bias: None });
        }
        let bias = match self.numbers(&biases, width, 1)? {
            Some(read) => {
                let bytes = wide_rows(&read, factors, [1, 1]);
                self.folded(&biases[0], WeightKind::Vector, [width, 1], &bytes)?
            }
            None => self.tower_vector(biases[0].clone(), width)?,
        };
        Ok(Linear { weight, bias: Some(bias) })
    }

    /// Numbers of a tensor of the checkpoint; None: there is none.
    fn numbers(&self, name: &[String], rows: usize, columns: usize) -> Result<Option<Vec<f32>>> {
        match self.parts(name, &[rows], columns, false)? {
            Some(Source::Parts(parts)) => {
                let values = parts.iter().map(HostTensor::values).collect::<Result<Vec<_>>>()?;
                Ok(Some(values.concat()))
            }
            _ => Ok(None),
        }
    }

    /// A weight of these numbers of 32 bits.
    fn folded(
        &mut self,
        name: &str,
        kind: WeightKind,
        [outputs, inputs]: [usize; 2],
        bytes: &[u8],
    ) -> Result<D::Weight> {
        let bytes = Bytes::InMemory(bytes);
        let part = HostTensor { dtype: DType::F32, rows: outputs, cols: inputs, bytes };
        self.upload(Upload {
            name,
            kind,
            outputs,
            inputs,
            transposed: false,
            join: Join::None,
            values: Values::plain(Source::Parts(vec![part])),
        })
    }

    /// A table of vectors of places: one matrix of all that is added to rows.
    fn places(&mut self, prefix: &str, vision: &VisionSpec) -> Result<Option<D::Weight>> {
        let width = vision.width;
        if let (Places::OfColumnAndRow { table, .. }, PlacesSpec::OfColumnAndRow(count)) =
            (&vision.tower.places, vision.places)
        {
            let (name, rows) = (format!("{prefix}{table}"), 2 * count);
            let source = match self.format {
                WeightSource::Files(checkpoint) if !self.shapes_only => {
                    let tensor = checkpoint.convolution(&name, &[2, count, width])?;
                    Source::Parts(vec![HostTensor { rows, cols: width, ..tensor }])
                }
                _ => dummy(&name, width),
            };
            return self.whole_table(&name, rows, width, Values::plain(source)).map(Some);
        }
        let (names, rows) = match (&vision.tower.places, vision.places) {
            (Places::Stretched { table, .. }, PlacesSpec::Stretched(side)) => {
                (vec![format!("{prefix}{table}")], vec![side * side])
            }
            (Places::Each { table, class }, PlacesSpec::Each { side, .. }) => {
                let table = format!("{prefix}{table}");
                let (mut names, mut rows) = (vec![table], vec![side * side]);
                if let Some(class) = class {
                    names.insert(0, format!("{prefix}{class}"));
                    rows = vec![1, 1 + side * side];
                    if vision.tower.patch_bias {
                        names.push(format!("{prefix}{}.bias", vision.tower.patches));
                        rows.push(1);
                    }
                }
                (names, rows)
            }
            _ => return Ok(None),
        };

        let parts = self.table_parts(&names, &rows, width)?;
        let total = rows.iter().sum();
        let source = parts.unwrap_or_else(|| dummy(&names[0], width));
        self.whole_table(&names[0], total, width, Values::plain(source)).map(Some)
    }

    /// Rows of tensors, which some checkpoints keep with further dimensions of 1 in front.
    fn table_parts(
        &self,
        names: &[String],
        rows: &[usize],
        width: usize,
    ) -> Result<Option<Source<'a>>> {
        let WeightSource::Files(checkpoint) = self.format else { return Ok(None) };
        if self.shapes_only {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for (name, &rows) in names.iter().zip(rows) {
            let stored = checkpoint.shape_of(name).unwrap_or_default();
            let ones = stored.iter().take_while(|&&n| n == 1).count();
            let shape = match rows {
                1 if stored.len() == ones + 1 && stored.last() == Some(&width) => stored.to_vec(),
                _ if ones > 0 && stored.len() > 2 => [&[1], &[rows, width][..]].concat(),
                _ => vec![rows, width],
            };
            let tensor = checkpoint.convolution(name, &shape)?;
            parts.push(HostTensor { rows, cols: width, ..tensor });
        }
        Ok(Some(Source::Parts(parts)))
    }

    /// A convolution whose windows do not overlap is a product.
    fn patch_product(&mut self, name: &str, vision: &VisionSpec) -> Result<Linear<D::Weight>> {
        let bias = format!("{name}.bias");
        let name = format!("{name}.weight");
        let (side, copies) = (vision.settings.patch, vision.settings.copies);
        let shape = match vision.tower.images {
            Kind::Qwen => vec![vision.width, 3, copies, side, side],
            _ => vec![vision.width, 3, side, side],
        };
        let inputs = shape[1..].iter().product();
        if vision.tower.by_pixel {
            let read = self.numbers(std::slice::from_ref(&name), vision.width, inputs)?;
            if let Some(read) = read {
                let bytes = by_patch(&read, inputs, 3);
                let shape = [vision.width, inputs];
                let weight = self.folded(&name, WeightKind::Linear, shape, &bytes)?;
                return Ok(Linear { weight, bias: None });
            }
        }
        let source = match self.format {
            WeightSource::Files(checkpoint) if !self.shapes_only && !vision.tower.by_pixel => {
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
        // Beside a class it is in the table of places: the class has none.
        let has_bias = vision.tower.patch_bias && vision.class_rows() == 0;
        let bias = has_bias.then(|| self.tower_vector(bias, vision.width)).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn tower_vector(&mut self, name: String, width: usize) -> Result<D::Weight> {
        let (neutral, plus, scale, cut, order) = (0.0, 0.0, 1.0, &Cut::Whole, None);
        self.vector(Vector { name, width, neutral, plus, scale, cut, order })
    }

    fn tower_norm(
        &mut self,
        vision: &VisionSpec,
        kind: NormKind,
        name: &str,
        width: usize,
    ) -> Result<Norm<D::Weight>> {
        let neutral = if kind == NormKind::RmsPlusOne { 0.0 } else { 1.0 };
        let (plus, scale, cut, order) = (0.0, 1.0, &Cut::Whole, None);
        let weight = format!("{name}.weight");
        let weight =
            self.vector(Vector { name: weight, width, neutral, plus, scale, cut, order })?;
        let bias = match kind {
            NormKind::Layer => Some(self.tower_vector(format!("{name}.bias"), width)?),
            NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        Ok(Norm { kind, eps: vision.eps, weight, bias })
    }
}

/// Which element of a head lies in the place of the i-th where the two quarters in the middle
/// change places.
fn in_quarters(i: usize, head_dim: usize) -> usize {
    let quarter = head_dim / 4;
    match i % head_dim / quarter.max(1) {
        1 => i + quarter,
        2 => i - quarter,
        _ => i,
    }
}

/// Rows of `[channel][patch]` as rows of `[patch][channel]`, in bytes.
fn by_patch(values: &[f32], inputs: usize, patches: usize) -> Vec<u8> {
    let channels = inputs / patches;
    let column = |i: usize| i % channels * patches + i / channels;
    let rows = values.chunks_exact(inputs);
    rows.flat_map(|row| (0..inputs).flat_map(move |i| row[column(i)].to_le_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::{by_patch, in_quarters};

    #[test]
    fn quarters_in_the_middle_change_places() {
        let order: Vec<usize> = (8..16).map(|i| in_quarters(i, 8)).collect();
        assert_eq!(order, [8, 9, 12, 13, 10, 11, 14, 15]);
    }

    #[test]
    fn channels_of_a_patch_come_together() {
        let row = [0.0f32, 10.0, 1.0, 11.0, 2.0, 12.0];
        let bytes = by_patch(&row, 6, 2);
        let back: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(back, [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
    }
}
