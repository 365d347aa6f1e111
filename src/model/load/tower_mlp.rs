//! The MLP of a vision tower's layer, as wide as products like it. Part of `load`; `vision` calls
//! it.
//!
//! Rows of a product lie at multiples of 16 bytes or tensor cores are fed by slow copies: of
//! Qwen2.5-VL's 3420 columns cuBLASLt makes a third of what it makes of 3456. Gates and ups get
//! rows of zeros, the product behind them columns of zeros: nothing that is added changes.

use super::loader::{dummy, Loader, Upload};
use crate::device::{Bytes, DType, Device, HostTensor, Join, Source, WeightKind};
use crate::error::Result;
use crate::model::checkpoint::WeightSource;
use crate::model::config::VisionSpec;
use crate::model::quant::unpack::{Values, Wanted};
use crate::model::quant::LayerKind;
use crate::model::shard::Cut;
use crate::model::weights::{Linear, Mlp};

/// Elements of the narrowest type that fill 16 bytes.
const ALIGNED: usize = 8;
/// What a width that is not aligned becomes a multiple of: columns of a product's tile.
const TILE: usize = 64;

/// So many columns hold `width`.
fn padded(width: usize) -> usize {
    if width.is_multiple_of(ALIGNED) {
        width
    } else {
        width.next_multiple_of(TILE)
    }
}

impl<'a, D: Device> Loader<'a, D> {
    /// Columns of the MLPs of all layers of a tower: those of the model, or some more.
    pub(super) fn tower_mlp_width(&self, vision: &VisionSpec, prefix: &str) -> Result<usize> {
        let row = vision.tower;
        let width = padded(vision.ffn);
        for i in 0..vision.depth {
            for name in row.up.iter().chain([&row.down]) {
                // Codes stay as they are.
                if self.is_coded(&format!("{prefix}{}.{i}.{name}", row.layers), vision)? {
                    return Ok(vision.ffn);
                }
            }
        }
        Ok(width)
    }

    fn is_coded(&self, name: &str, vision: &VisionSpec) -> Result<bool> {
        let names = [name.to_string()];
        let wanted = Wanted { names: &names, outputs: &[vision.ffn], inputs: vision.width };
        let packed = match self.format {
            WeightSource::Files(files) => files.code_form(&[format!("{name}.weight")]).is_some(),
            WeightSource::Dummy => false,
        };
        Ok(packed || self.format_of(LayerKind::Linear, &wanted)?.is_some())
    }

    /// The MLP of the layer of this prefix, `width` columns wide.
    pub(super) fn tower_mlp(
        &mut self,
        vision: &VisionSpec,
        prefix: &str,
        width: usize,
    ) -> Result<Mlp<D::Weight>> {
        let row = vision.tower;
        let name = |name: &str| format!("{prefix}{name}");
        let up: Vec<String> = row.up.iter().map(|up| name(up)).collect();
        let (down, scales) = (name(row.down), row.layer_scales.map(|scales| name(scales[1])));
        let up = if width == vision.ffn {
            let outputs = vec![vision.ffn; up.len()];
            self.linear(&up, &outputs, vision.width, row.mlp_bias, &Cut::Whole)?
        } else {
            self.wider(vision, &up, width)?
        };
        let columns = [vision.ffn, width];
        let down = self.scaled(vision, [Some(&down), scales.as_ref()], columns, row.mlp_bias)?;
        Ok(Mlp { up, down, activation: None, width })
    }

    /// Products of these names one below the other, each with rows of zeros up to `width`.
    fn wider(
        &mut self,
        vision: &VisionSpec,
        names: &[String],
        width: usize,
    ) -> Result<Linear<D::Weight>> {
        let all = width * names.len();
        let of = |what: &str| names.iter().map(|n| format!("{n}.{what}")).collect::<Vec<_>>();
        let (weights, biases) = (of("weight"), of("bias"));
        let outputs = vec![vision.ffn; names.len()];

        let parts = self.parts(&weights, &outputs, vision.width, false)?;
        let source = parts.unwrap_or_else(|| dummy(&weights[0], vision.width));
        let kind = if names.len() == 2 { WeightKind::GateUp } else { WeightKind::Linear };
        let weight = self.wide(&weights[0], kind, [all, vision.width], source)?;
        if !vision.tower.mlp_bias {
            return Ok(Linear { weight, bias: None });
        }
        let source = self.parts(&biases, &outputs, 1, false)?.unwrap_or(Source::Constant(0.0));
        let bias = self.wide(&biases[0], WeightKind::Vector, [all, 1], source)?;
        Ok(Linear { weight, bias: Some(bias) })
    }

    /// A weight of `outputs` rows, shared out among its parts.
    fn wide(
        &mut self,
        name: &str,
        kind: WeightKind,
        [outputs, inputs]: [usize; 2],
        source: Source<'a>,
    ) -> Result<D::Weight> {
        let source = match source {
            Source::Parts(parts) => {
                let each = outputs / parts.len().max(1);
                Source::Parts(parts.into_iter().flat_map(|part| with_zeros(part, each)).collect())
            }
            other => other,
        };
        self.upload(Upload {
            name,
            kind,
            outputs,
            inputs,
            transposed: false,
            join: Join::None,
            values: Values::plain(source),
        })
    }
}

/// A part, and rows of zeros behind it, so that there are `rows`.
fn with_zeros(part: HostTensor<'_>, rows: usize) -> [HostTensor<'_>; 2] {
    let HostTensor { dtype, cols, .. } = part;
    let rows = rows.saturating_sub(part.rows);
    let bytes = vec![0; rows * cols * dtype.bytes()];
    let zeros = HostTensor { dtype, rows, cols, bytes: Bytes::Shared(bytes.into()) };
    [part, zeros]
}

/// Rows of `columns[0]` numbers, each times its factor, as bytes of rows of `columns[1]`: zeros
/// behind those that there are. No factors: as they are.
pub(super) fn wide_rows(values: &[f32], factors: Option<&[f32]>, columns: [usize; 2]) -> Vec<u8> {
    let [from, to] = columns;
    let mut bytes = Vec::with_capacity(values.len() / from.max(1) * to * DType::F32.bytes());
    for (r, row) in values.chunks_exact(from.max(1)).enumerate() {
        let factor = factors.map_or(1.0, |factors| factors[r]);
        bytes.extend(row.iter().flat_map(|x| (x * factor).to_le_bytes()));
        bytes.resize(bytes.len() + to.saturating_sub(from) * DType::F32.bytes(), 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{padded, wide_rows, with_zeros};
    use crate::device::{Bytes, DType, HostTensor};

    #[test]
    fn widths_are_whole_pieces() {
        assert_eq!([8, 3420, 4304, 37].map(padded), [8, 3456, 4304, 64]);
    }

    #[test]
    fn zeros_stand_behind_rows_and_columns() {
        let bytes: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let part =
            HostTensor { dtype: DType::F32, rows: 2, cols: 2, bytes: Bytes::InMemory(&bytes) };
        let parts = with_zeros(part, 3).map(|part| part.values().unwrap());
        assert_eq!(parts, [vec![1.0, 2.0, 3.0, 4.0], vec![0.0, 0.0]]);

        let wide = wide_rows(&[1.0, 2.0, 3.0, 4.0], Some(&[1.0, 10.0]), [2, 3]);
        let back = wide.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert_eq!(back.collect::<Vec<f32>>(), [1.0, 2.0, 0.0, 30.0, 40.0, 0.0]);
        let plain = wide_rows(&[5.0], None, [1, 1]);
        assert_eq!(plain, 5f32.to_le_bytes());
    }
}
