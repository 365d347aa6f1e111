//! `tracing` into the server's log, with the `[vllm] ` that operators search for. Installed once by
//! the backend's initialisation. Spans are not kept: a line stands for itself.
//!
//! `log_level` of a model.json acts here, for all of the backend's lines: they do not say which
//! model they are of. Of several models the most verbose level holds; one without a level asks
//! for what the server lets through.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use super::error::c_text;
use super::sys::{self, TRITONSERVER_LogLevel};
use crate::error::brief;

/// What a line may have.
const LINE_BYTES: usize = 4096;

/// Send all events of this process's Rust code to the server from now on.
pub(super) fn install() {
    // A second initialisation finds the first one's subscriber, which does the same.
    let _ = tracing::subscriber::set_global_default(ServerLog);
}

struct ServerLog;

/// What loaded models ask for: the number of each [`LevelRequest`], and its level.
static REQUESTS: Mutex<Vec<(u64, Option<Level>)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Verbosity of the lines that are logged at most.
static MOST: AtomicU8 = AtomicU8::new(verbosity(Level::TRACE));
/// Lines up to this verbosity are logged although the server's log is not verbose.
static LOUD: AtomicU8 = AtomicU8::new(verbosity(Level::INFO));

/// A model's `log_level`, which holds until this is dropped.
pub(super) struct LevelRequest(u64);

impl LevelRequest {
    pub(super) fn new(level: Option<Level>) -> LevelRequest {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut requests = REQUESTS.lock();
        requests.push((id, level));
        settle(&requests);
        LevelRequest(id)
    }
}

impl Drop for LevelRequest {
    fn drop(&mut self) {
        let mut requests = REQUESTS.lock();
        requests.retain(|(id, _)| *id != self.0);
        settle(&requests);
    }
}

fn settle(requests: &[(u64, Option<Level>)]) {
    let most = requests.iter().map(|(_, level)| verbosity(level.unwrap_or(Level::TRACE))).max();
    let loud = requests.iter().filter_map(|(_, level)| level.map(verbosity)).max();
    MOST.store(most.unwrap_or(verbosity(Level::TRACE)), Ordering::Relaxed);
    let info = verbosity(Level::INFO);
    LOUD.store(loud.unwrap_or(info).max(info), Ordering::Relaxed);
}

const fn verbosity(level: Level) -> u8 {
    match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG => 3,
        Level::TRACE => 4,
    }
}

/// The server's level for a line of ours; None: nobody wants it.
fn level(level: Level) -> Option<TRITONSERVER_LogLevel> {
    let own = verbosity(level);
    if own > MOST.load(Ordering::Relaxed) {
        return None;
    }
    Some(match level {
        Level::ERROR => sys::TRITONSERVER_LOG_ERROR,
        Level::WARN => sys::TRITONSERVER_LOG_WARN,
        Level::INFO => sys::TRITONSERVER_LOG_INFO,
        _ if own <= LOUD.load(Ordering::Relaxed) => sys::TRITONSERVER_LOG_INFO,
        _ => sys::TRITONSERVER_LOG_VERBOSE,
    })
}

impl Subscriber for ServerLog {
    /// The server's level can change at run time, so the answer is never cached.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata) -> bool {
        let (true, Some(level)) = (metadata.is_event(), level(*metadata.level())) else {
            return false;
        };
        // SAFETY: takes a number, returns a boolean.
        sys::api().is_some_and(|api| unsafe { api.required.TRITONSERVER_LogIsEnabled(level) })
    }

    fn event(&self, event: &Event) {
        let metadata = event.metadata();
        let (Some(api), Some(level)) = (sys::api(), level(*metadata.level())) else { return };
        let mut line = Line(String::from("[vllm] "));
        event.record(&mut line);
        let file = metadata.file().unwrap_or_default();
        let file = c_text(file.rsplit('/').next().unwrap_or(file));
        let text = c_text(&brief(&line.0, LINE_BYTES, &['\t']));
        let number = metadata.line().unwrap_or(0) as i32;
        // SAFETY: both texts are NUL-terminated and copied by the server.
        let failed = unsafe {
            api.required.TRITONSERVER_LogMessage(level, file.as_ptr(), number, text.as_ptr())
        };
        // A log that fails cannot be logged; the check frees the error.
        let _ = super::error::check(failed);
    }

    fn new_span(&self, _: &span::Attributes) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The message, then ` name=value` of each field.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since the levels are the process's.
    #[test]
    fn the_most_verbose_model_wins() {
        let info = Some(sys::TRITONSERVER_LOG_INFO);
        assert_eq!(level(Level::INFO), info);
        assert_eq!(level(Level::DEBUG), Some(sys::TRITONSERVER_LOG_VERBOSE));
        let quiet = LevelRequest::new(Some(Level::ERROR));
        assert_eq!((level(Level::WARN), level(Level::INFO)), (None, None));
        assert_eq!(level(Level::ERROR), Some(sys::TRITONSERVER_LOG_ERROR));
        let usual = LevelRequest::new(None);
        assert_eq!(level(Level::INFO), info);
        let loud = LevelRequest::new(Some(Level::DEBUG));
        assert_eq!(level(Level::DEBUG), info);
        assert_eq!(level(Level::TRACE), Some(sys::TRITONSERVER_LOG_VERBOSE));
        drop((loud, usual));
        assert_eq!(level(Level::INFO), None);
        drop(quiet);
        assert_eq!(level(Level::INFO), info);
    }
}
