//! Which products go to the kernels of kernels/gemm_tiles.cu, and their launch: some rows, of a
//! half type or of E4M3, where weights are nearly all that is read. The products ask it; it knows
//! no weight's name.

use super::abi::{self, TiledGemm};
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

impl TiledProduct {
    /// Whether tensor maps can cut it, and this card multiplies what they copy.
    pub fn has_tiles(&self, context: &Context, act: DType) -> bool {
        // Gates and ups are copied by eights.
        let even = !matches!(self.end, End::Gated(_)) || self.outputs.is_multiple_of(16);
        context.capability == WGMMA
            && act != DType::F32
            && (self.inputs * self.kind.bytes()).is_multiple_of(16)
            && even
    }

    /// What a kernel is given whose tiles are of so many outputs, with so many rows of x.
    pub fn parameters(&self, tile: usize, rows_of_x: usize) -> Result<TiledGemm> {
        let &TiledProduct { kind, rows, outputs, inputs, .. } = self;
        let row_bytes = inputs * kind.bytes();
        let matrix = |first, rows| Matrix { first, columns: inputs, rows, row_bytes };
        let (w, x) = (matrix(self.w, outputs), matrix(self.x, rows));
        let gated = matches!(self.end, End::Gated(_));
        let (act, factor, steps) = match kind {
            Kind::Activations(act) => (Some(act), DevicePtr::NULL, DevicePtr::NULL),
            Kind::E4m3 { factor, steps } => (None, factor, steps),
        };
        let (end, activation) = self.end.told();

        Ok(TiledGemm {
            w: if gated { w.eights(act, tile)? } else { w.panels(act, tile)? },
            x: x.panels(act, rows_of_x)?,
            factor,
            steps,
            bias: self.bias,
            y: self.y,
            rows: rows as u32,
            outputs: outputs as u32,
            units: self.units() as u32,
            end,
            kind: activation,
        })
    }

    /// Of TILED_UNIT_BYTES, of a row.
    pub fn units(&self) -> usize {
        (self.inputs * self.kind.bytes()).div_ceil(abi::TILED_UNIT_BYTES as usize)
    }
}

/// Whether a product of this size is ours.
pub fn takes(context: &Context, act: DType, product: &TiledProduct) -> bool {
    let most_rows = match product.kind {
        Kind::Activations(_) => abi::TILED_HALF_ROWS,
        Kind::E4m3 { .. } => abi::TILED_ROWS,
    };
    product.has_tiles(context, act) && (1..=most_rows as usize).contains(&product.rows)
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
    let (kernel, columns) = kernel(kernels, product.kind, product.rows);
    let parameters = product.parameters(OUTPUTS, columns)?;

    // All blocks are on the card at once: a block that walks over several tiles has them whole.
    let tiles = product.outputs.div_ceil(OUTPUTS);
    let share = held.of_one_wave(tiles, product.units());
    let blocks = [tiles.min(held.resident()).max(1) * share, 1];
    kernel.launch_clusters(context, blocks, share, abi::TILED_THREADS, SHARED_BYTES, &parameters)
}
