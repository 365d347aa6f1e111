//! The end of a step on the CPU: logits rows to tokens and logprobs, by the reference sampler of
//! `crate::sampling`, one row after the other. `Cpu::sample` calls it; it knows no arithmetic.

use super::buffer::Tensor;
use crate::device::slots::Slots;
use crate::error::Result;
use crate::ids::TokenId;
use crate::internal;
use crate::plan::{Sampled, StepResult, TokenMasks};
use crate::sampling::{adjust::forbid, choose, Seen, TokenLogprobs};

pub(super) fn sample(
    slots: &mut Slots,
    logits: &mut Tensor,
    masks: &TokenMasks,
) -> Result<StepResult> {
    let rows = std::mem::take(&mut slots.batch.logits);
    let mut result = StepResult { step: slots.batch.step, ..StepResult::default() };
    for (i, logits_row) in rows.iter().enumerate() {
        let slot = logits_row.slot;
        let row = slots.row_mut(slot)?;
        let (spec, logits) = (row.sampler.clone(), logits.row_mut(i));
        if let Some(target) = logits_row.target {
            let wanted = spec.prompt_logprobs.as_ref();
            let wanted = wanted.ok_or_else(|| internal!("slot {slot} scores without a spec"))?;
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
    slots.batch.logits = rows;
    Ok(result)
}
