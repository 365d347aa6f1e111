//! Validated sampling parameters of one request. The door parses a request's JSON once into
//! [`SamplingParams`]; the engine reads the fields and makes the device's [`SamplerSpec`] from
//! them. Reading is here, the rules and their texts are in [`super::verify`]. It knows no tensor
//! and no text.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{ages, json, python, verify};
use super::{ListLimits, LogprobSpec, SamplerSpec, StructuredOutputs};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::invalid;

/// What validation needs to know of the model.
#[derive(Debug, Clone)]
pub struct SamplingLimits {
    pub vocab_size: u32,
    /// Engine argument `max_logprobs`; -1 = the whole vocabulary.
    pub max_logprobs: i64,
    /// Sequences that one request may ask for.
    pub max_sequences: u32,
    /// Of the lists that one request brings.
    pub lists: ListLimits,
}

impl SamplingLimits {
    /// The Python backend's own limit of `n`.
    const MAX_SEQUENCES: u32 = 16_384;

    pub const fn new(vocab_size: u32, max_logprobs: i64) -> SamplingLimits {
        let (max_sequences, lists) = (SamplingLimits::MAX_SEQUENCES, ListLimits::DEFAULT);
        SamplingLimits { vocab_size, max_logprobs, max_sequences, lists }
    }

    /// What `VLLM_MAX_N_SEQUENCES` says, if it is set.
    ///
    /// # Errors
    /// InvalidArgument: not a number from 1 on.
    pub fn with_max_sequences(mut self, said: Option<&str>) -> Result<SamplingLimits> {
        if let Some(text) = said {
            self.max_sequences = text.trim().parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                invalid!("VLLM_MAX_N_SEQUENCES must be a number from 1 on, got {text:?}")
            })?;
        }
        Ok(self)
    }
}

/// Every value is inside its range: nothing downstream checks again.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Sequences to generate, at least 1.
    pub n: u32,
    /// [-2, 2]
    pub presence_penalty: f64,
    /// [-2, 2]
    pub frequency_penalty: f64,
    /// Finite and above 0.
    pub repetition_penalty: f64,
    /// 0 (greedy) or [0.01, 2].
    pub temperature: f64,
    /// (0, 1]
    pub top_p: f64,
    /// 0 = off.
    pub top_k: u32,
    /// [0, 1]
    pub min_p: f64,
    pub seed: Option<i64>,
    /// At least 1; None = as many as the model's length leaves.
    pub max_tokens: Option<u32>,
    /// No stop before so many output tokens; not above `max_tokens`.
    pub min_tokens: u32,
    pub ignore_eos: bool,
    /// No text is empty, their order is the client's.
    pub stop: Vec<String>,
    /// In the client's order, each once.
    pub stop_token_ids: Vec<TokenId>,
    pub include_stop_str_in_output: bool,
    pub detokenize: bool,
    pub skip_special_tokens: bool,
    pub spaces_between_special_tokens: bool,
    /// -1 = the whole vocabulary.
    pub logprobs: Option<i64>,
    /// Checked and then without effect: no output tensor carries them.
    pub prompt_logprobs: Option<i64>,
    /// Clamped to [-100, 100].
    pub logit_bias: Vec<(TokenId, f32)>,
    pub allowed_token_ids: Option<Vec<TokenId>>,
    pub logprob_token_ids: Option<Vec<TokenId>>,
    pub bad_words: Vec<String>,
    pub structured_outputs: Option<StructuredOutputs>,
    pub repetition_detection: Option<RepetitionRule>,
    /// Compute the whole prompt, whatever of it is cached.
    pub skip_reading_prefix_cache: bool,
    /// The adapter to use. Whether it exists is the door's question.
    pub lora_name: Option<String>,
    /// Tokens between two responses of a stream, at least 1; None = as the engine argument says.
    pub stream_interval: Option<u32>,
}

/// The output ends when its newest tokens are one pattern of `sizes` tokens, `count` times in a
/// row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepetitionRule {
    /// From 1 on, not empty.
    pub sizes: RangeInclusive<u32>,
    /// At least 2.
    pub count: u32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            n: 1,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: None,
            max_tokens: Some(16),
            min_tokens: 0,
            ignore_eos: false,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            include_stop_str_in_output: false,
            detokenize: true,
            skip_special_tokens: true,
            spaces_between_special_tokens: true,
            logprobs: None,
            prompt_logprobs: None,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            logprob_token_ids: None,
            bad_words: Vec::new(),
            structured_outputs: None,
            repetition_detection: None,
            skip_reading_prefix_cache: false,
            lora_name: None,
            stream_interval: None,
        }
    }
}

impl SamplingParams {
    /// From the text of the `sampling_parameters` tensor. `NaN` and `Infinity` are numbers, as for
    /// Python.
    ///
    /// # Errors
    /// InvalidArgument: not JSON or no object, with line and column; and what
    /// [`SamplingParams::parse`] says.
    pub fn parse_text(text: &str, limits: &SamplingLimits) -> Result<SamplingParams> {
        SamplingParams::parse(&SamplingParams::object(text)?, limits)
    }

    /// The object that such a text holds, not yet looked at.
    ///
    /// # Errors
    /// InvalidArgument: not JSON or no object, with line and column.
    pub fn object(text: &str) -> Result<Map<String, Value>> {
        json::object(text)
    }

    /// From a JSON object. First all values are read in their order, as Python reads them, then an
    /// unknown key fails, then the rules are checked in theirs.
    ///
    /// # Errors
    /// InvalidArgument with the Python backend's text.
    pub fn parse(source: &Map<String, Value>, limits: &SamplingLimits) -> Result<SamplingParams> {
        let checked = || verify::checked(Raw::read(source)?, limits);
        checked().map_err(Error::on_one_line)
    }

    /// There is a parameter of this name; what it may be is another matter.
    pub fn knows(name: &str) -> bool {
        Raw::default().read_one(name, &Value::Null).unwrap_or(true)
    }

    /// Logprobs of sampled tokens are to be reported.
    pub fn wants_logprobs(&self) -> bool {
        self.logprobs.is_some() || self.logprob_token_ids.is_some()
    }

    /// What a device needs. `eos`: the tokenizer's eos and all of generation_config; they are
    /// masked with the stop ids until `min_tokens`, even when `ignore_eos`. `fallback_seed` is used
    /// without a seed. `bad_words` are those of the parameters as tokens, which only a tokenizer
    /// can tell.
    pub fn sampler(
        &self,
        eos: &[TokenId],
        fallback_seed: u64,
        mut bad_words: Vec<Box<[TokenId]>>,
    ) -> SamplerSpec {
        SamplerSpec::sort_bad_words(&mut bad_words);
        let greedy = self.temperature == 0.0;
        let mut masked = Vec::new();
        if self.min_tokens > 0 {
            masked.extend(eos.iter().chain(&self.stop_token_ids));
            masked.sort_unstable();
            masked.dedup();
        }
        SamplerSpec {
            temperature: self.temperature as f32,
            top_k: if greedy { 0 } else { self.top_k },
            // As f32 a tiny top_p could become 0, which keeps nothing.
            top_p: if greedy { 1.0 } else { (self.top_p as f32).max(f32::MIN_POSITIVE) },
            min_p: if greedy { 0.0 } else { self.min_p as f32 },
            repetition_penalty: self.repetition_penalty as f32,
            frequency_penalty: self.frequency_penalty as f32,
            presence_penalty: self.presence_penalty as f32,
            seed: self.seed.map_or(fallback_seed, |seed| seed as u64),
            min_tokens: self.min_tokens,
            masked_until_min: Arc::from(masked),
            allowed: self.allowed_token_ids.as_deref().map(mask_of),
            bias: Arc::from(&*self.logit_bias),
            bad_words: Arc::from(bad_words),
            logprobs: match &self.logprob_token_ids {
                Some(tokens) => Some(LogprobSpec::Tokens(Arc::from(&**tokens))),
                None => self.logprobs.map(top_logprobs),
            },
            prompt_logprobs: self.prompt_logprobs.map(top_logprobs),
        }
    }
}

/// Bit i of word i/32 = token i is in the list.
fn mask_of(tokens: &[TokenId]) -> Arc<[u32]> {
    let words = tokens.iter().map(|t| t.index() / 32 + 1).max().unwrap_or(0);
    let mut mask = vec![0; words];
    tokens.iter().for_each(|t| mask[t.index() / 32] |= 1 << (t.0 % 32));
    Arc::from(mask)
}

/// -1 = the whole vocabulary.
fn top_logprobs(count: i64) -> LogprobSpec {
    LogprobSpec::Top(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The source after Python's coercions: of the right type, not yet checked. None = absent or null.
#[derive(Default)]
pub(super) struct Raw<'a> {
    pub n: Option<i128>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i128>,
    pub min_p: Option<f64>,
    pub seed: Option<i128>,
    /// The outer None = absent: null lifts the default limit of 16.
    pub max_tokens: Option<Option<i128>>,
    pub min_tokens: Option<i128>,
    pub ignore_eos: Option<bool>,
    pub include_stop_str_in_output: Option<bool>,
    pub detokenize: Option<bool>,
    pub skip_special_tokens: Option<bool>,
    pub spaces_between_special_tokens: Option<bool>,
    pub skip_reading_prefix_cache: Option<bool>,
    pub logprobs: Option<i128>,
    pub prompt_logprobs: Option<i128>,
    pub thinking_token_budget: Option<i128>,
    pub stop: Option<&'a Value>,
    pub stop_token_ids: Option<&'a Value>,
    pub bad_words: Option<&'a Value>,
    pub logit_bias: Option<&'a Value>,
    pub allowed_token_ids: Option<&'a Value>,
    pub logprob_token_ids: Option<&'a Value>,
    pub structured_outputs: Option<&'a Value>,
    pub repetition_detection: Option<&'a Value>,
    pub lora_name: Option<&'a Value>,
    pub stream_interval: Option<i128>,
    /// Parameters of other versions of vLLM.
    pub other_ages: Vec<(&'static str, &'a Value)>,
}

impl<'a> Raw<'a> {
    fn read(source: &'a Map<String, Value>) -> Result<Raw<'a>> {
        let mut raw = Raw::default();
        let mut unknown = None;
        for (key, value) in source {
            if !raw.read_one(key, value)? {
                unknown = unknown.or(Some(key));
            }
        }
        match unknown {
            None => Ok(raw),
            Some(key) => Err(invalid!("Unexpected keyword argument {}", python::shown_text(key))),
        }
    }

    /// False for a key that nobody knows.
    fn read_one(&mut self, key: &str, value: &'a Value) -> Result<bool> {
        let any = Some(value).filter(|v| !v.is_null());
        match key {
            "n" => self.n = python::int(value)?,
            "presence_penalty" => self.presence_penalty = python::float(value)?,
            "frequency_penalty" => self.frequency_penalty = python::float(value)?,
            "repetition_penalty" => self.repetition_penalty = python::float(value)?,
            "temperature" => self.temperature = python::float(value)?,
            "top_p" => self.top_p = python::float(value)?,
            "top_k" => self.top_k = python::int(value)?,
            "min_p" => self.min_p = python::float(value)?,
            "seed" => self.seed = python::int(value)?,
            "max_tokens" => self.max_tokens = Some(python::int(value)?),
            "min_tokens" => self.min_tokens = python::int(value)?,
            "logprobs" => self.logprobs = python::int(value)?,
            "prompt_logprobs" => self.prompt_logprobs = python::int(value)?,
            "thinking_token_budget" => self.thinking_token_budget = python::int(value)?,
            "ignore_eos" => self.ignore_eos = python::truth(value),
            "include_stop_str_in_output" => {
                self.include_stop_str_in_output = python::truth(value);
            }
            "detokenize" => self.detokenize = python::truth(value),
            "skip_special_tokens" => self.skip_special_tokens = python::truth(value),
            "spaces_between_special_tokens" => {
                self.spaces_between_special_tokens = python::truth(value);
            }
            "skip_reading_prefix_cache" => {
                self.skip_reading_prefix_cache = python::truth(value);
            }
            "stop" => self.stop = any,
            "stop_token_ids" => self.stop_token_ids = any,
            "bad_words" => self.bad_words = any,
            "logit_bias" => self.logit_bias = any,
            "allowed_token_ids" => self.allowed_token_ids = any,
            "logprob_token_ids" => self.logprob_token_ids = any,
            // Until vLLM 0.11 it had the second name, and further members that mean nothing here.
            "structured_outputs" | "guided_decoding" => {
                if any.is_some() && self.structured_outputs.is_some() {
                    return Err(invalid!(
                        "structured_outputs and guided_decoding are names of one parameter: give \
                         one of them."
                    ));
                }
                self.structured_outputs = any.or(self.structured_outputs);
            }
            "repetition_detection" => self.repetition_detection = any,
            "lora_name" => self.lora_name = any,
            "stream_interval" => self.stream_interval = python::int(value)?,
            // Coerced, so that nonsense fails as it always did, and then without meaning for us.
            "output_text_buffer_length" | "routed_experts_prompt_start" => {
                python::int(value)?;
            }
            // `id` is HTTP's request id, which the server hands on as a parameter.
            "id" | "extra_args" | "output_kind" | "skip_clone" | "flat_logprobs" => {}
            _ => match ages::known(key) {
                Some(name) => self.other_ages.push((name, value)),
                None => return Ok(false),
            },
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use serde_json::json;

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
        assert_eq!(top_logprobs(-1), LogprobSpec::Top(u32::MAX));
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
