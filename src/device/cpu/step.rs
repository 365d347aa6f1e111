//! The frame of a step on the CPU. Tokens and logprobs come from the reference sampler of
//! `crate::sampling`, one logits row after the other; a step has ended when `sample` returns.

use super::buffer::Tensor;
use super::Cpu;
use crate::device::StepOps;
use crate::error::Result;
use crate::ids::TokenId;
use crate::internal;
use crate::plan::{Sampled, StepPlan, StepResult, TokenMasks};
use crate::sampling::{adjust::forbid, choose, Seen, TokenLogprobs};

impl StepOps for Cpu {
    fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.slots.begin(plan)
    }

    fn steady(&mut self) {}

    fn forwarded(&mut self) -> Result<()> {
        Ok(())
    }

    fn sample(&mut self, logits: &mut Tensor, masks: &TokenMasks) -> Result<()> {
        let rows = std::mem::take(&mut self.slots.batch.logits);
        let mut result = StepResult { step: self.slots.batch.step, ..StepResult::default() };
        for (i, logits_row) in rows.iter().enumerate() {
            let slot = logits_row.slot;
            let row = self.slots.row_mut(slot)?;
            let (spec, logits) = (row.sampler.clone(), logits.row_mut(i));
            if let Some(target) = logits_row.target {
                let wanted = spec.prompt_logprobs.as_ref();
                let wanted =
                    wanted.ok_or_else(|| internal!("slot {slot} scores without a spec"))?;
                let finite = Seen::default().all(logits).verdict();
                let read = finite.map(|()| TokenLogprobs::read(logits, target, wanted));
                result.push_score(slot, read);
                continue;
            }
            let mut seen = Seen::default();
            if let Some((_, mask)) = masks.by_slot.iter().find(|(s, _)| *s == slot) {
                forbid(logits, mask, &mut seen);
            }
            let raw = spec.logprobs.as_ref().map(|wanted| (wanted, logits.to_vec()));
            let chosen = choose(logits, seen, &spec, &row.history, row.length as u32);
            row.accept(chosen.unwrap_or(TokenId(0)));
            let logprobs = match (chosen, raw) {
                (Ok(token), Some((wanted, raw))) => vec![TokenLogprobs::read(&raw, token, wanted)],
                _ => Vec::new(),
            };
            let tokens = chosen.map(|token| vec![token]);
            result.samples.push(Sampled { slot, tokens, logprobs });
        }
        self.slots.batch.logits = rows;
        self.results.push_back(result);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.results.pop_front().ok_or_else(|| internal!("no step to collect"))
    }
}
