//! The arguments of models that pool: `runner`, `convert`, `pooler_config` and what these were
//! called before. Called by `args`; what a model makes of them is decided in `model::pooling`.

use serde_json::Value;

use super::values::{self, Reader};
use crate::device::Pooling;
use crate::error::{Error, Result};
use crate::json;
use crate::model::config::{Convert, PoolerOptions, RunnerKind};
use crate::sampling::python::quoted;

/// Keys of `pooler_config` that we read, then those that must not be set.
const KNOWN: [&str; 17] = [
    "pooling_type",
    "seq_pooling_type",
    "normalize",
    "use_activation",
    "dimensions",
    "task",
    "logit_bias",
    "logit_mean",
    "logit_sigma",
    "softmax",
    "activation",
    "tok_pooling_type",
    "enable_chunked_processing",
    "max_embed_len",
    "step_tag_id",
    "returned_token_ids",
    "enable_flash_late_interaction",
];
const READ: usize = 11;
/// Of models that compare tokens: whatever it says, nothing here does.
const SILENT: &str = "enable_flash_late_interaction";

/// `task` of older releases as a `runner`, and as a `convert` where that says more.
pub(super) fn keys_of_task(task: &Value) -> Result<Vec<(&'static str, Value)>> {
    let runner = |name: &str| ("runner", Value::from(name));
    match task.as_str() {
        Some("generate") => Ok(vec![runner("generate")]),
        Some("embed" | "embedding") => Ok(vec![runner("pooling")]),
        Some("classify" | "score") => Ok(vec![runner("pooling"), ("convert", "classify".into())]),
        Some(other) => Err(not_built("task", other)),
        None => Err(values::wrong("task", "a string", task)),
    }
}

/// # Errors
/// What the pooler does beside vectors and scores (rewards, tokens); a key or value it has not.
pub(super) fn read(read: &mut Reader) -> Result<PoolerOptions> {
    let runner = match read.string("runner")?.as_deref() {
        None | Some("auto") => None,
        Some("generate") => Some(RunnerKind::Generate),
        Some("pooling") => Some(RunnerKind::Pooling),
        Some(other) => return Err(not_built("runner", other)),
    };
    let convert = match read.string("convert")?.as_deref() {
        None | Some("auto" | "none") => None,
        Some("embed") => Some(Convert::Embed),
        Some("classify") => Some(Convert::Classify),
        Some(other) => return Err(not_built("convert", other)),
    };

    let config = read.object("pooler_config")?;
    let mut quiet = Vec::new();
    let mut inner = Reader::new(&config, &mut quiet);
    inner.only("pooler_config", &KNOWN)?;
    let set = |value: &Value| !values::is_empty(value) && *value != Value::Bool(false);
    let not_read = |key: &str| !KNOWN[..READ].contains(&key) && key != SILENT;
    if let Some((key, value)) = config.iter().find(|(key, value)| not_read(key) && set(value)) {
        return Err(not_built(&format!("pooler_config.{key}"), &json::shown(value)));
    }

    let kind = inner.string("seq_pooling_type")?;
    let kind = kind.or(inner.string("pooling_type")?);
    let kind = match kind.as_deref().map(str::to_ascii_uppercase).as_deref() {
        None => None,
        Some("CLS") => Some(Pooling::First),
        Some("LAST") => Some(Pooling::Last),
        Some("MEAN") => Some(Pooling::Mean),
        Some(other) => return Err(not_built("pooler_config.pooling_type", other)),
    };
    let task = match inner.string("task")?.as_deref() {
        None => None,
        Some("embed") => Some(Convert::Embed),
        Some("classify" | "score") => Some(Convert::Classify),
        Some(other) => return Err(not_built("pooler_config.task", other)),
    };

    Ok(PoolerOptions {
        runner: runner.unwrap_or(match convert {
            Some(_) => RunnerKind::Pooling,
            None => RunnerKind::Auto,
        }),
        convert: convert.or(task),
        kind,
        use_activation: use_activation(&mut inner)?,
        dimensions: inner.at_least("dimensions", 1)?,
        logit_mean: inner.float("logit_mean")?.or(inner.float("logit_bias")?),
        logit_sigma: inner.float("logit_sigma")?,
    })
}

/// By any of its names.
fn use_activation(inner: &mut Reader) -> Result<Option<bool>> {
    for key in ["use_activation", "normalize", "activation", "softmax"] {
        let said = inner.boolean(key)?;
        if said.is_some() {
            return Ok(said);
        }
    }
    Ok(None)
}

fn not_built(key: &str, value: &str) -> Error {
    Error::Unsupported(format!(
        "{key} {} is not supported by this version, which generates text (runner 'generate'), \
         embeds and classifies (runner 'pooling'; pooling by CLS, LAST or MEAN)",
        quoted(value)
    ))
}
