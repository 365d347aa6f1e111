//! Inputs of quantised weights' products on the GPU: rounded as the weight wants it, by a launch of
//! their own or by the op that writes them. The products call it, norms ask what to make beside.

use super::abi::{self, InputRounding};
use super::coded::Coded;
use super::coded_kernels::{E4M3_PRODUCTS, WGMMA};
use super::coded_scratch::{padded_inputs, Buffers};
use super::device_ptr::DevicePtr;
use super::gemm_small_m;
use super::tensor::{Holds, Input};
use super::{Cuda, Tensor};
use crate::device::{DType, InputQuant};
use crate::error::Result;
use crate::internal;

/// Rows from which E4M3 by E4M3 is cuBLASLt's, where coded_small_m does not take them.
const E4M3_ROWS: usize = 3;

/// A product's inputs as it takes them.
pub(super) struct Inputs {
    pub x: DevicePtr,
    /// Null: 1 for all rows.
    pub steps: DevicePtr,
}

/// Where an op writes what products make of its rows; null: nowhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub codes: DevicePtr,
    pub bytes: DevicePtr,
    pub steps: DevicePtr,
}

impl Default for Made {
    fn default() -> Made {
        Made { codes: DevicePtr::NULL, bytes: DevicePtr::NULL, steps: DevicePtr::NULL }
    }
}

/// Rows of so many inputs by this rule; no addresses yet.
fn round(rule: Option<InputQuant>, inputs: usize) -> abi::RoundInputs {
    let (kind, step, zero) = match rule {
        None => (InputRounding::None, 1.0, 0.0),
        Some(InputQuant::E4m3Tensor { step }) => (InputRounding::E4m3Tensor, step, 0.0),
        Some(InputQuant::E4m3Row) => (InputRounding::E4m3Row, 1.0, 0.0),
        Some(InputQuant::E4m3Block) => (InputRounding::E4m3Block, 1.0, 0.0),
        Some(InputQuant::Int8Tensor { step, zero: None }) => (InputRounding::Int8Tensor, step, 0.0),
        Some(InputQuant::Int8Tensor { step, zero: Some(zero) }) => {
            (InputRounding::Int8TensorWithZero, step, f32::from(zero))
        }
        Some(InputQuant::Int8Row) => (InputRounding::Int8Row, 1.0, 0.0),
        Some(InputQuant::Int8RowWithZero) => (InputRounding::Int8RowWithZero, 1.0, 0.0),
    };

    abi::RoundInputs {
        x: DevicePtr::NULL,
        order: DevicePtr::NULL,
        codes: DevicePtr::NULL,
        bytes: DevicePtr::NULL,
        steps: DevicePtr::NULL,
        inputs: inputs as u32,
        padded_inputs: padded_inputs(inputs) as u32,
        step,
        zero,
        kind,
        values: 0,
    }
}

impl Cuda {
    /// Whether inputs that are rounded to E4M3 become bytes for cuBLASLt.
    pub(super) fn rounds_to_bytes(&self, rows: usize) -> bool {
        // Sums of f16 would be beyond its range before they are scaled.
        rows >= E4M3_ROWS && self.dtype == DType::BF16 && self.context.capability >= E4M3_PRODUCTS
    }

    /// Whether inputs of so many rows become bytes for gemm_tiles or gemm_rows.
    pub(super) fn tiles_e4m3(&self, rows: usize) -> bool {
        self.dtype != DType::F32
            && self.context.capability == WGMMA
            && (E4M3_ROWS..=abi::ROWS_MOST as usize).contains(&rows)
    }

    /// What the op that writes `out` is to make of it beside, so many rows. Called when `out` was
    /// taken to be written.
    pub(super) fn made_of(&self, rows: usize, out: &mut Tensor) -> Made {
        let Some(rounded) = &mut out.rounded else { return Made::default() };
        let few = rows <= abi::CODED_SMALL_ROWS as usize
            && self.dtype != DType::F32
            && gemm_small_m::copies_in_bulk(&self.context, &self.kernels);
        let bytes = few || self.tiles_e4m3(rows) || self.rounds_to_bytes(rows);
        rounded.holds = if bytes { Holds::Bytes } else { Holds::Activations };
        let (codes, steps) = (rounded.codes.address, rounded.steps.address);
        if bytes {
            Made { bytes: codes, codes: DevicePtr::NULL, steps }
        } else {
            Made { codes, bytes: DevicePtr::NULL, steps }
        }
    }

    pub(super) fn buffers(&self) -> Result<&Buffers> {
        self.coded.buffers.as_ref().ok_or_else(|| internal!("a product of codes before reserve"))
    }

    /// The inputs in the weight's order and rounded as it wants them.
    pub(super) fn rounded(
        &self,
        rows: usize,
        coded: &Coded,
        bytes: bool,
        x: Input,
    ) -> Result<Inputs> {
        let Input { x, holds, codes, steps } = x;
        if coded.inputs.is_none() && coded.order.is_none() {
            return Ok(Inputs { x, steps: DevicePtr::NULL });
        }
        let wanted = if bytes { Holds::Bytes } else { Holds::Activations };
        let usual = coded.inputs == Some(InputQuant::E4m3Row) && coded.order.is_none();
        if usual && holds == wanted {
            return Ok(Inputs { x: codes, steps });
        }
        if x.is_null() {
            return Err(internal!("a product of other codes than its inputs are"));
        }

        let buffers = self.buffers()?;
        let (to, steps) = (buffers.codes.address, buffers.steps.address);
        if usual && bytes && self.round_gated(rows, x, to, steps)? {
            return Ok(Inputs { x: to, steps });
        }
        let (codes, bytes) = if bytes { (DevicePtr::NULL, to) } else { (to, DevicePtr::NULL) };
        let order = coded.order.as_ref().map_or(DevicePtr::NULL, |order| order.address);
        let inputs = coded.matrix.inputs as usize;
        let parameters = abi::RoundInputs { order, codes, bytes, ..round(coded.inputs, inputs) };
        self.round(rows, abi::RoundInputs { x, steps, ..parameters })?;
        Ok(Inputs { x: to, steps })
    }

    /// Inputs of a weight that is not held as codes, as its products are to see them: rounded, and
    /// activations again.
    pub(super) fn rounded_values(
        &mut self,
        rows: usize,
        inputs: usize,
        rule: Option<InputQuant>,
        x: DevicePtr,
    ) -> Result<DevicePtr> {
        let Some(rule) = rule else { return Ok(x) };
        let context = self.context.clone();
        self.coded.reserve(&context, self.dtype, rows.div_ceil(self.coded.top_k.max(1)))?;
        let buffers = self.buffers()?;
        let (codes, steps) = (buffers.codes.address, buffers.steps.address);

        let parameters = round(Some(rule), inputs);
        self.round(rows, abi::RoundInputs { x, codes, steps, values: 1, ..parameters })?;
        Ok(codes)
    }

    fn round(&self, rows: usize, parameters: abi::RoundInputs) -> Result<()> {
        let kernel = &self.kernels.round_inputs;
        kernel.launch(&self.context, [rows, 1], abi::ROUND_THREADS, &parameters)
    }
}
