//! Which products go to the kernels of kernels/gemm_tiles.cu, and their launch: some rows, of a
//! half type or of E4M3, where weights are nearly all that is read. The products ask it; it knows
//! no weight's name.

use super::abi::{self, Activation, CodedEnd, TiledGemm};
use super::coded_kernels::WGMMA;
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::End;
use super::launch::Kernel;
use super::module::Kernels;
use super::shares::Shares;
use super::tensor_map::Matrix;
use crate::device::DType;
use crate::error::Result;

const UNIT_BYTES: usize = abi::TILED_UNIT_BYTES as usize;

/// What W and x of a product are.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Of the device's half type.
    Activations(DType),
    /// E4M3, with a factor of each output and a step of each row, f32; steps may be null: 1.
    E4m3 { factor: DevicePtr, steps: DevicePtr },
}

impl Kind {
    pub fn bytes(self) -> usize {
        match self {
            Kind::Activations(_) => 2,
            Kind::E4m3 { .. } => 1,
        }
    }
}

/// One product. Addresses are of device memory; `bias` is f32, or null.
#[derive(Debug, Clone, Copy)]
pub struct TiledProduct {
    pub kind: Kind,
    pub rows: usize,
    pub outputs: usize,
    /// Elements from row to row of W and of x.
    pub inputs: usize,
    pub x: DevicePtr,
    pub w: DevicePtr,
    pub bias: DevicePtr,
    pub y: DevicePtr,
    pub end: End,
}

/// Whether a product of this size is ours.
pub fn takes(context: &Context, act: DType, product: &TiledProduct) -> bool {
    let most_rows = match product.kind {
        Kind::Activations(_) => abi::TILED_HALF_ROWS,
        Kind::E4m3 { .. } => abi::TILED_ROWS,
    };
    // Gates and ups are copied by eights.
    let even = !matches!(product.end, End::Gated(_)) || product.outputs.is_multiple_of(16);
    context.capability == WGMMA
        && act != DType::F32
        && (1..=most_rows as usize).contains(&product.rows)
        && (product.inputs * product.kind.bytes()).is_multiple_of(16)
        && even
}

const OUTPUTS: usize = abi::TILED_OUTPUTS as usize;
const SHARED_BYTES: usize = abi::TILED_SHARED_BYTES as usize;

/// The kernel for so many rows, and how many it multiplies.
fn kernel(k: &Kernels, kind: Kind, rows: usize) -> (&Kernel<TiledGemm>, usize) {
    match (kind, rows) {
        (Kind::Activations(_), _) => (&k.gemm_tiles_16, 16),
        (Kind::E4m3 { .. }, 0..=16) => (&k.gemm_tiles_e4m3_16, 16),
        (Kind::E4m3 { .. }, _) => (&k.gemm_tiles_e4m3_32, 32),
    }
}

/// The kernels take the shared memory that they need; how many of their clusters the card holds.
pub fn prepare(context: &Context, k: &Kernels) -> Result<Shares> {
    if context.capability != WGMMA {
        return Ok(Shares::default());
    }
    for kernel in [&k.gemm_tiles_16, &k.gemm_tiles_e4m3_16, &k.gemm_tiles_e4m3_32] {
        kernel.allow_shared(SHARED_BYTES)?;
    }
    let kernel = &k.gemm_tiles_e4m3_16;
    Shares::of(|blocks| kernel.resident_clusters(blocks, abi::TILED_THREADS, SHARED_BYTES))
}

/// Enqueue a product that [`takes`] accepts.
pub fn run(
    context: &Context,
    kernels: &Kernels,
    held: &Shares,
    product: &TiledProduct,
) -> Result<()> {
    let &TiledProduct { kind, rows, outputs, inputs, .. } = product;
    let (kernel, columns) = kernel(kernels, kind, rows);
    let row_bytes = inputs * kind.bytes();
    let matrix = |first, rows| Matrix { first, columns: inputs, rows, row_bytes };
    let (w, x) = (matrix(product.w, outputs), matrix(product.x, rows));
    let gated = matches!(product.end, End::Gated(_));
    let act = match kind {
        Kind::Activations(act) => Some(act),
        Kind::E4m3 { .. } => None,
    };
    let (factor, steps) = match kind {
        Kind::Activations(_) => (DevicePtr::NULL, DevicePtr::NULL),
        Kind::E4m3 { factor, steps } => (factor, steps),
    };
    let (end, activation) = match product.end {
        End::Act(kind) => (CodedEnd::Act, kind),
        End::Gated(kind) => (CodedEnd::Gated, kind),
        End::Logits => (CodedEnd::Logits, Activation::None),
    };

    let units = row_bytes.div_ceil(UNIT_BYTES);
    let parameters = TiledGemm {
        w: if gated { w.eights(act, OUTPUTS)? } else { w.panels(act, OUTPUTS)? },
        x: x.panels(act, columns)?,
        factor,
        steps,
        bias: product.bias,
        y: product.y,
        rows: rows as u32,
        outputs: outputs as u32,
        units: units as u32,
        end,
        kind: activation,
    };

    // All blocks are on the card at once: a block that walks over several tiles has them whole.
    let tiles = outputs.div_ceil(OUTPUTS);
    let share = held.of_one_wave(tiles, units);
    let blocks = [tiles.min(held.resident()).max(1) * share, 1];
    kernel.launch_clusters(context, blocks, share, abi::TILED_THREADS, SHARED_BYTES, &parameters)
}
