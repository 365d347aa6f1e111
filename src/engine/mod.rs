//! THE HEART: one thread owns all mutable state. `triton` calls it through [`Engine`]; it calls
//! `scheduler` for plans, `model` and `device` for tokens, `text` for words. It never knows Triton.
//!
//! | file | what |
//! |---|---|
//! | `args` | model.json, parsed once |
//! | `request` | what enters and leaves: requests, clients, answers, observations |
//! | `load` | args to a running engine: device, weights, page budget |
//! | `intake` | text to tokens, limits, refusals: on the caller's thread |
//! | `command` | what other threads ask of the engine thread |
//! | `step` | the loop: plan, enqueue, collect, settle |
//! | `outbox` | tokens to words to clients: on their own threads |
//! | `health` | poison and drain |

pub mod args;
mod command;
mod health;
mod intake;
mod load;
mod outbox;
mod request;
mod step;
#[cfg(test)]
mod tests;

pub use args::EngineArgs;
pub use request::{Answer, Client, FinishReason, GenerateRequest, Observation, Observer, Output};

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use crate::error::{Error, Result};
use command::Command;
use health::Health;
use intake::Intake;

/// What the door knows beside model.json.
pub struct EngineOptions {
    /// Name for threads and logs: the Triton model's.
    pub name: String,
    /// `<repository>/<model>/<version>`: a relative `model` path is tried against it first.
    pub version_dir: PathBuf,
    /// GPU to use; None = the first visible one. Which device serves: design law 11, decided in
    /// `load`.
    pub gpu: Option<u32>,
    pub observer: Arc<dyn Observer>,
    /// Requests that may wait for a slot; one more is refused with UNAVAILABLE.
    pub max_waiting: usize,
    /// Threads that detokenise and answer; None = by the number of cores.
    pub outbox_threads: Option<usize>,
}

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
}

/// Handle of a running engine. Dropping it drains with no patience.
pub struct Engine {
    facts: EngineFacts,
    health: Arc<Health>,
    intake: Arc<Intake>,
    /// Accepted and not yet finished. Never above `in_flight_limit`.
    in_flight: Arc<AtomicUsize>,
    in_flight_limit: usize,
    commands: Sender<Command>,
    /// Prompts too long to tokenise on the caller's thread.
    long_prompts: Option<Sender<GenerateRequest>>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Read config, tokenizer and weights, allocate everything, start the threads.
    ///
    /// # Errors
    /// One line that names the file or key: the door fails the load with it.
    pub fn load(args: EngineArgs, options: EngineOptions) -> Result<Engine> {
        load::load(args, options)
    }

    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// Take a request or refuse it at once: InvalidArgument (prompt too long, …) or Unavailable
    /// (queue full, draining, poisoned). After Ok the client's `finish` is called exactly once;
    /// after Err never.
    pub fn submit(&self, request: GenerateRequest) -> Result<()> {
        self.health.check()?;
        if self.in_flight.fetch_add(1, Ordering::AcqRel) >= self.in_flight_limit {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Err(Error::Unavailable(format!(
                "{} requests are running or waiting, which is the limit: retry later, or raise \
                 max_num_seqs in model.json or --backend-config=vllm,max-waiting",
                self.in_flight_limit
            )));
        }
        let taken = match &self.long_prompts {
            Some(thread) if request.prompt.len() > intake::INLINE_BYTES => thread
                .send(request)
                .map_err(|_| Error::Unavailable("the model is being unloaded".into())),
            _ => self.intake.accept(request),
        };
        if taken.is_err() {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
        taken
    }

    /// Ok while requests can be served, else why not.
    pub fn health(&self) -> Result<()> {
        self.health.check()
    }

    /// Requests accepted and not yet finished.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Start what [`Engine::drain`] does and return at once.
    pub fn begin_drain(&self, patience: Duration) {
        self.health.drain();
        let _ = self.commands.send(Command::Drain { deadline: Instant::now() + patience });
    }

    /// Refuse new requests, let those in flight finish, after `patience` fail the rest with
    /// UNAVAILABLE, join all threads, give memory back.
    pub fn drain(mut self, patience: Duration) {
        self.stop(patience);
    }

    fn stop(&mut self, patience: Duration) {
        self.health.drain();
        // Long prompts first: what they hold still becomes requests.
        self.long_prompts = None;
        self.begin_drain(patience);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.stop(Duration::ZERO);
        }
    }
}
