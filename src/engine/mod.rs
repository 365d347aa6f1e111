//! THE HEART: one thread owns all mutable state. `triton` calls it through [`Engine`]; it calls
//! `scheduler` for plans, `model` and `device` for tokens, `text` for words. It never knows Triton.
//!
//! | file | what |
//! |---|---|
//! | `args` | model.json, parsed once |
//! | `request` | what enters and leaves: requests, clients, answers, observations |
//! | `placement` | which device serves |
//! | `load` | args to a running engine: device, weights |
//! | `sizes` | its batch, pages and memory, judged before anything is taken |
//! | `loading` | a load that can be left: deadline, reads that hang, a server that goes |
//! | `intake` | text to tokens, limits, refusals: on the caller's thread |
//! | `adapters` | LoRA adapters on the host, read on a thread of their own |
//! | `command` | what other threads ask of the engine thread |
//! | `step` | the loop: plan, enqueue, collect, settle |
//! | `meter` | what requests and steps cost, for metrics and the trace file |
//! | `fault` | a device that breaks on purpose, for tests |
//! | `repetition` | has an output begun to go round in a circle? |
//! | `grammar_matchers` | grammars of running sequences: token masks while the device computes |
//! | `workers` | threads for jobs that may take long: compiling grammars, token masks |
//! | `outbox`, `takeover` | tokens to words to clients: on their own threads, none of which waits for another's client |
//! | `stream` | one request there: its sequences and its answers |
//! | `scores` | logprobs as an answer shows them |
//! | `queued` | prompt tokens that wait for a first token |
//! | `ticket` | the promise of exactly one end to each accepted request |
//! | `pooling` | requests that embed |
//! | `health`, `watchdog` | poison and drain, and the thread that sees to both |

mod adapters;
pub mod args;
mod command;
mod fault;
mod grammar_matchers;
mod health;
mod intake;
mod load;
mod loading;
mod meter;
mod outbox;
mod placement;
mod pooling;
mod queued;
mod repetition;
mod request;
mod scores;
mod sizes;
mod step;
mod stream;
mod takeover;
#[cfg(test)]
mod backlog_tests;
#[cfg(test)]
mod nonfinite_tests;
#[cfg(test)]
mod tests;
mod ticket;
mod watchdog;
mod workers;

pub use args::EngineArgs;
pub use meter::Spent;
pub use pooling::{EmbedInput, EmbedRequest};
pub use request::{
    Answer, Client, FinishReason, GenerateRequest, LogprobEntry, Observation, Observer, Output,
    Position, RequestOptions, Returns,
};

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use crate::error::Result;
use crate::text::NeverInterrupted;
use command::Command;
use health::Health;
use intake::{Intake, Slow};
use pooling::Job;
use watchdog::Watchdog;

/// What the door knows beside model.json.
#[derive(Clone)]
pub struct EngineOptions {
    /// Name for threads and logs: the Triton model's.
    pub name: String,
    /// `<repository>/<model>/<version>`: a relative `model` path is tried against it first.
    pub version_dir: PathBuf,
    /// GPU to use; None = the first visible one. Which device serves is decided in `placement`.
    pub gpu: Option<u32>,
    pub observer: Arc<dyn Observer>,
    /// Requests that may wait for a slot; one more is refused with UNAVAILABLE.
    pub max_waiting: usize,
    /// Tokens of one stream that may wait for its responses to be sent; more fail it.
    pub max_backlog_tokens: usize,
    /// Logprobs of one request that may wait for a response to carry them; more fail it.
    pub max_logprob_entries: usize,
    /// Threads that detokenise and answer; None = by the number of cores.
    pub outbox_threads: Option<usize>,
    /// A step that runs longer poisons the engine; zero = never. None = [`STEP_TIMEOUT`], on the
    /// CPU [`STEP_TIMEOUT_CPU`].
    pub step_timeout: Option<Duration>,
    /// What compiling one grammar may take, and each of its token masks.
    pub grammar_timeout: Duration,
    /// Chrome trace events of the engine's steps go here.
    pub step_trace: Option<PathBuf>,
}

/// How long a load may take, and whether anybody waits for it.
pub struct LoadLimits {
    /// In all. None: as long as it takes.
    pub deadline: Option<Duration>,
    /// Of reads of files, while none of them ends. None: as long as it takes.
    pub read_timeout: Option<Duration>,
    /// Why nobody waits any more, if so. Asked some times a second.
    pub wanted: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

/// vLLM's limit of one iteration.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// A prompt of a large model may take minutes there.
pub const STEP_TIMEOUT_CPU: Duration = Duration::from_secs(600);
/// After a drain's deadline the engine thread has so long to end its step; then it is left alone.
const JOIN_GRACE: Duration = Duration::from_secs(5);

/// What a load decided, for logs and metrics.
#[derive(Debug, Clone)]
pub struct EngineFacts {
    pub device: String,
    pub dtype: String,
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    pub kv_tokens: u64,
    pub vocab_size: u32,
    /// The model takes `embed`, not `submit`.
    pub embeds: bool,
    /// Names of the LoRA adapters that requests may ask for; None: LoRA is off.
    pub adapters: Option<Vec<String>>,
}

/// Handle of a running engine. Dropping it drains with no patience.
pub struct Engine {
    facts: EngineFacts,
    health: Arc<Health>,
    intake: Arc<Intake>,
    commands: Sender<Command>,
    /// Requests that take too long to prepare on the caller's thread. None: draining.
    slow: Option<Slow>,
    threads: Vec<JoinHandle<()>>,
    watchdog: Option<Watchdog>,
}

impl Engine {
    /// Read config, tokenizer and weights, allocate everything, start the threads.
    ///
    /// # Errors
    /// One line that names the file or key: the door fails the load with it.
    pub fn load(args: EngineArgs, options: EngineOptions) -> Result<Engine> {
        load::load(args, options, &Arc::default())
    }

    /// The same on a thread of its own, within limits.
    ///
    /// # Errors
    /// As `load`; Unavailable: a limit was reached, with the key to raise; those of `wanted`.
    pub fn load_within(
        args: EngineArgs,
        options: EngineOptions,
        limits: &LoadLimits,
    ) -> Result<Engine> {
        loading::load_within(args, options, limits)
    }

    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// Take a request or refuse it at once: InvalidArgument (prompt too long, …) or Unavailable
    /// (queue full, draining, poisoned). After Ok the client's `finish` is called exactly once;
    /// after Err never.
    pub fn submit(&self, request: GenerateRequest) -> Result<()> {
        self.take(Job::Generate(Box::new(request)))
    }

    /// The same for a text to embed. Its one answer carries the vector as a JSON list.
    pub fn embed(&self, request: EmbedRequest) -> Result<()> {
        self.take(Job::Embed(request))
    }

    fn take(&self, mut job: Job) -> Result<()> {
        self.health.check()?;
        self.intake.queue.check()?;
        let n = job.sequences();
        let (client, options) = job.end();
        let ticket = self.health.tickets.admit(Arc::clone(client), options, n)?;
        *client = Arc::clone(&ticket) as _;
        let taken = match self.slow.as_ref().filter(|slow| slow.wants(&job)) {
            Some(slow) => self.intake.check_length(job.text()).and_then(|()| slow.send(job)),
            None => self.intake.accept(job, &NeverInterrupted),
        };
        if taken.is_err() {
            ticket.withdraw();
        }
        taken
    }

    /// Ok while requests can be served, else why not.
    pub fn health(&self) -> Result<()> {
        self.health.check()
    }

    /// Sequences of requests accepted and not yet answered.
    pub fn in_flight(&self) -> usize {
        self.health.tickets.len()
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
        // Ends the threads of slow requests once they have passed on or refused what they hold.
        self.slow = None;
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
