//! The frame of a step on the CPU. Tokens and logprobs come from the reference sampler of
//! `crate::sampling`, one logits row after the other; a step has ended when `sample` returns.

use super::buffer::Tensor;
use super::Cpu;
use crate::device::batch::BatchLogits;
use crate::device::samples::{RowSample, Samples};
use crate::device::StepOps;
use crate::error::Result;
use crate::ids::TokenId;
use crate::internal;
use crate::plan::{Purpose, StepPlan, StepResult, TokenMasks};
use crate::sampling::{adjust::forbid, choose, Seen, TokenLogprobs};

impl StepOps for Cpu {
    fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.slots.begin(plan)?;
        self.copy_states()
    }

    fn steady(&mut self) {}

    fn forwarded(&mut self) -> Result<()> {
        Ok(())
    }

    fn sample(&mut self, logits: &mut Tensor, masks: &TokenMasks) -> Result<()> {
        let batch = self.slots.batch();
        let mut result = StepResult { step: batch.step, ..StepResult::default() };
        let mut samples = Samples::default();
        for nth in 0..batch.logits.len() {
            let row = self.slots.logits()[nth].clone();
            match row.purpose {
                Purpose::Sample | Purpose::Verify { .. } if samples.row_counts() => {
                    samples.push(self.choose(&row, logits.row_mut(nth), masks)?);
                }
                Purpose::Sample | Purpose::Verify { .. } => samples.skip(row.purpose),
                Purpose::Report { next } => {
                    let logits = logits.row_mut(nth);
                    let finite = Seen::default().all(logits).verdict();
                    if let Some(wanted) = &row.logprobs {
                        let report = finite.map(|()| TokenLogprobs::read(logits, next, wanted));
                        result.push_report(row.slot, report);
                    }
                }
            }
        }
        result.samples = samples.into_list();
        self.results.push_back(result);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.results.pop_front().ok_or_else(|| internal!("no step to collect"))
    }
}

impl Cpu {
    /// Sample the token behind a row from its logits, which are scratch afterwards. The drafts in
    /// front of that token were accepted.
    fn choose(
        &mut self,
        of: &BatchLogits,
        logits: &mut [f32],
        masks: &TokenMasks,
    ) -> Result<RowSample> {
        let BatchLogits { slot, purpose, drafts, .. } = *of;
        let position = self.slots.length(slot) - drafts.behind;
        let row = self.slots.row_mut(slot)?;
        let mut seen = Seen::default();
        let mut of_slot = masks.by_slot.iter().filter(|(of, _)| *of == slot);
        if let Some((_, mask)) = of_slot.nth(drafts.before) {
            forbid(logits, mask, &mut seen);
        }

        // The samplers change the logits; logprobs are those before.
        let raw = of.logprobs.as_ref().map(|wanted| (wanted, logits.to_vec()));
        let position = position as u32 + row.sampler.ahead;
        let chosen = choose(logits, seen, &row.sampler, &row.history, position);
        match chosen {
            Ok(token) => row.accept(token),
            Err(_) if drafts.before == 0 => row.accept(TokenId(0)),
            Err(_) => {}
        }

        let logprobs = match (chosen, raw) {
            (Ok(token), Some((wanted, raw))) => Some(TokenLogprobs::read(&raw, token, wanted)),
            _ => None,
        };
        Ok(RowSample { slot, purpose, chosen, logprobs })
    }
}
