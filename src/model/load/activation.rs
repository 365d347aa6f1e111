//! Numbers of an activation that learned some: xIELU's, of each layer. Part of `load`.

use super::loader::Loader;
use crate::device::{Device, XIelu};
use crate::error::Result;
use crate::model::checkpoint::{Checkpoint, StoredType, WeightSource};

impl<D: Device> Loader<'_, D> {
    /// Of the activation that a module holds: `alpha_p` and `alpha_n` as ln(e^a - 1), to the second
    /// of which `beta` is added; `usual` where there is no file.
    ///
    /// # Errors
    /// A tensor that is missing, not of one element, or no number.
    pub(super) fn xielu(&self, module: &str, usual: XIelu) -> Result<XIelu> {
        let WeightSource::Files(checkpoint) = self.format else { return Ok(usual) };
        if self.shapes_only {
            return Ok(usual);
        }
        let linear = given(checkpoint, &format!("{module}.beta"), usual.linear)?;
        Ok(XIelu {
            positive: softplus(number(checkpoint, &format!("{module}.alpha_p"))?),
            negative: linear + softplus(number(checkpoint, &format!("{module}.alpha_n"))?),
            linear,
            limit: given(checkpoint, &format!("{module}.eps"), usual.limit)?,
        })
    }
}

/// A buffer that some checkpoints leave out.
fn given(checkpoint: &Checkpoint, name: &str, usual: f32) -> Result<f32> {
    if checkpoint.contains(name) {
        number(checkpoint, name)
    } else {
        Ok(usual)
    }
}

/// The one element of a tensor.
fn number(checkpoint: &Checkpoint, name: &str) -> Result<f32> {
    let raw = checkpoint.raw(name, &StoredType::PLAIN, &[&[1], &[]])?;
    let number = raw.floats()?.first().copied().filter(|x| x.is_finite());
    number.ok_or_else(|| raw.wrong("is no number"))
}

/// ln(1 + e^x), without an overflow.
fn softplus(x: f32) -> f32 {
    let x = f64::from(x);
    (x.max(0.0) + (-x.abs()).exp().ln_1p()) as f32
}
