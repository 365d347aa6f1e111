//! What the programs that time a GPU share: a model of dummy weights on a device, driven step by
//! step as the engine does it but without engine, text and server. `gpu_steps`, `gpu_images` and
//! `gpu_shares` use it; it prints nothing.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use triton_vllm::device::ops::*;
use triton_vllm::device::{DType, DeviceLimits};
use triton_vllm::error::Result;
use triton_vllm::ids::{AdapterId, GroupId, PageId, SlotId, SnapshotId, TokenId};
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::{Decoder, ModelSpec, Shard, WeightSource};
use triton_vllm::plan::{Feed, SlotChange, SlotOpen, StepPlan, TokenMasks};

pub const PAGE: usize = 16;
const STEP_TOKENS: usize = 8192;
const SLOTS: usize = 256;
/// Positions of a sequence at most, whatever the model allows.
const LONGEST: usize = 65_536;

/// A model's shapes from the config.json in `folder`.
pub fn read_spec(folder: &Path) -> Result<ModelSpec> {
    let supported = &[DType::BF16, DType::F16, DType::F32];
    ModelSpec::read(folder, &SpecOptions { supported, ..Default::default() })
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// One prompt of so many tokens, in one step.
    Prefill(usize),
    /// A token of each stream.
    Decode(Streams),
}

/// What gets a token in each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// In slots from 0 on.
    pub batch: u32,
    /// Positions that each has at the start.
    pub context: usize,
    /// Tokens of a prompt that begins, which each step reads beside them, in the slot behind
    /// theirs; or 0.
    pub prompt: usize,
    /// Of their positions so many, the first ones, lie on pages that all of them have.
    pub shared: usize,
}

impl Work {
    /// `prefill:TOKENS`, `decode:SEQUENCESxCONTEXT` or the same without `decode:`,
    /// `mixed:SEQUENCESxCONTEXT+TOKENS`, `shared:SEQUENCESxCONTEXT+POSITIONS`.
    pub fn parse(text: &str) -> Option<Work> {
        let (kind, rest) = text.split_once(':').unwrap_or(("decode", text));
        match kind {
            "prefill" => {
                let tokens = rest.parse().ok();
                tokens.filter(|n| (1..=STEP_TOKENS).contains(n)).map(Work::Prefill)
            }
            "decode" => Streams::parse(rest, 0).map(Work::Decode),
            "mixed" => {
                let (rest, tokens) = rest.split_once('+')?;
                let tokens = tokens.parse().ok().filter(|n| (2..STEP_TOKENS).contains(n))?;
                let streams = Streams::parse(rest, tokens)?;
                let fits = streams.batch as usize + tokens <= STEP_TOKENS;
                fits.then_some(Work::Decode(streams))
            }
            "shared" => {
                let (rest, shared) = rest.split_once('+')?;
                let streams = Streams::parse(rest, 0)?;
                let shared = shared.parse().ok().filter(|&n| n <= streams.context)?;
                Some(Work::Decode(Streams { shared, ..streams }))
            }
            _ => None,
        }
    }

    /// The longest sequence it comes to, in `steps` decode steps.
    pub fn length(self, steps: usize) -> usize {
        match self {
            Work::Prefill(tokens) => tokens,
            Work::Decode(streams) => (streams.context + steps).max(streams.prompt),
        }
    }

    /// How many slots it takes, from 0 on.
    pub fn slots(self) -> usize {
        match self {
            Work::Prefill(_) => 1,
            Work::Decode(streams) => streams.batch as usize + usize::from(streams.prompt > 0),
        }
    }
}

impl Streams {
    /// No prompt beside them, no page in common.
    pub const fn new(batch: u32, context: usize) -> Streams {
        Streams { batch, context, prompt: 0, shared: 0 }
    }

    /// `SEQUENCESxCONTEXT`
    fn parse(text: &str, prompt: usize) -> Option<Streams> {
        let (batch, context) = text.split_once('x')?;
        let most = SLOTS - usize::from(prompt > 0);
        let batch = batch.parse().ok().filter(|n| (1..=most as u32).contains(n))?;
        let context = context.parse().ok().filter(|&n| n > 0)?;
        Some(Streams { prompt, ..Streams::new(batch, context) })
    }

    pub fn slots(self) -> Vec<u32> {
        (0..self.batch).collect()
    }
}

/// How decode steps went.
pub struct Pace {
    /// Milliseconds of each step, from the end of the one before.
    pub steps_ms: Vec<f64>,
    /// The host's part of a step, the median: a step that records a graph takes milliseconds, once.
    pub host_ms: f64,
}

pub struct Bench<D: Device> {
    pub dev: D,
    decoder: Decoder<D>,
    pub limits: DeviceLimits,
    /// Length and pages of each slot.
    slots: HashMap<u32, (usize, Vec<PageId>)>,
    changes: Vec<SlotChange>,
    next_page: u32,
    step: u64,
    vocab: u32,
}

impl<D: Device> Bench<D> {
    /// Dummy weights, and a pool of `pages`; of a rank its part of both.
    pub fn load(spec: &ModelSpec, mut dev: D, pages: usize) -> Result<Bench<D>> {
        let shard = Shard::new(spec, dev.rank())?;
        let state = shard.state_shape(spec);
        let limits = DeviceLimits {
            step_tokens: STEP_TOKENS,
            slots: SLOTS,
            logits_rows: SLOTS,
            pages,
            page_size: PAGE,
            max_model_len: spec.max_model_len.min(LONGEST),
            kv: shard.kv_shape(spec, &spec.kv_shape(None)?),
            snapshots: usize::from(state.layers > 0),
            spares: 0,
            state,
        };
        let decoder = Decoder::load(spec, &WeightSource::Dummy, &mut dev, &limits)?;
        let vocab = spec.vocab_size as u32;
        let slots = HashMap::new();
        let changes = Vec::new();
        Ok(Bench { dev, decoder, limits, slots, changes, next_page: 0, step: 0, vocab })
    }

    /// Open a slot, again if it was, whose first `cached` positions count as computed. Its state,
    /// where layers keep one, is that of a snapshot which nobody saved: times do not depend on it.
    pub fn open(&mut self, slot: u32, cached: usize) {
        self.slots.insert(slot, (cached, Vec::new()));
        self.changes.push(SlotChange::Open(Box::new(SlotOpen {
            slot: SlotId(slot),
            adapter: AdapterId(0),
            tokens: [].into(),
            prompt_tokens: 0,
            cached_tokens: cached as u32,
            sampler: Default::default(),
        })));
        if cached > 0 && self.limits.snapshots > 0 {
            let (slot, snapshot) = (SlotId(slot), SnapshotId(0));
            self.changes.push(SlotChange::RestoreState { slot, snapshot });
        }
    }

    /// Add a slot's chunk to a plan, with the pages that it needs.
    pub fn push(&mut self, plan: &mut StepPlan, slot: u32, feed: Feed) {
        let (length, pages) = self.slots.get_mut(&slot).expect("an open slot");
        *length += feed.tokens();
        let mut new = Vec::new();
        while (pages.len() + new.len()) * PAGE < *length {
            new.push(PageId(1 + self.next_page % (self.limits.pages as u32 - 1)));
            self.next_page += 1;
        }
        pages.extend_from_slice(&new);
        if !new.is_empty() {
            let slot = SlotId(slot);
            self.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages: new });
        }
        plan.push(SlotId(slot), feed, true);
    }

    /// Enqueue a step; `tokens` are those of its chunks.
    pub fn enqueue(&mut self, mut plan: StepPlan, tokens: usize) -> Result<()> {
        self.step += 1;
        let step = self.step;
        let vocab = self.vocab;
        let token =
            |i: usize| TokenId((i as u32).wrapping_mul(7919).wrapping_add(step as u32) % vocab);
        plan.step = step;
        plan.changes = std::mem::take(&mut self.changes);
        plan.chunk_tokens = (0..tokens).map(token).collect();
        self.decoder.step(&mut self.dev, &plan)?;
        self.decoder.sample(&mut self.dev, &TokenMasks::default())
    }

    /// Open the slots and feed `tokens` of each, in steps of at most STEP_TOKENS.
    pub fn prefill(&mut self, slots: &[u32], tokens: usize) -> Result<()> {
        for &slot in slots {
            self.open(slot, 0);
        }
        for group in slots.chunks((STEP_TOKENS / tokens).max(1)) {
            let mut left = tokens;
            while left > 0 {
                let count = left.min(STEP_TOKENS);
                let mut plan = StepPlan::default();
                for (n, &slot) in group.iter().enumerate() {
                    self.push(&mut plan, slot, Feed::Known(n * count..(n + 1) * count));
                }
                self.enqueue(plan, count * group.len())?;
                self.dev.collect()?;
                left -= count;
            }
        }
        Ok(())
    }

    /// Compute the positions of streams; where they share some, the first one's alone.
    pub fn start(&mut self, streams: Streams) -> Result<()> {
        if streams.shared == 0 {
            return self.prefill(&streams.slots(), streams.context);
        }
        self.prefill(&[0], streams.context)?;
        self.open_streams(streams);
        Ok(())
    }

    /// Open the slots of streams, whose positions count as computed. Pages that they share are
    /// those that the first one had.
    pub fn open_streams(&mut self, streams: Streams) {
        let had = self.slots.get(&0).map_or(&[][..], |(_, pages)| pages);
        let shared = had[..had.len().min(streams.shared / PAGE)].to_vec();
        for slot in 0..streams.batch {
            self.open(slot, streams.context);
            if !shared.is_empty() {
                self.slots.insert(slot, (streams.context, shared.clone()));
                let (slot, pages) = (SlotId(slot), shared.clone());
                self.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages });
            }
        }
    }

    /// One step of `work`, whose slots are opened.
    pub fn step(&mut self, work: Work) -> Result<()> {
        match work {
            Work::Prefill(tokens) => self.prefill(&[0], tokens),
            Work::Decode(streams) => {
                self.open_streams(streams);
                self.decode(streams, 1).map(drop)
            }
        }
    }

    /// Decode steps of streams whose slots are open, two in flight.
    pub fn decode(&mut self, streams: Streams, steps: usize) -> Result<Pace> {
        let slots = streams.slots();
        let (mut steps_ms, mut hosts_ms) = (Vec::new(), Vec::new());
        let mut last = Instant::now();
        for step in 0..=steps {
            if step < steps {
                let start = Instant::now();
                let feed = Feed::LastSampled;
                let mut plan = StepPlan::default();
                slots.iter().for_each(|&slot| self.push(&mut plan, slot, feed.clone()));
                if streams.prompt > 0 {
                    self.open(streams.batch, 0);
                    self.push(&mut plan, streams.batch, Feed::Known(0..streams.prompt));
                }
                self.enqueue(plan, streams.prompt)?;
                hosts_ms.push(start.elapsed().as_secs_f64() * 1e3);
            }
            if step > 0 {
                self.dev.collect()?;
                steps_ms.push(last.elapsed().as_secs_f64() * 1e3);
                last = Instant::now();
            }
        }
        Ok(Pace { steps_ms, host_ms: median(hosts_ms) })
    }
}
