//! The residual and its RMS norm between two products, without a launch of their own: the first
//! product adds to the residual and leaves it times the norm's weight, and the squares of its
//! parts; the second one multiplies that and divides its sums by the root of the mean square
//! (kernels/gemm_rows.cu). That is one rounding of an element, as by the norm.
//! Where the next launch is no such product, the norm is made as ever. `dense` and `products` call
//! it; it knows no layer.

use super::deferred::Deferred;
use super::deferred_norm::{is_rms, rms};
use super::device_ptr::DevicePtr;
use super::gemm_rows;
use super::gemm_tiles::TiledProduct;
use super::row_norms::{Added, Divided, Norms};
use super::weights::Weight;
use super::{Cuda, Tensor};
use crate::device::{DType, Join, Seam};
use crate::error::Result;

impl Cuda {
    /// What a product of so many rows that reads `x` finds there in place of their norm, where that
    /// is still to be made, and is the product's then.
    pub(super) fn take_divided(&self, rows: usize, x: DevicePtr) -> Option<Divided> {
        match self.deferred {
            Some(Deferred::Norms(of, out, divided))
                if of == rows && out == x && self.context.take_deferred(x) =>
            {
                Some(divided)
            }
            _ => None,
        }
    }

    /// Whether products of this weight are of kernels that can have part in a norm.
    fn has_part(&self, rows: usize, weight: &Weight) -> bool {
        self.multiplies_alone(weight)
            && gemm_rows::takes(&self.context, self.dtype, &self.plain_product(rows, weight))
    }

    /// The residual and its norm behind a product, whose norm the next product makes if it is the
    /// next launch. False: not of these.
    pub(super) fn add_to_residuals(
        &mut self,
        weight: &Weight,
        bias: DevicePtr,
        x: &Tensor,
        seam: &mut Seam<'_, Weight, Tensor>,
    ) -> Result<bool> {
        const OP: &str = "linear_add_norm";
        let (rows, norm) = (self.rows(), seam.norm);
        // An element times its weight alone may be too large for f16.
        let fits = self.dtype == DType::BF16 && is_rms(norm) && weight.join == Join::None;
        let takes = fits
            && seam.normed.rounded.is_none()
            && self.has_part(rows, weight)
            && seam.next.is_some_and(|next| self.has_part(rows, next.first));
        if !takes {
            return Ok(false);
        }
        let (outputs, inputs) = (weight.outputs, weight.inputs);
        let product = self.plain_product(rows, weight);
        let Some((plan, parts)) =
            gemm_rows::plan_of_residual(&self.context, &self.rows_held, self.dtype, &product)
        else {
            return Ok(false);
        };

        let residual = seam.residual.to(rows, outputs, OP);
        let out = seam.normed.to(rows, outputs, OP);
        let x = x.at(rows, inputs, OP);
        let squares = self.squares.address;
        let norm = rms(norm, outputs, out);
        let added = Added { residual, weight: norm.weight, kind: norm.kind, squares };
        let norms = Norms { x: None, y: Some(added) };
        let product = TiledProduct { x, bias, y: out, ..product };
        let (context, kernels) = (&self.context, &self.kernels);
        gemm_rows::run(context, kernels, &self.rows_held, plan, &product, norms)?;

        let divided = Divided { squares, parts, eps: norm.eps };
        self.deferred = Some(Deferred::Norms(rows, out, divided));
        self.defer_norm(rows, outputs, residual, norm);
        Ok(true)
    }
}
