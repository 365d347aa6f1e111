//! Sampling parameters as a client wrote them: read key by key, with Python's coercions, before any
//! rule is checked. Called by `parse`; `verify` judges the values.

use serde_json::{Map, Value};

use super::{other_versions, python};
use crate::error::Result;
use crate::invalid;

/// The source after Python's coercions: of the right type, not yet checked. None = absent or null.
#[derive(Default)]
pub(super) struct RawParams<'a> {
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
    pub other_versions: Vec<(&'static str, &'a Value)>,
}

impl<'a> RawParams<'a> {
    /// All keys, in their order.
    ///
    /// # Errors
    /// InvalidArgument with Python's text: a value of another type; then an unknown key.
    pub fn read(source: &'a Map<String, Value>) -> Result<RawParams<'a>> {
        let mut raw = RawParams::default();
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

    /// Whatever its value, it means nothing here. (`id` is HTTP's request id, which the server
    /// hands on as a parameter.)
    pub fn passes_over(key: &str) -> bool {
        ["id", "extra_args", "output_kind", "skip_clone", "flat_logprobs"].contains(&key)
    }

    /// False for a key that nobody knows.
    pub fn read_one(&mut self, key: &str, value: &'a Value) -> Result<bool> {
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
            // Looked into by the rules.
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
            _ if RawParams::passes_over(key) => {}
            _ => match other_versions::known(key) {
                Some(name) => self.other_versions.push((name, value)),
                None => return Ok(false),
            },
        }
        Ok(true)
    }
}
