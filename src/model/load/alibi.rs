//! Slopes of heads by which ALiBi lowers scores (Press et al., "Train Short, Test Long", 2021).
//! Part of `load`, which asks for them layer by layer. No checkpoint holds them.

use super::loader::{Loader, Upload};
use crate::device::{Bytes, DType, Device, HostTensor, Join, Source, WeightKind};
use crate::error::Result;
use crate::model::architectures::Positions;
use crate::model::quant::unpack::Values;

impl<D: Device> Loader<'_, D> {
    /// Those of the rank's heads in a layer, if the family has some.
    pub(super) fn slopes(&mut self, i: usize) -> Result<Option<D::Weight>> {
        let spec = self.spec;
        let Positions::Alibi { scaled } = spec.family.positions else { return Ok(None) };
        let factor = if scaled { spec.attention[i].attn.scale } else { 1.0 };
        let heads = self.shard.heads;
        let first = self.shard.rank.index * heads;
        let own = slopes(spec.heads).into_iter().skip(first).take(heads);
        let bytes: Vec<u8> = own.flat_map(|slope| (slope * factor).to_le_bytes()).collect();

        let bytes = Bytes::InMemory(&bytes);
        let values = HostTensor { dtype: DType::F32, rows: heads, cols: 1, bytes };
        let weight = self.upload(Upload {
            name: "slopes of heads",
            kind: WeightKind::Vector,
            outputs: heads,
            inputs: 1,
            transposed: false,
            join: Join::None,
            values: Values::plain(Source::Parts(vec![values])),
        })?;
        Ok(Some(weight))
    }
}

/// Of all heads: 2^(-8 k / p) for k from 1 to p, the largest power of two among them; of those that
/// are left the odd powers of 2^(-4 / p).
fn slopes(heads: usize) -> Vec<f32> {
    let power = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    let slope = |exponent: f64| (-exponent / power as f64).exp2() as f32;
    let first = (1..=power).map(|k| slope(8.0 * k as f64));
    let others = (0..heads - power).map(|k| slope(4.0 * (2 * k + 1) as f64));
    first.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_halve_from_head_to_head() {
        assert_eq!(slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
        assert_eq!(slopes(1), [0.00390625]);
        let six = slopes(6);
        assert_eq!(six[..4], [0.25, 0.0625, 0.015625, 0.00390625]);
        assert_eq!(six[4..], [0.5, 0.125]);
    }
}
