//! The end of a sublayer whose last product is plain: into `delta`, or with the residual and its
//! norm in one op. `decoder` calls it; it knows no layer.

use super::weights::Linear;
use crate::device::{Device, Norm, Seam};
use crate::error::Result;

/// `linear` of `x` into `delta`; with a `norm` on to the residual and `normed`, where nothing else
/// stands between.
pub(super) fn output<D: Device>(
    dev: &mut D,
    linear: &Linear<D::Weight>,
    x: &D::Tensor,
    norm: Option<&Norm<D::Weight>>,
    delta: &mut D::Tensor,
    residual: &mut D::Tensor,
    normed: &mut D::Tensor,
) -> Result<()> {
    let bias = linear.bias.as_ref();
    match norm {
        Some(norm) => {
            let seam = Seam { norm, delta, residual, normed };
            dev.linear_add_norm(&linear.weight, bias, x, seam)
        }
        None => dev.linear(&linear.weight, bias, x, delta),
    }
}
