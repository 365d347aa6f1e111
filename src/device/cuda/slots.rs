//! Slot rows as the host sees them, and the input of a step as the GPU reads it: one run of u32
//! words with records, changes and their data (kernels/step.cu has the same lists). `Cuda::begin`
//! calls it; it touches no GPU.
//!
//! The host keeps of each row only what it needs to check a plan and to append pages: length and
//! number of pages. Everything else lives on the device alone.

use std::sync::Arc;

use super::sampler_row::{adjusts, SamplerRow, HEADER_WORDS};
use crate::device::batch::AdapterSlotTable;
use crate::device::DeviceLimits;
use crate::error::Result;
use crate::ids::{SlotId, TokenId};
use crate::internal;
use crate::plan::{Feed, Row as PlanRow, SlotChange, SlotOpen, StepPlan};
use crate::sampling::{LogprobSpec, SamplerSpec, TokenCounts};

/// Words of a row for the sampler's lists; longer ones lie elsewhere.
const LIST_WORDS: usize = 1024;
const RECORD_WORDS: usize = 10;
const CHANGE_WORDS: usize = 5;
/// `SLOT_ADAPTER` of the header: 1 + the adapter slot of the row's adapter, 0 = none.
const ADAPTER_WORD: usize = 23;
const FEED_LAST: u32 = 1;
const SAMPLE: u32 = 2;

/// Gives a slot memory for so many words: its address, which stays until the slot asks for more.
pub type Far<'a> = &'a mut dyn FnMut(SlotId, usize) -> Result<u64>;

/// Where the parts of a row lie, in words.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowLayout {
    pub lists: u32,
    pub pages: u32,
    pub counts: u32,
    /// Entries of `counts`, two words each.
    pub counts_capacity: u32,
    /// Words of a row.
    pub stride: u64,
}

impl RowLayout {
    pub fn new(limits: &DeviceLimits) -> RowLayout {
        let table = limits.max_model_len.div_ceil(limits.page_size);
        // Prompt and outputs, one sampled ahead of a stop that the host has not seen yet included.
        let capacity = limits.max_model_len + 2;
        let pages = HEADER_WORDS + LIST_WORDS;
        let counts = pages + table;
        RowLayout {
            lists: HEADER_WORDS as u32,
            pages: pages as u32,
            counts: counts as u32,
            counts_capacity: capacity as u32,
            stride: (counts + 2 * capacity).next_multiple_of(32) as u64,
        }
    }

    fn table_len(&self) -> usize {
        (self.counts - self.pages) as usize
    }
}

/// A run of words for a slot's row, or for memory at another address.
#[derive(Clone, Copy)]
struct Change {
    /// The address; 0 = the row.
    far: u64,
    to: u32,
    /// Into the step's data.
    from: u32,
    count: u32,
}

#[derive(Default, Clone)]
struct Row {
    open: bool,
    adapted: bool,
    length: usize,
    pages: usize,
    sampler: Arc<SamplerSpec>,
    /// Of this step.
    changes: Vec<Change>,
}

/// A sequence's share of the token rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqChunk {
    pub slot: u32,
    /// First token row.
    pub first: usize,
    pub tokens: usize,
    /// Positions after this step.
    pub length: usize,
}

/// One logits row.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitsRow {
    pub slot: SlotId,
    /// The token to report on; None: sample one.
    pub target: Option<TokenId>,
    /// Logprobs to report.
    pub logprobs: Option<LogprobSpec>,
}

/// What a step runs over, as far as the host must know.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    pub step: u64,
    /// Token rows: R of the ops.
    pub rows: usize,
    pub chunks: Vec<SeqChunk>,
    /// Logits rows, in the plan's order.
    pub samples: Vec<LogitsRow>,
    /// A sampled row has biases, penalties and the like.
    pub adjusts: bool,
    /// Records of the input: blocks of the kernel that reads it.
    pub records: usize,
    /// Every sequence feeds one token and samples: token row i is sampling row i.
    pub decode: bool,
    /// Some row has an adapter.
    pub adapters: bool,
}

#[derive(Default)]
pub struct Slots {
    layout: RowLayout,
    limits: Option<DeviceLimits>,
    rows: Vec<Row>,
    /// Slots with changes, in order.
    touched: Vec<SlotId>,
    adapter_slots: AdapterSlotTable,
    data: Vec<u32>,
    records: Vec<u32>,
    changes: Vec<u32>,
    pub batch: Batch,
}

impl Slots {
    pub fn new(limits: &DeviceLimits) -> Slots {
        Slots {
            layout: RowLayout::new(limits),
            limits: Some(limits.clone()),
            rows: vec![Row::default(); limits.slots],
            ..Slots::default()
        }
    }

    pub fn layout(&self) -> &RowLayout {
        &self.layout
    }

    /// Check a plan and encode it. `far` gives a slot memory for so many words.
    ///
    /// # Errors
    /// Internal: a plan that does not fit the limits or the slots' state. The device is lost then.
    pub fn begin(&mut self, plan: &StepPlan, far: Far<'_>) -> Result<()> {
        let Some(limits) = self.limits.clone() else {
            return Err(internal!("a step before reserve"));
        };
        self.data.clear();
        self.records.clear();
        self.changes.clear();
        self.touched.clear();
        if plan.tokens() > limits.step_tokens {
            return Err(internal!(
                "step {} has {} tokens, more than the {} that were reserved",
                plan.step,
                plan.tokens(),
                limits.step_tokens
            ));
        }
        for change in &plan.changes {
            self.change(change, &limits, far)?;
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.step = plan.step;
        batch.rows = 0;
        batch.samples.clear();
        batch.adjusts = false;
        batch.chunks.clear();
        batch.adapters = false;
        let chunks = self.data.len();
        self.data.extend(plan.chunk_tokens.iter().map(|t| t.0));
        let targets = self.data.len();
        self.data.extend(plan.targets.iter().map(|t| t.0));
        for row in &plan.rows {
            let tokens = row.feed.tokens();
            let (flag, chunk) = match &row.feed {
                Feed::Chunk(range) if range.end <= plan.chunk_tokens.len() => {
                    (0, chunks + range.start)
                }
                Feed::Last { count: 1 } => (FEED_LAST, 0),
                other => return Err(internal!("step {}: cannot feed {other:?}", plan.step)),
            };
            let length = self.advance(row.slot, tokens, &limits)?;
            batch.adapters |= self.rows[row.slot.index()].adapted;
            let (slot, first) = (row.slot.0, batch.rows);
            batch.chunks.push(SeqChunk { slot, first, tokens, length });
            let sample = if row.sample { SAMPLE } else { 0 };
            let (first, nth) = (batch.rows as u32, batch.samples.len() as u32);
            let scored = self.push_logits_rows(plan, row, &mut batch)? as u32;
            let targets = (targets + row.score.as_ref().map_or(0, |score| score.start)) as u32;
            let (tokens, chunk) = (tokens as u32, chunk as u32);
            let record = [tokens, flag | sample, chunk, first, nth, scored, targets];
            self.record(row.slot, record);
            batch.rows += tokens as usize;
        }
        if batch.samples.len() > limits.logits_rows {
            let (rows, limit) = (batch.samples.len(), limits.logits_rows);
            return Err(internal!("step {} has {rows} logits rows of {limit}", plan.step));
        }
        // Slots with changes that feed nothing.
        for slot in std::mem::take(&mut self.touched) {
            if !self.rows[slot.index()].changes.is_empty() {
                self.record(slot, [0; 7]);
            }
        }
        batch.records = self.records.len() / RECORD_WORDS;
        batch.decode = batch.rows == plan.rows.len() && batch.samples.len() == batch.rows;
        self.batch = batch;
        self.place();
        Ok(())
    }

    /// Words of the encoded input.
    pub fn words(&self) -> usize {
        self.records.len() + self.changes.len() + self.data.len()
    }

    /// Write the encoded input to `to`, which has at least [`Slots::words`].
    pub fn write(&self, to: &mut [u32]) {
        let mut at = 0;
        for part in [&self.records, &self.changes, &self.data] {
            to[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }

    /// Turn offsets into the parts into offsets into the whole.
    fn place(&mut self) {
        let changes_at = self.records.len() as u32;
        let data_at = changes_at + self.changes.len() as u32;
        for record in self.records.chunks_exact_mut(RECORD_WORDS) {
            record[3] += data_at;
            record[6] += changes_at;
            record[9] += data_at;
        }
        for change in self.changes.chunks_exact_mut(CHANGE_WORDS) {
            change[1] += data_at;
        }
    }

    /// Logits rows of `row`; how many are scored.
    fn push_logits_rows(
        &mut self,
        plan: &StepPlan,
        row: &PlanRow,
        batch: &mut Batch,
    ) -> Result<usize> {
        let (slot, tokens) = (row.slot, row.feed.tokens());
        let targets = plan.targets.get(row.score.clone().unwrap_or_default());
        let targets = targets.filter(|_| row.logits_rows() <= tokens);
        let targets = targets.ok_or_else(|| {
            let (scores, sample) = (&row.score, row.sample);
            internal!("slot {slot} feeds {tokens} tokens, scores {scores:?}, samples: {sample}")
        })?;
        let spec = &self.row(slot)?.sampler;
        let logprobs = &spec.prompt_logprobs;
        if logprobs.is_none() && !targets.is_empty() {
            return Err(internal!("slot {slot} scores without a spec"));
        }
        batch.samples.extend(targets.iter().map(|&target| LogitsRow {
            slot,
            target: Some(target),
            logprobs: logprobs.clone(),
        }));
        if row.sample {
            batch.adjusts |= adjusts(spec);
            batch.samples.push(LogitsRow { slot, target: None, logprobs: spec.logprobs.clone() });
        }
        Ok(targets.len())
    }

    /// A record of slot, `of`: tokens, flags, chunk, first token row, first logits row, scored,
    /// targets, and of the slot's changes.
    fn record(&mut self, slot: SlotId, of: [u32; 7]) {
        let changes = &mut self.rows[slot.index()].changes;
        let (first, count) = (self.changes.len() as u32, changes.len() as u32);
        for Change { far, to, from, count } in changes.drain(..) {
            self.changes.extend([to, from, count, far as u32, (far >> 32) as u32]);
        }
        let [tokens, flags, chunk, row, nth, scored, targets] = of;
        let record = [slot.0, tokens, flags, chunk, row, nth, first, count, scored, targets];
        self.records.extend(record);
    }

    fn row(&mut self, slot: SlotId) -> Result<&mut Row> {
        let count = self.rows.len();
        let row = self.rows.get_mut(slot.index());
        row.ok_or_else(|| internal!("slot {slot} of {count}"))
    }

    fn advance(&mut self, slot: SlotId, tokens: usize, limits: &DeviceLimits) -> Result<usize> {
        let row = self.row(slot)?;
        let length = row.length + tokens;
        if !row.open || tokens == 0 || length > row.pages * limits.page_size {
            return Err(internal!(
                "slot {slot} (open: {}) cannot grow from {} by {tokens} positions in {} pages",
                row.open,
                row.length,
                row.pages
            ));
        }
        row.length = length;
        Ok(length)
    }

    fn change(&mut self, change: &SlotChange, limits: &DeviceLimits, far: Far<'_>) -> Result<()> {
        match change {
            SlotChange::Open(open) => self.open(open, far),
            SlotChange::Adapter { adapter_slot, adapter } => {
                self.adapter_slots.put(*adapter_slot, *adapter);
                Ok(())
            }
            SlotChange::Close { slot } => {
                let row = self.row(*slot)?;
                row.open = false;
                row.changes.clear();
                Ok(())
            }
            SlotChange::Pages { slot, group, pages } => {
                let table = self.layout.table_len();
                let row = self.row(*slot)?;
                let first = row.pages;
                let fits = first + pages.len() <= table;
                let known = pages.iter().all(|p| p.index() < limits.pages);
                if group.0 != 0 || !row.open || !fits || !known {
                    return Err(internal!(
                        "slot {slot} cannot take {} pages of group {group} after {first} of \
                         {table}",
                        pages.len()
                    ));
                }
                row.pages += pages.len();
                let at = self.layout.pages + first as u32;
                self.put(*slot, 0, at, pages.iter().map(|p| p.0))
            }
        }
    }

    fn open(&mut self, open: &SlotOpen, far: Far<'_>) -> Result<()> {
        let slot = open.slot;
        let adapter_slot = self.adapter_slots.of(open.adapter)?;
        let row = self.row(slot)?;
        let (length, adapted) = (open.cached_tokens as usize, adapter_slot.is_some());
        row.changes.clear();
        let (sampler, changes) = (open.sampler.clone(), std::mem::take(&mut row.changes));
        *row = Row { open: true, adapted, length, pages: 0, sampler, changes };
        let (prompt, outputs) =
            open.tokens.split_at((open.prompt_tokens as usize).min(open.tokens.len()));
        let counts = open.sampler.needs_counts().then(|| TokenCounts::new(prompt, outputs));
        let counts: Vec<u32> =
            counts.iter().flat_map(TokenCounts::iter).flat_map(|(t, n)| [t.0, n]).collect();
        let sampler = SamplerRow::new(open, outputs, counts.len() / 2);
        let (far, lists_at) = match sampler.lists.len() {
            0..=LIST_WORDS => (0, self.layout.lists),
            words => (far(slot, words)?, 0),
        };
        let mut header = sampler.header(far);
        header[ADAPTER_WORD] = adapter_slot.map_or(0, |adapter_slot| 1 + u32::from(adapter_slot.0));
        self.put(slot, 0, 0, header)?;
        self.put(slot, far, lists_at, sampler.lists)?;
        if counts.len() / 2 > self.layout.counts_capacity as usize {
            return Err(internal!("slot {slot} opens with {} tokens", open.tokens.len()));
        }
        self.put(slot, 0, self.layout.counts, counts)
    }

    /// Words for the slot's row, or for the memory at `far`, from word `to` on.
    fn put(
        &mut self,
        slot: SlotId,
        far: u64,
        to: u32,
        words: impl IntoIterator<Item = u32>,
    ) -> Result<()> {
        let from = self.data.len();
        self.data.extend(words);
        let count = (self.data.len() - from) as u32;
        if count > 0 {
            self.touched.push(slot);
            self.row(slot)?.changes.push(Change { far, to, from: from as u32, count });
        }
        Ok(())
    }
}
