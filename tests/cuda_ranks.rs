//! Models that several ranks share, on GPUs: every fixture by two ranks and, where its sizes
//! divide, by four and by eight, against one GPU: as good as the same logits, the same greedy and
//! sampled tokens, however prompts are cut. Ranks have a GPU each where there are as many, else
//! they share one. The rig holds the ranks to the same bits in every step. What ranks do in one
//! launch against the same in several. Skipped without a GPU.
//! `TRITON_VLLM_FIXTURES` as in cuda_families.rs.
#![cfg(feature = "cuda")]

mod grader;
#[path = "ranks/joined_norms.rs"]
mod joined_norms;
#[path = "ranks/made.rs"]
mod made;
mod rig;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grader::gpu;
use made::Sizes;
use rig::{read, worst, Rig, RigOptions, CHOICES_TOO_CLOSE};
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::RankGroup;
use triton_vllm::error::Result;
use triton_vllm::internal;
use triton_vllm::sampling::SamplerSpec;

/// Of the largest logit.
const TOLERANCE: f32 = 1e-4;
/// Where ranks round by what they have (tests/ranks.rs says which).
const ROUNDED_APART: f32 = 0.2;
const STEPS: usize = 24;

fn fixtures_of(folder: &str) -> Vec<PathBuf> {
    let root = std::env::var_os("TRITON_VLLM_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models"),
        PathBuf::from,
    );
    let entries = std::fs::read_dir(root.with_file_name(folder)).expect("fixtures");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").exists())
        .collect();
    found.sort();
    assert!(found.len() >= 10, "only {} fixtures in {folder}", found.len());
    found
}

fn prompts(dir: &Path) -> Vec<Vec<u32>> {
    let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |prompt: &serde_json::Value| {
        prompt["ids"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
    };
    json["prompts"].as_array().unwrap().iter().map(ids).collect()
}

fn by(dir: &Path, ranks: usize, dtype: &'static str) -> Result<Rig<Cuda>> {
    by_options(dir, ranks, &RigOptions { dtype, kv: None, ..RigOptions::of_fixture(dir) })
}

fn by_options(dir: &Path, ranks: usize, options: &RigOptions) -> Result<Rig<Cuda>> {
    let (spec, source) = read(dir, options);
    if ranks == 1 {
        return Ok(Rig::on(Cuda::open(0, spec.dtype)?, spec, &source, options));
    }
    let gpus = Cuda::count()?;
    let apart = gpus >= ranks;
    let ordinals: Vec<usize> = (0..ranks).map(|rank| if apart { rank } else { 0 }).collect();
    let (devices, group) = Cuda::open_ranks(&ordinals, spec.dtype, "test")?;
    Rig::of_ranks(devices, group, spec, &source, options)
}

/// Every fixture of a folder that so many ranks can share; how many they were.
fn compare_all(folder: &str, ranks: usize, tolerance: f32) -> usize {
    let mut shared = 0;
    let mut wrong = Vec::new();
    for dir in fixtures_of(folder) {
        let name = dir.display();
        let mut group = match by(&dir, ranks, "float32") {
            Ok(group) => group,
            Err(error) => {
                let text = error.to_string();
                let known = ["divisible", "does not divide", "not aligned"]
                    .iter()
                    .any(|k| text.contains(k));
                assert!(known, "{name} by {ranks}: {text}");
                continue;
            }
        };
        let mut one = by(&dir, 1, "float32").unwrap();
        shared += 1;
        for (n, prompt) in prompts(&dir).iter().enumerate() {
            let want = one.answer(prompt, usize::MAX, STEPS);
            let got = group.answer(prompt, usize::MAX, STEPS);
            let cut = group.answer(prompt, 7, STEPS);
            let sampler = SamplerSpec { temperature: 0.8, seed: n as u64, ..Default::default() };
            one.sampler = Arc::new(sampler);
            group.sampler = one.sampler.clone();
            let sampled =
                (one.answer(prompt, usize::MAX, STEPS), group.answer(prompt, usize::MAX, STEPS));
            one.sampler = Arc::default();
            group.sampler = Arc::default();

            let error = worst(&got.0, &want.0).max(worst(&cut.0, &want.0));
            let same = got.1 == want.1 && cut.1 == want.1 && sampled.0 .1 == sampled.1 .1;
            let close = error.is_finite() && error <= tolerance;
            if !close || !same && tolerance <= TOLERANCE {
                wrong.push(format!("{name} by {ranks}, prompt {n}: {error}, same tokens {same}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    shared
}

#[test]
fn two_ranks_equal_one_gpu() {
    if !gpu() {
        return;
    }
    assert!(compare_all("models", 2, TOLERANCE) > 35);
    assert!(compare_all("gguf", 2, TOLERANCE) > 5);
    assert!(compare_all("quantised", 2, ROUNDED_APART) > 20);
}

#[test]
fn four_ranks_equal_one_gpu() {
    if !gpu() {
        return;
    }
    assert!(compare_all("models", 4, TOLERANCE) > 15);
}

#[test]
fn eight_ranks_equal_one_gpu() {
    if !gpu() {
        return;
    }
    assert!(compare_all("models", 8, TOLERANCE) > 0);
}

#[test]
fn half_types_stay_close() {
    if !gpu() {
        return;
    }
    for folder in ["models", "gguf"] {
        for dir in fixtures_of(folder).iter().filter(|dir| !dir.ends_with("falcon")) {
            let Ok(mut group) = by(dir, 2, "bfloat16") else { continue };
            let mut one = by(dir, 1, "bfloat16").unwrap();
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            for (n, prompt) in prompts(dir).iter().enumerate() {
                if CHOICES_TOO_CLOSE.contains(&(&*name, n)) {
                    continue;
                }
                let want = one.answer(prompt, usize::MAX, STEPS).0;
                let error = worst(&group.answer(prompt, usize::MAX, STEPS).0, &want);
                assert!(error <= 1e-1, "{}: {error}", dir.display());
            }
        }
    }
}

/// Of prompts so long that each rank adds and norms its share of the rows alone (300 rows of 4096
/// columns are more than ranks push): plain, and in codes, which products then read of the norm.
#[test]
fn long_prompts_equal_one_gpu() {
    if !gpu() {
        return;
    }
    let sizes = Sizes { hidden: 4096, heads: 8, kv_heads: 4, head_dim: 64, ffn: 256, vocab: 100 };
    let made = made::llama("long_prompts", &sizes, false);
    for (dtype, quantization, tolerance) in [
        ("float32", "", TOLERANCE),
        ("bfloat16", "", 1e-1),
        ("bfloat16", "fp8_per_channel", ROUNDED_APART),
    ] {
        let how = format!("{dtype} {quantization}");
        let quantization = quantization.to_string();
        let options = RigOptions { dtype, kv: None, quantization, ..RigOptions::default() };
        let mut one = by_options(&made.0, 1, &options).unwrap();

        for ranks in [2, 4] {
            let mut group = by_options(&made.0, ranks, &options).unwrap();
            for length in [300, 401] {
                let prompt: Vec<u32> = (0..length).map(|n| n * n * 7 % 100).collect();
                let want = one.answer(&prompt, usize::MAX, STEPS);
                let got = group.answer(&prompt, usize::MAX, STEPS);
                let error = worst(&got.0, &want.0);
                let what = format!("{how}, {length} by {ranks}");
                assert!(error.is_finite() && error <= tolerance, "{what}: {error}");
                assert!(got.1 == want.1 || tolerance > TOLERANCE, "{what}");
            }
        }
    }
}

/// A rank that waits for one that is lost gets the error, and the GPU is free again.
#[test]
fn a_lost_rank_ends_the_waiting() {
    if !gpu() {
        return;
    }
    let dir = fixtures_of("models").into_iter().find(|dir| dir.ends_with("llama")).unwrap();
    let options = RigOptions { dtype: "float32", kv: None, ..RigOptions::of_fixture(&dir) };
    let (spec, source) = read(&dir, &options);
    let second = usize::from(Cuda::count().unwrap() > 1);
    let (mut devices, group) = Cuda::open_ranks(&[0, second], spec.dtype, "test").unwrap();
    // The second never comes.
    let lost = devices.pop();
    let first: Arc<dyn RankGroup> = group.clone();
    let waiting = std::thread::spawn(move || {
        let mut rig = Rig::on(devices.remove(0), spec, &source, &options);
        let mut seq = rig.open(&[1, 2, 3]);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            rig.feed_prompt(&mut seq, usize::MAX)
        }));
        outcome.is_err()
    });
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!waiting.is_finished());
    first.fail(internal!("rank 1 is lost"));
    assert!(waiting.join().unwrap(), "a step without the other rank");
    assert!(group.failure().unwrap().to_string().contains("rank 1 is lost"));
    drop(lost);
    // The GPU serves another.
    let one =
        by(&dir, 1, "float32").map(|mut rig| rig.answer(&[1, 2, 3], usize::MAX, STEPS).1.len());
    assert_eq!(one.unwrap(), STEPS);
}
