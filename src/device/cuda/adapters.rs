//! Low-rank adapters on the GPU: their slots behind weights and tables, and the two launches around
//! a product. The linears and `logits` call them; they know no sequence: which adapter slot a row
//! uses, the kernels read from what the step's first kernel wrote.

use super::abi;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::End;
use super::low_rank::{splits, AdapterMatrices, Stage, TableAdapterMatrices};
use super::tensor::Input;
use super::weights::Weight;
use super::{Cuda, ROW_THREADS};
use crate::device::{AdapterCapacity, AdapterOps, AdapterPart, TablePart};
use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::internal;

const WINDOW: usize = abi::ADAPTER_WINDOW as usize;
const TILE_ROWS: usize = abi::ADAPTER_TILE_ROWS as usize;
/// Blocks that share a window's tiles, at most.
const MOST_TILES: usize = 8;

impl AdapterOps for Cuda {
    fn adapt(
        &mut self,
        weight: &mut Weight,
        parts: &[usize],
        capacity: AdapterCapacity,
    ) -> Result<()> {
        let (inputs, outputs) = (weight.inputs, weight.outputs);
        let context = &self.context;
        let slots = AdapterMatrices::new(context, inputs, outputs, parts, capacity, self.dtype)?;
        weight.adapters = Some(slots);
        self.adapters.width = self.adapters.width.max(parts.len() * capacity.rank);
        self.make_stage()?;
        let context = self.context.clone();
        self.adapters.reserve(&context, self.adapters.step_tokens)
    }

    fn adapt_table(&mut self, table: &mut Weight, capacity: AdapterCapacity) -> Result<()> {
        let (rows, width) = (table.outputs, table.inputs);
        let slots = TableAdapterMatrices::new(&self.context, rows, width, capacity, self.dtype)?;
        table.table_adapters = Some(slots);
        self.make_stage()
    }

    fn install(
        &mut self,
        weight: &mut Weight,
        slot: AdapterSlotId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        self.context.bind()?;
        match (&weight.adapters, &mut self.adapters.stage) {
            (Some(slots), Some(stage)) => slots.install(stage, self.dtype, slot, parts),
            _ => Err(internal!("{} has no room for adapters", weight.name)),
        }
    }

    fn install_table(
        &mut self,
        table: &mut Weight,
        slot: AdapterSlotId,
        part: Option<TablePart<'_>>,
    ) -> Result<()> {
        self.context.bind()?;
        match (&table.table_adapters, &mut self.adapters.stage) {
            (Some(slots), Some(stage)) => slots.install(stage, self.dtype, slot, part),
            _ => Err(internal!("{} has no room for adapters", table.name)),
        }
    }
}

impl Cuda {
    fn make_stage(&mut self) -> Result<()> {
        if self.adapters.stage.is_none() {
            self.adapters.stage = Some(Stage::new(&self.context)?);
        }
        Ok(())
    }

    /// y = end(x W^T + what the rows' adapters give + bias). Addresses as in [`Cuda::product`].
    pub(super) fn adapted_product(
        &mut self,
        rows: usize,
        weight: &Weight,
        bias: DevicePtr,
        end: End,
        x: Input,
        y: DevicePtr,
    ) -> Result<()> {
        let Some(slots) = weight.adapters.as_ref().filter(|_| self.slots.batch().adapters) else {
            return self.product(rows, weight, bias, end, x, y);
        };
        let outputs = weight.outputs;
        // Before the product, whose weights then come while these sums are made.
        self.shrink(rows, slots, end, x.x)?;
        if end == End::Logits {
            self.product(rows, weight, bias, end, x, y)?;
            return self.expand(rows, slots, end, y);
        }
        let sums = self.place_of_sums(rows, outputs, end, y)?;
        let plain = End::Act(abi::Activation::None);
        self.product(rows, weight, DevicePtr::NULL, plain, x, sums)?;
        self.expand(rows, slots, end, sums)?;
        self.finish(rows, outputs, bias, end, sums, y)
    }

    /// Blocks across the rows, and how many of them share a window.
    fn tiles(rows: usize, slots: &AdapterMatrices) -> (usize, u32) {
        let window = rows.min(WINDOW);
        // Each adapter slot of a window ends with a tile that is not full.
        let slots = slots.capacity.slots.min(window);
        let tiles = ((window + slots * (TILE_ROWS - 1)) / TILE_ROWS).clamp(1, MOST_TILES);
        (rows.div_ceil(WINDOW) * tiles, tiles as u32)
    }

    fn low(&self) -> Result<DevicePtr> {
        let low = self.adapters.low.as_ref().ok_or_else(|| internal!("a step before reserve"))?;
        Ok(low.address)
    }

    /// Token rows of logits rows; null: the rows are token rows.
    fn row_of(&self, end: End) -> Result<DevicePtr> {
        match end {
            End::Logits => Ok(self.reserved()?.steps.device.gather_row.address),
            End::Act(_) | End::Gated(_) => Ok(DevicePtr::NULL),
        }
    }

    /// low = A x, of each row's adapter slot.
    fn shrink(&self, rows: usize, slots: &AdapterMatrices, end: End, x: DevicePtr) -> Result<()> {
        let device = &self.reserved()?.steps.device;
        let (count, rank) = (slots.parts.len(), slots.capacity.rank);
        let (across, tiles) = Cuda::tiles(rows, slots);
        self.kernels.adapter_shrink.launch(
            &self.context,
            [across, splits(rows) * (count * rank).div_ceil(abi::SHRINK_ROWS as usize)],
            32 * abi::SHRINK_WARPS,
            &abi::AdapterShrink {
                x,
                adapter_slot_of: device.adapter_slot_of.address,
                row_of: self.row_of(end)?,
                a: slots.memory.address,
                ranks: slots.ranks(),
                low: self.low()?,
                rows: rows as u32,
                tiles,
                inputs: slots.inputs as u32,
                parts: count as u32,
                max_rank: rank as u32,
                splits: splits(rows) as u32,
            },
        )
    }

    /// y += B low, of each row's adapter slot.
    fn expand(&self, rows: usize, slots: &AdapterMatrices, end: End, y: DevicePtr) -> Result<()> {
        let device = &self.reserved()?.steps.device;
        let (count, rank, outputs) = (slots.parts.len(), slots.capacity.rank, slots.outputs);
        let end0 = slots.parts[0];
        let end1 = end0 + slots.parts.get(1).copied().unwrap_or(outputs - end0);
        let wide = [outputs, end0, end1].iter().all(|end| end.is_multiple_of(8));
        let per_block = abi::EXPAND_COLUMNS as usize * if wide { 8 } else { 1 };
        let (across, tiles) = Cuda::tiles(rows, slots);

        let kernel = match end {
            End::Logits => &self.kernels.adapter_expand_logits,
            End::Act(_) | End::Gated(_) => &self.kernels.adapter_expand,
        };

        kernel.launch(
            &self.context,
            [across, outputs.div_ceil(per_block)],
            abi::EXPAND_THREADS,
            &abi::AdapterExpand {
                y,
                adapter_slot_of: device.adapter_slot_of.address,
                row_of: self.row_of(end)?,
                low: self.low()?,
                b: slots.b(),
                ranks: slots.ranks(),
                rows: rows as u32,
                tiles,
                outputs: outputs as u32,
                parts: count as u32,
                max_rank: rank as u32,
                splits: splits(rows) as u32,
                end0: end0 as u32,
                end1: end1 as u32,
            },
        )
    }

    /// `embed` in a step in which some row has an adapter.
    pub(super) fn look_up_adapted(
        &self,
        rows: usize,
        table: &Weight,
        slots: &TableAdapterMatrices,
        first: u32,
        scale: f32,
        out: DevicePtr,
    ) -> Result<()> {
        let device = &self.reserved()?.steps.device;
        let a = slots.memory.address;
        let [b, ranks] = slots.offsets().map(|offset| a.offset_bytes(offset));

        self.kernels.embed_adapted.launch(
            &self.context,
            [rows, 1],
            ROW_THREADS,
            &abi::EmbedAdapted {
                token: device.token.address,
                adapter_slot_of: device.adapter_slot_of.address,
                table: table.matrix(),
                a,
                b,
                ranks,
                out,
                table_rows: table.outputs as u32,
                width: table.inputs as u32,
                max_rank: slots.capacity.rank as u32,
                first,
                scale,
                unused: 0,
            },
        )
    }
}
