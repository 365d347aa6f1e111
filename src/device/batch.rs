//! Slot rows and the current batch, for devices that keep them on the host (`cpu`, `trace`): what
//! lives between steps, and what a step runs over. It knows no activations and no pages' contents.

use std::sync::Arc;

use super::DeviceLimits;
use crate::error::Result;
use crate::ids::{AdapterId, AdapterSlotId, GroupId, PageId, SlotId, TokenId};
use crate::internal;
use crate::plan::{Feed, Row, SlotChange, SlotOpen, StepPlan};
use crate::sampling::{History, SamplerSpec};

/// One sequence's row.
pub struct SlotRow {
    pub pages: Vec<PageId>,
    /// Positions whose K and V are in pages, once the current step has run.
    pub length: usize,
    pub last: TokenId,
    /// Of its adapter, if it has one.
    pub adapter_slot: Option<AdapterSlotId>,
    pub sampler: Arc<SamplerSpec>,
    /// As far as the sampler needs it.
    pub history: History,
}

impl SlotRow {
    fn open(open: &SlotOpen, adapter_slot: Option<AdapterSlotId>) -> SlotRow {
        let (prompt, outputs) =
            open.tokens.split_at(open.tokens.len().min(open.prompt_tokens as usize));
        SlotRow {
            pages: Vec::new(),
            length: open.cached_tokens as usize,
            last: TokenId(0),
            adapter_slot,
            history: History::new(&open.sampler, prompt, outputs),
            sampler: open.sampler.clone(),
        }
    }

    /// Record a sampled token.
    pub fn accept(&mut self, token: TokenId) {
        self.last = token;
        self.history.push(token);
    }
}

/// One token row of the batch.
#[derive(Debug, Clone, Copy)]
pub struct TokenRow {
    pub token: TokenId,
    pub position: usize,
    pub slot: SlotId,
}

/// What the ops run over.
#[derive(Default)]
pub struct Batch {
    pub step: u64,
    pub rows: Vec<TokenRow>,
    /// In the plan's order: S of the ops.
    pub logits: Vec<LogitsRow>,
    /// Some row has an adapter.
    pub adapters: bool,
    /// The adapter slot of each row, and of each logits row; only where there are adapters.
    pub adapter_slots: Vec<Option<AdapterSlotId>>,
    pub logits_adapter_slots: Vec<Option<AdapterSlotId>>,
}

/// Which adapter each adapter slot holds. Every device has one.
#[derive(Debug, Default)]
pub struct AdapterSlotTable(Vec<AdapterId>);

impl AdapterSlotTable {
    pub fn put(&mut self, adapter_slot: AdapterSlotId, adapter: AdapterId) {
        let adapter_slots = self.0.len().max(adapter_slot.index() + 1);
        self.0.resize(adapter_slots, AdapterId(0));
        self.0[adapter_slot.index()] = adapter;
    }

    /// The adapter's adapter slot; none for the adapter 0.
    ///
    /// # Errors
    /// Internal: no adapter slot holds it.
    pub fn of(&self, adapter: AdapterId) -> Result<Option<AdapterSlotId>> {
        if adapter == AdapterId(0) {
            return Ok(None);
        }
        let at = self.0.iter().position(|&held| held == adapter);
        let at = at.ok_or_else(|| internal!("adapter {adapter} is in no adapter slot"))?;
        Ok(Some(AdapterSlotId(at as u16)))
    }
}

/// One logits row of the batch.
#[derive(Debug, Clone, Copy)]
pub struct LogitsRow {
    pub slot: SlotId,
    /// Its token row.
    pub row: usize,
    /// The token to report logprobs of; None: sample one.
    pub target: Option<TokenId>,
}

impl Batch {
    /// The logits rows of `row`, whose token rows begin at `first`.
    fn push_logits_rows(&mut self, plan: &StepPlan, row: &Row, first: usize) -> Result<()> {
        let tokens = row.feed.tokens();
        if row.logits_rows() > tokens {
            let (slot, rows) = (row.slot, row.logits_rows());
            return Err(internal!("slot {slot} wants {rows} logits rows of {tokens} tokens"));
        }
        let targets = plan.targets.get(row.score.clone().unwrap_or_default());
        let targets = targets.ok_or_else(|| internal!("targets {:?}", row.score))?;
        let slot = row.slot;
        for (i, &target) in targets.iter().enumerate() {
            self.logits.push(LogitsRow { slot, row: first + i, target: Some(target) });
        }
        if row.sample {
            self.logits.push(LogitsRow { slot, row: first + tokens - 1, target: None });
        }
        Ok(())
    }
}

impl Batch {
    /// The token rows of each sequence, in order.
    pub fn sequences(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let mut first = 0;
        self.rows.chunk_by(|a, b| a.slot == b.slot).map(move |rows| {
            let begin = first;
            first += rows.len();
            begin..first
        })
    }

    /// The token rows of the sequence of a logits row, which must begin in this step.
    ///
    /// # Errors
    /// Internal: it began earlier.
    pub fn whole(&self, logits_row: &LogitsRow) -> Result<std::ops::Range<usize>> {
        let (slot, last) = (logits_row.slot, logits_row.row);
        let first = last.checked_sub(self.rows[last].position);
        let first = first.filter(|&first| self.rows[first].slot == slot);
        first
            .map(|first| first..last + 1)
            .ok_or_else(|| internal!("slot {slot} is pooled over a prompt that came in pieces"))
    }
}

/// All slots of a device, and the current batch.
#[derive(Default)]
pub struct Slots {
    rows: Vec<Option<SlotRow>>,
    pub batch: Batch,
    adapter_slots: AdapterSlotTable,
    page_size: usize,
    step_tokens: usize,
    logits_rows: usize,
    pages: usize,
}

impl Slots {
    pub fn new(limits: &DeviceLimits) -> Slots {
        Slots {
            rows: (0..limits.slots).map(|_| None).collect(),
            batch: Batch::default(),
            adapter_slots: AdapterSlotTable::default(),
            page_size: limits.page_size,
            step_tokens: limits.step_tokens,
            logits_rows: limits.logits_rows,
            pages: limits.pages,
        }
    }

    /// # Errors
    /// Internal: the slot is not open, or does not exist.
    pub fn row(&self, slot: SlotId) -> Result<&SlotRow> {
        let row = self.rows.get(slot.index()).and_then(Option::as_ref);
        row.ok_or_else(|| internal!("slot {slot} is not open"))
    }

    pub fn row_mut(&mut self, slot: SlotId) -> Result<&mut SlotRow> {
        let row = self.rows.get_mut(slot.index()).and_then(Option::as_mut);
        row.ok_or_else(|| internal!("slot {slot} is not open"))
    }

    /// Apply the plan's changes and flatten its rows.
    ///
    /// # Errors
    /// Internal: a plan that does not fit the limits or the slots' state. The device is lost then.
    pub fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        for change in &plan.changes {
            self.change(change)?;
        }
        if plan.tokens() > self.step_tokens {
            return Err(internal!(
                "step {} has {} tokens, more than the {} that were reserved",
                plan.step,
                plan.tokens(),
                self.step_tokens
            ));
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.step = plan.step;
        batch.rows.clear();
        batch.logits.clear();
        batch.adapters = false;
        for row in &plan.rows {
            let page_size = self.page_size;
            let slot = self.row_mut(row.slot)?;
            let first = slot.length;
            batch.adapters |= slot.adapter_slot.is_some();
            match &row.feed {
                Feed::Chunk(range) => {
                    let tokens = plan.chunk_tokens.get(range.clone());
                    let tokens =
                        tokens.ok_or_else(|| internal!("chunk {range:?} is not in the plan"))?;
                    batch.rows.extend(tokens.iter().enumerate().map(|(i, &token)| TokenRow {
                        token,
                        position: first + i,
                        slot: row.slot,
                    }));
                }
                Feed::Last { count: 1 } => {
                    batch.rows.push(TokenRow { token: slot.last, position: first, slot: row.slot });
                }
                Feed::Last { count } => return Err(internal!("cannot feed {count} last tokens")),
            }
            slot.length += row.feed.tokens();
            if slot.length > slot.pages.len() * page_size {
                return Err(internal!(
                    "slot {} needs {} positions, its {} pages hold {}",
                    row.slot,
                    slot.length,
                    slot.pages.len(),
                    slot.pages.len() * page_size
                ));
            }
            let first = batch.rows.len() - row.feed.tokens();
            batch.push_logits_rows(plan, row, first)?;
        }
        if batch.logits.len() > self.logits_rows {
            let (rows, limit) = (batch.logits.len(), self.logits_rows);
            return Err(internal!("step {} has {rows} logits rows of {limit}", plan.step));
        }
        batch.adapter_slots.clear();
        batch.logits_adapter_slots.clear();
        if batch.adapters {
            for row in &batch.rows {
                batch.adapter_slots.push(self.row(row.slot)?.adapter_slot);
            }
            batch
                .logits_adapter_slots
                .extend(batch.logits.iter().map(|logits_row| batch.adapter_slots[logits_row.row]));
        }
        self.batch = batch;
        Ok(())
    }

    fn change(&mut self, change: &SlotChange) -> Result<()> {
        match change {
            SlotChange::Open(open) => {
                let adapter_slot = self.adapter_slots.of(open.adapter)?;
                let count = self.rows.len();
                let row = self.rows.get_mut(open.slot.index());
                let row = row.ok_or_else(|| internal!("slot {} of {count}", open.slot))?;
                *row = Some(SlotRow::open(open, adapter_slot));
            }
            SlotChange::Pages { slot, group, pages } => {
                if *group != GroupId(0) {
                    return Err(internal!("page group {group} does not exist"));
                }
                if let Some(page) = pages.iter().find(|p| p.index() >= self.pages) {
                    return Err(internal!("page {page} of {}", self.pages));
                }
                self.row_mut(*slot)?.pages.extend_from_slice(pages);
            }
            SlotChange::Close { slot } => {
                self.row(*slot)?;
                self.rows[slot.index()] = None;
            }
            SlotChange::Adapter { adapter_slot, adapter } => {
                self.adapter_slots.put(*adapter_slot, *adapter)
            }
        }
        Ok(())
    }
}
