//! Which sequences of a step have drafts. Called by `plan`: first it is decided who has some and
//! whether they are worth it, then each of those feeds them in its turn.
//!
//! Drafts are made of a sequence's newest tokens on the host, so the step that samples the newest
//! one must have been collected before; and how many drafts of a step were accepted decides where
//! the next one goes on. So a step with drafts is planned once nothing is in flight, and collected
//! before another is planned. Where steps could overlap instead, that costs all sequences a pause
//! of the device: it is done only when one sequence in [`WORTH_WAITING`] at least has drafts.
//! Without any, steps overlap as ever. A model that drafts always has something to say: it is asked
//! in front of each such step (`draft_model`).

use super::drafts::{Drafter, Speculation};
use super::state::Scheduler;
use crate::ids::{SlotId, TokenId};
use crate::plan::StepPlan;

/// Steps stop to overlap when one running sequence in so many has drafts.
const WORTH_WAITING: usize = 8;

/// The drafts of a step, by slot, in order of admission.
#[derive(Debug, Default)]
pub(super) struct StepDrafts {
    of: Vec<(SlotId, Vec<TokenId>)>,
}

impl StepDrafts {
    fn take(&mut self, slot: SlotId) -> Option<Vec<TokenId>> {
        let at = self.of.iter().position(|&(of, _)| of == slot)?;
        Some(self.of.swap_remove(at).1)
    }
}

impl Scheduler {
    /// The drafts of the next step. None: it is planned better when the steps in flight have been
    /// collected.
    pub(super) fn propose(&mut self) -> Option<StepDrafts> {
        let Some(speculation) = &self.speculation else { return Some(StepDrafts::default()) };
        if self.in_flight.any_drafts() {
            return None;
        }
        if !speculation.on {
            return Some(StepDrafts::default());
        }
        if let Some(Speculation { drafter: Drafter::Model(_), .. }) = self.speculation {
            return self.propose_of_model();
        }

        let proposed = self.proposals();
        if !self.worth_waiting(proposed.len()) {
            return Some(StepDrafts::default());
        }
        if self.in_flight.len() == 0 {
            return Some(StepDrafts { of: proposed });
        }
        // Those were guessed without the tokens in flight: they will be made anew.
        for (slot, _) in proposed {
            self.slots[slot].drafts.awaited = true;
        }
        None
    }

    /// What the model said, when it was asked; it can be asked once nothing is in flight.
    fn propose_of_model(&mut self) -> Option<StepDrafts> {
        let pays = self.model_drafts_pay();
        let mut of = self.take_model().map_or_else(Vec::new, |mut drafts| {
            let proposed = drafts.take();
            self.put_model(drafts);
            proposed
        });
        if let Some(Speculation { overruling: Some(proposer), .. }) = &mut self.speculation {
            for (slot, drafts) in &mut of {
                let most = drafts.len();
                drafts.clear();
                proposer.propose(&self.slots[*slot].tokens, most, drafts);
                drafts.truncate(most);
            }
            of.retain(|(_, drafts)| !drafts.is_empty());
        }
        (!pays || self.in_flight.len() == 0).then_some(StepDrafts { of })
    }

    /// Whether it is worth to plan a step behind those in flight, as so many have drafts then.
    pub(super) fn worth_waiting(&self, with_drafts: usize) -> bool {
        let overlaps = self.config.depth > 1;
        with_drafts > 0 && (!overlaps || with_drafts * WORTH_WAITING >= self.running_len())
    }

    /// The sequences that may have drafts now, in order of admission, and how many each, as far as
    /// the device has logits rows.
    pub(super) fn wanting_drafts(&self) -> Vec<(SlotId, usize)> {
        let running = self.slots.running();
        let Some(Speculation { config, on: true, .. }) = &self.speculation else {
            return Vec::new();
        };
        let each = config.lengths.of(running.len());
        let mut rows = config.rows;
        let mut wanting = Vec::new();
        for &slot in running {
            let most = each.min(rows).min(self.slots[slot].room_for_drafts());
            if most > 0 {
                rows -= most;
                wanting.push((slot, most));
            }
        }
        wanting
    }

    /// What follows the known tokens of each sequence that may have drafts now, as far as the
    /// device has logits rows.
    fn proposals(&mut self) -> Vec<(SlotId, Vec<TokenId>)> {
        let running = self.slots.running().len();
        let Some(speculation) = &mut self.speculation else { return Vec::new() };
        let Drafter::Host(proposer) = &mut speculation.drafter else { return Vec::new() };
        let each = speculation.config.lengths.of(running);
        let mut rows = speculation.config.rows;
        let mut proposed = Vec::new();
        for &slot in self.slots.running() {
            let sequence = &self.slots[slot];
            let most = each.min(rows).min(sequence.room_for_drafts());
            if most == 0 {
                continue;
            }
            let mut drafts = Vec::new();
            proposer.propose(&sequence.tokens, most, &mut drafts);
            drafts.truncate(most);
            if !drafts.is_empty() {
                rows -= drafts.len();
                proposed.push((slot, drafts));
            }
        }
        proposed
    }

    /// Feed the newest token of a sequence and its drafts, if it has some, as far as `room` token
    /// rows and the free pages allow: nobody is preempted for a draft. Gives the token rows; 0: it
    /// feeds none.
    pub(super) fn feed_drafts(
        &mut self,
        slot: SlotId,
        drafts: &mut StepDrafts,
        room: usize,
        plan: &mut StepPlan,
    ) -> usize {
        let Some(mut drafts) = drafts.take(slot) else { return 0 };
        let sequences = self.running_len() + self.waiting_len();
        let rows = self.config.share(1 + drafts.len(), sequences).min(room);
        let rows = self.config.up_to_border(self.slots[slot].fed, rows);
        drafts.truncate(rows.saturating_sub(1));
        let sequence = &mut self.slots[slot];
        let held = sequence.table.pages().len();
        if drafts.is_empty() || !self.kv.grow(&mut sequence.table, sequence.fed + rows) {
            return 0;
        }
        self.push_pages(slot, held);
        self.slots[slot].feed_drafts(&drafts, slot, plan);
        rows
    }
}
