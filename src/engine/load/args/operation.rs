//! Arguments of those who run a server: the log's level, the watchdog, the buckets of histograms.
//! Called by `args`; `triton` acts on them.

use std::time::Duration;

use serde_json::Value;

use super::values::{self, Reader};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json;
use crate::sampling::python::quoted;

/// What an operator sets beside the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OperationArgs {
    /// Lines below this level are not logged; `None` = INFO, and the rest as the server says.
    pub log_level: Option<tracing::Level>,
    /// `watchdog_config.timeout`: a step that runs longer means a dead engine. The server's
    /// `step-timeout-ms` wins.
    pub step_timeout: Option<Duration>,
    /// `custom_histogram_buckets`.
    pub buckets: HistogramBuckets,
}

/// Upper bounds of histograms' buckets by family, where they are not the usual ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistogramBuckets(Vec<(&'static str, Vec<f64>)>);

impl HistogramBuckets {
    /// The bounds of a family, else the usual ones.
    pub fn of<'a>(&'a self, family: &str, usual: &'a [f64]) -> &'a [f64] {
        let own = self.0.iter().find(|(name, _)| *name == family);
        own.map_or(usual, |(_, bounds)| bounds)
    }
}

/// vLLM's families, and whether we have a histogram of it.
const FAMILIES: [(&str, bool); 8] = [
    ("request_latency", true),
    ("time_to_first_token", true),
    ("inter_token_latency", true),
    ("iteration_tokens", true),
    ("request_params_n", true),
    ("request_tokens", true),
    ("request_num_preemptions", false),
    ("kv_cache_residency", false),
];
const LEVELS: [&str; 6] = ["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET"];
const LOGGING: [&str; 4] = ["log_level", "formatter", "configure_logging", "pylogging_config_file"];
const WATCHDOG: [&str; 3] = ["timeout", "check_interval", "dump_dir"];
/// vLLM's default of `watchdog_config.timeout`.
const WATCHDOG_TIMEOUT_S: u64 = 300;

/// # Errors
/// InvalidArgument: an unknown member, a value of the wrong type or out of range.
pub(super) fn read(read: &mut Reader) -> Result<OperationArgs> {
    Ok(OperationArgs {
        log_level: log_level(read)?,
        step_timeout: watchdog(read)?,
        buckets: buckets(read)?,
    })
}

/// `log_level`, else that of `logging_config`.
fn log_level(read: &mut Reader) -> Result<Option<tracing::Level>> {
    const KEY: &str = "logging_config";
    let config = read.object(KEY)?;
    let mut coerced = Vec::new();
    let mut inner = Reader::new(&config, &mut coerced);
    inner.only(KEY, &LOGGING)?;
    let at = |e: Error| e.context(&format!("{KEY}."));

    let outer = read.upper("log_level")?;
    let name = outer.or(inner.upper("log_level").map_err(at)?);

    inner.boolean("configure_logging").map_err(at)?;
    for member in ["formatter", "pylogging_config_file"] {
        let set = inner.string(member).map_err(at)?;
        if set.is_some_and(|value| value != "text") {
            read.say(format!("{KEY}.{member} has no effect here: the server writes the log"));
        }
    }

    match name.as_deref() {
        None => Ok(None),
        Some("CRITICAL" | "ERROR") => Ok(Some(tracing::Level::ERROR)),
        Some("WARNING" | "WARN") => Ok(Some(tracing::Level::WARN)),
        Some("INFO") => Ok(Some(tracing::Level::INFO)),
        Some("DEBUG") => Ok(Some(tracing::Level::DEBUG)),
        Some("NOTSET") => Ok(Some(tracing::Level::TRACE)),
        Some(other) => Err(invalid!(
            "log_level: got {}, expected one of {}",
            quoted(&json::cut(other)),
            LEVELS.join(", ")
        )),
    }
}

/// vLLM's writes the stacks of a process that hangs to a file; ours ends an engine that does.
fn watchdog(read: &mut Reader) -> Result<Option<Duration>> {
    const KEY: &str = "watchdog_config";
    let config = read.object(KEY)?;
    let mut coerced = Vec::new();
    let mut inner = Reader::new(&config, &mut coerced);
    inner.only(KEY, &WATCHDOG)?;
    let at = |e: Error| e.context(&format!("{KEY}."));
    let timeout: Option<u64> = inner.at_least("timeout", 1).map_err(at)?;
    inner.at_least::<u64>("check_interval", 1).map_err(at)?;
    if inner.string("dump_dir").map_err(at)?.is_some_and(|dir| !dir.is_empty()) {
        read.say(format!("{KEY}.dump_dir has no effect here: no stacks are written"));
    }
    if config.is_empty() {
        return Ok(None);
    }
    Ok(Some(Duration::from_secs(timeout.unwrap_or(WATCHDOG_TIMEOUT_S))))
}

fn buckets(read: &mut Reader) -> Result<HistogramBuckets> {
    const KEY: &str = "custom_histogram_buckets";
    let config = read.object(KEY)?;
    let mut all = Vec::new();
    for (name, bounds) in &config {
        let Some(&(family, built)) = FAMILIES.iter().find(|(family, _)| family == name) else {
            return Err(values::unknown(KEY, "family", name, &FAMILIES.map(|(family, _)| family)));
        };
        let bounds = bounds_of(bounds).ok_or_else(|| {
            invalid!(
                "{KEY}.{family}: expected a list of numbers above 0, each larger than the one \
                 before, got {}",
                json::shown(bounds)
            )
        })?;
        if !built {
            read.say(format!("{KEY}.{family} has no effect here: there is no such histogram"));
        }
        all.push((family, bounds));
    }
    Ok(HistogramBuckets(all))
}

fn bounds_of(value: &Value) -> Option<Vec<f64>> {
    let bounds: Vec<f64> = value.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
    let rising = bounds.windows(2).all(|pair| pair[0] < pair[1]);
    let positive = bounds.first().is_some_and(|&first| first > 0.0);
    (rising && positive).then_some(bounds)
}
