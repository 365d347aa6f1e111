//! Which adapter lies in which adapter slot of the device, and which one is replaced: the least
//! recently used, never one that a sequence runs with. Used by the scheduler only, which
//! tells the device with [`SlotChange::Adapter`]; it knows no weights.

use crate::ids::{AdapterId, AdapterSlotId};
use crate::plan::SlotChange;

#[derive(Debug, Clone, Default)]
struct AdapterSlot {
    /// 0: empty.
    adapter: AdapterId,
    /// Sequences that run with it.
    running: usize,
    /// Number of the admission that used it last.
    used: u64,
}

#[derive(Debug)]
pub(super) struct AdapterSlots {
    adapter_slots: Vec<AdapterSlot>,
    admissions: u64,
}

impl AdapterSlots {
    pub(super) fn new(adapter_slots: usize) -> AdapterSlots {
        AdapterSlots { adapter_slots: vec![AdapterSlot::default(); adapter_slots], admissions: 0 }
    }

    /// Whether a sequence with this adapter could be admitted now.
    pub(super) fn has_room(&self, adapter: AdapterId) -> bool {
        adapter == AdapterId(0) || self.find(adapter).is_some()
    }

    /// One more sequence runs with it. The change to announce, if the adapter takes an adapter slot
    /// over.
    pub(super) fn enter(&mut self, adapter: AdapterId) -> Option<SlotChange> {
        if adapter == AdapterId(0) {
            return None;
        }
        let Some(at) = self.find(adapter) else { panic!("adapter {adapter} has no adapter slot") };
        self.admissions += 1;
        let adapter_slot = &mut self.adapter_slots[at];
        adapter_slot.running += 1;
        adapter_slot.used = self.admissions;
        if adapter_slot.adapter == adapter {
            return None;
        }
        adapter_slot.adapter = adapter;
        Some(SlotChange::Adapter { adapter_slot: AdapterSlotId(at as u16), adapter })
    }

    /// A sequence with it runs no longer.
    pub(super) fn release(&mut self, adapter: AdapterId) {
        if adapter == AdapterId(0) {
            return;
        }
        let used = |slot: &&mut AdapterSlot| slot.adapter == adapter && slot.running > 0;
        match self.adapter_slots.iter_mut().find(used) {
            Some(adapter_slot) => adapter_slot.running -= 1,
            None => panic!("nobody runs with adapter {adapter}"),
        }
    }

    /// The adapters that sequences run with, and how many run with each.
    pub(super) fn running(&self) -> impl Iterator<Item = (AdapterId, usize)> + '_ {
        let used = self.adapter_slots.iter().filter(|slot| slot.running > 0);
        used.map(|slot| (slot.adapter, slot.running))
    }

    /// Its adapter slot, else the one that was idle for longest.
    fn find(&self, adapter: AdapterId) -> Option<usize> {
        let held = self.adapter_slots.iter().position(|slot| slot.adapter == adapter);
        let slots = self.adapter_slots.iter().enumerate();
        let idle = slots.filter(|(_, slot)| slot.running == 0);
        held.or_else(|| idle.min_by_key(|(_, slot)| slot.used).map(|(at, _)| at))
    }
}
