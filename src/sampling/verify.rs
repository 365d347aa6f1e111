//! The rules that sampling parameters obey, in the Python backend's order and with its texts.
//! Called by `parse` only.

use std::collections::HashSet;
use std::hash::Hash;

use serde_json::{Map, Value};

use super::bounds::{self, ListLimits};
use super::limits::SamplingLimits;
use super::other_versions;
use super::params::{RepetitionRule, SamplingParams};
use super::python::{self, float_text};
use super::raw::RawParams;
use super::structured::StructuredOutputs;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::invalid;

/// A temperature in (0, this) is raised to it: logits divided by less overflow.
const LOWEST_TEMPERATURE: f64 = 0.01;
/// A logit of up to 1e16 stays a finite f32 when it is multiplied by so much, or divided by the
/// inverse, and then divided by the lowest temperature.
const MOST_PENALTY: f64 = 1e20;
const MAX_LOGPROB_TOKEN_IDS: usize = 128;

/// Apply defaults, then every rule; the first that fails wins.
pub(super) fn checked(raw: RawParams, limits: &SamplingLimits) -> Result<SamplingParams> {
    thinking_token_budget(raw.thinking_token_budget)?;
    list_lengths(&raw, limits)?;
    let stop = texts("stop", raw.stop)?;
    let bad_words = unique(texts("bad_words", raw.bad_words)?);

    let d = SamplingParams::default();
    let mut params = SamplingParams {
        ignore_eos: raw.ignore_eos.unwrap_or(d.ignore_eos),
        include_stop_str_in_output: raw
            .include_stop_str_in_output
            .unwrap_or(d.include_stop_str_in_output),
        detokenize: raw.detokenize.unwrap_or(d.detokenize),
        skip_special_tokens: raw.skip_special_tokens.unwrap_or(d.skip_special_tokens),
        spaces_between_special_tokens: raw
            .spaces_between_special_tokens
            .unwrap_or(d.spaces_between_special_tokens),
        structured_outputs: raw.structured_outputs.map(StructuredOutputs::parse).transpose()?,
        skip_reading_prefix_cache: raw.skip_reading_prefix_cache.unwrap_or_default(),
        repetition_detection: repetition(raw.repetition_detection)?,
        lora_name: lora_name(raw.lora_name)?,
        stream_interval: stream_interval(raw.stream_interval)?,
        ..d
    };

    params.n = sequences(raw.n.unwrap_or(1), limits.max_sequences)?;
    for (name, value) in &raw.other_versions {
        other_versions::check(name, value, params.n)?;
    }
    penalties(&raw, &mut params)?;
    distribution(&raw, &mut params)?;
    lengths(&raw, &mut params)?;
    params.logprobs = logprob_count("logprobs", raw.logprobs)?;
    params.prompt_logprobs = logprob_count("prompt_logprobs", raw.prompt_logprobs)?;
    params.stop_token_ids = stop_ids(raw.stop_token_ids, limits.vocab_size)?;

    if stop.iter().any(String::is_empty) {
        return Err(invalid!("stop cannot contain an empty string."));
    }
    if !stop.is_empty() && !params.detokenize {
        return Err(invalid!(
            "stop strings are only supported when detokenize is True. Set detokenize=True to use \
             stop."
        ));
    }
    if bad_words.iter().any(String::is_empty) {
        let list = python::shown_list(bad_words.iter().map(|w| python::shown_text(w)));
        return Err(invalid!("bad_words cannot contain an empty string. Got bad_words={list}"));
    }

    params.stop = stop;
    params.bad_words = bad_words;
    if params.temperature == 0.0 && params.n > 1 {
        let n = params.n;
        return Err(invalid!("n must be 1 when using greedy sampling, got {n}."));
    }
    params.seed = seed(raw.seed)?;
    against_model(&raw, &mut params, limits)?;
    Ok(params)
}

/// Refuse lists that are longer than one request's may be, before anything of them is copied.
fn list_lengths(raw: &RawParams, limits: &SamplingLimits) -> Result<()> {
    let ListLimits { stop_strings, stop_bytes, stop_token_ids, .. } = limits.lists;
    let ListLimits { bad_words, bad_words_bytes, logit_biases, .. } = limits.lists;
    let vocab = limits.vocab_size as usize;
    let entries = |value: Option<&Value>| match value {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    };
    let bytes = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.len(),
        Some(Value::Array(list)) => list.iter().map(|v| v.as_str().map_or(0, str::len)).sum(),
        _ => 0,
    };

    let check = bounds::check;
    check("stop", "strings", entries(raw.stop), stop_strings, "max-stop-strings")?;
    check("stop", "bytes", bytes(raw.stop), stop_bytes, "max-stop-bytes")?;
    let ids = entries(raw.stop_token_ids);
    check("stop_token_ids", "ids", ids, stop_token_ids, "max-stop-token-ids")?;
    check("bad_words", "words", entries(raw.bad_words), bad_words, "max-bad-words")?;
    check("bad_words", "bytes", bytes(raw.bad_words), bad_words_bytes, "max-bad-words-bytes")?;
    check("logit_bias", "biases", entries(raw.logit_bias), logit_biases, "max-logit-biases")?;
    match entries(raw.allowed_token_ids) {
        ids if ids > vocab => {
            Err(invalid!("allowed_token_ids has {ids} ids, more than the vocabulary's {vocab}."))
        }
        _ => Ok(()),
    }
}

/// An error of the class that repeats parameter and value at its end.
fn valued(text: &str, parameter: &str, value: &str) -> Error {
    invalid!("{text} (parameter={parameter}, value={value})")
}

/// Into u32, for values already known not to be negative: more than that is never reached.
fn saturated(value: i128) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn sequences(n: i128, max: u32) -> Result<u32> {
    if n < 1 {
        return Err(invalid!("n must be at least 1, got {n}."));
    }
    if n > i128::from(max) {
        return Err(invalid!(
            "n must be at most {max}, got {n}. To increase this limit, set the \
             VLLM_MAX_N_SEQUENCES environment variable."
        ));
    }
    Ok(saturated(n))
}

fn penalties(raw: &RawParams, params: &mut SamplingParams) -> Result<()> {
    let within = |name: &str, value: f64| {
        if (-2.0..=2.0).contains(&value) {
            return Ok(value);
        }
        Err(invalid!("{name} must be in [-2, 2], got {}.", float_text(value)))
    };
    params.presence_penalty = within("presence_penalty", raw.presence_penalty.unwrap_or(0.0))?;
    params.frequency_penalty = within("frequency_penalty", raw.frequency_penalty.unwrap_or(0.0))?;
    let repetition = raw.repetition_penalty.unwrap_or(1.0);
    let got = float_text(repetition);
    if !repetition.is_finite() {
        return Err(invalid!("repetition_penalty must be a finite number, got {got}."));
    }
    if repetition <= 0.0 {
        return Err(invalid!("repetition_penalty must be greater than zero, got {got}."));
    }
    // Beyond it makes infinite logits on the device, and means the same: the tokens of the text so
    // far always, or never.
    params.repetition_penalty = repetition.clamp(1.0 / MOST_PENALTY, MOST_PENALTY);
    Ok(())
}

fn distribution(raw: &RawParams, params: &mut SamplingParams) -> Result<()> {
    let mut temperature = raw.temperature.unwrap_or(1.0);
    if temperature > 0.0 && temperature < LOWEST_TEMPERATURE {
        tracing::debug!("temperature {temperature} is raised to {LOWEST_TEMPERATURE}");
        temperature = LOWEST_TEMPERATURE;
    }
    let got = float_text(temperature);
    let refuse = |rule: &str| {
        Err(valued(&format!("temperature must be {rule}, got {got}."), "temperature", &got))
    };
    if !temperature.is_finite() {
        return refuse("a finite number");
    }
    if temperature < 0.0 {
        return refuse("non-negative");
    }
    if temperature > 2.0 {
        return refuse("in [0, 2]");
    }
    // -0.0 is greedy too: without the sign nobody downstream has to know it.
    params.temperature = temperature.abs();

    params.top_p = raw.top_p.unwrap_or(1.0);
    if !(params.top_p > 0.0 && params.top_p <= 1.0) {
        let got = float_text(params.top_p);
        return Err(valued(&format!("top_p must be in (0, 1], got {got}."), "top_p", &got));
    }
    let top_k = raw.top_k.unwrap_or(0);
    if top_k < -1 {
        return Err(invalid!("top_k must be 0 (disable), or at least 1, got {top_k}."));
    }
    params.top_k = saturated(top_k.max(0));
    params.min_p = raw.min_p.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&params.min_p) {
        return Err(invalid!("min_p must be in [0, 1], got {}.", float_text(params.min_p)));
    }
    Ok(())
}

fn lengths(raw: &RawParams, params: &mut SamplingParams) -> Result<()> {
    let max = raw.max_tokens.unwrap_or(params.max_tokens.map(i128::from));
    let min = raw.min_tokens.unwrap_or(0);
    if let Some(max) = max.filter(|max| *max < 1) {
        let text = format!("max_tokens must be at least 1, got {max}.");
        return Err(valued(&text, "max_tokens", &max.to_string()));
    }
    if min < 0 {
        return Err(invalid!("min_tokens must be greater than or equal to 0, got {min}."));
    }
    if let Some(max) = max.filter(|max| min > *max) {
        return Err(invalid!(
            "min_tokens must be less than or equal to max_tokens={max}, got {min}."
        ));
    }
    params.max_tokens = max.map(saturated);
    params.min_tokens = saturated(min);
    Ok(())
}

fn logprob_count(name: &str, count: Option<i128>) -> Result<Option<i64>> {
    match count {
        None => Ok(None),
        Some(count) if count < -1 => {
            let text = format!("{name} must be non-negative or -1, got {count}.");
            Err(valued(&text, name, &count.to_string()))
        }
        Some(count) => Ok(Some(i64::try_from(count).unwrap_or(i64::MAX))),
    }
}

/// A budget cannot be kept: no model here is told where its thinking begins and ends.
fn thinking_token_budget(budget: Option<i128>) -> Result<()> {
    match budget {
        None | Some(-1) => Ok(()),
        Some(tokens) if tokens < 0 => {
            let rule =
                "`thinking_token_budget` must be a non-negative integer or -1 for unlimited.";
            Err(valued(rule, "thinking_token_budget", &tokens.to_string()))
        }
        Some(_) => Err(invalid!(
            "thinking_token_budget is set but reasoning_config is not configured. Please set \
             --reasoning-parser and/or --reasoning-config to use thinking_token_budget."
        )),
    }
}

/// An object, or the text of one, since a request's parameters are no objects. All sizes 0 = off.
fn repetition(value: Option<&Value>) -> Result<Option<RepetitionRule>> {
    const NAME: &str = "repetition_detection";
    let parsed;
    let map = match value {
        None => return Ok(None),
        Some(Value::Object(map)) => map,
        Some(Value::String(text)) => {
            parsed = super::json::object(text, &ListLimits::DEFAULT)
                .map_err(|e| e.context(&format!("{NAME}: ")))?;
            &parsed
        }
        Some(other) => {
            return Err(invalid!("{NAME} must be an object, got {}.", python::shown(other)));
        }
    };

    let mut longest = 0;
    let mut shortest = 0;
    let mut count = 0;
    for (key, value) in map {
        let setting = match key.as_str() {
            "max_pattern_size" => &mut longest,
            "min_pattern_size" => &mut shortest,
            "min_count" => &mut count,
            _ => {
                let key = python::shown_text(key);
                return Err(invalid!("{NAME}: Unexpected keyword argument {key}"));
            }
        };
        *setting = python::int(value)?.unwrap_or(0);
    }

    if shortest < 0 || shortest > longest {
        return Err(invalid!(
            "{NAME}: 0 <= min_pattern_size <= max_pattern_size must hold, got {shortest} and \
             {longest}."
        ));
    }
    if longest == 0 {
        return Ok(None);
    }
    if count < 2 {
        return Err(invalid!("{NAME}: min_count must be at least 2, got {count}."));
    }
    let sizes = saturated(shortest.max(1))..=saturated(longest);
    Ok(Some(RepetitionRule { sizes, count: saturated(count) }))
}

fn seed(seed: Option<i128>) -> Result<Option<i64>> {
    match seed {
        None | Some(-1) => Ok(None),
        Some(value) => i64::try_from(value)
            .map(Some)
            .map_err(|_| invalid!("seed must be in [{}, {}], got {value}.", i64::MIN, i64::MAX)),
    }
}

fn stream_interval(interval: Option<i128>) -> Result<Option<u32>> {
    match interval {
        Some(tokens) if tokens < 1 => {
            Err(invalid!("stream_interval must be at least 1, got {tokens}."))
        }
        other => Ok(other.map(saturated)),
    }
}

fn lora_name(name: Option<&Value>) -> Result<Option<String>> {
    match name {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(name.clone())),
        Some(other) => Err(invalid!("lora_name must be a string, got {}.", python::shown(other))),
    }
}

/// One text or a list of texts.
fn texts(name: &str, value: Option<&Value>) -> Result<Vec<String>> {
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) if name == "stop" => return Ok(vec![text.clone()]),
        Some(Value::Array(list)) => list,
        Some(Value::String(_) | Value::Object(_)) => {
            return Err(invalid!("{name} must be a list of strings."));
        }
        Some(other) => {
            return Err(invalid!("'{}' object is not iterable", python::type_name(other)));
        }
    };
    let text = |item: &Value| match item.as_str() {
        Some(text) => Ok(text.to_string()),
        None => Err(invalid!("object of type '{}' has no len()", python::type_name(item))),
    };
    list.iter().map(text).collect()
}

fn unique<T: Eq + Hash + Clone>(list: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::new();
    list.into_iter().filter(|item| seen.insert(item.clone())).collect()
}

/// Elements as Python integers (bools are), None if one is anything else.
fn integers(list: &[Value]) -> Option<Vec<i128>> {
    let integer = |item: &Value| match item {
        Value::Bool(_) => python::int(item).ok().flatten(),
        Value::Number(n) if !n.is_f64() => python::int(item).ok().flatten(),
        _ => None,
    };
    list.iter().map(integer).collect()
}

fn stop_ids(value: Option<&Value>, vocab: u32) -> Result<Vec<TokenId>> {
    let wrong = |v: &Value| {
        invalid!("stop_token_ids must contain only integers, got {}.", python::shown(v))
    };
    let Some(value) = value else { return Ok(Vec::new()) };
    let list = value.as_array().ok_or_else(|| wrong(value))?;
    let ids = integers(list).ok_or_else(|| wrong(value))?;
    // One that the model cannot sample never stops anything.
    let known = ids.into_iter().filter_map(|id| u32::try_from(id).ok()).filter(|id| *id < vocab);
    Ok(unique(known.map(TokenId).collect()))
}

/// The rules that need the model: maximum of logprobs, ids inside the vocabulary.
fn against_model(
    raw: &RawParams,
    params: &mut SamplingParams,
    limits: &SamplingLimits,
) -> Result<()> {
    let vocab = limits.vocab_size;
    let all = i64::from(vocab);
    let max = if limits.max_logprobs == -1 { all } else { limits.max_logprobs };
    for (kind, name, count) in [
        ("sample", "logprobs", params.logprobs),
        ("prompt", "prompt_logprobs", params.prompt_logprobs),
    ] {
        let Some(asked) = count.map(|c| if c == -1 { all } else { c }).filter(|c| *c > max) else {
            continue;
        };
        let text = format!(
            "Requested {kind} logprobs of {asked}, which is greater than max allowed: {max}"
        );
        return Err(valued(&text, name, &asked.to_string()));
    }

    if let Some(value) = raw.logprob_token_ids {
        params.logprob_token_ids = Some(logprob_ids(value, params.logprobs, vocab)?);
    }
    if let Some(value) = raw.logit_bias {
        params.logit_bias = biases(value, vocab)?;
    }
    if let Some(value) = raw.allowed_token_ids {
        params.allowed_token_ids = Some(allowed(value, vocab)?);
    }
    Ok(())
}

fn ids_of(name: &str, value: &Value) -> Result<Vec<i128>> {
    value
        .as_array()
        .and_then(|list| integers(list))
        .ok_or_else(|| invalid!("{name} must be a list of integers, got {}.", python::shown(value)))
}

fn within(ids: &[i128], vocab: u32) -> Option<Vec<TokenId>> {
    let token = |id: &i128| u32::try_from(*id).ok().filter(|id| *id < vocab).map(TokenId);
    ids.iter().map(token).collect()
}

fn logprob_ids(value: &Value, logprobs: Option<i64>, vocab: u32) -> Result<Vec<TokenId>> {
    let ids = ids_of("logprob_token_ids", value)?;
    let n = ids.len();
    if n > MAX_LOGPROB_TOKEN_IDS {
        return Err(invalid!(
            "Requested logprob_token_ids of length {n}, which is greater than max allowed: \
             {MAX_LOGPROB_TOKEN_IDS}"
        ));
    }
    let tokens = within(&ids, vocab).ok_or_else(|| {
        invalid!("logprob_token_ids contain out-of-vocab token ids. Vocabulary size: {vocab}")
    })?;
    match logprobs {
        Some(count) if usize::try_from(count) != Ok(n) => Err(invalid!(
            "logprobs must equal the length of logprob_token_ids when both are set, got {count} \
             and {n}."
        )),
        _ => Ok(tokens),
    }
}

/// A clamped bias per token: JSON can only spell the ids as texts.
fn biases(value: &Value, vocab: u32) -> Result<Vec<(TokenId, f32)>> {
    let empty = Map::new();
    let map = match value {
        Value::Object(map) => map,
        Value::Array(list) if list.is_empty() => &empty,
        other => {
            let got = python::shown(other);
            return Err(invalid!("logit_bias must map token ids to numbers, got {got}."));
        }
    };

    let mut biases = Vec::with_capacity(map.len());
    let mut outside = Vec::new();
    for (key, bias) in map {
        let id = python::int_literal(key).ok_or_else(|| {
            invalid!("logit_bias keys must be token ids, got {}.", python::shown_text(key))
        })?;
        let bias = python::float(bias)?.filter(|b| !b.is_nan()).ok_or_else(|| {
            invalid!("logit_bias of token {id} must be a number, got {}.", python::shown(bias))
        })?;
        match u32::try_from(id).ok().filter(|id| *id < vocab) {
            Some(id) => biases.push((TokenId(id), bias.clamp(-100.0, 100.0) as f32)),
            None => outside.push(id),
        }
    }

    if outside.is_empty() {
        return Ok(biases);
    }
    let ids = python::shown_list(outside.iter().map(i128::to_string));
    let text = format!(
        "token_id(s) {ids} in logit_bias contain out-of-vocab token ids. Vocabulary size: {vocab}"
    );
    Err(valued(&text, "logit_bias", &python::shown(value)))
}

fn allowed(value: &Value, vocab: u32) -> Result<Vec<TokenId>> {
    let ids = ids_of("allowed_token_ids", value)?;
    let refuse = |text: &str| valued(text, "allowed_token_ids", &python::shown(value));
    if ids.is_empty() {
        return Err(refuse("allowed_token_ids is not None and empty!"));
    }
    within(&ids, vocab).ok_or_else(|| refuse("allowed_token_ids contains out-of-vocab token id!"))
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
