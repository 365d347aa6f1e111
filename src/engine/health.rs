//! Whether the engine can serve, and the ways in which it stops being able to: poison and drain.
//! Written by the engine, outbox and watchdog threads, read by `Engine::submit` and by `triton`.
//! Poison never heals; it ends every request in flight at once and refuses every later one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::request::{Observer, QueueLimit, Tickets};
use crate::error::{Error, Result};

/// Shared by the handle and all threads of an engine.
pub(crate) struct Health {
    pub tickets: Arc<Tickets>,
    state: Mutex<State>,
    /// When the oldest step that still runs began, in milliseconds since `born`, plus one; 0 = no
    /// step runs.
    step_began: AtomicU64,
    born: Instant,
    /// Hears of the engine's death before any client does.
    observer: Option<Arc<dyn Observer>>,
}

#[derive(Default)]
struct State {
    /// Why the engine is dead.
    cause: Option<String>,
    /// The observer knows of it, so clients may.
    told: bool,
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
            observer: None,
        }
    }

    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Health {
        Health { observer: Some(observer), ..self }
    }

    pub fn check(&self) -> Result<()> {
        let state = self.state.lock();
        if let Some(cause) = state.cause.as_ref().filter(|_| state.told) {
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

    /// The engine is dead: the observer hears it first, then everyone in flight, and everyone later
    /// at once. The first cause stays.
    pub fn poison(&self, cause: &str) {
        let mut state = self.state.lock();
        if state.cause.is_some() {
            return;
        }
        state.cause = Some(cause.to_string());
        drop(state);

        tracing::error!("the engine failed, all its requests fail from now on: {cause}");
        if let Some(observer) = &self.observer {
            observer.dying();
        }
        self.state.lock().told = true;
        self.tickets.close(&failed(cause));
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
    Error::Unavailable(format!("the engine failed, unload the model and load it again: {cause}"))
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
    fn the_observer_hears_of_a_death_before_any_client() {
        struct Slow(Mutex<Vec<&'static str>>);
        impl Observer for Slow {
            fn observe(&self, _: crate::engine::Observation) {}
            fn dying(&self) {
                self.0.lock().push("observer");
            }
        }

        struct Listener(Arc<Slow>);
        impl crate::engine::Client for Listener {
            fn cancelled(&self) -> bool {
                false
            }
            fn respond(&self, _: crate::engine::Answer) {}
            fn finish(&self, _: Result<crate::engine::Answer>) {
                self.0 .0.lock().push("client");
            }
        }

        let slow = Arc::new(Slow(Mutex::default()));
        let health = Health::new(QueueLimit::new(1)).observed_by(slow.clone());
        let client = Arc::new(Listener(slow.clone()));
        let _ticket = health.tickets.admit(client, &Default::default(), 1).unwrap();
        health.poison("a test");
        health.poison("again");
        assert_eq!(*slow.0.lock(), ["observer", "client"]);
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
