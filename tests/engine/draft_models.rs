//! A model that drafts, through the whole engine: whatever it is, answers are those without it, and
//! one that is the target itself is nearly always right, behind prefix hits, preemptions and wrong
//! guesses too.

use serde_json::{json, Value};
use triton_vllm::engine::Answer;

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
