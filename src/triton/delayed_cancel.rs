//! What of a request goes a moment later than it could, because the stock server is not done
//! with it. One thread per instance, joined on unload; called by `client`.
//!
//! **Ends of cancelled requests.** The gRPC front end of servers before 25.04 (its own mends
//! are server#7840 and #8078) walks over a stream's requests while it cancels them, and expects
//! its last write to come back before the FINAL response: a FINAL within microseconds frees
//! end it still uses, or locks its thread and ours against each other for ever. Nobody waits
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

use super::client::BackendRequest;
use super::handles::Factory;
use crate::error::{Error, Result};
use crate::threads;

/// Some hundred times end the server needs on a busy machine.
const PAUSE: Duration = Duration::from_millis(30);

/// What goes later, and since when it waits.
pub(super) struct DelayedEnd {
    since: Instant,
    end: End,
}

enum End {
    /// A cancelled request and its last word.
    Cancelled(Arc<BackendRequest>, Error),
    Ended(Arc<Factory>),
}

/// The sender to the thread: each call holds one.
pub(super) type DelayedEndSender = Sender<DelayedEnd>;

pub(super) struct DelayedEnds {
    sender: DelayedEndSender,
    thread: JoinHandle<()>,
}

impl DelayedEnds {
    pub(super) fn start(name: &str) -> Result<DelayedEnds> {
        // Limited by the requests that the engine accepts.
        let (sender, leaving) = unbounded();
        let thread = threads::spawn(format!("delayed-cancel {name}"), move || run(&leaving))?;
        Ok(DelayedEnds { sender, thread })
    }

    pub(super) fn sender(&self) -> DelayedEndSender {
        self.sender.clone()
    }

    /// The server calls for it when no request is left, so no other sender is.
    pub(super) fn stop(self) {
        drop(self.sender);
        let _ = self.thread.join();
    }
}

/// Let a cancelled call end when the server has seen to its cancellation.
pub(super) fn cancel(sender: &DelayedEndSender, call: Arc<BackendRequest>, error: Error) {
    send(sender, End::Cancelled(call, error));
}

/// Hold the factory of a request that has ended until the server's thread is back.
pub(super) fn hold(sender: &DelayedEndSender, factory: Arc<Factory>) {
    send(sender, End::Ended(factory));
}

fn send(sender: &DelayedEndSender, end: End) {
    // It fails only without the thread: then it comes back and goes now.
    if let Err(failed) = sender.send(DelayedEnd { since: Instant::now(), end }) {
        failed.into_inner().end.go();
    }
}

impl End {
    fn go(self) {
        match self {
            End::Cancelled(call, error) => call.refuse(&error),
            End::Ended(factory) => drop(factory),
        }
    }
}

/// In order of their coming: each waits equally long.
fn run(leaving: &Receiver<DelayedEnd>) {
    for DelayedEnd { since, end } in leaving {
        std::thread::sleep(PAUSE.saturating_sub(since.elapsed()));
        end.go();
    }
}
