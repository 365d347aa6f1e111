//! Steps that were planned and have no result yet: from whom each of their samples comes. Used by
//! the scheduler only.

use std::collections::VecDeque;

use super::slots::Slots;
use crate::ids::SlotId;
use crate::plan::{Purpose, Sampled, StepPlan, StepResult};

/// For whom a step samples: a slot, and the generation that had it when the step was planned.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedSample {
    pub slot: SlotId,
    pub generation: u64,
}

#[derive(Debug)]
struct Step {
    number: u64,
    /// In the plan's order.
    samples: Vec<PlannedSample>,
    /// It verifies drafts.
    drafts: bool,
}

/// Oldest first.
#[derive(Debug)]
pub(super) struct InFlight {
    steps: VecDeque<Step>,
}

impl InFlight {
    /// For at most `depth` steps.
    pub(super) fn new(depth: usize) -> InFlight {
        InFlight { steps: VecDeque::with_capacity(depth) }
    }

    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Some step verifies drafts.
    pub(super) fn any_drafts(&self) -> bool {
        self.steps.iter().any(|step| step.drafts)
    }

    /// A plan is final.
    pub(super) fn push(&mut self, plan: &StepPlan, slots: &Slots) {
        let samples = plan.sampled().map(|slot| {
            let generation = slots[slot].generation;
            PlannedSample { slot, generation }
        });
        let drafts = plan.logits.iter().any(|row| matches!(row.purpose, Purpose::Verify { .. }));
        let samples = samples.collect();
        self.steps.push_back(Step { number: plan.step, samples, drafts });
    }

    /// The oldest step has a result: its samples, and whose each is.
    ///
    /// # Panics
    /// If the result is another step's, or has other samples than were planned.
    pub(super) fn pop<'a>(
        &mut self,
        result: &'a StepResult,
    ) -> impl Iterator<Item = (PlannedSample, &'a Sampled)> {
        let Some(step) = self.steps.pop_front() else { panic!("no step is in flight") };
        assert_eq!(step.number, result.step, "results come in the order of steps");
        assert_eq!(step.samples.len(), result.samples.len(), "samples of step {}", result.step);
        let number = result.step;
        step.samples.into_iter().zip(&result.samples).inspect(move |(planned, sampled)| {
            assert_eq!(planned.slot, sampled.slot, "samples of step {number} come in row order");
        })
    }
}
