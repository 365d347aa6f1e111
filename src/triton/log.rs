//! `tracing` into the server's log, with the `[vllm] ` that operators search for. Installed once by
//! the backend's initialisation. Spans are not kept: a line stands for itself.

use std::fmt::{self, Write};

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

fn level(level: &Level) -> TRITONSERVER_LogLevel {
    match *level {
        Level::ERROR => sys::TRITONSERVER_LOG_ERROR,
        Level::WARN => sys::TRITONSERVER_LOG_WARN,
        Level::INFO => sys::TRITONSERVER_LOG_INFO,
        Level::DEBUG | Level::TRACE => sys::TRITONSERVER_LOG_VERBOSE,
    }
}

impl Subscriber for ServerLog {
    /// The server's level can change at run time, so the answer is never cached.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata) -> bool {
        // SAFETY: takes a number, returns a boolean.
        metadata.is_event()
            && sys::api().is_some_and(|api| unsafe {
                api.required.TRITONSERVER_LogIsEnabled(level(metadata.level()))
            })
    }

    fn event(&self, event: &Event) {
        let Some(api) = sys::api() else { return };
        let metadata = event.metadata();
        let mut line = Line(String::from("[vllm] "));
        event.record(&mut line);
        let file = metadata.file().unwrap_or_default();
        let file = c_text(file.rsplit('/').next().unwrap_or(file));
        let text = c_text(&brief(&line.0, LINE_BYTES, &['\t']));
        let number = metadata.line().unwrap_or(0) as i32;
        // SAFETY: both texts are NUL-terminated and copied by the server.
        let failed = unsafe {
            let level = level(metadata.level());
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
