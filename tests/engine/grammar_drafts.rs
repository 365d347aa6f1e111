//! Drafts of sequences with a grammar: each draft is judged under the mask of its own position, so
//! that answers are those without drafts, whatever is drafted. See also `speculation`, of whose
//! random requests some have a grammar.

use serde_json::json;
use triton_vllm::engine::Answer;

use crate::grammars;
use crate::requests::{Request, Rng};
use crate::served::Told;
use crate::speculation::{ask, check, served, stats, Quality, Seen};

const REQUESTS: usize = 60;

#[test]
fn grammars_have_drafts_and_the_same_answers() {
    let seen = Seen::default();
    let mut rng = Rng(171);
    let request = |number: usize| {
        let grammars::Asked { sampling, prompt, .. } = grammars::ask(&mut rng, number);
        Request { prompt, sampling }
    };
    let requests: Vec<Request> = (0..REQUESTS).map(request).collect();
    let alone = served(Quality::Spy, &seen, 1, &json!({"enable_prefix_caching": false}));
    let right: Vec<Answer> =
        requests.iter().map(|request| ask(&alone, request, false).answer()).collect();

    let tight = json!({"max_num_seqs": 16, "max_num_batched_tokens": 24,
                       "num_gpu_blocks_override": 22});
    for (quality, count, extra) in [
        (Quality::Perfect, 4, json!({})),
        (Quality::Spoilt, 7, json!({})),
        (Quality::Spoilt, 3, tight),
        (Quality::Random, 3, json!({})),
    ] {
        let served = served(quality, &seen, count, &extra);
        let told: Vec<Told> =
            requests.iter().map(|request| ask(&served, request, count > 3)).collect();
        for ((request, told), right) in requests.iter().zip(told).zip(&right) {
            check(&format!("{quality:?}"), request, right, &told.answer());
        }

        let told = stats(&served);
        println!("{quality:?}: {told:?}");
        assert!(told.drafts > 50, "{quality:?}: {told:?}");
        if quality == Quality::Perfect {
            assert!(told.accepted_tokens * 10 > told.draft_tokens * 9, "{told:?}");
        }
    }
}

/// What ends a text may be drafted too, and what the grammar forbids, and what comes behind both.
#[test]
fn what_a_grammar_forbids_is_never_accepted() {
    let seen = Seen::default();
    let alone = served(Quality::Spy, &seen, 1, &json!({}));
    for (seed, more) in [
        (1, json!({"max_tokens": 30})),
        (2, json!({"max_tokens": 30, "ignore_eos": true})),
        (3, json!({"max_tokens": 30, "min_tokens": 9})),
        (4, json!({"max_tokens": 30, "stop": ["e"]})),
        (5, json!({"max_tokens": 3})),
    ] {
        let mut sampling = json!({"temperature": 1.0, "seed": seed, "logprobs": 2,
            "structured_outputs": {"choice": ["one two three", "one two four", "six"]}});
        sampling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = Request { prompt: "one two three four five six ".repeat(3), sampling };
        let right = ask(&alone, &request, false).answer();
        for quality in [Quality::Perfect, Quality::Spoilt, Quality::Random] {
            for count in [1, 2, 5, 20] {
                let served = served(quality, &seen, count, &json!({}));
                check("a choice", &request, &right, &ask(&served, &request, true).answer());
            }
        }
    }
}
