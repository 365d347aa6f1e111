//! A model and its instances as the server sees them: load, serve, unload. Called by the entry
//! points in `mod`; it calls the engines. One instance is one engine, or `data_parallel_size` of
//! them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::backend_request::BackendRequest;
use super::client::{BatchedRequest, Single};
use super::config::{self, ModelConfig};
use super::delayed_cancel::DelayedEnds;
use super::embedding::Embedding;
use super::handles::{monotonic_ns, InstanceHandle, Kind, ModelHandle, Request, ServerHandle};
use super::heap;
use super::inputs;
use super::log;
use super::metrics::Metrics;
use super::options::Options;
use super::places::{Place, Places};
use super::request::{self, worded, Context, Parsed};
use super::versions::LoadedVersion;
use super::warm_up::WarmUp;
use super::watch::{Supervisor, Watched};
use crate::engine::{
    Client, EmbedRequest, EngineArgs, EngineOptions, Engines, GenerateRequest, Gpus, ImageSource,
    RequestOptions, Returns,
};
use crate::error::{Error, Result};
use crate::files;
use crate::internal;
use crate::invalid;
use crate::sampling::SamplingLimits;
use crate::threads;

/// Keys of `--backend-config` that nobody reads are said once in the log.
static UNKNOWN_KEYS_SAID: Once = Once::new();

/// Stock servers read freed memory if they stop the thread of an instance just after its start (see
/// docs/reliability.md, "An instance that fails beside others"): within microseconds.
const SIBLING_PAUSE: Duration = Duration::from_millis(50);

/// One version of one model.
pub(super) struct Model {
    name: String,
    version: u64,
    server: ServerHandle,
    version_dir: PathBuf,
    config: ModelConfig,
    args: EngineArgs,
    options: Options,
    /// Of instances that choose their GPUs by turn.
    places: Arc<Places>,
    /// Counts as living until this is dropped.
    loaded: Arc<LoadedVersion>,
    /// `log_level` of model.json, while the model is loaded.
    _log_level: log::LevelRequest,
}

impl Model {
    /// Complete the config and read model.json.
    ///
    /// # Errors
    /// One line that names file and key; the server fails the load with it.
    pub(super) fn load(handle: ModelHandle) -> Result<Model> {
        let name = handle.name()?;
        let version = handle.version()?;
        let loaded = Arc::new(LoadedVersion::new(&name, version));
        let config = complete_config(handle)?;
        let backend_config = serde_json::from_str(&handle.backend_config()?).unwrap_or_default();
        let folder = handle.folder()?;
        let version_dir = folder.join(version.to_string());
        let (args, warnings) = read_args(&folder, &version_dir)?;

        let log_level = log::LevelRequest::new(args.operation.log_level);
        UNKNOWN_KEYS_SAID.call_once(|| {
            Options::unknown_keys(&backend_config).iter().for_each(|line| tracing::warn!("{line}"));
        });
        for warning in warnings {
            tracing::warn!("{name}: {warning}");
        }

        Ok(Model {
            name,
            version,
            server: handle.server()?,
            version_dir,
            config,
            args,
            options: Options::read(&backend_config)?,
            places: Arc::default(),
            loaded,
            _log_level: log_level,
        })
    }

    /// The GPUs of each engine of an instance at this place.
    ///
    /// # Errors
    /// InvalidArgument: `gpu_device_ids` says nothing of this instance, or does not fit to
    /// model.json.
    fn gpus(&self, kind: Kind, place: usize) -> Result<Vec<Gpus>> {
        let engines = self.args.data_parallel_size as usize;
        let lists = &self.config.gpu_device_ids;
        match kind {
            Kind::Gpu(_) if !lists.is_empty() => Err(invalid!(
                "gpu_device_ids in config.pbtxt: a KIND_GPU instance has its GPU by the instance \
                 group. Remove the parameter, or specify KIND_MODEL."
            )),
            Kind::Gpu(gpu) => Ok(vec![Gpus::Group(gpu)]),
            Kind::Auto if lists.is_empty() => {
                Ok((0..engines).map(|n| Gpus::Turn(place * engines + n)).collect())
            }
            Kind::Auto => self.listed_gpus(place),
        }
    }

    /// The same by `gpu_device_ids`.
    fn listed_gpus(&self, place: usize) -> Result<Vec<Gpus>> {
        let engines = self.args.data_parallel_size as usize;
        let ranks = self.args.tensor_parallel_size as usize;
        let lists = &self.config.gpu_device_ids;
        let number = place + 1;
        let list = lists.get(place).ok_or_else(|| {
            invalid!(
                "gpu_device_ids in config.pbtxt lists the GPUs of {} instances, and this one is \
                 number {number}: add its own behind a semicolon.",
                lists.len()
            )
        })?;

        let needed = engines * ranks;
        if list.len() != needed {
            return Err(invalid!(
                "gpu_device_ids in config.pbtxt lists {} GPUs for instance {number}, and \
                 tensor_parallel_size {ranks} times data_parallel_size {engines} in model.json \
                 need {needed}.",
                list.len()
            ));
        }
        Ok(list.chunks(ranks).map(|gpus| Gpus::Listed(gpus.to_vec())).collect())
    }

    /// `name`: for threads and logs.
    fn engine_options(&self, name: String, gpus: Gpus, metrics: &Arc<Metrics>) -> EngineOptions {
        let file = |dir: &PathBuf| dir.join(format!("{}.json", name.replace('/', "_")));
        EngineOptions {
            version_dir: self.version_dir.clone(),
            gpus,
            observer: Arc::clone(metrics) as _,
            max_waiting: self.options.max_waiting,
            max_backlog_tokens: self.options.max_backlog_tokens,
            max_logprob_entries: self.options.max_logprob_entries,
            outbox_threads: self.options.outbox_threads,
            step_timeout: self.options.step_timeout.or(self.args.operation.step_timeout),
            prompt_step: self.options.prompt_step,
            grammar_timeout: self.options.grammar_timeout,
            step_trace: self.options.step_trace_dir.as_ref().map(file),
            proposer: None,
            name,
        }
    }
}

fn complete_config(handle: ModelHandle) -> Result<ModelConfig> {
    let mut json = config_json(handle)?;
    if handle.auto_complete()? {
        config::complete(&mut json);
        handle.set_config(&json.to_string())?;
        // What counts is what the server kept: before 2.38 or so it drops the policy.
        json = config_json(handle)?;
    }
    if json["model_transaction_policy"].is_null() {
        tracing::warn!(
            "{}: served without streaming, because config.pbtxt has no model_transaction_policy {{ \
             decoupled: true }} and this server lets no backend add it",
            handle.name()?
        );
    }
    let config = config::read(&json)?;
    for line in config::unknown_keys(&json) {
        tracing::warn!("{}: config.pbtxt: {line}", handle.name()?);
    }
    for line in inputs::judge(&json, &config.roles)? {
        tracing::warn!("{}: {line}", handle.name()?);
    }
    Ok(config)
}

fn config_json(handle: ModelHandle) -> Result<Value> {
    serde_json::from_str(&handle.config()?).map_err(|e| internal!("the server's model config: {e}"))
}

/// `<version>/model.json`, else `vllm_engine_args.json` in the model's folder.
fn read_args(folder: &Path, version_dir: &Path) -> Result<(EngineArgs, Vec<String>)> {
    let candidates = [version_dir.join("model.json"), folder.join("vllm_engine_args.json")];
    for path in candidates {
        if let Some(text) = files::optional(files::read_text(&path, files::Kind::Arguments))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return EngineArgs::parse_file(&text, &name);
        }
    }
    Err(Error::NotFound(format!(
        "'model.json' containing vllm engine args must be provided in '{}'",
        version_dir.display()
    )))
}

/// When a request came, on the server's clock (for its statistics) and on ours.
#[derive(Clone, Copy)]
pub(super) struct ArrivalTime {
    start_ns: u64,
    arrival: Instant,
}

impl ArrivalTime {
    pub(super) fn now() -> ArrivalTime {
        ArrivalTime { start_ns: monotonic_ns(), arrival: Instant::now() }
    }
}

/// One instance: engines that serve requests.
pub(super) struct Instance {
    model: Arc<Model>,
    handle: InstanceHandle,
    supervisor: Supervisor,
    delayed_ends: DelayedEnds,
    warm_up: Arc<WarmUp>,
    limits: SamplingLimits,
    /// The model embeds and generates nothing.
    embeds: bool,
    /// Prompts may have images.
    images: bool,
    /// Names of LoRA adapters; None: LoRA is off.
    adapters: Option<Vec<String>>,
    /// Dropped last: its GPUs are free then.
    _place: Place,
}

impl Instance {
    /// Load engines on the devices that the instance group asks for. An error that makes the server
    /// stop other instances comes a moment later.
    pub(super) fn load(model: Arc<Model>, handle: InstanceHandle) -> Result<Instance> {
        let places = Arc::clone(&model.places);
        let place = places.take();
        Instance::load_at(place, model, handle).inspect_err(|_| {
            if places.are_taken() {
                std::thread::sleep(SIBLING_PAUSE);
            }
        })
    }

    fn load_at(place: Place, model: Arc<Model>, handle: InstanceHandle) -> Result<Instance> {
        let kind = handle.kind()?;
        model.args.check_parallel(kind != Kind::Auto)?;
        let gpus = model.gpus(kind, place.number)?;
        let several = gpus.len() > 1;
        let metrics = (0..gpus.len()).map(|n| Arc::new(Metrics::new(several.then_some(n))));
        let metrics: Vec<Arc<Metrics>> = metrics.collect();

        let instance = handle.name()?;
        let options = |(n, (gpus, metrics)): (usize, (Gpus, &Arc<Metrics>))| {
            let name = if several { format!("{instance}:{n}") } else { instance.clone() };
            model.engine_options(name, gpus, metrics)
        };
        let options = gpus.into_iter().zip(&metrics).enumerate().map(options).collect();

        let delayed_ends = DelayedEnds::start(&model.name)?;
        let started = Instant::now();
        let supervisor = Supervisor::start(Watched {
            server: model.server,
            model: model.name.clone(),
            version: model.version,
            args: model.args.clone(),
            engines: options,
            drain_deadline: model.options.drain_deadline,
            restarts: model.options.restarts,
            load_deadline: model.options.load_deadline,
            load_read_timeout: model.options.load_read_timeout,
            exit_when_dead: model.options.exit_when_dead,
            health_check: model.config.health_check,
            loaded: Arc::clone(&model.loaded),
        })?;

        let engine = supervisor.engine()?;
        let facts = engine.facts();
        if model.config.report_metrics && !model.args.disable_log_stats {
            for (metrics, facts) in metrics.iter().zip(engine.facts_of_each()) {
                metrics.register(&model.name, model.version, facts, &model.args);
            }
        }
        heap::give_back();
        tracing::info!("{}: loaded in {:.1?}", model.name, started.elapsed());

        let most = std::env::var("VLLM_MAX_N_SEQUENCES").ok();
        let limits = SamplingLimits::new(facts.vocab_size, model.args.max_logprobs);
        let lists = model.options.lists.clone();
        let limits = SamplingLimits { lists, ..limits.with_max_sequences(most.as_deref())? };
        let warm_up = Arc::new(WarmUp::new(model.config.warm_up_requests));
        Ok(Instance {
            model,
            handle,
            supervisor,
            delayed_ends,
            warm_up,
            limits,
            embeds: facts.embeds,
            images: facts.images,
            adapters: facts.adapters.clone(),
            _place: place,
        })
    }

    /// For threads and logs.
    pub(super) fn name(&self) -> &str {
        &self.model.name
    }

    /// Answer a request or hand it on; never waits for an engine.
    pub(super) fn serve(&self, request: Request, arrived: ArrivalTime) {
        let ArrivalTime { start_ns, arrival } = arrived;
        let warm_up = self.warm_up.takes_one().then(|| Arc::clone(&self.warm_up));
        let factory = match request.factory() {
            Ok(factory) => factory,
            Err(e) => return tracing::error!("a request cannot be answered: {e}"),
        };

        let parsed = threads::catch(|| self.parse(&request))
            .unwrap_or_else(|_| Err(internal!("a fault in reading the request")));
        let decoupled = self.model.config.decoupled;
        let delayed = self.delayed_ends.sender();
        let handle = self.handle;
        let mut request =
            BackendRequest::new(request, factory, handle, start_ns, decoupled, delayed, warm_up);

        let config = &self.model.config;
        let ready = parsed.and_then(|(parsed, options)| {
            request.set_layout(&parsed, &config.roles, config.max_batch_size > 0)?;
            Ok((parsed, options, self.engines()?))
        });
        match ready {
            Ok((parsed, options, engines)) => {
                self.submit(&engines, request, parsed, options, arrival)
            }
            Err(error) => request.refuse(&error),
        }
    }

    fn parse(&self, request: &Request) -> Result<(Parsed, RequestOptions)> {
        let tensors = request.inputs(self.model.options.max_request_bytes).map_err(worded)?;
        let context = Context {
            name: &self.model.name,
            config: &self.model.config,
            limits: &self.limits,
            default_max_tokens: self.model.options.default_max_tokens,
            embeds: self.embeds,
            images: self.images,
            adapters: self.adapters.as_deref(),
        };
        let mut parameters = request.parameters().map_err(worded)?;
        inputs::take_options(&tensors, &mut parameters).map_err(worded)?;
        let options = request.options(&mut parameters).map_err(worded)?;
        Ok((request::parse(&context, &tensors, parameters)?, options))
    }

    fn embed(
        &self,
        engines: &Engines,
        request: BackendRequest,
        mut embeddings: Vec<Embedding>,
        options: RequestOptions,
        arrival: Instant,
    ) {
        let give = |Embedding { input, params }, client: Arc<dyn Client>| {
            let taken = engines.embed(EmbedRequest {
                input,
                params,
                client: Arc::clone(&client),
                arrival,
                options: options.clone(),
            });
            if let Err(error) = taken {
                client.finish(Err(error));
            }
        };

        if embeddings.len() == 1 {
            if let Some(one) = embeddings.pop() {
                let style = self.model.config.roles.style;
                give(one, Arc::new(Single::new(request, None, style, false)));
            }
            return;
        }
        let echoes = vec![None; embeddings.len()];
        for (row, client) in embeddings.into_iter().zip(BatchedRequest::rows(request, echoes)) {
            give(row, Arc::new(client));
        }
    }

    fn submit(
        &self,
        engines: &Engines,
        request: BackendRequest,
        parsed: Parsed,
        options: RequestOptions,
        arrival: Instant,
    ) {
        if !parsed.embeddings.is_empty() {
            return self.embed(engines, request, parsed.embeddings, options, arrival);
        }

        let stream = parsed.stream;
        let echo = parsed.echo;
        let returns = Returns {
            logprobs: parsed.outputs.logprobs,
            cumulative_logprob: parsed.outputs.cumulative_logprob,
        };
        let mut rows = parsed.rows;
        let give = |row: request::PromptRow, client: Arc<dyn Client>| {
            let taken = engines.submit(GenerateRequest {
                prompt: row.prompt,
                images: row.images.into_iter().map(ImageSource::Text).collect(),
                params: row.params,
                stream,
                returns,
                client: Arc::clone(&client),
                arrival,
                options: options.clone(),
            });
            if let Err(error) = taken {
                client.finish(Err(error));
            }
        };

        if rows.len() == 1 {
            if let Some(row) = rows.pop() {
                let prompt = echo.then(|| row.prompt.clone());
                let style = self.model.config.roles.style;
                give(row, Arc::new(Single::new(request, prompt, style, stream)));
            }
            return;
        }
        let prompts = rows.iter().map(|row| echo.then(|| row.prompt.clone())).collect();
        for (row, client) in rows.into_iter().zip(BatchedRequest::rows(request, prompts)) {
            give(row, Arc::new(client));
        }
    }

    /// A dead engine answers at once; with ENABLE_VLLM_HEALTH_CHECK in the Python backend's words,
    /// and the model leaves the server, unless the engine is being loaded again.
    fn engines(&self) -> Result<Arc<Engines>> {
        let error = match self.supervisor.engine() {
            Ok(engine) => return Ok(engine),
            Err(error) => error,
        };
        let restarts = self.model.options.restarts > 0;
        if !self.model.config.health_check || self.supervisor.unloading() || restarts {
            return Err(worded(error));
        }
        self.supervisor.ask_unload();
        Err(Error::Unavailable("Model is unavailable due to unhealthy vLLM engine".into()))
    }

    /// What the server's readiness probe asks, on servers that do.
    pub(super) fn ready(&self) -> Result<()> {
        self.supervisor.readiness_asked();
        self.supervisor.engine().map(drop)
    }

    /// Unload: the server calls it when no request is left, so nobody holds a sender of delayed
    /// ends.
    pub(super) fn unload(self) {
        self.supervisor.unload();
        self.delayed_ends.stop();
    }
}
