//! GGUF files beside the models of `families`: tokenizers out of a file's keys against what
//! transformers answers, configurations, what is refused, and forms of fused weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use triton_vllm::device::{CodeType, DType};
use triton_vllm::ids::TokenId;
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::gguf::{Gguf, Vocabulary};
use triton_vllm::model::{Checkpoint, ModelSpec};
use triton_vllm::text::Tokenizer;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn open(name: &str) -> Gguf {
    Gguf::open(&fixtures().join("gguf").join(name), &Arc::default()).unwrap()
}

fn tokenizer(name: &str) -> Tokenizer {
    let gguf = open(name);
    let parts = gguf.tokenizer().unwrap();
    match parts.vocabulary {
        Vocabulary::Json(whole) => Tokenizer::from_json(gguf.path(), &whole, &parts.config),
        Vocabulary::Pieces(pieces) => Tokenizer::from_pieces(gguf.path(), &pieces, &parts.config),
    }
    .unwrap()
}

/// The answers beside the file, or those of the folder that it was made of.
fn answers(kind: &str) -> Value {
    let own = fixtures().join("gguf/tokenizers").join(format!("{kind}.json"));
    let made_of = fixtures().join("tokenizers").join(kind).join("expected.json");
    let text = std::fs::read(own).or_else(|_| std::fs::read(made_of)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn tokenizers_answer_as_transformers_does() {
    let kinds = [
        "gpt2-like",
        "json-llama3",
        "json-qwen2",
        "spm-bpe",
        "spm-gemma",
        "phi3",
        "smollm",
        "tekken",
    ];
    for kind in kinds {
        let tokenizer = tokenizer(&format!("tokenizers/{kind}.gguf"));
        let answers = answers(kind);
        let role = |key: &str| answers[key].as_u64().map(|id| TokenId(id as u32));
        assert_eq!(tokenizer.eos(), role("eos"), "{kind}");
        assert_eq!(tokenizer.bos(), role("bos"), "{kind}");

        let cases = answers["cases"].as_array().unwrap();
        assert!(cases.len() > 55, "{kind}: {} texts", cases.len());
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<TokenId> = case["ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| TokenId(id.as_u64().unwrap() as u32))
                .collect();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{kind}: {text:?}");
            for (skip, key) in [(false, "decoded"), (true, "decoded_skip_special")] {
                let decoded = tokenizer.decode(&ids, skip).unwrap();
                assert_eq!(decoded, case[key].as_str().unwrap(), "{kind}: {text:?}");
            }
        }
    }
}

fn spec(name: &str) -> ModelSpec {
    let gguf = open(name);
    let options = SpecOptions { supported: &[DType::F32], ..Default::default() };
    ModelSpec::from_keys(gguf.path(), gguf.config().unwrap(), &options).unwrap()
}

#[test]
fn configurations() {
    let llama = spec("llama/model.gguf");
    assert_eq!((llama.vocab_size, llama.tied, llama.max_model_len), (559, true, 128));
    let end = tokenizer("llama/model.gguf").eos().unwrap();
    assert_eq!(
        llama.eos_token_ids,
        [end],
        "the token that ends a turn is the one that ends a text"
    );
    assert!(llama.ropes[0].inv_freq[0] == 1.0 && llama.ropes[0].magnitude == 1.0);

    assert!(spec("llama-bias-split/model-00001-of-00003.gguf").qkv_bias);
    let k = spec("llama-k/model.gguf");
    assert_eq!((k.head_dim, k.tied, k.qkv_bias), (32, false, false));
    let gemma = spec("gemma3/model.gguf");
    let windows: Vec<bool> =
        gemma.attention.iter().map(|layer| layer.attn.window.is_some()).collect();
    assert_eq!(windows, [true, true, false]);
    let mixture = spec("qwen3-moe/model.gguf").mixture.unwrap();
    assert_eq!((mixture.routing.experts, mixture.routing.top_k, mixture.ffn), (5, 2, 32));
    assert!(mixture.routing.renormalise);
}

/// Any file of a split model stands for all.
#[test]
fn files_of_a_split_model() {
    let names = |n: usize| {
        let gguf = open(&format!("llama-bias-split/model-0000{n}-of-00003.gguf"));
        let checkpoint = Checkpoint::of_gguf(gguf.tensors().unwrap());
        checkpoint.names().map(str::to_string).collect::<Vec<_>>()
    };
    assert!(names(1).len() > 20 && names(1) == names(3));

    let place = std::env::temp_dir().join(format!("gguf_split_{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let part = |n: usize, of: usize| place.join(format!("m-0000{n}-of-0000{of}.gguf"));
    let copy = |n: usize, to: PathBuf| {
        let from = format!("gguf/llama-bias-split/model-0000{n}-of-00003.gguf");
        std::fs::copy(fixtures().join(from), to).unwrap();
    };
    let said = |path: PathBuf| Gguf::open(&path, &Arc::default()).err().unwrap().to_string();
    (1..=2).for_each(|n| copy(n, part(n, 3)));
    let missing = said(part(1, 3));
    copy(2, part(3, 3));
    let wrong = said(part(1, 3));
    (1..=2).for_each(|n| copy(n, part(n, 2)));
    let fewer = said(part(2, 2));
    std::fs::remove_dir_all(&place).unwrap();
    assert!(missing.contains("m-00003-of-00003.gguf not found"), "{missing}");
    assert!(wrong.contains("'split.no' is 1, and by its name it is number 2"), "{wrong}");
    assert!(fewer.contains("'split.count' is 3, and by its name it is one of 2"), "{fewer}");
}

#[test]
fn fused_weights_get_one_form() {
    let checkpoint = |name: &str| Checkpoint::of_gguf(open(name).tensors().unwrap());
    let of = |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("model.layers.0.{name}.weight")).collect()
    };
    let qkv = of(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);

    // Q4_K, Q5_K and Q6_K: bytes, the smallest group, offsets.
    let k = checkpoint("llama-k/model.gguf");
    let (form, parts) = k.codes(&qkv, &[64, 32, 32], 256).unwrap().unwrap();
    assert_eq!((form.codes, form.group, form.offsets), (CodeType::Int8, 16, true));
    assert_eq!(k.code_form(&qkv), Some(form));
    for (part, name) in parts.iter().zip(&qkv) {
        let own = k.tensor(name, part.rows, 256).unwrap().values().unwrap();
        assert_eq!(part.values(&form, 0..part.rows).unwrap(), own, "{name}");
    }
    // Both are twos and threes.
    let up = of(&["mlp.gate_proj", "mlp.up_proj"]);
    let form = k.code_form(&up).unwrap();
    assert_eq!((form.codes, form.group, form.offsets), (CodeType::Int4, 16, true));

    // A part of 16 bits: none are codes.
    let mixed = checkpoint("llama-bias-split/model-00001-of-00003.gguf");
    assert!(mixed.codes(&qkv, &[64, 32, 32], 64).unwrap().is_none());
    assert_eq!(mixed.code_form(&qkv), None);
    let form = mixed.code_form(&qkv[..1]).unwrap();
    assert_eq!((form.codes, form.group, form.offsets), (CodeType::Int4, 32, false));
    let table = checkpoint("gemma3/model.gguf").code_form(&up).unwrap();
    assert!(matches!(table.codes, CodeType::Table(numbers) if numbers[0] == -127.0));
}

#[test]
fn shapes_and_names_that_are_not_there() {
    let checkpoint = Checkpoint::of_gguf(open("qwen2/model.gguf").tensors().unwrap());
    let name = "model.layers.0.self_attn.q_proj.weight";
    let said = checkpoint.tensor(name, 32, 64).err().unwrap().to_string();
    assert!(said.contains("qwen2/model.gguf: tensor 'blk.0.attn_q.weight' has shape"), "{said}");
    let said = checkpoint.codes(&["no".to_string()], &[1], 1).err().unwrap().to_string();
    assert!(said.contains("tensor 'no' is missing (1 x 1)"), "{said}");
    assert!(!checkpoint.contains("lm_head.weight") && checkpoint.contains(name));
    assert_eq!(checkpoint.stored_dtype(), None);
}
