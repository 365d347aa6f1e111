//! THE POLICY: which sequences run in the next step, and with which tokens. A function of its own
//! queues and the cache manager: no device, no clock, no thread, no randomness, so a run can be
//! repeated exactly. Called by `engine`; it never sees text, clients or models.
//! # A step
//! There is no prefill phase and no decode phase: a sequence has tokens, some of them were fed, and
//! a step feeds some of the rest within a budget of token rows.
//! 1. What runs goes first, in order of admission. If the pool has no page for a sequence's next
//!    tokens, the sequence that was admitted last is preempted, until there is one: it gives up its
//!    pages, waits at the head of the queue and later computes everything anew, or hits the cache.
//! 2. Then, unless something was preempted, waiting sequences are admitted strictly in order, while
//!    budget, a slot and pages for all of their known tokens are there. Only a sequence whose
//!    adapter finds all adapter slots in use is overtaken, and not for ever (see `plan_waiting`). The order
//!    is that of arrival, but the sequences of a large request stand further back (see `add`).
//!
//! # Steps in flight
//! Step n + 1 may be planned before the tokens of step n are known: a sequence then feeds "the
//! token its slot sampled last". When a sequence ends or is preempted, steps that were planned
//! before may still work on its slot and pages. Slot and pages are nevertheless free at once,
//! because the device runs steps in order: whoever gets them does so in a later step, which first
//! sees the changes `Close` and `Open`. Only the late *results* have to be dropped: each planned
//! sampling row notes for which generation in the slot it was planned, and [`Scheduler::commit`]
//! drops those whose generation is over.

mod adapter_slots;
mod config;
mod report;
mod sequence;
#[cfg(test)]
mod adapter_slot_tests;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use config::SchedulerConfig;
pub use report::{Arrival, SchedulerStats};
pub use sequence::NewSequence;

use crate::error::Result;
use crate::ids::{AdapterId, PageId, RequestId, SlotId};
use crate::kv::{KvCacheManager, KvConfig};
use crate::plan::{SlotChange, StepPlan, StepResult};
use crate::sampling::NonFinite;
use crate::{internal, invalid};
use adapter_slots::AdapterSlots;
use sequence::{Sequence, Slots};

/// A planned step without result: the slot and the generation of each row that samples, in row
/// order.
#[derive(Debug)]
struct InFlight {
    step: u64,
    samples: Vec<(SlotId, u64)>,
}

#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    kv: KvCacheManager,
    waiting: VecDeque<Box<Sequence>>,
    /// Sequences that wait behind their primaries.
    siblings: usize,
    /// Sequences added that follow none.
    arrivals: u64,
    /// The newest of them, and its order.
    newest: Option<(RequestId, u64)>,
    /// Slots in order of admission.
    running: Vec<SlotId>,
    slots: Slots,
    adapter_slots: AdapterSlots,
    /// Sequences with an adapter that were admitted past the first one that waits for an adapter
    /// slot.
    overtakers: usize,
    /// For the next plan: what happened to slots since the last one.
    changes: Vec<SlotChange>,
    in_flight: VecDeque<InFlight>,
    step: u64,
    generations: u64,
    preemptions: u64,
    /// Who got a slot for the first time, until [`Scheduler::take_admitted`] asks.
    admitted: Vec<RequestId>,
}

impl Scheduler {
    /// # Errors
    /// InvalidArgument if the limits contradict each other or the pool cannot hold one sequence of
    /// `max_model_len`; names the key to change.
    pub fn new(config: SchedulerConfig) -> Result<Scheduler> {
        config.validate()?;
        let kv = KvCacheManager::new(KvConfig {
            pages: config.pages,
            page_size: config.page_size,
            prefix_caching: config.prefix_caching,
            watermark_pages: (config.watermark * config.pages as f64) as usize,
        });
        Ok(Scheduler {
            kv,
            waiting: VecDeque::new(),
            siblings: 0,
            arrivals: 0,
            newest: None,
            running: Vec::with_capacity(config.max_num_seqs),
            slots: Slots::new(config.max_num_seqs),
            adapter_slots: AdapterSlots::new(config.max_loras),
            overtakers: 0,
            changes: Vec::new(),
            in_flight: VecDeque::with_capacity(config.depth),
            step: 0,
            generations: 0,
            preemptions: 0,
            admitted: Vec::new(),
            config,
        })
    }

    /// Put a sequence in the queue: behind the more urgent ones, and those of its priority that
    /// came before. A request with more sequences than half of the slots has no right to all of
    /// them: each further one lets one more later arrival pass. How many may wait is the caller's
    /// limit.
    ///
    /// # Errors
    /// InvalidArgument if it could never run: an empty prompt, no token to generate, or a prompt
    /// that leaves no room for a token below `max_model_len` (which the pool is known to hold).
    pub fn add(&mut self, new: NewSequence) -> Result<()> {
        let (prompt_tokens, longest) = (new.prompt.len(), self.config.longest());
        if prompt_tokens == 0 {
            return Err(invalid!("The prompt has no tokens."));
        }
        if new.max_tokens == 0 {
            return Err(invalid!("max_tokens must be at least 1, got 0."));
        }
        if prompt_tokens >= longest {
            let max_model_len = self.config.max_model_len;
            return Err(invalid!(
                "The prompt has {prompt_tokens} tokens and needs room for one more, max_model_len \
                 is {max_model_len} tokens. Shorten the prompt or increase max_model_len."
            ));
        }
        if new.adapter != AdapterId(0) && self.config.max_loras == 0 {
            return Err(internal!("adapter {} and no adapter_slot for it", new.adapter));
        }
        let order = self.order_of(&new);
        // Without the cache there is nothing to wait for.
        let primary = new.primary.filter(|_| self.config.prefix_caching && !new.skip_cache);
        match primary.and_then(|id| self.find(id)).filter(|primary| !primary.prompt_fed()) {
            Some(primary) => {
                primary.siblings.push((order, new));
                self.siblings += 1;
            }
            None => self.queue(Sequence::new(new, order, longest)),
        }
        Ok(())
    }

    fn order_of(&mut self, new: &NewSequence) -> u64 {
        match self.newest.filter(|(primary, _)| Some(*primary) == new.primary) {
            Some((primary, order)) => {
                let others = new.id.0.saturating_sub(primary.0);
                order + others.saturating_sub(self.config.max_num_seqs as u64 / 2)
            }
            None => {
                self.arrivals += 1;
                self.newest = Some((new.id, self.arrivals));
                self.arrivals
            }
        }
    }

    fn queue(&mut self, new: Sequence) {
        let place = (new.priority, new.order);
        let behind = self.waiting.iter().rev().take_while(|w| (w.priority, w.order) > place);
        let at = self.waiting.len() - behind.count();
        self.waiting.insert(at, Box::new(new));
    }

    /// Plan no row for a running sequence, or plan rows again. A preemption ends a hold. For a
    /// sequence that has to wait for something besides its tokens, such as a slow grammar mask.
    pub fn hold(&mut self, id: RequestId, held: bool) {
        let slot = self.running.iter().copied().find(|&slot| self.slots[slot].id == id);
        if let Some(slot) = slot {
            self.slots[slot].held = held;
        }
    }

    /// Drop what the newest plan samples for a running sequence, and hold it: its last token is
    /// fed once more when the hold ends. For a sequence whose mask did not come in time. The device
    /// opens its row anew, since the token that it samples without a mask counts there.
    pub fn skip_step(&mut self, id: RequestId) {
        let Some(slot) = self.running.iter().copied().find(|&slot| self.slots[slot].id == id)
        else {
            return;
        };
        self.generations += 1;
        let sequence = &mut self.slots[slot];
        sequence.step_back();
        sequence.generation = self.generations;
        sequence.held = true;
        self.changes.push(SlotChange::Close { slot });
        self.changes.push(SlotChange::Open(Box::new(self.slots[slot].open(slot))));
        self.push_pages(slot, 0);
    }

    /// Whose row a slot of the newest plan is.
    pub fn id_in(&self, slot: SlotId) -> RequestId {
        self.slots[slot].id
    }

    /// The request is over, for whatever reason (stop, cancel, error): forget it, wherever it is.
    /// Its tokens in flight will be dropped. False: it was not here (any more).
    pub fn finish(&mut self, id: RequestId) -> bool {
        if let Some(at) = self.running.iter().position(|&slot| self.slots[slot].id == id) {
            let over = self.vacate(at);
            self.queue_siblings(over.siblings);
            return true;
        }
        if let Some(at) = self.waiting.iter().position(|sequence| sequence.id == id) {
            let over = self.waiting.remove(at);
            over.into_iter().for_each(|sequence| self.queue_siblings(sequence.siblings));
            return true;
        }
        let primaries = self.waiting.iter_mut().map(|sequence| &mut **sequence);
        for primary in primaries.chain(self.slots.taken()) {
            if let Some(at) = primary.siblings.iter().position(|(_, sibling)| sibling.id == id) {
                primary.siblings.remove(at);
                self.siblings -= 1;
                return true;
            }
        }
        false
    }

    /// The next step, or None if there is nothing to do before a result or a request comes.
    /// A plan that was returned must be run, in order; at most `depth` may be uncommitted.
    pub fn plan(&mut self) -> Option<StepPlan> {
        assert!(self.in_flight.len() < self.config.depth, "too many steps in flight");
        let mut plan = StepPlan { step: self.step + 1, ..StepPlan::default() };
        let mut budget = self.config.max_num_batched_tokens;
        let preempted = self.plan_running(&mut plan, &mut budget);
        if !preempted {
            self.plan_waiting(&mut plan, &mut budget);
        }
        if plan.chunks.is_empty() {
            return None;
        }
        plan.changes = std::mem::take(&mut self.changes);
        self.launch(&plan);
        Some(plan)
    }

    /// Take the result of the oldest planned step: append its tokens to their sequences and say
    /// whose they are. Drops tokens of sequences that are over or were preempted since. A sequence
    /// whose logits were not finite is over, or starts again without the cache if pages of others
    /// may be to blame.
    pub fn commit(&mut self, result: &StepResult) -> Vec<Arrival> {
        let Some(planned) = self.in_flight.pop_front() else { panic!("no step is in flight") };
        assert_eq!(planned.step, result.step, "results come in the order of steps");
        assert_eq!(planned.samples.len(), result.samples.len(), "samples of step {}", result.step);
        let mut arrivals = Vec::with_capacity(result.samples.len());
        let rows = planned.samples.into_iter().zip(&result.samples);
        for (sample, ((slot, generation), sampled)) in rows.enumerate() {
            assert_eq!(slot, sampled.slot, "samples of step {} come in row order", result.step);
            let Some(sequence) = self.slots.get(slot, generation) else { continue };
            let (id, mut at_limit) = (sequence.id, false);
            let token = sampled.tokens.as_ref().map_err(|&error| error).map(|tokens| {
                let [token] = tokens[..] else { panic!("slot {slot} sampled not one token") };
                token
            });

            match token {
                Ok(token) => {
                    sequence.arrive(token);
                    self.kv.register(&mut sequence.table, &sequence.tokens, sequence.fed);
                    at_limit = sequence.tokens.len() >= sequence.limit;
                }
                Err(NonFinite) => {
                    // NaN may lie in its pages, in those before the token that is to blame too
                    // (0 * NaN): who shares only its beginning must not get them.
                    self.kv.forget(&sequence.table);
                    if sequence.hits > 0 {
                        sequence.skip_cache = true;
                        self.start_again(slot);
                        continue;
                    }
                }
            }
            if at_limit || token.is_err() {
                self.finish(id);
            }
            arrivals.push(Arrival { id, token, at_limit, sample });
        }
        arrivals
    }

    /// Sequences that were admitted for the first time since the last call.
    pub fn take_admitted(&mut self) -> std::vec::Drain<'_, RequestId> {
        self.admitted.drain(..)
    }

    pub fn waiting_len(&self) -> usize {
        self.waiting.len() + self.siblings
    }

    pub fn running_len(&self) -> usize {
        self.running.len()
    }

    /// Steps that were planned and not committed.
    pub fn in_flight_len(&self) -> usize {
        self.in_flight.len()
    }

    pub fn stats(&self) -> SchedulerStats {
        let prefix = self.kv.stats();
        SchedulerStats {
            running: self.running.len(),
            waiting: self.waiting_len(),
            kv_usage: self.kv.usage(),
            prefix_queries_tokens: prefix.queries_tokens,
            prefix_hits_tokens: prefix.hits_tokens,
            preemptions: self.preemptions,
        }
    }

    /// Panics unless every page is accounted for. O(pages): for tests and idle moments.
    pub fn check(&self) {
        self.kv.check(self.running.iter().map(|&slot| &self.slots[slot].table));
    }

    /// Feed what runs, in order of admission. True if that cost a preemption.
    fn plan_running(&mut self, plan: &mut StepPlan, budget: &mut usize) -> bool {
        let mut preempted = false;
        let sequences = self.running.len() + self.waiting_len();
        let mut at = 0;
        while at < self.running.len() && *budget > 0 {
            let slot = self.running[at];
            let sequence = &mut self.slots[slot];
            let count = self.config.share(sequence.unfed(), *budget, sequences);
            if count > 0 {
                let held = sequence.table.pages().len();
                if !self.kv.grow(&mut sequence.table, sequence.fed + count) {
                    // Victims come from the end and rows are planned from the front: a victim has
                    // no row in this plan yet.
                    preempted = true;
                    self.preempt_last();
                    continue;
                }
                self.push_pages(slot, held);
                self.slots[slot].feed(count, slot, plan);
                *budget -= count;
            }
            at += 1;
        }
        preempted
    }

    /// Admit from the head of the queue. The first that does not fit ends it: nobody overtakes, but
    /// for those whose adapter has an adapter slot, or who need none, past those who wait for an
    /// adapter slot. After `max_num_seqs` overtakers with an adapter the adapter slots are left to
    /// empty, so that the first who waits for one gets it.
    fn plan_waiting(&mut self, plan: &mut StepPlan, budget: &mut usize) {
        let sequences = self.running.len() + self.waiting_len();
        let mut at = 0;
        while *budget > 0 && self.slots.any_free() {
            let Some(sequence) = self.waiting.get_mut(at) else { break };
            let plain = sequence.adapter == AdapterId(0);
            let patience = at == 0 || self.overtakers < self.config.max_num_seqs;
            let may_run = plain || patience && self.adapter_slots.has_room(sequence.adapter);
            if !may_run {
                at += 1;
                continue;
            }
            let hits = match sequence.skip_cache {
                true => Vec::new(),
                false => self.kv.lookup(&mut sequence.table, &sequence.tokens),
            };
            let cached = hits.len() * self.config.page_size;
            let unfed = sequence.tokens.len() - cached;
            if !self.config.chunked_prefill && unfed > *budget {
                break;
            }
            let count = self.config.share(unfed, *budget, sequences);
            let reserve = self.config.reserve_full_isl;
            let positions = if reserve { sequence.tokens.len() } else { cached + count };
            if !self.kv.fits(&hits, positions, !self.running.is_empty()) {
                break;
            }
            let Some(sequence) = self.waiting.remove(at) else { break };
            match (plain, at) {
                (true, _) => {}
                (false, 0) => self.overtakers = 0,
                (false, _) => self.overtakers += 1,
            }
            let slot = self.admit(sequence, &hits);
            let sequence = &mut self.slots[slot];
            let grown = self.kv.grow(&mut sequence.table, cached + count);
            assert!(grown, "an admitted sequence has its first pages");
            self.push_pages(slot, 0);
            self.slots[slot].feed(count, slot, plan);
            *budget -= count;
        }
    }

    /// From the queue to a slot, with the cached pages `hits`.
    fn admit(&mut self, mut sequence: Box<Sequence>, hits: &[PageId]) -> SlotId {
        self.kv.admit(&mut sequence.table, &sequence.tokens, hits);
        if sequence.generation == 0 {
            self.admitted.push(sequence.id);
        }
        self.generations += 1;
        sequence.generation = self.generations;
        sequence.fed = hits.len() * self.config.page_size;
        sequence.hits = hits.len();
        self.changes.extend(self.adapter_slots.enter(sequence.adapter));
        let slot = self.slots.assign(sequence);
        self.changes.push(SlotChange::Open(Box::new(self.slots[slot].open(slot))));
        self.running.push(slot);
        slot
    }

    /// Tell the slot's row of the pages after the first `held`.
    fn push_pages(&mut self, slot: SlotId, held: usize) {
        let table = &self.slots[slot].table;
        if held < table.pages().len() {
            let pages = table.pages()[held..].to_vec();
            self.changes.push(SlotChange::Pages { slot, group: table.group(), pages });
        }
    }

    /// The plan is final: note who awaits a token, and let the pages it fills be hit from now on,
    /// by siblings first. Not earlier: a reader in the same step would race with the writes.
    fn launch(&mut self, plan: &StepPlan) {
        self.step = plan.step;
        for chunk in &plan.chunks {
            let sequence = &mut self.slots[chunk.slot];
            self.kv.register(&mut sequence.table, &sequence.tokens, sequence.fed);
        }

        let mut samples = Vec::with_capacity(plan.logits.len());
        let mut siblings = Vec::new();
        for slot in plan.sampled() {
            let sequence = &mut self.slots[slot];
            samples.push((slot, sequence.generation));
            siblings.append(&mut sequence.siblings);
        }
        self.queue_siblings(siblings);
        self.in_flight.push_back(InFlight { step: plan.step, samples });
    }

    fn find(&mut self, id: RequestId) -> Option<&mut Sequence> {
        let waiting = self.waiting.iter_mut().map(|sequence| &mut **sequence);
        waiting.chain(self.slots.taken()).find(|sequence| sequence.id == id)
    }

    /// They need their primary no longer: they go to their places in the queue.
    fn queue_siblings(&mut self, siblings: Vec<(u64, NewSequence)>) {
        self.siblings -= siblings.len();
        for (order, sibling) in siblings {
            self.queue(Sequence::new(sibling, order, self.config.longest()));
        }
    }

    fn preempt_last(&mut self) {
        // The first in line could always go on alone, since the pool holds `max_model_len`.
        assert!(self.running.len() > 1, "one sequence alone has all pages and wants more");
        self.preempt(self.running.len() - 1);
    }

    /// The `at`-th running sequence waits at the head of the queue, to compute everything anew.
    fn preempt(&mut self, at: usize) {
        let mut sequence = self.vacate(at);
        sequence.rewind();
        self.waiting.push_front(sequence);
        self.preemptions += 1;
    }

    fn start_again(&mut self, slot: SlotId) {
        if let Some(at) = self.running.iter().position(|&running| running == slot) {
            self.preempt(at);
        }
    }

    /// Give up the slot and the pages of the `at`-th running sequence.
    fn vacate(&mut self, at: usize) -> Box<Sequence> {
        let slot = self.running.remove(at);
        let mut sequence = self.slots.release(slot);
        self.kv.release(&mut sequence.table);
        self.adapter_slots.release(sequence.adapter);
        self.changes.push(SlotChange::Close { slot });
        sequence
    }
}
