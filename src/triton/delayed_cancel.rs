//! Ends of requests that wait a moment, because the stock server is not done with the request when
//! we are. One thread per instance, joined at unload; called by `backend_request`.
//!
//! **Ends of cancelled requests.** The gRPC front end of servers before 25.04 (repaired by
//! server#7840 and #8078) walks over a stream's requests while it cancels them, and expects its
//! last write to come back before the FINAL response: a FINAL within microseconds frees what it
//! still uses, or locks its thread and ours against each other for ever. Nobody waits for the
//! answer, and slot and pages are free already.
//!
//! **Factories of ended requests**, which keep the model alive. When the last request of a model
//! that is being unloaded ends before the server's own thread is back from our Execute, the server
//! stops that thread by a list of instances from which the thread has taken its own: every 64th
//! time it reads freed memory there, and ends the process once something else was put into it. (2
//! of 3 400 reloads here; a C backend of 20 lines that fills 2 kB in its Execute dies within 200.)

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{unbounded, Receiver, Sender};

use super::handles::Factory;
use crate::error::Result;
use crate::threads;

/// Some hundred times what the server needs on a busy machine.
const PAUSE: Duration = Duration::from_millis(30);

/// What waits, and since when.
pub(super) struct DelayedEnd {
    since: Instant,
    end: End,
}

enum End {
    /// Sends the FINAL response of a cancelled request.
    Response(Box<dyn FnOnce() + Send>),
    /// Is dropped.
    Factory(Arc<Factory>),
}

/// The sender to the thread: each request in flight holds one.
pub(super) type DelayedEndSender = Sender<DelayedEnd>;

/// The thread that waits.
pub(super) struct DelayedEnds {
    sender: DelayedEndSender,
    thread: JoinHandle<()>,
}

impl DelayedEnds {
    /// Start the thread of the model `name`.
    pub(super) fn start(name: &str) -> Result<DelayedEnds> {
        // Limited by the requests that the engine accepts.
        let (sender, delayed) = unbounded();
        let thread = threads::spawn(format!("delayed-cancel {name}"), move || run(&delayed))?;
        Ok(DelayedEnds { sender, thread })
    }

    pub(super) fn sender(&self) -> DelayedEndSender {
        self.sender.clone()
    }

    /// Let what waits end, then the thread. To be called when no request is left: each holds a
    /// sender, and the thread ends with the last of them.
    pub(super) fn stop(self) {
        drop(self.sender);
        let _ = self.thread.join();
    }
}

/// Call `respond`, which sends a cancelled request's FINAL response, when the server has seen to
/// the cancellation.
pub(super) fn delay(sender: &DelayedEndSender, respond: impl FnOnce() + Send + 'static) {
    send(sender, End::Response(Box::new(respond)));
}

/// Hold the factory of a request that has ended until the server's thread is back.
pub(super) fn hold(sender: &DelayedEndSender, factory: Arc<Factory>) {
    send(sender, End::Factory(factory));
}

fn send(sender: &DelayedEndSender, end: End) {
    // It fails only if the thread is gone: then nothing waits.
    if let Err(failed) = sender.send(DelayedEnd { since: Instant::now(), end }) {
        failed.into_inner().end.run();
    }
}

impl End {
    fn run(self) {
        match self {
            End::Response(respond) => respond(),
            End::Factory(factory) => drop(factory),
        }
    }
}

/// In the order in which they came: each waits equally long.
fn run(delayed: &Receiver<DelayedEnd>) {
    for DelayedEnd { since, end } in delayed {
        std::thread::sleep(PAUSE.saturating_sub(since.elapsed()));
        end.run();
    }
}
