//! A model that drafts, through the whole engine: whatever it is, answers are those without it, and
//! one that is the target itself is nearly always right, behind prefix hits, preemptions and wrong
//! guesses too.

use serde_json::{json, Value};
use triton_vllm::engine::{Answer, EngineOptions};

use crate::requests::{requests, Request, MODEL};
use crate::served::{device, goldens, options, refusal, serve, serve_with, Served, Told};
use crate::speculation::{ask, check, stats, with};

const REQUESTS: usize = 60;

fn drafting(model: &str, drafts: usize, more: &Value) -> Served {
    let mut config = json!({"method": "draft_model", "num_speculative_tokens": drafts,
                            "model": format!("{}/models/{model}", goldens())});
    let mut args = json!({});
    for (key, value) in more.as_object().expect("an object") {
        let place = if key.starts_with("draft_") { &mut config } else { &mut args };
        place[key] = value.clone();
    }
    args["speculative_config"] = config;
    serve_with(MODEL, &args, options(MODEL))
}

#[test]
fn answers_are_those_without_a_draft_model() {
    let (_, requests) = requests(77, REQUESTS);
    let plain = |more: Value| -> Vec<Answer> {
        let alone = serve(MODEL, more);
        requests.iter().map(|request| ask(&alone, request, false).answer()).collect()
    };
    let right = plain(json!({"enable_prefix_caching": false}));
    // Sums over ranks have an order of their own.
    let ranks = json!({"tensor_parallel_size": 2, "device": "cpu"});
    let right_of_ranks = plain(ranks.clone());
    let tight = json!({"max_num_seqs": 16, "max_num_batched_tokens": 24,
                       "num_gpu_blocks_override": 22});
    for (model, drafts, more) in [
        (MODEL, 4, json!({})),
        (MODEL, 3, tight),
        (MODEL, 2, ranks.clone()),
        ("qwen2-tiny", 3, json!({"draft_sample_method": "greedy"})),
        ("opt-tiny", 5, json!({"enable_prefix_caching": false})),
    ] {
        let served = drafting(model, drafts, &more);
        let told: Vec<Told> = requests.iter().map(|request| ask(&served, request, true)).collect();
        let right = if more == ranks { &right_of_ranks } else { &right };
        for ((request, told), right) in requests.iter().zip(told).zip(right) {
            check(model, request, right, &told.answer());
        }
        let told = stats(&served);
        println!("{model} {more}: {told:?}");
        assert!(told.drafts > 50, "{model}: {told:?}");
    }
}

/// The model itself, with the same random numbers: what it drafts comes.
#[test]
fn the_model_itself_drafts_what_comes() {
    for (temperature, more) in [
        (0.0, json!({})),
        (0.9, json!({})),
        (0.9, json!({"max_num_seqs": 4, "num_gpu_blocks_override": 24})),
        (0.0, json!({"tensor_parallel_size": 2, "device": "cpu", "draft_sample_method": "greedy"})),
    ] {
        let served = drafting(MODEL, 3, &more);
        let free = json!({"temperature": temperature, "max_tokens": 41, "ignore_eos": true});
        let sampling = |seed: usize| with(&free, json!({ "seed": seed }));
        let request = |number: usize| Request {
            prompt: format!("{} {number}", "one two three four five six ".repeat(1 + number % 4)),
            sampling: sampling(number),
        };
        let told: Vec<Told> =
            (0..12).map(|number| ask(&served, &request(number % 9), false)).collect();
        for told in told {
            assert_eq!(told.answer().outputs[0].tokens, 41);
        }
        let told = stats(&served);
        println!("{temperature} {more}: {told:?}");
        if device() == "cpu" {
            assert_eq!(told.accepted_tokens, told.draft_tokens, "{told:?}");
            assert!(told.drafts >= 12 * 9, "{told:?}");
        } else {
            // A step of several tokens may round otherwise, and some steps have no drafts.
            assert!(told.accepted_tokens * 100 > told.draft_tokens * 95, "{told:?}");
        }
    }
}

/// What was trained beside the sample model (training/train_drafts.py), a small model and an
/// EAGLE-3 head: real guesses, of which some are right. Named as in model.json, by a folder beside
/// it.
#[test]
fn the_sample_model_has_drafts_of_its_own() {
    let folder = format!("{}/../../model_repository/vllm_model/1", goldens());
    let serve = |more: &Value| {
        let args = with(&json!({"model": "abacus"}), more.clone());
        let version_dir = folder.clone().into();
        serve_with("abacus", &args, EngineOptions { version_dir, ..options("abacus") })
    };
    let plain = serve(&json!({}));
    let asked = [
        ("Once upon a time", 0.0),
        ("Tell me a story about a fox.", 0.0),
        ("Once upon a time", 0.7),
        ("What is 128 + 256? Answer:", 0.0),
        ("What is 402 - 77?", 0.0),
        ("Sort: 9 4 7 1 ->", 0.0),
        ("What month is two months before March?", 0.0),
        ("Count from 85 to 99:", 0.0),
    ];
    let sampling = |temperature| json!({"temperature": temperature, "seed": 11, "max_tokens": 150});
    let texts = asked.map(|(prompt, temperature)| plain.text(prompt, sampling(temperature)));
    assert_eq!(plain.text("What is 128 + 256? Answer:", json!({"temperature": 0})), " 384.");

    for (method, model) in [("draft_model", "abacus_draft"), ("eagle3", "abacus_eagle3")] {
        let drafting = serve(&json!({"speculative_config":
            {"method": method, "model": model, "num_speculative_tokens": 3}}));
        for ((prompt, temperature), text) in asked.iter().zip(&texts) {
            assert_eq!(&drafting.text(prompt, sampling(*temperature)), text, "{method}: {prompt}");
        }

        let told = stats(&drafting);
        let mean = 1.0 + told.accepted_tokens as f64 / told.drafts as f64;
        println!("{method}: {mean:.2} tokens a step with drafts, {told:?}");
        // A GPU goes without drafts for some steps, to compare.
        assert!(told.drafts > 20 && mean > 1.5, "{method}: {mean:.2}: {told:?}");
    }
}

#[test]
fn what_cannot_draft_is_refused() {
    let with = |config: Value| refusal(MODEL, &json!({ "speculative_config": config }));
    let said = with(json!({"method": "draft_model", "num_speculative_tokens": 2,
                           "model": format!("{}/fixtures/models/llama", tests())}));
    assert!(said.contains("Target model vocab_size=4096. Draft model vocab_size="), "{said}");
    let said = with(json!({"model": "/nowhere/at/all", "num_speculative_tokens": 2}));
    assert!(said.contains("speculative_config.model") && said.contains("/nowhere"), "{said}");
}

fn tests() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests")
}
