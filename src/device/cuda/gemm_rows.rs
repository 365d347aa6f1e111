//! Which products go to the kernels of kernels/gemm_rows.cu, and their launch: 5 to 64 rows, where
//! weights are most of what is read. The products ask it; it knows no weight's name.

use super::abi::{self, Activation, NormKind, RowsGemm, TiledGemm};
use super::coded_kernels::WGMMA;
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::End;
use super::gemm_tiles::{Kind, TiledProduct};
use super::launch::Kernel;
use super::module::Kernels;
use super::row_norms::{Added, Divided, Norms};
use super::shares::Shares;
use crate::device::DType;
use crate::error::Result;

/// Of warps more, where x is still to be divided.
const DIVIDING_THREADS: u32 = abi::ROWS_DIVIDING * 32;
const SHARED_BYTES: usize = abi::ROWS_SHARED_BYTES as usize;
/// Shares of a tile's inputs at most: clusters of more leave multiprocessors idle.
const MOST_SHARES: usize = 4;
/// What adding up the shares of a cluster takes, in rows of a unit.
const ADD_UP_ROWS: usize = 500;
/// Outputs of a tile, of each kernel.
const TILES: [usize; 8] = [64, 80, 96, 128, 160, 192, 224, 256];
/// Rows from which products of half types are ours; fewer are those of a few rows.
const FEWEST_ROWS: usize = 5;
/// The same of E4M3, fewer of which are gemm_tiles'.
const FEWEST_ROWS_OF_CODES: usize = 9;
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

    /// Blocks of a product of so many outputs, if each of them has a part of one tile's sums in the
    /// end, by a kernel that adds them to a residual, and they are no more than may leave parts of
    /// a row's sum of squares.
    fn parts(self, outputs: usize) -> Option<usize> {
        let parts = outputs.div_ceil(self.width) * self.shares;
        let few = parts <= abi::ROWS_PARTS_MOST as usize;
        (self.width <= WIDEST_IN_TURNS && few).then_some(parts)
    }

    /// Rows of such operands from which a product that is cut so is ours.
    fn fewest_rows(self, kind: Kind) -> usize {
        match kind {
            Kind::E4m3 { .. } if self.width > NARROW => FEWEST_ROWS_OF_WIDE_CODES,
            Kind::E4m3 { .. } => FEWEST_ROWS_OF_CODES,
            Kind::Activations(_) => FEWEST_ROWS,
        }
    }
}

/// Whether this product may be ours. Of half types it is.
pub fn takes(context: &Context, act: DType, product: &TiledProduct) -> bool {
    // The library's logits are as fast, or those of gemm_tiles.
    let plain_logits = matches!(product.kind, Kind::Activations(_)) && product.end == End::Logits;
    let some = (FEWEST_ROWS..=abi::ROWS_MOST as usize).contains(&product.rows);
    some && !plain_logits && product.has_tiles(context, act)
}

/// How this product is cut, if it is ours.
pub fn plan(context: &Context, held: &Shares, act: DType, product: &TiledProduct) -> Option<Plan> {
    if !takes(context, act, product) {
        return None;
    }

    let plan = Plan::of(held, product.outputs, product.units());
    (product.rows >= plan.fewest_rows(product.kind)).then_some(plan)
}

/// The same of one that is added to a residual, and the blocks among which a row then lies.
pub fn plan_of_residual(
    context: &Context,
    held: &Shares,
    act: DType,
    product: &TiledProduct,
) -> Option<(Plan, usize)> {
    let plan = plan(context, held, act, product).filter(|_| product.outputs.is_multiple_of(2))?;
    Some((plan, plan.parts(product.outputs)?))
}

/// What a kernel ends with.
#[derive(Clone, Copy)]
enum Ends {
    /// Of E4M3 whatever there is, of half types what no other kernel has.
    Others,
    /// No activation; outputs are even.
    Plain,
    /// SiLU of gates times ups, as many as are even.
    Gated,
    /// Added to a residual.
    Residual,
}

impl Ends {
    /// Of a product.
    fn of(product: &TiledProduct, norms: Norms) -> Ends {
        let half = matches!(product.kind, Kind::Activations(_));
        match product.end {
            End::Act(Activation::None) if norms.y.is_some() => Ends::Residual,
            End::Act(Activation::None) if half && product.outputs.is_multiple_of(2) => Ends::Plain,
            End::Gated(Activation::SiluGated) if half && product.outputs.is_multiple_of(4) => {
                Ends::Gated
            }
            _ => Ends::Others,
        }
    }
}

/// Whether x of this product may be rows that are still to be divided.
pub fn divides(product: &TiledProduct) -> bool {
    matches!(Ends::of(product, Norms::default()), Ends::Plain | Ends::Gated)
}

/// The kernel of this width.
fn kernel(k: &Kernels, kind: Kind, width: usize, ends: Ends) -> &Kernel<RowsGemm> {
    let half = |ends: Ends| match (ends, width) {
        (Ends::Others, 64) => &k.gemm_rows_64,
        (Ends::Others, 80) => &k.gemm_rows_80,
        (Ends::Others, 96) => &k.gemm_rows_96,
        (Ends::Others, 128) => &k.gemm_rows_128,
        (Ends::Others, 160) => &k.gemm_rows_160,
        (Ends::Others, 192) => &k.gemm_rows_192,
        (Ends::Others, 224) => &k.gemm_rows_224,
        (Ends::Others, _) => &k.gemm_rows_256,
        (Ends::Plain, 64) => &k.gemm_rows_plain_64,
        (Ends::Plain, 80) => &k.gemm_rows_plain_80,
        (Ends::Plain, 96) => &k.gemm_rows_plain_96,
        (Ends::Plain, 128) => &k.gemm_rows_plain_128,
        (Ends::Plain, 160) => &k.gemm_rows_plain_160,
        (Ends::Plain, 192) => &k.gemm_rows_plain_192,
        (Ends::Plain, 224) => &k.gemm_rows_plain_224,
        (Ends::Plain, _) => &k.gemm_rows_plain_256,
        (Ends::Gated, 64) => &k.gemm_rows_gated_64,
        (Ends::Gated, 80) => &k.gemm_rows_gated_80,
        (Ends::Gated, 96) => &k.gemm_rows_gated_96,
        (Ends::Gated, 128) => &k.gemm_rows_gated_128,
        (Ends::Gated, 160) => &k.gemm_rows_gated_160,
        (Ends::Gated, 192) => &k.gemm_rows_gated_192,
        (Ends::Gated, 224) => &k.gemm_rows_gated_224,
        (Ends::Gated, _) => &k.gemm_rows_gated_256,
        (Ends::Residual, 64) => &k.gemm_rows_residual_64,
        (Ends::Residual, 80) => &k.gemm_rows_residual_80,
        (Ends::Residual, _) => &k.gemm_rows_residual_96,
    };

    match (kind, width) {
        (Kind::Activations(_), _) => half(ends),
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
    for width in TILES {
        kernel(k, e4m3, width, Ends::Others).allow_shared(SHARED_BYTES)?;
        for ends in [Ends::Others, Ends::Plain, Ends::Gated, Ends::Residual] {
            kernel(k, Kind::Activations(DType::BF16), width, ends).allow_shared(SHARED_BYTES)?;
        }
    }
    let widest = kernel(k, e4m3, TILES[TILES.len() - 1], Ends::Others);
    Shares::of(|blocks| widest.resident_clusters(blocks, abi::ROWS_THREADS, SHARED_BYTES))
}

/// Enqueue a product by its plan.
pub fn run(
    context: &Context,
    k: &Kernels,
    held: &Shares,
    plan: Plan,
    product: &TiledProduct,
    norms: Norms,
) -> Result<()> {
    let Plan { width, shares } = plan;
    // Whole eights of rows are swizzled.
    let x_rows = product.rows.next_multiple_of(8);
    let TiledGemm { w, x, factor, steps, bias, y, rows, outputs, units, end, kind } =
        product.parameters(width, x_rows)?;
    let x_bytes = x_rows as u32 * abi::TILED_UNIT_BYTES;
    let stage_bytes = width as u32 * abi::TILED_UNIT_BYTES + x_bytes;
    let mut parameters = RowsGemm {
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
        residual: DevicePtr::NULL,
        norm_weight: DevicePtr::NULL,
        squares: DevicePtr::NULL,
        squares_of_x: DevicePtr::NULL,
        parts: 0,
        normed_inputs: 0,
        eps: 0.0,
        norm_kind: NormKind::Rms,
    };
    if let Some(Divided { squares, parts, eps }) = norms.x {
        (parameters.squares_of_x, parameters.parts) = (squares, parts as u32);
        (parameters.normed_inputs, parameters.eps) = (product.inputs as u32, eps);
    }
    if let Some(Added { residual, weight, kind, squares }) = norms.y {
        (parameters.residual, parameters.norm_weight) = (residual, weight);
        (parameters.squares, parameters.norm_kind) = (squares, kind);
    }

    let tiles = product.outputs.div_ceil(width).min(held.held(shares)).max(1);
    let threads = abi::ROWS_THREADS + norms.x.map_or(0, |_| DIVIDING_THREADS);
    let blocks = [tiles * shares, 1];
    let kernel = kernel(k, product.kind, width, Ends::of(product, norms));
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
    fn blocks_that_add_up_have_parts_of_a_row() {
        let held = Shares::of(|blocks| Ok([132, 66, 39, 30, 22, 17, 15, 15][blocks - 1])).unwrap();
        let parts = |outputs, units| Plan::of(&held, outputs, units).parts(outputs);
        // o and down of an 8B and of a 0.5B, a head.
        let sizes = [(4096, 64), (4096, 224), (896, 14), (896, 76), (128_256, 64)];
        let expected = [Some(128), Some(128), Some(56), Some(56), None];
        assert_eq!(sizes.map(|(n, units)| parts(n, units)), expected);
        for outputs in (16..70_000).step_by(16) {
            let most = abi::ROWS_PARTS_MOST as usize;
            assert!(parts(outputs, 64).is_none_or(|parts| parts <= most), "{outputs}");
        }
    }

    #[test]
    fn products_of_few_rows_are_ours_where_that_is_faster() {
        let held = Shares::of(|blocks| Ok([132, 66, 39, 30, 22, 17, 15, 15][blocks - 1])).unwrap();
        let fewest = |kind, outputs, units| Plan::of(&held, outputs, units).fewest_rows(kind);
        let e4m3 = Kind::E4m3 { factor: DevicePtr::NULL, steps: DevicePtr::NULL };
        // An 8B: qkv, o, gate and up, down.
        let sizes = [(6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336)];
        assert_eq!(sizes.map(|(n, k)| fewest(e4m3, n, k / 128)), [33, 9, 33, 9]);
        let half = Kind::Activations(DType::BF16);
        assert_eq!(sizes.map(|(n, k)| fewest(half, n, k / 64)), [5; 4]);
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
