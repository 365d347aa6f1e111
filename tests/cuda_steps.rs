//! Steps on the GPU: some that overlap, token masks, plans that are refused. Skipped without a GPU
//! (see `grader`). Its sampler is judged in `samplers`.
#![cfg(feature = "cuda")]

mod grader;

use std::sync::Arc;

use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::ops::*;
use triton_vllm::device::{Bytes, DType, HostTensor, Join, Source, WeightDesc, WeightKind};
use triton_vllm::ids::{SlotId, TokenId};
use triton_vllm::plan::{Feed, SlotChange, StepPlan, TokenMasks};
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
