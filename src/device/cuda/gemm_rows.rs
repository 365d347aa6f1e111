//! Which products go to the kernels of kernels/gemm_rows.cu, and their launch: 9 to 64 rows, where
//! weights are most of what is read. The products ask it; it knows no weight's name.

use super::abi::{self, RowsGemm, TiledGemm};
use super::coded_kernels::WGMMA;
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::End;
use super::gemm_tiles::{Kind, TiledProduct};
use super::launch::Kernel;
use super::module::Kernels;
use super::shares::Shares;
use crate::device::DType;
use crate::error::Result;

const SHARED_BYTES: usize = abi::ROWS_SHARED_BYTES as usize;
/// Shares of a tile's inputs at most: clusters of more leave multiprocessors idle.
const MOST_SHARES: usize = 4;
/// What adding up the shares of a cluster takes, in rows of a unit.
const ADD_UP_ROWS: usize = 500;
/// Outputs of a tile, of each kernel.
const TILES: [usize; 8] = [64, 80, 96, 128, 160, 192, 224, 256];
/// Rows from which products are ours; fewer are those of a few rows.
const FEWEST_ROWS: usize = 9;
/// The same of E4M3 with wide tiles: up to here gemm_tiles is faster, by 1 to 5 us a product at 16
/// rows.
const FEWEST_ROWS_OF_WIDE_CODES: usize = abi::TILED_ROWS as usize + 1;
/// Tiles of E4M3 up to this width are no wide ones.
const NARROW: usize = 64;
/// Tiles up to this width have two warpgroups that take turns, which add up where stages are: a
/// block has one such tile.
const WIDEST_IN_TURNS: usize = 96;

/// How a product is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Outputs of a tile.
    width: usize,
    /// Of each tile's inputs, one for each block of a cluster.
    shares: usize,
}

impl Plan {
    /// The one that makes a product shortest, of so many outputs and units of inputs.
    fn of(held: &Shares, outputs: usize, units: usize) -> Plan {
        let mut best = Plan { width: TILES[TILES.len() - 1], shares: 1 };
        let mut least = best.cost(held, outputs, units).unwrap_or(usize::MAX);
        for width in TILES {
            for shares in 1..=MOST_SHARES.min(units) {
                let plan = Plan { width, shares };
                let cost = plan.cost(held, outputs, units).unwrap_or(usize::MAX);
                if cost < least {
                    (best, least) = (plan, cost);
                }
            }
        }
        best
    }

    /// Rows of a unit that a block copies one behind the other: all blocks have the same part of
    /// the bandwidth, and the product takes as long as each of them. None: not to be had.
    fn cost(self, held: &Shares, outputs: usize, units: usize) -> Option<usize> {
        let Plan { width, shares } = self;
        let tiles = outputs.div_ceil(width);
        let waves = tiles.div_ceil(held.held(shares).max(1));
        let adds_up = shares > 1 || width <= WIDEST_IN_TURNS;
        if adds_up && waves > 1 {
            return None;
        }
        // x comes out of L2, beside W and hardly felt.
        let rows = width + abi::ROWS_MOST as usize / 16;
        let end = if shares > 1 { ADD_UP_ROWS } else { 0 };
        Some(waves * units.div_ceil(shares) * rows + end)
    }

    /// Rows of such operands from which a product that is cut so is ours.
    fn fewest_rows(self, kind: Kind) -> usize {
        match kind {
            Kind::E4m3 { .. } if self.width > NARROW => FEWEST_ROWS_OF_WIDE_CODES,
            Kind::E4m3 { .. } | Kind::Activations(_) => FEWEST_ROWS,
        }
    }
}

/// How this product is cut, if it is ours.
pub fn plan(context: &Context, held: &Shares, act: DType, product: &TiledProduct) -> Option<Plan> {
    // The library's logits are as fast, or those of gemm_tiles.
    let plain_logits = matches!(product.kind, Kind::Activations(_)) && product.end == End::Logits;
    let some = (FEWEST_ROWS..=abi::ROWS_MOST as usize).contains(&product.rows);
    if !some || plain_logits || !product.has_tiles(context, act) {
        return None;
    }

    let plan = Plan::of(held, product.outputs, product.units());
    (product.rows >= plan.fewest_rows(product.kind)).then_some(plan)
}

/// The kernel of this width.
fn kernel(k: &Kernels, kind: Kind, width: usize) -> &Kernel<RowsGemm> {
    match (kind, width) {
        (Kind::Activations(_), 64) => &k.gemm_rows_64,
        (Kind::Activations(_), 80) => &k.gemm_rows_80,
        (Kind::Activations(_), 96) => &k.gemm_rows_96,
        (Kind::Activations(_), 128) => &k.gemm_rows_128,
        (Kind::Activations(_), 160) => &k.gemm_rows_160,
        (Kind::Activations(_), 192) => &k.gemm_rows_192,
        (Kind::Activations(_), 224) => &k.gemm_rows_224,
        (Kind::Activations(_), _) => &k.gemm_rows_256,
        (Kind::E4m3 { .. }, 64) => &k.gemm_rows_e4m3_64,
        (Kind::E4m3 { .. }, 80) => &k.gemm_rows_e4m3_80,
        (Kind::E4m3 { .. }, 96) => &k.gemm_rows_e4m3_96,
        (Kind::E4m3 { .. }, 128) => &k.gemm_rows_e4m3_128,
        (Kind::E4m3 { .. }, 160) => &k.gemm_rows_e4m3_160,
        (Kind::E4m3 { .. }, 192) => &k.gemm_rows_e4m3_192,
        (Kind::E4m3 { .. }, 224) => &k.gemm_rows_e4m3_224,
        (Kind::E4m3 { .. }, _) => &k.gemm_rows_e4m3_256,
    }
}

/// The kernels take the shared memory that they need; how many of their clusters the card holds.
pub fn prepare(context: &Context, k: &Kernels) -> Result<Shares> {
    if context.capability != WGMMA {
        return Ok(Shares::default());
    }
    let e4m3 = Kind::E4m3 { factor: DevicePtr::NULL, steps: DevicePtr::NULL };
    for kind in [Kind::Activations(DType::BF16), e4m3] {
        for width in TILES {
            kernel(k, kind, width).allow_shared(SHARED_BYTES)?;
        }
    }
    let widest = kernel(k, e4m3, TILES[TILES.len() - 1]);
    Shares::of(|blocks| widest.resident_clusters(blocks, abi::ROWS_THREADS, SHARED_BYTES))
}

/// Enqueue a product by its plan.
pub fn run(
    context: &Context,
    k: &Kernels,
    held: &Shares,
    plan: Plan,
    product: &TiledProduct,
) -> Result<()> {
    let Plan { width, shares } = plan;
    // Whole eights of rows are swizzled.
    let x_rows = product.rows.next_multiple_of(8);
    let TiledGemm { w, x, factor, steps, bias, y, rows, outputs, units, end, kind } =
        product.parameters(width, x_rows)?;
    let x_bytes = x_rows as u32 * abi::TILED_UNIT_BYTES;
    let stage_bytes = width as u32 * abi::TILED_UNIT_BYTES + x_bytes;
    let parameters = RowsGemm {
        w,
        x,
        factor,
        steps,
        bias,
        y,
        rows,
        outputs,
        units,
        shares: shares as u32,
        stages: (abi::ROWS_RING_BYTES / stage_bytes).min(abi::ROWS_STAGES_MOST),
        stage_bytes,
        x_bytes,
        end,
        kind,
    };

    let tiles = product.outputs.div_ceil(width).min(held.held(shares)).max(1);
    let (threads, blocks) = (abi::ROWS_THREADS, [tiles * shares, 1]);
    let kernel = kernel(k, product.kind, width);
    kernel.launch_clusters(context, blocks, shares, threads, SHARED_BYTES, &parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(outputs: usize, units: usize) -> (usize, usize) {
        // An H200.
        let held = Shares::of(|blocks| Ok([132, 66, 39, 30, 22, 17, 15, 15][blocks - 1]));
        let Plan { width, shares } = Plan::of(&held.unwrap(), outputs, units);
        (width, shares)
    }

    /// As measured (ci/runs/2026-11-30-h200-rows.md): qkv, o, gate and up, down.
    #[test]
    fn tiles_are_as_many_as_multiprocessors() {
        // Half of a 70B in FP8, an 8B in bf16.
        let sizes = [(5120, 64), (8192, 32), (28_672, 64), (8192, 112)];
        assert_eq!(sizes.map(|(n, units)| plan(n, units)), [(80, 2), (64, 1), (224, 1), (64, 1)]);
        let sizes = [(6144, 64), (4096, 64), (28_672, 64), (4096, 224)];
        assert_eq!(sizes.map(|(n, units)| plan(n, units)), [(96, 2), (64, 2), (224, 1), (64, 2)]);
    }

    #[test]
    fn products_of_16_rows_are_ours_where_that_is_faster() {
        let held = Shares::of(|blocks| Ok([132, 66, 39, 30, 22, 17, 15, 15][blocks - 1])).unwrap();
        let fewest = |kind, outputs, units| Plan::of(&held, outputs, units).fewest_rows(kind);
        let e4m3 = Kind::E4m3 { factor: DevicePtr::NULL, steps: DevicePtr::NULL };
        // An 8B: qkv, o, gate and up, down.
        let sizes = [(6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336)];
        assert_eq!(sizes.map(|(n, k)| fewest(e4m3, n, k / 128)), [33, 9, 33, 9]);
        let half = Kind::Activations(DType::BF16);
        assert_eq!(sizes.map(|(n, k)| fewest(half, n, k / 64)), [9; 4]);
    }

    #[test]
    fn sums_that_take_the_place_of_stages_are_of_one_tile() {
        for outputs in (16..70_000).step_by(1040) {
            for units in [1, 3, 64] {
                let (width, shares) = plan(outputs, units);
                let tiles = outputs.div_ceil(width);
                let held = [132, 66, 39, 30][shares - 1];
                let one = tiles <= held;
                assert!(one || (shares == 1 && width > WIDEST_IN_TURNS), "{outputs} x {units}");
                assert!(shares <= units);
            }
        }
        let Plan { width, shares } = Plan::of(&Shares::default(), 4096, 64);
        assert_eq!((width > WIDEST_IN_TURNS, shares), (true, 1), "no card");
    }
}
