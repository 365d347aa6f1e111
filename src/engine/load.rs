//! From arguments to a running engine: folders, device, net, page budget, threads. Called once per
//! instance, on Triton's load thread; everything that can be refused is refused here, in one line.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::unbounded;

use super::adapters::{AdapterList, Adapters};
use super::args::{GenerationConfig, LoadFormat, LoraArgs};
use super::grammar_matchers::MatcherThreads;
use super::health::Health;
use super::intake::{Intake, Slow};
use super::meter::{Meter, StepTrace};
use super::outbox::{Backlog, Outboxes, Shared};
use super::placement::choose_gpu;
use super::pooling::Embedder;
use super::queued::PromptQueue;
use super::sizes::{self, SizePool};
use super::step::{Core, Helpers, Runner};
use super::ticket::QueueLimit;
use super::watchdog::Watchdog;
use super::{Engine, EngineArgs, EngineFacts, EngineOptions, STEP_TIMEOUT, STEP_TIMEOUT_CPU};
use crate::device::cpu::memory::Promise;
#[cfg(feature = "cuda")]
use crate::device::cuda::Cuda;
use crate::device::{cpu::Cpu, BreakOnPurpose, DType, Device};
use crate::error::{Error, Result};
use crate::files::Progress;
use crate::ids::AdapterSlotId;
use crate::model::budget;
use crate::model::config::SpecOptions;
use crate::model::folder::{self, Location};
use crate::model::hub::{Hub, SnapshotRequest};
use crate::model::{Adapter, Checkpoint, Decoder, Files, ModelSpec, WeightSource};
use crate::plan::{StepPlan, StepResult, TokenMasks};
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::text::{Grammars, Tokenizer};

pub(super) fn load(
    args: EngineArgs,
    options: EngineOptions,
    progress: &Arc<Progress>,
) -> Result<Engine> {
    let gpu = choose_gpu(&args, &options)?;
    let files = match args.load_format {
        LoadFormat::Auto => Some(Files::Any),
        LoadFormat::Safetensors => Some(Files::Safetensors),
        LoadFormat::Torch => Some(Files::Torch),
        LoadFormat::Dummy => None,
    };
    let found = |name: &str, key: &str, revision: &Option<String>, weights: Option<Files>| {
        let wanted = SnapshotRequest {
            repo: name,
            revision: revision.as_deref(),
            ignore: &args.ignore_patterns,
            weights,
        };
        let judge = |folder: &Path| match weights {
            Some(_) => judge_unread(folder, &args),
            None => Ok(()),
        };
        resolve(&wanted, &options.version_dir, key, &args, progress, &judge)
    };
    let dir = found(&args.model, "model", &args.revision, files)?;
    folder::judge(&dir)?;
    let tokenizer_dir = match &args.tokenizer {
        Some(name) => found(name, "tokenizer", &args.tokenizer_revision, None)?,
        None => dir.clone(),
    };
    let tokenizer = Arc::new(Tokenizer::load(&tokenizer_dir)?);
    let model = read_model(&dir, &args, progress)?;
    match gpu {
        #[cfg(feature = "cuda")]
        Some(gpu) => {
            let mut device = Cuda::open(gpu, model.0.dtype)?;
            if args.enforce_eager {
                device.launch_eagerly();
            }
            start(device, sizes::gpu_pool, model, tokenizer, args, options)
        }
        _ => start(Cpu::new(threads())?, sizes::cpu_pool, model, tokenizer, args, options),
    }
}

/// What can be said of a model before its weights are here, so that nobody waits for gigabytes that
/// cannot be served.
fn judge_unread(folder: &Path, args: &EngineArgs) -> Result<()> {
    folder::judge(folder)?;
    // Warnings wait until all of it is read.
    let quiet = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(quiet, || {
        ModelSpec::read(folder, &spec_options(args, None))?;
        match args.tokenizer {
            Some(_) => Ok(()),
            None => Tokenizer::load(folder).map(|_| ()),
        }
    })
}

/// The folder of what is wanted: a local one, else a hub's, which `judge` may refuse before there
/// are weights in it.
fn resolve(
    wanted: &SnapshotRequest,
    version_dir: &Path,
    key: &str,
    args: &EngineArgs,
    progress: &Arc<Progress>,
    judge: &dyn Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let at = |e: Error| e.context(&format!("{}: {key}: ", args.file));
    if let Location::Folder(folder) =
        folder::find(wanted.repo, version_dir, wanted.revision).map_err(at)?
    {
        return Ok(folder);
    }
    let var = |name: &str| std::env::var(name).ok();
    let hub = Hub::new(args.download_dir.as_deref(), &args.hf_token, var);
    hub.called_off_by(progress).judged_snapshot(wanted, judge).map_err(at)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A device with a net on it.
struct Net<D: Device + BreakOnPurpose> {
    device: D,
    decoder: Decoder<D>,
    depth: usize,
    /// Of the memory that all this may take.
    _promise: Option<Promise>,
}

impl<D: Device + BreakOnPurpose> Runner for Net<D> {
    fn depth(&self) -> usize {
        self.depth
    }

    fn install(&mut self, adapter_slot: AdapterSlotId, adapter: &Adapter) -> Result<()> {
        self.decoder.install(&mut self.device, adapter_slot, adapter)
    }

    fn forward(&mut self, plan: &StepPlan) -> Result<()> {
        self.decoder.step(&mut self.device, plan)
    }

    fn sample(&mut self, masks: &TokenMasks) -> Result<()> {
        self.decoder.sample(&mut self.device, masks)
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.device.collect()
    }

    fn break_device(&mut self) -> Result<()> {
        self.device.break_on_purpose()
    }
}

fn start<D: Device + BreakOnPurpose>(
    mut device: D,
    pool: SizePool,
    (spec, format): (ModelSpec, WeightSource),
    tokenizer: Arc<Tokenizer>,
    args: EngineArgs,
    options: EngineOptions,
) -> Result<Engine> {
    let info = device.info();
    let adapters = adapters_of(&spec, &args, &options)?;
    let batch = sizes::batch_sizes(&args, &spec, &info)?;
    let (limits, promise) = sizes::limits_of(&spec, &args, &info, pool, batch)?;
    let decoder = Decoder::load(&spec, &format, &mut device, &limits)?;
    if let WeightSource::Files(checkpoint) = &format {
        checkpoint.unchanged()?;
    }
    drop(format);
    let scheduler = Scheduler::new(SchedulerConfig {
        max_num_seqs: args.limits.max_num_active_seqs.unwrap_or(limits.slots).min(limits.slots),
        max_num_batched_tokens: sizes::scheduled_tokens(&args, &limits, &spec)?,
        max_model_len: limits.max_model_len,
        page_size: limits.page_size,
        pages: limits.pages,
        long_prefill_token_threshold: args.long_prefill_token_threshold as usize,
        long_prefill_adaptive: args.limits.long_prefill_adaptive,
        chunked_prefill: args.enable_chunked_prefill && !spec.whole_prompts(),
        prefix_caching: args.enable_prefix_caching && !spec.whole_prompts(),
        pooling: spec.pooling.is_some(),
        watermark: args.watermark,
        reserve_full_isl: args.scheduler_reserve_full_isl,
        max_loras: args.lora.as_ref().map_or(0, |lora| lora.max_loras),
        depth: info.depth,
    })?;
    let facts = EngineFacts {
        device: info.name.clone(),
        dtype: dtype_name(spec.dtype).into(),
        max_model_len: limits.max_model_len as u32,
        max_num_seqs: limits.slots as u32,
        max_num_batched_tokens: limits.step_tokens as u32,
        kv_tokens: match limits.kv.layers {
            0 => 0,
            _ => budget::pool_tokens(limits.pages, limits.page_size),
        },
        vocab_size: spec.vocab_size as u32,
        embeds: spec.pooling.is_some(),
        adapters: adapters.as_ref().map(AdapterList::names),
    };
    let mut runner: Box<dyn Runner> =
        Box::new(Net { device, decoder, depth: info.depth, _promise: promise });
    if let Some(faults) = args.inject_faults {
        runner = faults.around(runner)?;
    }
    let model = (spec, adapters);
    let engine = threads_of(runner, scheduler, tokenizer, model, facts, &args, options)?;
    report(&engine.facts, &args);
    Ok(engine)
}

fn read_model(
    dir: &Path,
    args: &EngineArgs,
    progress: &Arc<Progress>,
) -> Result<(ModelSpec, WeightSource)> {
    let open = |files| Checkpoint::open_counted(dir, files, progress).map(WeightSource::Files);
    let format = match args.load_format {
        LoadFormat::Dummy => WeightSource::Dummy,
        LoadFormat::Auto => open(Files::Any)?,
        LoadFormat::Safetensors => open(Files::Safetensors)?,
        LoadFormat::Torch => open(Files::Torch)?,
    };
    let stored = match &format {
        WeightSource::Files(checkpoint) => checkpoint.stored_dtype(),
        WeightSource::Dummy => None,
    };
    let mut spec = ModelSpec::read(dir, &spec_options(args, stored))?;
    spec.adapters = args.lora.as_ref().map(LoraArgs::options);
    Ok((spec, format))
}

/// What the arguments say of a model.
fn spec_options(args: &EngineArgs, stored_dtype: Option<DType>) -> SpecOptions<'_> {
    SpecOptions {
        hf_overrides: Some(&args.hf_overrides),
        overrides_file: &args.file,
        dtype: args.dtype.map_or("", dtype_name),
        stored_dtype,
        supported: &[DType::BF16, DType::F16, DType::F32],
        max_model_len: args.max_model_len.map(i64::from),
        disable_sliding_window: args.disable_sliding_window,
        generation_config: match &args.generation_config {
            GenerationConfig::Model => None,
            GenerationConfig::Folder(folder) => Some(folder),
        },
        pooler: args.pooler.clone(),
        ..SpecOptions::default()
    }
}

/// The list of adapters, where LoRA is on.
fn adapters_of(
    spec: &ModelSpec,
    args: &EngineArgs,
    options: &EngineOptions,
) -> Result<Option<AdapterList>> {
    let Some(lora) = &args.lora else { return Ok(None) };
    if let Some(other) = lora.lora_dtype.filter(|&dtype| dtype != spec.dtype) {
        let (other, own) = (dtype_name(other), dtype_name(spec.dtype));
        tracing::warn!("lora_dtype: adapters have the model's type, {own}, not {other}");
    }
    let var = |name: &str| std::env::var(name).ok();
    let hub = Hub::new(args.download_dir.as_deref(), &args.hf_token, var);
    AdapterList::read(&options.version_dir, hub).map(Some)
}

pub(super) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
    }
}

/// How long a step may run.
fn step_limit(options: &EngineOptions, facts: &EngineFacts) -> Option<Duration> {
    match options.step_timeout {
        None if facts.device.starts_with("cpu") => Some(STEP_TIMEOUT_CPU),
        None => Some(STEP_TIMEOUT),
        Some(limit) => Some(limit).filter(|limit| !limit.is_zero()),
    }
}

fn threads_of(
    runner: Box<dyn Runner>,
    scheduler: Scheduler,
    tokenizer: Arc<Tokenizer>,
    (spec, adapters): (ModelSpec, Option<AdapterList>),
    facts: EngineFacts,
    args: &EngineArgs,
    options: EngineOptions,
) -> Result<Engine> {
    let name = &options.name;
    let (commands, inbox) = unbounded();
    let observer = Arc::clone(&options.observer);
    let health = Health::new(queue_limit(args, &facts, &options));
    let health = Arc::new(health.observed_by(Arc::clone(&observer)));
    let shared = Shared { observer, commands: commands.clone(), health: health.clone() };
    let watchdog = Watchdog::start(name, health.clone(), step_limit(&options, &facts))?;
    let (tokens, logprobs) = (options.max_backlog_tokens, options.max_logprob_entries);
    let backlog = Backlog { tokens, logprobs };
    let outbox_threads = options.outbox_threads.unwrap_or_else(|| (threads() / 4).clamp(1, 4));
    let trace = options.step_trace.as_deref().map(StepTrace::create).transpose()?;
    let meter = Meter::new(Arc::clone(&options.observer), trace);
    let kept = args.lora.as_ref().map_or(0, |lora| lora.max_cpu_loras);
    let (adapters, adapter_readers) = Adapters::start(name, adapters, &spec, kept, &commands)?;
    let limit = options.grammar_timeout;
    let matchers = MatcherThreads::start(name, (threads() / 2).clamp(1, 8), limit, &commands)?;
    let drop_thread = matchers.drop_thread();
    let outboxes = Outboxes::start(name, outbox_threads, backlog, &shared)?;
    let helpers = Helpers { outboxes, matchers, adapters };
    let core = Core::new(runner, scheduler, inbox, helpers, shared, meter, args.stream_interval);
    let core = spawn(format!("engine {name}"), move || core.run())?;
    let mut eos = spec.eos_token_ids;
    eos.extend(tokenizer.eos().filter(|own| !eos.contains(own)));
    let rules = args.structured_outputs.clone();
    let grammars = Grammars::new(tokenizer.clone(), facts.vocab_size, &eos, rules, limit);
    let intake = Arc::new(Intake {
        queue: PromptQueue::new(args.limits.max_num_queued_tokens),
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
        next_id: AtomicU64::new(1),
        embedder: spec.pooling.map(|rule| {
            let model = args.model.clone();
            Arc::new(Embedder { rule, model, vocab_size: facts.vocab_size })
        }),
    });
    let (slow, mut threads) = Slow::start(name, &intake, limit)?;
    // In this order they end: each lets go of what the next one waits for.
    threads.push(core);
    threads.extend(adapter_readers);
    Ok(Engine {
        facts,
        health,
        intake,
        commands,
        slow: Some(slow),
        threads,
        watchdog: Some(watchdog),
    })
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

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(|e| crate::internal!("cannot start a thread: {e}"))
}

/// One line with what was decided.
fn report(facts: &EngineFacts, args: &EngineArgs) {
    let cache = match facts.kv_tokens {
        0 => "no KV cache".to_string(),
        tokens => {
            let times = tokens as f64 / f64::from(facts.max_model_len);
            let (pages, size) = (tokens / u64::from(args.block_size), args.block_size);
            format!(
                "KV cache {tokens} tokens ({times:.2}x max_model_len) in {pages} pages of {size}"
            )
        }
    };
    let task = if facts.embeds { "embedding with" } else { "serving" };
    tracing::info!(
        "{task} {} on {}: dtype {}, max_model_len {}, max_num_seqs {}, max_num_batched_tokens {}, \
         {cache}, prefix caching {}, chunked prefill {}, eager {}",
        args.model,
        facts.device,
        facts.dtype,
        facts.max_model_len,
        facts.max_num_seqs,
        facts.max_num_batched_tokens,
        args.enable_prefix_caching,
        args.enable_chunked_prefill,
        args.enforce_eager,
    );
}
