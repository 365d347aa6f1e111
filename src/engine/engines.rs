//! The engines behind one instance of a model: one, or `data_parallel_size` of them, each with
//! devices and pages of its own. Held by `triton` and by tests, made by `load`. The death of one is
//! the death of all: nobody new is taken any more, until they are loaded again.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::handle::Engine;
use super::options::EngineFacts;
use super::prefix_routes::PrefixRoutes;
use super::request::{EmbedRequest, GenerateRequest};
use crate::error::Result;
use crate::internal;

/// Running engines, at least one. Dropping them drains with no patience.
pub struct Engines {
    engines: Vec<Engine>,
    routes: Mutex<PrefixRoutes>,
}

impl Engines {
    /// `prefix_caching`: a prompt is read faster where its beginning was read before.
    ///
    /// # Errors
    /// Internal: there is none.
    pub(super) fn new(engines: Vec<Engine>, prefix_caching: bool) -> Result<Engines> {
        if engines.is_empty() {
            return Err(internal!("no engine"));
        }
        let kv_tokens = |engine: &Engine| if prefix_caching { engine.facts().kv_tokens } else { 0 };
        let routes = PrefixRoutes::new(&engines.iter().map(kv_tokens).collect::<Vec<_>>());
        Ok(Engines { engines, routes: Mutex::new(routes) })
    }

    /// What the load decided, of the engine that takes the shortest texts.
    pub fn facts(&self) -> &EngineFacts {
        let least = self.facts_of_each().min_by_key(|facts| facts.max_model_len);
        least.unwrap_or_else(|| self.engines[0].facts())
    }

    /// The same of each, in the order of their options.
    pub fn facts_of_each(&self) -> impl Iterator<Item = &EngineFacts> {
        self.engines.iter().map(Engine::facts)
    }

    /// Take a request or refuse it at once. After Ok the client's `finish` is called exactly once,
    /// after Err never.
    ///
    /// # Errors
    /// InvalidArgument: the prompt is too long, or whatever else is wrong with the request.
    /// Unavailable: the queue is full, the engine drains or has failed.
    pub fn submit(&self, request: GenerateRequest) -> Result<()> {
        let cached = !request.params.skip_reading_prefix_cache;
        let prompt = if cached { request.prompt.as_str() } else { "" };
        let adapter = request.params.lora_name.as_deref();
        self.engine_for(prompt, adapter, request.params.n as usize)?.submit(request)
    }

    /// The same for a text to embed or classify. Its one answer carries the vector or the scores as
    /// a JSON list.
    ///
    /// # Errors
    /// As [`Engines::submit`].
    pub fn embed(&self, request: EmbedRequest) -> Result<()> {
        self.engine_for("", None, 1)?.embed(request)
    }

    fn engine_for(&self, prompt: &str, adapter: Option<&str>, sequences: usize) -> Result<&Engine> {
        if let [one] = &self.engines[..] {
            return Ok(one);
        }
        self.health()?;

        let load = |engine: &Engine| engine.has_room(sequences).then(|| engine.in_flight());
        let loads: Vec<Option<usize>> = self.engines.iter().map(load).collect();
        let mut routes = self.routes.lock();
        let beginnings = routes.beginnings(prompt, adapter);
        Ok(&self.engines[routes.choose(&beginnings, &loads)])
    }

    /// Ok while requests can be served.
    ///
    /// # Errors
    /// Unavailable: why not.
    pub fn health(&self) -> Result<()> {
        self.engines.iter().try_for_each(Engine::health)
    }

    /// Sequences of requests accepted and not yet answered.
    pub fn in_flight(&self) -> usize {
        self.engines.iter().map(Engine::in_flight).sum()
    }

    /// Start what [`Engines::drain`] does and return at once.
    pub fn begin_drain(&self, patience: Duration) {
        self.engines.iter().for_each(|engine| engine.begin_drain(patience));
    }

    /// Refuse new requests, let those in flight finish, after `patience` fail the rest with
    /// UNAVAILABLE, join all threads, give memory back. A thread that hangs in a step is left
    /// alone after a while, and its memory with it.
    /// False: such a thread was left.
    pub fn drain(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.begin_drain(patience);
        let left = || deadline.saturating_duration_since(Instant::now());
        // All of them, not up to the first that hangs.
        let hung = self.engines.into_iter().map(|engine| engine.drain(left()));
        hung.filter(|&joined| !joined).count() == 0
    }
}
