//! The handle of a running engine: takes requests, says whether it can serve, drains. Held by
//! `engines`, made by `load`; it never knows what a step does.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use super::command::Command;
use super::health::Health;
use super::options::EngineFacts;
use super::request::{EmbedRequest, GenerateRequest, Intake, NewRequest, PrepareThreads};
use super::watchdog::Watchdog;
use crate::error::Result;
use crate::text::NeverInterrupted;

/// After a drain's deadline the engine thread has so long to end its step; then it is left alone.
const JOIN_GRACE: Duration = Duration::from_secs(5);

/// A running engine. Dropping it drains with no patience.
pub(super) struct Engine {
    pub(super) facts: EngineFacts,
    pub(super) health: Arc<Health>,
    pub(super) intake: Arc<Intake>,
    pub(super) commands: Sender<Command>,
    /// Prepare the requests that would take the caller's thread too long. None: draining.
    pub(super) prepare: Option<PrepareThreads>,
    /// Joined by a drain, in this order.
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) watchdog: Option<Watchdog>,
}

impl Engine {
    /// What the load decided.
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// Take a request or refuse it at once. After Ok the client's `finish` is called exactly once,
    /// after Err never.
    ///
    /// # Errors
    /// InvalidArgument: the prompt is too long, or whatever else is wrong with the request.
    /// Unavailable: the queue is full, the engine drains or has failed.
    pub fn submit(&self, request: GenerateRequest) -> Result<()> {
        self.take(NewRequest::Generate(Box::new(request)))
    }

    /// The same for a text to embed or classify. Its one answer carries the vector or the scores as
    /// a JSON list.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn embed(&self, request: EmbedRequest) -> Result<()> {
        self.take(NewRequest::Embed(request))
    }

    fn take(&self, mut request: NewRequest) -> Result<()> {
        self.health.check()?;
        self.intake.queued_prompts.check()?;

        // From here on the ticket is the client: it ends once, whatever happens.
        let sequences = request.sequences();
        let (client, options) = request.client_and_options();
        let ticket = self.health.tickets.admit(Arc::clone(client), options, sequences)?;
        *client = Arc::clone(&ticket) as _;

        let taken = match self.prepare.as_ref().filter(|prepare| prepare.should_take(&request)) {
            Some(prepare) => {
                let [first, second] = request.texts();
                let short = self.intake.check_length(first);
                let short = short.and_then(|()| self.intake.check_length(second));
                short.and_then(|()| prepare.send(request))
            }
            None => self.intake.accept(request, &NeverInterrupted),
        };
        if taken.is_err() {
            ticket.withdraw();
        }
        taken
    }

    /// Ok while requests can be served.
    ///
    /// # Errors
    /// Unavailable: why not.
    pub fn health(&self) -> Result<()> {
        self.health.check()
    }

    /// Sequences of requests accepted and not yet answered.
    pub fn in_flight(&self) -> usize {
        self.health.tickets.len()
    }

    /// Whether it would take a request for so many sequences now.
    pub fn has_room(&self, sequences: usize) -> bool {
        self.health.tickets.has_room(sequences)
    }

    /// Start what [`Engine::drain`] does and return at once.
    pub fn begin_drain(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.health.drain(deadline);
        let _ = self.commands.send(Command::Drain { deadline });
    }

    /// Refuse new requests, let those in flight finish, after `patience` fail the rest with
    /// UNAVAILABLE, join all threads, give memory back. A thread that hangs in a step is left
    /// alone after a while, and its memory with it.
    /// False: such a thread was left.
    pub fn drain(mut self, patience: Duration) -> bool {
        self.stop(patience)
    }

    fn stop(&mut self, patience: Duration) -> bool {
        self.begin_drain(patience);
        // Ends those threads once they have passed on or refused what they hold.
        self.prepare = None;

        let limit = Instant::now() + patience + JOIN_GRACE;
        let joined = self.threads.drain(..).map(|thread| join_until(thread, limit));
        // All of them, not up to the first that hangs.
        let all = joined.filter(|&joined| !joined).count() == 0;

        if let Some(watchdog) = self.watchdog.take() {
            watchdog.stop();
        }
        all
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.stop(Duration::ZERO);
        }
    }
}

/// False: it still runs and is left behind.
fn join_until(thread: JoinHandle<()>, limit: Instant) -> bool {
    let mut pause = Duration::from_micros(100);
    while !thread.is_finished() && Instant::now() < limit {
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(10));
    }
    if !thread.is_finished() {
        let name = thread.thread().name().unwrap_or_default();
        tracing::error!("thread '{name}' hangs: it is left behind with all its memory");
        return false;
    }
    let _ = thread.join();
    true
}
