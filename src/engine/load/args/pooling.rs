//! The arguments of models that embed: `runner`, `convert`, `pooler_config` and what these were
//! called before. Called by `args`; what a model makes of them is decided in `model::pooling`.

use serde_json::Value;

use super::values::{self, Reader};
use crate::device::Pooling;
use crate::error::{Error, Result};
use crate::json;
use crate::model::config::{PoolerOptions, RunnerKind};
use crate::sampling::python::quoted;

/// Keys of `pooler_config` that we read, then those that must not be set.
const KNOWN: [&str; 17] = [
    "pooling_type",
    "seq_pooling_type",
    "normalize",
    "use_activation",
    "dimensions",
    "task",
    "tok_pooling_type",
    "enable_chunked_processing",
    "max_embed_len",
    "logit_bias",
    "logit_mean",
    "logit_sigma",
    "step_tag_id",
    "returned_token_ids",
    "softmax",
    "activation",
    "enable_flash_late_interaction",
];
const READ: usize = 6;
/// Of models that compare tokens: whatever it says, nothing here does.
const SILENT: &str = "enable_flash_late_interaction";

/// `task` of older releases as a `runner`.
pub(super) fn runner_of_task(task: &Value) -> Result<Value> {
    match task.as_str() {
        Some("generate") => Ok("generate".into()),
        Some("embed" | "embedding") => Ok("pooling".into()),
        Some(other) => Err(not_built("task", other)),
        None => Err(values::wrong("task", "a string", task)),
    }
}

/// # Errors
/// What the pooler does beside embeddings (classes, scores, rewards); a key or value it has not.
pub(super) fn read(read: &mut Reader) -> Result<PoolerOptions> {
    let runner = match read.string("runner")?.as_deref() {
        None | Some("auto") => None,
        Some("generate") => Some(RunnerKind::Generate),
        Some("pooling") => Some(RunnerKind::Pooling),
        Some(other) => return Err(not_built("runner", other)),
    };
    let runner = match (read.string("convert")?.as_deref(), runner) {
        (None | Some("auto" | "none"), runner) => runner.unwrap_or_default(),
        (Some("embed"), runner) => runner.unwrap_or(RunnerKind::Pooling),
        (Some(other), _) => return Err(not_built("convert", other)),
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
    if let Some(task) = inner.string("task")?.filter(|task| task != "embed") {
        return Err(not_built("pooler_config.task", &task));
    }

    let normalize = inner.boolean("use_activation")?;
    Ok(PoolerOptions {
        runner,
        kind,
        normalize: normalize.or(inner.boolean("normalize")?),
        dimensions: inner.at_least("dimensions", 1)?,
    })
}

fn not_built(key: &str, value: &str) -> Error {
    Error::Unsupported(format!(
        "{key} {} is not supported by this version, which generates text (runner 'generate') and \
         embeds (runner 'pooling'; pooling by CLS, LAST or MEAN)",
        quoted(value)
    ))
}
