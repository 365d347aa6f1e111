//! On the CPU device, which has no sizes of its own: all sizes' plans are steps that it takes, and
//! a model that was rehearsed answers as one that was not.

use super::{Rehearsal, DRAFTING_SEQUENCES};
use crate::device::cpu::Cpu;
use crate::device::DeviceLimits;
use crate::model::config::SpecOptions;
use crate::model::{Decoder, ModelSpec, WeightSource};
use crate::plan::TokenMasks;
use crate::scheduler::DraftLengths;

fn fixture() -> (ModelSpec, DeviceLimits) {
    fixture_of("models/gemma2")
}

fn fixture_of(name: &str) -> (ModelSpec, DeviceLimits) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let supported = &[crate::device::DType::F32];
    let spec = ModelSpec::read(&folder, &SpecOptions { supported, ..Default::default() }).unwrap();
    let limits = DeviceLimits {
        step_tokens: 300,
        slots: 40,
        logits_rows: 40,
        pages: 25,
        page_size: 16,
        max_model_len: 100,
        kv: spec.kv_shape(None).unwrap(),
        state: Default::default(),
        snapshots: 0,
        spares: 0,
    };
    (spec, limits)
}

#[test]
fn every_plan_is_a_step() {
    let (spec, limits) = fixture();
    let mut dev = Cpu::new(1).unwrap();
    let mut decoder = Decoder::load(&spec, &WeightSource::Dummy, &mut dev, &limits).unwrap();
    let rehearsal =
        Rehearsal { limits: &limits, vocab: spec.vocab_size, generates: true, drafts: None };
    for rows in [1, 2, 16, 24, 25, 40, 41, 99, 100, 101, 256, 300] {
        let plan = rehearsal.prompts(rows);
        // 24 pages: a token in each of so many sequences, or some sequences of a hundred.
        assert_eq!(plan.is_some(), rows <= 24 || rows > 40, "{rows}");
        let Some(plan) = plan else { continue };
        assert_eq!(plan.tokens(), rows);
        decoder.rehearse(&mut dev, &plan).unwrap();
        let samples = crate::device::ops::StepOps::collect(&mut dev).unwrap().samples;
        assert_eq!(samples.len(), plan.chunks.len());
    }

    let few = DeviceLimits { slots: 1, ..limits };
    let rehearsal = Rehearsal { limits: &few, vocab: 1, generates: true, drafts: None };
    assert!(rehearsal.prompts(100).is_some() && rehearsal.prompts(101).is_none());
    decoder.rehearse(&mut dev, &rehearsal.prompts(2).unwrap()).unwrap();
    crate::device::ops::StepOps::collect(&mut dev).unwrap();
    decoder.step(&mut dev, &super::next_tokens(1)).unwrap();
    decoder.sample(&mut dev, &TokenMasks::default()).unwrap();
}

/// Steps with drafts are run where there is room.
#[test]
fn drafts_of_every_size_are_a_step() {
    let (spec, limits) = fixture();
    let lengths = DraftLengths::by_running(vec![(1, 3), (8, 2), (16, 0)]);
    let limits = DeviceLimits { logits_rows: 80, max_model_len: 32, ..limits };
    let rows = |slots: usize, logits_rows: usize| -> Vec<usize> {
        let limits = DeviceLimits { slots, logits_rows, ..limits.clone() };
        let mut dev = Cpu::new(1).unwrap();
        let mut decoder = Decoder::load(&spec, &WeightSource::Dummy, &mut dev, &limits).unwrap();
        let drafts = Some(&lengths);
        let (limits, vocab) = (&limits, spec.vocab_size);
        let rehearsal = Rehearsal { limits, vocab, generates: true, drafts };
        rehearsal.run_drafts(&mut dev, &mut decoder).unwrap();
        let plans = DRAFTING_SEQUENCES.iter().filter_map(|&n| rehearsal.drafting(n));
        plans.map(|[first, second]| first.tokens().max(second.tokens())).collect()
    };

    assert_eq!(rows(1, 4), [4], "more rows than slots");
    assert_eq!(rows(1, 3), [0; 0], "more rows than have logits");
    assert_eq!(rows(7, 28), [4, 8, 16], "eight sequences are more than slots");
    assert_eq!(rows(40, 80), [4, 8, 16, 24], "16 sequences have no drafts");
    let short = DeviceLimits { max_model_len: 7, slots: 1, ..limits };
    let rehearsal = Rehearsal { limits: &short, vocab: 1, generates: true, drafts: Some(&lengths) };
    assert!(rehearsal.drafting(1).is_none(), "two steps are longer than a sequence may be");
}

/// Whatever sizes a device names: of more rows than there may be sequences, none is decoded.
#[test]
fn limits_of_sequences_are_kept() {
    let (spec, limits) = fixture();
    for slots in [1, 3, 7, 16] {
        let few = DeviceLimits { slots, logits_rows: slots, ..limits.clone() };
        let mut dev = Cpu::new(1).unwrap();
        let mut decoder = Decoder::load(&spec, &WeightSource::Dummy, &mut dev, &few).unwrap();
        let rehearsal =
            Rehearsal { limits: &few, vocab: spec.vocab_size, generates: true, drafts: None };
        rehearsal.run_sizes(&[1, 2, 4, 8, 16, 32, 300], &mut dev, &mut decoder).unwrap();
    }
}

/// Of whatever size an image is, up to more patches than any has.
#[test]
fn towers_are_rehearsed() {
    for name in ["vision/qwen2_5_vl", "vision/qwen3_vl", "vision/mistral3"] {
        let (spec, limits) = fixture_of(name);
        let mut dev = Cpu::new(1).unwrap();
        let mut decoder = Decoder::load(&spec, &WeightSource::Dummy, &mut dev, &limits).unwrap();
        let tower = decoder.tower().expect("a tower");
        let most = tower.most_patches();
        for patches in [1, 4, 7, 60, most - 1, most, 2 * most] {
            tower.rehearse(&mut dev, patches).unwrap();
        }
    }
}
