//! A product of a single row whose outputs go elsewhere than to a tensor of their own
//! (kernels/gemm_small_m.cu, coded_small_m.cu). `deferred_norm` has them added to the residual,
//! `row_push` pushed to all ranks; it knows neither.

use super::abi;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::{self, End, Goes, SmallProduct};
use super::tensor::Input;
use super::weights::{Held, Weight};
use super::Cuda;
use crate::error::Result;

impl Cuda {
    /// Whether so many rows by this weight are such a product.
    pub(super) fn takes_row_product(&self, rows: usize, weight: &Weight) -> bool {
        rows == 1
            && !self.adapts(weight)
            && match &weight.held {
                Held::Plain(_) => {
                    weight.rounding.is_none()
                        && gemm_small_m::takes(
                            &self.context,
                            &self.kernels,
                            self.dtype,
                            rows,
                            weight.inputs,
                        )
                }
                Held::Coded(coded) => self.takes_row(coded),
            }
    }

    /// x W^T + bias of a single row that [`Cuda::takes_row_product`] accepts.
    pub(super) fn row_product(
        &mut self,
        weight: &Weight,
        bias: DevicePtr,
        x: Input,
        to: Goes,
    ) -> Result<()> {
        let end = End::Act(abi::Activation::None);
        if let Held::Coded(coded) = &weight.held {
            return self.row_e4m3(coded, bias, end, x, to);
        }
        let (outputs, inputs, w) = (weight.outputs, weight.inputs, weight.matrix());
        let (x, norm) = self.take_norm(1, inputs, x.x);
        let best = DevicePtr::NULL;
        let product = SmallProduct { rows: 1, outputs, inputs, x, w, bias, end, to, norm, best };
        gemm_small_m::run(&self.context, &self.kernels, &product)
    }
}
