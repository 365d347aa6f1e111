//! The residual and its norm behind a product of one row, without a launch between two products
//! (kernels/gemm_small_m.cu, coded_small_m.cu): the first one adds to the residual, and the norm
//! waits to see whether the next launch is a product that reads it and makes it on its way.
//! `dense`, `products` and `coded_row` call it; it knows no layer.

use super::abi;
use super::coded_scratch::padded_inputs;
use super::deferred::Deferred;
use super::dense::norm_threads;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::{self, Goes, NormOfRow};
use super::weights::{Held, Weight};
use super::{Cuda, Tensor};
use crate::device::{Join, Norm, NormKind, Seam};
use crate::error::Result;

/// Whether products can have part in this norm.
pub(super) fn is_rms(norm: &Norm<Weight>) -> bool {
    norm.kind != NormKind::Layer && norm.bias.is_none()
}

/// Such a norm of rows of `width`, into `out`.
pub(super) fn rms(norm: &Norm<Weight>, width: usize, out: DevicePtr) -> NormOfRow {
    let (eps, kind) = (norm.eps, norm.kind.into());
    NormOfRow { weight: norm.weight.vector(width), out, eps, kind }
}

impl Cuda {
    /// What a product of few rows that reads `x` reads: where the norm that makes `x` is still to
    /// be made, and it can make it, what is normed.
    pub(super) fn take_norm(
        &mut self,
        rows: usize,
        inputs: usize,
        x: DevicePtr,
    ) -> (DevicePtr, Option<NormOfRow>) {
        match self.deferred {
            Some(Deferred::Norm(of, norm))
                if norm.out == x
                    && gemm_small_m::norms(rows, inputs)
                    && self.context.take_deferred(x) =>
            {
                (of, Some(norm))
            }
            _ => (x, None),
        }
    }

    /// The residual and its norm behind a product of a single row: the product adds to the residual
    /// itself, and the norm is left to the product that reads it, if that is the next launch.
    /// False: not of these.
    pub(super) fn add_to_residual(
        &mut self,
        weight: &Weight,
        bias: DevicePtr,
        x: &Tensor,
        seam: &mut Seam<'_, Weight, Tensor>,
    ) -> Result<bool> {
        const OP: &str = "linear_add_norm";
        let (norm, rows) = (seam.norm, self.rows());
        let (outputs, inputs) = (weight.outputs, weight.inputs);
        let takes = is_rms(norm)
            && gemm_small_m::norms(rows, outputs)
            && outputs.is_multiple_of(8)
            && weight.join == Join::None
            && self.takes_row_product(rows, weight)
            && match &weight.held {
                Held::Plain(_) => seam.normed.rounded.is_none(),
                // Norms of other kernels make codes for those who read them: only a reader that
                // makes them itself takes its place.
                Held::Coded(_) => seam.next.is_some_and(|next| self.norms_row(next.first)),
            };
        if !takes {
            return Ok(false);
        }

        let residual = seam.residual.to(rows, outputs, OP);
        let out = seam.normed.to(rows, outputs, OP);
        self.row_product(weight, bias, x.input(rows, inputs, OP), Goes::Onto(residual))?;
        self.leave_row(outputs, residual, rms(norm, outputs, out));
        Ok(true)
    }

    /// The norm of a single row, left to the product that reads it, if that is the next launch.
    /// False: not of these.
    pub(super) fn leave_norm(&mut self, norm: &Norm<Weight>, x: &Tensor, out: &mut Tensor) -> bool {
        const OP: &str = "norm";
        let (rows, width) = (self.rows(), x.width);
        let takes = is_rms(norm)
            && gemm_small_m::norms(rows, width)
            && gemm_small_m::takes(&self.context, &self.kernels, self.dtype, rows, width)
            && out.rounded.is_none();
        if !takes {
            return false;
        }

        let (of, out) = (x.at(rows, width, OP), out.to(rows, width, OP));
        self.leave_row(width, of, rms(norm, width, out));
        true
    }

    /// The norm of the single row at `of` is the next product's, or made as ever.
    pub(super) fn leave_row(&mut self, width: usize, of: DevicePtr, norm: NormOfRow) {
        self.deferred = Some(Deferred::Norm(of, norm));
        self.defer_norm(1, width, of, norm);
    }

    /// Whether rows of this batch have adapters of this weight.
    pub(super) fn adapts(&self, weight: &Weight) -> bool {
        weight.adapters.is_some() && self.slots.batch().adapters
    }

    /// Whether products of a single row with this weight make the codes of a norm in front of them.
    pub(super) fn norms_row(&self, weight: &Weight) -> bool {
        match &weight.held {
            Held::Coded(coded) => {
                gemm_small_m::norms(1, weight.inputs)
                    && self.takes_row(coded)
                    && !self.adapts(weight)
            }
            Held::Plain(_) => false,
        }
    }

    /// The norm of the rows that begin at `of`, `width` wide, if nobody takes it.
    pub(super) fn defer_norm(&self, rows: usize, width: usize, of: DevicePtr, norm: NormOfRow) {
        let kernels = self.kernels.clone();
        self.context.defer(norm.out, move |context| {
            let parameters = abi::NormRows {
                x: of,
                weight: norm.weight,
                bias: DevicePtr::NULL,
                out: norm.out,
                codes: DevicePtr::NULL,
                bytes: DevicePtr::NULL,
                steps: DevicePtr::NULL,
                width: width as u32,
                padded_width: padded_inputs(width) as u32,
                eps: norm.eps,
                kind: norm.kind,
            };
            kernels.norm_rows.launch(context, [rows, 1], norm_threads(width), &parameters)
        });
    }
}
