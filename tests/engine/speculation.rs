//! Drafts never change an answer: random requests, some with grammars, alone without drafts and
//! then with drafts of any quality, in crowds that are batched, chunked, preempted and served from
//! the prefix cache. On the CPU not a bit may change: tokens, logprobs, reasons and counts.
//!
//! Who drafts is made up here: a run without drafts tells a [`Spy`] which tokens follow which, and
//! the proposers of later runs say the truth, spoil it, or guess. `DRAFTS_SEED=n` repeats a round,
//! `DRAFTS_ROUNDS=n` runs more of them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{json, Value};
use triton_vllm::engine::{Answer, EngineOptions, FinishReason};
use triton_vllm::ids::TokenId;
use triton_vllm::scheduler::{DraftStats, Proposer};

use crate::mixes::same;
use crate::requests::{requests, Request, Rng, MODEL, VOCAB};
use crate::served::{device, options, serve, serve_with, Served, Told};

/// Requests of a round. With those of all rounds, a thousand.
const REQUESTS: usize = 42;
const ROUNDS: u64 = 28;

/// Every sequence of tokens that the engine asked drafts for, and thereby what follows what.
pub type Seen = Arc<Mutex<BTreeSet<Vec<TokenId>>>>;

/// What a proposer makes of the truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quality {
    /// Nothing: it only listens.
    Spy,
    /// What follows, as far as it is known.
    Perfect,
    /// What follows, with a wrong token here and there, and sometimes nothing.
    Spoilt,
    /// Anything.
    Random,
}

#[derive(Debug)]
struct Drafter {
    quality: Quality,
    seen: Seen,
    state: u64,
}

impl Drafter {
    fn below(&mut self, bound: usize) -> usize {
        let mut rng = Rng(self.state);
        let drawn = rng.below(bound);
        self.state = rng.0;
        drawn
    }

    /// The longest known sequence that begins so: what follows.
    fn truth(&self, tokens: &[TokenId]) -> Vec<TokenId> {
        let seen = self.seen.lock();
        let from = seen.range(tokens.to_vec()..);
        let longest = from.take_while(|known| known.starts_with(tokens)).max_by_key(|k| k.len());
        longest.map_or_else(Vec::new, |known| known[tokens.len()..].to_vec())
    }
}

impl Proposer for Drafter {
    fn propose(&mut self, tokens: &[TokenId], most: usize, drafts: &mut Vec<TokenId>) {
        match self.quality {
            Quality::Spy => drop(self.seen.lock().insert(tokens.to_vec())),
            Quality::Perfect => drafts.extend(self.truth(tokens).into_iter().take(most)),
            Quality::Spoilt => {
                let count = self.below(most + 1);
                for token in self.truth(tokens).into_iter().take(count) {
                    let wrong = self.below(4) == 0;
                    let other = TokenId(self.below(VOCAB) as u32);
                    drafts.push(if wrong { other } else { token });
                }
            }
            Quality::Random => {
                let count = 1 + self.below(most);
                for _ in 0..count {
                    drafts.push(TokenId(self.below(VOCAB) as u32));
                }
            }
        }
    }
}

pub fn drafting(quality: Quality, seen: &Seen) -> EngineOptions {
    let seen = seen.clone();
    let proposer = move || -> Box<dyn Proposer> {
        Box::new(Drafter { quality, seen: seen.clone(), state: 7 })
    };
    EngineOptions { proposer: Some(Arc::new(proposer)), ..options(MODEL) }
}

fn drafts(count: usize) -> Value {
    json!({"method": "ngram", "num_speculative_tokens": count, "prompt_lookup_min": 1,
           "prompt_lookup_max": 3})
}

/// An engine of which each sequence asks this proposer.
pub fn served(quality: Quality, seen: &Seen, count: usize, extra: &Value) -> Served {
    let mut args = json!({"speculative_config": drafts(count)});
    args.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    serve_with(MODEL, &args, drafting(quality, seen))
}

/// These parameters, and more.
pub fn with(sampling: &Value, more: Value) -> Value {
    let mut all = sampling.clone();
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

pub fn ask(served: &Served, request: &Request, stream: bool) -> Told {
    served.ask(&request.prompt, request.sampling.clone(), stream)
}

pub fn stats(served: &Served) -> DraftStats {
    served.counter.drafts.lock().clone()
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn a_thousand_requests_are_answered_as_without_drafts() {
    let seen = Seen::default();
    let alone = served(Quality::Spy, &seen, 1, &json!({"enable_prefix_caching": false}));
    let tight = json!({"max_num_seqs": 16, "max_num_batched_tokens": 24,
                       "num_gpu_blocks_override": 22});
    let whole = json!({"max_num_seqs": 3, "block_size": 32, "enable_chunked_prefill": false});
    let ways = [
        ("perfect drafts", served(Quality::Perfect, &seen, 4, &json!({}))),
        ("spoilt drafts", served(Quality::Spoilt, &seen, 5, &json!({"stream_interval": 3}))),
        ("spoilt drafts, pages for two", served(Quality::Spoilt, &seen, 3, &tight)),
        ("spoilt drafts, whole prompts", served(Quality::Spoilt, &seen, 20, &whole)),
        ("random drafts", served(Quality::Random, &seen, 3, &json!({}))),
        ("n-grams", serve(MODEL, json!({"speculative_config": drafts(4)}))),
        ("suffixes", serve(MODEL, json!({"speculative_config": {"method": "suffix"}}))),
    ];

    let rounds = from_environment("DRAFTS_ROUNDS").unwrap_or(ROUNDS);
    let seeds = from_environment("DRAFTS_SEED").map_or(0..rounds, |seed| seed..seed + 1);
    for seed in seeds {
        println!("DRAFTS_SEED={seed}");
        seen.lock().clear();
        let (mut rng, requests) = requests(1000 + seed, REQUESTS);
        let expected: Vec<Answer> =
            requests.iter().map(|request| ask(&alone, request, false).answer()).collect();

        let (what, served) = &ways[seed as usize % ways.len()];
        let told: Vec<_> =
            requests.iter().map(|request| ask(served, request, rng.percent(50))).collect();
        for (request, (told, right)) in requests.iter().zip(told.into_iter().zip(&expected)) {
            check(what, request, right, &told.answer());
        }
    }

    // Nothing above was for want of drafts.
    for (what, served) in &ways {
        let DraftStats { drafts, draft_tokens, accepted_tokens, .. } = stats(served);
        println!("{what}: {drafts} drafts of {draft_tokens} tokens, {accepted_tokens} accepted");
        if from_environment("DRAFTS_SEED").is_none() {
            assert!(drafts > 100 && draft_tokens >= drafts, "{what}");
            assert!(*what == "random drafts" || accepted_tokens > 50, "{what}");
        }
    }
}

pub fn check(what: &str, request: &Request, right: &Answer, got: &Answer) {
    let Request { prompt, sampling } = request;
    assert_eq!(right.prompt_tokens, got.prompt_tokens);
    assert_eq!(right.outputs.len(), got.outputs.len());
    for (right, got) in right.outputs.iter().zip(&got.outputs) {
        assert!(
            same(right, got, device() == "cpu"),
            "{what}: {prompt:?} {sampling}\n  without {right:?}\n  with {got:?}"
        );
    }
}

/// One request by both, and what the drafts came to.
fn compare(sampling: Value, count: usize, extra: &Value) -> (Answer, DraftStats) {
    let seen = Seen::default();
    let plain = served(Quality::Spy, &seen, 1, extra);
    let prompt = "one two three four five six ".repeat(4);
    let request = Request { prompt, sampling };
    let right = ask(&plain, &request, false).answer();
    assert_eq!(stats(&plain), DraftStats::default());
    let perfect = served(Quality::Perfect, &seen, count, extra);
    let got = ask(&perfect, &request, false).answer();
    check("perfect drafts", &request, &right, &got);
    let told = stats(&perfect);
    (right, told)
}

/// The first output comes with the prompt, then each step gives its drafts and one token more.
#[test]
fn perfect_drafts_give_all_tokens_of_a_step() {
    for (count, outputs) in [(1, 21), (3, 41), (4, 31)] {
        let sampling = |outputs: usize| {
            let seeded = json!({"temperature": 0.8, "seed": 5, "ignore_eos": true});
            with(&seeded, json!({ "max_tokens": outputs }))
        };
        let seen = Seen::default();
        let prompt = "one two three four five six ".repeat(4);
        let spy = served(Quality::Spy, &seen, 1, &json!({}));
        spy.text(&prompt, sampling(outputs + 9));
        let right = spy.text(&prompt, sampling(outputs));
        let perfect = served(Quality::Perfect, &seen, count, &json!({}));
        assert_eq!(perfect.text(&prompt, sampling(outputs)), right);

        let told = stats(&perfect);
        if device() != "cpu" {
            // Steps may be under way before the first outputs are known: some have no drafts.
            assert!(told.drafts > 0 && told.accepted_tokens == told.draft_tokens);
            continue;
        }
        let steps = (outputs - 1) / (count + 1);
        assert_eq!((told.drafts as usize, told.draft_tokens as usize), (steps, steps * count));
        assert_eq!(told.accepted_tokens, told.draft_tokens);
        assert_eq!(told.accepted_by_place, vec![steps as u64; count]);
    }
}

#[test]
fn what_ends_within_a_draft_ends_as_without() {
    let free = json!({"temperature": 0.8, "seed": 11, "max_tokens": 40, "ignore_eos": true,
                      "logprobs": 2});
    let with = |more: Value| with(&free, more);
    let (all, _) = compare(free.clone(), 6, &json!({}));
    let positions = all.outputs[0].logprobs.as_ref().expect("logprobs");
    let tokens: Vec<u32> = positions.iter().map(|position| position[0].token.0).collect();

    // At each place of a draft: a stop id, min_tokens in front of one, a limit.
    for at in 3..12 {
        let stop = json!({"stop_token_ids": [tokens[at]]});
        let (answer, _) = compare(with(stop), 6, &json!({}));
        let first = tokens.iter().position(|token| *token == tokens[at]).unwrap();
        assert_eq!(answer.outputs[0].tokens as usize, first + 1);
        assert_eq!(answer.outputs[0].finish_reason, Some(FinishReason::Stop));
        let late = json!({"stop_token_ids": [tokens[at]], "min_tokens": at + 2});
        let (answer, _) = compare(with(late), 6, &json!({}));
        assert!(answer.outputs[0].tokens as usize >= at + 2);
        let (answer, _) = compare(with(json!({"max_tokens": at})), 6, &json!({}));
        assert_eq!(answer.outputs[0].tokens as usize, at);
        assert_eq!(answer.outputs[0].finish_reason, Some(FinishReason::Length));
    }

    // Texts that stop within a token and across several.
    let text = &all.outputs[0].text;
    let letters: Vec<char> = text.chars().collect();
    for at in (8..letters.len().min(40)).step_by(5) {
        for length in [1, 3, 8] {
            let stop: String = letters[at..letters.len().min(at + length)].iter().collect();
            for keep in [false, true] {
                let sampling = json!({"stop": [stop], "include_stop_str_in_output": keep});
                compare(with(sampling), 6, &json!({}));
            }
        }
    }

    // The model's length, and no room for a draft at all.
    let short = json!({"max_model_len": all.prompt_tokens + 25});
    let (answer, _) = compare(with(json!({"max_tokens": 200})), 6, &short);
    assert_eq!(answer.outputs[0].tokens, 25);
    let (answer, told) = compare(with(json!({"max_tokens": 1})), 6, &json!({}));
    assert_eq!((answer.outputs[0].tokens, told.drafts), (1, 0));
    let rule = json!({"max_pattern_size": 3, "min_count": 2});
    compare(with(json!({"repetition_detection": rule, "temperature": 0})), 6, &json!({}));
}

/// What was sampled before decides what may come: within a draft as between steps.
#[test]
fn histories_go_along_within_a_draft() {
    for sampling in [
        json!({"repetition_penalty": 1.8, "frequency_penalty": 0.7, "presence_penalty": -0.4}),
        json!({"bad_words": ["one two", "the", " six one"], "min_p": 0.05}),
        json!({"logit_bias": {"300": 4.0, "301": 3.5}, "frequency_penalty": 2.0}),
        json!({"allowed_token_ids": [300, 301, 302, 303, 304, 305, 306], "presence_penalty": 1.5}),
        json!({"min_tokens": 17, "stop_token_ids": (300..1500).collect::<Vec<u32>>()}),
    ] {
        for temperature in [0.0, 1.0] {
            let mut all = json!({"temperature": temperature, "seed": 3, "max_tokens": 41,
                                 "logprobs": 5});
            all.as_object_mut().unwrap().extend(sampling.as_object().unwrap().clone());
            compare(all, 4, &json!({}));
        }
    }
}

/// Pages with drafts in them are found again only as far as the drafts were accepted.
#[test]
fn prefixes_are_hit_behind_drafts() {
    let seen = Seen::default();
    let sampling = json!({"temperature": 0.9, "seed": 2, "max_tokens": 50, "ignore_eos": true});
    let prompt = "one two three four five six ".repeat(4);
    let plain = served(Quality::Spy, &seen, 1, &json!({"enable_prefix_caching": false}));
    let text = plain.text(&prompt, sampling.clone());
    let next = Request { prompt: format!("{prompt}{text}"), sampling: sampling.clone() };
    let right = ask(&plain, &next, false).answer();

    for quality in [Quality::Spoilt, Quality::Random, Quality::Perfect] {
        let served = served(quality, &seen, 5, &json!({}));
        assert_eq!(served.text(&prompt, sampling.clone()), text, "{quality:?}");
        let before = served.counter.prefix_hits.load(Ordering::Acquire);
        let got = ask(&served, &next, false).answer();
        check("a prompt that was an output", &next, &right, &got);
        let hits = served.counter.prefix_hits.load(Ordering::Acquire) - before;
        assert!(hits >= 32, "{hits} tokens were found");
    }
}

#[test]
fn ranks_have_drafts() {
    let sampling = json!({"temperature": 0.9, "seed": 21, "max_tokens": 41, "ignore_eos": true});
    let (_, told) = compare(sampling, 3, &json!({"tensor_parallel_size": 2}));
    assert!(told.drafts >= 9 && told.accepted_tokens == told.draft_tokens, "{told:?}");
}

/// Who leaves in the middle of a draft takes nobody along.
#[test]
fn cancels_leave_the_others_as_they_were() {
    let seen = Seen::default();
    let sampling =
        |seed: u32| json!({"temperature": 0.9, "seed": seed, "max_tokens": 60, "ignore_eos": true});
    let plain = served(Quality::Spy, &seen, 1, &json!({}));
    let prompt = "one two three four five six ".repeat(2);
    let right: Vec<String> = (0..6).map(|seed| plain.text(&prompt, sampling(seed))).collect();
    let served = served(Quality::Spoilt, &seen, 4, &json!({}));
    for _ in 0..10 {
        let gone = Arc::new(AtomicBool::new(false));
        let left = served.ask_until(&prompt, sampling(99), gone.clone());
        let told: Vec<_> = (0..6).map(|seed| served.ask(&prompt, sampling(seed), false)).collect();
        gone.store(true, Ordering::Release);
        for (told, right) in told.into_iter().zip(&right) {
            assert_eq!(&told.answer().outputs[0].text, right);
        }
        drop(left.outcome());
    }
}

#[test]
fn many_sequences_switch_drafts_off() {
    let seen = Seen::default();
    let free = json!({"temperature": 0.8, "max_tokens": 30, "ignore_eos": true});
    let sampling = |seed: usize| with(&free, json!({ "seed": seed }));
    let config = json!({"speculative_config": {
        "method": "ngram", "num_speculative_tokens": 4,
        "num_speculative_tokens_per_batch_size": [[1, 1, 4], [2, 64, 0]],
    }});
    let plain = served(Quality::Spy, &seen, 1, &json!({}));
    let prompt = "one two three four five six ".repeat(3);
    let right = plain.text(&prompt, sampling(1));
    let served = serve_with(MODEL, &config, drafting(Quality::Perfect, &seen));
    assert_eq!(served.text(&prompt, sampling(1)), right);
    let alone = stats(&served).drafts;
    assert!(alone >= 5, "{alone}");
    let told: Vec<_> = (0..8).map(|seed| served.ask(&prompt, sampling(seed), false)).collect();
    assert_eq!(told.into_iter().nth(1).unwrap().answer().outputs[0].text, right);
    assert!(stats(&served).drafts < alone + 12, "they run together nearly all the time");
}
