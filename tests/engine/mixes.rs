//! What a request gets does not depend on what else the engine does: random parameter sets, each
//! alone and then in crowds that are batched, chunked, preempted, served from the prefix cache and
//! streamed differently. On the CPU not a bit may change; on a GPU, where a batch's size decides
//! the order of sums, a sampled token may flip where two are as good as equal.
//!
//! `MIXES_SEED=n` repeats one round, `MIXES_ROUNDS=n` runs more of them.

use serde_json::{json, Value};
use triton_vllm::engine::{Answer, Output};

use crate::requests::{requests, Request, MODEL};
use crate::served::{device, serve, Served};

const ROUNDS: u64 = 6;
pub const REQUESTS: usize = 16;
/// Of a hundred sequences so many may differ on a GPU.
const GPU_FLIPS_PERCENT: usize = 3;

/// Ways to serve; the first is the plain one, in which each request is alone.
fn servers() -> Vec<(&'static str, Served)> {
    let with = |extra: Value| serve(MODEL, extra);
    vec![
        ("alone", with(json!({"enable_prefix_caching": false}))),
        ("in one large batch", with(json!({"enable_prefix_caching": false}))),
        ("with the prefix cache", with(json!({"stream_interval": 3}))),
        (
            "in chunks, with pages for two",
            with(json!({"max_num_seqs": 16, "max_num_batched_tokens": 16,
                        "num_gpu_blocks_override": 22})),
        ),
        (
            "in small pages, three at a time, whole prompts",
            with(json!({"max_num_seqs": 3, "block_size": 32, "enable_chunked_prefill": false})),
        ),
    ]
}

/// Equal, and on the CPU to the last bit of the logprobs.
pub fn same(a: &Output, b: &Output, exact: bool) -> bool {
    let entries = |o: &Output| o.logprobs.iter().flatten().map(Vec::len).collect::<Vec<_>>();
    let bits = |o: &Output| (o.cumulative_logprob.to_bits(), o.logprobs.clone());
    a.text == b.text
        && (a.tokens, a.finish_reason) == (b.tokens, b.finish_reason)
        && entries(a) == entries(b)
        && (!exact || bits(a) == bits(b))
}

fn check(what: &str, seed: u64, requests: &[Request], expected: &[Answer], told: &[Answer]) {
    let exact = device() == "cpu";
    let (mut all, mut differ) = (0, 0);
    for ((request, right), answer) in requests.iter().zip(expected).zip(told) {
        assert_eq!(right.prompt_tokens, answer.prompt_tokens);
        assert_eq!(right.outputs.len(), answer.outputs.len());
        for (index, (right, got)) in right.outputs.iter().zip(&answer.outputs).enumerate() {
            all += 1;
            if !same(right, got, exact) {
                differ += 1;
                let Request { prompt, sampling } = request;
                let text = format!(
                    "{what}: MIXES_SEED={seed}: sequence {index} of {prompt:?} {sampling}\n  \
                     alone {right:?}\n  {what} {got:?}"
                );
                assert!(!exact, "{text}");
                println!("{text}");
            }
        }
    }
    assert!(differ * 100 <= all * GPU_FLIPS_PERCENT, "{what}: {differ} of {all} sequences differ");
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, got {text}")))
}

pub fn seeds() -> std::ops::Range<u64> {
    match from_environment("MIXES_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("MIXES_ROUNDS").unwrap_or(ROUNDS),
    }
}

#[test]
fn company_changes_nothing() {
    let seeds = seeds();
    let servers = servers();
    let ((_, alone), crowded) = servers.split_first().expect("several");
    for seed in seeds {
        println!("MIXES_SEED={seed}");
        let (mut rng, requests) = requests(seed, REQUESTS);
        let ask = |served: &Served, request: &Request, stream: bool| {
            served.ask(&request.prompt, request.sampling.clone(), stream)
        };
        let expected: Vec<Answer> =
            requests.iter().map(|request| ask(alone, request, false).answer()).collect();
        for (what, served) in crowded {
            let told: Vec<_> =
                requests.iter().map(|request| ask(served, request, rng.percent(50))).collect();
            let told: Vec<Answer> = told.into_iter().map(|told| told.answer()).collect();
            check(what, seed, &requests, &expected, &told);
        }
    }
}
