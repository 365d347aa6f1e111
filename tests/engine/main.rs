//! The whole engine on the CPU, without Triton: greedy texts of the Python backend's recorded
//! models, and that batch mix, chunked prefill, the prefix cache and preemption do not change a
//! word.

#[cfg(feature = "cuda")]
mod devices;
mod draft_models;
mod fields;
mod grammar_drafts;
mod grammars;
mod heads;
mod images;
mod kv_cache;
mod mistral;
mod mixes;
mod nonfinite;
mod ranks;
mod requests;
mod served;
mod several;
mod speculation;
mod state_drafts;
mod states;

use std::sync::atomic::Ordering;

use serde_json::{json, Value};
use triton_vllm::engine::FinishReason;

use served::{goldens, serve, Served, PATIENCE};

/// Prompt and greedy text of every plain record of a model.
fn recorded(model: &str) -> Vec<(String, Value, String)> {
    let text =
        std::fs::read_to_string(format!("{}/goldens_models.json", goldens())).expect("goldens");
    let goldens: Value = serde_json::from_str(&text).expect("JSON");
    let mut records = Vec::new();
    for case in goldens["cases"].as_array().expect("cases") {
        let id = case["id"].as_str().unwrap_or_default();
        if !id.starts_with(&format!("models.{model}.")) || case["transport"] != "generate" {
            continue;
        }
        let Some(text) = case["response"]["json"]["text_output"].as_str() else { continue };
        let prompt = case["inputs"]["text_input"].as_str().expect("a prompt").to_string();
        let mut params = case["params"].clone();
        params.as_object_mut().expect("parameters").remove("logprobs");
        records.push((prompt, params, text.to_string()));
    }
    assert!(records.len() >= 6, "{model}: {} records", records.len());
    records
}

#[test]
fn greedy_texts_equal_the_python_backends() {
    for model in ["gpt2-tiny", "llama-tiny"] {
        let served = serve(model, json!({}));
        let records = recorded(model);
        for (prompt, params, text) in &records {
            assert_eq!(&served.text(prompt, params.clone()), text, "{model}: {prompt:?}");
        }
        assert_eq!(served.counter.finished.load(Ordering::Acquire), records.len());
    }
}

#[test]
fn schedules_do_not_change_words() {
    let plain = serve("llama-tiny", json!({"enable_prefix_caching": false}));
    // Chunks of 16 tokens, pages for about two sequences: prefix hits and preemptions all the way.
    let tight = serve(
        "llama-tiny",
        json!({"max_num_seqs": 16, "max_num_batched_tokens": 16, "num_gpu_blocks_override": 22}),
    );
    schedules(&plain, &tight);
    tight.engine.drain(PATIENCE);
}

/// The same requests, one after the other by `plain` and all at once by `tight`.
fn schedules(plain: &Served, tight: &Served) {
    let sampling = |seed: usize| match seed % 3 {
        0 => json!({"temperature": 0, "max_tokens": 40, "ignore_eos": true}),
        1 => json!({"temperature": 0.9, "seed": seed, "max_tokens": 40, "ignore_eos": true}),
        _ => json!({"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": seed, "max_tokens": 40,
                    "repetition_penalty": 1.2, "ignore_eos": true}),
    };
    let prompt = |i: usize| format!("{} and {i}", "one two three four five six ".repeat(1 + i % 5));
    let expected: Vec<_> = (0..24).map(|i| plain.text(&prompt(i), sampling(i))).collect();
    let told: Vec<_> = (0..24).map(|i| tight.ask(&prompt(i), sampling(i), i % 2 == 0)).collect();
    for (i, told) in told.into_iter().enumerate() {
        let answer = told.answer();
        assert_eq!(answer.outputs[0].text, expected[i], "request {i}");
        assert!(answer.outputs[0].finish_reason.is_some());
    }
    assert_eq!(tight.counter.generated.load(Ordering::Acquire), 24 * 40);
}

#[test]
fn min_tokens_beyond_the_models_length_end_there() {
    let served = serve("llama-tiny", json!({"max_model_len": 32}));
    let sampling = json!({"temperature": 0, "min_tokens": 30, "max_tokens": 40});
    let told = served.ask("The most dangerous animal is", sampling, false);
    let answer = told.answer();
    assert_eq!(answer.outputs[0].finish_reason, Some(FinishReason::Length));
    assert_eq!(answer.prompt_tokens + answer.outputs[0].tokens, 32);
}

/// Sequence i of seed s is the sequence of seed s + i: shared pages of the prompt change no word.
#[test]
fn sequences_of_one_request_are_those_of_neighbouring_seeds() {
    siblings(&|extra| serve("llama-tiny", extra));
}

/// The same of any model.
fn siblings(serve: &dyn Fn(Value) -> Served) {
    let served = serve(json!({}));
    let prompt = "one two three four five six ".repeat(6);
    let sampling = |more: Value| {
        let mut all = json!({"temperature": 0.9, "max_tokens": 30, "ignore_eos": true});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let alone: Vec<_> =
        (0..4).map(|i| served.text(&prompt, sampling(json!({"seed": 40 + i})))).collect();
    for caching in [true, false] {
        let served = serve(json!({"enable_prefix_caching": caching}));
        let told = served.ask(&prompt, sampling(json!({"seed": 40, "n": 4})), false);
        let answer = told.answer();
        let texts: Vec<_> = answer.outputs.iter().map(|output| output.text.clone()).collect();
        assert_eq!(texts, alone, "caching {caching}");
    }
    assert_ne!(alone[0], alone[1]);
}
