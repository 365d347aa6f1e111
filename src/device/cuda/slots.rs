//! The input of a step as the GPU reads it: one run of u32 words with records, changes of slot rows
//! and their data (kernels/step.cu has the same lists). `Cuda::begin` calls it with a plan that
//! [`SlotTable`] has checked; it touches no GPU.
//!
//! The host keeps of each row only how many pages it has, to append others. Everything else lives
//! on the device alone.

use super::sampler_row::{adjusts, SamplerRow, HEADER_WORDS};
use crate::device::batch::{Batch, BatchChunk, SlotTable};
use crate::device::DeviceLimits;
use crate::error::Result;
use crate::ids::SlotId;
use crate::internal;
use crate::plan::{Purpose, SlotChange, SlotOpen, StepPlan};
use crate::sampling::TokenCounts;

/// Words of a row for the sampler's lists; longer ones lie elsewhere.
const LIST_WORDS: usize = 1024;
const RECORD_WORDS: usize = 10;
const CHANGE_WORDS: usize = 5;
/// Words of a logits row.
const LOGITS_WORDS: usize = 2;
/// `SLOT_ADAPTER` of the header: 1 + the adapter slot of the row's adapter, 0 = none.
const ADAPTER_WORD: usize = 23;
/// Flag of a record: its token is the one that the slot sampled last.
const FEED_LAST: u32 = 1;
/// Instead of the token to report on: sample one.
const TO_SAMPLE: u32 = u32::MAX;

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

/// What the host keeps of a slot's row.
#[derive(Default, Clone)]
struct Row {
    /// Pages in its table.
    pages: usize,
    /// Of this step.
    changes: Vec<Change>,
}

/// The rows of all slots, and the input of the current step.
#[derive(Default)]
pub struct Slots {
    layout: RowLayout,
    table: SlotTable,
    rows: Vec<Row>,
    /// Slots with changes, in order.
    touched: Vec<SlotId>,
    data: Vec<u32>,
    records: Vec<u32>,
    changes: Vec<u32>,
    /// A sampled row has biases, penalties and the like.
    pub adjusts: bool,
}

impl Slots {
    /// All slots closed.
    pub fn new(limits: &DeviceLimits) -> Slots {
        Slots {
            layout: RowLayout::new(limits),
            table: SlotTable::new(limits),
            rows: vec![Row::default(); limits.slots],
            ..Slots::default()
        }
    }

    /// Where the parts of a row lie.
    pub fn layout(&self) -> &RowLayout {
        &self.layout
    }

    /// The current batch.
    pub fn batch(&self) -> &Batch {
        &self.table.batch
    }

    /// Records of the input: blocks of the kernel that reads it.
    pub fn records(&self) -> usize {
        self.records.len() / RECORD_WORDS
    }

    /// Check a plan and encode it. `far` gives a slot memory for so many words.
    ///
    /// # Errors
    /// Internal: a plan that does not fit the limits or the slots' state. The device is lost then.
    pub fn begin(&mut self, plan: &StepPlan, far: Far<'_>) -> Result<()> {
        self.table.begin(plan)?;
        self.data.clear();
        self.records.clear();
        self.changes.clear();
        self.touched.clear();
        for change in &plan.changes {
            self.change(change, far)?;
        }

        let chunk_tokens = self.data.len();
        self.data.extend(plan.chunk_tokens.iter().map(|token| token.0));
        let logits = self.data.len();
        self.put_logits();
        for nth in 0..self.table.batch.chunks.len() {
            let chunk = self.table.batch.chunks[nth];
            self.record(&chunk, chunk_tokens, logits);
        }
        // Slots with changes that feed nothing.
        for slot in std::mem::take(&mut self.touched) {
            if !self.rows[slot.index()].changes.is_empty() {
                self.record(&empty(slot), 0, 0);
            }
        }
        self.place();
        Ok(())
    }

    /// Two words for each logits row: its token row, and the token to report on.
    fn put_logits(&mut self) {
        self.adjusts = false;
        for row in &self.table.batch.logits {
            let next = match row.purpose {
                Purpose::Report { next } => next.0,
                Purpose::Sample => {
                    self.adjusts |= self.table.sampler(row.slot).is_some_and(|spec| adjusts(spec));
                    TO_SAMPLE
                }
            };
            self.data.extend([row.row as u32, next]);
        }
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

    /// A record of a sequence, with its slot's changes. Known tokens and logits rows of the step
    /// begin at these words of the data.
    fn record(&mut self, chunk: &BatchChunk, chunk_tokens: usize, logits: usize) {
        let changes = &mut self.rows[chunk.slot.index()].changes;
        let first_change = self.changes.len();
        let change_count = changes.len();
        for Change { far, to, from, count } in changes.drain(..) {
            self.changes.extend([to, from, count, far as u32, (far >> 32) as u32]);
        }

        let flags = if chunk.known.is_none() { FEED_LAST } else { 0 };
        let tokens_at = chunk_tokens + chunk.known.unwrap_or(0);
        let logits_at = logits + LOGITS_WORDS * chunk.first_logits;
        let numbers = [
            chunk.tokens,
            flags as usize,
            tokens_at,
            chunk.first,
            chunk.first_logits,
            first_change,
            change_count,
            chunk.logits,
            logits_at,
        ];
        self.records.push(chunk.slot.0);
        self.records.extend(numbers.map(|n| n as u32));
    }

    fn row(&mut self, slot: SlotId) -> Result<&mut Row> {
        let count = self.rows.len();
        let row = self.rows.get_mut(slot.index());
        row.ok_or_else(|| internal!("slot {slot} of {count}"))
    }

    fn change(&mut self, change: &SlotChange, far: Far<'_>) -> Result<()> {
        match change {
            SlotChange::Open(open) => self.open(open, far),
            SlotChange::Adapter { .. } => Ok(()),
            SlotChange::Close { slot } => {
                self.row(*slot)?.changes.clear();
                Ok(())
            }
            SlotChange::Pages { slot, pages, .. } => {
                let row = self.row(*slot)?;
                let first = row.pages;
                row.pages += pages.len();
                let at = self.layout.pages + first as u32;
                self.put(*slot, 0, at, pages.iter().map(|p| p.0))
            }
        }
    }

    fn open(&mut self, open: &SlotOpen, far: Far<'_>) -> Result<()> {
        let slot = open.slot;
        let row = self.row(slot)?;
        row.changes.clear();
        row.pages = 0;

        let prompt_tokens = (open.prompt_tokens as usize).min(open.tokens.len());
        let (prompt, outputs) = open.tokens.split_at(prompt_tokens);
        let counts = open.sampler.needs_counts().then(|| TokenCounts::new(prompt, outputs));
        let counts: Vec<u32> =
            counts.iter().flat_map(TokenCounts::iter).flat_map(|(t, n)| [t.0, n]).collect();
        if counts.len() / 2 > self.layout.counts_capacity as usize {
            return Err(internal!("slot {slot} opens with {} tokens", open.tokens.len()));
        }

        let sampler = SamplerRow::new(open, outputs, counts.len() / 2);
        let (far, lists_at) = match sampler.lists.len() {
            0..=LIST_WORDS => (0, self.layout.lists),
            words => (far(slot, words)?, 0),
        };
        let mut header = sampler.header(far);
        header[ADAPTER_WORD] =
            self.table.adapter_slot(slot).map_or(0, |slot| 1 + u32::from(slot.0));
        self.put(slot, 0, 0, header)?;
        self.put(slot, far, lists_at, sampler.lists)?;
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

/// A record that applies changes and feeds nothing.
fn empty(slot: SlotId) -> BatchChunk {
    BatchChunk { slot, first: 0, tokens: 0, length: 0, known: Some(0), first_logits: 0, logits: 0 }
}
