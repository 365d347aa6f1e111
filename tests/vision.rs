//! Checkpoints that take images (tests/fixtures/vision) through the CPU device, against what
//! Hugging Face transformers computed: logits and greedy tokens; and the same bits however a
//! prompt is cut, wherever its beginning was found, and whatever runs beside it.

mod rig;

use std::sync::Arc;

use rig::vision::{cases, fixtures, Case, ROWS};
use rig::{worst, Rig, RigOptions, Sequence};
use triton_vllm::plan::PromptImages;

/// Behind a resize.
const TOLERANCE: f32 = 2e-4;

fn rig(row: &str, ranks: usize) -> Rig {
    let options = RigOptions { ranks, dtype: "float32", ..RigOptions::default() };
    Rig::files(&fixtures().join("vision").join(row), &options)
}

fn open(rig: &mut Rig, case: &Case) -> Sequence {
    let mut seq = rig.open(&case.ids);
    if let Some(images) = &case.images {
        rig.put_images(&mut seq, images);
    }
    seq
}

/// Logits after the prompt, and the tokens that follow.
fn run(rig: &mut Rig, mut seq: Sequence, chunk: usize, steps: usize) -> (Vec<u32>, Vec<u32>) {
    let logits = rig.feed_prompt(&mut seq, chunk);
    for _ in 1..steps {
        rig.decode(&mut [&mut seq]);
    }
    rig.close(&seq);
    (logits.iter().map(|x| x.to_bits()).collect(), seq.outputs)
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|&bits| f32::from_bits(bits)).collect()
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    for row in ROWS {
        for ranks in [1, 2] {
            let mut rig = rig(row, ranks);
            for (n, case) in cases(row, &rig.spec).iter().enumerate() {
                let seq = open(&mut rig, case);
                let (logits, tokens) = run(&mut rig, seq, usize::MAX, case.greedy.len().max(1));
                let worst = worst(&floats(&logits), &case.logits);
                assert!(worst < TOLERANCE, "{row}, {ranks} ranks, prompt {n}: {worst}");
                if !case.greedy.is_empty() {
                    assert_eq!(tokens, case.greedy, "{row}, {ranks} ranks, prompt {n}");
                }
            }
        }
    }
}

/// An image across the edges of chunks and of pages, found again, beside others, and again after
/// the tower kept other images.
#[test]
fn cuts_hits_and_company_change_no_bit() {
    for row in ROWS {
        let mut rig = rig(row, 1);
        let cases = cases(row, &rig.spec);
        let mut alone = Vec::new();
        for case in &cases {
            let seq = open(&mut rig, case);
            alone.push(run(&mut rig, seq, usize::MAX, 8));
        }

        for (n, case) in cases.iter().enumerate() {
            for chunk in [1, 7, 32] {
                let seq = open(&mut rig, case);
                assert!(run(&mut rig, seq, chunk, 8) == alone[n], "{row} {n} in chunks of {chunk}");
            }

            // In chunks, so that a state is kept at ends of pages.
            let mut first = open(&mut rig, case);
            rig.feed_prompt(&mut first, 7);
            let mut second = rig.open_sharing(&case.ids, &first);
            if let Some(images) = &case.images {
                rig.put_images(&mut second, images);
            }
            assert!(run(&mut rig, second, 5, 8) == alone[n], "{row} {n} behind a prefix");
            rig.close(&first);
        }

        let mut others: Vec<Sequence> = Vec::new();
        for case in &cases[1..3] {
            let mut other = open(&mut rig, case);
            rig.feed_prompt(&mut other, usize::MAX);
            others.push(other);
        }
        for (n, case) in cases.iter().enumerate() {
            let mut seq = open(&mut rig, case);
            let logits = rig.feed_beside(&mut seq, 9, &mut others);
            let bits: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
            assert!(bits == alone[n].0, "{row} {n} beside others");
            rig.close(&seq);
        }
    }
}

/// A tower that is not looked at would pass for one that answers.
#[test]
fn another_image_is_another_answer() {
    for row in ROWS {
        let mut rig = rig(row, 1);
        let cases = cases(row, &rig.spec);
        let case = &cases[1];
        let images = case.images.as_ref().expect("an image");
        let mut patches = (*images.spans[0].patches).clone();
        patches.bytes.iter_mut().take(400).for_each(|byte| *byte = !*byte);
        patches.hash[0] ^= 1;
        let mut other = PromptImages::clone(images);
        other.spans[0].patches = Arc::new(patches);

        let seq = open(&mut rig, case);
        let (logits, _) = run(&mut rig, seq, usize::MAX, 1);
        let mut seq = rig.open(&case.ids);
        rig.put_images(&mut seq, &Arc::new(other));
        let (others, _) = run(&mut rig, seq, usize::MAX, 1);
        assert!(worst(&floats(&others), &floats(&logits)) > 1e-3, "{row}");
    }
}
