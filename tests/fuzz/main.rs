//! Bytes from clients and operators, spoiled at random: whatever stands in `sampling_parameters`
//! or in model.json is answered by values inside their ranges or by one line of error, never by a
//! panic. Mutations start from the recorded requests and from every key that means anything.
//! `files` does the same to every format of checkpoints and tokenizers.
//!
//! `FUZZ_SEED=n` repeats one input, `FUZZ_ROUNDS=n` tries n times as many of them, `FUZZ_FROM=n`
//! begins with another seed than 0 (`ci/soak fuzz`).

mod files;
mod mutate;

use serde_json::{json, Value};
use triton_vllm::engine::EngineArgs;
use triton_vllm::error::Error;
use triton_vllm::ids::TokenId;
use triton_vllm::sampling::{SamplingLimits, SamplingParams};

use mutate::Mutator;

const ROUNDS: u64 = 20_000;
const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/goldens.json");

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, got {text}")))
}

/// The seeds to try where `ci/test` takes `rounds` of them.
fn seeds(rounds: u64) -> std::ops::Range<u64> {
    if let Some(seed) = from_environment("FUZZ_SEED") {
        return seed..seed + 1;
    }
    let from = from_environment("FUZZ_FROM").unwrap_or(0);
    from..from + rounds * from_environment("FUZZ_ROUNDS").unwrap_or(1)
}

/// Says how to repeat an input that fails.
struct Named<'a>(u64, &'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "repeat it: FUZZ_SEED={} cargo test --release --test fuzz\n{}",
                self.0, self.1
            );
        }
    }
}

/// `check` says whether the input was accepted; some must be, and some not.
fn fuzz(corpus: &[String], values: &[Value], check: impl Fn(&str) -> bool) {
    let seeds = seeds(ROUNDS);
    let many = seeds.end - seeds.start > 1000;
    let mut accepted = 0;
    for seed in seeds.clone() {
        let text = Mutator::new(seed, corpus, values).text();
        let _named = Named(seed, &text);
        accepted += u64::from(check(&text));
    }
    println!("{accepted} of {} inputs accepted", seeds.end - seeds.start);
    let share = accepted * 100 / (seeds.end - seeds.start);
    assert!(!many || (5..95).contains(&share), "{share} % accepted: the mutations are one-sided");
}

/// A client sees it and a log keeps it on one line, not much longer than what was sent.
fn check_error(error: &Error, input: &str) {
    let text = error.message();
    assert!(matches!(error, Error::InvalidArgument(_) | Error::Unsupported(_)), "{error:?}");
    assert!(!text.is_empty() && !text.contains(['\n', '\r', '\0']), "{text:?}");
    assert!(text.len() < 1000 + 6 * input.len(), "{} bytes: {text}", text.len());
}

/// Everything that the goldens' requests said, and one of each key.
fn requests() -> Vec<String> {
    let goldens = std::fs::read_to_string(GOLDENS).expect("goldens");
    let goldens: Value = serde_json::from_str(&goldens).expect("JSON");

    let mut all: Vec<String> = Vec::new();
    for case in goldens["cases"].as_array().expect("cases") {
        all.extend(case["params"].as_object().map(|map| json!(map).to_string()));
        all.extend(case["inputs"]["sampling_parameters"].as_str().map(str::to_owned));
    }

    all.push(
        json!({
            "n": 2, "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1,
            "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 7,
            "max_tokens": 20, "min_tokens": 2, "logprobs": 3, "prompt_logprobs": 1,
            "stop": ["a", "b"], "stop_token_ids": [1, 2], "ignore_eos": true, "bad_words": ["x"],
            "include_stop_str_in_output": false, "detokenize": true, "skip_special_tokens": false,
            "spaces_between_special_tokens": true, "logit_bias": {"5": 1.5}, "lora_name": "a",
            "allowed_token_ids": [1, 2, 3], "thinking_token_budget": -1,
            "repetition_detection": {"max_pattern_size": 3, "min_count": 2}, "output_kind": 1,
        })
        .to_string(),
    );
    all.push(
        json!({"logprob_token_ids": [3, 4], "structured_outputs": {"regex": "a+"}}).to_string(),
    );
    all
}

fn check_params(params: &SamplingParams, limits: &SamplingLimits) {
    let vocab = limits.vocab_size;
    let inside = |tokens: &[TokenId]| tokens.iter().all(|token| token.0 < vocab);
    assert!((1..=16_384).contains(&params.n));
    assert!(params.temperature == 0.0 || (0.01..=2.0).contains(&params.temperature));
    assert!(params.top_p > 0.0 && params.top_p <= 1.0 && (0.0..=1.0).contains(&params.min_p));
    assert!((-2.0..=2.0).contains(&params.presence_penalty));
    assert!((-2.0..=2.0).contains(&params.frequency_penalty));
    assert!(params.repetition_penalty > 0.0 && params.repetition_penalty.is_finite());
    assert!(params.max_tokens.is_none_or(|max| max >= 1 && max >= params.min_tokens));
    assert!(params.stop.iter().chain(&params.bad_words).all(|text| !text.is_empty()));
    assert!(params.logit_bias.iter().all(|(t, bias)| t.0 < vocab && bias.abs() <= 100.0));
    assert!(params.allowed_token_ids.as_deref().is_none_or(|t| !t.is_empty() && inside(t)));
    assert!(params.logprob_token_ids.as_deref().is_none_or(|t| t.len() <= 128 && inside(t)));
    assert!(params.logprobs.is_none_or(|count| (-1..=limits.max_logprobs).contains(&count)));
    let rule = params.repetition_detection.as_ref();
    assert!(rule.is_none_or(|r| *r.sizes.start() >= 1 && !r.sizes.is_empty() && r.count >= 2));
    let spec = params.sampler(&[TokenId(2)], 1, Vec::new());
    assert!(spec.top_p > 0.0 && spec.repetition_penalty > 0.0);
    assert!(spec.repetition_penalty.is_finite() && spec.temperature <= 2.0);
}

#[test]
fn sampling_parameters() {
    let limits = SamplingLimits::new(100, 20);
    let odd =
        [json!(99), json!(100), json!([[]]), json!({"99": "0.5"}), json!("{\"min_count\":2}")];
    fuzz(&requests(), &odd, |text| match SamplingParams::parse_text(text, &limits) {
        Ok(params) => {
            check_params(&params, &limits);
            true
        }
        Err(error) => {
            check_error(&error, text);
            false
        }
    });
}

#[test]
fn engine_arguments() {
    let corpus = [
        json!({"model": "m", "dtype": "float32", "max_model_len": 256, "max_num_seqs": 64,
               "enforce_eager": true, "gpu_memory_utilization": 0.5, "device": "cpu"}),
        json!({"model": "m", "tokenizer": "t", "load_format": "dummy", "block_size": 32,
               "kv_cache_memory_bytes": 1_000_000, "num_gpu_blocks_override": 22,
               "max_num_batched_tokens": 2048, "enable_prefix_caching": false, "seed": 3,
               "enable_chunked_prefill": true, "long_prefill_token_threshold": 64,
               "watermark": 0.1, "stream_interval": 2, "hf_overrides": {"a": {"b": 1}},
               "disable_log_stats": true, "max_logprobs": -1, "enable_lora": false}),
        json!({"model": "org/name", "revision": "main", "ignore_patterns": ["*.bin"],
               "tensor_parallel_size": 1, "swap_space": 4, "quantization": null,
               "speculative_config": null, "compilation_config": {"level": 0},
               "max_model_len": -1, "download_dir": "/tmp", "hf_token": true}),
    ];

    let corpus: Vec<String> = corpus.iter().map(Value::to_string).collect();
    fuzz(&corpus, &[json!("1k"), json!("auto"), json!(-1)], |text| match EngineArgs::parse(text) {
        Ok((args, warnings)) => {
            assert!(args.stream_interval >= 1 && args.block_size >= 1);
            assert!(warnings.iter().all(|line| !line.contains('\n')), "{warnings:?}");
            true
        }
        Err(error) => {
            check_error(&error, text);
            false
        }
    });
}
