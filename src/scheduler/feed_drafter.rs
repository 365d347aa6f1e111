//! When a model drafts, and for whom: in front of a step that may have drafts, once all newest
//! tokens are known, it is fed what it lacks of each sequence that is to have some, within a step's
//! budget. A sequence of which it lacks more, as behind a long prompt, has no drafts until it has
//! caught up. Called by the engine, which runs the plans; how the drafter keeps up with a sequence
//! is said in `draft_model`.

use super::draft_model::{KnownSequence, ModelDrafts};
use super::drafts::{Drafter, Speculation};
use super::state::Scheduler;
use crate::ids::SlotId;
use crate::plan::{StepPlan, StepResult};

impl Scheduler {
    /// The steps of the drafting device in front of the next plan, in order; their results are for
    /// [`Scheduler::take_drafts`]. Empty where no model drafts, nobody is to have drafts, or the
    /// newest tokens are not known yet.
    pub fn plan_drafts(&mut self) -> Vec<StepPlan> {
        if self.in_flight.len() > 0 || !self.model_drafts_pay() {
            return Vec::new();
        }
        let wanting = self.wanting_drafts();
        let Some(mut drafts) = self.take_model() else { return Vec::new() };

        let mut plan = drafts.begin();
        let mut budget = self.config.max_num_batched_tokens;
        for (slot, most) in wanting {
            if budget > 0 {
                budget -= self.feed_drafter(&mut drafts, slot, most, budget, &mut plan);
            }
        }
        let plans = drafts.end(plan);
        self.put_model(drafts);
        plans
    }

    /// Take the results of these steps, in order: the next plan has what they say.
    pub fn take_drafts(&mut self, results: &[StepResult]) {
        if let Some(mut drafts) = self.take_model() {
            drafts.hear(results);
            self.put_model(drafts);
        }
    }

    /// A model drafts, for enough sequences that the others may wait for it.
    pub(super) fn model_drafts_pay(&self) -> bool {
        match &self.speculation {
            Some(Speculation { drafter: Drafter::Model(_), .. }) => {
                self.worth_waiting(self.wanting_drafts().len())
            }
            _ => false,
        }
    }

    /// The drafting model, out of the scheduler while it is asked; None: there is none.
    pub(super) fn take_model(&mut self) -> Option<Box<ModelDrafts>> {
        match &mut self.speculation {
            Some(Speculation { drafter: Drafter::Model(drafts), .. }) => drafts.take(),
            _ => None,
        }
    }

    pub(super) fn put_model(&mut self, drafts: Box<ModelDrafts>) {
        if let Some(Speculation { drafter: Drafter::Model(place), .. }) = &mut self.speculation {
            *place = Some(drafts);
        }
    }

    /// Feed the drafter what it lacks of a sequence, within `budget` token rows; if that is all,
    /// it drafts up to `most` tokens, as far as there are free pages. Gives the token rows.
    fn feed_drafter(
        &mut self,
        drafts: &mut ModelDrafts,
        slot: SlotId,
        most: usize,
        budget: usize,
        plan: &mut StepPlan,
    ) -> usize {
        // Pages for all of the next step, if there are some: nobody is preempted for a draft.
        let sequence = &mut self.slots[slot];
        let known = sequence.tokens.len();
        let held = sequence.table.pages().len();
        let most = if self.kv.grow(&mut sequence.table, known + most) {
            drafts.renew(&self.slots[slot].table.pages()[held..]);
            self.push_pages(slot, held);
            most
        } else {
            most.min((held * self.config.page_size).saturating_sub(known))
        };
        let most = most.min(drafts.room(known));
        if most == 0 {
            return 0;
        }

        let sequence = &self.slots[slot];
        let of = KnownSequence {
            slot,
            generation: sequence.generation,
            tokens: &sequence.tokens,
            pages: sequence.table.pages(),
            sampler: &sequence.sampler,
        };
        drafts.feed(of, most, budget, plan)
    }
}
