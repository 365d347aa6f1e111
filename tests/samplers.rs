//! The sampler of a device against the reference sampler, on the device's own logits, so that only
//! the sampler is judged: tokens, logprobs, ranks, scored prompts, token masks, preemptions. The
//! CPU everywhere, the GPU where there is one (see `grader`).
#![cfg(feature = "cuda")]

#[path = "samplers/drafts.rs"]
mod drafts;
mod grader;

use std::sync::Arc;

use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::{DType, WeightKind};
use triton_vllm::ids::{SlotId, TokenId};
use triton_vllm::plan::{Feed, LogitsRow, Purpose, StepPlan, TokenMasks};
use triton_vllm::sampling::{
    adjust::forbid, choose, History, LogprobSpec, SamplerSpec, Seen, TokenLogprobs,
};

use grader::{gpu, Bench, Graded, Random, Setup};

const STEPS: usize = 8;
/// Rows of the table: tokens of prompts.
const WORDS: u32 = 50;
/// In which step some slots are opened anew, as after a preemption.
const PREEMPTED: usize = 4;

fn samplers(vocab: usize) -> Vec<SamplerSpec> {
    let base = SamplerSpec { temperature: 0.8, seed: 0x1234_5678_9abc_def0, ..Default::default() };
    let greedy = SamplerSpec::default();
    let masked: Arc<[TokenId]> = (0..40).map(TokenId).collect();
    let word = |ids: &[u32]| ids.iter().map(|&id| TokenId(id)).collect::<Box<[TokenId]>>();
    // A few tokens that win all the time, so that words of them come up.
    let liked: Arc<[(TokenId, f32)]> = (0..3).map(|t| (TokenId(t), 30.0)).collect();
    let mut words = [
        word(&[1, 1]),
        word(&[0, 2]),
        word(&[2, 0, 0]),
        word(&[0, 0, 0, 1]),
        word(&[7]),
        word(&[1_000_000]),
    ];
    SamplerSpec::sort_bad_words(&mut words);
    let words: Arc<[Box<[TokenId]>]> = Arc::from(words);
    // More than a slot's row has room for.
    let many: Arc<[(TokenId, f32)]> =
        (0..vocab as u32).step_by(2).map(|t| (TokenId(t), (t % 7) as f32 - 3.0)).collect();
    let odd: Arc<[u32]> = vec![0xaaaa_aaaau32; vocab.div_ceil(32)].into();
    vec![
        greedy.clone(),
        base.clone(),
        SamplerSpec { temperature: 2.0, seed: 7, ..base.clone() },
        SamplerSpec { top_k: 1, ..base.clone() },
        SamplerSpec { top_k: 17, ..base.clone() },
        SamplerSpec { top_k: 1_000_000, ..base.clone() },
        SamplerSpec { top_p: 0.9, ..base.clone() },
        SamplerSpec { top_p: 1e-6, ..base.clone() },
        SamplerSpec { top_p: 0.5, top_k: 40, ..base.clone() },
        SamplerSpec { min_p: 0.1, ..base.clone() },
        SamplerSpec { min_p: 0.02, top_k: 50, top_p: 0.8, temperature: 1.5, ..base.clone() },
        SamplerSpec { repetition_penalty: 1.7, ..greedy.clone() },
        SamplerSpec { frequency_penalty: 1.5, presence_penalty: -0.5, ..greedy.clone() },
        SamplerSpec { presence_penalty: 2.0, repetition_penalty: 0.8, top_k: 5, ..base.clone() },
        SamplerSpec { min_tokens: 4, masked_until_min: masked.clone(), ..greedy.clone() },
        SamplerSpec { min_tokens: 2, masked_until_min: masked, top_p: 0.95, ..base.clone() },
        SamplerSpec { allowed: Some(Arc::from([0x8000_0101])), ..greedy.clone() },
        SamplerSpec { allowed: Some(odd.clone()), ..base.clone() },
        SamplerSpec { allowed: Some(odd), top_p: 0.7, bias: many.clone(), ..base.clone() },
        SamplerSpec { bias: many, ..greedy.clone() },
        SamplerSpec { bias: liked.clone(), bad_words: words.clone(), ..greedy },
        SamplerSpec { bias: liked, bad_words: words, frequency_penalty: 0.5, ..base },
    ]
}

/// Every third slot reports nothing.
fn report(slot: usize, vocab: usize) -> Option<LogprobSpec> {
    let given = [3, 1, 4, 1_000_000, 0].into_iter().map(TokenId).collect();
    let kinds = [
        LogprobSpec::Top(0),
        LogprobSpec::Top(5),
        LogprobSpec::Top(20),
        LogprobSpec::Tokens(given),
        LogprobSpec::Top(64.min(vocab as u32)),
        LogprobSpec::Top(65),
        LogprobSpec::Top(u32::MAX),
    ];
    // The largest are sorted on the host: few of them.
    let kind = if slot.is_multiple_of(31) { 6 } else { slot % 6 };
    (!slot.is_multiple_of(3) || kind == 6).then(|| kinds[kind].clone())
}

struct Sequence {
    spec: Arc<SamplerSpec>,
    tokens: Vec<TokenId>,
    prompt: usize,
    history: History,
}

impl Sequence {
    fn new(slot: usize, vocab: usize, random: &mut Random) -> Sequence {
        let specs = samplers(vocab);
        let scored = slot % 4 == 1;
        let spec = SamplerSpec {
            logprobs: report(slot, vocab),
            prompt_logprobs: scored.then(|| report(slot % 31 + 1, vocab)).flatten(),
            ..specs[slot % specs.len()].clone()
        };
        let tokens: Vec<TokenId> =
            (0..slot % 7 + 1).map(|_| TokenId(random.next() % WORDS)).collect();
        let history = History::new(&spec, &tokens, &[]);
        Sequence { spec: Arc::new(spec), prompt: tokens.len(), tokens, history }
    }
}

#[track_caller]
fn close(got: &TokenLogprobs, want: &TokenLogprobs, what: &str) {
    assert_eq!((got.token, got.rank), (want.token, want.rank), "{what}");
    let near = |a: f32, b: f32| a == b || (a - b).abs() < 1e-4;
    assert!(near(got.logprob, want.logprob), "{what}: {} for {}", got.logprob, want.logprob);
    assert_eq!(got.top.len(), want.top.len(), "{what}");
    for (got, want) in got.top.iter().zip(&want.top) {
        assert!(got.0 == want.0 && near(got.1, want.1), "{what}: {got:?} for {want:?}");
    }
}

/// The rows of a step: whole sequences where they are new, else the last token.
fn rows(sequences: &[Sequence], fresh: impl Fn(usize) -> bool, b: &mut Bench<impl Graded>) {
    let mut plan = StepPlan::default();
    for (slot, sequence) in sequences.iter().enumerate() {
        let mut feed = Feed::LastSampled;
        if fresh(slot) {
            let known = plan.chunk_tokens.len();
            feed = Feed::Known(known..known + sequence.tokens.len());
            plan.chunk_tokens.extend(&sequence.tokens);
            if sequence.spec.prompt_logprobs.is_some() {
                let chunk = plan.chunks.len();
                let next = sequence.tokens[1..sequence.prompt].iter().enumerate();
                plan.logits.extend(next.map(|(token, &next)| LogitsRow {
                    chunk,
                    token,
                    purpose: Purpose::Report { next },
                }));
            }
        }
        plan.push(SlotId(slot as u32), feed, true);
    }
    b.begin(plan);
}

/// All tokens of all slots, and all logprobs in order, for a comparison of devices.
fn judge<D: Graded>(vocab: usize) -> (Vec<Vec<TokenId>>, Vec<TokenLogprobs>) {
    let slots = 4 * samplers(vocab).len();
    let setup = Setup { slots, step_tokens: 640, ..Setup::default() };
    let mut b = Bench::<D>::new(DType::F32, &setup);
    let width = 64;
    let most = 256;
    let table = b.table(21, WORDS as usize, width);
    let head = b.linear(22, vocab, width);
    let mut x = b.tensor(setup.step_tokens, width);
    let mut picked = b.tensor(most, width);
    let mut logits = b.dev.logits_tensor(most, vocab).unwrap();
    let mut random = Random(23);
    let mut sequences: Vec<Sequence> =
        (0..slots).map(|slot| Sequence::new(slot, vocab, &mut random)).collect();
    for (slot, sequence) in sequences.iter().enumerate() {
        b.open(slot, &sequence.tokens, sequence.spec.clone());
    }
    let mask: Arc<[u32]> = (0..vocab.div_ceil(32) as u32 - 1).map(|w| w * 0x0101_8421).collect();
    let mut caught = 0;
    let mut scored = 0;
    let mut reported = Vec::new();
    for step in 0..STEPS {
        let fresh = |slot: usize| step == 0 || step == PREEMPTED && slot % 5 == 2;
        for (slot, sequence) in sequences.iter().enumerate().filter(|(s, _)| step > 0 && fresh(*s))
        {
            b.reopen(slot, &sequence.tokens, sequence.prompt, sequence.spec.clone());
        }
        rows(&sequences, fresh, &mut b);
        // The scale moves the logits. Ids beyond the table give rows of zeros: nothing but ties.
        b.dev.embed(&table, 1.0 + step as f32 * 0.01, &mut x).unwrap();
        b.dev.gather(&x, &mut picked).unwrap();
        b.dev.logits(&head, None, &picked, &mut logits).unwrap();
        let mut all = b.dev.read(&logits, most).unwrap();
        // A mask for every slot of the second half, in the later steps.
        let masked: Vec<_> = (slots / 2..slots)
            .filter(|_| step >= 5)
            .map(|slot| (SlotId(slot as u32), mask.clone()))
            .collect();
        b.dev.sample(&mut logits, &TokenMasks { by_slot: masked.clone() }).unwrap();
        let result = b.dev.collect().unwrap();
        assert_eq!(result.samples.len(), slots);
        let mut left = all.chunks_exact_mut(vocab);
        let mut reports = result.reports.iter();
        for (slot, (sequence, sampled)) in sequences.iter_mut().zip(&result.samples).enumerate() {
            let id = SlotId(slot as u32);
            let spec = sequence.spec.clone();
            let what = format!("{vocab} tokens, step {step}, slot {slot}, {spec:?}");
            if let Some(wanted) = spec.prompt_logprobs.as_ref().filter(|_| fresh(slot)) {
                let targets = &sequence.tokens[1..sequence.prompt];
                let got = if targets.is_empty() { None } else { reports.next() };
                let got = got.map_or(&[][..], |scored| {
                    assert_eq!(scored.slot, id, "{what}");
                    scored.logprobs.as_deref().expect(&what)
                });
                assert_eq!(got.len(), targets.len(), "{what}");
                scored += targets.len();
                reported.extend_from_slice(got);
                for (got, target) in got.iter().zip(targets) {
                    let row = left.next().unwrap();
                    close(got, &TokenLogprobs::read(row, *target, wanted), &what);
                }
            }
            let row = left.next().unwrap();
            let mut seen = Seen::default();
            if masked.iter().any(|(slot, _)| *slot == id) {
                forbid(row, &mask, &mut seen);
            }
            let raw = row.to_vec();
            let position = b.length(slot) as u32;
            let want = choose(row, seen, &spec, &sequence.history, position).expect(&what);
            let free = SamplerSpec { bad_words: Arc::from([]), ..(*spec).clone() };
            let free = choose(&mut raw.clone(), seen, &free, &sequence.history, position);
            caught += usize::from(free != Ok(want));
            assert_eq!((sampled.slot, &sampled.tokens), (id, &Ok(vec![want])), "{what}");
            assert_eq!(sampled.logprobs.len(), usize::from(spec.logprobs.is_some()), "{what}");
            if let (Some(wanted), [got]) = (&spec.logprobs, &sampled.logprobs[..]) {
                close(got, &TokenLogprobs::read(&raw, want, wanted), &what);
            }
            reported.extend_from_slice(&sampled.logprobs);
            sequence.history.push(want);
            sequence.tokens.push(want);
        }
        assert!(reports.next().is_none(), "step {step} reports rows that none asked for");
    }
    assert!(caught > 10, "bad words changed only {caught} choices");
    assert!(scored > 30, "only {scored} positions of prompts were scored");
    (sequences.into_iter().map(|s| s.tokens).collect(), reported)
}

/// Tokens whose logits rows are, in this order: ordinary; +inf at one place; -inf everywhere;
/// -inf everywhere but there, which is legal; NaN everywhere; NaN there and -inf else.
const KINDS: usize = 6;
const IS_FINITE: [bool; KINDS] = [true, false, false, true, false, false];

/// A table of such tokens and a head to it, of which `place` is the odd one.
fn odd_weights<D: Graded>(b: &mut Bench<D>, vocab: usize, place: usize) -> (D::Weight, D::Weight) {
    const WIDTH: usize = 64;
    let mut random = Random(31);
    // The last columns are 0 but for the token of their kind.
    let [inf, none, lone, nan] = [60, 61, 62, 63];
    let mut table = vec![0.0; KINDS * WIDTH];
    for (kind, row) in table.chunks_exact_mut(WIDTH).enumerate() {
        row[..inf].fill_with(|| random.signed());
        match kind {
            1 => row[inf] = 1e20,
            2 => row[none] = 1e20,
            3 => row[lone] = 1e20,
            4 => row.fill(f32::NAN),
            5 => row[nan] = f32::INFINITY,
            _ => {}
        }
    }
    let mut head = vec![0.0; vocab * WIDTH];
    for (token, row) in head.chunks_exact_mut(WIDTH).enumerate() {
        row[..inf].fill_with(|| random.signed());
        row[none] = -1e30;
        if token == place {
            row[inf] = 1e30;
        } else {
            [row[lone], row[nan]] = [-1e30, -1.0];
        }
    }
    (b.given(WeightKind::Table, &table, WIDTH), b.given(WeightKind::Linear, &head, WIDTH))
}

/// Rows that are not finite, whatever samplers and masks do with them, and their neighbours.
fn judge_odd<D: Graded>(vocab: usize, place: usize) {
    let slots = 4 * samplers(vocab).len();
    let setup = Setup { slots, step_tokens: 2 * slots, ..Setup::default() };
    let mut b = Bench::<D>::new(DType::F32, &setup);
    let (table, head) = odd_weights(&mut b, vocab, place);
    let mut x = b.tensor(2 * slots, 64);
    let mut picked = b.tensor(2 * slots, 64);
    let mut logits = b.dev.logits_tensor(2 * slots, vocab).unwrap();
    let mut random = Random(37);
    let mask: Arc<[u32]> = (0..vocab.div_ceil(32) as u32).map(|w| w * 0x0101_8421 + 4).collect();
    for step in 0..KINDS {
        // The first of its two tokens is scored where the slot scores, the second sampled from.
        let sequences: Vec<Sequence> = (0..slots)
            .map(|slot| {
                let kinds = [slot / KINDS + step, slot + step];
                let tokens = kinds.map(|kind| TokenId((kind % KINDS) as u32)).to_vec();
                let spec = Sequence::new(slot, vocab, &mut random).spec;
                let history = History::new(&spec, &tokens, &[]);
                Sequence { spec, prompt: 2, tokens, history }
            })
            .collect();
        for (slot, sequence) in sequences.iter().enumerate() {
            b.open(slot, &sequence.tokens, sequence.spec.clone());
        }
        rows(&sequences, |_| true, &mut b);
        b.dev.embed(&table, 1.0, &mut x).unwrap();
        b.dev.gather(&x, &mut picked).unwrap();
        b.dev.logits(&head, None, &picked, &mut logits).unwrap();
        let mut all = b.dev.read(&logits, 2 * slots).unwrap();
        let is_masked = |slot: usize| (slot / KINDS + step).is_multiple_of(2);
        let masked = (0..slots).filter(|&slot| is_masked(slot));
        let masked = masked.map(|slot| (SlotId(slot as u32), mask.clone())).collect();
        b.dev.sample(&mut logits, &TokenMasks { by_slot: masked }).unwrap();
        let result = b.dev.collect().unwrap();

        let mut left = all.chunks_exact_mut(vocab);
        let mut reports = result.reports.iter();
        for (slot, (sequence, sampled)) in sequences.iter().zip(&result.samples).enumerate() {
            let Sequence { spec, tokens, history, .. } = sequence;
            let what = format!("{vocab} tokens, step {step}, slot {slot}, {tokens:?}, {spec:?}");
            let [first, second] = [tokens[0], tokens[1]].map(|kind| IS_FINITE[kind.index()]);
            if let Some(wanted) = &spec.prompt_logprobs {
                let row = left.next().unwrap();
                let got = &reports.next().unwrap().logprobs;
                if let Ok(got) = got {
                    close(&got[0], &TokenLogprobs::read(row, tokens[1], wanted), &what);
                }
                assert_eq!(got.is_ok(), first, "{what}");
            }
            let row = left.next().unwrap();
            let mut seen = Seen::default();
            if is_masked(slot) {
                forbid(row, &mask, &mut seen);
            }
            let raw = row.to_vec();
            let want = choose(row, seen, spec, history, 2);
            assert_eq!(want.is_ok(), second, "the reference: {what}");
            assert_eq!(sampled.tokens, want.map(|token| vec![token]), "{what}");
            let reports = usize::from(second && spec.logprobs.is_some());
            assert_eq!(sampled.logprobs.len(), reports, "{what}");
            if let (Some(wanted), [got], Ok(want)) = (&spec.logprobs, &sampled.logprobs[..], want) {
                close(got, &TokenLogprobs::read(&raw, want, wanted), &what);
            }
        }
        assert!(reports.next().is_none(), "step {step} reports rows that none asked for");
    }
}

#[test]
fn the_cpu_tells_rows_that_are_not_finite() {
    for place in [0, 1, 31, 49] {
        judge_odd::<Cpu>(50, place);
    }
}

#[test]
fn the_gpu_tells_rows_that_are_not_finite() {
    if gpu() {
        for place in [0, 1, 31, 49] {
            judge_odd::<Cuda>(50, place);
        }
        if !grader::small_shapes() {
            for (vocab, place) in [(32_000, 0), (50_257, 50_256), (128_256, 70_001)] {
                judge_odd::<Cuda>(vocab, place);
            }
        }
    }
}

/// Sampled ids are fed, and the CPU refuses ids beyond the table.
#[test]
fn the_cpu_takes_the_reference_tokens() {
    judge::<Cpu>(WORDS as usize);
}

#[test]
fn the_gpu_takes_the_reference_tokens() {
    if gpu() {
        let vocabs = [WORDS as usize, 1003, 32_000, 50_257, 128_256];
        for &vocab in &vocabs[..if grader::small_shapes() { 1 } else { 5 }] {
            judge::<Cuda>(vocab);
        }
    }
}

/// Seeded tokens and logprobs do not depend on the device, where logits differ in the last places
/// only.
#[test]
fn devices_agree() {
    if gpu() {
        let (cpu, cuda) = (judge::<Cpu>(WORDS as usize), judge::<Cuda>(WORDS as usize));
        assert_eq!(cpu.0, cuda.0);
        assert_eq!(cpu.1.len(), cuda.1.len());
        for (n, (want, got)) in cpu.1.iter().zip(&cuda.1).enumerate() {
            close(got, want, &format!("logprobs {n}"));
        }
    }
}
