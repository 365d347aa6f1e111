//! Models that several ranks share, on the CPU: every fixture by two ranks and, where its sizes
//! divide, by four, against one device: the same greedy and sampled tokens and as good as the same
//! logits; the same bits however prompts are cut; adapters and embeddings too. The rig holds the
//! ranks to the same bits in every step.

#[path = "ranks/made.rs"]
mod made;
mod rig;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use made::Sizes;
use rig::{embeddings, read, worst, Rig, RigOptions};
use triton_vllm::device::trace::{Held, Trace};
use triton_vllm::device::{DType, Rank};
use triton_vllm::error::Result;
use triton_vllm::model::Decoder;
use triton_vllm::sampling::SamplerSpec;

/// Of the largest logit.
const TOLERANCE: f32 = 1e-4;
/// Where ranks round by what they have: the inputs of products by their own largest one, or weights
/// by the largest of their part, as the Python backend does.
const ROUNDED_APART: f32 = 0.2;
/// Quantised fixtures whose ranks do.
const APART: [&str; 14] = [
    "ct-fp8-block",
    "ct-fp8-channel",
    "ct-fp8-granite-hybrid",
    "ct-int8",
    "ct-int8-zero",
    "fp8-block",
    "fp8-deepseek-v3",
    "fp8-dynamic",
    "fp8-phi3",
    "fp8-qwen3-moe",
    "modelopt-fp8-block",
    "modelopt-fp8-channel",
    "online-channel",
    "online-tensor",
];
const STEPS: usize = 24;
/// Why ranks may refuse what one device serves.
const REASONS: [&str; 8] = [
    "Total number of attention heads (2) must be divisible by tensor parallel size (4).",
    "Total number of attention heads (6) must be divisible by tensor parallel size (4).",
    "linear_num_key_heads (2) must be divisible by tensor parallel size (4).",
    "does not divide num_groups, then num_groups must equal 1: it is 2, of 4 ranks.",
    "is not divisible by group_size=",
    "is not divisible by weight quantization block_k = ",
    "The input size is not aligned with the quantized weight shape.",
    "Each expert is 64 wide, which are 2 groups of 32: fewer than tensor_parallel_size (4).",
];
/// One of each way to cut.
const CUT: [(&str, &str); 9] = [
    ("models", "phi3"),
    ("models", "gpt2"),
    ("models", "neox"),
    ("models", "olmo2"),
    ("models", "gemma3"),
    ("models", "qwen2-moe"),
    ("gguf", "llama-k"),
    ("quantised", "gptq-ordered"),
    ("quantised", "fp8-qwen3-moe"),
];

fn fixtures_of(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let entries = std::fs::read_dir(&root).expect("fixtures");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").exists())
        .collect();
    found.sort();
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

/// In f32, so that nothing but the order of sums differs.
fn by(dir: &Path, ranks: usize) -> Result<Rig> {
    let options = RigOptions { dtype: "float32", ranks, ..RigOptions::of_fixture(dir) };
    let (spec, source) = read(dir, &options);
    Rig::try_new(spec, &source, &options)
}

fn sampled(seed: u64) -> Arc<SamplerSpec> {
    let spec = SamplerSpec { temperature: 0.8, seed, ..SamplerSpec::default() };
    Arc::new(spec)
}

/// Every fixture of a folder by so many ranks and by one device. Returns the names of those that
/// ranks refuse; for a reason that is known.
fn refused(folder: &str, ranks: usize) -> String {
    let mut refused = Vec::new();
    let all = fixtures_of(folder);
    assert!(!all.is_empty());
    for dir in all {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        match by(&dir, ranks) {
            Ok(mut group) => compare(&dir, &name, &mut group),
            Err(error) => {
                let text = error.to_string();
                assert!(REASONS.iter().any(|why| text.contains(why)), "{name} by {ranks}: {text}");
                refused.push(name);
            }
        }
    }
    refused.join(" ")
}

fn compare(dir: &Path, name: &str, group: &mut Rig) {
    let mut one = by(dir, 1).unwrap();
    let apart = APART.contains(&name);
    let mut most: f32 = 0.0;
    for (n, prompt) in prompts(dir).iter().enumerate() {
        let what = format!("{}, prompt {n}", dir.display());
        let want = one.answer(prompt, usize::MAX, STEPS);
        let got = group.answer(prompt, usize::MAX, STEPS);
        let error = worst(&got.0, &want.0);
        assert!(error <= if apart { ROUNDED_APART } else { TOLERANCE }, "{what}: {error}");
        assert!(apart || got.1 == want.1, "{what}: {:?}, not {:?}", got.1, want.1);
        most = most.max(error);

        one.sampler = sampled(n as u64);
        group.sampler = one.sampler.clone();
        let want = one.answer(prompt, usize::MAX, STEPS).1;
        let got = group.answer(prompt, usize::MAX, STEPS).1;
        assert!(apart || got == want, "{what}, sampled: {got:?}, not {want:?}");
        one.sampler = Arc::default();
        group.sampler = one.sampler.clone();
    }
    assert!(!apart || most > TOLERANCE, "{name} rounds as one device does");
}

#[test]
fn two_ranks_are_one_model() {
    assert_eq!(refused("models", 2), "");
    assert_eq!(refused("gguf", 2), "gemma2 gemma3");
    assert_eq!(
        refused("quantised", 2),
        "ct-fp8-block ct-w5-zero fp8-block modelopt-fp8-block nf4-double online-block"
    );
}

#[test]
fn four_ranks_are_one_model() {
    assert_eq!(
        refused("models", 4),
        "bamba-groups bloom falcon-h1-norm gpt2-no-prefix granite-hybrid-mamba mamba2 nemotron-h \
         nemotron-h-latent opt-bin opt-bin-sharded qwen2-window qwen3-next qwen3_5 qwen3_5-moe \
         qwen3_5-text"
    );
    assert_eq!(
        refused("gguf", 4),
        "gemma2 gemma3 llama llama-bias-split llama-k phi3 qwen2 qwen3 qwen3-moe"
    );
    assert_eq!(
        refused("quantised", 4),
        "awq awq-glm awq-granite-hybrid awq-qwen3-moe ct-fp8-block ct-mxfp4 ct-mxfp8 \
         ct-w3-loose ct-w4 ct-w4-zero ct-w5-zero fp8-block gptq gptq-8-v2 gptq-neox \
         gptq-qwen3-moe modelopt-fp8-block mxfp4-gpt-oss nf4-double nvfp4-qwen3-moe \
         online-block"
    );
}

/// Four ranks hold each KV head, the last one nothing of the vocabulary.
#[test]
fn eight_ranks_are_one_model() {
    let sizes = Sizes { hidden: 64, heads: 8, kv_heads: 2, head_dim: 8, ffn: 48, vocab: 100 };
    let (error, same) = made_by(&made::llama("eight_ranks", &sizes, false), 8);
    assert!(error <= TOLERANCE && same, "{error}");
}

/// Nine groups of inputs of an expert's second product: one rank holds two of them, the others one.
#[test]
fn ranks_hold_whole_groups_of_experts() {
    let dir = fixtures_of("quantised").into_iter().find(|dir| dir.ends_with("mxfp4-gpt-oss-nine"));
    let dir = dir.expect("a fixture");
    for ranks in [4, 8] {
        compare(&dir, &format!("nine groups by {ranks}"), &mut by(&dir, ranks).unwrap());
    }
}

/// Whole blocks of inputs, halves of blocks of outputs. Inputs are rounded in blocks, as by one
/// device, so that a sum in another order may round one up and not down: a scale of another block
/// would be ten times worse.
#[test]
fn blocks_of_fp8_are_cut_with_their_scales() {
    let sizes = Sizes { hidden: 256, heads: 4, kv_heads: 2, head_dim: 64, ffn: 256, vocab: 100 };
    let (error, _) = made_by(&made::llama("fp8_blocks", &sizes, true), 2);
    assert!(error <= 0.04, "{error}");
    let refused = made_rig(&made::llama("fp8_blocks_of_four", &sizes, true), 4);
    let text = refused.err().expect("64 inputs of a block").to_string();
    let want = "Weight input_size_per_partition = 64 is not divisible by weight quantization \
                block_k = 128.";
    assert!(text.ends_with(want), "{text}");
}

fn made_rig(made: &made::Made, ranks: usize) -> Result<Rig> {
    let options = RigOptions { dtype: "float32", ranks, ..RigOptions::default() };
    let (spec, source) = read(&made.0, &options);
    Rig::try_new(spec, &source, &options)
}

/// The worst logit against one device, and whether the tokens are the same.
fn made_by(made: &made::Made, ranks: usize) -> (f32, bool) {
    let (mut one, mut group) = (made_rig(made, 1).unwrap(), made_rig(made, ranks).unwrap());
    let (mut most, mut same) = (0f32, true);
    for first in [0, 37] {
        let prompt: Vec<u32> = (0..40).map(|n| (first + n * n * 7) % 100).collect();
        let want = one.answer(&prompt, usize::MAX, STEPS);
        let got = group.answer(&prompt, usize::MAX, STEPS);
        most = most.max(worst(&got.0, &want.0));
        same &= got.1 == want.1;
    }
    (most, same)
}

/// Chunks, hits and company, as for one device: ranks change no bit either.
#[test]
fn chunks_hits_and_company_change_no_bit() {
    for (folder, name) in CUT {
        let dir = fixtures_of(folder).into_iter().find(|dir| dir.ends_with(name)).unwrap();
        let mut rig = by(&dir, 2).unwrap();
        let prompts = prompts(&dir);
        let longest = prompts.iter().max_by_key(|prompt| prompt.len()).unwrap();
        let want = rig.answer(longest, usize::MAX, STEPS);
        assert!(rig.answer(longest, 7, STEPS) == want, "{name}: chunks of 7");

        let mut owner = rig.open(longest);
        rig.feed_prompt(&mut owner, 7);
        let mut hit = rig.open_sharing(longest, &owner);
        assert!(hit.length > 0 && hit.length < longest.len(), "{name}");
        let logits = rig.feed_beside(&mut hit, 7, std::slice::from_mut(&mut owner));
        assert!(logits == want.0, "{name}: a prefix hit");
        for _ in 1..STEPS {
            rig.decode(&mut [&mut owner, &mut hit]);
        }
        for seq in [&hit, &owner] {
            assert_eq!(seq.outputs[..STEPS], want.1, "{name}: a prefix hit");
            rig.close(seq);
        }
    }
}

/// A load that reads no values counts what the real one takes, for each rank.
#[test]
fn ranks_are_counted_by_their_shapes() {
    for dir in ["models", "gguf", "quantised"].into_iter().flat_map(fixtures_of) {
        let options = RigOptions::of_fixture(&dir);
        let (spec, source) = read(&dir, &options);
        for rank in Rank::all(2) {
            let held = |shapes: bool| {
                let mut trace = Trace::of_rank(DType::F32, rank);
                let limits = rig::limits(&spec, rank, &options).unwrap();
                let load = if shapes { Decoder::load_shapes } else { Decoder::load };
                load(&spec, &source, &mut trace, &limits).map(|_| trace.held())
            };
            let what = format!("{}, {rank:?}", dir.display());
            let (counted, whole) = match (held(true), held(false)) {
                (Ok(counted), Ok(whole)) => (counted, whole),
                (counted, whole) => {
                    assert_eq!(counted, whole, "{what}");
                    continue;
                }
            };

            // Orders of the 64 inputs of q, k, v and of gate, up are counted where they are read:
            // four bytes for each, in two layers.
            let orders = whole.weights - counted.weights;
            let ordered = dir.to_string_lossy().ends_with("ordered");
            assert!(orders == 0 || ordered && [512, 1024].contains(&orders), "{what}: {orders}");
            assert_eq!(Held { weights: whole.weights, ..counted }, whole, "{what}");
        }
    }
}

/// Vectors of models that embed.
#[test]
fn ranks_embed_as_one_device_does() {
    for row in embeddings::ROWS {
        for (kind, word) in embeddings::KINDS {
            let texts: Vec<Vec<u32>> = embeddings::cases(row).iter().map(embeddings::ids).collect();
            let want = embeddings::rig_of_ranks(row, kind, 1).embed(&texts);
            for ranks in [2, 4] {
                let got = embeddings::rig_of_ranks(row, kind, ranks).embed(&texts);
                assert_eq!(got.len(), want.len());
                for (got, want) in got.iter().zip(&want) {
                    let what = format!("{row}, {word}, by {ranks}");
                    embeddings::close(&what, got, want, TOLERANCE);
                }
            }
        }
    }
}
