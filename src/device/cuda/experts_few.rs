//! Experts of few choices each: which products go to kernels/experts_few.cu and
//! kernels/coded_experts_few.cu, and the launches. `experts` asks it; it knows no weight's name.

use super::abi::{self, CodedFewExperts, FewExperts};
use super::coded_kernels::{few, WGMMA};
use super::coded_products::Choices;
use super::device_ptr::DevicePtr;
use super::module::Kernels;
use super::weights::{Held, Weight};
use super::Cuda;
use crate::device::{Activation, DType, WeightKind};
use crate::error::Result;
use crate::internal;

/// Rows up to which these kernels are the faster ones where there are others: on an H200 a step of
/// one row is 3 to 6 % shorter with them (gpt-oss-20b, Qwen3-30B-A3B, DeepSeek-V2-Lite), one of 16
/// rows a third longer, one of 64 rows 11 to 42 %. Between 1 and 16 it was not measured.
const ROWS: usize = 2;
/// Rows up to which no item has more than eight choices. Of more only codes are multiplied here,
/// where nothing else does it.
const NARROW_ROWS: usize = 8;
const _: () = assert!(ROWS <= NARROW_ROWS);
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;
const SHARED: usize = abi::FEW_SHARED_BYTES as usize;
const OUTPUTS: usize = abi::FEW_OUTPUTS as usize;

/// What a product of choices reads and writes beside them: addresses, `x_rows` rows of x. `bias`
/// may be null.
pub(super) struct FewProduct<'a> {
    pub weight: &'a Weight,
    pub bias: DevicePtr,
    pub act: Option<Activation>,
    pub x_rows: usize,
    pub x: DevicePtr,
    pub out: DevicePtr,
    /// Where each row's parts are added up.
    pub sum: Option<DevicePtr>,
}

/// Who chose: the step's rows, `of_row` experts each.
pub(super) struct Choosing {
    pub routes: DevicePtr,
    pub tickets: DevicePtr,
    pub of_row: usize,
    pub rows: usize,
}

/// Let the kernels of plain weights have their shared memory. Once, at load.
pub(super) fn allow_shared(k: &Kernels) -> Result<()> {
    k.experts_few_8.allow_shared(SHARED)?;
    k.route_few_8.allow_shared(SHARED)
}

/// Whether sums of so many outputs are made by the kernel that multiplies.
pub(super) fn sums(rows: usize, outputs: usize) -> bool {
    rows <= ROWS && outputs.div_ceil(OUTPUTS) <= abi::FEW_TICKETS as usize
}

impl Cuda {
    /// Whether the kernels of this file multiply what so many rows chose.
    pub(super) fn few_choices(&self, weight: &Weight, rows: usize) -> bool {
        let tensor_cores = self.dtype != DType::F32 && weight.inputs.is_multiple_of(8);
        let few = rows <= ROWS;
        // Codes have no other kernel there.
        let alone = matches!(weight.held, Held::Coded(_)) && self.context.capability != WGMMA;
        tensor_cores && (few || alone)
    }

    /// Whether one launch routes so many rows.
    pub(super) fn routes_few(&self, rows: usize, gate: &Weight) -> bool {
        let plain = matches!(gate.held, Held::Plain(_)) && gate.rounding.is_none();
        self.dtype != DType::F32
            && plain
            && (1..=ROWS).contains(&rows)
            && gate.inputs.is_multiple_of(8)
    }

    /// The router's product of x, and what `route` and `group` say. `ticket` counts blocks.
    pub(super) fn route_few(
        &self,
        gate: &Weight,
        x: DevicePtr,
        ticket: DevicePtr,
        route: abi::RouteRows,
        group: abi::GroupRows,
    ) -> Result<()> {
        let product = FewExperts {
            x,
            w: gate.matrix(),
            bias: DevicePtr::NULL,
            out: DevicePtr::NULL,
            order: DevicePtr::NULL,
            tiles: DevicePtr::NULL,
            tile_count: DevicePtr::NULL,
            routes: DevicePtr::NULL,
            sum: DevicePtr::NULL,
            tickets: ticket,
            rows: route.rows,
            top_k: 1,
            choices: 1,
            outputs: route.experts,
            inputs: gate.inputs as u32,
            gated: 0,
            pieces: 1,
            kind: abi::Activation::None,
        };

        let kernel = &self.kernels.route_few_8;
        let blocks = [(route.experts as usize).div_ceil(OUTPUTS), 1];
        let parameters = abi::RouteFew { product, route, group };
        kernel.launch_shared(&self.context, blocks, abi::FEW_THREADS, SHARED, &parameters)
    }

    /// A product that [`Cuda::few_choices`] takes.
    pub(super) fn multiply_few(
        &mut self,
        product: &FewProduct<'_>,
        choices: &Choices,
        choosing: &Choosing,
    ) -> Result<()> {
        let FewProduct { weight, bias, act, x_rows, x, out, sum } = *product;
        let gated = matches!(weight.kind, WeightKind::Experts { gated: true, .. });
        let outputs = weight.outputs / choices.experts;
        let pieces = choices.tile_rows / abi::FEW_CHOICES as usize;
        let mut few_experts = FewExperts {
            x,
            w: DevicePtr::NULL,
            bias,
            out,
            order: choices.order,
            tiles: choices.tiles,
            tile_count: choices.tile_count,
            routes: choosing.routes,
            sum: sum.unwrap_or(DevicePtr::NULL),
            tickets: choosing.tickets,
            rows: choosing.rows as u32,
            top_k: choices.top_k as u32,
            choices: choosing.of_row as u32,
            outputs: outputs as u32,
            inputs: weight.inputs as u32,
            gated: u32::from(gated),
            pieces: pieces as u32,
            kind: act.map_or(abi::Activation::None, abi::Activation::from),
        };
        let wide = choosing.rows > NARROW_ROWS;
        let items = choices.most_tiles * pieces * outputs.div_ceil(OUTPUTS);
        let most = BLOCKS_PER_MULTIPROCESSOR * self.context.multiprocessors as usize;
        let blocks = [items.min(most), 1];
        let threads = abi::FEW_THREADS;

        if let Held::Coded(coded) = &weight.held {
            let context = self.context.clone();
            self.coded.reserve(&context, self.dtype, x_rows.div_ceil(self.coded.top_k.max(1)))?;
            let inputs = self.rounded(x_rows, coded, false, x.into())?;
            let kernel = few(&self.kernels, coded.matrix.kind, wide);
            let kernel = kernel.ok_or_else(|| internal!("experts of a table"))?;
            few_experts.x = inputs.x;
            let parameters =
                CodedFewExperts { few: few_experts, w: coded.matrix, steps: inputs.steps };
            return kernel.launch_shared(&context, blocks, threads, SHARED, &parameters);
        }
        few_experts.w = weight.matrix();
        few_experts.x = self.rounded_values(x_rows, weight.inputs, weight.rounding, x)?;
        let kernel = &self.kernels.experts_few_8;
        kernel.launch_shared(&self.context, blocks, threads, SHARED, &few_experts)
    }
}
