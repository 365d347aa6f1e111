//! Whether the engine can serve, and the one way in which it stops being able to: poison. Written
//! by the engine and outbox threads, read by `Engine::submit` and the door. Poison never heals.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Shared by the handle and all threads of an engine.
#[derive(Default)]
pub(super) struct Health {
    poisoned: AtomicBool,
    draining: AtomicBool,
    /// Why, once poisoned. A lock because it is read only after the flag says so.
    cause: Mutex<String>,
}

impl Health {
    pub fn check(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            let cause = self.cause.lock();
            return Err(Error::Unavailable(format!(
                "the engine failed and must be reloaded: {cause}"
            )));
        }
        if self.draining.load(Ordering::Acquire) {
            return Err(Error::Unavailable("the model is being unloaded".into()));
        }
        Ok(())
    }

    /// The first cause stays. Returns the error that every request gets from now on.
    pub fn poison(&self, cause: &str) -> Error {
        {
            let mut slot = self.cause.lock();
            if slot.is_empty() {
                *slot = cause.to_string();
                tracing::error!("the engine failed, all its requests fail from now on: {cause}");
            }
        }
        self.poisoned.store(true, Ordering::Release);
        Error::Unavailable(format!("the engine failed and must be reloaded: {cause}"))
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_kept_and_told() {
        let health = Health::default();
        assert!(health.check().is_ok());
        health.poison("first");
        health.poison("second");
        let error = health.check().unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)));
        assert!(error.message().ends_with("first"), "{error}");
    }

    #[test]
    fn draining_refuses() {
        let health = Health::default();
        health.drain();
        assert!(matches!(health.check(), Err(Error::Unavailable(_))));
    }
}
