//! What the scheduler holds, and the moves that its rules are made of: a sequence gets a slot and
//! pages, is preempted, held, or over. Who moves when is said in `mod`.

use super::adapter_slots::AdapterSlots;
use super::config::SchedulerConfig;
use super::cost::{CostModel, StepShape};
use super::draft_model::ModelDrafts;
use super::drafts::{DraftMethod, DraftStats, Drafter, Proposer, Speculation};
use super::images::ImageBudget;
use super::in_flight::InFlight;
use super::ngram::Ngram;
use super::queue::WaitingQueue;
use super::report::SchedulerStats;
use super::sequence::Sequence;
use super::slots::Slots;
use super::suffix::Suffix;
use crate::error::Result;
use crate::ids::{AdapterId, PageId, RequestId, SlotId};
use crate::kv::{KvCacheManager, KvConfig};
use crate::plan::SlotChange;

/// Plans steps and takes their results: `add` and `plan` are in the module itself.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) config: SchedulerConfig,
    pub(super) kv: KvCacheManager,
    pub(super) queue: WaitingQueue,
    pub(super) slots: Slots,
    pub(super) adapter_slots: AdapterSlots,
    pub(super) in_flight: InFlight,
    /// For the next plan: what happened to slots since the last one.
    pub(super) changes: Vec<SlotChange>,
    /// Number of the newest plan.
    pub(super) step: u64,
    /// Number of the newest generation, see [`Sequence::generation`].
    pub(super) generations: u64,
    pub(super) preemptions: u64,
    /// Who got a slot for the first time, until [`Scheduler::take_admitted`] asks.
    pub(super) admitted: Vec<RequestId>,
    /// What steps cost.
    pub(super) costs: CostModel,
    /// What the newest plan has to do.
    pub(super) shape: StepShape,
    /// None: no sequence has drafts.
    pub(super) speculation: Option<Speculation>,
    /// None: no prompt has images.
    pub(super) images: Option<ImageBudget>,
}

impl Scheduler {
    /// With an empty queue, free slots and a free pool.
    ///
    /// # Errors
    /// InvalidArgument if the limits contradict each other or the pool cannot hold one sequence of
    /// `max_model_len`; names the key to change.
    pub fn new(config: SchedulerConfig) -> Result<Scheduler> {
        let drafter = config.speculation.as_ref().map(|speculation| match speculation.method {
            DraftMethod::Ngram { least, most } => Drafter::Host(Box::new(Ngram { least, most })),
            DraftMethod::Suffix(suffix) => Drafter::Host(Box::new(Suffix::new(suffix))),
            DraftMethod::Model(model) => {
                let drafts =
                    ModelDrafts::new(model, config.max_num_seqs, config.pages, config.page_size);
                Drafter::Model(Some(Box::new(drafts)))
            }
        });
        Scheduler::with_drafter(config, drafter)
    }

    /// The same with another who proposes drafts than the configuration's method. A model that
    /// drafts is asked all the same, and what it says counts for nothing: for measurements.
    ///
    /// # Errors
    /// As [`Scheduler::new`].
    pub fn with_proposer(
        config: SchedulerConfig,
        proposer: Option<Box<dyn Proposer>>,
    ) -> Result<Scheduler> {
        let models = config.speculation.as_ref().map(|speculation| speculation.method);
        if !matches!(models, Some(DraftMethod::Model(_))) {
            return Scheduler::with_drafter(config, proposer.map(Drafter::Host));
        }
        let mut scheduler = Scheduler::new(config)?;
        if let Some(speculation) = &mut scheduler.speculation {
            speculation.overruling = proposer;
        }
        Ok(scheduler)
    }

    fn with_drafter(config: SchedulerConfig, drafter: Option<Drafter>) -> Result<Scheduler> {
        config.validate()?;
        let speculation = config.speculation.clone().zip(drafter);
        let kv = KvCacheManager::new(KvConfig {
            pages: config.pages,
            page_size: config.page_size,
            prefix_caching: config.prefix_caching,
            watermark_pages: (config.watermark * config.pages as f64) as usize,
            snapshots: config.state.map(|state| state.snapshots),
        });

        Ok(Scheduler {
            kv,
            queue: WaitingQueue::new(config.max_num_seqs, config.longest()),
            slots: Slots::new(config.max_num_seqs),
            adapter_slots: AdapterSlots::new(config.max_loras),
            in_flight: InFlight::new(config.depth),
            changes: Vec::new(),
            step: 0,
            generations: 0,
            preemptions: 0,
            admitted: Vec::new(),
            costs: CostModel::default(),
            shape: StepShape::default(),
            speculation: speculation.map(|(config, drafter)| Speculation::new(config, drafter)),
            images: config.images.map(ImageBudget::new),
            config,
        })
    }

    /// Plan nothing for a sequence, or plan for it again. A preemption ends a hold. For a
    /// sequence that has to wait for something besides its tokens, such as a slow token mask.
    pub fn hold(&mut self, id: RequestId, held: bool) {
        if let Some(slot) = self.slots.find(id) {
            self.slots[slot].held = held;
        } else if let Some(sequence) = self.queue.find_mut(id) {
            sequence.held = held;
        }
    }

    /// Sequences may have drafts from now on, or none may.
    pub fn let_draft(&mut self, on: bool) {
        if let Some(speculation) = &mut self.speculation {
            speculation.on = on;
        }
    }

    /// A sequence may have drafts from now on, or may not.
    pub fn allow_drafts(&mut self, id: RequestId, allowed: bool) {
        if let Some(slot) = self.slots.find(id) {
            self.slots[slot].may_draft = allowed;
        } else if let Some(sequence) = self.queue.find_mut(id) {
            sequence.may_draft = allowed;
        }
    }

    /// Drop what the newest plan samples for a running sequence, and hold it: its last token is
    /// fed once more when the hold ends. For a sequence whose mask did not come in
    /// time. The device opens its row anew, since the token that it samples without a mask counts
    /// there. A state has moved on with the last token, of which it has no copy: the sequence is
    /// preempted then, and held as it waits.
    pub fn skip_step(&mut self, id: RequestId) {
        let Some(slot) = self.slots.find(id) else { return };
        if self.config.state.is_some() {
            self.preempt(slot);
            return self.hold(id, true);
        }
        self.generations += 1;
        let sequence = &mut self.slots[slot];
        sequence.step_back();
        sequence.generation = self.generations;
        sequence.held = true;

        self.changes.push(SlotChange::Close { slot });
        self.changes.push(SlotChange::Open(Box::new(self.slots[slot].open(slot))));
        self.tell_pages(slot, 0);
    }

    /// The request is over, for whatever reason (stop, cancel, error): forget it, wherever it is.
    /// Its tokens in flight will be dropped. False: it was not here (any more).
    pub fn finish(&mut self, id: RequestId) -> bool {
        let Some(slot) = self.slots.find(id) else { return self.queue.remove(id) };
        let sequence = self.vacate(slot);
        if let Some(Speculation { drafter: Drafter::Host(proposer), .. }) = &mut self.speculation {
            proposer.ended(&sequence.tokens[sequence.prompt.len()..]);
        }
        self.queue.release_siblings(id);
        true
    }

    /// Whose row a slot of the newest plan is.
    pub fn id_in(&self, slot: SlotId) -> RequestId {
        self.slots[slot].id
    }

    /// Sequences that were admitted for the first time since the last call.
    pub fn take_admitted(&mut self) -> std::vec::Drain<'_, RequestId> {
        self.admitted.drain(..)
    }

    /// Sequences that wait, siblings of others too.
    pub fn waiting_len(&self) -> usize {
        self.queue.len()
    }

    /// Sequences that have a slot.
    pub fn running_len(&self) -> usize {
        self.slots.running().len()
    }

    /// The adapters that sequences run with, and how many run with each.
    pub fn running_adapters(&self) -> impl Iterator<Item = (AdapterId, usize)> + '_ {
        self.adapter_slots.running()
    }

    /// Steps that were planned and not committed.
    pub fn in_flight_len(&self) -> usize {
        self.in_flight.len()
    }

    /// Where things stand.
    pub fn stats(&self) -> SchedulerStats {
        let prefix = self.kv.stats();
        SchedulerStats {
            running: self.running_len(),
            waiting: self.waiting_len(),
            kv_usage: self.kv.usage(),
            prefix_queries_tokens: prefix.queries_tokens,
            prefix_hits_tokens: prefix.hits_tokens,
            preemptions: self.preemptions,
        }
    }

    /// What became of drafts since the start; None where there are none.
    pub fn draft_stats(&self) -> Option<&DraftStats> {
        self.speculation.as_ref().map(|speculation| &speculation.stats)
    }

    /// Panics unless every page is accounted for. O(pages): for tests and idle moments.
    pub fn check(&self) {
        self.kv.check(self.slots.running().iter().map(|&slot| &self.slots[slot].table));
        let entered = |&slot: &SlotId| self.slots[slot].images_entered.len();
        let entered = self.slots.running().iter().map(entered).sum();
        self.images.iter().for_each(|images| images.check(entered));
    }

    /// The sequence is here, and its prompt is not in pages yet, nor on its way there.
    pub(super) fn waits_for_prompt(&self, id: RequestId) -> bool {
        let waiting = self.queue.find(id);
        let sequence = waiting.or_else(|| self.slots.find(id).map(|slot| &self.slots[slot]));
        sequence.is_some_and(|sequence| !sequence.prompt_fed())
    }

    /// From the queue to a slot, with the cached pages `hits`.
    pub(super) fn admit(&mut self, mut sequence: Box<Sequence>, hits: &[PageId]) -> SlotId {
        let snapshot = self.kv.admit(&mut sequence.table, &sequence.tokens, hits);
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
        let restore = |snapshot| SlotChange::RestoreState { slot, snapshot };
        self.changes.extend(snapshot.map(restore));
        slot
    }

    /// The last page of the prompt that siblings can hit, of a sequence that has some.
    pub(super) fn fork_of(&self, sequence: &Sequence) -> Option<usize> {
        let size = self.config.page_size;
        let forks = self.config.state.is_some() && self.queue.has_siblings(sequence.id);
        forks.then(|| (sequence.prompt.len() - 1) / size * size)
    }

    /// After a chunk that ends at a border: copy the state, in front of whatever the next step
    /// does. Not while it is the state behind drafts.
    pub(super) fn keep_state(&mut self, slot: SlotId) {
        let sequence = &self.slots[slot];
        let fed = sequence.fed;
        if sequence.drafts.in_flight > 0 || !self.config.keeps_state_at(fed, self.fork_of(sequence))
        {
            return;
        }
        if let Some(snapshot) = self.kv.keep_state(&sequence.table, fed) {
            self.changes.push(SlotChange::SaveState { slot, snapshot });
        }
    }

    /// This running sequence waits at the head of the queue, to compute everything anew.
    pub(super) fn preempt(&mut self, slot: SlotId) {
        let mut sequence = self.vacate(slot);
        sequence.rewind();
        self.queue.push_front(sequence);
        self.preemptions += 1;
    }

    /// Take the slot and the pages of a running sequence away.
    fn vacate(&mut self, slot: SlotId) -> Box<Sequence> {
        let mut sequence = self.slots.release(slot);
        self.kv.release(&mut sequence.table);
        self.adapter_slots.release(sequence.adapter);
        if let (Some(budget), Some(images)) = (&mut self.images, &sequence.images) {
            budget.leave(images, &mut sequence.images_entered);
        }
        self.changes.push(SlotChange::Close { slot });
        sequence
    }

    /// The sequence has got pages after the first `held`: tell its slot's row of them. They hold
    /// what they held, those that were hits, or are to hold something new.
    pub(super) fn push_pages(&mut self, slot: SlotId, held: usize) {
        let sequence = &self.slots[slot];
        let new = sequence.table.pages().get(held.max(sequence.hits)..).unwrap_or_default();
        if let Some(Speculation { drafter: Drafter::Model(Some(drafts)), .. }) =
            &mut self.speculation
        {
            drafts.renew(new);
        }
        self.tell_pages(slot, held);
    }

    /// Tell the slot's row of the pages after the first `held`.
    fn tell_pages(&mut self, slot: SlotId, held: usize) {
        let table = &self.slots[slot].table;
        if held < table.pages().len() {
            let pages = table.pages()[held..].to_vec();
            self.changes.push(SlotChange::Pages { slot, group: table.group(), pages });
        }
    }
}
