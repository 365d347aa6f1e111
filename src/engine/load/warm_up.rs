//! Steps before the model is ready: what a device does once for each size of a step (ways to
//! multiply are chosen, code is loaded, small decode steps are recorded, and those that verify
//! drafts) would else hold up the first requests. Called by `assemble` on each rank's thread; it
//! knows no request and no GPU.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::device::{Device, DeviceLimits};
use crate::error::Result;
use crate::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use crate::model::Decoder;
use crate::plan::{Feed, SlotChange, SlotOpen, StepPlan, TokenMasks};
use crate::sampling::SamplerSpec;
use crate::scheduler::DraftLengths;

/// Decode steps up to so many rows are run whole, so that devices may record them; a recording is
/// made at the second.
const RECORDED_ROWS: usize = 16;
const RECORDED_STEPS: usize = 2;
/// Sequences whose steps with drafts are run as well: devices may record them by themselves.
const DRAFTING_SEQUENCES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Sequences of which each has one token, up to so many rows; above, prompts.
const SEQUENCES: usize = 256;

/// A model that is about to serve.
pub(super) struct Rehearsal<'a> {
    pub limits: &'a DeviceLimits,
    /// Tokens that may be fed.
    pub vocab: usize,
    /// It has decode steps as these here; one that hands vectors over has none.
    pub generates: bool,
    /// Its sequences have so many drafts; None: it has none.
    pub drafts: Option<&'a DraftLengths>,
}

impl Rehearsal<'_> {
    /// All sizes that the device names and that the limits have room for.
    ///
    /// # Errors
    /// The device's.
    pub fn run<D: Device>(&self, dev: &mut D, decoder: &mut Decoder<D>) -> Result<()> {
        let began = Instant::now();
        let sizes = dev.sizes_to_rehearse(self.limits.step_tokens);
        self.run_sizes(&sizes, dev, decoder)?;
        if let Some(tower) = decoder.tower() {
            for patches in dev.sizes_to_rehearse(tower.most_patches()) {
                tower.rehearse(dev, patches)?;
            }
        }

        for &rows in &sizes {
            if let Some(kept) = decoder.hidden_rows() {
                kept.rehearse(dev, rows)?;
            }
        }

        if !sizes.is_empty() {
            self.run_drafts(dev, decoder)?;
            dev.keep_choices();
            let ms = began.elapsed().as_millis();
            tracing::debug!("{} sizes of steps rehearsed in {ms} ms", sizes.len());
        }
        Ok(())
    }

    fn run_sizes<D: Device>(
        &self,
        sizes: &[usize],
        dev: &mut D,
        decoder: &mut Decoder<D>,
    ) -> Result<()> {
        for &rows in sizes {
            let Some(plan) = self.prompts(rows) else { continue };
            decoder.rehearse(dev, &plan)?;
            dev.collect()?;

            // Where there are fewer sequences than rows, no decode step has so many.
            let sequences = plan.chunks.len();
            let decodes = self.generates
                && sequences == rows
                && rows <= RECORDED_ROWS
                && self.limits.max_model_len > 4;
            for _ in 0..if decodes { RECORDED_STEPS } else { 0 } {
                decoder.step(dev, &next_tokens(sequences))?;
                decoder.sample(dev, &TokenMasks::default())?;
                dev.collect()?;
            }
        }
        Ok(())
    }

    /// Steps of sequences that all have drafts.
    fn run_drafts<D: Device>(&self, dev: &mut D, decoder: &mut Decoder<D>) -> Result<()> {
        for sequences in DRAFTING_SEQUENCES {
            let Some(plans) = self.drafting(sequences) else { continue };
            for plan in plans {
                decoder.step(dev, &plan)?;
                decoder.sample(dev, &TokenMasks::default())?;
                dev.collect()?;
            }
        }
        Ok(())
    }

    /// Steps of so many sequences with drafts; None: there are none of that size, or no room for
    /// them.
    fn drafting(&self, sequences: usize) -> Option<[StepPlan; RECORDED_STEPS]> {
        let DeviceLimits { slots, logits_rows, step_tokens, page_size, .. } = *self.limits;
        let drafts = self.drafts?.of(sequences);
        let each = 1 + drafts;
        let rows = sequences * each;
        let longest = RECORDED_STEPS * each;
        let pages = longest.div_ceil(page_size);
        let fits = sequences <= slots
            && rows <= logits_rows.min(step_tokens)
            && sequences * pages < self.limits.pages
            && longest <= self.limits.max_model_len;
        if drafts == 0 || !fits {
            return None;
        }

        let mut plans = [StepPlan::default(), StepPlan::default()];
        for sequence in 0..sequences {
            let slot = SlotId(sequence as u32);
            let first = 1 + sequence * pages;
            open(&mut plans[0], slot, first as u32..(first + pages) as u32);
            for plan in &mut plans {
                let token = |n: usize| TokenId((n * 7919 % self.vocab.max(1)) as u32);
                let drafts: Vec<TokenId> = (1..each).map(token).collect();
                plan.push_drafts(slot, token(0), &drafts);
            }
        }
        Some(plans)
    }

    /// So many token rows, one in each sequence or as few sequences as hold them; None: there is no
    /// room for them.
    fn prompts(&self, rows: usize) -> Option<StepPlan> {
        let DeviceLimits { slots, logits_rows, pages, page_size, max_model_len, .. } = *self.limits;
        let each = if rows <= slots.min(SEQUENCES) { 1 } else { rows.min(max_model_len) };
        let sequences = rows.div_ceil(each);
        // Page 0 belongs to nobody.
        let free = pages.saturating_sub(1);
        if sequences > slots.min(logits_rows) || sequences * each.div_ceil(page_size) > free {
            return None;
        }

        let token = |n: usize| TokenId((n * 7919 % self.vocab.max(1)) as u32);
        let chunk_tokens = (0..rows).map(token).collect();
        let mut plan = StepPlan { chunk_tokens, ..StepPlan::default() };
        let mut next_page = 1;
        for sequence in 0..sequences {
            let slot = SlotId(sequence as u32);
            let range = sequence * each..rows.min((sequence + 1) * each);
            let behind = next_page + range.len().div_ceil(page_size) as u32;
            open(&mut plan, slot, next_page..behind);
            plan.push(slot, Feed::Known(range), true);
            next_page = behind;
        }
        Some(plan)
    }
}

/// A new sequence with these pages.
fn open(plan: &mut StepPlan, slot: SlotId, pages: Range<u32>) {
    plan.changes.push(SlotChange::Open(Box::new(opening(slot))));
    let pages = pages.map(PageId).collect();
    plan.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages });
}

fn opening(slot: SlotId) -> SlotOpen {
    SlotOpen {
        slot,
        adapter: AdapterId(0),
        tokens: [].into(),
        prompt_tokens: 0,
        cached_tokens: 0,
        sampler: Arc::new(SamplerSpec::default()),
    }
}

/// One more of each of these sequences.
fn next_tokens(sequences: usize) -> StepPlan {
    let mut plan = StepPlan::default();
    for slot in 0..sequences {
        plan.push(SlotId(slot as u32), Feed::LastSampled, true);
    }
    plan
}

#[cfg(test)]
#[path = "warm_up_tests.rs"]
mod tests;
