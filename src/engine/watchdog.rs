//! The thread that keeps the engine's promises when the engine thread cannot: a step that does not
//! end poisons the engine, a drain's deadline ends what is left. One per engine, started by
//! `load`, joined on unload. It looks at `Health` only; it never touches a request, a device or a
//! plan.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, Receiver, RecvTimeoutError, Sender};

use super::health::Health;
use crate::error::Result;
use crate::threads;

/// Between two looks; shorter where the limit is.
const PERIOD: Duration = Duration::from_millis(250);
/// The engine thread ends a drain itself, a little earlier, unless it hangs in a step.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

pub(crate) struct Watchdog {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watchdog {
    /// `step_limit`: how long a step may run; None = for ever.
    pub fn start(name: &str, health: Arc<Health>, step_limit: Option<Duration>) -> Result<Self> {
        let (stop, stopped) = bounded(0);
        let body = move || watch(&health, step_limit, &stopped);
        let thread = threads::spawn(format!("watchdog {name}"), body)?;
        Ok(Watchdog { stop, thread })
    }

    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

fn watch(health: &Health, step_limit: Option<Duration>, stopped: &Receiver<()>) {
    let period =
        step_limit.map_or(PERIOD, |limit| (limit / 4).clamp(Duration::from_millis(1), PERIOD));
    while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
        let late = step_limit.filter(|&limit| health.step_age().is_some_and(|age| age > limit));
        if let Some(limit) = late.filter(|_| health.failure().is_none()) {
            health.poison(&format!(
                "a step did not end within {} ms, the limit of \
                 --backend-config=vllm,step-timeout-ms",
                limit.as_millis()
            ));
        }
        if health.drain_deadline().is_some_and(|at| Instant::now() >= at + DRAIN_GRACE) {
            health.unloaded();
        }
    }
}
