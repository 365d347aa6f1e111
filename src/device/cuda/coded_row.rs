//! Products of a few rows by codes (kernels/coded_small_m.cu), and what they do besides of a single
//! row: its norm on their way, and the sum with the residual. `coded_products` and `deferred_norm`
//! call it; it knows no layer.

use super::abi::{self, CodedProduct, CodedSmall};
use super::coded::Coded;
use super::coded_inputs::Inputs;
use super::coded_products::tiles;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::{self, End, Goes, NormOfRow};
use super::launch::Kernel;
use super::tensor::{Holds, Input};
use super::Cuda;
use crate::device::InputQuant;
use crate::error::Result;

/// A product as kernels of few rows by codes are told, with a norm of its row and where it goes.
pub(super) fn described(product: CodedProduct, to: Goes, norm: Option<NormOfRow>) -> CodedSmall {
    let (_, residual, push) = to.told();
    let (norm_weight, normed, eps, norm_kind) = gemm_small_m::told(norm);
    CodedSmall {
        product,
        residual,
        norm_weight,
        normed,
        eps,
        norm_kind,
        push,
        routes: DevicePtr::NULL,
        choices: 0,
        unused: 0,
    }
}

impl Cuda {
    /// y = end(x W^T + bias) of a few rows, E4M3 by E4M3.
    pub(super) fn few_e4m3(
        &mut self,
        rows: usize,
        coded: &Coded,
        bias: DevicePtr,
        end: End,
        x: Input,
        y: DevicePtr,
    ) -> Result<()> {
        if rows == 1 {
            return self.row_e4m3(coded, bias, end, x, Goes::To(y));
        }
        // Several that each block rounds itself, one after the other, take longer than a launch.
        let inputs = self.rounded(rows, coded, true, x)?;
        let product = self.describe(rows, coded, bias, end, &inputs, y)?;
        self.small_product(&self.kernels.coded_small_e4m3_bytes, &product, Goes::To(y), None)
    }

    /// Whether a product of a single row with these codes may be normed on its way, and added to a
    /// residual or pushed to other ranks.
    pub(super) fn takes_row(&self, coded: &Coded) -> bool {
        self.takes_e4m3(coded) && self.takes_few(1, coded, 1)
    }

    /// The same of a single row, with codes that [`Cuda::takes_row`]. Each block makes the row's
    /// codes on the way.
    pub(super) fn row_e4m3(
        &mut self,
        coded: &Coded,
        bias: DevicePtr,
        end: End,
        x: Input,
        to: Goes,
    ) -> Result<()> {
        let pushes = matches!(to, Goes::Push(_));
        // No kernel norms a row and pushes it.
        let (of, norm) =
            if pushes { (x.x, None) } else { self.take_norm(1, coded.matrix.inputs as usize, x.x) };
        let made = coded.inputs == Some(InputQuant::E4m3Row) && x.holds == Holds::Bytes;
        let inputs = if norm.is_none() && made {
            Inputs { x: x.codes, steps: x.steps }
        } else {
            Inputs { x: of, steps: DevicePtr::NULL }
        };

        let product = self.describe(1, coded, bias, end, &inputs, to.told().0)?;
        let held = coded.matrix.inputs <= abi::CODED_SMALL_ROW_INPUTS;
        let kernel = match (norm, held) {
            (Some(_), _) => &self.kernels.coded_small_e4m3_normed,
            (None, true) if pushes => &self.kernels.coded_small_e4m3_row_pushed,
            (None, true) => &self.kernels.coded_small_e4m3_row,
            (None, false) if pushes => &self.kernels.coded_small_e4m3_bytes_pushed,
            (None, false) => &self.kernels.coded_small_e4m3_bytes,
        };
        self.small_product(kernel, &product, to, norm)
    }

    /// What is described, by a kernel of coded_small_m.
    pub(super) fn small_product(
        &self,
        kernel: &Kernel<CodedSmall>,
        product: &CodedProduct,
        to: Goes,
        norm: Option<NormOfRow>,
    ) -> Result<()> {
        let tiles = tiles(product.end, product.w.outputs as usize, abi::SMALL_M_TILE);
        let blocks = [tiles.min(gemm_small_m::most_blocks(&self.context)), 1];
        let parameters = described(*product, to, norm);
        let shared = abi::CODED_SMALL_SHARED_BYTES as usize;
        kernel.launch_shared(&self.context, blocks, abi::SMALL_M_THREADS, shared, &parameters)
    }
}
