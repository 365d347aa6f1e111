//! Steps on the GPU: some that overlap, token masks, plans that are refused. Skipped without a GPU
//! (see `grader`). Its sampler is judged in `samplers`.
#![cfg(feature = "cuda")]

mod grader;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::ops::*;
use triton_vllm::device::{
    AttnSpec, Bytes, Columns, ConvSpec, DType, DeltaSpec, DeltaWeights, HostTensor, Join, KvScales,
    Source, StateShape, WeightDesc, WeightKind,
};
use triton_vllm::ids::{SlotId, TokenId};
use triton_vllm::plan::{Feed, SlotChange, StepPlan, StepResult, TokenMasks};
use triton_vllm::sampling::SamplerSpec;

use grader::{gpu, Bench, Graded, Setup};

/// Two steps are enqueued before the first is collected: the second feeds what the first sampled,
/// unseen by the host, and a slot is closed and opened again meanwhile.
#[test]
fn steps_overlap() {
    if !gpu() {
        return;
    }
    let run = |depth: usize| {
        let setup = Setup::default();
        let mut b = Bench::<Cuda>::new(DType::F32, &setup);
        let (vocab, width) = (97, 32);
        let table = b.table(24, vocab, width);
        let head = b.linear(25, vocab, width);
        let mut x = b.tensor(setup.step_tokens, width);
        let mut picked = b.tensor(setup.slots, width);
        let mut logits = b.dev.logits_tensor(setup.slots, vocab).unwrap();
        let mut results = Vec::new();
        let mut in_flight = 0;
        for step in 0..40 {
            if step % 9 == 0 {
                let spec = SamplerSpec { temperature: 1.0, seed: step, ..Default::default() };
                b.open(1, &[TokenId(3)], Arc::new(spec));
            }
            if step == 0 {
                b.open(0, &[TokenId(5)], Arc::default());
            }
            let chunk = |first: bool| if first { Feed::Known(0..1) } else { Feed::LastSampled };
            let mut plan = StepPlan { chunk_tokens: vec![TokenId(5)], ..StepPlan::default() };
            plan.push(SlotId(0), chunk(step == 0), true);
            plan.push(SlotId(1), chunk(step % 9 == 0), true);
            b.begin(plan);
            b.dev.embed(&table, 1.0, &mut x).unwrap();
            b.dev.gather(&x, &mut picked).unwrap();
            b.dev.logits(&head, None, &picked, &mut logits).unwrap();
            b.dev.sample(&mut logits, &TokenMasks::default()).unwrap();
            in_flight += 1;
            if in_flight == depth {
                results.push(b.dev.collect().unwrap());
                in_flight -= 1;
            }
        }
        results.extend((0..in_flight).map(|_| b.dev.collect().unwrap()));
        results
    };
    let (one, two) = (run(1), run(2));
    assert_eq!(one.len(), 40);
    assert_eq!(one, two);
    // It did feed what it sampled: a stuck token would repeat.
    let first: Vec<_> = one.iter().map(|r| r.samples[1].tokens.as_ref().unwrap()[0]).collect();
    assert!(first.windows(2).any(|w| w[0] != w[1]));
}

/// A start leaves its ways to multiply to the next one, which takes them, and multiplies as if it
/// had chosen them itself; a file that is damaged is as none.
#[test]
fn ways_to_multiply_are_kept_for_the_next_start() {
    if !gpu() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("ways-{}", std::process::id()));
    let product = || {
        let setup = Setup::default();
        let mut b = Bench::<Cuda>::new(DType::F32, &setup);
        b.dev.remember_choices(&folder);
        let (rows, width, outputs) = (100, 1024, 768);
        let (table, linear) = (b.table(3, 11, width), b.linear(4, outputs, width));
        let mut x = b.tensor(setup.step_tokens, width);
        let mut y = b.tensor(setup.step_tokens, outputs);
        b.open(0, &[TokenId(5)], Arc::default());
        let chunk_tokens = (0..rows).map(|n| TokenId(n as u32 % 11)).collect();
        let mut plan = StepPlan { chunk_tokens, ..StepPlan::default() };
        plan.push(SlotId(0), Feed::Known(0..rows), false);
        b.begin(plan);
        b.dev.embed(&table, 1.0, &mut x).unwrap();
        b.dev.linear(&linear, None, &x, &mut y).unwrap();
        b.dev.forwarded().unwrap();
        let y = b.dev.read(&y, rows).unwrap();
        b.dev.keep_choices();
        y
    };

    let first = product();
    let files = std::fs::read_dir(&folder).unwrap();
    let [file] = &files.map(|file| file.unwrap().path()).collect::<Vec<_>>()[..] else {
        panic!("one file in {}", folder.display())
    };
    let kept = std::fs::read_to_string(file).unwrap();
    assert!(kept.contains("128 x 768 x 1024"), "{kept}");
    assert_eq!(product(), first);
    assert_eq!(std::fs::read_to_string(file).unwrap(), kept, "it chose again");

    std::fs::write(file, &kept[..kept.len() / 2]).unwrap();
    let other = product();
    assert!(other.iter().zip(&first).all(|(a, b)| (a - b).abs() < 1e-3));
    assert!(std::fs::read_to_string(file).unwrap().contains("128 x 768 x 1024"));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Tokens of a sequence whose mask depends on the token before, and of one beside it that is free.
/// `overlap`: a step is enqueued up to its logits before the one before it is collected, as the
/// engine does it.
fn masked<D: Graded>(overlap: bool, masks: bool) -> Vec<[TokenId; 2]> {
    let setup = Setup::default();
    let mut b = Bench::<D>::new(DType::F32, &setup);
    let (vocab, width) = (1003, 32);
    let table = b.table(24, vocab, width);
    let head = b.linear(25, vocab, width);
    let mut x = b.tensor(setup.step_tokens, width);
    let mut picked = b.tensor(setup.slots, width);
    let mut logits = b.dev.logits_tensor(setup.slots, vocab).unwrap();
    let drawn = SamplerSpec { temperature: 1.0, seed: 3, ..Default::default() };
    b.open(0, &[TokenId(5)], Arc::default());
    b.open(1, &[TokenId(7)], Arc::new(drawn));
    let mut tokens = vec![[TokenId(5), TokenId(7)]];
    let collect = |b: &mut Bench<D>, tokens: &mut Vec<[TokenId; 2]>| {
        let samples = b.dev.collect().unwrap().samples;
        tokens.push([0, 1].map(|n: usize| samples[n].tokens.as_ref().unwrap()[0]));
    };
    for step in 0..40 {
        let chunk_tokens = vec![TokenId(5), TokenId(7)];
        let mut plan = StepPlan { chunk_tokens, ..StepPlan::default() };
        for slot in 0..2 {
            let known = Feed::Known(slot..slot + 1);
            let feed = if step == 0 { known } else { Feed::LastSampled };
            plan.push(SlotId(slot as u32), feed, true);
        }
        b.begin(plan);
        b.dev.embed(&table, 1.0, &mut x).unwrap();
        b.dev.gather(&x, &mut picked).unwrap();
        b.dev.logits(&head, None, &picked, &mut logits).unwrap();
        if overlap && step > 0 {
            collect(&mut b, &mut tokens);
        }
        // Of 1003 tokens four; once a single one, the last.
        let last = tokens[tokens.len() - 1][0].0;
        let ways = if step == 20 { [1002; 4] } else { [1, 2, 3, 5].map(|n| (7 * last + n) % 1003) };
        let mut mask = vec![0u32; vocab.div_ceil(32)];
        ways.iter().for_each(|way| mask[*way as usize / 32] |= 1 << (way % 32));
        let mask = masks.then(|| (SlotId(0), mask.into()));
        b.dev.sample(&mut logits, &TokenMasks { by_slot: mask.into_iter().collect() }).unwrap();
        if !overlap {
            collect(&mut b, &mut tokens);
            let got = tokens[tokens.len() - 1][0].0;
            assert!(!masks || ways.contains(&got), "step {step}: {got} is not one of {ways:?}");
        }
    }
    if overlap {
        collect(&mut b, &mut tokens);
    }
    tokens
}

/// Masks come while the next step runs, and bind their own rows only.
#[test]
fn masks_follow_the_token_before() {
    let expected = masked::<Cpu>(false, true);
    let free = masked::<Cpu>(false, false);
    assert!(expected.iter().zip(&free).all(|(a, b)| a[1] == b[1]), "a mask of another row");
    assert!(expected.iter().zip(&free).filter(|(a, b)| a[0] != b[0]).count() > 20);
    if !gpu() {
        return;
    }
    assert_eq!(masked::<Cuda>(false, true), expected);
    assert_eq!(masked::<Cuda>(true, true), expected);
}

/// Steps of `rows` sequences, each of which feeds one token: of many tokens' logits some are equal
/// and the largest, the row of token 3 is NaN throughout. The first sequence has `first` as its
/// sampler, and a mask where `masked`; the others are greedy.
fn largest<D: Graded>(rows: usize, first: &SamplerSpec, masked: bool) -> Vec<StepResult> {
    // Recorded steps are padded to as many rows.
    let setup = Setup { slots: 16, ..Setup::default() };
    let mut b = Bench::<D>::new(DType::BF16, &setup);
    let (vocab, width) = (9003, 64);
    // Below 4500 nothing is large; from there on every 97th token has one of four rows.
    let row = |n: usize| match n.checked_sub(4500).filter(|above| above % 97 == 0) {
        Some(above) => (above / 97 % 4, 1.0),
        None => (n % 61, 0.01),
    };
    let value = |n: usize, i: usize| ((n * 37 + i * 11) % 23) as f32 / 16.0 - 0.7;
    let of_head = |n: usize, i: usize| value(row(n).0, i) * row(n).1;
    let values = |rows: usize, at: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        (0..rows * width).map(|k| at(k / width, k % width)).collect()
    };
    let head = b.given(WeightKind::Linear, &values(vocab, &of_head), width);
    let of_table = |n, i| if n == 3 { f32::NAN } else { value(5 * n + 2, i) };
    let table = b.given(WeightKind::Table, &values(9, &of_table), width);
    let mut x = b.tensor(setup.step_tokens, width);
    let mut picked = b.tensor(setup.slots, width);
    let mut logits = b.dev.logits_tensor(setup.slots, vocab).unwrap();
    for slot in 0..rows {
        let spec = if slot == 0 { first.clone() } else { SamplerSpec::default() };
        b.open(slot, &[TokenId(slot as u32)], Arc::new(spec));
    }

    b.dev.steady();
    let mut step = || {
        let chunk_tokens = (0..rows as u32).map(TokenId).collect();
        let mut plan = StepPlan { chunk_tokens, ..StepPlan::default() };
        (0..rows).for_each(|n| plan.push(SlotId(n as u32), Feed::Known(n..n + 1), true));
        b.begin(plan);
        b.dev.embed(&table, 1.0, &mut x).unwrap();
        b.dev.gather(&x, &mut picked).unwrap();
        b.dev.logits(&head, None, &picked, &mut logits).unwrap();
        b.dev.forwarded().unwrap();
        let mask = masked.then(|| (SlotId(0), vec![0xff; vocab.div_ceil(32)].into()));
        b.dev.sample(&mut logits, &TokenMasks { by_slot: mask.into_iter().collect() }).unwrap();
        b.dev.collect().unwrap()
    };
    // Call by call, recorded, replayed.
    (0..4).map(|_| step()).collect()
}

/// Greedy rows have the first of the largest logits, also where their product leaves the best of
/// its blocks' parts for the sampler, and whatever the sampler of a row beside them.
#[test]
fn greedy_tokens_are_of_the_largest_logits() {
    let bias = SamplerSpec { bias: Arc::from([(TokenId(9002), 100.0)]), ..Default::default() };
    let mut allowed = vec![0u32; 9003usize.div_ceil(32)];
    allowed[2] = 1 << 5;
    let allowed = SamplerSpec { allowed: Some(allowed.into()), ..Default::default() };
    let drawn = SamplerSpec { temperature: 1.0, seed: 7, ..Default::default() };

    let cases = [
        (SamplerSpec::default(), false),
        (SamplerSpec::default(), true),
        (bias, false),
        (allowed, false),
        (drawn, false),
    ];

    for (n, (first, masked)) in cases.iter().enumerate() {
        for rows in [1, 2, 5, 8, 9] {
            let expected = largest::<Cpu>(rows, first, *masked);
            let token = |n: usize| expected[0].samples[n].tokens.as_ref().unwrap()[0].0;
            assert!(rows < 2 || (4500..4500 + 4 * 97).contains(&token(1)), "{}", token(1));
            assert!(rows < 4 || expected[0].samples[3].tokens.is_err(), "a row that is not finite");
            if gpu() {
                assert_eq!(
                    largest::<Cuda>(rows, first, *masked),
                    expected,
                    "case {n}, {rows} rows"
                );
            }
        }
    }
}

/// What of a layer that keeps a state stands beside attention of four heads for each KV head.
struct State<D: Graded> {
    convolution: D::Weight,
    log_decay: D::Weight,
    rate_bias: D::Weight,
    table: D::Weight,
    rates: D::Tensor,
    mixed: D::Tensor,
    values: D::Tensor,
    product: D::Tensor,
}

impl<D: Graded> State<D> {
    const DELTA: DeltaSpec = DeltaSpec { key_heads: 2, value_heads: 8, key_dim: 64, value_dim: 64 };
    const TAPS: usize = 4;

    fn shape() -> StateShape {
        let DeltaSpec { value_heads, key_dim, value_dim, .. } = Self::DELTA;
        StateShape {
            layers: 1,
            tail_rows: Self::TAPS - 1,
            tail_width: Self::DELTA.mixed_width(),
            heads: value_heads,
            rows: value_dim,
            columns: key_dim,
        }
    }

    fn new(b: &mut Bench<D>, rows: usize, vocab: usize) -> State<D> {
        let (width, values) = (Self::DELTA.mixed_width(), Self::DELTA.value_width());
        let heads = Self::DELTA.value_heads;
        State {
            convolution: b.vector(31, width * Self::TAPS),
            log_decay: b.vector(32, heads),
            rate_bias: b.vector(33, heads),
            table: b.table(34, vocab, 2 * heads),
            rates: b.tensor(rows, 2 * heads),
            mixed: b.tensor(rows, width),
            values: b.tensor(rows, values),
            product: b.tensor(rows, values),
        }
    }

    /// What it makes of `x` times what attention made.
    fn run(&mut self, dev: &mut D, x: &D::Tensor, attention: &D::Tensor) -> &D::Tensor {
        let conv = ConvSpec { taps: Self::TAPS, width: Self::DELTA.mixed_width(), silu: true };
        dev.embed(&self.table, 1.0, &mut self.rates).unwrap();
        dev.short_convolution(0, &conv, &self.convolution, None, x, &mut self.mixed).unwrap();
        let weights = DeltaWeights { log_decay: &self.log_decay, rate_bias: &self.rate_bias };
        let (mixed, rates) = (&self.mixed, &self.rates);
        dev.delta_rule(0, &Self::DELTA, weights, mixed, rates, &mut self.values).unwrap();
        let attention = Columns { tensor: attention, first: 0 };
        let values = Columns { tensor: &self.values, first: 0 };
        dev.multiply(attention, values, &mut self.product).unwrap();
        &self.product
    }
}

/// Sequences that draft, and their device.
struct Drafting<D: Graded> {
    bench: Bench<D>,
    spec: AttnSpec,
    table: D::Weight,
    head: D::Weight,
    qkv: D::Tensor,
    out: D::Tensor,
    picked: D::Tensor,
    logits: D::Tensor,
    state: Option<State<D>>,
    /// Of each sequence: prompt and outputs, and how many of them are the prompt.
    tokens: Vec<(Vec<TokenId>, usize)>,
}

impl<D: Graded> Drafting<D> {
    /// Of q heads for each of two KV heads; the sequences have one output each.
    fn new(dtype: DType, group: usize, states: bool) -> Drafting<D> {
        let (kv_heads, head_dim, vocab) = (2, 64, 97);
        let heads = group * kv_heads;
        let state = if states { State::<D>::shape() } else { StateShape::default() };
        let setup = Setup { kv_heads, head_dim, state, ..Setup::default() };
        let mut bench = Bench::<D>::new(dtype, &setup);
        let spec = AttnSpec {
            heads,
            kv_heads,
            head_dim,
            scale: 0.125,
            window: None,
            chunk: None,
            softcap: None,
            kv_scales: KvScales::ONE,
            q_only: false,
        };
        let table = bench.table(24, vocab, spec.row_width());
        let head = bench.linear(25, vocab, heads * head_dim);
        let qkv = bench.tensor(setup.step_tokens, spec.row_width());
        let out = bench.tensor(setup.step_tokens, heads * head_dim);
        let picked = bench.tensor(setup.step_tokens, heads * head_dim);
        let logits = bench.dev.logits_tensor(setup.step_tokens, vocab).unwrap();

        // The second one's keys are cut among blocks.
        let prompt = |n: usize| (0..n as u32).map(|i| TokenId((7 * i + n as u32) % 97)).collect();
        let tokens: Vec<(Vec<TokenId>, usize)> = [9, 130, 3].map(|n| (prompt(n), n)).into();
        let state = states.then(|| State::new(&mut bench, setup.step_tokens, vocab));
        let (own, tokens) = (tokens, Vec::new());
        let mut rig =
            Drafting { bench, spec, table, head, qkv, out, picked, logits, state, tokens };
        let mut plan = StepPlan::default();
        for (slot, (prompt, _)) in own.iter().enumerate() {
            rig.bench.open(slot, &[], Arc::default());
            let start = plan.chunk_tokens.len();
            plan.chunk_tokens.extend(prompt);
            plan.push(SlotId(slot as u32), Feed::Known(start..start + prompt.len()), true);
        }
        rig.tokens = own;
        rig.run(plan);
        rig
    }

    fn run(&mut self, plan: StepPlan) {
        let b = &mut self.bench;
        b.begin(plan);
        b.dev.embed(&self.table, 1.0, &mut self.qkv).unwrap();
        b.dev.rope_store(0, &self.spec, None, &mut self.qkv).unwrap();
        b.dev.attend(0, &self.spec, None, &self.qkv, &mut self.out).unwrap();
        let out = match &mut self.state {
            Some(state) => state.run(&mut b.dev, &self.qkv, &self.out),
            None => &self.out,
        };
        b.dev.gather(out, &mut self.picked).unwrap();
        b.dev.logits(&self.head, None, &self.picked, &mut self.logits).unwrap();
        b.dev.sample(&mut self.logits, &TokenMasks::default()).unwrap();
        for sample in b.dev.collect().unwrap().samples {
            let slot = sample.slot.index();
            self.tokens[slot].0.extend(sample.tokens.unwrap());
            // What was fed behind the accepted drafts comes to nothing.
            let fed = self.tokens[slot].0.len() - 1;
            b.truncate(slot, fed);
        }
    }

    /// So many outputs of each, with up to `drafts` drafts in a step, most of them as in `truth`.
    fn outputs(mut self, wanted: usize, drafts: usize, truth: &[Vec<TokenId>]) -> Drafted<D> {
        self.bench.dev.steady();
        let mut sizes = BTreeMap::<(usize, bool, bool), u64>::new();
        for step in 0.. {
            let mut plan = StepPlan::default();
            for slot in 0..self.tokens.len() {
                let (tokens, prompt) = &self.tokens[slot];
                let id = SlotId(slot as u32);
                let outputs = tokens.len() - prompt;
                // Sometimes none, sometimes it feeds a token once more, as a drafting model may.
                let count = if step % 5 == slot { 0 } else { drafts };
                let known = truth.get(slot).map_or(&[][..], |truth| &truth[outputs..]);
                let mut drafts: Vec<TokenId> = known.iter().take(count).copied().collect();
                if let Some(wrong) = drafts.get_mut(step % 7) {
                    wrong.0 = (wrong.0 + 1) % 97;
                }
                if outputs >= wanted {
                    continue;
                } else if !drafts.is_empty() {
                    plan.push_drafts(id, tokens[tokens.len() - 1], &drafts);
                } else if step % 3 == 0 && !truth.is_empty() && self.state.is_none() {
                    let start = plan.chunk_tokens.len();
                    plan.chunk_tokens.extend(&tokens[tokens.len() - 2..]);
                    self.bench.truncate(slot, tokens.len() - 2);
                    plan.push(id, Feed::Known(start..start + 2), true);
                } else {
                    plan.push(id, Feed::LastSampled, true);
                }
            }
            if plan.chunks.is_empty() {
                break;
            }
            // Those with several rows of a sequence are recorded apart, and those that have rows
            // without logits.
            let several = plan.tokens() > plan.chunks.len();
            let gathers = plan.logits.len() < plan.tokens();
            let size = plan.tokens().next_power_of_two();
            *sizes.entry((size, several, gathers)).or_default() += 1;
            self.run(plan);
        }

        let outputs =
            self.tokens.iter().map(|(tokens, prompt)| tokens[*prompt..][..wanted].to_vec());
        Drafted { outputs: outputs.collect(), sizes, dev: self.bench.dev }
    }
}

/// What came of it: outputs, and steps by their recording: rows once they were padded.
struct Drafted<D> {
    outputs: Vec<Vec<TokenId>>,
    sizes: BTreeMap<(usize, bool, bool), u64>,
    dev: D,
}

/// Steps with drafts, with the token that a model that drafts has missed, and without are replayed
/// as steps of as many rows, those without by themselves, and give the tokens of steps of one token
/// that are launched call by call, behind layers that keep a state too. 4 heads of 4 tokens are one
/// tile of packed rows, of 6 two, 20 heads of 4 five.
#[test]
fn steps_with_drafts_are_replayed() {
    const OUTPUTS: usize = 60;
    for (dtype, group, drafts, states) in [
        (DType::F32, 4, 3, false),
        (DType::F16, 4, 3, false),
        (DType::BF16, 4, 5, false),
        (DType::F16, 20, 3, false),
        (DType::F16, 1, 7, false),
        (DType::F32, 4, 3, true),
        (DType::F16, 4, 2, true),
    ] {
        let plain = Drafting::<Cpu>::new(dtype, group, states).outputs(OUTPUTS + drafts, 0, &[]);
        let distinct = |tokens: &Vec<TokenId>| tokens.iter().collect::<BTreeSet<_>>().len();
        assert!(plain.outputs.iter().any(|tokens| distinct(tokens) > 5), "{:?}", plain.outputs);
        let check = |outputs: &[Vec<TokenId>]| {
            let same = |(got, want): (&Vec<TokenId>, &Vec<TokenId>)| {
                got.iter().zip(want).take_while(|(got, want)| got == want).count()
            };
            let same: usize = outputs.iter().zip(&plain.outputs).map(same).sum();
            // Half types may turn a near tie, and with it all behind it.
            let least = 3 * OUTPUTS * if dtype == DType::F32 { 100 } else { 60 } / 100;
            assert!(
                same >= least,
                "{dtype:?}, {group} heads, {drafts} drafts: {same} are the same"
            );
        };
        let cpu =
            Drafting::<Cpu>::new(dtype, group, states).outputs(OUTPUTS, drafts, &plain.outputs);
        check(&cpu.outputs);
        let steps: u64 = cpu.sizes.values().sum();
        assert!(2 * steps < OUTPUTS as u64 + 20 * u64::from(states), "{steps} steps");
        if !gpu() {
            continue;
        }

        let cuda =
            Drafting::<Cuda>::new(dtype, group, states).outputs(OUTPUTS, drafts, &plain.outputs);
        check(&cuda.outputs);
        // The first of a size is launched, the second recorded.
        let repeated: u64 = cuda.sizes.values().map(|steps| steps.saturating_sub(2)).sum();
        assert_eq!(cuda.dev.replayed_steps(), repeated, "{dtype:?}, {group} heads");
        assert!(repeated > 0);
    }
}

/// Plans that the cache manager would never make are refused, with a sentence, before anything
/// reaches the GPU.
#[test]
fn impossible_plans_are_refused() {
    if !gpu() {
        return;
    }
    let mut b = Bench::<Cuda>::new(DType::F32, &Setup::default());
    let row = |slot| {
        let mut plan = StepPlan::default();
        plan.push(SlotId(slot), Feed::LastSampled, true);
        plan
    };

    assert!(b.try_begin(row(0)).is_err(), "a slot that is not open");
    assert!(b.try_begin(row(9999)).is_err(), "a slot that does not exist");
    b.changes.push(SlotChange::Close { slot: SlotId(9999) });
    assert!(b.try_begin(StepPlan::default()).is_err(), "closing what does not exist");

    let part = HostTensor { dtype: DType::F32, rows: 2, cols: 2, bytes: Bytes::InMemory(&[0; 12]) };
    let desc = WeightDesc {
        name: "w",
        kind: WeightKind::Linear,
        outputs: 2,
        inputs: 2,
        dtype: DType::F32,
        quant: None,
        transposed: false,
        join: Join::None,
        source: Source::Parts(vec![part]),
    };
    assert!(b.dev.upload(desc).is_err(), "a part of the wrong size");
}
