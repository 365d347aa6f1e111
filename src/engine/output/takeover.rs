//! The thread that lets others go on when an outbox thread is caught in a client's call: the server
//! may block it there (an ensemble with `max_inflight_requests` does, until a later step has room).
//! One per engine, started and joined by `outboxes`. It sleeps while nothing is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{bounded, Receiver, Sender};

use super::outbox::Outbox;
use crate::error::Result;
use crate::threads;

/// A call that takes longer blocks. Handing a response to the server takes microseconds.
const CALL_LIMIT: Duration = Duration::from_millis(20);
const PERIOD: Duration = Duration::from_millis(10);
/// Threads of one outbox that may be blocked at a time; with more of them the outbox waits.
const MOST_BLOCKED: usize = 64;

pub(super) struct Takeover {
    /// Dropping it ends the thread; a message wakes it.
    wake: Sender<()>,
    asleep: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Takeover {
    pub fn start(name: &str, outboxes: Vec<Arc<Outbox>>) -> Result<Takeover> {
        let (wake, woken) = bounded(1);
        let asleep = Arc::new(AtomicBool::new(false));
        let sleeps = Arc::clone(&asleep);
        let body = move || watch(&outboxes, &woken, &sleeps);
        let thread = threads::spawn(format!("takeover {name}"), body)?;
        Ok(Takeover { wake, asleep, thread })
    }

    /// Something is to be answered.
    pub fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            let _ = self.wake.try_send(());
        }
    }

    pub fn stop(self) {
        drop(self.wake);
        let _ = self.thread.join();
    }
}

fn watch(outboxes: &[Arc<Outbox>], woken: &Receiver<()>, asleep: &AtomicBool) {
    loop {
        asleep.store(true, Ordering::SeqCst);
        // Looked at after that: what comes later wakes.
        if !outboxes.iter().any(|outbox| outbox.busy()) && woken.recv().is_err() {
            return;
        }
        asleep.store(false, Ordering::SeqCst);
        for outbox in outboxes {
            outbox.relieve(CALL_LIMIT, MOST_BLOCKED);
        }
        std::thread::sleep(PERIOD);
    }
}
