//! The bench for tests on a GPU: a device with slots and pages, inputs from seeds, and the
//! comparison of two devices. It plays the scheduler in the plainest way.

#![allow(dead_code)]

use std::sync::{Arc, Mutex, OnceLock};

use half::{bf16, f16};
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::ops::*;
use triton_vllm::device::{
    Bytes, DType, DeviceLimits, HostTensor, Join, KvRow, KvShape, KvType, QuantForm, ScaleOver,
    Source, StateShape, WeightDesc, WeightKind,
};
use triton_vllm::error::Result;
use triton_vllm::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use triton_vllm::plan::{Feed, PromptImages, SlotChange, SlotOpen, StepPlan};
use triton_vllm::sampling::SamplerSpec;

/// Numerical Recipes' generator: good enough for inputs.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// Uniform in [-1, 1).
    pub fn signed(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }
}

/// A device that tests can make and poison.
pub trait Graded: Device {
    fn make(dtype: DType) -> Self;
    /// Make every element NaN.
    fn poison(&mut self, tensor: &mut Self::Tensor);
}

impl Graded for Cpu {
    fn make(_: DType) -> Cpu {
        Cpu::new(0).unwrap()
    }

    fn poison(&mut self, tensor: &mut Self::Tensor) {
        tensor.data.fill(f32::NAN);
    }
}

impl Graded for Cuda {
    fn make(dtype: DType) -> Cuda {
        let mut dev = Cuda::open(0, dtype).unwrap();
        // However few they are.
        dev.share_keys_from(1);
        dev
    }

    fn poison(&mut self, tensor: &mut Self::Tensor) {
        self.fill(tensor, 0xff).unwrap();
    }
}

/// Limits of a bench; the pool has two layers and room for every slot.
#[derive(Clone)]
pub struct Setup {
    pub slots: usize,
    pub step_tokens: usize,
    pub page_size: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub max_model_len: usize,
    /// Of pages; None: the device's own type.
    pub kv: Option<KvType>,
    /// Pages hold latent vectors of this width instead of heads.
    pub latent: Option<usize>,
    pub state: StateShape,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            slots: 4,
            step_tokens: 160,
            page_size: 16,
            kv_heads: 1,
            head_dim: 8,
            max_model_len: 256,
            kv: None,
            latent: None,
            state: StateShape::default(),
        }
    }
}

/// Copies of states that a bench can keep.
pub const SNAPSHOTS: usize = 2;
/// States of a slot that it can go back to.
pub const SPARES: usize = 3;

struct Slot {
    open: bool,
    length: usize,
    pages: Vec<PageId>,
}

pub struct Bench<D: Graded> {
    pub dev: D,
    pub dtype: DType,
    setup: Setup,
    slots: Vec<Slot>,
    free_pages: Vec<PageId>,
    pub changes: Vec<SlotChange>,
    /// Of each slot, from its next opening on; 0: none.
    pub adapters: Vec<u16>,
    step: u64,
}

impl<D: Graded> Bench<D> {
    pub fn new(dtype: DType, setup: &Setup) -> Bench<D> {
        Bench::on(D::make(dtype), dtype, setup)
    }

    /// On a device that is there.
    pub fn on(mut dev: D, dtype: DType, setup: &Setup) -> Bench<D> {
        let pages = 1 + 2 * setup.slots * setup.max_model_len.div_ceil(setup.page_size);
        let kv = setup.kv.unwrap_or(dtype.into());
        let kv = match setup.latent {
            Some(width) => KvShape { rows: vec![KvRow::Latent { width }; 2], dtype: kv },
            None => KvShape::heads(2, setup.kv_heads, setup.head_dim, kv),
        };
        let limits = DeviceLimits {
            step_tokens: setup.step_tokens,
            slots: setup.slots,
            logits_rows: setup.step_tokens,
            pages,
            page_size: setup.page_size,
            max_model_len: setup.max_model_len,
            kv,
            state: setup.state,
            snapshots: SNAPSHOTS,
            spares: SPARES,
        };
        dev.reserve(&limits).unwrap();
        // Scattered: positions must go through the table.
        let mut free_pages: Vec<PageId> = (1..pages as u32).map(PageId).collect();
        free_pages.sort_by_key(|p| p.0 * 7919 % 1009);
        let slots =
            (0..setup.slots).map(|_| Slot { open: false, length: 0, pages: Vec::new() }).collect();
        let changes = Vec::new();
        let adapters = vec![0; setup.slots];
        Bench { dev, dtype, setup: setup.clone(), slots, free_pages, changes, adapters, step: 0 }
    }

    pub fn length(&self, slot: usize) -> usize {
        self.slots[slot].length
    }

    /// Rows of as many positions as there are in pages.
    pub fn kept_rows(&self) -> usize {
        let each = self.setup.max_model_len.div_ceil(self.setup.page_size);
        (1 + 2 * self.setup.slots * each) * self.setup.page_size
    }

    /// A poisoned buffer.
    pub fn tensor(&mut self, rows: usize, width: usize) -> D::Tensor {
        let mut tensor = self.dev.tensor(rows, width).unwrap();
        self.dev.poison(&mut tensor);
        tensor
    }

    /// A buffer of random rows. Its plan stays the current batch: one sequence of `rows` tokens.
    pub fn input(&mut self, rows: usize, width: usize, seed: u64) -> D::Tensor {
        let table = self.table(seed, rows, width);
        let mut x = self.tensor(rows, width);
        self.feed(&[rows]);
        self.dev.embed(&table, 1.0, &mut x).unwrap();
        x
    }

    pub fn table(&mut self, seed: u64, rows: usize, width: usize) -> D::Weight {
        self.weight(seed, WeightKind::Table, &[rows], width, self.dtype, false, 1.0)
    }

    /// A matrix of these f32 in rows of `inputs`.
    pub fn given(&mut self, kind: WeightKind, values: &[f32], inputs: usize) -> D::Weight {
        let dtype = DType::F32;
        let outputs = values.len() / inputs;
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let part = HostTensor { dtype, rows: outputs, cols: inputs, bytes: (&bytes).into() };
        self.load(WeightDesc { kind, outputs, inputs, ..self.plain(Source::Parts(vec![part])) })
    }

    /// A linear of no size, of the device's own type; "test" by name.
    fn plain<'a>(&self, source: Source<'a>) -> WeightDesc<'a> {
        WeightDesc {
            name: "test",
            kind: WeightKind::Linear,
            outputs: 0,
            inputs: 0,
            dtype: self.dtype,
            quant: None,
            transposed: false,
            join: Join::None,
            source,
        }
    }

    fn load(&mut self, desc: WeightDesc<'_>) -> D::Weight {
        self.dev.upload(desc).unwrap()
    }

    /// Values of a size that keeps outputs near 1.
    pub fn linear(&mut self, seed: u64, outputs: usize, inputs: usize) -> D::Weight {
        self.weight(seed, WeightKind::Linear, &[outputs], inputs, self.dtype, false, 1.0)
    }

    /// Numbers that the device makes up.
    pub fn dummy(&mut self, outputs: usize, inputs: usize) -> D::Weight {
        let source = Source::Dummy { seed: 1, scale: 1e-2 };
        self.load(WeightDesc { outputs, inputs, ..self.plain(source) })
    }

    /// A rank's share of the inputs of a weight: products, or what is combined of them, end with
    /// the sum over ranks.
    pub fn shared(
        &mut self,
        seed: u64,
        kind: WeightKind,
        parts: &[usize],
        inputs: usize,
    ) -> D::Weight {
        let mut random = Random(seed * 7919 + 1);
        let dtype = self.dtype;
        let mut part = |&rows: &usize| {
            let values = (0..rows * inputs).map(|_| random.signed());
            let bytes: Vec<u8> = values.flat_map(|x| encode(dtype, x)).collect();
            HostTensor { dtype, rows, cols: inputs, bytes: Bytes::Shared(bytes.into()) }
        };
        let source = Source::Parts(parts.iter().map(&mut part).collect());
        let (outputs, join) = (parts.iter().sum(), Join::Sum);
        self.load(WeightDesc { kind, outputs, inputs, join, ..self.plain(source) })
    }

    pub fn gate_up(&mut self, seed: u64, half: usize, inputs: usize) -> D::Weight {
        self.weight(seed, WeightKind::GateUp, &[half, half], inputs, self.dtype, false, 0.3)
    }

    /// Weights so large that roundings change no choice.
    pub fn router(&mut self, seed: u64, experts: usize, inputs: usize) -> D::Weight {
        self.weight(seed, WeightKind::Linear, &[experts], inputs, self.dtype, false, 4.0)
    }

    /// A stack of `count` matrices of `outputs` x `inputs`, or of a gate and an up of that size.
    pub fn experts(
        &mut self,
        seed: u64,
        count: usize,
        outputs: usize,
        inputs: usize,
        gated: bool,
    ) -> D::Weight {
        let parts = vec![outputs; if gated { 2 * count } else { count }];
        let kind = WeightKind::Experts { count, gated };
        self.weight(seed, kind, &parts, inputs, self.dtype, false, 0.3)
    }

    /// A matrix of `outputs` x `inputs` for each of `count` heads.
    pub fn heads(&mut self, seed: u64, count: usize, outputs: usize, inputs: usize) -> D::Weight {
        let kind = WeightKind::Heads { count };
        self.weight(seed, kind, &[count * outputs], inputs, self.dtype, false, 0.2)
    }

    pub fn vector(&mut self, seed: u64, length: usize) -> D::Weight {
        self.weight(seed, WeightKind::Vector, &[length], 1, DType::F32, false, 1.0)
    }

    /// Biases that reach beyond clamps, and scores beside which others are small.
    pub fn wide_vector(&mut self, seed: u64, length: usize) -> D::Weight {
        self.weight(seed, WeightKind::Vector, &[length], 1, DType::F32, false, 9.0)
    }

    /// What changes some choices of experts, whose shares are about 1 / experts.
    pub fn choice_bias(&mut self, seed: u64, experts: usize) -> D::Weight {
        let size = 1.0 / experts as f32;
        self.weight(seed, WeightKind::Vector, &[experts], 1, DType::F32, false, size)
    }

    /// A linear from parts of another type and orientation.
    pub fn stored(
        &mut self,
        seed: u64,
        parts: &[usize],
        inputs: usize,
        stored: DType,
        transposed: bool,
    ) -> D::Weight {
        self.weight(seed, WeightKind::Linear, parts, inputs, stored, transposed, 0.3)
    }

    #[allow(clippy::too_many_arguments)]
    fn weight(
        &mut self,
        seed: u64,
        kind: WeightKind,
        parts: &[usize],
        inputs: usize,
        stored: DType,
        transposed: bool,
        size: f32,
    ) -> D::Weight {
        let mut random = Random(seed * 7919 + 1);
        let bytes: Vec<Vec<u8>> = parts
            .iter()
            .map(|&outputs| {
                let value = |_| random.signed() * size;
                (0..outputs * inputs).map(value).flat_map(|x| encode(stored, x)).collect()
            })
            .collect();

        let parts: Vec<HostTensor<'_>> = parts
            .iter()
            .zip(&bytes)
            .map(|(&outputs, bytes)| {
                let (rows, cols) = if transposed { (inputs, outputs) } else { (outputs, inputs) };
                HostTensor { dtype: stored, rows, cols, bytes: bytes.into() }
            })
            .collect();

        let outputs = parts.iter().map(|p| if transposed { p.cols } else { p.rows }).sum();
        let dtype = if kind == WeightKind::Vector { DType::F32 } else { self.dtype };
        let plain = self.plain(Source::Parts(parts));
        self.load(WeightDesc { kind, outputs, inputs, dtype, transposed, ..plain })
    }

    /// A weight of the device's own type that becomes codes as it is loaded.
    pub fn quantised(
        &mut self,
        seed: u64,
        kind: WeightKind,
        parts: &[usize],
        inputs: usize,
        quant: QuantForm,
        over: ScaleOver,
    ) -> D::Weight {
        self.quantised_joined(seed, kind, parts, inputs, (quant, over), Join::None)
    }

    /// The same whose products become more than a rank's own, as `join` says.
    pub fn quantised_joined(
        &mut self,
        seed: u64,
        kind: WeightKind,
        parts: &[usize],
        inputs: usize,
        (quant, over): (QuantForm, ScaleOver),
        join: Join,
    ) -> D::Weight {
        let mut random = Random(seed * 7919 + 1);
        let dtype = self.dtype;
        let mut part = |&rows: &usize| {
            let values = (0..rows * inputs).map(|_| random.signed() * 0.3);
            let bytes: Vec<u8> = values.flat_map(|x| encode(dtype, x)).collect();
            HostTensor { dtype, rows, cols: inputs, bytes: Bytes::Shared(bytes.into()) }
        };
        let source = Source::Quantise { parts: parts.iter().map(&mut part).collect(), over };
        let (outputs, quant) = (parts.iter().sum(), Some(quant));
        self.load(WeightDesc { kind, outputs, inputs, quant, join, ..self.plain(source) })
    }

    /// Begin a step in which sequence n feeds `lengths[n]` tokens (0: nothing) and samples. Tokens
    /// count up from 0 over the whole step.
    pub fn feed(&mut self, lengths: &[usize]) {
        self.feed_some(lengths, &vec![true; lengths.len()]);
    }

    /// The same with sequences that begin in it.
    pub fn feed_new(&mut self, lengths: &[usize]) {
        for slot in 0..lengths.len() {
            self.open(slot, &[TokenId(0)], Arc::default());
        }
        self.feed(lengths);
    }

    pub fn feed_some(&mut self, lengths: &[usize], samples: &[bool]) {
        let plan = self.plan_of(lengths, samples);
        self.begin(plan);
    }

    /// The same; the sequence in slot 0 has images from here on.
    pub fn feed_images(&mut self, lengths: &[usize], images: Arc<PromptImages>) {
        let mut plan = self.plan_of(lengths, &vec![true; lengths.len()]);
        plan.images.push((SlotId(0), images));
        self.begin(plan);
    }

    fn plan_of(&mut self, lengths: &[usize], samples: &[bool]) -> StepPlan {
        let mut plan = StepPlan::default();
        let mut at = 0;
        for (slot, (&length, &sample)) in lengths.iter().zip(samples).enumerate() {
            if length == 0 {
                continue;
            }
            let full = self.slots[slot].length + length > self.setup.max_model_len;
            if !self.slots[slot].open || full {
                self.open(slot, &[TokenId(0)], Arc::default());
            }
            let feed = Feed::Known(at..at + length);
            plan.push(SlotId(slot as u32), feed, sample);
            at += length;
        }
        plan.chunk_tokens = (0..at as u32).map(TokenId).collect();
        plan
    }

    /// Begin a step with these prompts, or with the last token of every sequence.
    pub fn feed_prompts(&mut self, prompts: &[Vec<u32>], lengths: &[usize], first: bool) {
        let mut plan = StepPlan::default();
        for (slot, (prompt, &length)) in prompts.iter().zip(lengths).enumerate() {
            let known = plan.chunk_tokens.len();
            let feed = if first { Feed::Known(known..known + length) } else { Feed::LastSampled };
            if first {
                plan.chunk_tokens.extend(prompt.iter().map(|&t| TokenId(t)));
            }
            plan.push(SlotId(slot as u32), feed, true);
        }
        self.begin(plan);
    }

    pub fn open(&mut self, slot: usize, tokens: &[TokenId], sampler: Arc<SamplerSpec>) {
        self.reopen(slot, tokens, tokens.len(), sampler);
    }

    /// Open a slot for a sequence that a preemption had interrupted: `prompt` of the tokens are its
    /// prompt.
    pub fn reopen(
        &mut self,
        slot: usize,
        tokens: &[TokenId],
        prompt: usize,
        sampler: Arc<SamplerSpec>,
    ) {
        let id = SlotId(slot as u32);
        if self.slots[slot].open {
            self.changes.push(SlotChange::Close { slot: id });
        }
        self.slots[slot] = Slot { open: true, length: 0, pages: Vec::new() };
        self.changes.push(SlotChange::Open(Box::new(SlotOpen {
            slot: id,
            adapter: AdapterId(self.adapters[slot]),
            tokens: tokens.into(),
            prompt_tokens: prompt as u32,
            cached_tokens: 0,
            sampler,
        })));
    }

    /// Open a slot for a sequence whose first positions are those of another one: so many whole
    /// pages of them.
    pub fn open_behind(&mut self, slot: usize, other: usize, pages: usize) {
        self.open(slot, &[], Arc::default());
        let cached = pages * self.setup.page_size;
        if let Some(SlotChange::Open(open)) = self.changes.last_mut() {
            open.cached_tokens = cached as u32;
        }
        let pages = self.slots[other].pages[..pages].to_vec();
        self.slots[slot] = Slot { open: true, length: cached, pages: pages.clone() };
        let slot = SlotId(slot as u32);
        self.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages });
    }

    /// A slot goes on behind fewer positions than it has fed.
    pub fn truncate(&mut self, slot: usize, length: usize) {
        self.slots[slot].length = length;
        let id = SlotId(slot as u32);
        self.changes.push(SlotChange::Truncate { slot: id, length: length as u32 });
    }

    /// Begin the next step with the chunks and logits rows of `plan`; pages and changes that it
    /// needs are added.
    pub fn begin(&mut self, plan: StepPlan) {
        self.try_begin(plan).unwrap();
    }

    pub fn try_begin(&mut self, mut plan: StepPlan) -> Result<()> {
        for chunk in &plan.chunks {
            let Some(slot) = self.slots.get_mut(chunk.slot.index()).filter(|s| s.open) else {
                continue;
            };
            slot.length += chunk.feed.tokens();
            while slot.pages.len() * self.setup.page_size < slot.length {
                // Pages of closed sequences go round: enough for twice the slots.
                let page = self.free_pages.remove(0);
                self.free_pages.push(page);
                slot.pages.push(page);
                let pages = vec![page];
                self.changes.push(SlotChange::Pages { slot: chunk.slot, group: GroupId(0), pages });
            }
        }
        self.step += 1;
        plan.step = self.step;
        plan.changes = std::mem::take(&mut self.changes);
        self.dev.begin(&plan)
    }
}

pub fn encode(dtype: DType, x: f32) -> Vec<u8> {
    match dtype {
        DType::F32 => x.to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
    }
}

/// Is there a GPU to test on? Says so if not.
pub fn gpu() -> bool {
    let found = Cuda::count().unwrap() > 0;
    if !found {
        let wanted = std::env::var("TRITON_VLLM_REQUIRE_GPU").is_ok_and(|v| v == "1");
        assert!(!wanted, "TRITON_VLLM_REQUIRE_GPU is set, and there is no GPU");
        eprintln!("skipped: no NVIDIA GPU here");
    }
    if found {
        // These stay open, so that not every case pays for a new context and for loading kernels.
        static KEPT: OnceLock<Mutex<[Cuda; 3]>> = OnceLock::new();
        KEPT.get_or_init(|| Mutex::new([DType::F32, DType::F16, DType::BF16].map(Cuda::make)));
    }
    found
}

pub fn each_type(test: impl Fn(DType)) {
    if gpu() {
        [DType::F32, DType::F16, DType::BF16].into_iter().for_each(test);
    }
}

/// Allowed error, as a share of the largest value: a few roundings of the type.
pub fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        DType::BF16 => 1.2e-2,
    }
}

pub type Results = Vec<(&'static str, Vec<f32>)>;

/// Hold what the GPU computed against the CPU's; a failure names the worst element.
pub fn judge(dtype: DType, case: &str, slack: f32, want: &Results, got: &Results) {
    assert_eq!(want.len(), got.len());
    for (n, ((name, want), (_, got))) in want.iter().zip(got).enumerate() {
        assert_eq!(want.len(), got.len(), "{dtype:?} {case}, {name}");
        let size = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(size.is_finite(), "{dtype:?} {case}, {name} on the cpu");

        let error = |i: usize| {
            let e = (want[i] - got[i]).abs();
            if e.is_nan() {
                f32::INFINITY
            } else {
                e
            }
        };

        let worst = (0..want.len()).max_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap();
        let allowed = slack * tolerance(dtype) * size;
        assert!(
            error(worst) <= allowed,
            "{dtype:?} {case}, {name} (result {n}): element {worst} of {} is {}, want {} \
             (allowed {allowed})",
            want.len(),
            got[worst],
            want[worst]
        );
    }
}

/// Large shapes are left out: under tools that follow every access they take minutes.
pub fn small_shapes() -> bool {
    std::env::var_os("TRITON_VLLM_SMALL_SHAPES").is_some()
}
