//! Notices that the server is unloading a model. No entry point tells: the server waits, without
//! limit, until every request in flight is done, and only then calls our finaliser. So a thread
//! asks now and then whether the model is still ready for new requests, and starts the drain when
//! it is not any more. Called by `model`; one thread per instance, joined on unload.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{bounded, Receiver, RecvTimeoutError, Sender};

use super::handles::ServerHandle;
use crate::engine::Engine;
use crate::error::Result;
use crate::internal;

const PERIOD: Duration = Duration::from_millis(500);

/// What is watched.
pub(super) struct Watched {
    pub server: ServerHandle,
    pub model: String,
    pub version: u64,
    pub engine: Arc<Engine>,
    /// Time for requests in flight, counted from when the unload is noticed.
    pub patience: Duration,
}

/// The watching thread.
pub(super) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<()>,
    unloading: Arc<AtomicBool>,
}

impl Watch {
    pub(super) fn start(watched: Watched) -> Result<Watch> {
        let (stop, stopped) = bounded(0);
        let unloading = Arc::new(AtomicBool::new(false));
        let noticed = Arc::clone(&unloading);
        let thread = std::thread::Builder::new()
            .name(format!("watch {}", watched.model))
            .spawn(move || watch(&watched, &stopped, &noticed))
            .map_err(|e| internal!("cannot start a thread: {e}"))?;
        Ok(Watch { stop, thread, unloading })
    }

    /// The server lets go of the model, so that an engine which refuses is not a dead one.
    pub(super) fn unloading(&self) -> bool {
        self.unloading.load(Ordering::Acquire)
    }

    /// End the thread; it holds its engine no longer.
    pub(super) fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

fn watch(watched: &Watched, stopped: &Receiver<()>, unloading: &AtomicBool) {
    let mut was_ready = false;
    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        // A dead engine also makes a model unready, but there is nothing left to drain.
        if watched.engine.health().is_err() {
            continue;
        }
        // An error is how the server says that the version is going, or that itself is.
        let ready = watched.server.is_ready(&watched.model, watched.version).unwrap_or(false);
        if was_ready && !ready {
            let (model, patience) = (&watched.model, watched.patience);
            tracing::info!("{model} is being unloaded: requests in flight have {patience:?}");
            unloading.store(true, Ordering::Release);
            watched.engine.begin_drain(patience);
            return;
        }
        was_ready = ready;
    }
}
