//! The arguments of models that embed: `runner`, `convert`, `pooler_config` and what these were
//! called before. Called by `args`; what a model makes of them is decided in `model::pooling`.

use serde_json::{Map, Value};

use super::values::{self, Reader};
use crate::device::Pooling;
use crate::error::{Error, Result};
use crate::model::pooling::{PoolerOptions, Runner};
use crate::sampling::python::quoted;

/// Keys of `pooler_config` that we read; the others must not be set.
const READ: [&str; 6] =
    ["pooling_type", "seq_pooling_type", "normalize", "use_activation", "dimensions", "task"];

/// `task` and `override_pooler_config` of older releases.
pub(super) fn modernise(map: &mut Map<String, Value>, warnings: &mut Vec<String>) -> Result<()> {
    if let Some(task) = map.remove("task") {
        warnings.push("model.json: 'task' is out of date, use 'runner'".into());
        match task.as_str().unwrap_or("auto") {
            "auto" => {}
            "generate" => {
                map.entry("runner").or_insert("generate".into());
            }
            "embed" | "embedding" => {
                map.entry("runner").or_insert("pooling".into());
            }
            other => return Err(not_built("task", other)),
        }
    }
    if let Some(config) = map.remove("override_pooler_config") {
        warnings.push(
            "model.json: 'override_pooler_config' is out of date, read as pooler_config".into(),
        );
        map.entry("pooler_config").or_insert(config);
    }
    Ok(())
}

/// # Errors
/// What the pooler does beside embeddings (classes, scores, rewards); a key or value it has not.
pub(super) fn read(read: &mut Reader) -> Result<PoolerOptions> {
    let runner = match read.string("runner")?.as_deref() {
        None | Some("auto") => None,
        Some("generate") => Some(Runner::Generate),
        Some("pooling") => Some(Runner::Pooling),
        Some(other) => return Err(not_built("runner", other)),
    };
    let runner = match (read.string("convert")?.as_deref(), runner) {
        (None | Some("auto" | "none"), runner) => runner.unwrap_or_default(),
        (Some("embed"), runner) => runner.unwrap_or(Runner::Pooling),
        (Some(other), _) => return Err(not_built("convert", other)),
    };
    let config = read.object("pooler_config")?;
    if let Some((key, value)) =
        config.iter().find(|(k, v)| !READ.contains(&k.as_str()) && !values::is_default(v, "false"))
    {
        return Err(not_built(&format!("pooler_config.{key}"), &value.to_string()));
    }
    let mut quiet = Vec::new();
    let mut inner = Reader::new(&config, &mut quiet);
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
