//! The slots: which running sequence has which, in which order they were admitted. Used by the
//! scheduler only; the device keeps a row per slot, under the same number.

use std::ops::{Index, IndexMut};

use super::sequence::Sequence;
use crate::ids::{RequestId, SlotId};

#[derive(Debug)]
pub(super) struct Slots {
    /// A sequence each, or free.
    slots: Vec<Option<Box<Sequence>>>,
    free: Vec<SlotId>,
    /// The others, in order of admission.
    running: Vec<SlotId>,
}

impl Slots {
    pub(super) fn new(slots: usize) -> Slots {
        Slots {
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots as u32).rev().map(SlotId).collect(),
            running: Vec::with_capacity(slots),
        }
    }

    pub(super) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Slots of running sequences, in order of admission.
    pub(super) fn running(&self) -> &[SlotId] {
        &self.running
    }

    /// The slot of a running sequence.
    pub(super) fn find(&self, id: RequestId) -> Option<SlotId> {
        self.running.iter().copied().find(|&slot| self[slot].id == id)
    }

    /// The sequence that has had `slot` since this generation, if it still has.
    pub(super) fn get(&mut self, slot: SlotId, generation: u64) -> Option<&mut Sequence> {
        self.slots[slot.index()].as_deref_mut().filter(|sequence| sequence.generation == generation)
    }

    /// Give a sequence a slot. There must be a free one.
    pub(super) fn assign(&mut self, sequence: Box<Sequence>) -> SlotId {
        let Some(slot) = self.free.pop() else { panic!("a sequence is admitted, no slot is free") };
        self.slots[slot.index()] = Some(sequence);
        self.running.push(slot);
        slot
    }

    /// Take the sequence out of its slot, which is free from now on.
    pub(super) fn release(&mut self, slot: SlotId) -> Box<Sequence> {
        let Some(sequence) = self.slots[slot.index()].take() else {
            panic!("slot {slot} is released and has no sequence")
        };
        self.running.retain(|&running| running != slot);
        self.free.push(slot);
        sequence
    }
}

impl Index<SlotId> for Slots {
    type Output = Sequence;

    fn index(&self, slot: SlotId) -> &Sequence {
        match &self.slots[slot.index()] {
            Some(sequence) => sequence,
            None => panic!("slot {slot} has no sequence"),
        }
    }
}

impl IndexMut<SlotId> for Slots {
    fn index_mut(&mut self, slot: SlotId) -> &mut Sequence {
        match &mut self.slots[slot.index()] {
            Some(sequence) => sequence,
            None => panic!("slot {slot} has no sequence"),
        }
    }
}
