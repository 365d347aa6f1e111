//! The input of a step as the GPU reads it: records, changes of slot rows, and the words that both
//! point to (kernels/step.cu reads them). `Cuda::begin` calls it with a plan that
//! [`SlotTable`] has checked; it touches no GPU.
//!
//! The host keeps of each row only its pages, to append others and to know who shares them.
//! Everything else lives on the device alone.

use std::sync::Arc;

use super::abi::{
    LogitsRecord, RowChange, RowDrafts, SlotHeader, SlotRows, StepRecord, FEED_LAST, HAS_PLACES,
    MAX_DRAFTS, TO_SAMPLE,
};
use super::device_ptr::DevicePtr;
use super::sampler_row::{adjusts, greedy, SamplerRow};
use super::shared_keys::{self, SharedKeys};
use crate::device::batch::{Batch, BatchChunk, SlotTable};
use crate::device::DeviceLimits;
use crate::error::Result;
use crate::ids::SlotId;
use crate::internal;
use crate::plan::{PromptImages, Purpose, SlotChange, SlotOpen, StepPlan};
use crate::sampling::TokenCounts;

/// Words of a row for the sampler's lists; longer ones lie elsewhere.
const LIST_WORDS: usize = 1024;
const HEADER_WORDS: usize = words_of::<SlotHeader>();
/// Word of a row that holds its length.
const LENGTH_AT: u32 = (std::mem::offset_of!(SlotHeader, length) / size_of::<u32>()) as u32;
const _: () = assert!(MAX_DRAFTS == crate::plan::MAX_DRAFTS as u32);
// Changes lie behind the records, and hold pointers.
const _: () = assert!(size_of::<StepRecord>().is_multiple_of(align_of::<RowChange>()));

const fn words_of<T>() -> usize {
    size_of::<T>() / size_of::<u32>()
}

/// Gives a slot memory for so many words: its address, which stays until the slot asks for more.
pub type Far<'a> = &'a mut dyn FnMut(SlotId, usize) -> Result<DevicePtr>;

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
        let capacity = limits.sequence_tokens();
        let pages = HEADER_WORDS + LIST_WORDS;
        let counts = pages + limits.sequence_pages();
        RowLayout {
            lists: HEADER_WORDS as u32,
            pages: pages as u32,
            counts: counts as u32,
            counts_capacity: capacity as u32,
            stride: (counts + 2 * capacity).next_multiple_of(32) as u64,
        }
    }

    /// For kernels, where the rows of all slots lie at `rows`.
    pub fn at(&self, rows: DevicePtr) -> SlotRows {
        let RowLayout { lists, pages, counts, counts_capacity, stride } = *self;
        SlotRows { rows, stride, lists, pages, counts, counts_capacity }
    }
}

/// What the host keeps of a slot's row.
#[derive(Default, Clone)]
struct HostRow {
    /// Its table.
    pages: Vec<u32>,
    /// Of this step; they count `from` from the start of the data.
    changes: Vec<RowChange>,
    /// Of its prompt; they say by what its tokens turn.
    images: Option<Arc<PromptImages>>,
}

/// The rows of all slots, and the input of the current step.
#[derive(Default)]
pub struct Slots {
    layout: RowLayout,
    table: SlotTable,
    rows: Vec<HostRow>,
    /// Slots with changes, in order.
    touched: Vec<SlotId>,
    data: Vec<u32>,
    records: Vec<StepRecord>,
    changes: Vec<RowChange>,
    /// A sampled row has biases, penalties and the like.
    pub adjusts: bool,
    /// Each sampled row's token is that of its largest logit, whatever the token.
    pub greedy: bool,
}

impl Slots {
    /// All slots closed.
    pub fn new(limits: &DeviceLimits) -> Slots {
        Slots {
            layout: RowLayout::new(limits),
            table: SlotTable::new(limits),
            rows: vec![HostRow::default(); limits.slots],
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
        self.records.len()
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
        for (slot, images) in &plan.images {
            self.row(*slot)?.images = Some(Arc::clone(images));
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

    /// The logits rows of the step.
    fn put_logits(&mut self) {
        (self.adjusts, self.greedy) = (false, true);
        for row in &self.table.batch.logits {
            let target = match row.purpose {
                Purpose::Report { next } => next.0,
                Purpose::Sample | Purpose::Verify { .. } => {
                    let spec = self.table.sampler(row.slot);
                    self.adjusts |= spec.is_some_and(|spec| adjusts(spec));
                    self.greedy &= spec.is_some_and(|spec| greedy(spec));
                    TO_SAMPLE
                }
            };
            let drafts =
                RowDrafts { before: row.drafts.before as u32, behind: row.drafts.behind as u32 };
            let record = LogitsRecord { row: row.row as u32, target, drafts };
            self.data.extend_from_slice(bytemuck::cast_slice(&[record]));
        }
    }

    /// Words of the encoded input.
    pub fn words(&self) -> usize {
        size_of_val(&*self.records) / 4 + size_of_val(&*self.changes) / 4 + self.data.len()
    }

    /// Write the encoded input to `to`, which has at least [`Slots::words`].
    pub fn write(&self, to: &mut [u32]) {
        let mut at = 0;
        let parts: [&[u32]; 3] =
            [bytemuck::cast_slice(&self.records), bytemuck::cast_slice(&self.changes), &self.data];
        for part in parts {
            to[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }

    /// Turn offsets into the parts into offsets into the whole.
    fn place(&mut self) {
        let changes_at = (self.records.len() * words_of::<StepRecord>()) as u32;
        let data_at = changes_at + (self.changes.len() * words_of::<RowChange>()) as u32;
        for record in &mut self.records {
            record.chunk += data_at;
            record.changes += changes_at;
            record.logits += data_at;
            record.places += data_at;
        }
        for change in &mut self.changes {
            change.from += data_at;
        }
    }

    /// A record of a sequence, with its slot's changes. Known tokens and logits rows of the step
    /// begin at these words of the data.
    fn record(&mut self, chunk: &BatchChunk, chunk_tokens: usize, logits: usize) {
        let changes = &mut self.rows[chunk.slot.index()].changes;
        let first_change = self.changes.len();
        let change_count = changes.len();
        self.changes.append(changes);

        let places = self.put_places(chunk);
        let last = if chunk.known.is_none() { FEED_LAST } else { 0 };
        let logits_at = logits + chunk.first_logits * words_of::<LogitsRecord>();
        self.records.push(StepRecord {
            slot: chunk.slot.0,
            tokens: chunk.tokens as u32,
            flags: last | places.map_or(0, |_| HAS_PLACES),
            chunk: (chunk_tokens + chunk.known.unwrap_or(0)) as u32,
            first_row: chunk.first as u32,
            first_logits_row: chunk.first_logits as u32,
            changes: (first_change * words_of::<RowChange>()) as u32,
            change_count: change_count as u32,
            logits_count: chunk.logits as u32,
            logits: logits_at as u32,
            places: places.unwrap_or(0) as u32,
            unused: 0,
        });
    }

    /// By what the tokens of a sequence with images turn, or, where images are seen both ways,
    /// their positions and what they see of their image; where in the data.
    fn put_places(&mut self, chunk: &BatchChunk) -> Option<usize> {
        let images = self.rows.get(chunk.slot.index())?.images.as_ref()?;
        let at = self.data.len();
        let fed = chunk.position()..chunk.length;
        let places = |index| match images.seen_from(index, true) {
            [first, last] if images.both_ways.anywhere() => {
                [index, first, last.min(chunk.length - 1)]
            }
            _ => images.positions_of(index),
        };
        self.data.extend(fed.flat_map(places).map(|at| at as u32));
        Some(at)
    }

    /// Sequences of the step that have their first keys in common, on pages of `page_size`.
    pub fn shared_keys(&self, page_size: usize) -> Vec<SharedKeys> {
        let row = |chunk: &BatchChunk| self.rows.get(chunk.slot.index());
        shared_keys::find(&self.batch().chunks, page_size, |chunk| {
            row(chunk).map_or(&[], |row| &row.pages)
        })
    }

    /// Where the keys end that the token of a chunk at this position sees: behind itself, or behind
    /// its image, if its tokens see each other in some layers: others mask those.
    pub fn keys_end(&self, chunk: &BatchChunk, position: usize) -> usize {
        let images = self.rows.get(chunk.slot.index()).and_then(|row| row.images.as_ref());
        let last = images.map_or(position, |images| images.seen_from(position, true)[1]);
        (last + 1).min(chunk.length)
    }

    /// The step feeds tokens of images that see each other, in layers with a window or without.
    pub fn sees_both_ways(&self, window: bool) -> bool {
        let images = |chunk: &BatchChunk| self.rows.get(chunk.slot.index())?.images.as_ref();
        let both_ways =
            |chunk: &BatchChunk| images(chunk).is_some_and(|images| images.both_ways.holds(window));
        self.batch().chunks.iter().any(both_ways) && self.feeds_images()
    }

    /// The step feeds tokens of images.
    pub fn feeds_images(&self) -> bool {
        let feeds = |chunk: &BatchChunk| {
            let images = self.rows.get(chunk.slot.index()).and_then(|row| row.images.as_ref());
            let fed = chunk.position()..chunk.length;
            images.is_some_and(|images| images.overlapping(fed).next().is_some())
        };
        self.batch().chunks.iter().any(feeds)
    }

    fn row(&mut self, slot: SlotId) -> Result<&mut HostRow> {
        let count = self.rows.len();
        let row = self.rows.get_mut(slot.index());
        row.ok_or_else(|| internal!("slot {slot} of {count}"))
    }

    fn change(&mut self, change: &SlotChange, far: Far<'_>) -> Result<()> {
        match change {
            SlotChange::Open(open) => self.open(open, far),
            SlotChange::Adapter { .. }
            | SlotChange::SaveState { .. }
            | SlotChange::RestoreState { .. } => Ok(()),
            SlotChange::Truncate { slot, length } => {
                self.put(*slot, DevicePtr::NULL, LENGTH_AT, [*length])
            }
            SlotChange::Close { slot } => {
                self.row(*slot)?.changes.clear();
                Ok(())
            }
            SlotChange::Pages { slot, pages, .. } => {
                let row = self.row(*slot)?;
                let first = row.pages.len();
                row.pages.extend(pages.iter().map(|page| page.0));
                let at = self.layout.pages + first as u32;
                self.put(*slot, DevicePtr::NULL, at, pages.iter().map(|p| p.0))
            }
        }
    }

    fn open(&mut self, open: &SlotOpen, far: Far<'_>) -> Result<()> {
        let slot = open.slot;
        let row = self.row(slot)?;
        row.changes.clear();
        row.images = None;
        row.pages.clear();

        let prompt_tokens = (open.prompt_tokens as usize).min(open.tokens.len());
        let (prompt, outputs) = open.tokens.split_at(prompt_tokens);
        // An entry a token at most, and the table has refused more tokens than there is place for.
        let counts = open.sampler.needs_counts().then(|| TokenCounts::new(prompt, outputs));
        let counts: Vec<u32> =
            counts.iter().flat_map(TokenCounts::iter).flat_map(|(t, n)| [t.0, n]).collect();

        let sampler = SamplerRow::new(open, outputs, counts.len() / 2);
        let (far, lists_at) = match sampler.lists.len() {
            0..=LIST_WORDS => (DevicePtr::NULL, self.layout.lists),
            words => (far(slot, words)?, 0),
        };
        let adapter = self.table.adapter_slot(slot).map_or(0, |slot| 1 + u32::from(slot.0));
        let header = SlotHeader { lists: far, adapter, ..sampler.header };
        let header: [u32; HEADER_WORDS] = bytemuck::cast(header);
        self.put(slot, DevicePtr::NULL, 0, header)?;
        self.put(slot, far, lists_at, sampler.lists)?;
        self.put(slot, DevicePtr::NULL, self.layout.counts, counts)
    }

    /// Words for the slot's row, or for the memory at `far` unless that is null, from word `to` on.
    fn put(
        &mut self,
        slot: SlotId,
        far: DevicePtr,
        to: u32,
        words: impl IntoIterator<Item = u32>,
    ) -> Result<()> {
        let from = self.data.len();
        self.data.extend(words);
        let count = (self.data.len() - from) as u32;
        if count > 0 {
            self.touched.push(slot);
            let change = RowChange { far, to, from: from as u32, count, unused: 0 };
            self.row(slot)?.changes.push(change);
        }
        Ok(())
    }
}

/// A record that applies changes and feeds nothing.
fn empty(slot: SlotId) -> BatchChunk {
    BatchChunk { slot, first: 0, tokens: 0, length: 0, known: Some(0), first_logits: 0, logits: 0 }
}
