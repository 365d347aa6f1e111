//! A device and the steps that one op is timed in: some calls of it between a step's begin and its
//! end. The time of many calls less that of few, divided by those between, is the figure; steps of
//! single tokens replay a CUDA graph. `mixtures` and `recurrences` drive it.

use std::time::Instant;

use triton_vllm::device::cuda::weights::Weight;
use triton_vllm::device::cuda::{Cuda, Tensor};
use triton_vllm::device::ops::*;
use triton_vllm::device::{
    DType, DeviceLimits, Join, KvShape, KvType, QuantForm, Source, StateShape, WeightDesc,
    WeightKind,
};
use triton_vllm::error::Result;
use triton_vllm::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use triton_vllm::plan::{Feed, SlotChange, SlotOpen, StepPlan, TokenMasks};

use crate::gpu::{median, PAGE};

/// Rows of the tables that inputs are looked up in.
pub const VOCAB: usize = 4096;
/// Enough to meet the size, record it and replay it.
const WARM_STEPS: usize = 4;
const STEPS: usize = 9;
/// Positions of a sequence of single tokens, which is opened once and goes on from its state: more
/// than there are steps of one driver.
const SINGLES: usize = 64;

pub struct Driver {
    pub dev: Cuda,
    sequences: usize,
    /// Of each sequence, in every step.
    tokens: usize,
    /// Single tokens: the sequences are open.
    running: bool,
    logits: Tensor,
    step: u64,
}

/// Positions of each sequence that feeds so many tokens a step.
fn positions(tokens: usize) -> usize {
    if tokens == 1 {
        SINGLES
    } else {
        tokens
    }
}

impl Driver {
    /// Steps in which so many sequences feed so many tokens each.
    pub fn new(sequences: usize, tokens: usize, state: StateShape) -> Result<Driver> {
        let mut dev = Cuda::open(0, DType::BF16)?;
        // As many as a decode step may be padded to.
        let slots = sequences.next_multiple_of(64);
        let limits = DeviceLimits {
            step_tokens: (sequences * tokens).max(slots),
            slots,
            logits_rows: slots,
            pages: 1 + sequences * positions(tokens).div_ceil(PAGE),
            page_size: PAGE,
            max_model_len: positions(tokens) + 1,
            kv: KvShape::heads(1, 1, 64, KvType::BF16),
            state,
            snapshots: 0,
            spares: 0,
        };
        let logits = dev.logits_tensor(slots, VOCAB)?;
        dev.fill(&logits, 0)?;
        dev.reserve(&limits)?;
        Ok(Driver { dev, sequences, tokens, running: false, logits, step: 0 })
    }

    /// Token rows of a step.
    pub fn rows(&self) -> usize {
        self.sequences * self.tokens
    }

    /// A made-up weight, of codes where it has a form.
    pub fn weight(
        &mut self,
        kind: WeightKind,
        outputs: usize,
        inputs: usize,
        quant: Option<QuantForm>,
    ) -> Result<Weight> {
        self.step += 1;
        self.dev.upload(WeightDesc {
            quant,
            name: "made up",
            kind,
            outputs,
            inputs,
            dtype: if kind == WeightKind::Vector { DType::F32 } else { DType::BF16 },
            transposed: false,
            join: Join::None,
            source: Source::Dummy { seed: self.step, scale: 0.05 },
        })
    }

    /// A tensor whose rows differ, for the steps to read.
    pub fn input(&mut self, width: usize) -> Result<Tensor> {
        let rows = self.rows().max(self.sequences.next_multiple_of(64));
        let mut x = self.dev.tensor(rows, width)?;
        let table = self.weight(WeightKind::Table, VOCAB, width, None)?;
        self.run(Feed::Known(0..0), |dev| dev.embed(&table, 20.0, &mut x))?;
        Ok(x)
    }

    /// One step with `work` in it: its microseconds. Slots of several tokens are opened anew, those
    /// of single ones go on. The feed says whether tokens are known, or those that slots sampled
    /// last.
    fn run(&mut self, feed: Feed, work: impl FnOnce(&mut Cuda) -> Result<()>) -> Result<f64> {
        self.step += 1;
        let mut plan = StepPlan { step: self.step, ..StepPlan::default() };
        let known = matches!(feed, Feed::Known(_));
        for n in 0..self.sequences {
            if !self.running {
                plan.changes.extend(self.opened(n));
            }
            let first = n * self.tokens;
            let fed = if known { Feed::Known(first..first + self.tokens) } else { feed.clone() };
            plan.push(SlotId(n as u32), fed, true);
        }
        self.running = self.tokens == 1;
        if known {
            let token = |i: usize| TokenId((i * 7919 % VOCAB) as u32);
            plan.chunk_tokens = (0..self.rows()).map(token).collect();
        }

        self.dev.wait()?;
        let start = Instant::now();
        self.dev.begin(&plan)?;
        work(&mut self.dev)?;
        self.dev.sample(&mut self.logits, &TokenMasks::default())?;
        self.dev.collect()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }

    /// What opens a sequence's slot, with pages for all that it will feed.
    fn opened(&self, n: usize) -> [SlotChange; 2] {
        let slot = SlotId(n as u32);
        let open = SlotChange::Open(Box::new(SlotOpen {
            slot,
            adapter: AdapterId(0),
            tokens: [].into(),
            prompt_tokens: 0,
            cached_tokens: 0,
            sampler: Default::default(),
        }));
        let pages = positions(self.tokens).div_ceil(PAGE);
        let pages = (1 + n * pages..1 + (n + 1) * pages).map(|p| PageId(p as u32)).collect();
        [open, SlotChange::Pages { slot, group: GroupId(0), pages }]
    }

    /// Microseconds of one call of `op`, which gets its number; about `about_us`.
    pub fn time(
        &mut self,
        about_us: f64,
        mut op: impl FnMut(&mut Cuda, usize) -> Result<()>,
    ) -> Result<f64> {
        let many = (20_000.0 / about_us).clamp(16.0, 160.0) as usize;
        let few = many / 4;
        self.dev.steady();
        let mut median_us = |calls: usize| -> Result<f64> {
            let mut all = Vec::new();
            self.dev.forget_steps();
            for n in 0..WARM_STEPS + STEPS {
                let feed = if self.tokens == 1 { Feed::LastSampled } else { Feed::Known(0..0) };
                let us = self.run(feed, |dev| (0..calls).try_for_each(|call| op(dev, call)))?;
                if n >= WARM_STEPS {
                    all.push(us);
                }
            }
            Ok(median(all))
        };
        let few_us = median_us(few)?;
        Ok((median_us(many)? - few_us) / (many - few) as f64)
    }
}
