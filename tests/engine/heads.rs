//! Heads that draft from a model's hidden states, through the whole engine: whatever they say,
//! answers are those without them, alone and in crowds that are chunked, preempted, served from the
//! prefix cache and shared out to ranks; and one that is as good as its model is always right.
//! What a head drafts is compared with another computation in tests/heads.rs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::tensor::{Dtype, TensorView};
use safetensors::SafeTensors;
use serde_json::{json, Value};
use triton_vllm::engine::{Answer, EngineOptions};

use crate::requests::{requests, Request, Rng, MODEL};
use crate::served::{
    device, goldens, options, recorded_adapters, refusal, serve, serve_with, RecordedAdapter,
    Served, Told,
};
use crate::speculation::{ask, check, stats, with};

/// At once; of each way to draft some crowds, a thousand requests of all together.
const CROWD: usize = 42;
const CROWDS: u64 = 3;
const HIDDEN: usize = 64;
const VOCAB: usize = 4096;
/// Tokens that an EAGLE-3 head can say here.
const FEW: usize = 1500;
const FFN: usize = 32;

/// A folder; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("triton-vllm-head-{}-{number}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).expect("a folder");
        folder
    }

    /// A model's, without its weights.
    fn of_model(model: &str) -> Folder {
        let folder = Folder::new();
        for file in std::fs::read_dir(golden(model)).expect("the model") {
            let file = file.expect("a file");
            if file.file_name() != "model.safetensors" {
                std::fs::copy(file.path(), folder.0.join(file.file_name())).expect("a copy");
            }
        }
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn golden(model: &str) -> PathBuf {
    Path::new(&goldens()).join("models").join(model)
}

/// Tensors in f32.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors_of(model: &str) -> Tensors {
    let bytes = std::fs::read(golden(model).join("model.safetensors")).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = |(name, view): (String, TensorView)| {
        assert_eq!(view.dtype(), Dtype::F32);
        let words = view.data().chunks_exact(4);
        let values = words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        (name, (view.shape().to_vec(), values.collect()))
    };
    file.tensors().into_iter().map(tensor).collect()
}

fn write(path: &Path, tensors: &Tensors, offsets: &[i64]) {
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let mut all: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name.clone(), Dtype::F32, shape.clone(), bytes(values)))
        .collect();
    if !offsets.is_empty() {
        let bytes = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        all.push(("d2t".into(), Dtype::I64, vec![offsets.len()], bytes));
    }
    let views = all.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, path).expect("a file");
}

/// Random matrices, and norms of ones.
fn random(rng: &mut Rng, shapes: &[(&str, &[usize])]) -> Tensors {
    let mut value = |inputs: usize| {
        let uniform = rng.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0;
        uniform * 1.7 / (inputs as f32).sqrt()
    };
    let tensor = |(name, shape): &(&str, &[usize])| {
        let count = shape.iter().product();
        let values = match shape {
            [_] => vec![1.0; count],
            _ => (0..count).map(|_| value(*shape.last().unwrap())).collect(),
        };
        (format!("{name}.weight"), (shape.to_vec(), values))
    };
    shapes.iter().map(tensor).collect()
}

const H: usize = HIDDEN;
const LAYER: [(&str, &[usize]); 5] = [
    ("self_attn.o_proj", &[H, H]),
    ("post_attention_layernorm", &[H]),
    ("mlp.gate_proj", &[FFN, H]),
    ("mlp.up_proj", &[FFN, H]),
    ("mlp.down_proj", &[H, FFN]),
];

/// `inputs`: of q, k and v.
fn layer(rng: &mut Rng, prefix: &str, inputs: usize, more: &[(&str, &[usize])]) -> Tensors {
    let (q, kv) = ([H, inputs], [H / 2, inputs]);
    let qkv: [(&str, &[usize]); 3] =
        [("self_attn.q_proj", &q), ("self_attn.k_proj", &kv), ("self_attn.v_proj", &kv)];
    let tensors = random(rng, &[&qkv[..], &LAYER, more].concat());
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor)).collect()
}

fn config(folder: &Folder, more: &Value) {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": H,
        "intermediate_size": FFN, "num_attention_heads": 2, "num_key_value_heads": 1,
        "num_hidden_layers": 1, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "max_position_embeddings": 128, "vocab_size": VOCAB,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    std::fs::write(folder.0.join("config.json"), config.to_string()).expect("a config");
}

fn eagle() -> Folder {
    let folder = Folder::new();
    config(&folder, &json!({}));
    let rng = &mut Rng(11);
    let mut tensors = layer(rng, "layers.0", H, &[]);
    tensors.extend(random(rng, &[("fc", &[H, 2 * H])]));
    write(&folder.0.join("model.safetensors"), &tensors, &[]);
    folder
}

fn eagle3() -> Folder {
    let folder = Folder::new();
    config(
        &folder,
        &json!({"draft_vocab_size": FEW, "eagle_aux_hidden_state_layer_ids": [0, 1, 2]}),
    );
    let rng = &mut Rng(13);
    let norms: [(&str, &[usize]); 2] = [("input_layernorm", &[H]), ("hidden_norm", &[H])];
    let mut tensors = layer(rng, "midlayer", 2 * H, &norms);
    let ends: [(&str, &[usize]); 3] = [("fc", &[H, 3 * H]), ("norm", &[H]), ("lm_head", &[FEW, H])];
    tensors.extend(random(rng, &ends));
    // Every second token from 300 on.
    let offsets: Vec<i64> = (0..FEW as i64).map(|place| 300 + place).collect();
    write(&folder.0.join("model.safetensors"), &tensors, &offsets);
    folder
}

/// A Qwen 2 with a layer of MiMo's that predicts one token further.
fn with_next_token() -> Folder {
    let folder = Folder::of_model("qwen2-tiny");
    let file = golden("qwen2-tiny").join("model.safetensors");
    std::fs::copy(file, folder.0.join("a.safetensors")).expect("a copy");
    let rng = &mut Rng(17);
    let beside: [(&str, &[usize]); 5] = [
        ("input_layernorm", &[H]),
        ("token_layernorm", &[H]),
        ("hidden_layernorm", &[H]),
        ("input_proj", &[H, 2 * H]),
        ("final_layernorm", &[H]),
    ];
    let prefix = "model.mtp_layers.0";
    let mut tensors = layer(rng, prefix, H, &beside);
    // The MLP is as wide as the model's.
    let ffn = 176;
    let mlp: [(&str, &[usize]); 3] =
        [("mlp.gate_proj", &[ffn, H]), ("mlp.up_proj", &[ffn, H]), ("mlp.down_proj", &[H, ffn])];
    let mlp = random(rng, &mlp);
    tensors.extend(mlp.into_iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor)));
    for (name, outputs) in [("q", H), ("k", H / 2), ("v", H / 2)] {
        let name = format!("{prefix}.self_attn.{name}_proj.bias");
        tensors.insert(name, (vec![outputs], vec![0.25; outputs]));
    }
    write(&folder.0.join("b.safetensors"), &tensors, &[]);
    folder
}

fn drafting(head: &Folder, method: &str, drafts: usize, more: &Value) -> Served {
    let speculation = json!({"method": method, "num_speculative_tokens": drafts, "model": head.0});
    served(MODEL, speculation, more)
}

fn served(model: &str, mut speculation: Value, more: &Value) -> Served {
    let mut args = json!({});
    for (key, value) in more.as_object().expect("an object") {
        let place = if key.starts_with("draft_") { &mut speculation } else { &mut args };
        place[key] = value.clone();
    }
    args["speculative_config"] = speculation;
    serve_with(model, &args, options(model))
}

/// The crowds of `speculation` from this one on. `HEADS_CROWDS=n` asks others than usual.
fn asked(first: u64) -> Vec<Request> {
    let crowds = std::env::var("HEADS_CROWDS").map_or(CROWDS, |n| n.parse().expect("a number"));
    (first..first + crowds).flat_map(|crowd| requests(1000 + crowd, CROWD).1).collect()
}

fn tight() -> Value {
    json!({"max_num_seqs": 16, "max_num_batched_tokens": 24, "num_gpu_blocks_override": 22})
}

#[track_caller]
fn compare(what: &str, requests: &[Request], right: &[Answer], served: &Served) {
    for (requests, right) in requests.chunks(CROWD).zip(right.chunks(CROWD)) {
        let told: Vec<Told> = requests.iter().map(|request| ask(served, request, true)).collect();
        for ((request, told), right) in requests.iter().zip(told).zip(right) {
            check(what, request, right, &told.answer());
        }
    }

    let told = stats(served);
    println!("{what}: {told:?}");
    assert!(told.drafts > 50, "{what}: {told:?}");
}

fn plain(requests: &[Request], more: Value) -> Vec<Answer> {
    let alone = serve(MODEL, more);
    requests.iter().map(|request| ask(&alone, request, true).answer()).collect()
}

#[test]
fn answers_are_those_without_a_head() {
    let requests = asked(0);
    let right = plain(&requests, json!({"enable_prefix_caching": false}));
    // Sums over ranks have an order of their own.
    let ranks = json!({"tensor_parallel_size": 2, "device": "cpu"});
    let right_of_ranks = plain(&requests, ranks.clone());
    let (eagle, eagle3) = (eagle(), eagle3());
    for (head, method, drafts, more) in [
        (&eagle3, "eagle3", 4, json!({})),
        (&eagle3, "eagle3", 3, tight()),
        (&eagle3, "eagle3", 2, ranks.clone()),
        (&eagle, "eagle", 3, json!({"draft_sample_method": "greedy"})),
        (&eagle, "eagle", 5, tight()),
        (&eagle, "eagle", 2, json!({"enable_prefix_caching": false, "block_size": 32})),
    ] {
        let served = drafting(head, method, drafts, &more);
        let right = if more == ranks { &right_of_ranks } else { &right };
        compare(&format!("{method} {more}"), &requests, right, &served);
    }
}

#[test]
fn answers_are_those_without_a_layer_for_further_tokens() {
    let requests = asked(3);
    let folder = with_next_token();
    let model = json!({"model": folder.0});
    let right = plain(&requests, with(&model, json!({"enable_prefix_caching": false})));
    for more in [json!({}), with(&tight(), json!({"draft_sample_method": "greedy"}))] {
        let config = json!({"method": "mtp", "num_speculative_tokens": 3});
        let served = served(MODEL, config, &with(&model, more.clone()));
        compare(&format!("mtp {more}"), &requests, &right, &served);
    }
}

/// A model whose next token depends on the newest one alone, and a head that does the same with it:
/// every draft is right, behind prefix hits, preemptions and on ranks.
#[test]
fn a_head_that_knows_the_model_is_always_right() {
    let zero = |name: &str| name.contains("o_proj") || name.contains("down_proj");
    let model = Folder::of_model(MODEL);
    let mut tensors = tensors_of(MODEL);
    for (name, (_, values)) in &mut tensors {
        if zero(name) {
            values.fill(0.0);
        } else if name == "model.norm.weight" {
            values.fill(1.0);
        }
    }
    write(&model.0.join("model.safetensors"), &tensors, &[]);

    let head = Folder::new();
    config(&head, &json!({}));
    let rng = &mut Rng(19);
    let mut tensors = layer(rng, "layers.0", H, &[]);
    tensors.iter_mut().filter(|(name, _)| zero(name)).for_each(|(_, (_, v))| v.fill(0.0));
    // The embedding as it is.
    let mut product = vec![0.0; 2 * H * H];
    (0..H).for_each(|i| product[2 * H * i + i] = 1.0);
    tensors.insert("fc.weight".into(), (vec![H, 2 * H], product));
    write(&head.0.join("model.safetensors"), &tensors, &[]);

    for more in [
        json!({}),
        json!({"max_num_seqs": 4, "num_gpu_blocks_override": 24}),
        json!({"tensor_parallel_size": 2, "device": "cpu"}),
    ] {
        let served = drafting(&head, "eagle", 3, &with(&more, json!({"model": model.0})));
        let free = json!({"temperature": 0, "max_tokens": 41, "ignore_eos": true});
        let prompt = |n: usize| format!("{} {n}", "one two three four five ".repeat(1 + n % 4));
        let told: Vec<Told> =
            (0..12).map(|n| served.ask(&prompt(n % 9), free.clone(), false)).collect();
        for told in told {
            assert_eq!(told.answer().outputs[0].tokens, 41);
        }
        let told = stats(&served);
        println!("{more}: {told:?}");
        if device() == "cpu" {
            assert!(told.drafts >= 12 * 9, "{told:?}");
            assert_eq!(told.accepted_tokens, told.draft_tokens, "{told:?}");
        } else {
            // A step of several tokens may round otherwise, and some steps have no drafts.
            assert!(told.drafts > 0 && told.accepted_tokens * 100 > told.draft_tokens * 95);
        }
    }
}

/// Adapters act on the model alone; its answers are the recorded ones.
#[test]
fn adapters_have_a_head() {
    let folder = Folder::new();
    let list = json!({"sheep": format!("{}/models/llama-lora-a", goldens()),
                      "dog": format!("{}/models/llama-lora-b", goldens())});
    std::fs::write(folder.0.join("multi_lora.json"), list.to_string()).unwrap();
    let head = eagle3();
    let lora = json!({"enable_lora": true, "max_loras": 2, "max_lora_rank": 8,
                      "speculative_config": {"method": "eagle3", "model": head.0,
                                             "num_speculative_tokens": 3}});
    let options = EngineOptions { version_dir: folder.0.clone(), ..options(MODEL) };
    let served = serve_with(MODEL, &lora, options);
    for RecordedAdapter { name, prompt, sampling, want } in recorded_adapters() {
        let told = served.ask(&prompt, sampling, false).answer();
        assert_eq!(told.outputs[0].text, want, "{name}");
    }
    assert!(stats(&served).drafts > 0);
}

/// A broken head fails the load with a line; one that this version does not know is left out.
#[test]
fn heads_that_cannot_draft_are_refused_or_left_out() {
    let with_head = |head: &Folder, method: &str| {
        json!({"speculative_config": {"method": method, "num_speculative_tokens": 2,
                                      "model": head.0}})
    };
    let head = eagle3();
    let said = refusal(MODEL, &with_head(&head, "eagle"));
    assert!(said.contains("'lm_head.weight' has shape [1500, 64]"), "{said}");
    config(&head, &json!({"draft_vocab_size": 5000, "eagle_aux_hidden_state_layer_ids": [0, 1]}));
    let said = refusal(MODEL, &with_head(&head, "eagle3"));
    assert!(said.contains("'draft_vocab_size' is 5000, more than the 4096"), "{said}");
    config(&head, &json!({"draft_vocab_size": FEW}));
    let said = refusal(MODEL, &with_head(&head, "eagle3"));
    assert!(said.contains("'eagle_aux_hidden_state_layer_ids' must say which layers"), "{said}");
    config(&head, &json!({"draft_vocab_size": FEW, "eagle_aux_hidden_state_layer_ids": [0, 3]}));
    let said = refusal(MODEL, &with_head(&head, "eagle3"));
    assert!(said.contains("must list numbers of the model's 2 layers"), "{said}");
    config(&head, &json!({"target_hidden_size": 128}));
    let said = refusal(MODEL, &with_head(&head, "eagle3"));
    assert!(said.contains("this head is another model's"), "{said}");
    let said = refusal("qwen2-tiny", &json!({"speculative_config": {"method": "mtp"}}));
    assert!(said.contains("no layer that predicts further tokens"), "{said}");

    config(&head, &json!({"architectures": ["Eagle3SomethingElse"]}));
    let left_out = serve(MODEL, with_head(&head, "eagle3"));
    let without = serve(MODEL, json!({"speculative_config": {"method": "mtp"}}));
    let free = json!({"temperature": 0, "max_tokens": 9, "ignore_eos": true});
    let texts = [&left_out, &without].map(|served| served.text("one two", free.clone()));
    assert_eq!(texts[0], texts[1]);
    assert_eq!(stats(&left_out).drafts + stats(&without).drafts, 0);
}
