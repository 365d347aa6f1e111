//! Models that classify and rerank, on the CPU, through the whole engine: logits and scores of
//! texts, pairs and ids against what Hugging Face transformers computed, by one device and by two
//! ranks; what config.json and `pooler_config` may say of them, and what is refused.

mod rig;

use std::path::{Path, PathBuf};

use rig::embeddings::{floats, ids};
use rig::pooled::{answer, ask, load, tokens};
use serde_json::{json, Value};
use triton_vllm::engine::{EmbedInput, Engines, PoolingParams};
use triton_vllm::error::Result;

const DECODERS: [&str; 7] = ["gemma", "gemma2", "gemma3", "llama", "mistral", "qwen2", "qwen3"];
const ENCODERS: [&str; 7] = [
    "bert",
    "gte-multilingual",
    "modernbert",
    "modernbert-cls",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-jina",
];
const RERANKERS: [&str; 2] = ["qwen2-reranker", "qwen3-reranker"];
const LOGITS: PoolingParams = PoolingParams { dimensions: None, use_activation: Some(false) };
const SCORES: PoolingParams = PoolingParams { dimensions: None, use_activation: None };

fn folder(row: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/scorers").join(row)
}

fn cases(row: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder(row).join("scores.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    json["cases"].as_array().unwrap().clone()
}

fn every_row() -> impl Iterator<Item = &'static str> {
    DECODERS.into_iter().chain(ENCODERS).chain(RERANKERS)
}

/// What vLLM's documentation says for the rerankers that are language models.
fn overrides(row: &str) -> Value {
    match row {
        "qwen3-reranker" => json!({"architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": true}),
        "qwen2-reranker" => json!({"architectures": ["Qwen2ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}),
        _ => json!({}),
    }
}

fn load_row(row: &str, extra: Value) -> Result<Engines> {
    let mut args = json!({"hf_overrides": overrides(row)});
    if !folder(row).join("tokenizer.json").exists() {
        args["tokenizer"] = json!(folder("qwen3"));
    }
    for (key, value) in extra.as_object().unwrap() {
        match args[key].as_object_mut() {
            Some(inner) => inner.extend(value.as_object().unwrap().clone()),
            None => args[key] = value.clone(),
        }
    }
    load(&folder(row), args)
}

fn input(case: &Value) -> EmbedInput {
    let text = |key: &str| case[key].as_str().map(String::from);
    match (text("text"), text("text_1"), text("text_2")) {
        (Some(text), ..) => EmbedInput::Text(text),
        (_, Some(query), Some(document)) => EmbedInput::Pair(query, document),
        _ => tokens(&ids(case)),
    }
}

fn asked(engine: &Engines, input: EmbedInput, params: PoolingParams) -> Result<Vec<f32>> {
    let answer = answer(ask(engine, input, params, false))?;
    assert_eq!((answer.outputs.len(), answer.outputs[0].tokens), (1, 0));
    Ok(floats(&serde_json::from_str(&answer.outputs[0].text).unwrap()))
}

/// Logits as the model's head gives them: of a reranker the difference.
fn logits(row: &str, case: &Value) -> Vec<f32> {
    let logits = floats(&case["logits"]);
    match RERANKERS.contains(&row) {
        true => vec![logits[1] - logits[0]],
        false => logits,
    }
}

#[track_caller]
fn near(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    let same = got.iter().zip(want).all(|(g, w)| (g - w).abs() <= tolerance);
    assert!(got.len() == want.len() && same, "{what}: {got:?}, want {want:?}");
}

/// All cases at once, so that they share steps.
fn check(row: &str, extra: Value, tolerance: f32) {
    let engine = load_row(row, extra.clone()).unwrap();
    let cases = cases(row);
    let waiting: Vec<_> = cases
        .iter()
        .map(|case| [LOGITS, SCORES].map(|params| ask(&engine, input(case), params, false)))
        .collect();
    for (case, told) in cases.iter().zip(waiting) {
        let what = format!("{row} {extra} {case}");
        let answers = told.map(|told| answer(told).unwrap());
        for answer in &answers {
            assert_eq!(answer.prompt_tokens as usize, ids(case).len(), "{what}");
        }
        let [raw, scores] =
            answers.map(|a| floats(&serde_json::from_str(&a.outputs[0].text).unwrap()));
        near(&what, &raw, &logits(row, case), 10.0 * tolerance);
        near(&what, &scores, &floats(&case["scores"]), tolerance);
    }
}

#[test]
fn equal_to_transformers() {
    for row in every_row() {
        check(row, json!({}), 1e-5);
    }
}

/// Decoders in pieces of a prompt; half types come near.
#[test]
fn in_chunks_and_in_half_types() {
    for row in ["qwen3", "qwen3-reranker"] {
        check(row, json!({"max_num_batched_tokens": 16, "max_num_seqs": 8}), 1e-5);
    }
    for row in ["bert", "xlm-roberta", "llama"] {
        check(row, json!({"dtype": "float16"}), 1e-2);
    }
}

#[test]
fn ranks_score_as_one_device_does() {
    for row in every_row() {
        check(row, json!({"tensor_parallel_size": 2}), 1e-5);
    }
}

/// A pair is not two texts in a row: BERT's second text has a type of its own.
#[test]
fn types_of_tokens_count() {
    let engine = load_row("bert", json!({})).unwrap();
    let pairs: Vec<Value> = cases("bert").into_iter().filter(|c| c["types"].is_array()).collect();
    assert!(pairs.len() >= 4);
    for case in pairs {
        let untyped = asked(&engine, tokens(&ids(&case)), LOGITS).unwrap();
        let typed = asked(&engine, input(&case), LOGITS).unwrap();
        assert!((untyped[0] - typed[0]).abs() > 1e-3, "{case}: the types change nothing");
    }
}

#[test]
fn what_scores_are_made_by() {
    let ask_row = |row: &str, extra: Value| {
        let engine = load_row(row, extra).unwrap();
        asked(&engine, input(&cases(row)[0]), SCORES).unwrap()
    };
    let of = |row: &str| logits(row, &cases(row)[0]);
    let sigmoid = |x: &f32| 1.0 / (1.0 + (-x).exp());
    let name =
        |name: &str| json!({"hf_overrides": {"sentence_transformers": {"activation_fn": name}}});

    let problem = |kind: &str| json!({"hf_overrides": {"problem_type": kind}});
    let raw = of("roberta");
    let each: Vec<f32> = raw.iter().map(sigmoid).collect();
    near("regression", &ask_row("roberta", problem("regression")), &raw, 1e-4);
    near("labels", &ask_row("roberta", problem("multi_label_classification")), &each, 1e-4);
    let identity = name("torch.nn.modules.linear.Identity");
    near("identity", &ask_row("bert", identity), &of("bert"), 1e-4);
    let off = json!({"pooler_config": {"use_activation": false}});
    near("off", &ask_row("qwen3", off), &of("qwen3"), 1e-4);
    let calibrated = json!({"pooler_config": {"logit_mean": 0.5, "logit_sigma": 2.0}});
    let shifted = (of("qwen2")[0] - 0.5) / 2.0;
    near("calibrated", &ask_row("qwen2", calibrated), &[sigmoid(&shifted)], 1e-4);

    // Both rows of a language model's head, as bge-reranker-v2-gemma takes one.
    let rows = json!({"hf_overrides": {"method": "no_post_processing"},
        "pooler_config": {"use_activation": false}});
    let both = floats(&cases("qwen2-reranker")[0]["logits"]);
    near("rows", &ask_row("qwen2-reranker", rows), &both, 1e-4);

    let dummy = json!({"load_format": "dummy"});
    near("dummy", &ask_row("qwen3", dummy), &[1.0 / 3.0; 3], 1e-6);
    let by_convert = json!({"hf_overrides": {"architectures": ["Qwen3ForCausalLM"]},
        "task": "score"});
    let want = floats(&cases("qwen3-reranker")[0]["scores"]);
    near("convert", &ask_row("qwen3-reranker", by_convert), &want, 1e-4);
}

#[test]
fn what_is_refused() {
    let refused = |row: &str, extra: Value, expected: &str| {
        let error = load_row(row, extra).err().unwrap().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{row}: {error}");
    };
    let over = |value: Value| json!({ "hf_overrides": value });
    refused("qwen3", json!({"runner": "generate"}), "only classifies");
    refused("qwen3", json!({"convert": "embed"}), "does not support convert 'embed'");
    refused(
        "qwen3",
        over(json!({"id2label": null, "num_labels": 2})),
        "tensor 'score.weight' has shape [3, 16], expected [2, 16]",
    );
    let bert = json!({"model": rig::embeddings::folder("bert"), "convert": "classify"});
    refused("bert", bert, "tensor 'classifier.weight' is missing");
    let name = json!({"sbert_ce_default_activation_function": "torch.nn.Mish"});
    refused("bert", over(name), "'torch.nn.Mish' is not supported");
    let tokens_of = over(json!({"classifier_from_token": ["no", "maybe"]}));
    refused("qwen3-reranker", tokens_of, "the tokenizer has no token 'maybe'");

    let engine = load_row("bert", json!({})).unwrap();
    let told =
        |engine: &Engines, input, params| asked(engine, input, params).unwrap_err().to_string();
    let pair = |words: usize| EmbedInput::Pair("animal".into(), "dog ".repeat(words));
    let sized = PoolingParams { dimensions: Some(8), ..SCORES };
    assert!(told(&engine, tokens(&[5]), sized).contains("'dimensions' cuts vectors"));
    assert!(told(&engine, pair(64), SCORES).contains("at least 65 input tokens"));
    assert!(asked(&engine, pair(60), SCORES).is_ok(), "all of max_model_len");
    let other_type = tokens(&[113]);
    assert_eq!(told(&engine, other_type, SCORES), "Token id 113 is out of vocabulary");
    let embedder = load(&rig::embeddings::folder("bert"), json!({})).unwrap();
    assert!(told(&embedder, pair(1), SCORES).contains("this model embeds: it takes one 'input'"));
}
