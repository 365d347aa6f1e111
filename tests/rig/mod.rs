//! A rig for tests of the forward pass: it plays engine and scheduler in the plainest way and hands
//! out pages in a scattered order. Several ranks run a step on threads of their own, and must come
//! to the same bits.

#![allow(dead_code)]

pub mod embeddings;
pub mod heads;
pub mod pooled;
pub mod vision;

use std::path::Path;
use std::sync::Arc;

use triton_vllm::device::cpu::ranks::Group;
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::ops::*;
use triton_vllm::device::{DType, DeviceLimits, KvType, Rank, RankGroup};
use triton_vllm::error::{Error, Result};
use triton_vllm::ids::{AdapterId, AdapterSlotId, GroupId, PageId, SlotId, SnapshotId, TokenId};
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::folder::{self, Holds};
use triton_vllm::model::gguf::{Gguf, GgufName};
use triton_vllm::model::{
    Adapter, AdapterOptions, Checkpoint, Decoder, ModelSpec, Shard, WeightSource,
};
use triton_vllm::plan::{
    Feed, PromptImages, SlotChange, SlotOpen, StepPlan, StepResult, TokenMasks,
};
use triton_vllm::sampling::SamplerSpec;

pub const SUPPORTED: &[DType] = &[DType::F32, DType::BF16, DType::F16];

/// Prompts of which a token's experts are chosen by scores that are 0.003 apart, where
/// transformers' own bfloat16 moves them by 0.015: some products choose others.
pub const CHOICES_TOO_CLOSE: [(&str, usize); 1] = [("dots1", 0)];

#[derive(Clone)]
pub struct RigOptions {
    pub page_size: usize,
    /// Of pages; None: as the weights.
    pub kv: Option<KvType>,
    pub threads: usize,
    /// CPU devices that share the model.
    pub ranks: usize,
    pub max_model_len: Option<i64>,
    /// Of the weights; "" = auto.
    pub dtype: &'static str,
    pub adapters: Option<AdapterOptions>,
    /// The argument `quantization`; "" = as the checkpoint says.
    pub quantization: String,
}

impl Default for RigOptions {
    fn default() -> Self {
        RigOptions {
            page_size: 16,
            kv: Some(KvType::F32),
            threads: 2,
            ranks: 1,
            max_model_len: None,
            dtype: "",
            adapters: None,
            quantization: String::new(),
        }
    }
}

impl RigOptions {
    /// What the fixture in `dir` asks for in its expected.json: a length, which matters to some
    /// ropes, and a way to quantise. Types stay as by default.
    pub fn of_fixture(dir: &Path) -> RigOptions {
        let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        RigOptions {
            max_model_len: json["max_model_len"].as_i64(),
            quantization: json["quantization"].as_str().unwrap_or_default().to_string(),
            ..Default::default()
        }
    }
}

/// A folder in Hugging Face's format, or one with a GGUF file.
pub fn read(dir: &Path, options: &RigOptions) -> (ModelSpec, WeightSource) {
    let gguf = match folder::judge(dir, &GgufName::Only).unwrap() {
        Holds::Model => None,
        Holds::Gguf(path) => Some(Gguf::open(&path, &Arc::default()).unwrap()),
    };
    let checkpoint = match &gguf {
        None => Checkpoint::open(dir).unwrap(),
        Some(gguf) => Checkpoint::of_gguf(gguf.tensors().unwrap()),
    };
    let spec_options = SpecOptions {
        supported: SUPPORTED,
        stored_dtype: checkpoint.stored_dtype(),
        max_model_len: options.max_model_len,
        dtype: options.dtype,
        quantization: &options.quantization,
        ..Default::default()
    };
    let spec = match &gguf {
        None => ModelSpec::read(dir, &spec_options),
        Some(gguf) => ModelSpec::from_keys(gguf.path(), gguf.config().unwrap(), &spec_options),
    };
    let mut spec = spec.unwrap();
    spec.adapters = options.adapters.clone();
    (spec, WeightSource::Files(checkpoint))
}

pub struct Sequence {
    pub slot: SlotId,
    pub prompt: Vec<u32>,
    pub outputs: Vec<u32>,
    pub pages: Vec<PageId>,
    /// Of these, the first ones that belong to another.
    shared: usize,
    /// Positions fed, or taken over.
    pub length: usize,
    /// Copies of its state at ends of pages, by length.
    snapshots: Vec<(usize, SnapshotId)>,
    images: Option<Arc<PromptImages>>,
}

pub struct Rig<D: Device = Cpu> {
    pub spec: ModelSpec,
    pub dev: D,
    pub decoder: Decoder<D>,
    /// Those behind rank 0, which is `dev`.
    others: Vec<(D, Decoder<D>)>,
    group: Option<Arc<dyn RankGroup>>,
    page_size: usize,
    free_pages: Vec<PageId>,
    free_slots: Vec<SlotId>,
    changes: Vec<SlotChange>,
    /// Of slots that open with the next step.
    images: Vec<(SlotId, Arc<PromptImages>)>,
    /// Taken so far.
    snapshots: usize,
    step: u64,
    pub sampler: Arc<SamplerSpec>,
}

impl Rig<Cpu> {
    pub fn files(dir: &Path, options: &RigOptions) -> Rig {
        let (spec, source) = read(dir, options);
        Rig::new(spec, &source, options)
    }

    pub fn new(spec: ModelSpec, format: &WeightSource, options: &RigOptions) -> Rig {
        Rig::try_new(spec, format, options).unwrap()
    }

    /// Or why the model cannot be loaded.
    pub fn try_new(spec: ModelSpec, format: &WeightSource, options: &RigOptions) -> Result<Rig> {
        if options.ranks == 1 {
            return Rig::try_on(Cpu::new(options.threads)?, spec, format, options);
        }
        let (members, group) = Group::of(options.ranks);
        let devices = members.into_iter().map(|member| Cpu::of_rank(1, member));
        Rig::of_ranks(devices.collect::<Result<_>>()?, group, spec, format, options)
    }
}

impl<D: Device> Rig<D> {
    /// On any device.
    pub fn on(dev: D, spec: ModelSpec, format: &WeightSource, options: &RigOptions) -> Rig<D> {
        Rig::try_on(dev, spec, format, options).unwrap()
    }

    /// On several devices, in the order of ranks.
    pub fn of_ranks(
        devices: Vec<D>,
        group: Arc<dyn RankGroup>,
        spec: ModelSpec,
        format: &WeightSource,
        options: &RigOptions,
    ) -> Result<Rig<D>> {
        let mut devices = devices.into_iter();
        let mut rig = Rig::try_on(devices.next().expect("a rank"), spec, format, options)?;
        for mut dev in devices {
            let decoder = load(&mut dev, &rig.spec, format, options)?;
            rig.others.push((dev, decoder));
        }
        rig.group = Some(group);
        Ok(rig)
    }

    fn try_on(
        mut dev: D,
        spec: ModelSpec,
        format: &WeightSource,
        options: &RigOptions,
    ) -> Result<Rig<D>> {
        let decoder = load(&mut dev, &spec, format, options)?;
        // Scattered, so that no page follows another: positions must go through the table.
        let mut free_pages: Vec<PageId> = (1..pages(&spec, options) as u32).map(PageId).collect();
        free_pages.sort_by_key(|p| p.0 * 7919 % 1009);
        Ok(Rig {
            spec,
            dev,
            decoder,
            others: Vec::new(),
            group: None,
            page_size: options.page_size,
            free_pages,
            free_slots: (0..SLOTS as u32).map(SlotId).collect(),
            changes: Vec::new(),
            images: Vec::new(),
            snapshots: 0,
            step: 0,
            sampler: Arc::new(SamplerSpec::default()),
        })
    }

    /// Put an adapter into an adapter slot and say so in the next step.
    pub fn install(&mut self, adapter_slot: AdapterSlotId, id: AdapterId, adapter: &Adapter) {
        self.decoder.install(&mut self.dev, adapter_slot, adapter).unwrap();
        for (dev, decoder) in &mut self.others {
            decoder.install(dev, adapter_slot, adapter).unwrap();
        }
        self.changes.push(SlotChange::Adapter { adapter_slot, adapter: id });
    }

    pub fn open(&mut self, prompt: &[u32]) -> Sequence {
        self.open_behind(prompt, &[], AdapterId(0))
    }

    /// The images of a sequence that was opened and not fed yet.
    pub fn put_images(&mut self, seq: &mut Sequence, images: &Arc<PromptImages>) {
        seq.images = Some(Arc::clone(images));
        self.images.push((seq.slot, Arc::clone(images)));
    }

    /// A sequence with an adapter.
    pub fn open_with(&mut self, prompt: &[u32], adapter: AdapterId) -> Sequence {
        self.open_behind(prompt, &[], adapter)
    }

    /// A prefix hit: what `other` has of this prompt in full pages is read from there. It must stay
    /// open as long.
    pub fn open_sharing(&mut self, prompt: &[u32], other: &Sequence) -> Sequence {
        let equal = prompt.iter().zip(&other.prompt).take_while(|(a, b)| a == b).count();
        // One token at least is fed, for its logits.
        let pages = equal.min(prompt.len() - 1) / self.page_size;
        let sequence = self.open_behind(prompt, &other.pages[..pages], AdapterId(0));
        if self.spec.recurrent.is_some() && sequence.length > 0 {
            let saved = other.snapshots.iter().find(|(length, _)| *length == sequence.length);
            let (_, snapshot) = *saved.expect("a copy of the state at the end of these pages");
            self.changes.push(SlotChange::RestoreState { slot: sequence.slot, snapshot });
        }
        sequence
    }

    fn open_behind(&mut self, prompt: &[u32], shared: &[PageId], adapter: AdapterId) -> Sequence {
        let slot = self.free_slots.pop().expect("a free slot");
        let length = shared.len() * self.page_size;
        self.changes.push(SlotChange::Open(Box::new(SlotOpen {
            slot,
            adapter,
            tokens: prompt.iter().map(|&t| TokenId(t)).collect(),
            prompt_tokens: prompt.len() as u32,
            cached_tokens: length as u32,
            sampler: self.sampler.clone(),
        })));

        if !shared.is_empty() {
            let pages = shared.to_vec();
            self.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages });
        }
        Sequence {
            images: None,
            slot,
            prompt: prompt.to_vec(),
            outputs: Vec::new(),
            pages: shared.to_vec(),
            shared: shared.len(),
            length,
            snapshots: Vec::new(),
        }
    }

    pub fn close(&mut self, seq: &Sequence) {
        self.changes.push(SlotChange::Close { slot: seq.slot });
        self.free_slots.push(seq.slot);
        self.free_pages.extend(&seq.pages[seq.shared..]);
    }

    fn grow(&mut self, seq: &mut Sequence, tokens: usize) {
        seq.length += tokens;
        while seq.pages.len() * self.page_size < seq.length {
            let page = self.free_pages.pop().expect("a free page");
            seq.pages.push(page);
            let pages = vec![page];
            self.changes.push(SlotChange::Pages { slot: seq.slot, group: GroupId(0), pages });
        }
    }

    /// Feed the prompt in chunks; the logits after its last token.
    pub fn feed_prompt(&mut self, seq: &mut Sequence, chunk: usize) -> Vec<f32> {
        self.feed_beside(seq, chunk, &mut [])
    }

    /// The same while `others` decode, one token in each step.
    pub fn feed_beside(
        &mut self,
        seq: &mut Sequence,
        chunk: usize,
        others: &mut [Sequence],
    ) -> Vec<f32> {
        loop {
            let from = seq.length;
            let mut to = from.saturating_add(chunk).min(seq.prompt.len());
            if let Some(images) = &seq.images {
                to = images.chunk_end(from, to, false);
            }
            // A chunk ends where a page does, so that the state can be copied there.
            let end = (from + 1).next_multiple_of(self.page_size);
            let keeps = self.spec.recurrent.is_some() && chunk < seq.prompt.len() && end <= to;
            if keeps {
                to = end;
            }
            self.grow(seq, to - from);
            let chunk_tokens = seq.prompt[from..to].iter().map(|&t| TokenId(t)).collect();
            let done = to == seq.prompt.len();
            let mut plan = StepPlan { chunk_tokens, ..StepPlan::default() };
            for other in others.iter_mut().rev() {
                self.grow(other, 1);
                plan.push(other.slot, Feed::LastSampled, true);
            }
            plan.push(seq.slot, Feed::Known(0..to - from), done);
            let mut all: Vec<&mut Sequence> = others.iter_mut().collect();
            all.push(seq);
            let logits = self.run(plan, &mut all);
            if keeps && !done {
                let snapshot = SnapshotId((self.snapshots % SNAPSHOTS) as u32);
                self.snapshots += 1;
                seq.snapshots.push((to, snapshot));
                self.changes.push(SlotChange::SaveState { slot: seq.slot, snapshot });
            }
            if done {
                // The prompt's row comes last.
                return logits[logits.len() - self.spec.vocab_size..].to_vec();
            }
        }
    }

    /// Vectors of texts that one step feeds as a whole, of a model that pools.
    pub fn embed(&mut self, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let mut seqs: Vec<Sequence> = texts.iter().map(|text| self.open(text)).collect();
        let mut plan = StepPlan::default();
        for seq in &mut seqs {
            let first = plan.chunk_tokens.len();
            plan.chunk_tokens.extend(seq.prompt.iter().map(|&t| TokenId(t)));
            let end = plan.chunk_tokens.len();
            self.grow(seq, end - first);
            plan.push(seq.slot, Feed::Known(first..end), true);
        }
        self.step += 1;
        plan.step = self.step;
        plan.changes = std::mem::take(&mut self.changes);
        let (_, result) = self.step(&plan).unwrap();
        let slots: Vec<SlotId> = result.samples.iter().map(|s| s.slot).collect();
        assert_eq!(slots, seqs.iter().map(|s| s.slot).collect::<Vec<_>>());
        seqs.iter().for_each(|seq| self.close(seq));
        result.vectors
    }

    /// A prompt in chunks: the logits behind it, and so many tokens.
    pub fn answer(&mut self, prompt: &[u32], chunk: usize, tokens: usize) -> (Vec<f32>, Vec<u32>) {
        let mut seq = self.open(prompt);
        let logits = self.feed_prompt(&mut seq, chunk);
        for _ in 1..tokens {
            self.decode(&mut [&mut seq]);
        }
        self.close(&seq);
        (logits, seq.outputs)
    }

    /// One token for each.
    pub fn decode(&mut self, seqs: &mut [&mut Sequence]) -> Vec<f32> {
        let mut plan = StepPlan::default();
        for seq in seqs.iter_mut() {
            self.grow(seq, 1);
            plan.push(seq.slot, Feed::LastSampled, true);
        }
        self.run(plan, seqs)
    }

    fn run(&mut self, mut plan: StepPlan, seqs: &mut [&mut Sequence]) -> Vec<f32> {
        self.step += 1;
        plan.step = self.step;
        plan.changes = std::mem::take(&mut self.changes);
        plan.images = std::mem::take(&mut self.images);
        let (logits, result) = self.step(&plan).unwrap();
        assert_eq!((result.step, result.samples.len()), (plan.step, plan.logits.len()));
        for sample in result.samples {
            let seq = seqs.iter_mut().find(|s| s.slot == sample.slot).unwrap();
            let tokens = sample.tokens.as_ref().expect("finite logits");
            seq.outputs.extend(tokens.iter().map(|t| t.0));
        }
        logits
    }

    /// Logits and result of a step, the same of all ranks.
    fn step(&mut self, plan: &StepPlan) -> Result<(Vec<f32>, StepResult)> {
        if self.others.is_empty() {
            return run_step(&mut self.dev, &mut self.decoder, plan);
        }
        let group = self.group.clone().expect("several ranks are a group");
        let first = (&mut self.dev, &mut self.decoder);
        let ranks = std::iter::once(first).chain(self.others.iter_mut().map(|(d, m)| (d, m)));
        let outcomes = std::thread::scope(|scope| {
            let run = |(dev, decoder)| {
                let group = &group;
                scope.spawn(move || {
                    let _watch = Watch(group.as_ref());
                    let outcome = run_step(dev, decoder, plan);
                    outcome.inspect_err(|error| group.fail(error.clone()))
                })
            };
            let threads: Vec<_> = ranks.map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<Vec<_>>>()
        })?;

        let (logits, result) = &outcomes[0];
        let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (rank, (others, other)) in outcomes.iter().enumerate().skip(1) {
            assert!(bits(others) == bits(logits), "rank {rank} has other logits");
            let tokens = |result: &StepResult| -> Vec<_> {
                result.samples.iter().map(|sample| sample.tokens.clone()).collect()
            };
            assert_eq!(tokens(other), tokens(result), "rank {rank} samples other tokens");
            assert!(other.vectors == result.vectors, "rank {rank} has other vectors");
        }
        Ok(outcomes.into_iter().next().expect("a rank"))
    }
}

/// A rank that panics lets nobody wait.
struct Watch<'a>(&'a dyn RankGroup);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Internal("a rank panicked".into()));
        }
    }
}

const SLOTS: usize = 33;
const SNAPSHOTS: usize = 40;

fn pages(spec: &ModelSpec, options: &RigOptions) -> usize {
    1 + SLOTS * spec.max_model_len.div_ceil(options.page_size)
}

/// The model, or a rank's part of it, on its device.
fn load<D: Device>(
    dev: &mut D,
    spec: &ModelSpec,
    format: &WeightSource,
    options: &RigOptions,
) -> Result<Decoder<D>> {
    Decoder::load(spec, format, dev, &limits(spec, dev.rank(), options)?)
}

/// Of a rank.
pub fn limits(spec: &ModelSpec, rank: Rank, options: &RigOptions) -> Result<DeviceLimits> {
    let shard = Shard::new(spec, rank)?;
    Ok(DeviceLimits {
        step_tokens: 512,
        slots: SLOTS,
        logits_rows: 128,
        pages: pages(spec, options),
        page_size: options.page_size,
        max_model_len: spec.max_model_len,
        kv: shard.kv_shape(spec, &spec.kv_shape(options.kv)?),
        state: shard.state_shape(spec),
        snapshots: SNAPSHOTS,
        spares: 0,
    })
}

fn run_step<D: Device>(
    dev: &mut D,
    decoder: &mut Decoder<D>,
    plan: &StepPlan,
) -> Result<(Vec<f32>, StepResult)> {
    decoder.step(dev, plan)?;
    let logits = decoder.logits(dev, plan.logits.len())?;
    decoder.sample(dev, &TokenMasks::default())?;
    Ok((logits, dev.collect()?))
}

/// How far logits are from what is wanted at the most, as a share of the largest wanted.
pub fn worst(got: &[f32], want: &[f32]) -> f32 {
    let size = want.iter().fold(0f32, |most, x| most.max(x.abs()));
    got.iter().zip(want).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / size
}
