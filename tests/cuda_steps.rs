//! Steps on the GPU: its sampler against the reference sampler, steps that overlap, plans that are
//! refused. Skipped without a GPU (see `grader`).
#![cfg(feature = "cuda")]

mod grader;

use std::sync::Arc;

use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::{DType, Device, HostTensor, Source, WeightDesc, WeightKind};
use triton_vllm::ids::{SlotId, TokenId};
use triton_vllm::plan::{Feed, Late, Row, SlotChange};
use triton_vllm::sampling::{adjust::forbid, choose, History, SamplerSpec};

use grader::{gpu, Bench, Random, Setup};

fn samplers() -> Vec<SamplerSpec> {
    let base = SamplerSpec { temperature: 0.8, seed: 0x1234_5678_9abc_def0, ..Default::default() };
    let greedy = SamplerSpec::default();
    let masked: Arc<[TokenId]> = (0..40).map(TokenId).collect();
    vec![
        greedy.clone(),
        base.clone(),
        SamplerSpec { temperature: 3.0, seed: 7, ..base.clone() },
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
        SamplerSpec { min_tokens: 4, masked_until_min: masked.clone(), ..greedy },
        SamplerSpec { min_tokens: 2, masked_until_min: masked, top_p: 0.95, ..base },
    ]
}

/// The GPU's tokens against the reference sampler on the GPU's own logits, so that only the sampler
/// is judged; eight steps, so that counts, outputs and positions move.
#[test]
fn sampler_takes_the_reference_tokens() {
    if !gpu() {
        return;
    }
    for vocab in [50usize, 1003, 32_000, 128_256] {
        let specs = samplers();
        let setup = Setup { slots: 2 * specs.len(), ..Setup::default() };
        let mut b = Bench::<Cuda>::new(DType::F32, &setup);
        let width = 64;
        let table = b.table(21, 50, width);
        let head = b.linear(22, vocab, width);
        let mut x = b.tensor(setup.step_tokens, width);
        let mut picked = b.tensor(setup.slots, width);
        let mut logits = b.dev.logits_tensor(setup.slots, vocab).unwrap();
        let mut random = Random(23);
        let prompts: Vec<Vec<u32>> = (0..setup.slots)
            .map(|n| (0..n % 7 + 1).map(|_| random.next() % 50).collect())
            .collect();
        let spec = |slot: usize| &specs[slot % specs.len()];
        let mut histories: Vec<History> = Vec::new();
        for (slot, prompt) in prompts.iter().enumerate() {
            let tokens: Vec<TokenId> = prompt.iter().map(|&t| TokenId(t)).collect();
            b.open(slot, &tokens, Arc::new(spec(slot).clone()));
            histories.push(History::new(spec(slot), &tokens, &[]));
        }
        let mask: Arc<[u32]> =
            (0..vocab.div_ceil(32) as u32 - 1).map(|w| w * 0x0101_8421).collect();
        for step in 0..8 {
            let lengths: Vec<usize> =
                prompts.iter().map(|p| if step == 0 { p.len() } else { 1 }).collect();
            b.feed_prompts(&prompts, &lengths, step == 0);
            // Rows of the same token have the same logits: positions differ by what the table adds.
            b.dev.embed(&table, 1.0 + step as f32 * 0.01, &mut x).unwrap();
            b.dev.gather(&x, &mut picked).unwrap();
            b.dev.logits(&head, None, &picked, &mut logits).unwrap();
            let mut all = b.dev.read(&logits, setup.slots).unwrap();
            // A mask for every slot of the second half, in the later steps.
            let late: Vec<_> = (setup.slots / 2..setup.slots)
                .filter(|_| step >= 5)
                .map(|slot| (SlotId(slot as u32), mask.clone()))
                .collect();
            b.dev.sample(&mut logits, &Late { masks: late.clone() }).unwrap();
            let result = b.dev.collect().unwrap();
            assert_eq!(result.samples.len(), setup.slots);
            for (slot, sampled) in result.samples.iter().enumerate() {
                assert_eq!(sampled.slot, SlotId(slot as u32));
                let row = &mut all[slot * vocab..(slot + 1) * vocab];
                if late.iter().any(|(s, _)| *s == sampled.slot) {
                    forbid(row, &mask);
                }
                let want = choose(row, spec(slot), &histories[slot], b.length(slot) as u32);
                let got = sampled.tokens[0];
                assert_eq!(got, want, "vocab {vocab}, step {step}, {:?}", spec(slot));
                histories[slot].push(want);
            }
        }
    }
}

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
        let (table, head) = (b.table(24, vocab, width), b.linear(25, vocab, width));
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
            let chunk =
                |first: bool| if first { Feed::Chunk(0..1) } else { Feed::Last { count: 1 } };
            let rows = vec![
                Row { slot: SlotId(0), feed: chunk(step == 0), sample: true, score: None },
                Row { slot: SlotId(1), feed: chunk(step % 9 == 0), sample: true, score: None },
            ];
            b.begin(rows, vec![TokenId(5)]);
            b.dev.embed(&table, 1.0, &mut x).unwrap();
            b.dev.gather(&x, &mut picked).unwrap();
            b.dev.logits(&head, None, &picked, &mut logits).unwrap();
            b.dev.sample(&mut logits, &Late::default()).unwrap();
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
    let first: Vec<_> = one.iter().map(|r| r.samples[1].tokens[0]).collect();
    assert!(first.windows(2).any(|w| w[0] != w[1]));
}

/// Plans that the ledger would never make are refused, with a sentence, before anything reaches the
/// GPU.
#[test]
fn impossible_plans_are_refused() {
    if !gpu() {
        return;
    }
    let mut b = Bench::<Cuda>::new(DType::F32, &Setup::default());
    let row = |slot| {
        vec![Row { slot: SlotId(slot), feed: Feed::Last { count: 1 }, sample: true, score: None }]
    };
    assert!(b.try_begin(row(0), vec![]).is_err(), "a slot that is not open");
    assert!(b.try_begin(row(9999), vec![]).is_err(), "a slot that does not exist");
    b.changes.push(SlotChange::Close { slot: SlotId(9999) });
    assert!(b.try_begin(vec![], vec![]).is_err(), "closing what does not exist");
    let part = HostTensor { dtype: DType::F32, rows: 2, cols: 2, bytes: &[0; 12] };
    let desc = WeightDesc {
        name: "w",
        kind: WeightKind::Linear,
        outputs: 2,
        inputs: 2,
        dtype: DType::F32,
        transposed: false,
        source: Source::Parts(vec![part]),
    };
    assert!(b.dev.upload(desc).is_err(), "a part of the wrong size");
}
