//! The residual and its norm behind a product of one row, without a launch between two products
//! (kernels/gemm_small_m.cu): the first one adds to the residual, and the norm waits to see whether
//! the next launch is a product that reads it and makes it on its way. `dense` and `products` call
//! it; it knows no layer.

use super::abi;
use super::coded_scratch::padded_inputs;
use super::deferred::Deferred;
use super::dense::norm_threads;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::{self, End, NormOfRow, SmallProduct};
use super::weights::{Held, Weight};
use super::{Cuda, Tensor};
use crate::device::{Join, NormKind, Seam};
use crate::error::Result;

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

    /// The residual and its norm behind a product of few rows: the product adds to the residual
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
        let norm = seam.norm;
        let rows = self.rows();
        let (outputs, inputs) = (weight.outputs, weight.inputs);
        let adapted = weight.adapters.is_some() && self.slots.batch().adapters;
        let plain = matches!(weight.held, Held::Plain(_)) && weight.rounding.is_none();
        let rms = norm.kind != NormKind::Layer && norm.bias.is_none();
        let takes = gemm_small_m::takes(&self.context, self.dtype, rows, inputs)
            && gemm_small_m::norms(rows, outputs)
            && outputs.is_multiple_of(8);
        let rounds = seam.normed.rounded.is_some();
        if adapted || !plain || rounds || !rms || !takes || weight.join != Join::None {
            return Ok(false);
        }

        let residual = seam.residual.to(rows, outputs, OP);
        let out = seam.normed.to(rows, outputs, OP);
        let (x, before) = self.take_norm(rows, inputs, x.at(rows, inputs, OP));
        let product = SmallProduct {
            rows,
            outputs,
            inputs,
            x,
            w: weight.matrix(),
            bias,
            y: DevicePtr::NULL,
            end: End::Act(abi::Activation::None),
            residual,
            norm: before,
        };
        gemm_small_m::run(&self.context, &self.kernels, &product)?;

        let norm = NormOfRow {
            weight: norm.weight.vector(outputs),
            out,
            eps: norm.eps,
            kind: norm.kind.into(),
        };
        self.deferred = Some(Deferred::Norm(residual, norm));
        let kernels = self.kernels.clone();
        self.context.defer(out, move |context| {
            let parameters = abi::NormRows {
                x: residual,
                weight: norm.weight,
                bias: DevicePtr::NULL,
                out: norm.out,
                codes: DevicePtr::NULL,
                bytes: DevicePtr::NULL,
                steps: DevicePtr::NULL,
                width: outputs as u32,
                padded_width: padded_inputs(outputs) as u32,
                eps: norm.eps,
                kind: norm.kind,
            };
            kernels.norm_rows.launch(context, [rows, 1], norm_threads(outputs), &parameters)
        });
        Ok(true)
    }
}
