//! A step's plan, checked and flattened once for all devices. [`SlotTable`] knows of each slot what
//! a plan can be checked against; [`Batch`] is what the ops of a step run over. Devices call it at
//! the beginning of `begin` and then apply the same changes to whatever they hold themselves,
//! without a check of their own.

use std::sync::Arc;

use super::state::{StateCopy, StatePlace};
use super::DeviceLimits;
use crate::error::Result;
use crate::ids::{AdapterId, AdapterSlotId, GroupId, SlotId, SnapshotId};
use crate::internal;
use crate::plan::{Feed, LogitsRow, Purpose, SlotChange, SlotOpen, StepPlan, MAX_DRAFTS};
use crate::sampling::{LogprobSpec, SamplerSpec};

/// What a step runs over.
#[derive(Debug, Default)]
pub struct Batch {
    /// The plan's.
    pub step: u64,
    /// Token rows: R of the ops.
    pub rows: usize,
    /// The sequences that run, in the order of their token rows.
    pub chunks: Vec<BatchChunk>,
    /// The logits rows, in the order of their token rows: S of the ops is their number.
    pub logits: Vec<BatchLogits>,
    /// Some sequence that runs has an adapter.
    pub adapters: bool,
    /// Devices may run it as a decode step of so many rows: every sequence is sampled from behind
    /// the one token that it feeds, behind two, or behind each of its drafts. Logits row i is token
    /// row i unless some sequence feeds two.
    pub decode: bool,
    /// Some sequence feeds drafts.
    pub drafts: bool,
    /// Of models that keep a state: what is copied in front of the step, in this order.
    pub state_copies: Vec<StateCopy>,
}

impl Batch {
    /// Some sequence feeds more than one token.
    pub fn several_rows(&self) -> bool {
        self.rows > self.chunks.len()
    }

    /// For ops over whole sequences: each of the step begins in it.
    ///
    /// # Errors
    /// Internal: one began earlier. `op` says who asks.
    pub fn whole_sequences(&self, op: &str) -> Result<()> {
        let Some(part) = self.chunks.iter().find(|chunk| !chunk.is_whole()) else { return Ok(()) };
        let BatchChunk { slot, tokens, length, .. } = part;
        Err(internal!("{op}: slot {slot} feeds {tokens} of its {length} tokens"))
    }
}

/// A sequence's share of the token rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchChunk {
    /// The sequence's slot.
    pub slot: SlotId,
    /// First token row.
    pub first: usize,
    /// Token rows, at least one.
    pub tokens: usize,
    /// Positions of the sequence once the step has run.
    pub length: usize,
    /// Where its known tokens begin in `StepPlan::chunk_tokens`; None: its row is the token that
    /// the slot sampled last.
    pub known: Option<usize>,
    /// First logits row.
    pub first_logits: usize,
    /// Logits rows.
    pub logits: usize,
}

impl BatchChunk {
    /// Its token rows.
    pub fn rows(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.tokens
    }

    /// The position of its first token row.
    pub fn position(&self) -> usize {
        self.length - self.tokens
    }

    /// It is sampled from, and feeds little more than what that needs. A model that drafts feeds
    /// two tokens behind drafts that were all right.
    fn decodes(&self, logits: &[BatchLogits]) -> bool {
        let drafts = || logits.get(self.first_logits).is_some_and(|row| row.drafts.behind > 0);
        self.logits > 0 && (self.tokens <= 2 || drafts())
    }

    /// The step feeds the sequence as a whole.
    pub fn is_whole(&self) -> bool {
        self.tokens == self.length
    }
}

/// One logits row.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchLogits {
    /// Whose.
    pub slot: SlotId,
    /// Index into [`Batch::chunks`].
    pub chunk: usize,
    /// Its token row.
    pub row: usize,
    /// What for.
    pub purpose: Purpose,
    /// Drafts of its chunk that were fed up to its row, and behind it. Both are 0 where there are
    /// none.
    pub drafts: RowDrafts,
    /// Logprobs to report, of the token that is sampled or of the one that is known.
    pub logprobs: Option<LogprobSpec>,
}

/// Where a logits row stands among the drafts of its chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowDrafts {
    /// Drafts up to its token row: its token comes behind them.
    pub before: usize,
    /// Drafts behind its token row.
    pub behind: usize,
}

/// What of a slot a plan is checked against.
#[derive(Debug, Clone, Default)]
struct Slot {
    open: bool,
    length: usize,
    /// Rows of its newest chunk.
    newest: usize,
    pages: usize,
    adapter_slot: Option<AdapterSlotId>,
    /// It goes on behind cached tokens, and was not told with which state.
    lacks_state: bool,
    sampler: Arc<SamplerSpec>,
}

/// All slots of a device, and the current batch.
#[derive(Debug, Default)]
pub struct SlotTable {
    /// None before the device was reserved.
    limits: Option<DeviceLimits>,
    slots: Vec<Slot>,
    adapter_slots: AdapterSlotTable,
    /// Of the current step.
    pub batch: Batch,
}

impl SlotTable {
    /// All slots closed.
    pub fn new(limits: &DeviceLimits) -> SlotTable {
        SlotTable {
            limits: Some(limits.clone()),
            slots: vec![Slot::default(); limits.slots],
            ..SlotTable::default()
        }
    }

    /// Check a plan, apply its changes and make it the current batch.
    ///
    /// # Errors
    /// Internal: a plan that does not fit the limits or the slots' state. The device is lost then.
    pub fn begin(&mut self, plan: &StepPlan) -> Result<&Batch> {
        let limits = self.limits.clone().ok_or_else(|| internal!("a step before reserve"))?;
        let tokens = plan.tokens();
        if tokens > limits.step_tokens {
            return Err(internal!(
                "step {} has {tokens} tokens, more than the {} that were reserved",
                plan.step,
                limits.step_tokens
            ));
        }
        if plan.logits.len() > limits.logits_rows {
            let (rows, most) = (plan.logits.len(), limits.logits_rows);
            return Err(internal!("step {} has {rows} logits rows of {most}", plan.step));
        }

        self.batch.state_copies.clear();
        for change in &plan.changes {
            self.change(change, &limits)?;
        }

        let mut batch = std::mem::take(&mut self.batch);
        batch.step = plan.step;
        batch.rows = 0;
        batch.adapters = false;
        batch.drafts = false;
        batch.chunks.clear();
        batch.logits.clear();
        self.flatten_chunks(plan, &limits, &mut batch)?;
        self.flatten_logits(plan, &mut batch)?;
        batch.decode = batch.chunks.iter().all(|chunk| chunk.decodes(&batch.logits));
        self.batch = batch;
        Ok(&self.batch)
    }

    /// The adapter slot of a slot's adapter, if it has one.
    pub fn adapter_slot(&self, slot: SlotId) -> Option<AdapterSlotId> {
        self.slots.get(slot.index())?.adapter_slot
    }

    /// Positions of a slot's sequence once the current step has run.
    pub fn length(&self, slot: SlotId) -> usize {
        self.slots.get(slot.index()).map_or(0, |slot| slot.length)
    }

    /// The sampler of a slot.
    pub fn sampler(&self, slot: SlotId) -> Option<&Arc<SamplerSpec>> {
        self.slots.get(slot.index()).map(|slot| &slot.sampler)
    }

    fn flatten_chunks(
        &mut self,
        plan: &StepPlan,
        limits: &DeviceLimits,
        batch: &mut Batch,
    ) -> Result<()> {
        for chunk in &plan.chunks {
            let known = match &chunk.feed {
                Feed::LastSampled => None,
                Feed::Known(range) if range.end <= plan.chunk_tokens.len() => Some(range.start),
                Feed::Known(range) => return Err(internal!("chunk {range:?} is not in the plan")),
            };
            let tokens = chunk.feed.tokens();
            let slot = self.open_slot(chunk.slot)?;
            let length = slot.length + tokens;
            if tokens == 0 || length > slot.pages * limits.page_size {
                return Err(internal!(
                    "slot {} cannot grow from {} by {tokens} positions in {} pages",
                    chunk.slot,
                    slot.length,
                    slot.pages
                ));
            }

            if slot.lacks_state {
                let (slot, length) = (chunk.slot, slot.length);
                return Err(internal!("slot {slot} goes on from {length} without a state"));
            }

            slot.length = length;
            slot.newest = tokens;
            batch.adapters |= slot.adapter_slot.is_some();
            batch.chunks.push(BatchChunk {
                slot: chunk.slot,
                first: batch.rows,
                tokens,
                length,
                known,
                first_logits: 0,
                logits: 0,
            });
            batch.rows += tokens;
        }
        Ok(())
    }

    fn flatten_logits(&self, plan: &StepPlan, batch: &mut Batch) -> Result<()> {
        let mut next_row = 0;
        for wanted in &plan.logits {
            let nth = batch.logits.len();
            let chunk = batch.chunks.get_mut(wanted.chunk);
            let chunk = chunk.filter(|chunk| wanted.token < chunk.tokens);
            let chunk =
                chunk.ok_or_else(|| internal!("{wanted:?} is not in step {}", plan.step))?;
            let slot = chunk.slot;
            let row = chunk.first + wanted.token;
            if row < next_row {
                return Err(internal!("slot {slot}: logits rows out of order, or one twice"));
            }
            next_row = row + 1;

            let drafts = row_drafts(plan, wanted, chunk, batch.logits.last())?;
            let sampler = &self.slots[slot.index()].sampler;
            let logprobs = match wanted.purpose {
                Purpose::Verify { .. } => sampler.logprobs.clone(),
                Purpose::Sample if wanted.token + 1 == chunk.tokens => sampler.logprobs.clone(),
                Purpose::Sample => {
                    return Err(internal!("slot {slot} is sampled from within its chunk"));
                }
                Purpose::Report { .. } if sampler.prompt_logprobs.is_none() => {
                    return Err(internal!("slot {slot} reports without a spec"));
                }
                Purpose::Report { .. } => sampler.prompt_logprobs.clone(),
            };

            if chunk.logits == 0 {
                chunk.first_logits = nth;
            }
            chunk.logits += 1;
            let (chunk, purpose) = (wanted.chunk, wanted.purpose);
            batch.drafts |= drafts.behind > 0;
            batch.logits.push(BatchLogits { slot, chunk, row, purpose, drafts, logprobs });
        }

        match batch.logits.last() {
            Some(row) if row.drafts.behind > 0 => {
                Err(internal!("slot {}: nothing is sampled behind its drafts", row.slot))
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: &SlotChange, limits: &DeviceLimits) -> Result<()> {
        match change {
            SlotChange::Open(open) => self.open(open, limits),
            SlotChange::Pages { slot, group, pages } => {
                let most = limits.sequence_pages();
                let known = pages.iter().all(|page| page.index() < limits.pages);
                let held = self.open_slot(*slot)?;
                if *group != GroupId(0) || !known || held.pages + pages.len() > most {
                    return Err(internal!(
                        "slot {slot} cannot take the pages {pages:?} of group {group} after {} of \
                         {most}; the pool has {}",
                        held.pages,
                        limits.pages
                    ));
                }

                held.pages += pages.len();
                Ok(())
            }
            SlotChange::Close { slot } => {
                self.open_slot(*slot)?.open = false;
                Ok(())
            }
            SlotChange::Truncate { slot, length } => self.truncate(*slot, *length as usize, limits),
            SlotChange::SaveState { slot, snapshot } => {
                self.open_slot(*slot)?;
                let to = snapshot_place(*snapshot, limits)?;
                self.batch.state_copies.push(StateCopy { from: StatePlace::Slot(*slot), to });
                Ok(())
            }
            SlotChange::RestoreState { slot, snapshot } => {
                self.open_slot(*slot)?.lacks_state = false;
                let from = snapshot_place(*snapshot, limits)?;
                self.batch.state_copies.push(StateCopy { from, to: StatePlace::Slot(*slot) });
                Ok(())
            }
            SlotChange::Adapter { adapter_slot, adapter } => {
                self.adapter_slots.put(*adapter_slot, *adapter);
                Ok(())
            }
        }
    }

    /// A state goes back to behind a row of the newest chunk, which has a spare of each.
    fn truncate(&mut self, slot: SlotId, length: usize, limits: &DeviceLimits) -> Result<()> {
        let held = self.open_slot(slot)?;
        let before = held.length - held.newest;
        let row = length.checked_sub(before + 1);
        let drafts = length < held.length && held.newest <= 1 + limits.spares;
        let spare = row.filter(|_| drafts);
        let stays = length == held.length;
        if length > held.length || limits.state.layers > 0 && !stays && spare.is_none() {
            let held = held.length;
            return Err(internal!("slot {slot} cannot go back from {held} to {length}"));
        }

        held.length = length;
        held.newest = length.saturating_sub(before);
        if let Some(row) = spare.filter(|_| limits.state.layers > 0) {
            let from = StatePlace::Spare(slot, row);
            self.batch.state_copies.push(StateCopy { from, to: StatePlace::Slot(slot) });
        }
        Ok(())
    }

    fn open(&mut self, open: &SlotOpen, limits: &DeviceLimits) -> Result<()> {
        let adapter_slot = self.adapter_slots.of(open.adapter)?;
        let count = self.slots.len();
        let slot = self.slots.get_mut(open.slot.index());
        let slot = slot.ok_or_else(|| internal!("slot {} of {count}", open.slot))?;
        if open.tokens.len() > limits.sequence_tokens() {
            return Err(internal!("slot {} opens with {} tokens", open.slot, open.tokens.len()));
        }

        *slot = Slot {
            open: true,
            length: open.cached_tokens as usize,
            newest: 0,
            pages: 0,
            adapter_slot,
            lacks_state: limits.state.layers > 0 && open.cached_tokens > 0,
            sampler: open.sampler.clone(),
        };
        Ok(())
    }

    fn open_slot(&mut self, slot: SlotId) -> Result<&mut Slot> {
        let held = self.slots.get_mut(slot.index()).filter(|held| held.open);
        held.ok_or_else(|| internal!("slot {slot} is not open"))
    }
}

/// Where a row stands among the drafts of its chunk. The row of a draft, `last` among them, is
/// followed by that of the next one, or by the one that is sampled from behind them all.
fn row_drafts(
    plan: &StepPlan,
    wanted: &LogitsRow,
    chunk: &BatchChunk,
    last: Option<&BatchLogits>,
) -> Result<RowDrafts> {
    let token = wanted.token;
    let follows = last.is_some_and(|row| row.drafts.behind > 0);
    let adjoins = last.is_some_and(|row| row.row + 1 == chunk.first + token);
    let next = || plan.chunk_tokens.get(chunk.known? + token + 1);
    let fits = match wanted.purpose {
        Purpose::Verify { draft } => {
            let within = (1..=MAX_DRAFTS).contains(&(chunk.tokens - 1 - token));
            follows == (token > 0) && within && next() == Some(&draft)
        }
        Purpose::Sample => true,
        Purpose::Report { .. } => !follows,
    };
    if !fits || follows && !adjoins {
        return Err(internal!("slot {}: {wanted:?} among the rows of drafts", chunk.slot));
    }

    if follows || matches!(wanted.purpose, Purpose::Verify { .. }) {
        return Ok(RowDrafts { before: token, behind: chunk.tokens - 1 - token });
    }
    Ok(RowDrafts::default())
}

fn snapshot_place(snapshot: SnapshotId, limits: &DeviceLimits) -> Result<StatePlace> {
    let count = limits.snapshots;
    if snapshot.index() >= count {
        return Err(internal!("snapshot {snapshot} of {count}"));
    }
    Ok(StatePlace::Snapshot(snapshot))
}

/// Which adapter each adapter slot holds.
#[derive(Debug, Default)]
struct AdapterSlotTable(Vec<AdapterId>);

impl AdapterSlotTable {
    fn put(&mut self, adapter_slot: AdapterSlotId, adapter: AdapterId) {
        let count = self.0.len().max(adapter_slot.index() + 1);
        self.0.resize(count, AdapterId(0));
        self.0[adapter_slot.index()] = adapter;
    }

    /// The adapter's slot; none for the adapter 0.
    fn of(&self, adapter: AdapterId) -> Result<Option<AdapterSlotId>> {
        if adapter == AdapterId(0) {
            return Ok(None);
        }
        let at = self.0.iter().position(|&held| held == adapter);
        let at = at.ok_or_else(|| internal!("adapter {adapter} is in no adapter slot"))?;
        Ok(Some(AdapterSlotId(at as u16)))
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
