//! Adapters on the engine thread: into adapter slots as plans say, and what becomes of the
//! sequences that waited for one. Called by the loop in `step`.

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

    /// The scheduler's, where who waits for an adapter waits too.
    pub(super) fn stats(&self) -> SchedulerStats {
        let stats = self.scheduler.stats();
        SchedulerStats { waiting: stats.waiting + self.adapters.waiting(), ..stats }
    }
}
