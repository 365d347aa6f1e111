//! A mixture of experts on the GPU: what lies behind a `routes` tensor, and the launches. Grids are
//! for the worst case of (model, rows), because a step may be a replayed graph and nobody on the
//! host knows which experts it meets. The kernels are in kernels/experts.cu.

use super::abi::{self, ExpertTile, MultiplyExperts};
use super::coded_products::Choices;
use super::deferred_norm::{is_rms, rms};
use super::device_ptr::DevicePtr;
use super::experts_few::{self, Choosing, FewProduct};
use super::experts_small::SmallExperts;
use super::gemm_small_m::{self, End, Goes};
use super::launch::Kernel;
use super::memory::Memory;
use super::module::Kernels;
use super::products::columns;
use super::weights::{Held, Weight};
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{
    Activation, DType, DenseOps, ExpertOps, Join, RouteScore, Routing, Seam, WeightKind,
    MAX_EXPERTS, MAX_EXPERT_GROUPS,
};
use crate::error::Result;
use crate::internal;

const _: () = assert!(MAX_EXPERTS == abi::MAX_EXPERTS as usize);
const _: () = assert!(MAX_EXPERT_GROUPS == abi::MAX_EXPERT_GROUPS as usize);
/// cuBLASLt writes the router's logits to addresses like an allocation's.
const ALIGNED_BYTES: usize = 256;
const NARROW_ROWS: usize = abi::NARROW_ROWS as usize;
const WIDE_ROWS: usize = abi::WIDE_ROWS as usize;
const NARROW_SHARED: usize =
    shared_bytes(abi::NARROW_STAGES, abi::NARROW_ROWS + abi::NARROW_OUTPUTS);
const WIDE_SHARED: usize = shared_bytes(abi::WIDE_STAGES, abi::WIDE_ROWS + abi::WIDE_OUTPUTS);

/// Stages of so many rows of x and W.
const fn shared_bytes(stages: u32, rows: u32) -> usize {
    (stages * rows * (abi::EXPERT_SLICE + abi::EXPERT_PADDING) * 2) as usize
}

/// Where the parts of a routes tensor lie: byte offsets.
struct Layout {
    logits: usize,
    order: usize,
    tiles: usize,
    tile_count: usize,
    /// Counters of kernels/few_rows.cuh: of slices of outputs, then of the router's blocks.
    tickets: usize,
    bytes: usize,
}

impl Layout {
    fn new(rows: usize, top_k: usize, experts: usize) -> Layout {
        let choices = rows * top_k;
        let logits = (2 * choices * 4).next_multiple_of(ALIGNED_BYTES);
        let order = logits + rows * experts * 4;
        let tiles = order + choices * 4;
        let tile_count =
            tiles + most_tiles(choices, experts, NARROW_ROWS) * size_of::<ExpertTile>();
        let tickets = tile_count + 4;
        let bytes = tickets + 4 * (abi::FEW_TICKETS as usize + 1);
        Layout { logits, order, tiles, tile_count, tickets, bytes }
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
    if choices >= 32 * experts {
        WIDE_ROWS
    } else {
        NARROW_ROWS
    }
}

/// Let the wide kernels have their shared memory. Once, at load.
pub fn allow_shared(kernels: &Kernels) -> Result<()> {
    kernels.experts_up_wide.allow_shared(WIDE_SHARED)?;
    kernels.experts_down_wide.allow_shared(WIDE_SHARED)?;
    experts_few::allow_shared(kernels)
}

/// A product of choices. x has a row for each row with an activation, for each choice without.
#[derive(Clone, Copy)]
struct ExpertProduct<'a> {
    weight: &'a Weight,
    bias: Option<&'a Weight>,
    act: Option<Activation>,
    routes: &'a Tensor,
    x: &'a Tensor,
}

/// One of the three kernels of a product, and how it is launched.
struct Tiling<'a> {
    kernel: &'a Kernel<MultiplyExperts>,
    columns: usize,
    threads: u32,
    shared: usize,
}

fn tiling(kernels: &Kernels, dtype: DType, inputs: usize, rows: usize, gated: bool) -> Tiling<'_> {
    let [plain, narrow, wide] = if gated {
        [&kernels.experts_up_plain, &kernels.experts_up_narrow, &kernels.experts_up_wide]
    } else {
        [&kernels.experts_down_plain, &kernels.experts_down_narrow, &kernels.experts_down_wide]
    };
    if dtype == DType::F32 || !inputs.is_multiple_of(8) {
        const TILE: u32 = abi::EXPERT_PLAIN_TILE;
        return Tiling { kernel: plain, columns: TILE as usize, threads: TILE * TILE, shared: 0 };
    }
    let (kernel, outputs, threads, shared) = if rows == WIDE_ROWS {
        (wide, abi::WIDE_OUTPUTS, abi::WIDE_THREADS, WIDE_SHARED)
    } else {
        (narrow, abi::NARROW_OUTPUTS, abi::NARROW_THREADS, NARROW_SHARED)
    };
    // A gated tile's outputs are half gates and half ups.
    let columns = if gated { outputs / 2 } else { outputs };
    Tiling { kernel, columns: columns as usize, threads, shared }
}

impl From<RouteScore> for abi::RouteScore {
    fn from(score: RouteScore) -> abi::RouteScore {
        match score {
            RouteScore::Softmax => abi::RouteScore::Softmax,
            RouteScore::Sigmoid => abi::RouteScore::Sigmoid,
            RouteScore::SparseMixer => abi::RouteScore::SparseMixer,
            RouteScore::SigmoidOfChosen => abi::RouteScore::SigmoidOfChosen,
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
        self.coded.note_choices(top_k);
        let bytes = Layout::new(rows, top_k, experts).bytes;
        let memory = Memory::new(&self.context, bytes, "routes")?;
        // Read before the first step, a choice must be an expert's number.
        memory.fill(0)?;
        Ok(Tensor::new(memory, [rows, 2 * top_k], DType::F32))
    }

    fn route(
        &mut self,
        gate: &Weight,
        bias: Option<&Weight>,
        choice_bias: Option<&Weight>,
        routing: &Routing,
        x: &Tensor,
        routes: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let Routing { experts, top_k, score, groups, renormalise, scale } = *routing;
        let base = routes.to(rows, 2 * top_k, "route");
        assert!(gate.outputs == experts, "{} of {experts} experts", gate.outputs);
        let layout = Layout::new(routes.rows, top_k, experts);
        let at = |offset: usize| base.offset_bytes(offset);
        let x = x.input(rows, gate.inputs, "route");

        let choices = rows * top_k;
        let route = abi::RouteRows {
            logits: at(layout.logits),
            bias: bias.map_or(DevicePtr::NULL, |bias| bias.vector(experts)),
            choice_bias: choice_bias.map_or(DevicePtr::NULL, |bias| bias.vector(experts)),
            routes: base,
            rows: rows as u32,
            experts: experts as u32,
            top_k: top_k as u32,
            renormalise: u32::from(renormalise),
            score: score.into(),
            groups: groups.map_or(0, |groups| groups.count as u32),
            top_groups: groups.map_or(0, |groups| groups.top as u32),
            scale,
        };
        let group = abi::GroupRows {
            routes: base,
            order: at(layout.order),
            tiles: at(layout.tiles),
            tile_count: at(layout.tile_count),
            choices: choices as u32,
            top_k: top_k as u32,
            experts: experts as u32,
            tile_rows: tile_rows(choices, experts) as u32,
        };

        let ticket = at(layout.tickets).offset_bytes(4 * abi::FEW_TICKETS as usize);
        self.ungrouped = None;
        if self.routes_small(rows, gate) {
            self.ungrouped = Some(group);
            let (x, norm) = self.take_norm(rows, gate.inputs, x.x);
            return self.route_small(gate, x, norm, ticket, route);
        }
        if self.routes_few(rows, gate) {
            return self.route_few(gate, x.x, ticket, route, group);
        }
        self.product(rows, gate, DevicePtr::NULL, End::Logits, x, route.logits)?;
        let blocks = [rows.div_ceil(abi::ROUTE_ROWS as usize), 1];
        let kernel = &self.kernels.route_rows;
        kernel.launch(&self.context, blocks, 32 * abi::ROUTE_ROWS, &route)?;
        self.bring_together(rows, &group)
    }

    fn scale_routes(
        &mut self,
        scales: &Weight,
        routing: &Routing,
        routes: &mut Tensor,
    ) -> Result<()> {
        let (rows, top_k) = (self.rows(), routing.top_k);
        let parameters = abi::ScaleRoutes {
            scales: scales.vector(routing.experts),
            routes: routes.to(rows, 2 * top_k, "scale_routes"),
            rows: rows as u32,
            top_k: top_k as u32,
        };
        let blocks = [(rows * top_k).div_ceil(abi::LAYER_THREADS as usize), 1];
        self.kernels.scale_routes.launch(&self.context, blocks, abi::LAYER_THREADS, &parameters)
    }

    fn weigh_inputs(&mut self, routes: &mut Tensor, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), x.width);
        let parameters = abi::WeighInputs {
            routes: routes.to(rows, 2, "weigh_inputs"),
            x: x.at(rows, width, "weigh_inputs"),
            out: out.to(rows, width, "weigh_inputs"),
            width: width as u32,
            unused: 0,
        };
        let kernel = &self.kernels.weigh_inputs;
        kernel.launch(&self.context, [rows, 1], abi::LAYER_THREADS, &parameters)
    }

    fn experts_act(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        act: Activation,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let product = ExpertProduct { weight, bias, act: Some(act), routes, x };
        self.multiply_experts(&product, out, None)
    }

    fn experts(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let product = ExpertProduct { weight, bias, act: None, routes, x };
        self.multiply_experts(&product, out, None)
    }

    fn experts_sum(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        routes: &Tensor,
        x: &Tensor,
        parts: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        let product = ExpertProduct { weight, bias, act: None, routes, x };
        let y = self.sum_share(&product, parts, out)?;
        self.join_sums(weight, rows, width, y)
    }

    fn combine(
        &mut self,
        weight: &Weight,
        routes: &Tensor,
        parts: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        let y = self.combine_share(routes, parts, out)?;
        self.join_sums(weight, rows, width, y)
    }

    fn experts_sum_add_norm(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        routes: &Tensor,
        x: &Tensor,
        parts: &mut Tensor,
        mut seam: Seam<'_, Weight, Tensor>,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), seam.delta.width);
        let product = ExpertProduct { weight, bias, act: None, routes, x };
        let Some(blocks) = self.blocks_of_joined_norm(weight, seam.norm, rows, width) else {
            if self.sum_to_residual(&product, &mut seam)? {
                return Ok(());
            }
            self.experts_sum(weight, bias, routes, x, parts, seam.delta)?;
            return self.add_norm(seam.norm, seam.delta, seam.residual, seam.normed);
        };
        self.sum_share(&product, parts, seam.delta)?;
        self.sum_add_norm(&weight.name, blocks, seam)
    }

    fn add_gated(
        &mut self,
        gate: &Weight,
        x: &Tensor,
        delta: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        let y = out.to(rows, width, "add_gated");
        let parameters = abi::AddGated {
            gate: gate.vector(width),
            x: x.at(rows, width, "add_gated"),
            delta: delta.at(rows, width, "add_gated"),
            out: y,
            width: width as u32,
        };
        self.kernels.add_gated.launch(&self.context, [rows, 1], 256, &parameters)?;
        self.join_sums(gate, rows, width, y)
    }
}

impl Cuda {
    /// `experts_sum` of what this rank has of the experts; where it lies.
    fn sum_share(
        &mut self,
        product: &ExpertProduct<'_>,
        parts: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<DevicePtr> {
        let (rows, width) = (self.rows(), out.width);
        let small = self.as_small(product);
        if self.takes_small(&small) {
            let y = out.to(rows, width, "experts_sum");
            self.multiply_small_of(product, &small, Goes::To(y))?;
            return Ok(y);
        }
        if !experts_few::sums(rows, width) || !self.takes_few_choices(product) {
            self.multiply_experts(product, parts, None)?;
            return self.combine_share(product.routes, parts, out);
        }
        let sum = out.to(rows, width, "experts_sum");
        self.multiply_experts(product, parts, Some(sum))?;
        Ok(sum)
    }

    /// The sum of each row's choices onto the residual, by the product itself, and its norm left to
    /// the product that reads it. False: not of these.
    fn sum_to_residual(
        &mut self,
        product: &ExpertProduct<'_>,
        seam: &mut Seam<'_, Weight, Tensor>,
    ) -> Result<bool> {
        const OP: &str = "experts_sum_add_norm";
        let (rows, width) = (self.rows(), seam.residual.width);
        let small = self.as_small(product);
        let takes = is_rms(seam.norm)
            && gemm_small_m::norms(rows, width)
            && width.is_multiple_of(8)
            && product.weight.join == Join::None
            && self.takes_small(&small)
            // Only a reader that makes codes itself takes the place of a norm that makes them.
            && (seam.normed.rounded.is_none()
                || seam.next.is_some_and(|next| self.norms_row(next.first)));
        if !takes {
            return Ok(false);
        }

        let residual = seam.residual.to(rows, width, OP);
        let out = seam.normed.to(rows, width, OP);
        self.multiply_small_of(product, &small, Goes::Onto(residual))?;
        self.leave_row(width, residual, rms(seam.norm, width, out));
        Ok(true)
    }

    /// As experts_small.rs knows it.
    fn as_small<'a>(&self, product: &ExpertProduct<'a>) -> SmallExperts<'a> {
        let ExpertProduct { weight, bias, act, routes, .. } = *product;
        let bias = bias.map_or(DevicePtr::NULL, |bias| bias.vector(weight.outputs));
        SmallExperts { weight, bias, act, of_row: routes.width / 2, rows: self.rows() }
    }

    fn multiply_small_of(
        &mut self,
        product: &ExpertProduct<'_>,
        small: &SmallExperts<'_>,
        to: Goes,
    ) -> Result<()> {
        let ExpertProduct { routes, x, .. } = *product;
        let routes = routes.at(small.rows, routes.width, "experts");
        let x = x.at(small.x_rows(), product.weight.inputs, "experts");
        self.multiply_small(small, x, routes, to)
    }

    /// Choices by expert, for the kernels of tiles.
    fn bring_together(&self, rows: usize, group: &abi::GroupRows) -> Result<()> {
        let blocks = [usize::from(rows > 0), 1];
        self.kernels.group_rows.launch(&self.context, blocks, abi::MAX_EXPERTS, group)
    }

    /// `combine` of what this rank has of the experts; where it lies.
    fn combine_share(
        &self,
        routes: &Tensor,
        parts: &Tensor,
        out: &mut Tensor,
    ) -> Result<DevicePtr> {
        let (rows, top_k, width) = (self.rows(), routes.width / 2, out.width);
        let y = out.to(rows, width, "combine");
        let parameters = abi::CombineExperts {
            routes: routes.at(rows, routes.width, "combine"),
            parts: parts.at(rows * top_k, width, "combine"),
            out: y,
            top_k: top_k as u32,
            width: width as u32,
        };
        let blocks = [rows, columns(width)];
        self.kernels.combine_experts.launch(&self.context, blocks, ROW_THREADS, &parameters)?;
        Ok(y)
    }

    /// Whether a product goes to the kernels for few choices of each expert.
    fn takes_few_choices(&self, product: &ExpertProduct<'_>) -> bool {
        let experts = matches!(product.weight.kind, WeightKind::Experts { .. });
        experts && self.few_choices(product.weight, self.rows())
    }

    /// `experts_act`, `experts` and, with the address of a sum, `experts_sum`. The only activation
    /// without a gate is relu squared.
    fn multiply_experts(
        &mut self,
        product: &ExpertProduct<'_>,
        out: &mut Tensor,
        sum: Option<DevicePtr>,
    ) -> Result<()> {
        let ExpertProduct { weight, bias, act, routes, x } = *product;
        let WeightKind::Experts { count, gated } = weight.kind else {
            return Err(internal!("{} was not loaded for experts", weight.name));
        };
        assert!(gated == act.is_some_and(Activation::is_gated), "{}: gate and up", weight.name);
        if act.is_some_and(|act| !gated && act != Activation::ReluSquared) {
            return Err(internal!("{}: {act:?} without a gate", weight.name));
        }
        let small = self.as_small(product);
        if act.is_some() && self.takes_small(&small) {
            let width = weight.outputs / count / if gated { 2 } else { 1 };
            let y = out.to(small.rows * small.of_row, width, "experts");
            return self.multiply_small_of(product, &small, Goes::To(y));
        }
        if let Some(group) = self.ungrouped.take() {
            self.bring_together(small.rows, &group)?;
        }

        let (rows, top_k) = (self.rows(), routes.width / 2);
        let (x_rows, choices_of_row) =
            if act.is_some() { (rows, top_k) } else { (rows * top_k, 1) };
        let (choices, outputs) = (rows * top_k, weight.outputs / count);
        let bias = bias.map_or(DevicePtr::NULL, |bias| bias.vector(weight.outputs));
        let width = if gated { outputs / 2 } else { outputs };

        let layout = Layout::new(routes.rows, top_k, count);
        let base = routes.at(rows, routes.width, "experts");
        let at = |offset: usize| base.offset_bytes(offset);

        let tile = tile_rows(choices, count);
        let choices_of = Choices {
            order: at(layout.order),
            tiles: at(layout.tiles),
            tile_count: at(layout.tile_count),
            most_tiles: most_tiles(choices, count, tile),
            tile_rows: tile,
            experts: count,
            top_k: choices_of_row,
        };
        let x = x.at(x_rows, weight.inputs, "experts");
        let out = out.to(choices, width, "experts");
        if self.takes_few_choices(product) {
            let choosing =
                Choosing { routes: base, tickets: at(layout.tickets), of_row: top_k, rows };
            let few = FewProduct { weight, bias, act, x_rows, x, out, sum };
            return self.multiply_few(&few, &choices_of, &choosing);
        }

        if let Held::Coded(coded) = &weight.held {
            let end = match act {
                Some(act) if gated => End::Gated(act.into()),
                Some(act) => End::Act(act.into()),
                None => End::Act(abi::Activation::None),
            };
            return self.coded_experts(x_rows, coded, bias, end, &choices_of, x, out);
        }
        self.multiply_plain(product, &choices_of, x_rows, x, out)
    }

    /// Weights that are not codes, in tiles of many choices, or one by one; x has so many rows.
    fn multiply_plain(
        &mut self,
        product: &ExpertProduct<'_>,
        choices: &Choices,
        x_rows: usize,
        x: DevicePtr,
        out: DevicePtr,
    ) -> Result<()> {
        let ExpertProduct { weight, bias, act, .. } = *product;
        let gated = act.is_some_and(Activation::is_gated);
        let outputs = weight.outputs / choices.experts;
        let width = if gated { outputs / 2 } else { outputs };
        let x = self.rounded_values(x_rows, weight.inputs, weight.rounding, x)?;
        let tiling = tiling(&self.kernels, self.dtype, weight.inputs, choices.tile_rows, gated);

        tiling.kernel.launch_shared(
            &self.context,
            [width.div_ceil(tiling.columns), choices.most_tiles],
            tiling.threads,
            tiling.shared,
            &MultiplyExperts {
                x,
                w: weight.matrix(),
                bias: bias.map_or(DevicePtr::NULL, |bias| bias.vector(weight.outputs)),
                out,
                order: choices.order,
                tiles: choices.tiles,
                tile_count: choices.tile_count,
                top_k: choices.top_k as u32,
                outputs: outputs as u32,
                inputs: weight.inputs as u32,
                kind: act.map_or(abi::Activation::None, abi::Activation::from),
            },
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
            assert_eq!(l.tile_count, l.tiles + narrow * size_of::<ExpertTile>());
            assert!(l.tickets >= l.tile_count + 4);
            assert_eq!(l.bytes - l.tickets, 4 * (abi::FEW_TICKETS as usize + 1));
        }
    }
}
