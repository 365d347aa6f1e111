//! The end of a step on the CPU: rows of logits to tokens and logprobs, by the reference sampler of
//! `crate::sampling`, one row after the other. `Cpu::sample` calls it; it knows no arithmetic.

use super::buffer::Tensor;
use crate::device::slots::Slots;
use crate::error::Result;
use crate::internal;
use crate::plan::{Late, Sampled, Scored, StepResult};
use crate::sampling::{adjust::forbid, choose, TokenLogprobs};

pub(super) fn sample(slots: &mut Slots, logits: &mut Tensor, late: &Late) -> Result<StepResult> {
    let rows = std::mem::take(&mut slots.batch.logits);
    let mut result = StepResult { step: slots.batch.step, ..StepResult::default() };
    for (i, picked) in rows.iter().enumerate() {
        let slot = picked.slot;
        let row = slots.row_mut(slot)?;
        let (spec, logits) = (row.sampler.clone(), logits.row_mut(i));
        if let Some(target) = picked.target {
            let wanted = spec.prompt_logprobs.as_ref();
            let wanted = wanted.ok_or_else(|| internal!("slot {slot} scores without a spec"))?;
            let read = TokenLogprobs::read(logits, target, wanted);
            match result.scores.last_mut().filter(|scored| scored.slot == slot) {
                Some(scored) => scored.logprobs.push(read),
                None => result.scores.push(Scored { slot, logprobs: vec![read] }),
            }
            continue;
        }
        if let Some((_, mask)) = late.masks.iter().find(|(s, _)| *s == slot) {
            forbid(logits, mask);
        }
        let raw = spec.logprobs.as_ref().map(|wanted| (wanted, logits.to_vec()));
        let token = choose(logits, &spec, &row.history, row.length as u32);
        row.accept(token);
        let logprobs = raw.iter().map(|(wanted, raw)| TokenLogprobs::read(raw, token, wanted));
        result.samples.push(Sampled { slot, tokens: vec![token], logprobs: logprobs.collect() });
    }
    slots.batch.logits = rows;
    Ok(result)
}
