//! A mixture of experts on the GPU: what lies behind a `routes` tensor, and the launches. Grids are
//! for the worst case of (model, rows), because a step may be a replayed graph and nobody on the
//! host knows which experts it meets. The kernels are in kernels/experts.cu.

use super::codes::activation_code;
use super::dense::columns;
use super::gemm_small_m::End;
use super::launch::{Argument, Kernel};
use super::memory::Memory;
use super::module::Kernels;
use super::weights::Weight;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{Activation, DType, ExpertOps, Routing, WeightKind, MAX_EXPERTS};
use crate::error::Result;
use crate::internal;

/// Words of a tile: expert, first, count.
const TILE_WORDS: usize = 3;
/// cuBLASLt writes the router's logits to addresses like an allocation's.
const ALIGNED_BYTES: usize = 256;
const NARROW_ROWS: usize = 16;
const WIDE_ROWS: usize = 64;
/// Bytes of a row of a stage: 64 inputs and the padding, as in experts.cu.
const STAGE_ROW_BYTES: usize = (64 + 8) * 2;
const NARROW_SHARED: usize = 4 * (16 + 64) * STAGE_ROW_BYTES;
const WIDE_SHARED: usize = 3 * (64 + 128) * STAGE_ROW_BYTES;
const PLAIN_COLUMNS: usize = 16;

/// Where the parts of a routes tensor lie: byte offsets.
struct Layout {
    logits: usize,
    order: usize,
    tiles: usize,
    tile_count: usize,
    bytes: usize,
}

impl Layout {
    fn new(rows: usize, top_k: usize, experts: usize) -> Layout {
        let choices = rows * top_k;
        let logits = (2 * choices * 4).next_multiple_of(ALIGNED_BYTES);
        let order = logits + rows * experts * 4;
        let tiles = order + choices * 4;
        let tile_count = tiles + most_tiles(choices, experts, NARROW_ROWS) * TILE_WORDS * 4;
        Layout { logits, order, tiles, tile_count, bytes: tile_count + 4 }
    }
}

/// Tiles of choices that any step of so many choices can need: one for each expert that is met,
/// which holds a single choice at worst, and as many full ones as the others fill.
fn most_tiles(choices: usize, experts: usize, tile_rows: usize) -> usize {
    let met = experts.min(choices);
    met + (choices - met) / tile_rows
}

/// Rows of a tile, by what an expert gets on average.
fn tile_rows(choices: usize, experts: usize) -> usize {
    match choices >= 32 * experts {
        true => WIDE_ROWS,
        false => NARROW_ROWS,
    }
}

/// Let the wide kernels have their shared memory. Once, at load.
pub fn allow_shared(kernels: &Kernels) -> Result<()> {
    kernels.experts_up_wide.allow_shared(WIDE_SHARED)?;
    kernels.experts_down_wide.allow_shared(WIDE_SHARED)
}

/// One of the three kernels of a product, and how it is launched.
struct Tiling<'a> {
    kernel: &'a Kernel,
    columns: usize,
    threads: u32,
    shared: usize,
}

fn tiling(kernels: &Kernels, dtype: DType, inputs: usize, rows: usize, gated: bool) -> Tiling<'_> {
    let [plain, narrow, wide] = match gated {
        true => [&kernels.experts_up_plain, &kernels.experts_up_narrow, &kernels.experts_up_wide],
        false => {
            [&kernels.experts_down_plain, &kernels.experts_down_narrow, &kernels.experts_down_wide]
        }
    };
    // A gated tile's outputs are half gates and half ups.
    let halves = if gated { 2 } else { 1 };
    if dtype == DType::F32 || !inputs.is_multiple_of(8) {
        return Tiling { kernel: plain, columns: PLAIN_COLUMNS, threads: 256, shared: 0 };
    }
    match rows == WIDE_ROWS {
        true => Tiling { kernel: wide, columns: 128 / halves, threads: 256, shared: WIDE_SHARED },
        false => {
            Tiling { kernel: narrow, columns: 64 / halves, threads: 128, shared: NARROW_SHARED }
        }
    }
}

impl ExpertOps for Cuda {
    fn routes_tensor(&mut self, rows: usize, routing: &Routing) -> Result<Tensor> {
        let Routing { experts, top_k, .. } = *routing;
        if experts > MAX_EXPERTS || top_k > experts {
            return Err(internal!("{top_k} of {experts} experts, at most {MAX_EXPERTS}"));
        }
        allow_shared(&self.kernels)?;
        let bytes = Layout::new(rows, top_k, experts).bytes;
        let memory = Memory::new(&self.context, bytes, "routes")?;
        // Read before the first step, a choice must be an expert's number.
        memory.fill(0)?;
        Ok(Tensor { memory, rows, width: 2 * top_k, dtype: DType::F32 })
    }

    fn route(
        &mut self,
        gate: &Weight,
        routing: &Routing,
        x: &Tensor,
        routes: &mut Tensor,
    ) -> Result<()> {
        let (rows, Routing { experts, top_k, renormalise }) = (self.rows(), *routing);
        let base = routes.at(rows, 2 * top_k, "route");
        assert!(gate.outputs == experts, "{} of {experts} experts", gate.outputs);
        let layout = Layout::new(routes.rows, top_k, experts);
        let at = |offset: usize| base + offset as u64;
        let x = x.at(rows, gate.inputs, "route");
        self.product(rows, gate, 0, End::Logits, [x, at(layout.logits)])?;
        self.kernels.route_rows.launch(
            &self.context,
            [rows.div_ceil(4), 1],
            ROW_THREADS,
            &[
                &at(layout.logits),
                &(rows as u32),
                &(experts as u32),
                &(top_k as u32),
                &i32::from(renormalise),
                &base,
            ],
        )?;
        let choices = rows * top_k;
        self.kernels.group_rows.launch(
            &self.context,
            [usize::from(rows > 0), 1],
            MAX_EXPERTS as u32,
            &[
                &base,
                &(choices as u32),
                &(top_k as u32),
                &(experts as u32),
                &(tile_rows(choices, experts) as u32),
                &at(layout.order),
                &at(layout.tiles),
                &at(layout.tile_count),
            ],
        )
    }

    fn experts_act(
        &mut self,
        weight: &Weight,
        act: Activation,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.multiply_experts(weight, Some(act), routes, x, out)
    }

    fn experts(
        &mut self,
        weight: &Weight,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.multiply_experts(weight, None, routes, x, out)
    }

    fn combine(&mut self, routes: &Tensor, parts: &Tensor, out: &mut Tensor) -> Result<()> {
        let (rows, top_k, width) = (self.rows(), routes.width / 2, out.width);
        let arguments: [&dyn Argument; 5] = [
            &routes.at(rows, routes.width, "combine"),
            &parts.at(rows * top_k, width, "combine"),
            &(top_k as u32),
            &(width as u32),
            &out.at(rows, width, "combine"),
        ];
        let blocks = [rows, columns(width)];
        self.kernels.combine_experts.launch(&self.context, blocks, ROW_THREADS, &arguments)
    }

    fn add_gated(
        &mut self,
        gate: &Weight,
        x: &Tensor,
        delta: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        let arguments: [&dyn Argument; 5] = [
            &gate.vector(width),
            &x.at(rows, width, "add_gated"),
            &delta.at(rows, width, "add_gated"),
            &(width as u32),
            &out.at(rows, width, "add_gated"),
        ];
        self.kernels.add_gated.launch(&self.context, [rows, 1], 256, &arguments)
    }
}

impl Cuda {
    /// `experts_act` (with an activation; x has a row for each row) and `experts` (x has a row for
    /// each choice).
    fn multiply_experts(
        &mut self,
        weight: &Weight,
        act: Option<Activation>,
        routes: &Tensor,
        x: &Tensor,
        out: &Tensor,
    ) -> Result<()> {
        let WeightKind::Experts { count, gated } = weight.kind else {
            return Err(internal!("{} was not loaded for experts", weight.name));
        };
        assert!(gated == act.is_some_and(Activation::is_gated), "{}: gate and up", weight.name);
        let (rows, top_k) = (self.rows(), routes.width / 2);
        let (choices, outputs) = (rows * top_k, weight.outputs / count);
        let (x_rows, width) = if gated { (rows, outputs / 2) } else { (choices, outputs) };
        let layout = Layout::new(routes.rows, top_k, count);
        let base = routes.at(rows, routes.width, "experts");
        let at = |offset: usize| base + offset as u64;
        let tile = tile_rows(choices, count);
        let tiling = tiling(&self.kernels, self.dtype, weight.inputs, tile, gated);
        tiling.kernel.launch_shared(
            &self.context,
            [width.div_ceil(tiling.columns), most_tiles(choices, count, tile)],
            tiling.threads,
            tiling.shared,
            &[
                &x.at(x_rows, weight.inputs, "experts"),
                &weight.matrix(),
                &out.at(choices, width, "experts"),
                &at(layout.order),
                &at(layout.tiles),
                &at(layout.tile_count),
                &(top_k as u32),
                &(outputs as u32),
                &(weight.inputs as u32),
                &act.map_or(0, activation_code),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most tiles that any way of sharing out `choices` can need, by trying the worst.
    #[test]
    fn no_step_needs_more_tiles_than_the_grid_has() {
        for experts in [1, 2, 7, 64] {
            for choices in [1, 2, 15, 16, 17, 100, 257] {
                for tile in [NARROW_ROWS, WIDE_ROWS] {
                    // One row for each of `lonely` experts, the rest for the next.
                    let worst = (0..experts.min(choices))
                        .map(|lonely: usize| lonely + (choices - lonely).div_ceil(tile));
                    let worst = worst.max().unwrap();
                    let most = most_tiles(choices, experts, tile);
                    assert_eq!(worst, most, "{experts} {choices} {tile}");
                }
            }
        }
    }

    #[test]
    fn parts_do_not_overlap() {
        for (rows, top_k, experts) in [(1, 1, 1), (7, 3, 5), (2048, 8, 128)] {
            let l = Layout::new(rows, top_k, experts);
            assert!(l.logits >= rows * 2 * top_k * 4 && l.logits.is_multiple_of(ALIGNED_BYTES));
            assert_eq!(l.order - l.logits, rows * experts * 4);
            assert_eq!(l.tiles - l.order, rows * top_k * 4);
            let narrow = most_tiles(rows * top_k, experts, NARROW_ROWS);
            assert!(narrow >= most_tiles(rows * top_k, experts, WIDE_ROWS));
            assert_eq!(l.bytes, l.tiles + narrow * TILE_WORDS * 4 + 4);
        }
    }
}
