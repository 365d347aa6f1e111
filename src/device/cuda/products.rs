//! x W^T and what it ends with (bias, activation, gate): within one kernel where rows are few, by a
//! launch behind cuBLASLt's where they are many. The linears, experts and adapters call it.

use super::abi;
use super::device_ptr::DevicePtr;
use super::gemm_product::{Operands, Product};
use super::gemm_rows;
use super::gemm_rows_more;
use super::gemm_small_m::{self, End};
use super::gemm_tiles::{self, TiledProduct};
use super::memory::Memory;
use super::row_norms::Norms;
use super::tensor::Input;
use super::weights::{Held, Weight};
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{Activation, Join, Seam};
use crate::error::Result;

/// Whose kernels multiply.
enum Way {
    Few,
    Rows(gemm_rows::Plan),
    Tiles,
    MoreRows(gemm_rows_more::Plan),
    Library,
}

impl From<Activation> for abi::Activation {
    fn from(act: Activation) -> abi::Activation {
        match act {
            Activation::Relu => abi::Activation::Relu,
            Activation::ReluSquared => abi::Activation::ReluSquared,
            Activation::Gelu => abi::Activation::Gelu,
            Activation::GeluTanh => abi::Activation::GeluTanh,
            Activation::QuickGelu => abi::Activation::QuickGelu,
            Activation::Silu => abi::Activation::Silu,
            // By a launch of its own.
            Activation::XIelu(_) => abi::Activation::None,
            Activation::SiluGated => abi::Activation::SiluGated,
            Activation::GeluGated => abi::Activation::GeluGated,
            Activation::GeluTanhGated => abi::Activation::GeluTanhGated,
            Activation::SwigluOai => abi::Activation::SwigluOai,
        }
    }
}

impl Cuda {
    /// Scratch of at least `bytes`. Grows, which waits for the GPU, only where reserve did not
    /// know.
    pub(super) fn scratch(&mut self, bytes: usize) -> Result<DevicePtr> {
        if self.scratch.as_ref().is_none_or(|s| s.bytes < bytes) {
            self.scratch = None;
            self.scratch = Some(Memory::new(&self.context, bytes, "gates and ups")?);
        }
        Ok(self.scratch.as_ref().map_or(DevicePtr::NULL, |scratch| scratch.address))
    }

    /// Where the sums of a product go that ends in `y`: only a gated end has them elsewhere.
    pub(super) fn place_of_sums(
        &mut self,
        rows: usize,
        outputs: usize,
        end: End,
        y: DevicePtr,
    ) -> Result<DevicePtr> {
        match end {
            End::Gated(_) => self.scratch(rows * outputs * self.dtype.bytes()),
            End::Act(_) | End::Logits => Ok(y),
        }
    }

    /// Whether a plain product of so many rows ends with another launch where it has a bias.
    pub(super) fn bias_takes_a_launch(&self, rows: usize, weight: &Weight) -> bool {
        matches!(weight.held, Held::Plain(_))
            && weight.join == Join::None
            && weight.adapters.is_none()
            && rows > abi::SMALL_M_ROWS.max(abi::TILED_HALF_ROWS) as usize
    }

    /// Whether the last launch of `linear` is known to be a product of which no block gives leave
    /// before all launches in front of it have ended.
    pub(super) fn ends_with_product(&self, rows: usize, weight: &Weight, bias: bool) -> bool {
        let alone = weight.join == Join::None && weight.adapters.is_none();
        alone
            && match &weight.held {
                Held::Plain(_) => !bias || !self.bias_takes_a_launch(rows, weight),
                Held::Coded(coded) => self.tiles_codes(rows, coded),
            }
    }

    /// y = end(x W^T + bias) over `rows` rows; `bias` may be null.
    pub(super) fn product(
        &mut self,
        rows: usize,
        weight: &Weight,
        bias: DevicePtr,
        end: End,
        x: Input,
        y: DevicePtr,
    ) -> Result<()> {
        if let Held::Coded(coded) = &weight.held {
            return self.coded_product(rows, coded, bias, end, x, y);
        }
        let x = self.rounded_values(rows, weight.inputs, weight.rounding, x.x)?;
        let call = TiledProduct { x, bias, y, end, ..self.plain_product(rows, weight) };
        let TiledProduct { outputs, inputs, w, .. } = call;
        let held = &self.rows_held;
        match self.way(&call) {
            Way::Few => {
                let (x, norm) = self.take_norm(rows, inputs, x);
                let call = gemm_small_m::SmallProduct {
                    rows,
                    outputs,
                    inputs,
                    x,
                    w,
                    bias,
                    end,
                    to: gemm_small_m::Goes::To(y),
                    norm,
                    best: self.leave_best(end, y, outputs),
                };
                return gemm_small_m::run(&self.context, &self.kernels, &call);
            }
            Way::Rows(plan) => {
                let divides = gemm_rows::divides(&call);
                let divided = if divides { self.take_divided(rows, x) } else { None };
                let norms = Norms { x: divided, y: None };
                return gemm_rows::run(&self.context, &self.kernels, held, plan, &call, norms);
            }
            Way::Tiles => {
                return gemm_tiles::run(&self.context, &self.kernels, &self.tile_shares, &call);
            }
            Way::MoreRows(plan) => {
                return gemm_rows_more::run(&self.context, &self.kernels, held, plan, &call);
            }
            Way::Library => {}
        }

        let sums = self.place_of_sums(rows, outputs, end, y)?;
        self.gemm.run(&self.kernels, &of_library(&call, sums))?;
        self.finish(rows, outputs, bias, end, sums, y)
    }

    /// Whether the weight is held as its products multiply it, and they alone make what comes of it
    /// in this batch.
    pub(super) fn multiplies_alone(&self, weight: &Weight) -> bool {
        let plain = matches!(weight.held, Held::Plain(_));
        plain && weight.rounding.is_none() && !self.adapts(weight)
    }

    /// A product of a plain weight that ends without an activation. Addresses are still to come.
    pub(super) fn plain_product(&self, rows: usize, weight: &Weight) -> TiledProduct {
        TiledProduct {
            kind: gemm_tiles::Kind::Activations(self.dtype),
            rows,
            outputs: weight.outputs,
            inputs: weight.inputs,
            x: DevicePtr::NULL,
            w: weight.matrix(),
            bias: DevicePtr::NULL,
            y: DevicePtr::NULL,
            end: End::Act(abi::Activation::None),
        }
    }

    /// Which kernels multiply a plain weight.
    fn way(&self, call: &TiledProduct) -> Way {
        let (context, held, dtype) = (&self.context, &self.rows_held, self.dtype);
        if let Some(plan) = gemm_rows::plan(context, held, dtype, call) {
            return Way::Rows(plan);
        }
        if gemm_small_m::takes(context, &self.kernels, dtype, call.rows, call.inputs) {
            return Way::Few;
        }
        if gemm_tiles::takes(context, dtype, call) {
            return Way::Tiles;
        }
        gemm_rows_more::plan(context, held, dtype, call).map_or(Way::Library, Way::MoreRows)
    }

    /// The seam's residual += x W^T, without a bias, in one call of the library: the sum is rounded
    /// once, not twice. Its delta may be written to. False: the library does not multiply it, or
    /// what follows is not plain, and nothing was done.
    pub(super) fn library_adds(
        &mut self,
        weight: &Weight,
        x: &Tensor,
        seam: &mut Seam<'_, Weight, Tensor>,
    ) -> Result<bool> {
        const OP: &str = "linear_add_norm";
        let plain = self.multiplies_alone(weight) && weight.join == Join::None;
        if !plain || seam.normed.rounded.is_some() {
            return Ok(false);
        }
        let rows = self.rows();
        let call = self.plain_product(rows, weight);
        if !matches!(self.way(&call), Way::Library) {
            return Ok(false);
        }

        let x = x.input(rows, call.inputs, OP).x;
        let y = seam.delta.to(rows, call.outputs, OP);
        let added_to = Some(seam.residual.to(rows, call.outputs, OP));
        let product = of_library(&TiledProduct { x, ..call }, y);
        self.gemm.run(&self.kernels, &Product { added_to, ..product }).map(|()| true)
    }

    /// Where a product of few rows that ends in `y`, `outputs` wide, leaves the best of its blocks'
    /// parts for the sampler. Null: it leaves none.
    fn leave_best(&mut self, end: End, y: DevicePtr, outputs: usize) -> DevicePtr {
        let list = self.sampler.best_of_parts();
        if end != End::Logits || list.is_null() || !self.logits_best.wants(y) {
            return DevicePtr::NULL;
        }
        self.logits_best.leave(y, gemm_small_m::parts(&self.context, outputs));
        list
    }

    /// y = end(sums + bias), sums where `place_of_sums` said.
    pub(super) fn finish(
        &mut self,
        rows: usize,
        outputs: usize,
        bias: DevicePtr,
        end: End,
        sums: DevicePtr,
        y: DevicePtr,
    ) -> Result<()> {
        match end {
            End::Act(abi::Activation::None) if bias.is_null() => Ok(()),
            End::Act(kind) => {
                let parameters = abi::BiasAct { x: y, bias, width: outputs as u32, kind };
                let blocks = [rows, columns(outputs)];
                self.kernels.bias_act.launch(&self.context, blocks, ROW_THREADS, &parameters)
            }
            End::Gated(kind) => {
                let half = outputs / 2;
                let end = abi::GatedAct { x: sums, bias, out: y, half: half as u32, kind };
                self.end_gated(rows, end)
            }
            End::Logits => Ok(()),
        }
    }
}

/// The same for the library, whose sums go to `y`.
fn of_library(call: &TiledProduct, y: DevicePtr) -> Product {
    let &TiledProduct { rows, outputs, inputs, x, w, end, .. } = call;
    Product {
        rows,
        outputs,
        inputs,
        stride: outputs,
        logits: end == End::Logits,
        operands: Operands::Activations,
        x,
        w,
        y,
        added_to: None,
    }
}

/// Blocks of ROW_THREADS threads across a row, eight columns a thread where the width allows.
pub(super) fn columns(width: usize) -> usize {
    let per_thread = if width.is_multiple_of(8) { 8 } else { 1 };
    width.div_ceil(per_thread * ROW_THREADS as usize)
}
