//! What an adapter's folder may hold, and what is refused, each in one line.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;
use crate::device::{AdapterCapacity, Rank};
use crate::model::config::SpecOptions;
use serde_json::Value;

fn spec(model: &str) -> ModelSpec {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model);
    let supported = &[DType::F32];
    ModelSpec::read(&dir, &SpecOptions { supported, dtype: "float32", ..Default::default() })
        .expect("a fixture")
}

fn options(rank: usize, modules: Option<&[&str]>) -> AdapterOptions {
    let modules = modules.map(|names| names.iter().map(|n| n.to_string()).collect());
    AdapterOptions { capacity: AdapterCapacity { slots: 1, rank }, modules }
}

struct Folder(PathBuf);

impl std::ops::Deref for Folder {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A folder with this config and tensors of ones: (name, rows, columns).
fn folder(config: Value, tensors: &[(&str, usize, usize)]) -> Folder {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("triton-vllm-lora-{}-{number}", std::process::id());
    let dir = Folder(std::env::temp_dir().join(name));
    std::fs::create_dir_all(&*dir).expect("a folder");
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).expect("a file");
    let ones: Vec<Vec<u8>> =
        tensors.iter().map(|&(_, r, c)| 1f32.to_le_bytes().repeat(r * c)).collect();
    let views = tensors.iter().zip(&ones).map(|(&(name, r, c), bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, vec![r, c], bytes).expect("a view");
        (format!("base_model.model.{name}"), view)
    });
    let path = dir.join("adapter_model.safetensors");
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &path).expect("a file");
    dir
}

fn refusal(config: Value, tensors: &[(&str, usize, usize)]) -> String {
    let dir = folder(config, tensors);
    match Adapter::read(&dir, &spec("llama"), &options(8, None)) {
        Ok(_) => panic!("accepted"),
        Err(e) => e.message().replace(&dir.display().to_string(), "DIR"),
    }
}

const Q: [(&str, usize, usize); 2] = [
    ("model.layers.1.self_attn.q_proj.lora_A.weight", 2, 64),
    ("model.layers.1.self_attn.q_proj.lora_B.weight", 64, 2),
];

#[test]
fn the_scale_is_in_b_and_other_parts_stay_none() {
    for (config, scale) in [
        (json!({"r": 2, "lora_alpha": 3}), 1.5),
        (json!({"r": 2, "lora_alpha": 3, "use_rslora": true}), (3.0 / 2f64.sqrt()) as f32),
    ] {
        let dir = folder(config, &Q);
        let adapter = Adapter::read(&dir, &spec("llama"), &options(8, None)).unwrap();
        let qkv = adapter.parts(1, 0, &Cut::Whole).unwrap();
        let part = qkv[0].as_ref().expect("q");
        assert_eq!((part.a.rows, part.a.cols, part.b.rows, part.b.cols), (2, 64, 2, 64));
        let all = |matrix: &HostTensor, x| matrix.values().unwrap().iter().all(|&y| y == x);
        assert!(all(&part.a, 1.0) && all(&part.b, scale));
        assert!(qkv[1].is_none() && qkv[2].is_none(), "k and v");
        assert!(
            adapter.parts(0, 0, &Cut::Whole).unwrap().iter().all(Option::is_none),
            "another layer"
        );
    }
}

#[test]
fn what_cannot_be_served_is_refused_in_one_line() {
    let config = |more: Value| {
        let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    for (more, expected) in [
        (json!({"r": 16}), "LoRA rank 16 is greater than max_lora_rank 8."),
        (json!({"r": 0}), "DIR/adapter_config.json: 'r' must be an integer in 1..=65536, got 0."),
        (json!({"lora_alpha": null}), "'lora_alpha' must be a number, got null."),
        (json!({"peft_type": "IA3"}), "'peft_type' is \"IA3\": only LoRA"),
        (json!({"bias": "all"}), "'bias' is \"all\": biases"),
        (json!({"use_dora": true}), "'use_dora' is true: DoRA"),
        (json!({"modules_to_save": ["lm_head"]}), "'modules_to_save' is [\"lm_head\"]: whole"),
        (json!({"rank_pattern": {"q_proj": 4}}), "'rank_pattern' is {\"q_proj\":4}: all modules"),
    ] {
        let got = refusal(config(more.clone()), &Q);
        assert!(got.contains(expected), "{more}: {got}");
    }
}

#[test]
fn tensors_must_belong_to_the_model() {
    let config = || json!({"r": 2, "lora_alpha": 4});
    let stranger = [("model.layers.1.mlp.router.lora_A.weight", 2, 64)];
    assert!(refusal(config(), &stranger).contains("self_attn.q_proj, self_attn.k_proj"));
    let beyond = [("model.layers.2.self_attn.q_proj.lora_A.weight", 2, 64)];
    assert!(refusal(config(), &beyond).contains("in 2 layers"), "layers 0 and 1 exist");
    let norm = [("model.norm.lora_A.weight", 2, 64)];
    let got = refusal(config(), &norm);
    assert!(got.contains("'base_model.model.model.norm.lora_A.weight'"), "{got}");
    assert!(got.contains("embed_tokens, lm_head, in 2 layers"), "{got}");
    assert!(refusal(config(), &Q[..1]).contains("q_proj.lora_B.weight' is missing"));
    let wide = [Q[0], ("model.layers.1.self_attn.q_proj.lora_B.weight", 96, 2)];
    assert!(refusal(config(), &wide).contains("has shape [96, 2], expected [64, 2]"));
    assert!(refusal(config(), &[]).contains("no tensor of the adapter changes this model"));
    let none = std::env::temp_dir().join("triton-vllm-no-such-adapter");
    let got = Adapter::read(&none, &spec("llama"), &options(8, None)).err().unwrap();
    assert!(got.message().contains("adapter_config.json"), "{got}");
}

const VOCAB: usize = 307;
const WORDS: [(&str, usize, usize); 4] = [
    ("lm_head.lora_A.weight", 2, 64),
    ("lm_head.lora_B.weight", VOCAB, 2),
    ("model.embed_tokens.lora_embedding_A", 2, VOCAB),
    ("model.embed_tokens.lora_embedding_B", 64, 2),
];

#[test]
fn the_table_and_the_head_take_adapters_too() {
    // As peft saves it: beside a copy of what it did not change.
    let copies = [
        ("lm_head.base_layer.weight", VOCAB, 64),
        ("model.embed_tokens.base_layer.weight", VOCAB, 64),
    ];
    let dir = folder(json!({"r": 2, "lora_alpha": 3}), &[&WORDS[..], &copies].concat());
    let adapter = Adapter::read(&dir, &spec("llama"), &options(8, None)).unwrap();
    let spec = spec("llama");
    let shard = Shard::new(&spec, Rank::ALONE).unwrap();
    let head = adapter.head(&shard).unwrap().expect("a head");
    assert_eq!((head.a.rows, head.a.cols, head.b.rows, head.b.cols), (2, 64, 2, VOCAB));
    let all = |matrix: &HostTensor, x| matrix.values().unwrap().iter().all(|&y| y == x);
    assert!(all(&head.a, 1.0) && all(&head.b, 1.5));
    let embed = adapter.embed(&shard).unwrap().expect("a table");
    assert_eq!((embed.a.rows, embed.a.cols, embed.b.rows, embed.b.cols), (VOCAB, 2, 2, 64));
    assert!(all(&embed.a, 1.0) && all(&embed.b, 1.5));
    assert!(adapter.parts(0, 0, &Cut::Whole).unwrap().iter().all(Option::is_none), "layers");

    let head_only = Adapter::read(&dir, &spec, &options(8, Some(&["lm_head"]))).unwrap();
    let head = head_only.head(&shard).unwrap();
    assert!(head.is_some() && head_only.embed(&shard).unwrap().is_none());

    // The last of two ranks: rows from 160 on, those behind the last are zeros.
    let shard = Shard::new(&spec, Rank { index: 1, of: 2 }).unwrap();
    let head = adapter.head(&shard).unwrap().expect("a head");
    let row = [vec![1.5; VOCAB - 160], vec![0.0; 320 - VOCAB]].concat();
    assert_eq!(head.b.values().unwrap(), row.repeat(2));
    let embed = adapter.embed(&shard).unwrap().expect("a table");
    assert_eq!((embed.a.rows, embed.a.cols), (160, 2));
    let held = [vec![1.0; 2 * (VOCAB - 160)], vec![0.0; 2 * (320 - VOCAB)]].concat();
    assert_eq!(embed.a.values().unwrap(), held);
}

#[test]
fn a_vocabulary_of_its_own_is_refused() {
    let config = || json!({"r": 2, "lora_alpha": 4});
    let words = "added tokens are not supported: merge the adapter into the model";
    for (n, tensor) in [
        (1, ("lm_head.lora_B.weight", VOCAB + 2, 2)),
        (2, ("model.embed_tokens.lora_embedding_A", 2, VOCAB + 2)),
    ] {
        let mut tensors = WORDS;
        tensors[n] = tensor;
        let got = refusal(config(), &tensors);
        assert!(got.contains(words) && got.contains("309"), "{got}");
    }
    let copy = [WORDS[2], WORDS[3], ("model.embed_tokens.base_layer.weight", VOCAB + 2, 64)];
    assert!(refusal(config(), &copy).contains(words));
    let dir = folder(config(), &WORDS);
    std::fs::write(dir.join("new_embeddings.safetensors"), "").unwrap();
    let got = Adapter::read(&dir, &spec("llama"), &options(8, None)).err().unwrap();
    assert!(got.message().contains(words), "{got}");
    for whole in ["lm_head.weight", "model.embed_tokens.weight"] {
        let got = refusal(config(), &[WORDS[0], WORDS[1], (whole, VOCAB + 2, 64)]);
        assert!(got.contains(&format!("{whole}' replaces one of the model's")), "{got}");
    }
}

#[test]
fn modules_can_be_limited() {
    let dir = folder(json!({"r": 2, "lora_alpha": 4}), &Q);
    let spec = spec("llama");
    for (modules, reached) in [(&["v_proj"][..], false), (&["q_proj"], true), (&["qkv_proj"], true)]
    {
        let options = options(8, Some(modules));
        assert_eq!(Adapter::read(&dir, &spec, &options).is_ok(), reached, "{modules:?}");
        assert!(!options.reaches(&projections(&spec, 0)[3]), "down_proj");
    }
}

const LATENT: [(&str, usize, usize); 2] = [
    ("model.layers.0.self_attn.kv_b_proj.lora_A.weight", 2, 12),
    ("model.layers.0.self_attn.kv_b_proj.lora_B.weight", 56, 2),
];

/// The matrices of K and V of latent attention are no products.
#[test]
fn matrices_of_latent_heads_are_refused_or_left_out() {
    let spec = spec("deepseek-v3");
    let rank = 2;
    let out = spec.attn_width(0);
    let o_proj = [
        ("model.layers.0.self_attn.o_proj.lora_A.weight", rank, out),
        ("model.layers.0.self_attn.o_proj.lora_B.weight", spec.hidden, rank),
    ];
    let dir = folder(json!({"r": rank, "lora_alpha": 4}), &[&LATENT[..], &o_proj].concat());
    let refused = Adapter::read(&dir, &spec, &options(8, None)).err().unwrap();
    let words = [
        "kv_b_proj.lora_A.weight' changes what latent attention makes K and V by",
        "leave the module out of lora_target_modules",
    ];
    assert!(words.iter().all(|words| refused.message().contains(words)), "{refused}");

    let adapter = Adapter::read(&dir, &spec, &options(8, Some(&["o_proj"]))).unwrap();
    let parts = adapter.parts(0, Place::Out as usize, &Cut::Whole).unwrap();
    assert_eq!(parts[0].as_ref().expect("o_proj").b.cols, spec.hidden);
    let only = folder(json!({"r": rank, "lora_alpha": 4}), &LATENT);
    let nothing = Adapter::read(&only, &spec, &options(8, Some(&["o_proj"]))).err().unwrap();
    assert!(nothing.message().contains("no tensor of the adapter changes this model"));
}

/// Heads of q and their gates are one module and two linears.
#[test]
fn a_module_may_be_parts_of_several_linears() {
    let spec = spec("qwen3_5-text");
    let layer = (0..spec.layers).find(|&i| spec.sublayers[i].attention).expect("attention");
    let all = projections(&spec, layer);
    let [q, gate] = [Place::Query, Place::Gate].map(|place| &all[place as usize].parts[0]);
    assert_eq!((&q.module, q.module_outputs), (&gate.module, 2 * q.outputs));
    let name = format!("model.layers.{layer}.{}", q.module);
    let tensors = [
        (&*format!("{name}.lora_A.weight"), 1, spec.hidden),
        (&*format!("{name}.lora_B.weight"), q.module_outputs, 1),
    ];
    let dir = folder(json!({"r": 1, "lora_alpha": 1}), &tensors);
    for (modules, reached) in [(None, true), (Some(&["qkv_proj"][..]), true)] {
        let adapter = Adapter::read(&dir, &spec, &options(8, modules)).unwrap();
        for place in [Place::Query, Place::Gate] {
            let parts = adapter.parts(layer, place as usize, &Cut::Whole).unwrap();
            assert_eq!(parts[0].is_some(), reached, "{place:?}");
        }
    }
    assert!(Adapter::read(&dir, &spec, &options(8, Some(&["k_proj"]))).is_err());
}

#[test]
fn ranks_hold_what_their_weights_hold() {
    for model in ["qwen3_5-text", "qwen3-next", "lfm2", "granite-hybrid", "jamba", "deepseek-v3"] {
        let spec = spec(model);
        for index in 0..2 {
            let shard = Shard::new(&spec, Rank { index, of: 2 }).unwrap();
            for layer in 0..spec.layers {
                let cuts = cuts(&spec, &shard, layer);
                for (projection, cut) in projections(&spec, layer).iter().zip(&cuts) {
                    let all: usize = projection.parts.iter().map(|part| part.outputs).sum();
                    let held: usize = projection.outputs_of(cut).iter().sum();
                    assert_eq!(held, cut.outputs(all), "{model} {layer} {projection:?}");
                }
            }
        }
    }
}

/// Weights have the gate first; GTE's tensor has it last.
#[test]
fn the_gate_of_an_adapter_goes_where_the_weights_go() {
    let spec = spec("gte");
    let ffn = spec.ffns[0];
    let up = &projections(&spec, 0)[Place::Up as usize].parts[0];
    assert_eq!(up.rows.picked, [ffn..2 * ffn, 0..ffn]);
    assert_eq!((up.module_outputs, up.outputs), (2 * ffn, 2 * ffn));
}
