//! Which adapter lies in which bank of the device, and for whom the others make room: least
//! recently used first, never one that a sequence runs with. Used by the scheduler only, which
//! tells the device with [`SlotChange::Adapter`]; it knows no weights.

use crate::ids::{AdapterId, BankId};
use crate::plan::SlotChange;

#[derive(Debug, Clone, Default)]
struct Bank {
    /// 0: empty.
    adapter: AdapterId,
    /// Sequences that run with it.
    running: usize,
    /// Number of the admission that used it last.
    used: u64,
}

#[derive(Debug)]
pub(super) struct Banks {
    banks: Vec<Bank>,
    admissions: u64,
}

impl Banks {
    pub(super) fn new(banks: usize) -> Banks {
        Banks { banks: vec![Bank::default(); banks], admissions: 0 }
    }

    /// Whether a sequence with this adapter could be admitted now.
    pub(super) fn has_room(&self, adapter: AdapterId) -> bool {
        adapter == AdapterId(0) || self.find(adapter).is_some()
    }

    /// One more sequence runs with it. The change to announce, if the adapter takes a bank over.
    pub(super) fn enter(&mut self, adapter: AdapterId) -> Option<SlotChange> {
        if adapter == AdapterId(0) {
            return None;
        }
        let Some(at) = self.find(adapter) else { panic!("adapter {adapter} has no bank") };
        self.admissions += 1;
        let bank = &mut self.banks[at];
        bank.running += 1;
        bank.used = self.admissions;
        if bank.adapter == adapter {
            return None;
        }
        bank.adapter = adapter;
        Some(SlotChange::Adapter { bank: BankId(at as u16), adapter })
    }

    /// A sequence with it left its slot.
    pub(super) fn leave(&mut self, adapter: AdapterId) {
        if adapter == AdapterId(0) {
            return;
        }
        match self.banks.iter_mut().find(|bank| bank.adapter == adapter && bank.running > 0) {
            Some(bank) => bank.running -= 1,
            None => panic!("nobody runs with adapter {adapter}"),
        }
    }

    /// Its bank, else the one that was idle for longest.
    fn find(&self, adapter: AdapterId) -> Option<usize> {
        let held = self.banks.iter().position(|bank| bank.adapter == adapter);
        let idle = self.banks.iter().enumerate().filter(|(_, bank)| bank.running == 0);
        held.or_else(|| idle.min_by_key(|(_, bank)| bank.used).map(|(at, _)| at))
    }
}
