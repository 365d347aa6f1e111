//! `speculative_config`: whether sequences have drafts, by which method and how many. Called by
//! `args`. Which models cannot have any is said in `load::speculation`.

use serde_json::{Map, Value};

use super::values::{self, Reader};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json;
use crate::model::config::EagleVersion;
use crate::plan::MAX_DRAFTS;
use crate::sampling::python::quoted;
use crate::scheduler::{DraftLengths, DraftMethod, DraftModel, SuffixConfig};

const KEY: &str = "speculative_config";
/// Methods that are built.
const BUILT: &str = "'ngram', 'ngram_gpu', 'suffix', 'draft_model', 'eagle', 'eagle3', 'mtp'";
/// Tokens of an n-gram, where neither bound is given.
const USUAL_NGRAM: usize = 5;
/// Tokens of an n-gram at most.
const LONGEST_NGRAM: i64 = 1024;

/// Members that are read for every method.
const READ: [&str; 6] = [
    "method",
    "model",
    "num_speculative_tokens",
    "num_speculative_tokens_per_batch_size",
    "disable_by_batch_size",
    "draft_tensor_parallel_size",
];
/// Those of n-grams, and of suffixes.
const NGRAM: [&str; 2] = ["prompt_lookup_max", "prompt_lookup_min"];
const SUFFIX: [&str; 4] = [
    "suffix_decoding_max_cached_requests",
    "suffix_decoding_max_spec_factor",
    "suffix_decoding_max_tree_depth",
    "suffix_decoding_min_token_prob",
];
/// Those of a model that drafts.
const DRAFT_MODEL: [&str; 4] = ["draft_sample_method", "max_model_len", "quantization", "revision"];
/// Those of other methods, with the values that say nothing.
const OTHERS: [(&str, &str); 17] = [
    ("attention_backend", "[]"),
    ("code_revision", "[]"),
    ("disable_eagle_block_drop", "[false]"),
    ("disable_logprobs", "[true, false]"),
    ("disable_lookahead_block_hashes", "[false]"),
    ("disable_mqa_scorer", "[false]"),
    ("disable_padded_drafter_batch", "[false]"),
    ("draft_load_config", "[]"),
    ("enforce_eager", "[false]"),
    ("index_share_for_mtp_iteration", "[false]"),
    ("kv_cache_dtype", r#"["auto"]"#),
    ("moe_backend", r#"["auto"]"#),
    ("parallel_drafting", "[false]"),
    ("rejection_sample_method", r#"["standard", "block"]"#),
    ("use_heterogeneous_vocab", "[false]"),
    ("use_local_argmax_reduction", "[false]"),
    // Read by name below.
    ("tensor_parallel_size", "[]"),
];

/// What of `speculative_config` the scheduler is told.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeculationArgs {
    /// How drafts are made.
    pub method: DraftMethod,
    /// How many.
    pub lengths: DraftLengths,
    /// The model that drafts, for that method.
    pub draft: Option<DraftModelArgs>,
}

/// What a model that drafts is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftKind {
    /// A model by itself.
    Model,
    /// A head that reads the target's hidden states.
    Eagle(EagleVersion),
    /// A layer of the target's own that predicts further tokens.
    NextToken,
}

/// A model that drafts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftModelArgs {
    /// What it is.
    pub kind: DraftKind,
    /// Local folder or Hugging Face id; empty: the target's own files.
    pub model: String,
    /// Branch, tag or commit of it on the hub; None = main.
    pub revision: Option<String>,
    /// How its checkpoint is quantised, in small letters; None: as it says itself.
    pub quantization: Option<String>,
    /// Positions that it may have; None: as many as the model may.
    pub max_model_len: Option<u32>,
}

/// None: the key is not set. `ranks`: `tensor_parallel_size`.
///
/// # Errors
/// InvalidArgument: a member or a method that is not known, a value that means nothing.
pub(super) fn read(
    map: &Map<String, Value>,
    ranks: u32,
    outer: &mut Reader,
) -> Result<Option<SpeculationArgs>> {
    let Some(config) = map.get(KEY).filter(|config| !values::is_empty(config)) else {
        return Ok(None);
    };
    let config = values::parsed_object(KEY, config)?;
    let config = config.into_iter().map(|(name, value)| (name.replace('-', "_"), value));
    let config: Map<String, Value> = config.filter(|(_, value)| !values::is_empty(value)).collect();
    let mut said = Vec::new();
    let mut read = Reader::new(&config, &mut said);
    let others = OTHERS.map(|(name, _)| name);
    let names: Vec<&str> = [&READ[..], &NGRAM, &SUFFIX, &DRAFT_MODEL, &others].concat();
    read.only(KEY, &names)?;

    // Which method comes first: others may be asked for with members that mean nothing here.
    let method = method(&mut read, &config)?;
    check_ranks(&mut read, ranks)?;
    let suffix = suffix(&mut read)?;
    let ngram = ngram(&mut read)?;
    let usual = match method {
        Method::Suffix => Some(suffix.max_depth.min(MAX_DRAFTS)),
        // The layer was trained for one.
        Method::Model(DraftKind::NextToken) => Some(1),
        Method::Ngram | Method::Model(_) => None,
    };
    let lengths = lengths(&mut read, &config, usual)?;
    let args = match method {
        Method::Suffix => {
            say_ignored(&mut read, &config, "suffixes", &[&NGRAM[..], &DRAFT_MODEL].concat());
            SpeculationArgs { method: DraftMethod::Suffix(suffix), lengths, draft: None }
        }
        Method::Model(kind) => {
            say_ignored(&mut read, &config, kind.drafts(), &[&NGRAM[..], &SUFFIX].concat());
            let (method, draft) = draft_model(&mut read, kind)?;
            if draft.model.is_empty() && kind != DraftKind::NextToken {
                return Err(invalid!(
                    "{KEY}.model must be set: the model that drafts, a folder or an id"
                ));
            }
            SpeculationArgs { method, lengths, draft: Some(draft) }
        }
        Method::Ngram => {
            say_ignored(&mut read, &config, "n-grams", &[&SUFFIX[..], &DRAFT_MODEL].concat());
            SpeculationArgs { method: ngram, lengths, draft: None }
        }
    };
    said.into_iter().for_each(|line| outer.say(format!("{KEY}: {line}")));
    Ok(Some(args))
}

/// Warn of members of other methods, unless their values say nothing. `methods`: those of one that
/// is built.
fn say_ignored(read: &mut Reader, config: &Map<String, Value>, drafts: &str, methods: &[&str]) {
    let methods = methods.iter().map(|&name| (name, "[]"));
    for (name, neutral) in OTHERS.into_iter().chain(methods) {
        let Some(value) = config.get(name) else { continue };
        let neutral: Vec<Value> = serde_json::from_str(neutral).unwrap_or_default();
        if !neutral.iter().any(|other| values::same(value, other)) {
            let shown = json::shown(value);
            read.say(format!("'{name}' has no effect on drafts by {drafts}: {shown} is ignored"));
        }
    }
}

/// What `method` and `model` come to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Ngram,
    Suffix,
    Model(DraftKind),
}

impl DraftKind {
    /// By what drafts are made, for warnings.
    fn drafts(self) -> &'static str {
        match self {
            DraftKind::Model => "a model",
            DraftKind::Eagle(_) => "a head",
            DraftKind::NextToken => "the model's own layer",
        }
    }
}

fn at(error: Error) -> Error {
    error.context(&format!("{KEY}."))
}

/// Which method is asked for, by its name or by that of the model that is to draft.
fn method(read: &mut Reader, config: &Map<String, Value>) -> Result<Method> {
    let model = read.string("model").map_err(at)?;
    let given = read.string("method").map_err(at)?;
    let name = match (&given, &model) {
        (Some(method), _) => method.to_ascii_lowercase(),
        (None, Some(model)) => method_of(model).into(),
        (None, None) => {
            let member = config.keys().next().map_or("", String::as_str);
            return Err(invalid!(
                "{KEY}.{member}: num_speculative_tokens was provided but without speculative \
                 model. Set {KEY}.method to one of {BUILT}"
            ));
        }
    };
    match name.as_str() {
        "ngram" | "ngram_gpu" | "[ngram]" => return Ok(Method::Ngram),
        "suffix" => return Ok(Method::Suffix),
        "draft_model" => return Ok(Method::Model(DraftKind::Model)),
        "eagle" => return Ok(Method::Model(DraftKind::Eagle(EagleVersion::One))),
        "eagle3" => return Ok(Method::Model(DraftKind::Eagle(EagleVersion::Three))),
        "mtp" => return Ok(Method::Model(DraftKind::NextToken)),
        _ => {}
    }

    let who = match (&given, &model) {
        (None, Some(model)) => {
            format!("{KEY}.model {} means the method", quoted(&json::cut(model)))
        }
        _ => format!("{KEY}.method"),
    };
    let shown = quoted(&json::cut(&name));
    if name.ends_with("_mtp") {
        read.say(format!("{who} {shown} is out of date: read as 'mtp'"));
        return Ok(Method::Model(DraftKind::NextToken));
    }
    Err(invalid!("{who} {shown}: there is no such method here, this version drafts by {BUILT}"))
}

/// By the name of the model that is to draft, as vLLM takes it.
fn method_of(model: &str) -> &'static str {
    let name = model.to_ascii_lowercase();
    if matches!(name.as_str(), "ngram" | "[ngram]") {
        "ngram"
    } else if name.contains("eagle3") {
        "eagle3"
    } else if name.contains("eagle-") {
        "eagle"
    } else {
        "draft_model"
    }
}

/// Who drafts on the target's own devices takes as many of them, or one.
fn check_ranks(read: &mut Reader, ranks: u32) -> Result<()> {
    if read.int("tensor_parallel_size").map_err(at)?.is_some() {
        return Err(invalid!(
            "'tensor_parallel_size' is not a valid argument in the speculative_config. Please pass \
             'draft_tensor_parallel_size' instead."
        ));
    }
    match read.int("draft_tensor_parallel_size").map_err(at)? {
        Some(n) if n != 1 && n != i64::from(ranks) => Err(invalid!(
            "speculative_draft_tensor_parallel_size={n} cannot be other value than 1 or target \
             model tensor_parallel_size"
        )),
        _ => Ok(()),
    }
}

fn ngram(read: &mut Reader) -> Result<DraftMethod> {
    let mut size = |key: &str| -> Result<Option<usize>> {
        let n = read.at_least::<i64>(key, 1).map_err(at)?;
        if let Some(n) = n.filter(|&n| n > LONGEST_NGRAM) {
            return Err(invalid!("{KEY}.{key} is {n}, at most {LONGEST_NGRAM}"));
        }
        Ok(n.map(|n| n as usize))
    };
    let most = size("prompt_lookup_max")?;
    let least = size("prompt_lookup_min")?;
    let both = most.or(least).unwrap_or(USUAL_NGRAM);
    let (least, most) = (least.unwrap_or(both), most.unwrap_or(both));
    if least > most {
        return Err(invalid!("prompt_lookup_min={least} must be <= prompt_lookup_max={most}"));
    }
    Ok(DraftMethod::Ngram { least, most })
}

fn suffix(read: &mut Reader) -> Result<SuffixConfig> {
    let [cached, factor, depth, least] = SUFFIX;
    let max_depth = read.at_least::<usize>(depth, 1).map_err(at)?.unwrap_or(24);
    let cached_requests = read.at_least::<usize>(cached, 0).map_err(at)?.unwrap_or(10_000);
    let max_factor = read.float(factor).map_err(at)?.unwrap_or(1.0);
    let min_probability = read.float(least).map_err(at)?.unwrap_or(0.1);
    if !(max_factor >= 0.0 && max_factor.is_finite()) {
        return Err(invalid!("{KEY}.{factor}={max_factor} must be >= 0"));
    }
    if !(0.0..=1.0).contains(&min_probability) {
        return Err(invalid!("{KEY}.{least}={min_probability} must be in [0, 1]"));
    }
    Ok(SuffixConfig { max_depth, cached_requests, max_factor, min_probability })
}

/// A model that drafts; its name may be empty. It samples as its sequence does unless it is to say
/// the likeliest tokens.
fn draft_model(read: &mut Reader, kind: DraftKind) -> Result<(DraftMethod, DraftModelArgs)> {
    let samples = match read.string("draft_sample_method").map_err(at)?.as_deref() {
        None | Some("probabilistic") => true,
        Some("greedy") => false,
        Some(other) => {
            return Err(invalid!(
                "{KEY}.draft_sample_method {}: it is 'greedy' or 'probabilistic'",
                quoted(&json::cut(other))
            ))
        }
    };
    let quantization = read.string("quantization").map_err(at)?;
    let model = read.string("model").map_err(at)?.filter(|_| kind != DraftKind::NextToken);
    let args = DraftModelArgs {
        kind,
        model: model.unwrap_or_default(),
        revision: read.string("revision").map_err(at)?,
        quantization: quantization.map(|method| method.to_ascii_lowercase()),
        max_model_len: read.at_least("max_model_len", 1).map_err(at)?,
    };
    let head = kind != DraftKind::Model;
    Ok((DraftMethod::Model(DraftModel { longest: usize::MAX, samples, head }), args))
}

/// Drafts of a sequence, by how many sequences run. `usual`: of each, where nothing says it.
fn lengths(
    read: &mut Reader,
    config: &Map<String, Value>,
    usual: Option<usize>,
) -> Result<DraftLengths> {
    const BY_SIZE: &str = "num_speculative_tokens_per_batch_size";
    const OLD: &str = "disable_by_batch_size";
    let most = read.at_least::<i64>("num_speculative_tokens", 1).map_err(at)?;
    if let Some(most) = most.filter(|&most| most > MAX_DRAFTS as i64) {
        return Err(invalid!("{KEY}.num_speculative_tokens is {most}, at most {MAX_DRAFTS}"));
    }
    let most = most.map(|most| most as usize).or(usual);

    let ranges = config.get(BY_SIZE).map(|value| ranges(BY_SIZE, value, most)).transpose()?;
    let off_from = read.at_least::<usize>(OLD, 1).map_err(at)?;
    match (ranges, most) {
        (Some(ranges), _) => Ok(DraftLengths::by_running(ranges)),
        (None, None) => {
            let member = config.keys().next().map_or("", String::as_str);
            Err(invalid!(
                "{KEY}.{member}: num_speculative_tokens must be set: how many tokens are drafted \
                 at a time, 1 to {MAX_DRAFTS}"
            ))
        }
        (None, Some(most)) => {
            let Some(off_from) = off_from else { return Ok(DraftLengths::constant(most)) };
            read.say(format!(
                "'{OLD}' is out of date: read as '{BY_SIZE}': [[1, {}, {most}], [{off_from}, ..., \
                 0]]",
                off_from - 1
            ));
            let on = (off_from > 1).then_some((1, most));
            Ok(DraftLengths::by_running(on.into_iter().chain([(off_from, 0)]).collect()))
        }
    }
}

/// Lists of the first and the last number of running sequences, and their drafts. In between, and
/// behind the last, it is as before.
fn ranges(key: &str, value: &Value, most: Option<usize>) -> Result<Vec<(usize, usize)>> {
    let wrong = |what: &str| invalid!("{KEY}.{key}: {what}, got {}", json::shown(value));
    let list =
        value.as_array().ok_or_else(|| wrong("Input should be a list of [first, last, k]"))?;
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let mut next = 1;
    for range in list {
        let numbers: Option<Vec<u64>> =
            range.as_array().and_then(|range| range.iter().map(Value::as_u64).collect());
        let Some([first, last, drafts]) = numbers.as_deref() else {
            return Err(wrong("each range should be [first, last, k]"));
        };
        if *first < next || last < first || (ranges.is_empty() && *first != 1) {
            return Err(wrong("ranges should begin with 1 and ascend"));
        }
        let allowed = most.unwrap_or(MAX_DRAFTS);
        let drafts = usize::try_from(*drafts).unwrap_or(usize::MAX);
        if drafts > allowed {
            return Err(wrong(&format!("each k should be at most {allowed}")));
        }
        next = last.saturating_add(1);
        ranges.push((usize::try_from(*first).unwrap_or(usize::MAX), drafts));
    }
    Ok(ranges)
}

#[cfg(test)]
#[path = "speculation_tests.rs"]
mod tests;
