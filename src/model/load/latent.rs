//! Attention over latent vectors: products of q and of latent vectors, whose rotated rows are put
//! in the devices' order, and the matrices of K and V of each head out of the tensor that holds
//! both. Part of `load`, which asks for it layer by layer.

use super::loader::{dummy, Loader, Upload};
use crate::device::{Bytes, DType, Device, HostTensor, Join, Source, WeightKind};
use crate::error::Result;
use crate::internal;
use crate::model::architectures::LatentNames;
use crate::model::config::LatentShape;
use crate::model::head_order::HeadOrder;
use crate::model::quant::unpack::{self, Values, Wanted};
use crate::model::quant::LayerKind;
use crate::model::shard::Cut;
use crate::model::weights::{LatentAttention, LatentQuery};

impl<D: Device> Loader<'_, D> {
    pub(super) fn latent_attention(
        &mut self,
        i: usize,
        names: &LatentNames,
        shape: &LatentShape,
    ) -> Result<LatentAttention<D::Weight>> {
        let hidden = self.spec.hidden;
        let q = self.latent_query(i, names, shape)?;

        let name = self.layer_name(i, names.latent);
        let order = HeadOrder {
            head_dim: shape.width(),
            first: shape.rank,
            rotary_dim: turned(names, shape),
        };
        let latent = self.ordered_linear(&name, shape.width(), hidden, &Cut::Whole, order)?;
        let norm = self.layer_name(i, names.latent_norm);
        let latent_norm = self.plain_norm(&norm, shape.rank)?;

        let name = self.layer_name(i, names.heads);
        let [keys, values] = self.matrices_of_heads(&name, shape)?;
        let out = self.attention_out(i)?;
        Ok(LatentAttention { q, latent, latent_norm, keys, values, out })
    }

    fn latent_query(
        &mut self,
        i: usize,
        names: &LatentNames,
        shape: &LatentShape,
    ) -> Result<LatentQuery<D::Weight>> {
        let spec = self.spec;
        let outputs = spec.heads * shape.q_dim();
        let cut = self.shard.of_heads(spec, shape.q_dim());
        let order = HeadOrder {
            head_dim: shape.q_dim(),
            first: shape.nope,
            rotary_dim: turned(names, shape),
        };
        let Some(rank) = shape.q_rank else {
            let name = self.layer_name(i, names.q);
            let whole = self.ordered_linear(&name, outputs, spec.hidden, &cut, order)?;
            return Ok(LatentQuery::Whole(whole));
        };

        let [down, norm, up] = names.q_low_rank.map(|name| self.layer_name(i, name));
        Ok(LatentQuery::LowRank {
            down: self.linear(&[down], &[rank], spec.hidden, false, &Cut::Whole)?,
            norm: self.plain_norm(&norm, rank)?,
            up: self.ordered_linear(&up, outputs, rank, &cut, order)?,
        })
    }

    /// The matrices of K, turned, and those of V, of the rank's heads. Codes become plain values.
    fn matrices_of_heads(&mut self, name: &str, shape: &LatentShape) -> Result<[D::Weight; 2]> {
        let LatentShape { rank, nope, value, .. } = *shape;
        let each = nope + value;
        let names = [name.to_string()];
        let outputs = [self.spec.heads * each];
        let wanted = Wanted { names: &names, outputs: &outputs, inputs: rank };
        let cut = self.shard.of_heads(self.spec, each);
        let full = format!("{name}.weight");

        let [keys, values] = if self.shapes_only {
            [dummy(&full, nope), dummy(&full, rank)]
        } else {
            let held = self.values(LayerKind::Linear, &wanted, false)?;
            let held = self.part_of(held, LayerKind::Linear, &wanted, &cut, 1, false)?;
            match unpack::plain(held)?.source {
                Source::Parts(parts) => split(&parts, shape)?,
                source @ Source::Dummy { .. } => {
                    let keys = self.of_rank(dummy(&format!("{name}.keys"), nope));
                    [keys, source]
                }
                _ => return Err(internal!("{full}: no parts to split")),
            }
        };

        let heads = self.shard.heads;
        let mut upload = |source, outputs, inputs| {
            self.upload(Upload {
                name: &full,
                kind: WeightKind::Heads { count: heads },
                outputs: heads * outputs,
                inputs,
                transposed: false,
                join: Join::None,
                values: Values::plain(source),
            })
        };
        Ok([upload(keys, rank, nope)?, upload(values, value, rank)?])
    }
}

/// Dimensions that neighbours are rotated together in.
fn turned(names: &LatentNames, shape: &LatentShape) -> usize {
    if names.neighbours {
        shape.rotary
    } else {
        0
    }
}

/// Of parts that hold whole heads the matrices of K, each turned to `[rank, nope]`, and those of V,
/// `[value, rank]`.
fn split(parts: &[HostTensor], shape: &LatentShape) -> Result<[Source<'static>; 2]> {
    let LatentShape { rank, nope, value, .. } = *shape;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut dtype = DType::F32;
    let mut heads = 0;
    for part in parts {
        dtype = part.dtype;
        let size = dtype.bytes();
        let bytes = part.bytes.load()?;
        let (row, head) = (rank * size, (nope + value) * rank * size);
        if head == 0 || bytes.len() % head != 0 {
            return Err(internal!("{} bytes are no whole heads", bytes.len()));
        }

        for head in bytes.chunks_exact(head) {
            let (key, own) = head.split_at(nope * row);
            for column in (0..row).step_by(size) {
                let elements = key.chunks_exact(row).map(|line| &line[column..column + size]);
                elements.for_each(|element| keys.extend_from_slice(element));
            }
            values.extend_from_slice(own);
            heads += 1;
        }
    }

    let source = |bytes: Vec<u8>, rows, cols| {
        let bytes = Bytes::Shared(bytes.into());
        Source::Parts(vec![HostTensor { dtype, rows: heads * rows, cols, bytes }])
    };
    Ok([source(keys, rank, nope), source(values, value, rank)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_k_are_turned_and_those_of_v_are_not() {
        let shape = LatentShape { q_rank: None, rank: 3, nope: 2, rotary: 2, value: 1 };
        let values: Vec<f32> = (0..18).map(|x| x as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let bytes = Bytes::Shared(bytes.into());
        let part = HostTensor { dtype: DType::F32, rows: 6, cols: 3, bytes };
        let both = split(&[part], &shape).unwrap().map(|source| match source {
            Source::Parts(parts) => parts[0].values().unwrap(),
            _ => panic!("no parts"),
        });
        assert_eq!(both[0], [0., 3., 1., 4., 2., 5., 9., 12., 10., 13., 11., 14.]);
        assert_eq!(both[1], [6., 7., 8., 15., 16., 17.]);
    }
}
