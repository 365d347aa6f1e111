//! Steps before the model is ready: what a device does once for each size of a step (ways to
//! multiply are chosen, code is loaded, small decode steps are recorded) would else hold up the
//! first requests. Called by `assemble` on each rank's thread; it knows no request and no GPU.

use std::sync::Arc;
use std::time::Instant;

use crate::device::{Device, DeviceLimits};
use crate::error::Result;
use crate::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use crate::model::Decoder;
use crate::plan::{Feed, SlotChange, SlotOpen, StepPlan, TokenMasks};
use crate::sampling::SamplerSpec;

/// Decode steps up to so many rows are run whole, so that devices may record them; a recording is
/// made at the second.
const RECORDED_ROWS: usize = 16;
const RECORDED_STEPS: usize = 2;
/// Sequences of which each has one token, up to so many rows; above, prompts.
const SEQUENCES: usize = 256;

/// A model that is about to serve.
pub(super) struct Rehearsal<'a> {
    pub limits: &'a DeviceLimits,
    /// Tokens that may be fed.
    pub vocab: usize,
    /// It has decode steps as these here; one that hands vectors over has none.
    pub generates: bool,
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

        if !sizes.is_empty() {
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
            plan.changes.push(SlotChange::Open(Box::new(opening(slot))));
            plan.changes.push(SlotChange::Pages {
                slot,
                group: GroupId(0),
                pages: (next_page..behind).map(PageId).collect(),
            });
            plan.push(slot, Feed::Known(range), true);
            next_page = behind;
        }
        Some(plan)
    }
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
