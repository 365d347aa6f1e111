//! What each sampling parameter does to an answer, from its JSON to the words, one by one: those
//! that the recorded answers do not show. `mixes` has all of them together.

use std::collections::HashSet;

use serde_json::{json, Value};
use triton_vllm::engine::{FinishReason, Output, Position};
use triton_vllm::text::Tokenizer;

use crate::served::{goldens, serve, Served};

const MODEL: &str = "llama-tiny";
const PROMPT: &str = "The most dangerous animal is";

fn with(base: Value, more: Value) -> Value {
    let mut all = base;
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn greedy(more: Value) -> Value {
    with(json!({"temperature": 0, "max_tokens": 12, "ignore_eos": true}), more)
}

fn output(served: &Served, sampling: Value) -> Output {
    served.ask(PROMPT, sampling, false).answer().outputs.remove(0)
}

/// On the CPU they are equal.
fn near(a: f32, b: f32) -> bool {
    (a - b).abs() < 1e-4
}

fn positions(output: &Output) -> &[Position] {
    output.logprobs.as_deref().expect("logprobs")
}

fn ids(output: &Output) -> Vec<u32> {
    positions(output).iter().map(|position| position[0].token.0).collect()
}

#[test]
fn logprobs_of_all_tokens_of_none_and_of_given_ones() {
    let served = serve(MODEL, json!({}));
    let all = output(&served, greedy(json!({"logprobs": -1})));
    for position in positions(&all) {
        assert_eq!(position.len(), 4096);
        let mass: f64 = position.iter().map(|entry| f64::from(entry.logprob).exp()).sum();
        assert!((mass - 1.0).abs() < 1e-4, "{mass}");
        let ranks: HashSet<u32> = position.iter().map(|entry| entry.rank).collect();
        assert!(ranks.len() == 4096 && position[0].rank == 1, "greedy takes the first");
    }
    let own = output(&served, greedy(json!({"logprobs": 0})));
    assert_eq!(ids(&own), ids(&all));
    assert!(positions(&own).iter().all(|position| position.len() == 1));
    let sum: f64 = positions(&own).iter().map(|p| f64::from(p[0].logprob)).sum();
    assert!((sum as f32 - own.cumulative_logprob).abs() < 1e-4);

    // In the order of the request, the position's own token before them, none twice.
    let given = [7, ids(&all)[1], 4095, 7];
    let told = output(&served, greedy(json!({"logprob_token_ids": given})));
    assert_eq!(ids(&told), ids(&all));
    for (position, whole) in positions(&told).iter().zip(positions(&all)) {
        let asked: HashSet<u32> = given.into_iter().chain([whole[0].token.0]).collect();
        assert_eq!(position.iter().map(|e| e.token.0).collect::<HashSet<_>>(), asked);
        for entry in position {
            let same = whole.iter().find(|e| e.token == entry.token).expect("everything");
            assert!(near(entry.logprob, same.logprob) && entry.text == same.text);
        }
    }
    // Reported logprobs are those before anything is done to the logits.
    let bent = output(
        &served,
        greedy(json!({"logprobs": 0, "logit_bias": {"5": 100}, "repetition_penalty": 2.0})),
    );
    let raw = positions(&all)[0].iter().find(|e| e.token.0 == 5).expect("everything");
    assert!(near(positions(&bent)[0][0].logprob, raw.logprob));
}

#[test]
fn allowed_biased_and_bad_tokens() {
    let served = serve(MODEL, json!({}));
    let free = output(&served, greedy(json!({"logprobs": 0})));
    let allowed = [3, 77, 1000, 4000];
    for sampling in [
        greedy(json!({"logprobs": 0, "allowed_token_ids": allowed})),
        with(
            json!({"temperature": 2.0, "seed": 1, "max_tokens": 40, "logprobs": 0}),
            json!({"allowed_token_ids": allowed}),
        ),
    ] {
        assert!(ids(&output(&served, sampling)).iter().all(|id| allowed.contains(id)));
    }
    let forced = output(&served, greedy(json!({"logprobs": 0, "logit_bias": {"77": 100}})));
    assert_eq!(ids(&forced), [77; 12]);
    // What is biased and not allowed stays impossible.
    let both = json!({"logprobs": 0, "allowed_token_ids": allowed, "logit_bias": {"78": 100}});
    assert!(!ids(&output(&served, greedy(both))).contains(&78));
    let first = ids(&free)[0];
    let banned = json!({"logprobs": 0, "logit_bias": {first.to_string(): -100}});
    assert!(!ids(&output(&served, greedy(banned))).contains(&first));

    // A word of two tokens that the output has: its beginning stays, its end cannot follow.
    let folder = format!("{}/models/{MODEL}", goldens());
    let tokenizer = Tokenizer::load(folder.as_ref()).expect("a tokenizer");
    let text = |n: usize| positions(&free)[n][0].text.clone().unwrap_or_default();
    let (place, word) = (0..11)
        .map(|n| (n, text(n) + &text(n + 1)))
        .find(|(n, word)| {
            let words = tokenizer.bad_words(std::slice::from_ref(word)).expect("tokens");
            words
                .iter()
                .any(|word| word.iter().map(|t| t.0).eq(ids(&free)[*n..n + 2].iter().copied()))
        })
        .expect("two tokens that the tokenizer gives for their text");
    let without = output(&served, greedy(json!({"logprobs": 0, "bad_words": [word]})));
    assert_eq!(ids(&without)[..=place], ids(&free)[..=place]);
    assert_ne!(ids(&without)[place + 1], ids(&free)[place + 1]);
    let nothing = output(&served, greedy(json!({"logprobs": 0, "bad_words": [text(0)]})));
    assert!(!ids(&nothing).contains(&first));
}

#[test]
fn ends() {
    let served = serve(MODEL, json!({}));
    let free = output(&served, greedy(json!({"logprobs": 0, "max_tokens": 30})));
    let stop = ids(&free)[4];
    let at = 1 + ids(&free).iter().position(|id| *id == stop).expect("it is there");
    let stopped = output(&served, greedy(json!({"stop_token_ids": [stop], "logprobs": 0})));
    assert_eq!((stopped.tokens as usize, stopped.finish_reason), (at, Some(FinishReason::Stop)));
    assert_eq!(ids(&stopped), ids(&free)[..at], "the stop token counts");
    assert!(free.text.starts_with(&stopped.text) && !stopped.text.is_empty());
    // Until min_tokens the stop ids cannot even be sampled.
    let later =
        output(&served, greedy(json!({"stop_token_ids": [stop], "min_tokens": 10, "logprobs": 0})));
    assert!(later.tokens >= 10 && !ids(&later)[..10].contains(&stop));

    // Three times one token is a repetition; not before min_tokens.
    let rule = json!({"max_pattern_size": 1, "min_pattern_size": 1, "min_count": 3});
    let round = json!({"logit_bias": {"77": 100}, "repetition_detection": rule});
    let repetition = output(&served, greedy(round.clone()));
    assert_eq!((repetition.tokens, repetition.finish_reason), (3, Some(FinishReason::Repetition)));
    let repetition = output(&served, greedy(with(round, json!({"min_tokens": 7}))));
    assert_eq!((repetition.tokens, repetition.finish_reason), (7, Some(FinishReason::Repetition)));

    let endless = output(&served, greedy(json!({"max_tokens": null})));
    let prompt = served.ask(PROMPT, greedy(json!({})), false).answer().prompt_tokens;
    assert_eq!(endless.tokens + prompt, 256, "up to the model's length");
    let silent = output(&served, greedy(json!({"detokenize": false})));
    assert_eq!((silent.text.as_str(), silent.tokens), ("", 12));
}

#[test]
fn a_stream_comes_in_intervals() {
    for (interval, tokens) in [(1, 13), (4, 13), (5, 11), (100, 9)] {
        let served = serve(MODEL, json!({"stream_interval": interval}));
        let sampling = greedy(json!({"max_tokens": tokens}));
        let (_, parts) = served.ask(PROMPT, sampling.clone(), true).in_parts();
        assert_eq!(parts.iter().sum::<u32>(), tokens);
        // The first token at once; a slow reader gets more at a time, never less but at the end.
        assert_eq!(parts[0], 1);
        let middle = &parts[1..parts.len() - 1];
        assert!(middle.iter().all(|n| *n >= interval), "{interval}: {parts:?}");
        assert!(interval != 100 || parts.len() == 2, "{parts:?}");
        assert_eq!(served.ask(PROMPT, sampling, false).in_parts().1, [tokens]);
    }
}

#[test]
fn seeds() {
    let sampled = |more: Value| with(json!({"temperature": 1.0, "max_tokens": 20}), more);
    let texts = |engine: Value| -> Vec<String> {
        let served = serve(MODEL, engine);
        (0..3).map(|_| served.text(PROMPT, sampled(json!({})))).collect()
    };
    let first = texts(json!({"seed": 5}));
    assert_eq!(first, texts(json!({"seed": 5})), "an engine's seed repeats its life");
    assert_ne!(first, texts(json!({"seed": 6})));
    assert!(first[0] != first[1] && first[1] != first[2], "without a seed each is another");
    let served = serve(MODEL, json!({}));
    let with_seed = |seed: i64| served.text(PROMPT, sampled(json!({"seed": seed})));
    assert_eq!(with_seed(7), with_seed(7));
    assert_ne!(with_seed(7), with_seed(8));
    assert_ne!(with_seed(-1), with_seed(-1), "-1 is none");
    // One token at a time says the same: a position's noise knows nothing of the one before.
    let whole = with_seed(7);
    let short = served.text(PROMPT, sampled(json!({"seed": 7, "max_tokens": 5})));
    assert!(whole.starts_with(&short));
}
