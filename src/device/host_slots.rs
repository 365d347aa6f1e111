//! Slot rows of devices that keep them in the host's memory (`cpu`, `trace`): pages, last tokens,
//! samplers with their histories, and the current batch row by row. Plans are checked by
//! [`SlotTable`]; nothing here knows activations or what pages hold.

use std::sync::Arc;

use super::batch::{Batch, BatchChunk, BatchLogits, SlotTable};
use super::DeviceLimits;
use crate::error::Result;
use crate::ids::{AdapterSlotId, PageId, SlotId, TokenId};
use crate::internal;
use crate::plan::{PromptImages, SlotChange, SlotOpen, StepPlan};
use crate::sampling::{History, SamplerSpec};

/// One sequence's row.
pub struct SlotRow {
    /// Position p lives in page `pages[p / page_size]`.
    pub pages: Vec<PageId>,
    /// The token that was sampled last.
    pub last: TokenId,
    /// How tokens are chosen.
    pub sampler: Arc<SamplerSpec>,
    /// Tokens so far, as far as the sampler needs them.
    pub history: History,
    /// Of its prompt; they say by what its tokens are turned.
    pub images: Option<Arc<PromptImages>>,
}

impl SlotRow {
    fn open(open: &SlotOpen) -> SlotRow {
        let prompt_tokens = open.tokens.len().min(open.prompt_tokens as usize);
        let (prompt, outputs) = open.tokens.split_at(prompt_tokens);
        SlotRow {
            pages: Vec::new(),
            last: TokenId(0),
            history: History::new(&open.sampler, prompt, outputs),
            sampler: open.sampler.clone(),
            images: None,
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
    /// What is fed.
    pub token: TokenId,
    /// Where in its sequence.
    pub position: usize,
    /// Whose.
    pub slot: SlotId,
}

/// All slots of a device, and the current batch.
#[derive(Default)]
pub struct HostSlots {
    table: SlotTable,
    rows: Vec<Option<SlotRow>>,
    /// The token rows of the current batch.
    pub token_rows: Vec<TokenRow>,
    /// The adapter slot of each token row, and of each logits row; only where there are adapters.
    pub adapter_slots: Vec<Option<AdapterSlotId>>,
    /// The same of each logits row.
    pub logits_adapter_slots: Vec<Option<AdapterSlotId>>,
}

impl HostSlots {
    /// All slots closed.
    pub fn new(limits: &DeviceLimits) -> HostSlots {
        HostSlots {
            table: SlotTable::new(limits),
            rows: (0..limits.slots).map(|_| None).collect(),
            ..HostSlots::default()
        }
    }

    /// The current batch.
    pub fn batch(&self) -> &Batch {
        &self.table.batch
    }

    /// Token rows of the current batch: R of the ops.
    pub fn tokens(&self) -> usize {
        self.token_rows.len()
    }

    /// The logits rows of the current batch, in order: S of the ops is their number.
    pub fn logits(&self) -> &[BatchLogits] {
        &self.table.batch.logits
    }

    /// The sequence of a logits row.
    pub fn chunk_of(&self, logits: &BatchLogits) -> &BatchChunk {
        &self.table.batch.chunks[logits.chunk]
    }

    /// Positions of a slot's sequence once the current step has run.
    pub fn length(&self, slot: SlotId) -> usize {
        self.table.length(slot)
    }

    /// # Errors
    /// Internal: the slot is not open, or does not exist.
    pub fn row(&self, slot: SlotId) -> Result<&SlotRow> {
        let row = self.rows.get(slot.index()).and_then(Option::as_ref);
        row.ok_or_else(|| internal!("slot {slot} is not open"))
    }

    /// # Errors
    /// Internal: the slot is not open, or does not exist.
    pub fn row_mut(&mut self, slot: SlotId) -> Result<&mut SlotRow> {
        let row = self.rows.get_mut(slot.index()).and_then(Option::as_mut);
        row.ok_or_else(|| internal!("slot {slot} is not open"))
    }

    /// Check the plan, apply its changes and lay its token rows out.
    ///
    /// # Errors
    /// Internal: a plan that does not fit the limits or the slots' state. The device is lost then.
    pub fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.table.begin(plan)?;
        for change in &plan.changes {
            self.apply(change)?;
        }
        for (slot, images) in &plan.images {
            self.row_mut(*slot)?.images = Some(Arc::clone(images));
        }

        let mut token_rows = std::mem::take(&mut self.token_rows);
        token_rows.clear();
        for chunk in &self.table.batch.chunks {
            let (slot, first) = (chunk.slot, chunk.position());
            match chunk.known {
                None => {
                    let token = self.row(slot)?.last;
                    token_rows.push(TokenRow { token, position: first, slot });
                }
                Some(known) => {
                    let tokens = &plan.chunk_tokens[known..known + chunk.tokens];
                    let rows = tokens.iter().enumerate();
                    token_rows.extend(rows.map(|(i, &token)| TokenRow {
                        token,
                        position: first + i,
                        slot,
                    }));
                }
            }
        }
        self.token_rows = token_rows;

        self.adapter_slots.clear();
        self.logits_adapter_slots.clear();
        if self.table.batch.adapters {
            let of = |slot| self.table.adapter_slot(slot);
            self.adapter_slots.extend(self.token_rows.iter().map(|row| of(row.slot)));
            self.logits_adapter_slots
                .extend(self.table.batch.logits.iter().map(|row| of(row.slot)));
        }
        Ok(())
    }

    fn apply(&mut self, change: &SlotChange) -> Result<()> {
        match change {
            SlotChange::Open(open) => self.rows[open.slot.index()] = Some(SlotRow::open(open)),
            SlotChange::Pages { slot, pages, .. } => {
                self.row_mut(*slot)?.pages.extend_from_slice(pages);
            }
            SlotChange::Close { slot } => self.rows[slot.index()] = None,
            // The table knows lengths and which adapter is where; its weights are there already.
            // States are the devices' own.
            SlotChange::Adapter { .. }
            | SlotChange::Truncate { .. }
            | SlotChange::SaveState { .. }
            | SlotChange::RestoreState { .. } => {}
        }
        Ok(())
    }
}
