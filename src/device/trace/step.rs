//! The frame of a step of the trace device. Its answer is token 0 everywhere, every token certain,
//! and it counts how many logprobs a real device would have to report.

use super::{bytes, Trace, TraceTensor};
use crate::device::batch::BatchLogits;
use crate::device::host_slots::HostSlots;
use crate::device::samples::{RowSample, Samples};
use crate::device::StepOps;
use crate::error::Result;
use crate::ids::TokenId;
use crate::internal;
use crate::plan::{Purpose, StepPlan, StepResult, TokenMasks};
use crate::sampling::{LogprobSpec, TokenLogprobs};

struct Answers {
    result: StepResult,
    /// Logits rows that report logprobs.
    reports: usize,
    /// Tokens that they list beside their own.
    listed: usize,
}

fn answer(slots: &mut HostSlots, vocab: usize) -> Result<Answers> {
    let result = StepResult { step: slots.batch().step, ..StepResult::default() };
    let mut answers = Answers { result, reports: 0, listed: 0 };
    let mut samples = Samples::default();
    let certain = |token| TokenLogprobs { token, logprob: 0.0, rank: 1, top: Vec::new() };
    for nth in 0..slots.logits().len() {
        let BatchLogits { slot, purpose, logprobs, .. } = slots.logits()[nth].clone();
        answers.reports += usize::from(logprobs.is_some());
        answers.listed += match &logprobs {
            None => 0,
            Some(LogprobSpec::Top(k)) => (*k as usize).min(vocab),
            Some(LogprobSpec::Tokens(tokens)) => tokens.len(),
        };

        match purpose {
            Purpose::Report { next } => answers.result.push_report(slot, Ok(certain(next))),
            Purpose::Sample | Purpose::Verify { .. } => {
                let token = TokenId(0);
                if samples.row_counts() {
                    slots.row_mut(slot)?.accept(token);
                }
                let logprobs = logprobs.map(|_| certain(token));
                samples.push(RowSample { slot, purpose, chosen: Ok(token), logprobs });
            }
        }
    }
    answers.result.samples = samples.into_list();
    Ok(answers)
}

impl StepOps for Trace {
    fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.slots.begin(plan)
    }

    fn steady(&mut self) {}

    fn forwarded(&mut self) -> Result<()> {
        Ok(())
    }

    fn sample(&mut self, logits: &mut TraceTensor, _masks: &TokenMasks) -> Result<()> {
        let sampled = answer(&mut self.slots, logits.width)?;
        let count = self.slots.logits().len();
        let vocab = logits.width;
        self.launch("sample", (count, vocab, 1), bytes(count, logits), 4 * count as u64, 0);
        if sampled.reports > 0 {
            let (rows, listed) = (sampled.reports, sampled.listed as u64);
            let read = bytes(rows, logits);
            let flops = (2 * rows * vocab) as u64;
            self.launch("logprobs", (rows, vocab, 1), read, 8 * (rows as u64 + listed), flops);
        }
        self.results.push_back(sampled.result);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.results.pop_front().ok_or_else(|| internal!("no step to collect"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::device::ops::*;
    use crate::device::trace::Trace;
    use crate::device::{DType, DeviceLimits, KvShape, KvType};
    use crate::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
    use crate::plan::{
        Feed, LogitsRow, Purpose, SeqChunk, SlotChange, SlotOpen, StepPlan, TokenMasks,
    };
    use crate::sampling::{LogprobSpec, SamplerSpec};

    /// A prompt of four tokens: a report on three positions, the last is sampled from.
    fn plan(sampler: SamplerSpec) -> StepPlan {
        let slot = SlotId(0);
        let tokens: Arc<[TokenId]> = (0..4).map(TokenId).collect();
        let open = SlotOpen {
            slot,
            adapter: AdapterId(0),
            tokens: tokens.clone(),
            prompt_tokens: 4,
            cached_tokens: 0,
            sampler: Arc::new(sampler),
        };
        let pages = SlotChange::Pages { slot, group: GroupId(0), pages: vec![PageId(1)] };

        let report = |token| Purpose::Report { next: tokens[token + 1] };
        let logits = (0..4).map(|token| LogitsRow {
            chunk: 0,
            token,
            purpose: if token < 3 { report(token) } else { Purpose::Sample },
        });
        let logits = logits.collect();

        StepPlan {
            step: 1,
            changes: vec![SlotChange::Open(Box::new(open)), pages],
            chunks: vec![SeqChunk { slot, feed: Feed::Known(0..4) }],
            chunk_tokens: tokens.to_vec(),
            logits,
            images: Vec::new(),
        }
    }

    #[test]
    fn logprobs_are_a_launch_where_rows_ask() {
        let kv = KvShape::heads(1, 1, 8, KvType::F32);
        let limits = DeviceLimits {
            step_tokens: 8,
            slots: 1,
            logits_rows: 8,
            pages: 2,
            page_size: 16,
            max_model_len: 16,
            kv,
            state: Default::default(),
            snapshots: 0,
            spares: 0,
        };
        let mut trace = Trace::new(DType::F32);
        let mut logits = trace.logits_tensor(8, 100).unwrap();
        trace.reserve(&limits).unwrap();
        let sampler = SamplerSpec {
            logprobs: Some(LogprobSpec::Top(1000)),
            prompt_logprobs: Some(LogprobSpec::Top(5)),
            ..SamplerSpec::default()
        };
        let plan = plan(sampler);
        assert_eq!(plan.logits.len(), 4);
        trace.begin(&plan).unwrap();
        trace.sample(&mut logits, &TokenMasks::default()).unwrap();
        let launches = trace.take_launches();
        let [sample, logprobs] = &launches[..] else { panic!("{launches:?}") };
        assert_eq!((sample.op, sample.rows), ("sample", 4));
        assert_eq!((logprobs.op, logprobs.rows), ("logprobs", 4));
        assert_eq!(logprobs.read_bytes, 4 * 4 * 100);
        // A number and a token for each: four of their own, 3 x 5 and 100 others.
        assert_eq!(logprobs.written_bytes, 8 * (4 + 15 + 100));
        let result = trace.collect().unwrap();
        let scored = result.reports[0].logprobs.as_ref().unwrap();
        let targets: Vec<u32> = scored.iter().map(|l| l.token.0).collect();
        assert_eq!(targets, [1, 2, 3]);
        assert_eq!(result.samples[0].logprobs.len(), 1);
    }
}
