//! `--backend-config=vllm,key=value`: what the server's operator decides, not a model.json. Called
//! by `model`.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::error::{nearest, Result};
use crate::invalid;
use crate::sampling::ListLimits;

/// A network file system may be away for minutes and come back.
const LOAD_READ_TIMEOUT: Duration = Duration::from_secs(300);

/// What the server itself puts among ours, or takes for all backends.
const OF_THE_SERVER: [&str; 5] = [
    "auto-complete-config",
    "backend-directory",
    "default-max-batch-size",
    "min-compute-capability",
    "execution-policy",
];
/// Of Triton's Python backend, in which vLLM's own backend runs.
const OF_PYTHON: [&str; 5] = [
    "shm-default-byte-size",
    "shm-growth-byte-size",
    "shm-region-prefix-name",
    "stub-timeout-seconds",
    "thread-pool-size",
];

/// The keys of `--backend-config=vllm,`, as they count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// `max-waiting`: requests that may wait for a slot, per instance.
    pub max_waiting: usize,
    /// `max-request-bytes`: input tensors of one request, together.
    pub max_request_bytes: u64,
    /// `max-backlog-tokens`: tokens of one stream that may wait for its responses to be sent.
    pub max_backlog_tokens: usize,
    /// `max-logprob-entries`: logprobs of one request that may wait for a response to carry them.
    pub max_logprob_entries: usize,
    /// `max-stop-strings` and the like: what the lists of one request may hold.
    pub lists: ListLimits,
    /// `drain-deadline-ms`: what is unfinished so long after an unload began, fails. Below the
    /// server's own exit timeout (30 s), so that a stop of the server is orderly.
    pub drain_deadline: Duration,
    /// `outbox-threads`: threads that turn tokens into responses, per instance. None = by the
    /// cores.
    pub outbox_threads: Option<usize>,
    /// `default-max-tokens`: for requests that do not say. None = vLLM's own 16.
    pub default_max_tokens: Option<u32>,
    /// `step-timeout-ms`: an engine whose step runs longer is dead; 0 = never. None = by the
    /// device.
    pub step_timeout: Option<Duration>,
    /// `prompt-step-ms`: what a step with prompts is to take at most while others generate; 0 = no
    /// limit. None = the engine's own.
    pub prompt_step: Option<Duration>,
    /// `grammar-timeout-ms`: what compiling one grammar of `structured_outputs` may take, and each
    /// of its token masks; the request fails beyond.
    pub grammar_timeout: Duration,
    /// `restart`: times per hour that a dead engine is loaded again in place, before it counts as
    /// dead for good.
    pub restarts: usize,
    /// `step-trace-dir`: Chrome trace events of each engine's steps, one file per instance.
    pub step_trace_dir: Option<PathBuf>,
    /// `load-deadline-ms`: what is not loaded after so long is given up; 0 = never.
    pub load_deadline: Option<Duration>,
    /// `load-read-timeout-ms`: a load is given up when reads of its files bring nothing for so
    /// long; 0 = never.
    pub load_read_timeout: Option<Duration>,
    /// `exit-when-dead`: an engine that is dead for good ends the process, for whoever restarts it.
    pub exit_when_dead: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_waiting: 4096,
            max_request_bytes: 64 << 20,
            max_backlog_tokens: 16 << 10,
            max_logprob_entries: 2 << 20,
            lists: ListLimits::DEFAULT,
            drain_deadline: Duration::from_secs(25),
            outbox_threads: None,
            default_max_tokens: None,
            step_timeout: None,
            prompt_step: None,
            grammar_timeout: Duration::from_secs(5),
            step_trace_dir: None,
            load_deadline: None,
            load_read_timeout: Some(LOAD_READ_TIMEOUT),
            restarts: 0,
            exit_when_dead: false,
        }
    }
}

impl Options {
    /// From the backend's config.
    ///
    /// # Errors
    /// InvalidArgument: a value that is no number or out of range.
    pub(super) fn read(config: &Value) -> Result<Options> {
        Options::parse(&Cmdline::new(config))
    }

    /// A line for each key that nobody reads.
    pub(super) fn unknown_keys(config: &Value) -> Vec<String> {
        let cmdline = Cmdline::new(config);
        match Options::parse(&cmdline) {
            Ok(_) => cmdline.unknown_keys(),
            // The load fails with that.
            Err(_) => Vec::new(),
        }
    }

    fn parse(cmdline: &Cmdline) -> Result<Options> {
        let mut options = Options::default();
        if let Some(n) = number(cmdline, "max-waiting", 1)? {
            options.max_waiting = usize::try_from(n).unwrap_or(usize::MAX);
        }
        if let Some(n) = number(cmdline, "max-request-bytes", 1)? {
            options.max_request_bytes = n;
        }
        if let Some(n) = number(cmdline, "max-backlog-tokens", 1)? {
            options.max_backlog_tokens = usize::try_from(n).unwrap_or(usize::MAX);
        }
        if let Some(n) = number(cmdline, "max-logprob-entries", 1)? {
            options.max_logprob_entries = usize::try_from(n).unwrap_or(usize::MAX);
        }

        for (key, limit) in options.lists.by_key() {
            if let Some(n) = number(cmdline, key, 0)? {
                *limit = usize::try_from(n).unwrap_or(usize::MAX);
            }
        }

        if let Some(ms) = number(cmdline, "drain-deadline-ms", 0)? {
            options.drain_deadline = Duration::from_millis(ms);
        }
        if let Some(n) = number(cmdline, "outbox-threads", 1)? {
            options.outbox_threads = usize::try_from(n).ok();
        }
        if let Some(n) = number(cmdline, "default-max-tokens", 1)? {
            options.default_max_tokens = Some(u32::try_from(n).unwrap_or(u32::MAX));
        }
        if let Some(ms) = number(cmdline, "grammar-timeout-ms", 1)? {
            options.grammar_timeout = Duration::from_millis(ms);
        }
        if let Some(n) = number(cmdline, "restart", 0)? {
            options.restarts = usize::try_from(n).unwrap_or(usize::MAX);
        }

        options.step_trace_dir = cmdline.text("step-trace-dir").map(PathBuf::from);
        options.step_timeout = number(cmdline, "step-timeout-ms", 0)?.map(Duration::from_millis);
        options.prompt_step = number(cmdline, "prompt-step-ms", 0)?.map(Duration::from_millis);

        let limit = |ms: u64| Some(Duration::from_millis(ms)).filter(|limit| !limit.is_zero());
        if let Some(ms) = number(cmdline, "load-deadline-ms", 0)? {
            options.load_deadline = limit(ms);
        }
        if let Some(ms) = number(cmdline, "load-read-timeout-ms", 0)? {
            options.load_read_timeout = limit(ms);
        }
        options.exit_when_dead = switch(cmdline, "exit-when-dead")?.unwrap_or(false);
        Ok(options)
    }
}

/// What was given, and which keys were read: the others are unknown.
struct Cmdline<'a> {
    given: &'a Value,
    keys_read: RefCell<Vec<&'static str>>,
}

impl<'a> Cmdline<'a> {
    fn new(config: &'a Value) -> Self {
        Cmdline { given: &config["cmdline"], keys_read: RefCell::default() }
    }

    fn text(&self, key: &'static str) -> Option<&'a str> {
        self.keys_read.borrow_mut().push(key);
        self.given[key].as_str()
    }

    fn unknown_keys(&self) -> Vec<String> {
        let known = self.keys_read.borrow();
        let is_unknown = |key: &&String| {
            !known.contains(&key.as_str()) && !OF_THE_SERVER.contains(&key.as_str())
        };
        let line = |key: &String| {
            let remedy = match nearest(key, known.iter().copied()) {
                _ if OF_PYTHON.contains(&key.as_str()) => {
                    "it belongs to the Python backend".to_string()
                }
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("known are {}", known.join(", ")),
            };
            format!("--backend-config=vllm,{} has no effect: {remedy}", key.escape_debug())
        };
        let given = self.given.as_object().into_iter().flatten().map(|(key, _)| key);
        given.filter(is_unknown).map(line).collect()
    }
}

fn switch(cmdline: &Cmdline, key: &'static str) -> Result<Option<bool>> {
    let Some(text) = cmdline.text(key) else { return Ok(None) };
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(Some(true)),
        "false" | "0" => Ok(Some(false)),
        _ => Err(invalid!("--backend-config=vllm,{key}={text}: expected true or false")),
    }
}

fn number(cmdline: &Cmdline, key: &'static str, least: u64) -> Result<Option<u64>> {
    let Some(text) = cmdline.text(key) else { return Ok(None) };
    match text.trim().parse() {
        Ok(n) if n >= least => Ok(Some(n)),
        _ => Err(invalid!("--backend-config=vllm,{key}={text}: expected a number from {least} up")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn knobs_are_read_and_others_left_alone() {
        let config = json!({"cmdline": {"auto-complete-config": "true", "max-waiting": "8",
                                        "drain-deadline-ms": "0"}});
        let options = Options::read(&config).unwrap();
        assert_eq!((options.max_waiting, options.drain_deadline), (8, Duration::ZERO));
        assert_eq!(Options::read(&json!({})).unwrap(), Options::default());
        let config = json!({"cmdline": {"exit-when-dead": "true", "default-max-tokens": "64",
                                        "restart": "2", "step-timeout-ms": "0",
                                        "prompt-step-ms": "30"}});
        let options = Options::read(&config).unwrap();
        assert_eq!(options.prompt_step, Some(Duration::from_millis(30)));

        assert_eq!((options.exit_when_dead, options.default_max_tokens), (true, Some(64)));
        assert_eq!((options.restarts, options.step_timeout), (2, Some(Duration::ZERO)));
        let config = json!({"cmdline": {"load-deadline-ms": "7", "load-read-timeout-ms": "0"}});
        let options = Options::read(&config).unwrap();
        assert_eq!(options.load_deadline, Some(Duration::from_millis(7)));
        assert_eq!(options.load_read_timeout, None);
        let config = json!({"cmdline": {"max-stop-bytes": "7", "max-logprob-entries": "9"}});
        let options = Options::read(&config).unwrap();
        assert_eq!((options.lists.stop_bytes, options.max_logprob_entries), (7, 9));
        for bad in ["0", "-1", "many", ""] {
            let config = json!({"cmdline": {"max-waiting": bad}});
            let error = Options::read(&config).unwrap_err();
            assert!(error.message().contains("max-waiting"), "{error}");
        }
    }
    #[test]
    fn a_key_that_nobody_reads_is_told_with_the_nearest_that_is() {
        let lines = |cmdline: Value| Options::unknown_keys(&json!({ "cmdline": cmdline }));
        assert!(lines(json!({"auto-complete-config": "true", "backend-directory": "/b",
                             "min-compute-capability": "6.0", "max-waiting": "8"}))
        .is_empty());
        let typed = lines(json!({"max-wating": "8", "exit_when_dead": "true"}));
        assert_eq!(
            typed,
            [
                "--backend-config=vllm,max-wating has no effect: did you mean 'max-waiting'?",
                "--backend-config=vllm,exit_when_dead has no effect: did you mean \
                 'exit-when-dead'?",
            ]
        );
        let foreign = lines(json!({"shm-default-byte-size": "1", "colour": "red"}));
        assert!(foreign[0].ends_with("it belongs to the Python backend"), "{foreign:?}");
        assert!(foreign[1].contains("known are max-waiting, max-request-bytes, "), "{foreign:?}");
        assert!(foreign[1].contains("step-trace-dir") && foreign[1].contains("exit-when-dead"));
        assert!(Options::unknown_keys(&json!({})).is_empty());
    }
}
