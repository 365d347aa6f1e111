//! What a request gets does not depend on what else the engine does: random parameter sets, each
//! alone and then in crowds that are batched, chunked, preempted, served from the prefix cache and
//! streamed differently. On the CPU not a bit may change; on a GPU, where a batch's size decides
//! the order of sums, a sampled token may flip where two are as good as equal.
//!
//! `MIXES_SEED=n` repeats one round, `MIXES_ROUNDS=n` runs more of them.

use serde_json::{json, Map, Value};
use triton_vllm::engine::{Answer, Output};

use crate::served::{device, serve, Served};

const ROUNDS: u64 = 6;
const REQUESTS: usize = 16;
const MODEL: &str = "llama-tiny";
/// Of a hundred sequences so many may differ on a GPU.
const GPU_FLIPS_PERCENT: usize = 3;

/// splitmix64
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// From `low` to `high`, in hundredths.
    fn number(&mut self, low: f64, high: f64) -> f64 {
        let steps = ((high - low) * 100.0).round() as usize;
        (low * 100.0 + self.below(steps + 1) as f64).round() / 100.0
    }
}

struct Request {
    prompt: String,
    sampling: Value,
}

/// One of several heads and an end of its own: prefixes are shared by pages and by parts of them.
fn prompt(rng: &mut Rng) -> String {
    let words = ["one", "two", "three", "four", "def", "main", "(", "the", "cat", "é", "🦀"];
    let head = rng.below(3);
    let mut text = ["", "What is the answer? ", "Once upon a time there was "][head].to_owned();
    if rng.percent(50) {
        text.push_str(&"one two three four five six ".repeat(1 + rng.below(6)));
    }
    for _ in 0..1 + rng.below(12) {
        text.push_str(rng.pick(&words));
        text.push(' ');
    }
    text
}

fn sampling(rng: &mut Rng) -> Value {
    let mut all = Map::new();
    let max_tokens = 1 + rng.below(40);
    all.insert("max_tokens".into(), max_tokens.into());
    let greedy = rng.percent(30);
    let temperature = if greedy { 0.0 } else { rng.pick(&[0.3, 0.7, 1.0, 1.0, 1.6]) };
    all.insert("temperature".into(), temperature.into());
    if !greedy {
        all.insert("seed".into(), rng.below(1 << 40).into());
        if rng.percent(25) {
            all.insert("n".into(), (2 + rng.below(3)).into());
        }
    }
    let mut maybe = |chance: usize, key: &str, value: &dyn Fn(&mut Rng) -> Value| {
        if rng.percent(chance) {
            all.insert(key.into(), value(rng));
        }
    };
    let token = |rng: &mut Rng| rng.below(4096);
    maybe(30, "top_k", &|r| r.pick(&[1, 2, 10, 100, 4095, 5000]).into());
    maybe(30, "top_p", &|r| r.number(0.01, 1.0).into());
    maybe(20, "min_p", &|r| r.number(0.0, 0.3).into());
    maybe(25, "repetition_penalty", &|r| r.number(0.5, 2.0).into());
    maybe(25, "frequency_penalty", &|r| r.number(-2.0, 2.0).into());
    maybe(25, "presence_penalty", &|r| r.number(-2.0, 2.0).into());
    maybe(20, "min_tokens", &|r| r.below(max_tokens + 1).into());
    maybe(50, "ignore_eos", &|_| true.into());
    maybe(20, "stop", &|r| r.pick(&[json!(["e"]), json!(["th", "ing"]), json!(["\n", " "])]));
    maybe(20, "include_stop_str_in_output", &|_| true.into());
    maybe(20, "stop_token_ids", &|r| (0..40).map(|_| token(r)).collect());
    maybe(10, "skip_special_tokens", &|_| false.into());
    maybe(30, "logprobs", &|r| r.pick(&[0, 1, 5, 20]).into());
    maybe(
        10,
        "repetition_detection",
        &|r| json!({"max_pattern_size": 1 + r.below(4), "min_count": 2 + r.below(2)}),
    );
    Value::Object(all)
}

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
fn same(a: &Output, b: &Output, exact: bool) -> bool {
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

#[test]
fn company_changes_nothing() {
    let seeds = match from_environment("MIXES_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("MIXES_ROUNDS").unwrap_or(ROUNDS),
    };
    let servers = servers();
    let ((_, alone), crowded) = servers.split_first().expect("several");
    for seed in seeds {
        println!("MIXES_SEED={seed}");
        let mut rng = Rng(seed.wrapping_mul(0x1000_0001));
        let make = |rng: &mut Rng| Request { prompt: prompt(rng), sampling: sampling(rng) };
        let requests: Vec<Request> = (0..REQUESTS).map(|_| make(&mut rng)).collect();
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
