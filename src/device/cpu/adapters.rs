//! Low-rank adapters on the CPU: their slots behind weights, and A x of a step's rows.

use parking_lot::Mutex;

use super::buffer::Tensor;
use super::low_rank::{Adapters, Delta, TableAdapters};
use super::numbers;
use super::simd::{with_isa, Isa};
use super::weight::Weight;
use super::workers::Workers;
use super::{Cpu, SHARED_FROM_ATTENTION_MACS};
use crate::device::{AdapterCapacity, AdapterOps, AdapterPart, TablePart};
use crate::error::{Error, Result};
use crate::ids::AdapterSlotId;
use crate::internal;

impl AdapterOps for Cpu {
    fn adapt(
        &mut self,
        weight: &mut Weight,
        parts: &[usize],
        capacity: AdapterCapacity,
    ) -> Result<()> {
        weight.adapters = Some(Adapters::new(weight.inputs, parts, capacity));
        Ok(())
    }

    fn adapt_table(&mut self, table: &mut Weight, capacity: AdapterCapacity) -> Result<()> {
        table.table_adapters = Some(TableAdapters::new(table.outputs, table.inputs, capacity));
        Ok(())
    }

    fn install(
        &mut self,
        weight: &mut Weight,
        adapter_slot: AdapterSlotId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        let adapters = weight.adapters.as_mut().ok_or_else(|| no_room(&weight.name))?;
        adapters.install(adapter_slot, parts)
    }

    fn install_table(
        &mut self,
        table: &mut Weight,
        adapter_slot: AdapterSlotId,
        part: Option<TablePart<'_>>,
    ) -> Result<()> {
        let adapters = table.table_adapters.as_mut().ok_or_else(|| no_room(&table.name))?;
        adapters.install(adapter_slot, part)
    }
}

fn no_room(weight: &str) -> Error {
    internal!("{weight} has no room for adapters")
}

/// A x of the rows whose adapter slots are `slots`.
pub(super) fn delta<'a>(
    isa: Isa,
    workers: &Workers,
    adapters: &'a Adapters,
    slots: &'a [Option<AdapterSlotId>],
    x: &Tensor,
) -> Delta<'a> {
    let rank = adapters.capacity.rank;
    let inputs = adapters.inputs;
    let stride = rank * (adapters.starts.len() - 1);
    let mut low = vec![0.0; slots.len() * stride];

    let rows = low.chunks_exact_mut(stride.max(1)).zip(slots).enumerate();
    let todo = Mutex::new(rows.filter_map(|(r, (low, slot))| Some((r, low, (*slot)?))));
    let worth_it = slots.len() * stride * inputs >= SHARED_FROM_ATTENTION_MACS;

    workers.share(worth_it, &|| loop {
        let Some((r, low, slot)) = todo.lock().next() else { return };
        let x = &x.row(r)[..inputs];
        let parts = low.chunks_exact_mut(rank).zip(&adapters.slots[slot.index()]);
        with_isa(
            isa,
            #[inline(always)]
            || {
                for (low, part) in parts {
                    let Some(part) = part else { continue };
                    let rows = part.a.chunks_exact(inputs);
                    low.iter_mut().zip(rows).for_each(|(t, a)| *t = numbers::dot(a, x));
                }
            },
        );
    });
    Delta { adapters, slots, low, stride }
}
