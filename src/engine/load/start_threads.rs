//! The threads of an engine, and the channels between them: the last part of a load. Nothing here
//! knows a device or a file.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::unbounded;
use ureq::tls::RootCerts;

use super::args::EngineArgs;
use crate::device::DeviceKind;
use crate::engine::adapters::{AdapterList, HostAdapters};
use crate::engine::grammar::MatcherThreads;
use crate::engine::handle::Engine;
use crate::engine::health::Health;
use crate::engine::meter::{Meter, StepTrace};
use crate::engine::options::{EngineFacts, EngineOptions, STEP_TIMEOUT, STEP_TIMEOUT_CPU};
use crate::engine::output::{Backlog, Outboxes};
use crate::engine::request::{
    Embedder, ImageIntake, Intake, PrepareThreads, QueueLimit, QueuedPrompts, RequestIds,
};
use crate::engine::shared::Shared;
use crate::engine::step_loop::{Helpers, Runner, StepLoop};
use crate::engine::watchdog::Watchdog;
use crate::error::Result;
use crate::image::Fetcher;
use crate::model::hub::{Hub, Token};
use crate::model::{ModelSpec, PooledHead};
use crate::scheduler::Scheduler;
use crate::text::{Grammars, Tokenizer};
use crate::threads;

/// What was loaded.
pub(super) struct Parts {
    pub runner: Box<dyn Runner>,
    pub scheduler: Scheduler,
    pub tokenizer: Arc<Tokenizer>,
    pub spec: ModelSpec,
    /// Of a model that classifies.
    pub head: Option<Arc<PooledHead>>,
    /// None: LoRA is off.
    pub adapters: Option<AdapterList>,
    pub facts: EngineFacts,
    /// Of the requests of all engines of the load.
    pub ids: Arc<RequestIds>,
}

/// Start all threads; the engine serves from now on.
///
/// # Errors
/// Internal: the operating system refuses a thread. InvalidArgument: the trace file cannot be
/// written.
pub(super) fn start(parts: Parts, args: &EngineArgs, options: EngineOptions) -> Result<Engine> {
    let Parts { runner, scheduler, tokenizer, spec, head, adapters, facts, ids } = parts;
    let name = &options.name;
    let (commands, inbox) = unbounded();

    let observer = Arc::clone(&options.observer);
    let health = Health::new(queue_limit(args, &facts, &options));
    let health = Arc::new(health.observed_by(Arc::clone(&observer)));
    let shared = Shared { observer, commands: commands.clone(), health: health.clone() };
    let watchdog = Watchdog::start(name, health.clone(), step_limit(&options, &facts))?;

    // The threads that help the engine thread.
    let trace = options.step_trace.as_deref().map(StepTrace::create).transpose()?;
    let mut meter = Meter::new(Arc::clone(&options.observer), trace);
    if !args.disable_log_stats {
        meter = meter.log_drafts();
    }
    let kept = args.lora.as_ref().map_or(0, |lora| lora.max_cpu_loras);
    let (adapters, readers) = HostAdapters::start(name, adapters, &spec, kept, &commands)?;
    let limit = options.grammar_timeout;
    let matchers = MatcherThreads::start(name, (cores() / 2).clamp(1, 8), limit, &commands)?;
    let drop_thread = matchers.drop_thread();
    let outboxes = start_outboxes(&options, &shared)?;

    // The engine thread.
    let helpers = Helpers { outboxes, matchers, adapters };
    let interval = args.stream_interval;
    let step_loop = StepLoop::new(runner, scheduler, inbox, helpers, shared, meter, interval);
    let engine_thread = threads::spawn(format!("engine {name}"), move || step_loop.run())?;

    // What the callers' threads use.
    let embedder = Embedder::of(&spec, head, &args.model)?;
    let fetcher = fetcher(args)?;
    let of_tower = |vision| ImageIntake::new(vision, args.media.images, fetcher, &tokenizer);
    let images = spec.vision.as_ref().map(of_tower).transpose()?;
    let mut eos = spec.eos_token_ids;
    eos.extend(tokenizer.eos().filter(|own| !eos.contains(own)));
    let rules = args.structured_outputs.clone();
    let grammars = Grammars::new(tokenizer.clone(), facts.vocab_size, &eos, rules, limit);
    let intake = Arc::new(Intake {
        queued_prompts: QueuedPrompts::new(args.limits.max_num_queued_tokens),
        tokenizer,
        grammars,
        max_model_len: facts.max_model_len,
        vocab_size: facts.vocab_size,
        eos,
        seed: args.seed as u64,
        log_requests: args.enable_log_requests,
        adapters: facts.adapters.clone().unwrap_or_default(),
        commands: commands.clone(),
        drop_thread,
        ids,
        embedder: embedder.map(Arc::new),
        images,
    });
    let (prepare, mut threads) = PrepareThreads::start(name, &intake, limit)?;
    // In this order they end: each lets go of what the next one waits for.
    threads.push(engine_thread);
    threads.extend(readers);
    Ok(Engine {
        facts,
        health,
        intake,
        commands,
        prepare: Some(prepare),
        threads,
        watchdog: Some(watchdog),
    })
}

/// Fetches images, if model.json names hosts.
fn fetcher(args: &EngineArgs) -> Result<Option<Fetcher>> {
    let hosts = &args.media.domains;
    if hosts.is_empty() {
        return Ok(None);
    }
    let hub = Hub::new(None, &Token::None, |name| std::env::var(name).ok());
    let roots = hub.trusted_roots()?.unwrap_or(RootCerts::WebPki);
    Ok(Some(Fetcher::new(hosts, roots)))
}

fn start_outboxes(options: &EngineOptions, shared: &Shared) -> Result<Outboxes> {
    let backlog =
        Backlog { tokens: options.max_backlog_tokens, logprobs: options.max_logprob_entries };
    let threads = options.outbox_threads.unwrap_or_else(|| (cores() / 4).clamp(1, 4));
    Outboxes::start(&options.name, threads, backlog, shared)
}

/// Threads that run at the same time.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How long a step may run.
fn step_limit(options: &EngineOptions, facts: &EngineFacts) -> Option<Duration> {
    match options.step_timeout {
        None if facts.device_kind == DeviceKind::Cpu => Some(STEP_TIMEOUT_CPU),
        None => Some(STEP_TIMEOUT),
        Some(limit) => Some(limit).filter(|limit| !limit.is_zero()),
    }
}

/// Sequences that may run and wait.
fn queue_limit(args: &EngineArgs, facts: &EngineFacts, options: &EngineOptions) -> QueueLimit {
    match args.limits.max_num_queued_reqs {
        Some(sequences) => QueueLimit { sequences, keys: "max_num_queued_reqs in model.json" },
        None => QueueLimit {
            sequences: facts.max_num_seqs as usize + options.max_waiting,
            keys: "max_num_seqs in model.json or --backend-config=vllm,max-waiting",
        },
    }
}
