//! Which sequences run in the next step, and with which tokens. A function of its own queue and the
//! cache manager: no device, no clock, no thread, no randomness, so a run can be repeated exactly.
//! Called by `engine`; it never sees text, clients or models.
//!
//! # A step
//! As in vLLM (v1) there is no prefill phase and no decode phase: a sequence has tokens, some of
//! them were fed, and a step feeds some of the rest within a budget of `max_num_batched_tokens`
//! token rows.
//! 1. **Running first**, in order of admission (`plan_running`). Each gets a page when
//!    its tokens need one.
//! 2. **Preemption.** If the pool has no page left, the sequence that was admitted last is
//!    preempted, until there is one: it gives up its slot and pages, waits at the head of the queue
//!    and later computes everything anew, or hits the prefix cache.
//! 3. **Then waiting**, unless something was preempted (`plan_waiting`): sequences are
//!    admitted in the queue's order, while budget, a slot and pages for all of their known tokens
//!    are there. Their prefix comes from the cache as far as it is there; the rest is fed in chunks
//!    that fit the budget. The first that does not fit, or that does better to wait for pages which
//!    this step fills (`shared_prefix`), ends it. What the order is, and who may
//!    overtake whom, is said in `queue`.
//!
//! # States
//! Some models keep a state of each sequence beside pages, which moves on with every token and not
//! back. A prefix hit needs a copy of it, so chunks of prompts end at borders of blocks
//! ([`StateConfig`]), and the device is told to copy the state there; the cache manager knows which
//! copy stands behind which page. A request with siblings has a copy of its own, at the last full
//! page of its prompt.
//!
//! # Steps in flight
//! Step n + 1 may be planned before the tokens of step n are known: a sequence then feeds "the
//! token its slot sampled last". When a sequence ends or is preempted, steps that were planned
//! before may still work on its slot and pages. Slot and pages are nevertheless free at once,
//! because the device runs steps in order: whoever gets them does so in a later step, which first
//! sees the changes `Close` and `Open`. Only the late *results* have to be dropped: for each
//! planned sample it is noted which generation had the slot, and [`Scheduler::commit`] drops those
//! whose generation is over.
//!
//! # Drafts
//! Where speculation is on, a sequence may feed guesses behind its newest token. It then gets one
//! token or more of the step, as many as were guessed right and one ([`Scheduler::commit`]); the
//! rest is as if it had not been fed. `speculate` says when that is done.
//!
//! | file | what |
//! |---|---|
//! | `state` | what the scheduler holds, and how a sequence gets and gives up slot and pages |
//! | `commit` | the results of steps: tokens to their sequences |
//! | `config` | limits and switches |
//! | `cost` | what steps cost, learnt from those that ran |
//! | `budget` | token rows and time that are left of a step |
//! | `shared_prefix` | who waits for pages that another is filling |
//! | `sequence` | one sequence: its tokens, and how far they were fed |
//! | `queue` | who waits, in which order |
//! | `slots` | who runs, in which slot |
//! | `adapter_slots` | which adapter lies in which adapter slot |
//! | `drafts` | who proposes drafts, how many, and how that went |
//! | `ngram` | drafts by n-grams |
//! | `draft_model` | drafts by a smaller model: what it has of each sequence |
//! | `feed_drafter` | when that model drafts, and for whom |
//! | `suffix` | drafts by suffixes |
//! | `past_outputs` | outputs of sequences that are over, for `suffix` |
//! | `speculate` | which sequences of a step have drafts |
//! | `images` | how many images a step encodes, and which are kept |
//! | `image_time` | for which of them there is time |
//! | `in_flight` | planned steps without a result |
//! | `report` | what the engine is told |

mod adapter_slots;
mod budget;
mod commit;
mod config;
mod cost;
mod draft_model;
mod drafts;
mod feed_drafter;
mod image_time;
mod images;
mod in_flight;
mod ngram;
mod past_outputs;
mod queue;
mod report;
mod sequence;
mod shared_prefix;
mod slots;
mod speculate;
mod state;
mod suffix;
#[cfg(test)]
mod adapter_slot_tests;
#[cfg(test)]
mod draft_model_tests;
#[cfg(test)]
mod draft_tests;
#[cfg(test)]
mod image_tests;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;

pub use config::{SchedulerConfig, StateConfig};
pub use cost::{StepCost, StepShape};
pub use draft_model::DraftModel;
pub use drafts::{
    DraftLengths, DraftMethod, DraftStats, Proposer, SpeculationConfig, SuffixConfig,
};
pub use images::ImageLimits;
pub use report::{Arrival, SchedulerStats};
pub use sequence::NewSequence;
pub use state::Scheduler;

use crate::error::Result;
use crate::plan::{SlotChange, StepPlan};
use budget::{Demand, StepBudget};
use speculate::StepDrafts;

impl Scheduler {
    /// Put a sequence in the queue, or behind its primary while that one's prompt is not fed. How
    /// many may wait is the caller's limit.
    ///
    /// # Errors
    /// InvalidArgument if it could never run: an empty prompt, no token to generate, or a
    /// prompt that leaves no room for a token below `max_model_len`.
    pub fn add(&mut self, new: NewSequence) -> Result<()> {
        self.config.check(&new)?;
        // Without the cache there is nothing to wait for.
        let cached = self.config.prefix_caching && !new.skip_cache;
        match new.primary.filter(|&primary| cached && self.waits_for_prompt(primary)) {
            Some(primary) => self.queue.add_behind(primary, new),
            None => self.queue.add(new),
        }
        Ok(())
    }

    /// The next step, or None if there is nothing to do before a result or a request comes.
    /// A plan that was returned must be run, in order; at most `depth` may be uncommitted. While
    /// some are, None may also mean that the next one is better planned behind them.
    pub fn plan(&mut self) -> Option<StepPlan> {
        assert!(self.in_flight.len() < self.config.depth, "too many steps in flight");
        let mut drafts = self.propose()?;
        let mut plan = StepPlan { step: self.step + 1, ..StepPlan::default() };
        let mut budget = StepBudget::new(&self.config, self.costs.cost(), &self.demand());
        if let Some(images) = &mut self.images {
            images.begin();
        }

        let preempted = self.plan_running(&mut plan, &mut budget, &mut drafts);
        if !preempted {
            self.plan_waiting(&mut plan, &mut budget);
        }
        if plan.chunks.is_empty() {
            return None;
        }

        self.shape = budget.shape();
        plan.changes = std::mem::take(&mut self.changes);
        self.add_images(&mut plan);
        self.launch(&plan);
        Some(plan)
    }

    /// Feed what runs, in order of admission. True if that cost a preemption.
    fn plan_running(
        &mut self,
        plan: &mut StepPlan,
        budget: &mut StepBudget,
        drafts: &mut StepDrafts,
    ) -> bool {
        let mut preempted = false;
        let sequences = self.running_len() + self.waiting_len();
        let whole_images = self.config.whole_images();
        let mut at = 0;
        while at < self.running_len() && budget.tokens() > 0 {
            let slot = self.slots.running()[at];
            // Each of those behind it is to have its token.
            let room = budget.tokens().saturating_sub(self.running_len() - at - 1);
            let newest = self.slots[slot].fed;
            let rows = self.feed_drafts(slot, drafts, room, plan);
            if rows > 0 {
                budget.take_drafts(rows, newest);
                at += 1;
                continue;
            }

            let fork = self.fork_of(&self.slots[slot]);
            let sequence = &mut self.slots[slot];
            let (fed, known) = (sequence.fed, sequence.len());
            let most = budget.tokens_for(sequence.unfed());
            let count = budget.tokens_for(self.config.share(sequence.unfed(), sequences));
            let count = sequence.in_time(self.images.as_ref(), budget, fed, count);
            let count = self.config.cut(fed, fed + count, known, fork) - fed;
            let count = sequence.whole_images(fed, count, most, whole_images);
            let count = sequence.admit_images(self.images.as_mut(), fed, count);
            if count > 0 {
                let held = sequence.table.pages().len();
                if !self.kv.grow(&mut sequence.table, sequence.fed + count) {
                    // Victims come from the end and are planned from the front: a victim has no
                    // part in this plan yet.
                    self.preempt_last();
                    preempted = true;
                    continue;
                }
                self.push_pages(slot, held);
                self.slots[slot].feed(count, slot, plan);
                budget.take(count, fed);
                self.slots[slot].images_fed(self.images.as_mut(), budget);
            }
            at += 1;
        }
        preempted
    }

    /// Admit from the queue. The first that does not fit ends it.
    fn plan_waiting(&mut self, plan: &mut StepPlan, budget: &mut StepBudget) {
        let sequences = self.running_len() + self.waiting_len();
        let whole_images = self.config.whole_images();
        let mut at = 0;
        while budget.tokens() > 0 && self.slots.any_free() {
            let Some(next) = self.queue.next_admissible(at, &self.adapter_slots) else { break };
            at = next;
            if self.queue.at(at).held {
                at += 1;
                continue;
            }
            let fork = self.fork_of(self.queue.at(at));
            let sequence = self.queue.at_mut(at);

            // What the cache has need not be fed.
            let hits = if sequence.skip_cache {
                Vec::new()
            } else {
                self.kv.lookup(&mut sequence.table, &sequence.tokens)
            };
            let cached = hits.len() * self.config.page_size;
            let known = sequence.tokens.len();
            if !self.config.chunked_prefill && known - cached > budget.tokens() {
                break;
            }

            // Pages for the first chunk, or at once for all that is known.
            let count = budget.tokens_for(self.config.share(known - cached, sequences));
            let count = self.queue.at(at).in_time(self.images.as_ref(), budget, cached, count);
            if count == 0 || self.waits_for_pages(self.queue.at(at), &hits, plan) {
                break;
            }
            let count = self.config.cut(cached, cached + count, known, fork) - cached;
            let most = budget.tokens_for(known - cached);
            let count = self.queue.at(at).whole_images(cached, count, most, whole_images);
            if count == 0 {
                break;
            }
            let positions = if self.config.reserve_full_isl { known } else { cached + count };
            if !self.kv.fits(&hits, positions, self.running_len() > 0) {
                break;
            }
            // Last: whoever has not got a slot keeps no images.
            let sequence = self.queue.at_mut(at);
            let count = sequence.admit_images(self.images.as_mut(), cached, count);
            if count == 0 {
                break;
            }

            let sequence = self.queue.take(at);
            let slot = self.admit(sequence, &hits);
            let sequence = &mut self.slots[slot];
            let grown = self.kv.grow(&mut sequence.table, cached + count);
            assert!(grown, "an admitted sequence has its first pages");
            self.push_pages(slot, 0);
            self.slots[slot].feed(count, slot, plan);
            budget.take(count, cached);
            self.slots[slot].images_fed(self.images.as_mut(), budget);
        }
    }

    /// What there is to do: single tokens in the next step, and prompts.
    fn demand(&self) -> Demand {
        let waiting = Demand { prompt_tokens: self.queue.tokens(), ..Demand::default() };
        let running = self.slots.running().iter().map(|&slot| &self.slots[slot]);
        running.fold(waiting, |demand, sequence| match sequence.unfed() {
            1 => Demand { decodes: demand.decodes.with_chunk(1, sequence.fed), ..demand },
            tokens => Demand { prompt_tokens: demand.prompt_tokens + tokens, ..demand },
        })
    }

    /// What the newest plan has to do.
    pub fn newest_shape(&self) -> StepShape {
        self.shape
    }

    /// A step of this shape took so many milliseconds: what is planned from now on goes by that.
    pub fn learn(&mut self, shape: StepShape, ms: f64) {
        self.costs.learn(shape, ms);
    }

    fn preempt_last(&mut self) {
        let running = self.slots.running();
        // The first in line could always go on alone, since the pool holds `max_model_len`.
        assert!(running.len() > 1, "one sequence alone has all pages and wants more");
        self.preempt(running[running.len() - 1]);
    }

    /// The images of whoever has a slot that the plan opens.
    fn add_images(&self, plan: &mut StepPlan) {
        for change in &plan.changes {
            let SlotChange::Open(open) = change else { continue };
            if !self.slots.running().contains(&open.slot) {
                continue;
            }
            if let Some(images) = &self.slots[open.slot].images {
                plan.images.push((open.slot, images.clone()));
            }
        }
    }

    /// The plan is final: note who awaits a token, and let the pages it fills be hit from now on,
    /// by siblings first. Not earlier: a reader in the same step would race with the writes.
    fn launch(&mut self, plan: &StepPlan) {
        self.step = plan.step;
        self.in_flight.push(plan, &self.slots);
        for chunk in &plan.chunks {
            let sequence = &mut self.slots[chunk.slot];
            self.kv.register(&mut sequence.table, &sequence.tokens, sequence.fed);
            self.keep_state(chunk.slot);
        }
        for slot in plan.sampled() {
            self.queue.release_siblings(self.slots[slot].id);
        }
    }
}
