//! Adapters on the engine thread: into adapter slots as plans say, and what becomes of the
//! sequences that waited for one. Called by the loop in `step`.

use std::collections::BTreeMap;

use super::state::StepLoop;
use crate::error::Result;
use crate::ids::AdapterId;
use crate::model::Adapter;
use crate::plan::{SlotChange, StepPlan};
use crate::scheduler::SchedulerStats;

impl StepLoop {
    /// Fill the adapter slots that change hands with this step.
    pub(super) fn install_adapters(&mut self, plan: &StepPlan) -> Result<()> {
        for change in &plan.changes {
            if let SlotChange::Adapter { adapter_slot, adapter } = change {
                self.runner.install(*adapter_slot, &self.adapters.get(*adapter)?)?;
            }
        }
        Ok(())
    }

    /// An adapter was read, or cannot be: those who waited for it go on, or fail.
    pub(super) fn take_adapter(&mut self, id: AdapterId, outcome: Result<Adapter>) -> Result<()> {
        let (adapter, error) = match outcome {
            Ok(adapter) => (Some(adapter), None),
            Err(error) => (None, Some(error)),
        };
        for new in self.adapters.arrived(id, adapter)? {
            let id = new.id;
            let added = match &error {
                Some(error) => Err(error.clone()),
                None => self.scheduler.add(new),
            };
            // Not there any more if another sequence of the request failed before it.
            if let (Err(error), Some(active)) = (added, self.active.get(&id)) {
                self.fail(active.ids, error);
            }
        }

        let active = &self.active;
        self.adapters.trim(|id| active.values().any(|sequence| sequence.adapter == id));
        Ok(())
    }

    /// Where things stand, when no step is going to say so.
    pub(super) fn report_load(&mut self) {
        self.meter.load(&self.stats());
        self.report_adapters();
    }

    /// Which adapters sequences run with, and which they wait for or with.
    pub(super) fn report_adapters(&mut self) {
        if !self.adapters.any() {
            return;
        }
        let mut waiting: BTreeMap<AdapterId, usize> = BTreeMap::new();
        for sequence in self.active.values().filter(|s| s.adapter != AdapterId(0)) {
            *waiting.entry(sequence.adapter).or_default() += 1;
        }
        let mut running = Vec::new();
        for (adapter, sequences) in self.scheduler.running_adapters() {
            running.push(adapter);
            if let Some(unfinished) = waiting.get_mut(&adapter) {
                *unfinished = unfinished.saturating_sub(sequences);
            }
        }
        running.sort_unstable();
        let waiting = waiting.into_iter().filter(|(_, sequences)| *sequences > 0);
        self.meter.adapters(running, waiting.map(|(adapter, _)| adapter).collect());
    }

    /// The scheduler's, where who waits for an adapter waits too.
    pub(super) fn stats(&self) -> SchedulerStats {
        let stats = self.scheduler.stats();
        SchedulerStats { waiting: stats.waiting + self.adapters.waiting(), ..stats }
    }
}
