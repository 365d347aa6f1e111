//! Whether the engine can serve, and the ways in which it stops being able to: poison and drain.
//! Written by the engine, outbox and watchdog threads, read by `Engine::submit` and the door.
//! Poison never heals; it ends every request in flight at once and refuses every later one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ticket::{QueueLimit, Tickets};
use crate::error::{Error, Result};

/// Shared by the handle and all threads of an engine.
pub(super) struct Health {
    pub tickets: Arc<Tickets>,
    state: Mutex<State>,
    /// When the oldest step that still runs began, in milliseconds since `born`, plus one; 0 = no
    /// step runs.
    step_began: AtomicU64,
    born: Instant,
}

#[derive(Default)]
struct State {
    /// Why the engine is dead.
    cause: Option<String>,
    /// When requests in flight end, once the engine drains.
    drain_deadline: Option<Instant>,
}

impl Health {
    /// `limit`: sequences of requests that may be in flight.
    pub fn new(limit: QueueLimit) -> Health {
        Health {
            tickets: Tickets::new(limit),
            state: Mutex::default(),
            step_began: AtomicU64::new(0),
            born: Instant::now(),
        }
    }

    pub fn check(&self) -> Result<()> {
        let state = self.state.lock();
        if let Some(cause) = &state.cause {
            return Err(failed(cause));
        }
        if state.drain_deadline.is_some() {
            return Err(unloading());
        }
        Ok(())
    }

    /// The error that poison gave everyone, if there was any.
    pub fn failure(&self) -> Option<Error> {
        self.state.lock().cause.as_deref().map(failed)
    }

    /// The engine is dead: everyone in flight hears it now, everyone later at once. The first
    /// cause stays.
    pub fn poison(&self, cause: &str) {
        let mut state = self.state.lock();
        let first = state.cause.is_none();
        let kept = state.cause.get_or_insert_with(|| cause.to_string()).clone();
        drop(state);
        if first {
            tracing::error!("the engine failed, all its requests fail from now on: {kept}");
        }
        self.tickets.close(&failed(&kept));
    }

    /// Refuse new requests; those in flight have until `deadline`. A second call may only move it
    /// forward in time if the first has not passed.
    pub fn drain(&self, deadline: Instant) {
        self.state.lock().drain_deadline = Some(deadline);
    }

    pub fn drain_deadline(&self) -> Option<Instant> {
        self.state.lock().drain_deadline
    }

    /// Everyone is answered or past the drain's deadline.
    pub fn unloaded(&self) {
        self.tickets.close(&Error::Unavailable(
            "the model was unloaded before this request was finished".into(),
        ));
    }

    /// A step begins, or an older one ended and the next one is the oldest now.
    pub fn step_begins(&self) {
        let now_ms = self.born.elapsed().as_millis() as u64;
        self.step_began.store(now_ms + 1, Ordering::Release);
    }

    pub fn no_step_runs(&self) {
        self.step_began.store(0, Ordering::Release);
    }

    /// How long the oldest step has been running.
    pub fn step_age(&self) -> Option<Duration> {
        let began_ms = self.step_began.load(Ordering::Acquire).checked_sub(1)?;
        self.born.elapsed().checked_sub(Duration::from_millis(began_ms))
    }
}

fn failed(cause: &str) -> Error {
    Error::Unavailable(format!("the engine failed and must be reloaded: {cause}"))
}

fn unloading() -> Error {
    Error::Unavailable("the model is being unloaded".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_kept_and_told() {
        let health = Health::new(QueueLimit::new(1));
        assert!(health.check().is_ok() && health.failure().is_none());
        health.poison("first");
        health.poison("second");
        let error = health.check().unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)));
        assert!(error.message().ends_with("first"), "{error}");
        assert_eq!(health.failure(), Some(error));
    }

    #[test]
    fn draining_refuses() {
        let health = Health::new(QueueLimit::new(1));
        health.drain(Instant::now());
        assert!(matches!(health.check(), Err(Error::Unavailable(_))));
        assert!(health.failure().is_none());
    }

    #[test]
    fn a_steps_age_is_that_of_the_oldest() {
        let health = Health::new(QueueLimit::new(1));
        assert!(health.step_age().is_none());
        health.step_begins();
        std::thread::sleep(Duration::from_millis(20));
        assert!(health.step_age().expect("a step") >= Duration::from_millis(15));
        health.no_step_runs();
        assert!(health.step_age().is_none());
    }
}
