//! Every rule with its exact text, and the order of the rules.

use super::*;
use crate::sampling::{choose, History, Seen};
use serde_json::json;

fn limits() -> SamplingLimits {
    SamplingLimits::new(4096, 20)
}

fn parse(value: Value) -> Result<SamplingParams> {
    SamplingParams::parse(value.as_object().unwrap(), &limits())
}

#[track_caller]
fn fails(value: Value, text: &str) {
    assert_eq!(parse(value), Err(Error::InvalidArgument(text.to_string())));
}

#[test]
fn ranges_of_numbers() {
    fails(json!({"n": 0}), "n must be at least 1, got 0.");
    fails(
        json!({"n": 16385}),
        "n must be at most 16384, got 16385. To increase this limit, set the \
         VLLM_MAX_N_SEQUENCES environment variable.",
    );
    let few = limits().with_max_sequences(Some("2")).unwrap();
    let n = |n: u32| SamplingParams::parse(json!({"n": n}).as_object().unwrap(), &few);
    assert_eq!(n(2).unwrap().n, 2);
    assert!(n(3).unwrap_err().to_string().starts_with("n must be at most 2, got 3."));
    for wrong in ["", "0", "-1", "many"] {
        assert!(limits().with_max_sequences(Some(wrong)).is_err(), "{wrong:?}");
    }
    fails(json!({"n": 2, "temperature": 0}), "n must be 1 when using greedy sampling, got 2.");

    fails(json!({"presence_penalty": 5}), "presence_penalty must be in [-2, 2], got 5.0.");
    fails(json!({"frequency_penalty": -5}), "frequency_penalty must be in [-2, 2], got -5.0.");
    fails(json!({"frequency_penalty": "nan"}), "frequency_penalty must be in [-2, 2], got nan.");
    fails(
        json!({"repetition_penalty": "inf"}),
        "repetition_penalty must be a finite number, got inf.",
    );
    fails(
        json!({"repetition_penalty": 0}),
        "repetition_penalty must be greater than zero, got 0.0.",
    );
    fails(json!({"min_p": 2}), "min_p must be in [0, 1], got 2.0.");
    fails(json!({"min_p": -1e-5}), "min_p must be in [0, 1], got -1e-05.");
    fails(json!({"top_k": -2}), "top_k must be 0 (disable), or at least 1, got -2.");
}

#[test]
fn errors_that_repeat_the_value() {
    let temperature = |value: Value, text: &str, got: &str| {
        let text =
            format!("temperature must be {text}, got {got}. (parameter=temperature, value={got})");
        fails(json!({"temperature": value}), &text);
    };
    temperature(json!("nan"), "a finite number", "nan");
    temperature(json!("-inf"), "a finite number", "-inf");
    temperature(json!(-0.5), "non-negative", "-0.5");
    temperature(json!(2.5), "in [0, 2]", "2.5");
    fails(
        json!({"temperature": 0, "top_p": 2}),
        "top_p must be in (0, 1], got 2.0. (parameter=top_p, value=2.0)",
    );
    fails(json!({"top_p": 0}), "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)");

    fails(
        json!({"max_tokens": 0}),
        "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
    );
    fails(
        json!({"logprobs": -2}),
        "logprobs must be non-negative or -1, got -2. (parameter=logprobs, value=-2)",
    );
    fails(
        json!({"thinking_token_budget": -2}),
        "`thinking_token_budget` must be a non-negative integer or -1 for unlimited. \
         (parameter=thinking_token_budget, value=-2)",
    );
    fails(
        json!({"thinking_token_budget": "10"}),
        "thinking_token_budget is set but reasoning_config is not configured. Please set \
         --reasoning-parser and/or --reasoning-config to use thinking_token_budget.",
    );
}

#[test]
fn lengths_and_stops() {
    fails(
        json!({"min_tokens": 20}),
        "min_tokens must be less than or equal to max_tokens=16, got 20.",
    );
    fails(json!({"min_tokens": -1}), "min_tokens must be greater than or equal to 0, got -1.");
    assert_eq!(parse(json!({"min_tokens": 20, "max_tokens": null})).unwrap().min_tokens, 20);
    assert_eq!(parse(json!({"max_tokens": 1e30})).unwrap().max_tokens, Some(u32::MAX));
    fails(json!({"stop": ["a", ""]}), "stop cannot contain an empty string.");
    fails(json!({"stop": ""}), "stop cannot contain an empty string.");
    fails(json!({"stop": [1]}), "object of type 'int' has no len()");
    fails(json!({"stop": 5}), "'int' object is not iterable");
    fails(
        json!({"stop": "a", "detokenize": false}),
        "stop strings are only supported when detokenize is True. Set detokenize=True to use stop.",
    );
    assert_eq!(parse(json!({"stop": []})).unwrap().stop, Vec::<String>::new());

    fails(
        json!({"stop_token_ids": ["1"]}),
        "stop_token_ids must contain only integers, got ['1'].",
    );
    fails(
        json!({"stop_token_ids": [1.0]}),
        "stop_token_ids must contain only integers, got [1.0].",
    );
    let ids =
        parse(json!({"stop_token_ids": [-1, true, 7, 1e3 as u32, 7]})).unwrap().stop_token_ids;
    assert_eq!(ids, [TokenId(1), TokenId(7), TokenId(1000)]);
    fails(
        json!({"bad_words": ["x", ""]}),
        "bad_words cannot contain an empty string. Got bad_words=['x', '']",
    );
    fails(
        json!({"seed": "9223372036854775808"}),
        "seed must be in [-9223372036854775808, 9223372036854775807], got 9223372036854775808.",
    );
    fails(json!({"lora_name": 5}), "lora_name must be a string, got 5.");
}

#[test]
fn rules_that_need_the_model() {
    fails(
        json!({"logprobs": 21}),
        "Requested sample logprobs of 21, which is greater than max allowed: 20 \
         (parameter=logprobs, value=21)",
    );
    fails(
        json!({"prompt_logprobs": -1}),
        "Requested prompt logprobs of 4096, which is greater than max allowed: 20 \
         (parameter=prompt_logprobs, value=4096)",
    );
    let whole = SamplingLimits { max_logprobs: -1, ..limits() };
    let source = json!({"prompt_logprobs": -1});
    assert!(SamplingParams::parse(source.as_object().unwrap(), &whole).is_ok());
    fails(
        json!({"logit_bias": {"5": 1, "4096": 1.5}}),
        "token_id(s) [4096] in logit_bias contain out-of-vocab token ids. Vocabulary size: 4096 \
         (parameter=logit_bias, value={'5': 1, '4096': 1.5})",
    );
    fails(json!({"logit_bias": {"x": 1}}), "logit_bias keys must be token ids, got 'x'.");
    fails(
        json!({"allowed_token_ids": []}),
        "allowed_token_ids is not None and empty! (parameter=allowed_token_ids, value=[])",
    );

    fails(
        json!({"allowed_token_ids": [4096]}),
        "allowed_token_ids contains out-of-vocab token id! (parameter=allowed_token_ids, \
         value=[4096])",
    );
    fails(
        json!({"logprob_token_ids": vec![0; 129]}),
        "Requested logprob_token_ids of length 129, which is greater than max allowed: 128",
    );
    fails(
        json!({"logprob_token_ids": [1, 4096]}),
        "logprob_token_ids contain out-of-vocab token ids. Vocabulary size: 4096",
    );
    fails(
        json!({"logprob_token_ids": [1, 2], "logprobs": 3}),
        "logprobs must equal the length of logprob_token_ids when both are set, got 3 and 2.",
    );
    assert_eq!(
        biases(&json!({"5": 1000, " 6": "-0.5"}), 10).unwrap(),
        [(TokenId(5), 100.0), (TokenId(6), -0.5)]
    );
}

#[test]
fn the_first_rule_in_order_wins() {
    let all = [
        ("thinking_token_budget", json!(-2)),
        ("n", json!(0)),
        ("presence_penalty", json!(9)),
        ("frequency_penalty", json!(9)),
        ("repetition_penalty", json!(0)),
        ("temperature", json!(9)),
        ("top_p", json!(9)),
        ("top_k", json!(-9)),
        ("min_p", json!(9)),
        ("max_tokens", json!(0)),
        ("min_tokens", json!(-9)),
        ("logprobs", json!(-9)),
        ("prompt_logprobs", json!(-9)),
        ("stop_token_ids", json!(["1"])),
        ("stop", json!("")),
        ("bad_words", json!([""])),
        ("allowed_token_ids", json!([])),
    ];

    for start in 0..all.len() {
        let source: Map<String, Value> =
            all[start..].iter().rev().map(|(k, v)| (k.to_string(), v.clone())).collect();
        let message = SamplingParams::parse(&source, &limits()).unwrap_err().to_string();
        let name = all[start].0;
        assert!(message.trim_start_matches('`').starts_with(name), "{name}: {message}");
    }
}

#[test]
fn repetition_rules() {
    let rule = |value: Value| parse(json!({"repetition_detection": value}));
    let some = |sizes, count| Some(RepetitionRule { sizes, count });
    for (value, expected) in [
        (json!({"max_pattern_size": 8, "min_pattern_size": 2, "min_count": 3}), some(2..=8, 3)),
        (json!({"max_pattern_size": 8, "min_count": "2"}), some(1..=8, 2)),
        (json!("{\"max_pattern_size\": 1, \"min_count\": 9}"), some(1..=1, 9)),
        (json!({"min_count": 2}), None),
        (json!({}), None),
        (json!(null), None),
    ] {
        assert_eq!(rule(value).unwrap().repetition_detection, expected);
    }

    for (value, reason) in [
        (json!(7), "repetition_detection must be an object, got 7."),
        (json!({"max_pattern_size": 1, "min_count": 1}), "min_count must be at least 2, got 1."),
        (json!({"min_pattern_size": 3}), "must hold, got 3 and 0."),
        (json!({"max_pattern_size": -1, "min_pattern_size": -2}), "got -2 and -1."),
        (json!({"size": 1}), "repetition_detection: Unexpected keyword argument 'size'"),
        (json!("x"), "not valid JSON: expected value at line 1 column 1"),
        (json!({"min_count": "x"}), "invalid literal for int() with base 10: 'x'"),
    ] {
        let message = rule(value).unwrap_err().to_string();
        assert!(message.ends_with(reason), "{message}");
    }
}

#[test]
fn empty_values_ask_for_nothing() {
    for empty in [json!({"bad_words": []}), json!({"logit_bias": {}}), json!({"n": true})] {
        assert_eq!(parse(empty), Ok(SamplingParams::default()));
    }
}

/// Requests that the Python backend refused, with the reasons that it wrote to its log.
#[test]
fn recorded_refusals() {
    for (text, reason) in [
        (
            r#"{"temperature": 0, "max_tokens": 0}"#,
            "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
        ),
        (
            r#"{"temperature": 0, "max_tokens": 3, "stop": [""]}"#,
            "stop cannot contain an empty string.",
        ),
        (
            r#"{"temperature": 0, "n": 2, "max_tokens": 4}"#,
            "n must be 1 when using greedy sampling, got 2.",
        ),
        (
            r#"{"temperature": 0, "max_tokens": 4, "truncate_prompt_tokens": -1}"#,
            "Unexpected keyword argument 'truncate_prompt_tokens'",
        ),
        (r#"{"temperature": 0, "foo": 1}"#, "Unexpected keyword argument 'foo'"),
        (r#"{"temperature": "hot"}"#, "could not convert string to float: 'hot'"),
        (
            r#"{"temperature": 0, "top_p": 2}"#,
            "top_p must be in (0, 1], got 2.0. (parameter=top_p, value=2.0)",
        ),
        (r#"{"temperature": 0, "min_p": 2}"#, "min_p must be in [0, 1], got 2.0."),
        (r#"{"temperature": 0, "n": 0}"#, "n must be at least 1, got 0."),
        (
            r#"{"temperature": 0, "max_tokens": "4.9"}"#,
            "invalid literal for int() with base 10: '4.9'",
        ),
        (
            r#"{"temperature": 0, "max_tokens": 2, "min_tokens": 5}"#,
            "min_tokens must be less than or equal to max_tokens=2, got 5.",
        ),
        (
            r#"{"temperature": 0, "frequency_penalty": -5}"#,
            "frequency_penalty must be in [-2, 2], got -5.0.",
        ),
        (
            r#"{"temperature": 0, "repetition_penalty": 0}"#,
            "repetition_penalty must be greater than zero, got 0.0.",
        ),
        (
            r#"{"temperature": 0, "max_tokens": 3, "stop": [1]}"#,
            "object of type 'int' has no len()",
        ),
    ] {
        let answer = SamplingParams::parse_text(text, &limits());
        assert_eq!(answer, Err(Error::InvalidArgument(reason.into())), "{text}");
    }
    // Refused there, meaningful here.
    for text in [
        r#"{"temperature": 0, "guided_decoding": {"choice": ["a", "b"]}}"#,
        r#"{"temperature": 0, "max_tokens": null}"#,
        r#"{"temperature": null, "max_tokens": 2}"#,
        r#"{"temperature": 0, "max_tokens": 2, "id": "7"}"#,
    ] {
        assert!(SamplingParams::parse_text(text, &limits()).is_ok(), "{text}");
    }
    let nan = SamplingParams::parse_text(r#"{"temperature": NaN}"#, &limits()).unwrap_err();
    let text = "temperature must be a finite number, got nan. (parameter=temperature, value=nan)";
    assert_eq!(nan.message(), text);
}

/// Any value under any key gives parameters inside their ranges, or one line.
#[test]
fn any_value_under_any_key() {
    let keys = [
        "n",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "max_tokens",
        "min_tokens",
        "logprobs",
        "prompt_logprobs",
        "thinking_token_budget",
        "ignore_eos",
        "detokenize",
        "stop",
        "stop_token_ids",
        "bad_words",
        "logit_bias",
        "allowed_token_ids",
        "logprob_token_ids",
        "structured_outputs",
        "repetition_detection",
        "lora_name",
        "output_kind",
        "output_text_buffer_length",
    ];
    let long = "9".repeat(400);

    let values = [
        "null",
        "true",
        "false",
        "0",
        "-0.0",
        "1",
        "-1",
        "2",
        "1e308",
        "-1e308",
        "1e-320",
        "0.5",
        "18446744073709551615",
        "-9223372036854775808",
        "NaN",
        "Infinity",
        "-Infinity",
        "\"\"",
        "\"nan\"",
        "\" 7 \"",
        "\"1e999\"",
        "\"\\u0000\"",
        "\"\\ud83d\\ude00\"",
        "[]",
        "[[]]",
        "[null]",
        "[1]",
        "[-1]",
        "[4096]",
        "[\"a\"]",
        "[\"\"]",
        "{}",
        "{\"a\":1}",
        "{\"1\":null}",
        "{\"1\":1e308}",
        "{\"-1\":0}",
        &long,
    ];
    let (mut good, mut bad) = (0, 0);
    for first in keys {
        for value in values {
            for second in ["\"temperature\": 0", "\"temperature\": 0.7", "\"stop\": \"x\""] {
                let text = format!("{{{second}, \"{first}\": {value}}}");
                match SamplingParams::parse_text(&text, &limits()) {
                    Ok(params) => {
                        good += 1;
                        let spec = params.sampler(&[TokenId(2)], 1, Vec::new());
                        let warm = (0.01..=2.0).contains(&spec.temperature);
                        assert!(spec.temperature == 0.0 || warm, "{text}");
                        assert!(spec.top_p > 0.0 && spec.top_p <= 1.0, "{text}");
                        assert!((0.0..=1.0).contains(&spec.min_p), "{text}");
                        assert!(spec.repetition_penalty > 0.0, "{text}");
                        assert!(spec.repetition_penalty.is_finite(), "{text}");
                        assert!(params.max_tokens != Some(0), "{text}");
                        assert!(params.stop.iter().all(|s| !s.is_empty()), "{text}");
                    }
                    Err(error) => {
                        bad += 1;
                        assert!(!error.message().is_empty(), "{text}");
                        assert!(!error.message().contains('\n'), "{text}: {error}");
                    }
                }
            }
        }
    }
    assert!(good > 500 && bad > 500, "{good} accepted, {bad} refused");
}

/// The smallest and the largest penalty of a token make no logit infinite, however it is scaled.
#[test]
fn no_penalty_makes_an_infinite_logit() {
    for penalty in [5e-324, 1e-300, 1e-38, 1e-20, 1e20, 3.5e38, 1.7e308] {
        for temperature in [0.001, 1.0] {
            let params = parse(json!({
                "repetition_penalty": penalty, "temperature": temperature, "logprobs": 2,
                "frequency_penalty": -2, "presence_penalty": -2,
            }))
            .unwrap();
            let spec = params.sampler(&[], 1, Vec::new());
            let history = History::new(&spec, &[TokenId(0), TokenId(1), TokenId(2)], &[TokenId(1)]);
            // Scaled by the temperature afterwards.
            let mut logits = [1e6, -1e6, 0.0, 5.0];
            let sampled = choose(&mut logits, Seen::default(), &spec, &history, 2);
            assert!(sampled.is_ok(), "{penalty} {temperature}");
            assert!(logits.iter().all(|logit| logit.is_finite()), "{penalty}: {logits:?}");
        }
    }
}

/// Case 10: each list of a request is bounded, and the refusal says by how much and which key.
#[test]
fn lists_are_bounded() {
    let words = |count: usize| (0..count).map(|i| i.to_string()).collect::<Vec<_>>();
    for (parameters, text) in [
        (json!({"stop": words(16_385)}), "stop has 16385 strings, more than the 16384"),
        (json!({"stop": "x".repeat(262_145)}), "stop has 262145 bytes, more than the 262144"),
        (json!({"stop_token_ids": vec![7; 16_385]}), "stop_token_ids has 16385 ids, more than"),
        (json!({"bad_words": words(300_000)}), "bad_words has 300000 words, more than the 4096"),
        (json!({"bad_words": ["x".repeat(4 << 20)]}), "bad_words has 4194304 bytes, more than"),
        (json!({"allowed_token_ids": vec![7; 4097]}), "4097 ids, more than the vocabulary's 4096."),
    ] {
        let error = parse(parameters).unwrap_err().to_string();
        assert!(error.contains(text) && error.len() < 250, "{error}");
        assert!(text.contains("vocabulary") || error.contains("--backend-config=vllm,max-"));
    }
    let mut few = limits();
    few.lists.logit_biases = 1;
    let biases = json!({"logit_bias": {"1": 0, "2": 0}});
    let error = SamplingParams::parse(biases.as_object().unwrap(), &few).unwrap_err().to_string();
    assert!(error.contains("max-logit-biases"), "{error}");
    assert_eq!(parse(json!({"stop": words(16_384)})).unwrap().stop.len(), 16_384);
}

/// A text of more values than anybody sends is refused before they are all held; what is passed
/// over does not count.
#[test]
fn values_of_a_text_are_bounded() {
    let list = "0,".repeat(2_000_000) + "0";
    let error = SamplingParams::parse_text(&format!("{{\"stop\": [{list}]}}"), &limits());
    assert_eq!(
        error.unwrap_err().to_string(),
        "sampling_parameters has more than 2000000 JSON values and names, the limit of \
         --backend-config=vllm,max-json-values: send fewer, or raise it"
    );
    let passed_over = format!("{{\"extra_args\": [{list}], \"temperature\": 0.5}}");
    let params = SamplingParams::parse_text(&passed_over, &limits()).unwrap();
    assert_eq!(params.temperature, 0.5);
}

/// Case 11: whatever is refused, the value is shown in part.
#[test]
fn refusals_show_a_piece_of_the_value() {
    let long = "y".repeat(1 << 20);
    let strings = vec!["y"; 1 << 16];
    let many: Map<String, Value> = (0..16_000).map(|i| (format!("99{i}"), json!(1))).collect();

    for parameters in [
        json!({ &long: 1 }),
        json!({"temperature": long}),
        json!({"n": long}),
        json!({"lora_name": strings}),
        json!({"allowed_token_ids": vec!["y"; 4096]}),
        json!({"logprob_token_ids": strings}),
        json!({"logit_bias": strings}),
        json!({"logit_bias": { &long: 1 }}),
        json!({"logit_bias": {"1": long}}),
        json!({ "logit_bias": many }),
        json!({"stop_token_ids": vec!["y"; 16_384]}),
        json!({"repetition_detection": strings}),
        json!({"repetition_detection": { &long: 1 }}),
        json!({"best_of": long}),
        json!({"structured_outputs": { "choice": [1, long] }}),
    ] {
        let error = parse(parameters.clone()).unwrap_err().to_string();
        let name = parameters.as_object().unwrap().keys().next().unwrap();
        assert!(error.len() < 700, "{name:.30}: {} bytes", error.len());
    }
}

/// Case 7 and vLLM 0.33.
#[test]
fn parameters_of_other_ages() {
    let old = json!({
        "n": 1, "best_of": 1, "presence_penalty": 1.0, "temperature": 1.0, "top_p": 0.95,
        "top_k": -1, "use_beam_search": false, "length_penalty": 1, "early_stopping": false,
        "stop": null, "max_tokens": 20,
    });
    assert_eq!(parse(old).unwrap().max_tokens, Some(20));
    assert_eq!(parse(json!({"n": 3, "best_of": 3, "logits_processors": null})).unwrap().n, 3);
    let error = parse(json!({"n": 3, "best_of": 5})).unwrap_err().to_string();
    assert_eq!(error, "Unexpected keyword argument 'best_of'");
    let error = parse(json!({"use_beam_search": true})).unwrap_err().to_string();
    assert!(error.contains("'use_beam_search'"), "{error}");
    assert_eq!(parse(json!({"stream_interval": "4"})).unwrap().stream_interval, Some(4));
    fails(json!({"stream_interval": 0}), "stream_interval must be at least 1, got 0.");
    let error = parse(json!({"watermarking": true})).unwrap_err().to_string();
    assert!(error.contains("'watermarking'"), "{error}");

    let guided = parse(json!({"guided_decoding": {"regex": "a+", "backend": "outlines"}})).unwrap();
    assert_eq!(guided, parse(json!({"structured_outputs": {"regex": "a+"}})).unwrap());
    let both = json!({"guided_decoding": {"regex": "a"}, "structured_outputs": {"regex": "a"}});
    assert!(parse(both).unwrap_err().to_string().contains("names of one parameter"));
}
