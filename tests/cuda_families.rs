//! Every fixture checkpoint on the GPU: in f32 the greedy tokens that Hugging Face transformers
//! computed and its logits; in half types logits within the type's rounding; seeded sampling token
//! by token as on the cpu; models that embed, their vectors. Skipped without a GPU (see `grader`).
//! `TRITON_VLLM_FIXTURES` names the folder of the models where the checkout is elsewhere.
#![cfg(feature = "cuda")]

mod grader;
mod rig;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grader::gpu;
use rig::embeddings::{close, floats, ids, rig_of, KINDS, ROWS};
use rig::{embeddings, heads, vision, Rig, RigOptions, CHOICES_TOO_CLOSE};
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::ops::*;
use triton_vllm::device::{AdapterCapacity, DType, KvType};
use triton_vllm::ids::{AdapterId, AdapterSlotId};
use triton_vllm::model::{Adapter, AdapterOptions, ModelSpec, WeightSource};
use triton_vllm::sampling::SamplerSpec;

struct Case {
    ids: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn models() -> PathBuf {
    std::env::var_os("TRITON_VLLM_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models"),
        PathBuf::from,
    )
}

/// Those of weights as they are trained.
fn fixtures() -> Vec<PathBuf> {
    fixtures_of("models", 43)
}

/// And those of quantised weights, and those in GGUF.
fn everything() -> Vec<PathBuf> {
    [fixtures(), fixtures_of("quantised", 42), fixtures_of("gguf", 10)].concat()
}

fn fixtures_of(folder: &str, at_least: usize) -> Vec<PathBuf> {
    let root = models().with_file_name(folder);
    let entries = std::fs::read_dir(&root).expect("fixtures").map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.join("expected.json").exists()).collect();
    found.sort();
    assert!(found.len() >= at_least, "only {} fixtures in {}", found.len(), root.display());
    found
}

fn cases(dir: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
    cases_of(&serde_json::from_str(&text).unwrap())
}

fn cases_of(json: &serde_json::Value) -> Vec<Case> {
    let numbers = |v: &serde_json::Value| -> Vec<f64> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let ids = |v: &serde_json::Value| numbers(v).iter().map(|&x| x as u32).collect();
    let logits = |v: &serde_json::Value| numbers(v).iter().map(|&x| x as f32).collect();
    let prompts = json["prompts"].as_array().unwrap().iter();
    prompts
        .map(|p| Case {
            ids: ids(&p["ids"]),
            logits: logits(&p["logits"]),
            greedy: ids(&p["greedy"]),
        })
        .collect()
}

/// Whether the model module refuses float16 for a fixture of this name.
fn refuses_float16(name: &str) -> bool {
    let families = [
        "gemma2",
        "gemma3",
        "gemma4",
        "vaultgemma",
        "mxfp4",
        "deepseek",
        "fp8-deepseek",
        "glm4-moe-lite",
    ];
    families.iter().any(|family| name.starts_with(family))
}

/// A fixture computed in `dtype` on the GPU.
fn on_gpu(dir: &Path, dtype: &'static str) -> Rig<Cuda> {
    let (spec, source) = model(dir, dtype);
    let dev = Cuda::open(0, spec.dtype).unwrap();
    Rig::on(dev, spec, &source, &RigOptions { kv: None, ..Default::default() })
}

fn model(dir: &Path, dtype: &'static str) -> (ModelSpec, WeightSource) {
    rig::read(dir, &RigOptions { dtype, ..RigOptions::of_fixture(dir) })
}

fn generate<D: Device>(rig: &mut Rig<D>, ids: &[u32], steps: usize) -> (Vec<f32>, Vec<u32>) {
    let mut seq = rig.open(ids);
    let logits = rig.feed_prompt(&mut seq, usize::MAX);
    for _ in 1..steps {
        rig.decode(&mut [&mut seq]);
    }
    rig.close(&seq);
    (logits, seq.outputs)
}

/// The largest error as a share of the largest logit, and where it is.
fn worst(got: &[f32], want: &[f32]) -> (f32, usize) {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = |i: usize| {
        let e = (got[i] - want[i]).abs() / size;
        if e.is_nan() {
            f32::INFINITY
        } else {
            e
        }
    };
    let at = (0..want.len()).max_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap();
    (error(at), at)
}

#[test]
fn f32_equals_transformers() {
    if !gpu() {
        return;
    }
    let mut wrong = Vec::new();
    for dir in everything() {
        let mut rig = on_gpu(&dir, "float32");
        for (n, case) in cases(&dir).iter().enumerate() {
            let (logits, greedy) = generate(&mut rig, &case.ids, case.greedy.len());
            let (error, at) = worst(&logits, &case.logits);
            let name = dir.display();
            if error > 1e-4 {
                wrong.push(format!("{name} prompt {n}: logit {at} is off by {error}"));
            }
            if greedy != case.greedy {
                wrong.push(format!("{name} prompt {n}: {greedy:?} for {:?}", case.greedy));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Heads that draft from hidden states: f32 as PyTorch computed them; 16 bits say much the same.
#[test]
fn heads_draft_what_their_formulas_say() {
    if !gpu() {
        return;
    }
    for name in heads::ROWS {
        let row = heads::Row::read(name, "float32");
        let mut pair = heads::Pair::new(&row, KvType::F32, |dtype| Cuda::open(0, dtype).unwrap());
        for (slot, case) in row.cases.iter().enumerate() {
            let slot = slot as u32;
            assert_eq!(pair.prompt(slot, &case.ids, 7), case.next, "{name}");
            let known = [&case.ids[..], &[case.next]].concat();
            let drafts = pair.drafts(slot, &known, 64, case.drafts.len(), None);
            heads::judge(name, &row, case, &drafts, 5e-4);
            let again = pair.drafts(slot, &known, 64, case.drafts.len(), Some(case.ids.len() - 1));
            heads::judge(name, &row, case, &again, 5e-4);
        }

        // Its router has experts on the edge: 2 % more or less in what the layer reads are 30 % of
        // the largest logit, by its formulas too.
        if name == "mtp-deepseek-v3" {
            continue;
        }
        let half = heads::Row::read(name, "bfloat16");
        let mut pair = heads::Pair::new(&half, KvType::BF16, |dtype| Cuda::open(0, dtype).unwrap());
        let case = &half.cases[1];
        let known = [&case.ids[..], &[case.next]].concat();
        pair.prompt(0, &case.ids, 64);
        let drafts = pair.drafts(0, &known, 64, 1, None);
        let of_said: Vec<f32> = half.said.iter().map(|&t| drafts[0].1[t as usize]).collect();
        let (error, at) = worst(&of_said, &case.logits[0]);
        assert!(error < 0.08, "{name}: logit {at} is off by {error} in bfloat16");
    }
}

#[test]
fn half_types_stay_close() {
    if !gpu() {
        return;
    }
    let mut wrong = Vec::new();
    for (dtype, tolerance) in [("float16", 1e-2), ("bfloat16", 1e-1)] {
        let mut largest = 0f32;
        for dir in everything() {
            // Their activations leave float16's range, as weights in MXFP4 do: the model module
            // refuses them, as the Python backend.
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            if dtype == "float16" && refuses_float16(&name) {
                continue;
            }
            // Where products round their inputs to codes of eight bits, a half type moves some of
            // them to neighbours, a sixteenth away.
            let may_round = dir.parent().is_some_and(|folder| folder.ends_with("quantised"));
            let tolerance = if may_round { 1.5e-1 } else { tolerance };
            let mut rig = on_gpu(&dir, dtype);
            for (n, case) in cases(&dir).iter().enumerate() {
                if CHOICES_TOO_CLOSE.contains(&(&*name, n)) {
                    continue;
                }
                let (logits, _) = generate(&mut rig, &case.ids, 8);
                let (error, at) = worst(&logits, &case.logits);
                largest = largest.max(error);
                if error > tolerance {
                    let name = dir.display();
                    wrong.push(format!("{dtype} {name} prompt {n}: logit {at} off by {error}"));
                }
            }
        }
        println!("{dtype}: largest error {largest} of the largest logit");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Prompts in chunks while others decode, and one whose first pages another has, give the tokens of
/// prompts that run alone.
#[test]
fn chunks_hits_and_company() {
    if !gpu() {
        return;
    }
    for dir in everything() {
        let mut rig = on_gpu(&dir, "float32");
        let mut running = Vec::new();
        let cases = cases(&dir);
        for case in &cases {
            let mut seq = rig.open(&case.ids);
            rig.feed_beside(&mut seq, 7, &mut running);
            running.push(seq);
        }

        for _ in 0..16 {
            rig.decode(&mut running.iter_mut().collect::<Vec<_>>());
        }
        for (seq, case) in running.iter().zip(&cases) {
            assert_eq!(seq.outputs[..16], case.greedy[..16], "{}", dir.display());
        }

        let pairs = running.iter().zip(&cases);
        let (owner, case) = pairs.max_by_key(|(_, case)| case.ids.len()).expect("a case");
        let mut hit = rig.open_sharing(&case.ids, owner);
        rig.feed_prompt(&mut hit, 7);
        for _ in 1..16 {
            rig.decode(&mut [&mut hit]);
        }
        assert_eq!(hit.outputs[..16], case.greedy[..16], "{}: a prefix hit", dir.display());
    }
}

#[test]
fn seeds_give_the_tokens_of_the_cpu() {
    if !gpu() {
        return;
    }

    let samplers = [
        SamplerSpec { temperature: 1.0, seed: 42, ..Default::default() },
        SamplerSpec { temperature: 0.7, top_p: 0.9, top_k: 50, seed: 7, ..Default::default() },
        SamplerSpec {
            temperature: 1.2,
            min_p: 0.02,
            repetition_penalty: 1.3,
            frequency_penalty: 0.2,
            seed: 9,
            ..Default::default()
        },
    ];

    for dir in fixtures() {
        let mut gpu = on_gpu(&dir, "float32");
        let (spec, format) = model(&dir, "float32");
        let mut cpu = Rig::on(Cpu::new(0).unwrap(), spec, &format, &RigOptions::default());
        for case in &cases(&dir) {
            for sampler in &samplers {
                gpu.sampler = Arc::new(sampler.clone());
                cpu.sampler = gpu.sampler.clone();
                let got = generate(&mut gpu, &case.ids, 32);
                let want = generate(&mut cpu, &case.ids, 32);
                assert_eq!(got.1, want.1, "{}, {sampler:?}", dir.display());
            }
        }
    }
}

/// PEFT's own folders through whole models, beside a sequence without an adapter; decode steps are
/// replayed.
#[test]
fn adapters_equal_peft() {
    if !gpu() {
        return;
    }
    let capacity = AdapterCapacity { slots: 2, rank: 4 };
    let options = AdapterOptions { capacity, modules: None };
    let entries = std::fs::read_dir(models().with_file_name("adapters")).expect("adapters");
    let folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(folders.len() >= 4, "{folders:?}");
    for (dtype, tolerance) in [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 1e-1)] {
        for folder in &folders {
            let what = format!("{dtype} {}", folder.display());
            let name = folder.file_name().unwrap().to_string_lossy();
            if dtype == "float16" && refuses_float16(&name) {
                // As in `half_types_stay_close`.
                continue;
            }
            let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let dir = models().join(json["model"].as_str().unwrap());
            let (mut spec, format) = model(&dir, dtype);
            spec.adapters = Some(options.clone());
            let adapter = Adapter::read(folder, &spec, &options).unwrap();
            let dev = Cuda::open(0, spec.dtype).unwrap();
            let mut rig =
                Rig::on(dev, spec, &format, &RigOptions { kv: None, ..Default::default() });
            rig.install(AdapterSlotId(1), AdapterId(7), &adapter);
            for (case, plain) in cases_of(&json).iter().zip(&cases(&dir)) {
                let mut seq = rig.open_with(&case.ids, AdapterId(7));
                let logits = rig.feed_prompt(&mut seq, usize::MAX);
                let mut other = rig.open(&plain.ids);
                let unadapted = rig.feed_prompt(&mut other, usize::MAX);
                for (got, want) in [(&logits, &case.logits), (&unadapted, &plain.logits)] {
                    let (error, at) = worst(got, want);
                    assert!(error <= tolerance, "{what}: logit {at} is off by {error}");
                }
                while seq.outputs.len() < case.greedy.len() {
                    rig.decode(&mut [&mut seq, &mut other]);
                }
                if dtype == "float32" {
                    assert_eq!(seq.outputs, case.greedy, "{what}");
                    assert_eq!(other.outputs, plain.greedy[..other.outputs.len()], "{what}");
                }
                rig.close(&seq);
                rig.close(&other);
            }
        }
    }
}

/// Each text alone, then all of them in one step, with those of a single token among them.
#[test]
fn embeddings_equal_transformers() {
    if !gpu() {
        return;
    }
    for (dtype, tolerance) in [("float32", 1e-4), ("float16", 2e-2), ("bfloat16", 1e-1)] {
        for row in ROWS {
            // As above.
            if dtype == "float16" && ["embeddinggemma", "gemma2"].contains(&row) {
                continue;
            }
            for (kind, name) in KINDS {
                let mut rig = rig_of(row, kind, dtype, |spec| Cuda::open(0, spec.dtype).unwrap());
                let cases = embeddings::cases(row);
                let texts: Vec<Vec<u32>> = cases.iter().map(ids).collect();
                let mut single: Vec<Vec<f32>> = Vec::new();
                for text in &texts {
                    single.extend(rig.embed(std::slice::from_ref(text)));
                }
                let together = rig.embed(&texts);
                for (n, case) in cases.iter().enumerate() {
                    let what = format!("{dtype} {row} {name} case {n}");
                    close(&what, &single[n], &floats(&case[name]), tolerance);
                    close(&format!("{what}, in company"), &together[n], &single[n], tolerance);
                }
            }
        }
    }
}

/// Prompts with images: in f32 the tokens of transformers, in half types logits near theirs; in
/// chunks, behind a prefix and beside others the same tokens.
#[test]
fn prompts_with_images() {
    if !gpu() {
        return;
    }
    for (row, dtype) in
        vision::ROWS.into_iter().flat_map(|row| DTYPES.into_iter().map(move |dtype| (row, dtype)))
    {
        if dtype.0 == "float16" && refuses_float16(row) {
            continue;
        }
        let dir = vision::fixtures().join("vision").join(row);
        let options = RigOptions { dtype: dtype.0, ..RigOptions::default() };
        let (spec, source) = rig::read(&dir, &options);
        let exact = spec.dtype == DType::F32;
        let cases = vision::cases(row, &spec);
        let dev = Cuda::open(0, spec.dtype).unwrap();
        let mut rig = Rig::on(dev, spec, &source, &RigOptions { kv: None, ..options });

        let mut running = Vec::new();
        for (n, case) in cases.iter().enumerate() {
            let mut seq = open_with_images(&mut rig, case, None);
            let logits = feed(&mut rig, &mut seq);
            let (error, at) = worst(&logits, &case.logits);
            let name = format!("{row} in {}, prompt {n}", dtype.0);
            assert!(error < dtype.1, "{name}: logit {at} is off by {error}");
            if exact {
                for _ in 1..case.greedy.len() {
                    rig.decode(&mut [&mut seq]);
                }
                assert_eq!(seq.outputs[..case.greedy.len()], case.greedy, "{name}");
                for chunk in [1, 7] {
                    let mut other = open_with_images(&mut rig, case, Some(&seq));
                    rig.feed_beside(&mut other, chunk, &mut running);
                    let all = running.len();
                    for _ in 1..8 {
                        let mut step: Vec<_> = running.iter_mut().collect();
                        step.push(&mut other);
                        rig.decode(&mut step);
                    }
                    let want = &case.greedy[..case.greedy.len().min(8)];
                    assert_eq!(other.outputs[..want.len()], *want, "{name} by {chunk}, {all} run");
                    rig.close(&other);
                }
                let mut whole = open_with_images(&mut rig, case, None);
                rig.feed_beside(&mut whole, 9, &mut running);
                running.push(whole);
            }
            rig.close(&seq);
        }
        for (seq, case) in running.iter().zip(&cases) {
            let count = seq.outputs.len().min(case.greedy.len());
            assert_eq!(seq.outputs[..count], case.greedy[..count], "{row} beside others");
        }
    }
}

/// In 16 bits a tower rounds too, in front of experts that are chosen.
const DTYPES: [(&str, f32); 3] = [("float32", 2e-4), ("float16", 3e-2), ("bfloat16", 2e-1)];

/// All of a prompt, or in chunks, where a state must be kept at ends of pages.
fn feed(rig: &mut Rig<Cuda>, seq: &mut rig::Sequence) -> Vec<f32> {
    let chunk = if rig.spec.recurrent.is_some() { 7 } else { usize::MAX };
    rig.feed_prompt(seq, chunk)
}

/// Behind a prefix of another's, if there is one.
fn open_with_images(
    rig: &mut Rig<Cuda>,
    case: &vision::Case,
    other: Option<&rig::Sequence>,
) -> rig::Sequence {
    let mut seq = match other {
        Some(other) => rig.open_sharing(&case.ids, other),
        None => rig.open(&case.ids),
    };
    if let Some(images) = &case.images {
        rig.put_images(&mut seq, images);
    }
    seq
}
