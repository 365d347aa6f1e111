//! The frame of a step on the CPU. Tokens and logprobs come from the reference sampler of
//! `crate::sampling`, one logits row after the other; a step has ended when `sample` returns.

use super::buffer::Tensor;
use super::Cpu;
use crate::device::batch::BatchLogits;
use crate::device::StepOps;
use crate::error::Result;
use crate::ids::{SlotId, TokenId};
use crate::internal;
use crate::plan::{Purpose, Sampled, StepPlan, StepResult, TokenMasks};
use crate::sampling::{adjust::forbid, choose, LogprobSpec, Seen, TokenLogprobs};

impl StepOps for Cpu {
    fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.slots.begin(plan)?;
        self.copy_states(plan)
    }

    fn steady(&mut self) {}

    fn forwarded(&mut self) -> Result<()> {
        Ok(())
    }

    fn sample(&mut self, logits: &mut Tensor, masks: &TokenMasks) -> Result<()> {
        let batch = self.slots.batch();
        let mut result = StepResult { step: batch.step, ..StepResult::default() };
        for nth in 0..batch.logits.len() {
            let BatchLogits { slot, purpose, logprobs, .. } = self.slots.logits()[nth].clone();
            match purpose {
                Purpose::Sample => {
                    let sampled = self.choose(slot, logprobs, logits.row_mut(nth), masks)?;
                    result.samples.push(sampled);
                }
                Purpose::Report { next } => {
                    let logits = logits.row_mut(nth);
                    let finite = Seen::default().all(logits).verdict();
                    if let Some(wanted) = &logprobs {
                        let report = finite.map(|()| TokenLogprobs::read(logits, next, wanted));
                        result.push_report(slot, report);
                    }
                }
            }
        }
        self.results.push_back(result);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.results.pop_front().ok_or_else(|| internal!("no step to collect"))
    }
}

impl Cpu {
    /// Sample a slot's next token from its logits, which are scratch afterwards.
    fn choose(
        &mut self,
        slot: SlotId,
        logprobs: Option<LogprobSpec>,
        logits: &mut [f32],
        masks: &TokenMasks,
    ) -> Result<Sampled> {
        let length = self.slots.length(slot);
        let row = self.slots.row_mut(slot)?;
        let mut seen = Seen::default();
        if let Some((_, mask)) = masks.by_slot.iter().find(|(of, _)| *of == slot) {
            forbid(logits, mask, &mut seen);
        }

        // The samplers change the logits; logprobs are those before.
        let raw = logprobs.map(|wanted| (wanted, logits.to_vec()));
        let chosen = choose(logits, seen, &row.sampler, &row.history, length as u32);
        row.accept(chosen.unwrap_or(TokenId(0)));

        let logprobs = match (chosen, raw) {
            (Ok(token), Some((wanted, raw))) => vec![TokenLogprobs::read(&raw, token, &wanted)],
            _ => Vec::new(),
        };
        Ok(Sampled { slot, tokens: chosen.map(|token| vec![token]), logprobs })
    }
}
