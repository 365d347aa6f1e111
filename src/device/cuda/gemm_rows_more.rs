//! Which products of 65 to 1024 rows go to the kernels of kernels/gemm_rows_more.cu, and their
//! launch: half types, where tiles fill the card and end as models mostly have it. The products ask
//! it; it knows no weight's name.

use super::abi::{self, Activation, MoreRowsGemm, TiledGemm};
use super::coded_kernels::WGMMA;
use super::context::Context;
use super::gemm_small_m::End;
use super::gemm_tiles::{Kind, TiledProduct};
use super::launch::Kernel;
use super::module::Kernels;
use super::shares::Shares;
use crate::device::DType;
use crate::error::Result;

const SHARED_BYTES: usize = abi::MORE_ROWS_SHARED_BYTES as usize;
/// Rows of a block. Pairs of blocks have more, and take as long for few as for many: the library is
/// faster where less of theirs is filled than this percentage.
const BLOCK_ROWS: usize = abi::MORE_ROWS_OF_BLOCK as usize;
const PAIR_FILLED: usize = 88;
/// Blocks that have other rows of the same tiles, at most.
const MOST_BELOW: usize = 8;
/// Outputs of a tile, of each kernel. Pairs read x too often where they are narrow.
const TILES: [usize; 9] = [64, 80, 96, 112, 128, 160, 192, 224, 256];
const NARROWEST_OF_PAIRS: usize = 192;
/// Sums that are not gated come of this many shares, of inputs that are long beside adding them up.
const SHARES: usize = 2;
const LONG_UNITS: usize = 128;
/// Inputs of 128 bytes.
const LINE: usize = 64;
/// Percent of the card's places that a product's outputs take, or it is the library's.
const FILLED: usize = 90;

/// How a product is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Outputs of a tile.
    width: usize,
    /// Of each tile's inputs.
    shares: usize,
    /// Blocks that have other rows of the same tiles: one, or pairs.
    below: usize,
}

impl Plan {
    /// The one whose tiles fill the card best, if they do.
    fn of(held: &Shares, gated: bool, rows: usize, outputs: usize, units: usize) -> Option<Plan> {
        let below = match rows.div_ceil(BLOCK_ROWS) {
            1 => 1,
            blocks => blocks.next_multiple_of(2),
        };
        let pairs = below > 1;
        let faster = match (gated, pairs) {
            (true, false) => true,
            (true, true) => below <= MOST_BELOW && rows * 100 >= below * BLOCK_ROWS * PAIR_FILLED,
            (false, false) => units >= LONG_UNITS,
            (false, true) => false,
        };
        let shares = if gated { 1 } else { SHARES };
        // Of tiles at a time.
        let places = if pairs { 2 * held.held(2) / below } else { held.held(shares) };
        if !faster || places == 0 {
            return None;
        }

        // Outputs that there would be room for.
        let room = |width: usize| outputs.div_ceil(width).div_ceil(places) * places * width;
        let fits = |&width: &usize| {
            let wide = !pairs || width >= NARROWEST_OF_PAIRS;
            // Sums of shares take the place of stages: a block has one tile.
            wide && (shares == 1 || outputs.div_ceil(width) <= places)
        };
        // Of those that fit as well the widest.
        let width = TILES.into_iter().rev().filter(fits).min_by_key(|&width| room(width))?;
        let plan = Plan { width, shares, below };
        (outputs * 100 >= room(width) * FILLED).then_some(plan)
    }
}

/// How this product is cut, if it is ours.
pub fn plan(context: &Context, held: &Shares, act: DType, product: &TiledProduct) -> Option<Plan> {
    // Outputs are written by twos. Rows of W that are no whole lines of L2 come too slowly for few
    // of them at a time.
    let (twos, lines) = (product.outputs.is_multiple_of(2), product.inputs.is_multiple_of(LINE));
    let gated = match product.end {
        End::Gated(Activation::SiluGated) => true,
        End::Act(Activation::None) if twos && lines => false,
        _ => return None,
    };
    let half = matches!(product.kind, Kind::Activations(_));
    let some = product.rows > abi::ROWS_MOST as usize;
    if !half || !some || !product.has_tiles(context, act) {
        return None;
    }
    Plan::of(held, gated, product.rows, product.outputs, product.units())
}

/// The kernel of this width.
fn kernel(k: &Kernels, width: usize) -> &Kernel<MoreRowsGemm> {
    match width {
        64 => &k.gemm_rows_more_64,
        80 => &k.gemm_rows_more_80,
        96 => &k.gemm_rows_more_96,
        112 => &k.gemm_rows_more_112,
        128 => &k.gemm_rows_more_128,
        160 => &k.gemm_rows_more_160,
        192 => &k.gemm_rows_more_192,
        224 => &k.gemm_rows_more_224,
        _ => &k.gemm_rows_more_256,
    }
}

/// The kernels take the shared memory that they need: a multiprocessor holds one of their blocks,
/// as of those of fewer rows.
pub fn prepare(context: &Context, k: &Kernels) -> Result<()> {
    if context.capability != WGMMA {
        return Ok(());
    }
    TILES.iter().try_for_each(|&width| kernel(k, width).allow_shared(SHARED_BYTES))
}

/// Enqueue a product by its plan.
pub fn run(
    context: &Context,
    k: &Kernels,
    held: &Shares,
    plan: Plan,
    product: &TiledProduct,
) -> Result<()> {
    let Plan { width, shares, below } = plan;
    let pairs = below > 1;
    let block_rows = product.rows.div_ceil(below).next_multiple_of(8);
    let box_width = if pairs { width / 2 } else { width };
    let TiledGemm { w, x, bias, y, rows, outputs, units, .. } =
        product.parameters(box_width, block_rows)?;
    let parameters = MoreRowsGemm {
        w,
        x,
        bias,
        y,
        rows,
        outputs,
        units,
        shares: shares as u32,
        block_rows: block_rows as u32,
        gated: u32::from(matches!(product.end, End::Gated(_))),
        below: below as u32,
        pairs: u32::from(pairs),
        unused: 0,
    };

    let cluster = if pairs { 2 } else { shares };
    let places = cluster * held.held(cluster) / (below * shares);
    let tiles = product.outputs.div_ceil(width).min(places).max(1);
    let (threads, blocks) = (abi::MORE_ROWS_THREADS, [tiles * below * shares, 1]);
    kernel(k, width).launch_clusters(context, blocks, cluster, threads, SHARED_BYTES, &parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (width, shares, blocks below each other) on an H200.
    fn plan(gated: bool, rows: usize, outputs: usize, units: usize) -> Option<[usize; 3]> {
        let held = Shares::of(|blocks| Ok([132, 66, 39, 30, 22, 17, 15, 15][blocks - 1]));
        let plan = Plan::of(&held.unwrap(), gated, rows, outputs, units);
        plan.map(|Plan { width, shares, below }| [width, shares, below])
    }

    /// An 8B model's, as measured (ci/runs/2026-11-30-h200-rows256.md).
    #[test]
    fn products_are_ours_where_the_library_is_slower() {
        let gates = [65, 128, 129, 224, 226, 256].map(|rows| plan(true, rows, 28_672, 64));
        let (one, two) = (Some([224, 1, 1]), Some([224, 1, 2]));
        assert_eq!(gates, [one, one, None, None, two, two]);
        let many = [384, 512, 640, 704, 1024, 1025, 4096];
        let gates = many.map(|rows| plan(true, rows, 28_672, 64).map(|plan| plan[2]));
        assert_eq!(gates, [None, Some(4), None, Some(6), Some(8), None, None]);
        let downs = [65, 128, 129, 256].map(|rows| plan(false, rows, 4096, 224));
        assert_eq!(downs, [Some([64, 2, 1]), Some([64, 2, 1]), None, None]);
        // qkv and o.
        assert_eq!([6144, 4096].map(|outputs| plan(false, 128, outputs, 64)), [None, None]);
    }

    #[test]
    fn tiles_fill_the_card() {
        // Gates and ups of a 7B of Qwen, and of other widths.
        assert_eq!(plan(true, 100, 37_888, 56), Some([96, 1, 1]));
        assert_eq!(plan(true, 100, 16_384, 32), Some([128, 1, 1]));
        assert_eq!(plan(true, 256, 16_384, 32), Some([256, 1, 2]));
        assert_eq!(plan(true, 100, 5000, 32), None);
        let nothing = Plan::of(&Shares::default(), true, 100, 28_672, 64);
        assert_eq!(nothing, None, "no card");
    }
}
