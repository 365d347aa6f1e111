//! Steps on the GPU: some that overlap, plans that are refused. Skipped without a GPU (see
//! `grader`). Its sampler is judged in `samplers`.
#![cfg(feature = "cuda")]

mod grader;

use std::sync::Arc;

use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::{DType, Device, HostTensor, Source, WeightDesc, WeightKind};
use triton_vllm::ids::{SlotId, TokenId};
use triton_vllm::plan::{Feed, Late, Row, SlotChange};
use triton_vllm::sampling::SamplerSpec;

use grader::{gpu, Bench, Setup};

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
