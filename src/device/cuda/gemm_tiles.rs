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
    fn bytes(self) -> usize {
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

/// A kernel with its tiles.
#[derive(Clone, Copy)]
struct Tiled<'a> {
    kernel: &'a Kernel<TiledGemm>,
    /// Rows of x that it multiplies.
    columns: usize,
    /// Outputs of a tile; of a gated one half are ups.
    outputs: usize,
    threads: u32,
    shared_bytes: usize,
}

impl<'a> Tiled<'a> {
    fn few(kernel: &'a Kernel<TiledGemm>, columns: usize) -> Tiled<'a> {
        Tiled {
            kernel,
            columns,
            outputs: abi::TILED_FEW_OUTPUTS as usize,
            threads: abi::TILED_FEW_THREADS,
            shared_bytes: abi::TILED_FEW_SHARED_BYTES as usize,
        }
    }

    fn many(kernel: &'a Kernel<TiledGemm>) -> Tiled<'a> {
        Tiled {
            kernel,
            columns: abi::TILED_ROWS as usize,
            outputs: abi::TILED_MANY_OUTPUTS as usize,
            threads: abi::TILED_MANY_THREADS,
            shared_bytes: abi::TILED_MANY_SHARED_BYTES as usize,
        }
    }

    /// The one for so many rows.
    fn of(k: &Kernels, kind: Kind, rows: usize) -> Tiled<'_> {
        match (kind, rows) {
            (Kind::Activations(_), _) => Tiled::few(&k.gemm_tiles_16, 16),
            (Kind::E4m3 { .. }, 0..=16) => Tiled::few(&k.gemm_tiles_e4m3_16, 16),
            (Kind::E4m3 { .. }, 17..=32) => Tiled::few(&k.gemm_tiles_e4m3_32, 32),
            (Kind::E4m3 { .. }, _) => Tiled::many(&k.gemm_tiles_e4m3_64),
        }
    }

    fn shares(&self) -> Result<Shares> {
        Shares::of(|blocks| self.kernel.resident_clusters(blocks, self.threads, self.shared_bytes))
    }
}

/// Clusters that the card holds, of kernels of few rows and of more.
#[derive(Debug, Clone, Default)]
pub struct TileShares {
    few: Shares,
    many: Shares,
}

/// The kernels take the shared memory that they need; how many of their clusters the card holds.
pub fn prepare(context: &Context, k: &Kernels) -> Result<TileShares> {
    if context.capability != WGMMA {
        return Ok(TileShares::default());
    }
    let e4m3 = Kind::E4m3 { factor: DevicePtr::NULL, steps: DevicePtr::NULL };
    for kind in [Kind::Activations(DType::BF16), e4m3] {
        for rows in [16, 32, abi::TILED_ROWS as usize] {
            let tiled = Tiled::of(k, kind, rows);
            tiled.kernel.allow_shared(tiled.shared_bytes)?;
        }
    }
    Ok(TileShares { few: Tiled::of(k, e4m3, 1).shares()?, many: Tiled::of(k, e4m3, 64).shares()? })
}

/// Enqueue a product that [`takes`] accepts.
pub fn run(
    context: &Context,
    kernels: &Kernels,
    shares: &TileShares,
    product: &TiledProduct,
) -> Result<()> {
    let &TiledProduct { kind, rows, outputs, inputs, .. } = product;
    let tiled = Tiled::of(kernels, kind, rows);
    let row_bytes = inputs * kind.bytes();
    let matrix = |first, rows| Matrix { first, columns: inputs, rows, row_bytes };
    let (w, x) = (matrix(product.w, outputs), matrix(product.x, rows));
    let tile = tiled.outputs;
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
        w: if gated { w.eights(act, tile)? } else { w.panels(act, tile)? },
        x: x.panels(act, tiled.columns)?,
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

    let (heights, height) = if gated { (outputs / 2, tile / 2) } else { (outputs, tile) };
    let tiles = heights.div_ceil(height);
    // All blocks are on the card at once: a block that walks over several tiles has them whole.
    let many = tiled.columns == abi::TILED_ROWS as usize;
    let shares = if many { &shares.many } else { &shares.few };
    let share = shares.of_one_wave(tiles, units);
    let blocks = [tiles.min(shares.resident()).max(1) * share, 1];
    let Tiled { kernel, threads, shared_bytes, .. } = tiled;
    kernel.launch_clusters(context, blocks, share, threads, shared_bytes, &parameters)
}
