//! THE HEART: one thread owns all mutable state. `triton` calls it through [`Engine`]; it calls
//! `scheduler` for plans, `model` and `device` for tokens, `text` for words. It never knows Triton.

pub mod args;
mod request;

pub use args::EngineArgs;
pub use request::{Answer, Client, FinishReason, GenerateRequest, Observation, Observer, Output};

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;

/// What the door knows beside model.json.
pub struct EngineOptions {
    /// Name for threads and logs: the Triton model's.
    pub name: String,
    /// `<repository>/<model>/<version>`: a relative `model` path is tried against it first.
    pub version_dir: std::path::PathBuf,
    /// GPU to use; None = the first visible one. Which device serves: design law 11, decided in `load`.
    pub gpu: Option<u32>,
    pub observer: Arc<dyn Observer>,
    /// Requests that may wait for a slot; one more is refused with UNAVAILABLE.
    pub max_waiting: usize,
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
}

impl Engine {
    /// Read config, tokenizer and weights, allocate everything, start the threads.
    ///
    /// # Errors
    /// One line that names the file or key: the door fails the load with it.
    pub fn load(_args: EngineArgs, _options: EngineOptions) -> Result<Engine> {
        todo!()
    }

    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// Take a request or refuse it at once: InvalidArgument (prompt too long, …) or Unavailable (queue
    /// full, draining, poisoned). After Ok the client's `finish` is called exactly once; after Err never.
    pub fn submit(&self, _request: GenerateRequest) -> Result<()> {
        todo!()
    }

    /// Ok while requests can be served, else why not.
    pub fn health(&self) -> Result<()> {
        todo!()
    }

    /// Refuse new requests, let those in flight finish, after `deadline` fail the rest with UNAVAILABLE,
    /// join all threads, give memory back.
    pub fn drain(self, _deadline: Duration) {
        todo!()
    }
}
