//! Ends cancelled requests a moment after their cancellation was seen. The gRPC front end of stock
//! servers before 25.04 (its own mends are server#7840 and #8078) walks over a stream's requests
//! while it cancels them, and expects its last write to come back before the FINAL response: a
//! FINAL within microseconds frees what it still uses, or locks its thread and ours against each
//! other for ever. Nobody waits for the answer, and slot and pages are free already. One thread per
//! instance, joined on unload; called by `client`.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{unbounded, Receiver, Sender};

use super::client::Call;
use crate::error::{Error, Result};
use crate::internal;

/// Some hundred times what the front end needs on a busy machine.
const PAUSE: Duration = Duration::from_millis(30);

/// A cancelled request, since when, and its last word.
pub(super) struct Leaving {
    call: Arc<Call>,
    since: Instant,
    error: Error,
}

/// The door to the thread: each call holds one.
pub(super) type Door = Sender<Leaving>;

pub(super) struct Farewells {
    door: Door,
    thread: JoinHandle<()>,
}

impl Farewells {
    pub(super) fn start(name: &str) -> Result<Farewells> {
        // Limited by the requests that the engine accepts.
        let (door, leaving) = unbounded();
        let thread = std::thread::Builder::new()
            .name(format!("farewell {name}"))
            .spawn(move || see_off(&leaving))
            .map_err(|e| internal!("cannot start a thread: {e}"))?;
        Ok(Farewells { door, thread })
    }

    pub(super) fn door(&self) -> Door {
        self.door.clone()
    }

    /// The server calls for it when no request is left, so no other door is.
    pub(super) fn stop(self) {
        drop(self.door);
        let _ = self.thread.join();
    }
}

/// Let the call end when the server has seen to its cancellation.
pub(super) fn leave(door: &Door, call: Arc<Call>, error: Error) {
    // It fails only without the thread: then the call comes back and ends now.
    if let Err(failed) = door.send(Leaving { call, since: Instant::now(), error }) {
        let Leaving { call, error, .. } = failed.into_inner();
        call.refuse(&error);
    }
}

/// In order of their coming: each waits equally long.
fn see_off(leaving: &Receiver<Leaving>) {
    for Leaving { call, since, error } in leaving {
        std::thread::sleep(PAUSE.saturating_sub(since.elapsed()));
        call.refuse(&error);
    }
}
