//! Every fixture checkpoint through the CPU device, against what Hugging Face transformers
//! computed: logits and 64 greedy tokens; and the same bits however a prompt is cut, wherever its
//! beginning was found, and whatever runs beside it.

mod rig;

use std::path::{Path, PathBuf};

use rig::{Rig, RigOptions, Sequence};
use triton_vllm::device::KvType;
use triton_vllm::ids::TokenId;
use triton_vllm::model::Checkpoint;
use triton_vllm::plan::StepPlan;

struct Case {
    ids: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn fixtures() -> Vec<PathBuf> {
    let found = fixtures_of("models");
    assert!(found.len() >= 130, "only {} fixtures", found.len());
    let quantised = fixtures_of("quantised");
    assert!(quantised.len() >= 49, "only {} quantised fixtures", quantised.len());
    let gguf = fixtures_of("gguf");
    assert!(gguf.len() >= 10, "only {} fixtures in GGUF", gguf.len());
    let all = [found, quantised, gguf].concat();
    // One of them by its name, to look at it alone.
    match std::env::var("TRITON_VLLM_FIXTURE") {
        Ok(name) => all.into_iter().filter(|dir| dir.ends_with(&name)).collect(),
        Err(_) => all,
    }
}

fn fixtures_of(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut found: Vec<PathBuf> = std::fs::read_dir(&root)
        .expect("fixtures")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").exists())
        .collect();
    found.sort();
    found
}

fn json_of(dir: &Path, file: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap()
}

fn cases(dir: &Path) -> Vec<Case> {
    let json = json_of(dir, "expected.json");
    let ids = |v: &serde_json::Value| -> Vec<u32> {
        v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let case = |p: &serde_json::Value| Case {
        ids: ids(&p["ids"]),
        logits: p["logits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap() as f32)
            .collect(),
        greedy: ids(&p["greedy"]),
    };
    json["prompts"].as_array().unwrap().iter().map(case).collect()
}

/// A rig as the fixture asks. The reference is computed in f32, which matters to Gemma's scale of
/// the embedding, to Nemotron's weights of norms, and to what Falcon-H1's factors are folded into.
fn rig_of(dir: &Path) -> Rig {
    let in_gguf = dir.parent().is_some_and(|folder| folder.ends_with("gguf"));
    // What these round in the model's type.
    let rounds = |dir: &Path| {
        let has_config = dir.join("config.json").exists();
        if !has_config {
            return false;
        }
        let config = json_of(dir, "config.json");
        let kind = config["model_type"].as_str().unwrap();
        kind.starts_with("gemma") || ["nemotron", "falcon_h1"].contains(&kind)
    };
    let dtype = if in_gguf || rounds(dir) { "float32" } else { "" };
    Rig::files(dir, &RigOptions { dtype, ..RigOptions::of_fixture(dir) })
}

/// Logits after the prompt and the greedy tokens, in one chunk and alone.
fn alone(rig: &mut Rig, case: &Case, steps: usize) -> (Vec<f32>, Vec<u32>) {
    let mut seq = rig.open(&case.ids);
    let logits = rig.feed_prompt(&mut seq, usize::MAX);
    for _ in 1..steps {
        rig.decode(&mut [&mut seq]);
    }
    rig.close(&seq);
    (logits, seq.outputs)
}

/// The last line behind intake: such a row would be an error of the CPU and zeros on a GPU.
#[test]
fn a_token_beyond_the_table_never_reaches_the_device() {
    let dir = fixtures().into_iter().find(|dir| dir.ends_with("llama")).unwrap();
    let mut rig = rig_of(&dir);
    let case = cases(&dir).swap_remove(0);
    let alien = TokenId(rig.spec.vocab_size as u32);
    let plan = StepPlan { step: 1, chunk_tokens: vec![alien], ..Default::default() };
    let error = rig.decoder.step(&mut rig.dev, &plan).unwrap_err().to_string();
    assert!(error.contains(&format!("token {alien} in a table of {alien} rows")), "{error}");
    assert_eq!(alone(&mut rig, &case, 1).1.len(), 1, "and the device goes on");
}

/// The sizes at which kernels and loaders trip are there, and not only in a row's name.
#[test]
fn odd_sizes_are_among_them() {
    let mut seen = std::collections::BTreeMap::new();
    // Mistral's own format has none.
    let has_config = |dir: &PathBuf| dir.join("config.json").exists();
    for dir in fixtures_of("models").into_iter().filter(has_config) {
        let whole = json_of(&dir, "config.json");
        let config = whole.get("text_config").unwrap_or(&whole);
        let number = |key: &str| config[key].as_u64();
        let hidden = number("hidden_size");
        let heads = number("num_attention_heads");
        let longest = cases(&dir).iter().map(|case| case.ids.len() as u64).max().unwrap();
        let own_dim = |d: u64| hidden.zip(heads).is_some_and(|(h, n)| h != d * n);
        let tied = Checkpoint::open(&dir).unwrap().contains("lm_head.weight");

        for (what, there) in [
            ("head_dim is not hidden / heads", number("head_dim").is_some_and(own_dim)),
            ("one KV head", number("num_key_value_heads") == Some(1)),
            ("several KV heads", number("num_key_value_heads") == Some(2)),
            ("a vocabulary of no whole tiles", number("vocab_size").is_some_and(|n| n % 64 != 0)),
            ("an odd vocabulary", number("vocab_size").is_some_and(|n| n % 2 == 1)),
            ("tied", !tied),
            ("untied", tied),
            ("biases", config["attention_bias"] == true && config["mlp_bias"] == true),
            ("no biases", config["attention_bias"] == false && config["mlp_bias"] == false),
            ("a window in a prompt", number("sliding_window").is_some_and(|w| w < longest)),
            ("a prompt of one token", cases(&dir).iter().any(|case| case.ids.len() == 1)),
            ("more than three pages", longest > 48),
        ] {
            *seen.entry(what).or_insert(0) += usize::from(there);
        }
    }

    let missing: Vec<_> = seen.iter().filter(|(_, count)| **count == 0).collect();
    assert!(missing.is_empty(), "no fixture has: {missing:?}");
}

#[test]
fn equal_to_transformers() {
    for dir in fixtures() {
        let mut rig = rig_of(&dir);
        for (n, case) in cases(&dir).iter().enumerate() {
            let (logits, greedy) = alone(&mut rig, case, case.greedy.len());
            let size = case.logits.iter().fold(0f32, |m, x| m.max(x.abs()));
            let worst = (0..case.logits.len())
                .max_by(|&a, &b| {
                    let error = |i: usize| (logits[i] - case.logits[i]).abs();
                    error(a).total_cmp(&error(b))
                })
                .unwrap();
            let error = (logits[worst] - case.logits[worst]).abs();
            assert!(
                error <= 1e-4 * size,
                "{} prompt {n}: logit {worst} is {}, want {} (largest {size})",
                dir.display(),
                logits[worst],
                case.logits[worst]
            );
            assert_eq!(greedy, case.greedy, "{} prompt {n}", dir.display());
        }
    }
}

#[test]
fn chunks_hits_and_company_change_no_bit() {
    for dir in fixtures() {
        let mut rig = rig_of(&dir);
        let cases = cases(&dir);
        let steps = 24;
        let want: Vec<_> = cases.iter().map(|c| alone(&mut rig, c, steps)).collect();
        // Chunks of 7, and of one token, alone.
        for ((case, want), chunk) in cases.iter().zip(&want).flat_map(|case| [(case, 7), (case, 1)])
        {
            let mut seq = rig.open(&case.ids);
            let logits = rig.feed_prompt(&mut seq, chunk);
            assert!(logits == want.0, "{}: chunks of {chunk} change logits", dir.display());
            rig.close(&seq);
        }
        // The first pages from another that decodes on beside it: a prefix hit, in chunks of 7.
        let long = cases.iter().zip(&want).max_by_key(|(case, _)| case.ids.len());
        let (case, want_long) = long.expect("a case");
        let mut owner = rig.open(&case.ids);
        rig.feed_prompt(&mut owner, 7);
        let mut hit = rig.open_sharing(&case.ids, &owner);
        assert!(hit.length > 0 && hit.length < case.ids.len(), "{}", dir.display());
        let logits = rig.feed_beside(&mut hit, 7, std::slice::from_mut(&mut owner));
        assert!(logits == want_long.0, "{}: a prefix hit changes logits", dir.display());
        for _ in 1..steps {
            rig.decode(&mut [&mut owner, &mut hit]);
        }
        for seq in [&hit, &owner] {
            let outputs = &seq.outputs[..steps];
            assert_eq!(outputs, want_long.1, "{}: a prefix hit changes tokens", dir.display());
            rig.close(seq);
        }
        // All together: one decodes while the next one's prompt comes in chunks of 7.
        let mut running: Vec<Sequence> = Vec::new();
        for (case, want) in cases.iter().zip(&want) {
            let mut seq = rig.open(&case.ids);
            let logits = rig.feed_beside(&mut seq, 7, &mut running);
            assert!(logits == want.0, "{}: company changes logits", dir.display());
            running.push(seq);
        }
        for _ in 0..steps {
            let mut rows: Vec<&mut Sequence> = running.iter_mut().collect();
            rig.decode(&mut rows);
        }
        for (seq, want) in running.iter().zip(&want) {
            assert_eq!(seq.outputs[..steps], want.1, "{}: company changes tokens", dir.display());
        }
    }
}

#[test]
fn pages_of_fewer_bits_stay_close() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
    let case = &cases(&dir)[0];
    let types =
        [(KvType::F16, 2e-3), (KvType::BF16, 2e-2), (KvType::E4m3, 0.15), (KvType::E5m2, 0.3)];
    for (kv, tolerance) in types {
        let options = RigOptions { kv: Some(kv), ..Default::default() };
        let (logits, _) = alone(&mut Rig::files(&dir, &options), case, 1);
        let size = case.logits.iter().fold(0f32, |m, x| m.max(x.abs()));
        let error = logits.iter().zip(&case.logits).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(error > 0.0 && error < tolerance * size, "{kv:?}: error {error} of {size}");
    }
}

#[test]
fn page_size_changes_no_bit() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/qwen2");
    let case = &cases(&dir)[0];
    let run = |page_size| {
        let options = RigOptions { page_size, ..Default::default() };
        alone(&mut Rig::files(&dir, &options), case, 40)
    };
    let want = run(16);
    assert!(run(48) == want && run(128) == want);
}
