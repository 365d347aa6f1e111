//! What of a request goes a moment later than it could, because the stock server is not done
//! with it. One thread per instance, joined on unload; called by `client`.
//!
//! **Ends of cancelled requests.** The gRPC front end of servers before 25.04 (its own mends
//! are server#7840 and #8078) walks over a stream's requests while it cancels them, and expects
//! its last write to come back before the FINAL response: a FINAL within microseconds frees
//! what it still uses, or locks its thread and ours against each other for ever. Nobody waits
//! for the answer, and slot and pages are free already.
//!
//! **Factories of ended requests**, which keep the model alive. When the last request of a
//! model that is being unloaded ends before the server's own thread is back from our Execute,
//! the server stops that thread by a list of instances from which the thread has taken its own:
//! every 64th time it reads freed memory there, and ends the process once something else was
//! put into it. (2 of 3 400 reloads here; a C backend of 20 lines that fills 2 kB in its
//! Execute dies within 200.)

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{unbounded, Receiver, Sender};

use super::client::Call;
use super::handles::Factory;
use crate::error::{Error, Result};
use crate::internal;

/// Some hundred times what the server needs on a busy machine.
const PAUSE: Duration = Duration::from_millis(30);

/// What goes later, and since when it waits.
pub(super) struct Leaving {
    since: Instant,
    what: What,
}

enum What {
    /// A cancelled request and its last word.
    Cancelled(Arc<Call>, Error),
    Ended(Arc<Factory>),
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

/// Let a cancelled call end when the server has seen to its cancellation.
pub(super) fn leave(door: &Door, call: Arc<Call>, error: Error) {
    send(door, What::Cancelled(call, error));
}

/// Hold the factory of a request that has ended until the server's thread is back.
pub(super) fn hold(door: &Door, factory: Arc<Factory>) {
    send(door, What::Ended(factory));
}

fn send(door: &Door, what: What) {
    // It fails only without the thread: then it comes back and goes now.
    if let Err(failed) = door.send(Leaving { since: Instant::now(), what }) {
        failed.into_inner().what.go();
    }
}

impl What {
    fn go(self) {
        match self {
            What::Cancelled(call, error) => call.refuse(&error),
            What::Ended(factory) => drop(factory),
        }
    }
}

/// In order of their coming: each waits equally long.
fn see_off(leaving: &Receiver<Leaving>) {
    for Leaving { since, what } in leaving {
        std::thread::sleep(PAUSE.saturating_sub(since.elapsed()));
        what.go();
    }
}
