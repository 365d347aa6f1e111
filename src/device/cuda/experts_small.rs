//! Experts that a row or two chose, on cards with bulk copies: which products, and which routers,
//! go to kernels/experts_small.cu and coded_experts_small.cu, and the launches. `experts` asks it;
//! it knows no weight's name.

use super::abi::{self, CodeKind, CodedSmall, RouteSmall, SmallGemm};
use super::coded::Coded;
use super::coded_kernels::small_experts;
use super::coded_row::described;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::{self, End, Goes, NormOfRow};
use super::weights::{Held, Weight};
use super::Cuda;
use crate::device::{Activation, WeightKind};
use crate::error::Result;
use crate::internal;

/// Rows of a step up to which each choice reads its weights for itself.
const ROWS: usize = 2;
const EIGHTS: usize = abi::SMALL_M_EIGHTS_TILE as usize;

/// One product of a mixture.
#[derive(Clone, Copy)]
pub(super) struct SmallExperts<'a> {
    pub weight: &'a Weight,
    /// f32 `[experts, outputs]`, or null.
    pub bias: DevicePtr,
    /// None: each row's choices are added up.
    pub act: Option<Activation>,
    /// Choices of a row, and rows of the step.
    pub of_row: usize,
    pub rows: usize,
}

impl SmallExperts<'_> {
    /// Rows of x: the step's, or one for each choice.
    pub(super) fn x_rows(&self) -> usize {
        if self.act.is_some() {
            self.rows
        } else {
            self.rows * self.of_row
        }
    }

    fn gated(&self) -> bool {
        matches!(self.weight.kind, WeightKind::Experts { gated: true, .. })
    }

    fn end(&self) -> End {
        match self.act {
            Some(act) if self.gated() => End::Gated(act.into()),
            Some(act) => End::Act(act.into()),
            None => End::Act(abi::Activation::None),
        }
    }
}

impl Cuda {
    /// Whether the kernels of this file make this product.
    pub(super) fn takes_small(&self, product: &SmallExperts<'_>) -> bool {
        let SmallExperts { weight, of_row, rows, .. } = *product;
        (1..=ROWS).contains(&rows)
            && rows * of_row <= abi::SMALL_CHOICES as usize
            && matches!(weight.kind, WeightKind::Experts { .. })
            && gemm_small_m::takes(&self.context, &self.kernels, self.dtype, rows, weight.inputs)
            && match &weight.held {
                Held::Plain(_) => true,
                Held::Coded(coded) => self.holds_choices(product.x_rows(), coded),
            }
    }

    /// Whether a block has room for so many rows of x beside codes.
    fn holds_choices(&self, x_rows: usize, coded: &Coded) -> bool {
        let kind = coded.matrix.kind;
        // Of INT4 alone there are sums of each row's groups, for so many rows.
        let rows = if kind == CodeKind::Int4 { abi::CODED_SMALL_ROWS as usize } else { x_rows };
        kind != CodeKind::Table
            && x_rows <= rows
            && self.x_bytes(x_rows, coded, self.dtype.bytes()) <= abi::CODED_SMALL_X_BYTES as usize
    }

    /// A product that [`Cuda::takes_small`], of x, to where it goes; `routes` as in `RouteRows`. No
    /// launch but rounding stands between the first product and the second one.
    pub(super) fn multiply_small(
        &mut self,
        product: &SmallExperts<'_>,
        x: DevicePtr,
        routes: DevicePtr,
        to: Goes,
    ) -> Result<()> {
        let WeightKind::Experts { count, .. } = product.weight.kind else {
            return Err(internal!("{} was not loaded for experts", product.weight.name));
        };
        let outputs = product.weight.outputs / count;
        match &product.weight.held {
            Held::Coded(coded) => self.multiply_codes(product, coded, outputs, x, routes, to),
            Held::Plain(_) => self.multiply_matrices(product, outputs, x, routes, to),
        }
    }

    /// Blocks of a product, by tiles of so many rows of W; gated ones have half of them as outputs.
    fn blocks_of(&self, product: &SmallExperts<'_>, outputs: usize, tile: usize) -> [usize; 2] {
        let halves = if product.gated() { 2 } else { 1 };
        let slices = (outputs / halves).div_ceil(tile / halves);
        let all = slices * product.rows * if product.act.is_some() { product.of_row } else { 1 };
        [all.min(gemm_small_m::most_blocks(&self.context)), 1]
    }

    fn multiply_codes(
        &mut self,
        product: &SmallExperts<'_>,
        coded: &Coded,
        outputs: usize,
        x: DevicePtr,
        routes: DevicePtr,
        to: Goes,
    ) -> Result<()> {
        let (context, rows) = (self.context.clone(), product.x_rows());
        self.coded.reserve(&context, self.dtype, rows.div_ceil(self.coded.top_k.max(1)))?;
        let inputs = self.rounded(rows, coded, false, x.into())?;

        let (y, ..) = to.told();
        let of_all = self.describe(rows, coded, product.bias, product.end(), &inputs, y)?;
        let of_one = abi::CodedProduct { outputs: outputs as u32, ..of_all };
        let choices = product.of_row as u32;
        let parameters = CodedSmall { routes, choices, ..described(of_one, to, None) };

        let kernel = small_experts(&self.kernels, coded.matrix.kind, product.act.is_some());
        let kernel = kernel.ok_or_else(|| internal!("experts of a table"))?;
        let blocks = self.blocks_of(product, outputs, abi::SMALL_M_TILE as usize);
        let shared = abi::CODED_SMALL_SHARED_BYTES as usize;
        kernel.launch_shared(&context, blocks, abi::SMALL_M_THREADS, shared, &parameters)
    }

    fn multiply_matrices(
        &mut self,
        product: &SmallExperts<'_>,
        outputs: usize,
        x: DevicePtr,
        routes: DevicePtr,
        to: Goes,
    ) -> Result<()> {
        let SmallExperts { weight, bias, of_row, act, .. } = *product;
        let x = self.rounded_values(product.x_rows(), weight.inputs, weight.rounding, x)?;
        // Where tiles of sixteen would leave blocks idle.
        let most = gemm_small_m::most_blocks(&self.context);
        let eights = act.is_none() && outputs.div_ceil(EIGHTS) <= most;
        let kernel = match act {
            Some(_) if product.gated() => &self.kernels.experts_small_up_gated,
            Some(_) => &self.kernels.experts_small_up,
            None if eights => &self.kernels.experts_small_down_eights,
            None => &self.kernels.experts_small_down,
        };

        let (y, residual, push) = to.told();
        let (_, kind) = product.end().told();
        let parameters = SmallGemm {
            x,
            w: weight.matrix(),
            bias,
            y,
            residual,
            outputs: outputs as u32,
            inputs: weight.inputs as u32,
            rows: product.x_rows() as u32,
            kind,
            push,
            routes,
            choices: of_row as u32,
            ..gemm_small_m::plain()
        };

        let tile = if eights { EIGHTS } else { abi::SMALL_M_TILE as usize };
        let blocks = self.blocks_of(product, outputs, tile);
        let shared = abi::SMALL_M_SHARED_BYTES as usize;
        kernel.launch_shared(&self.context, blocks, abi::SMALL_M_THREADS, shared, &parameters)
    }

    /// Whether one launch makes a router's product of so many rows and chooses.
    pub(super) fn routes_small(&self, rows: usize, gate: &Weight) -> bool {
        (1..=ROWS).contains(&rows)
            && matches!(gate.held, Held::Plain(_))
            && gate.rounding.is_none()
            && gemm_small_m::takes(&self.context, &self.kernels, self.dtype, rows, gate.inputs)
    }

    /// The router's product of x, or of its norm, and the choice. `ticket` counts blocks.
    pub(super) fn route_small(
        &self,
        gate: &Weight,
        x: DevicePtr,
        norm: Option<NormOfRow>,
        ticket: DevicePtr,
        route: abi::RouteRows,
    ) -> Result<()> {
        let (norm_weight, normed, eps, norm_kind) = gemm_small_m::told(norm);
        let product = SmallGemm {
            x,
            w: gate.matrix(),
            y: route.logits,
            norm_weight,
            normed,
            eps,
            norm_kind,
            outputs: gate.outputs as u32,
            inputs: gate.inputs as u32,
            rows: route.rows,
            stages: gemm_small_m::stages(norm.map_or(0, |_| gate.inputs)) as u32,
            ..gemm_small_m::plain()
        };

        let blocks = [gate.outputs.div_ceil(EIGHTS), 1];
        let parameters = RouteSmall { product, route, ticket };
        let shared = abi::SMALL_M_SHARED_BYTES as usize;
        let kernel = &self.kernels.route_small;
        kernel.launch_shared(&self.context, blocks, abi::SMALL_M_THREADS, shared, &parameters)
    }
}
