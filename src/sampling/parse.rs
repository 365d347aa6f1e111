//! A request's JSON -> [`SamplingParams`]: read, then judged. Called by `triton`; it knows no
//! tensor.

use serde_json::{Map, Value};

use super::raw::RawParams;
use super::{json, verify};
use super::{ListLimits, SamplingLimits, SamplingParams};
use crate::error::{Error, Result};

impl SamplingParams {
    /// From the text of the `sampling_parameters` tensor. `NaN` and `Infinity` are numbers, as for
    /// Python.
    ///
    /// # Errors
    /// InvalidArgument: not JSON or no object, with line and column; and what
    /// [`SamplingParams::parse`] says.
    pub fn parse_text(text: &str, limits: &SamplingLimits) -> Result<SamplingParams> {
        SamplingParams::parse(&SamplingParams::object(text, &limits.lists)?, limits)
    }

    /// The object that such a text holds, not yet looked at. Values that mean nothing are null.
    ///
    /// # Errors
    /// InvalidArgument: not JSON or no object, with line and column; more values than the limit.
    pub fn object(text: &str, limits: &ListLimits) -> Result<Map<String, Value>> {
        json::object(text, limits)
    }

    /// From a JSON object. First all values are read in their order, as Python reads them, then an
    /// unknown key fails, then the rules are checked in theirs.
    ///
    /// # Errors
    /// InvalidArgument with the Python backend's text.
    pub fn parse(source: &Map<String, Value>, limits: &SamplingLimits) -> Result<SamplingParams> {
        let checked = || verify::checked(RawParams::read(source)?, limits);
        checked().map_err(Error::on_one_line)
    }

    /// There is a parameter of this name; what it may be is another matter.
    pub fn knows(name: &str) -> bool {
        RawParams::default().read_one(name, &Value::Null).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::ids::TokenId;
    use crate::sampling::{LogprobSpec, SamplerSpec};

    const LIMITS: SamplingLimits = SamplingLimits::new(100, 20);

    fn parse(value: Value) -> Result<SamplingParams> {
        SamplingParams::parse(value.as_object().unwrap(), &LIMITS)
    }

    /// Null is "unset" for every key; the Python backend's int(None) error is not kept.
    #[test]
    fn null_is_unset() {
        let keys = ["n", "top_k", "temperature", "seed", "stop", "stop_token_ids", "logprobs"]
            .into_iter()
            .chain(["ignore_eos", "detokenize", "bad_words", "logit_bias", "lora_name", "min_p"]);
        let source: Map<String, Value> = keys.map(|k| (k.to_string(), Value::Null)).collect();
        let params = SamplingParams::parse(&source, &LIMITS).unwrap();
        assert_eq!(params, SamplingParams::default());
        assert_eq!(params.max_tokens, Some(16));
        assert_eq!(parse(json!({"max_tokens": null})).unwrap().max_tokens, None);
    }

    #[test]
    fn values_are_read_before_keys_are_known_before_rules_hold() {
        let text = |v| parse(v).unwrap_err().to_string();
        assert_eq!(
            text(json!({"foo": 1, "n": 0, "top_k": "x"})),
            "invalid literal for int() with base 10: 'x'"
        );
        assert_eq!(text(json!({"foo": 1, "bar": 1, "n": 0})), "Unexpected keyword argument 'foo'");
        assert_eq!(text(json!({"guided_json": {}})), "Unexpected keyword argument 'guided_json'");
        assert_eq!(text(json!({"min_p": 7, "n": 0})), "n must be at least 1, got 0.");
    }

    #[test]
    fn keys_without_meaning_are_ignored() {
        let params = parse(json!({
            "id": "7", "extra_args": {"a": 1}, "output_kind": 2, "flat_logprobs": true,
            "skip_clone": 1, "prompt_logprobs": 2,
        }));
        assert_eq!(
            params.unwrap(),
            SamplingParams { prompt_logprobs: Some(2), ..SamplingParams::default() }
        );
    }

    #[test]
    fn strings_become_numbers() {
        let params = parse(json!({
            "max_tokens": "1500", "temperature": "0", "top_p": "1", "seed": "-7", "top_k": 2.9,
            "ignore_eos": "false", "skip_special_tokens": "False", "stop_token_ids": [5, 2, 5],
            "stop": "abc",
        }))
        .unwrap();
        assert_eq!(
            params,
            SamplingParams {
                max_tokens: Some(1500),
                temperature: 0.0,
                seed: Some(-7),
                top_k: 2,
                skip_special_tokens: false,
                stop_token_ids: vec![TokenId(5), TokenId(2)],
                stop: vec!["abc".into()],
                ..SamplingParams::default()
            }
        );
    }

    #[test]
    fn the_spec_of_a_device() {
        let eos = [TokenId(2), TokenId(9)];
        let greedy = parse(json!({"temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1}))
            .unwrap()
            .sampler(&eos, 77, Vec::new());
        assert_eq!(greedy, SamplerSpec { seed: 77, ..SamplerSpec::default() });

        let params = parse(json!({
            "temperature": 0.001, "seed": -2, "min_tokens": 3, "stop_token_ids": [9, 4],
            "ignore_eos": true, "top_k": -1,
        }))
        .unwrap();
        let spec = params.sampler(&eos, 77, Vec::new());
        assert_eq!(spec.temperature, 0.01);
        assert_eq!(spec.top_k, 0);
        assert_eq!(spec.seed, -2i64 as u64);
        assert_eq!(*spec.masked_until_min, [TokenId(2), TokenId(4), TokenId(9)]);
        assert_eq!(parse(json!({"seed": -1})).unwrap().sampler(&[], 77, Vec::new()).seed, 77);
        assert!(parse(json!({"top_p": 1e-60})).unwrap().sampler(&[], 0, Vec::new()).top_p > 0.0);
    }

    #[test]
    fn token_lists_reach_the_device() {
        let params = parse(json!({
            "logit_bias": {"5": 1.5, "9": -200}, "allowed_token_ids": [33, 0, 33],
            "bad_words": ["x"], "prompt_logprobs": 3,
        }));
        let params = params.unwrap_or_else(|e| panic!("{e}"));
        let word: Box<[TokenId]> = Box::from([TokenId(7), TokenId(8)]);
        let spec = params.sampler(&[], 0, vec![word.clone()]);
        assert_eq!(*spec.bias, [(TokenId(5), 1.5), (TokenId(9), -100.0)]);
        assert_eq!(spec.allowed.as_deref(), Some(&[1, 2][..]));
        assert_eq!(*spec.bad_words, [word]);
        assert_eq!((spec.logprobs, spec.prompt_logprobs), (None, Some(LogprobSpec::Top(3))));
        let all = SamplingParams { logprobs: Some(-1), ..SamplingParams::default() };
        let all = all.sampler(&[], 0, Vec::new()).logprobs;
        assert_eq!(all, Some(LogprobSpec::Top(u32::MAX)));
        let given = SamplingParams {
            logprob_token_ids: Some(vec![TokenId(4), TokenId(2)]),
            logprobs: Some(2),
            ..SamplingParams::default()
        };
        let wanted = LogprobSpec::Tokens(Arc::from([TokenId(4), TokenId(2)]));
        assert_eq!(given.sampler(&[], 0, Vec::new()).logprobs, Some(wanted));
        let two = SamplingParams { logprobs: Some(2), ..SamplingParams::default() };
        assert_eq!(two.sampler(&[], 0, Vec::new()).logprobs, Some(LogprobSpec::Top(2)));
    }

    #[test]
    fn errors_say_what_helps() {
        assert!(matches!(parse(json!({"top_p": 0})), Err(Error::InvalidArgument(_))));
    }
}
