//! From arguments to running engines: devices, files, model, page budget, scheduler, threads.
//! Called by `deadline`, once per instance; everything that can be refused is refused here, in one
//! line.

use std::sync::Arc;
use std::time::Duration;

use super::args::{dtype_name, EngineArgs, SpeculationArgs};
#[cfg(feature = "cuda")]
use super::cache_folder::cache_folder;
use super::device_runner::DeviceRunner;
use super::draft::{self, Draft, DraftSizes};
use super::fault::Faults;
use super::files::{self, Model};
use super::placement::choose_gpus;
use super::rank_runners::RankRunners;
use super::sizes::{self, SizePool, Sizes};
use super::speculation;
use super::start_threads::{self, Parts};
use super::warm_up::Rehearsal;
use crate::device::cpu::{ranks, Cpu};
#[cfg(feature = "cuda")]
use crate::device::cuda::Cuda;
use crate::device::{
    BreakOnPurpose, Device, DeviceInfo, DeviceLimits, DeviceTypes, Rank, RankGroup,
};
use crate::engine::adapters::AdapterList;
use crate::engine::engines::Engines;
use crate::engine::handle::Engine;
use crate::engine::options::{EngineFacts, EngineOptions, PROMPT_STEP};
use crate::engine::request::RequestIds;
use crate::engine::step_loop::Runner;
use crate::error::{Error, Result};
use crate::files::Progress;
use crate::model::config::VisionSpec;
use crate::model::weights::SharedEnds;
use crate::model::{budget, Decoder, HiddenRows, ModelSpec, Shard, WeightSource};
use crate::scheduler::{DraftLengths, ImageLimits, Scheduler, SchedulerConfig, StateConfig};
use crate::threads;
use crate::{internal, invalid};

/// Read config, tokenizer and weights, allocate everything, start the threads: of an engine for
/// each of these options, all at the same time.
///
/// # Errors
/// One line that names the file or key.
pub(super) fn load(
    args: &EngineArgs,
    options: Vec<EngineOptions>,
    progress: &Arc<Progress>,
) -> Result<Engines> {
    let count = options.len();
    let first = options.first().ok_or_else(|| internal!("no engine is asked for"))?;
    let gpus = choose_gpus(args, &options)?;
    args.check_ranks()?;

    let model = files::read(args, first, progress)?;
    let checked = speculation::check(args, &model.spec);
    let draft = checked.and_then(|()| draft::read(args, first, progress, &model));
    let without = speculation::without(args, &draft);
    let (args, draft) = match &without {
        Some(without) => (without, None),
        None => (args, draft?),
    };
    let ids = Arc::new(RequestIds::default());
    let gpus = match gpus {
        Some(gpus) => gpus.into_iter().map(Some).collect(),
        None => vec![None; count],
    };
    let load = |(number, (options, gpus)): (usize, (EngineOptions, Option<Vec<usize>>))| {
        // The last one breaks, if one is to.
        let faults = args.inject_faults.filter(|_| number + 1 == count);
        let draft = draft.as_ref();
        let shared = Shared { args, model: &model, draft, ids: &ids, faults, engines: count };
        load_one(shared, options, gpus)
    };
    let each = options.into_iter().zip(gpus).enumerate();
    let engines = match count {
        1 => each.map(load).collect::<Result<_>>()?,
        _ => threads::each("load-engine", each.collect(), load)?,
    };
    if let WeightSource::Files(checkpoint) = &model.weights {
        checkpoint.unchanged()?;
    }
    if let Some(Draft { weights: WeightSource::Files(checkpoint), .. }) = &draft {
        checkpoint.unchanged()?;
    }
    let caches = args.enable_prefix_caching && !model.spec.whole_prompts();
    Engines::new(engines, caches)
}

/// What the engines of a load have in common.
#[derive(Clone, Copy)]
struct Shared<'a> {
    args: &'a EngineArgs,
    model: &'a Model,
    /// Of the model that drafts.
    draft: Option<&'a Draft>,
    ids: &'a Arc<RequestIds>,
    faults: Option<Faults>,
    /// How many they are.
    engines: usize,
}

/// `gpus`: of its ranks; None: the CPU serves.
fn load_one(shared: Shared, options: EngineOptions, gpus: Option<Vec<usize>>) -> Result<Engine> {
    let Shared { args, model, draft, engines, .. } = shared;
    match gpus.as_deref() {
        #[cfg(feature = "cuda")]
        Some(gpus) => {
            let (devices, group) = gpu_devices(&model.spec, gpus, &options.name)?;
            let drafting = draft.map(|draft| {
                let open = |&gpu: &usize| Cuda::open(gpu, draft.spec.dtype);
                gpus.iter().map(open).collect::<Result<_>>()
            });
            let drafting = drafting.transpose()?.unwrap_or_default();

            let mut devices = Devices { devices, group, drafting };
            if args.enforce_eager {
                let all = devices.devices.iter_mut().chain(&mut devices.drafting);
                all.for_each(Cuda::launch_eagerly);
            }
            if let Some(folder) = cache_folder(|name| std::env::var(name).ok()) {
                let all = devices.devices.iter_mut().chain(&mut devices.drafting);
                all.for_each(|device| device.remember_choices(&folder));
            }
            load_on(devices, sizes::gpu_pool, shared, options)
        }
        #[cfg(not(feature = "cuda"))]
        Some(gpus) => Err(internal!("{} GPUs and no code for them", gpus.len())),
        None => {
            let cores = (start_threads::cores() / engines).max(1);
            let ranks = args.tensor_parallel_size as usize;
            let (devices, group) = cpu_devices(&model.spec, cores, ranks)?;
            // Each rank has all of the model that drafts.
            let drafting =
                (0..draft.map_or(0, |_| ranks)).map(|_| Cpu::new((cores / ranks).max(1)));
            let devices = Devices { devices, group, drafting: drafting.collect::<Result<_>>()? };
            load_on(devices, sizes::cpu_pool, shared, options)
        }
    }
}

/// GPUs, and what they are together if they are several.
#[cfg(feature = "cuda")]
type GpuDevices = (Vec<Cuda>, Option<Arc<dyn RankGroup>>);

/// One for each of these, if the model can be shared out so.
#[cfg(feature = "cuda")]
fn gpu_devices(spec: &ModelSpec, gpus: &[usize], name: &str) -> Result<GpuDevices> {
    Shard::new(spec, Rank { index: 0, of: gpus.len() })?;
    match gpus {
        [gpu] => Ok((vec![Cuda::open(*gpu, spec.dtype)?], None)),
        several => {
            let (devices, group) = Cuda::open_ranks(several, spec.dtype, name)?;
            Ok((devices, Some(group)))
        }
    }
}

/// CPU devices, and what they are together if they are several.
type CpuDevices = (Vec<Cpu>, Option<Arc<dyn RankGroup>>);

/// So many ranks, which share these cores, if the model can be shared out so.
fn cpu_devices(spec: &ModelSpec, cores: usize, ranks: usize) -> Result<CpuDevices> {
    Shard::new(spec, Rank { index: 0, of: ranks })?;
    if ranks == 1 {
        return Ok((vec![Cpu::new(cores)?], None));
    }
    let (members, group) = ranks::Group::of(ranks);
    let threads = (cores / ranks).max(1);
    let devices = members.into_iter().map(|member| Cpu::of_rank(threads, member));
    Ok((devices.collect::<Result<_>>()?, Some(group)))
}

/// The devices of an engine.
struct Devices<D> {
    /// One for each rank.
    devices: Vec<D>,
    /// What they are together if they are several.
    group: Option<Arc<dyn RankGroup>>,
    /// Beside each of them, where a model drafts.
    drafting: Vec<D>,
}

fn load_on<D: Device + BreakOnPurpose>(
    devices: Devices<D>,
    pool: SizePool,
    shared: Shared,
    options: EngineOptions,
) -> Result<Engine> {
    let Shared { args, model, draft, ids, faults, .. } = shared;
    let Devices { devices, group, drafting } = devices;
    let Model { spec, weights, tokenizer, head, .. } = model;
    let (info, rank) = info_of(&devices)?;
    let adapters = files::adapters_of(spec, args, &options)?;

    // Judge all sizes before anything is taken.
    let batch = sizes::batch_sizes(args, spec, &info)?;
    let Sizes { limits, draft, promise } =
        sizes::limits_of(model, draft, args, &info, pool, batch, rank)?;
    let reader = draft.as_ref().map(|sizes| sizes.draft).filter(|d| d.spec.draft_head.is_some());
    let drafts = args.speculation.as_ref().map(|speculation| &speculation.lengths);
    let target = (spec, weights);
    let none = SharedEnds::default();
    let loaded = load_ranks(devices, group.as_deref(), target, reader, &limits, drafts, none)?;
    let mut drafting = match &draft {
        Some(DraftSizes { draft: Draft { spec, weights, common }, limits }) => {
            let ends = loaded.first().map(|(_, decoder)| decoder.ends(*common));
            let ends = ends.unwrap_or_default();
            load_ranks(drafting, None, (spec, weights), None, limits, None, ends)?
        }
        None => Vec::new(),
    }
    .into_iter();

    let prompt_step = options.prompt_step.unwrap_or(PROMPT_STEP);
    let config = scheduler_config(args, &limits, draft.as_ref(), spec, &info, prompt_step)?;
    let scheduler = match &options.proposer {
        None => Scheduler::new(config)?,
        Some(proposer) => Scheduler::with_proposer(config, Some(proposer()))?,
    };
    let facts = facts(&limits, spec, &info, adapters.as_ref());
    let promise = promise.map(Arc::new);
    let runner = |(device, decoder)| -> Box<dyn Runner> {
        let _promise = promise.clone();
        let draft = drafting.next();
        Box::new(DeviceRunner { device, decoder, draft, depth: info.depth, _promise })
    };
    let runners = loaded.into_iter().map(runner).collect();
    let runner = one_runner(runners, group, faults, &options.name)?;

    let tokenizer = Arc::clone(tokenizer);
    let ids = Arc::clone(ids);
    let head = head.clone();
    let spec = spec.clone();
    let parts = Parts { runner, scheduler, tokenizer, spec, head, adapters, facts, ids };
    let engine = start_threads::start(parts, args, options)?;
    report(engine.facts(), args, model.head.is_some());
    Ok(engine)
}

/// What the engine says of its devices, and the rank whose sizes are those of all.
fn info_of<D: Device>(devices: &[D]) -> Result<(DeviceInfo, Rank)> {
    let first = devices.first().ok_or_else(|| internal!("no device"))?;
    let mut info = first.info();
    // All have pages for the same tokens: as many as there is room for on the fullest.
    for other in devices.iter().skip(1).map(DeviceTypes::info) {
        info.total_bytes = info.total_bytes.min(other.total_bytes);
        info.free_bytes = info.free_bytes.min(other.free_bytes);
    }
    if devices.len() > 1 {
        info.name = format!("{} ranks of {}", devices.len(), info.name);
    }
    Ok((info, first.rank()))
}

/// The model on each device, or each rank's part of it, all at the same time, and its first steps.
/// `reader`: what drafts from its hidden states. `ends`: what each need not hold itself.
fn load_ranks<D: Device>(
    mut devices: Vec<D>,
    group: Option<&dyn RankGroup>,
    (spec, weights): (&ModelSpec, &WeightSource),
    reader: Option<&Draft>,
    limits: &DeviceLimits,
    drafts: Option<&DraftLengths>,
    ends: SharedEnds<D::Weight>,
) -> Result<Vec<(D, Decoder<D>)>> {
    // A model that drafts may have fewer positions than its target.
    let max_model_len = limits.max_model_len.min(spec.max_model_len);
    let rehearsed = DeviceLimits { max_model_len, ..limits.clone() };
    // A head's steps call other ops once there are hidden states to read: none may be recorded yet.
    let generates = spec.pooling.is_none() && spec.draft_head.is_none();
    let rehearsal = Rehearsal { limits: &rehearsed, vocab: spec.vocab_size, generates, drafts };
    let load_and_rehearse = |device: &mut D| {
        let keep = |head: &Draft| HiddenRows::load(&head.spec, &head.weights, device, limits);
        let rows = reader.map(keep).transpose()?;
        let mut decoder = Decoder::load_sharing(spec, weights, device, limits, ends.clone())?;
        rows.into_iter().for_each(|rows| decoder.keep_hidden(rows));
        rehearsal.run(device, &mut decoder)?;
        Ok(decoder)
    };
    // Where one cannot load, the others wait for it in vain.
    let load = |device: &mut D| {
        load_and_rehearse(device).inspect_err(|error: &Error| {
            group.iter().for_each(|group| group.fail(error.clone()));
        })
    };
    let decoders = match &mut devices[..] {
        [one] => vec![load(one)?],
        several => threads::each("load-rank", several.iter_mut().collect(), load)?,
    };
    Ok(devices.into_iter().zip(decoders).collect())
}

/// As the loop runs them. Faults are those of the last rank.
fn one_runner(
    mut runners: Vec<Box<dyn Runner>>,
    group: Option<Arc<dyn RankGroup>>,
    faults: Option<Faults>,
    name: &str,
) -> Result<Box<dyn Runner>> {
    let mut last = runners.pop().ok_or_else(|| internal!("no device"))?;
    if let Some(faults) = faults {
        last = faults.around(last)?;
    }
    let Some(group) = group else { return Ok(last) };
    runners.push(last);
    Ok(Box::new(RankRunners::start(runners, group, name)?))
}

fn scheduler_config(
    args: &EngineArgs,
    limits: &DeviceLimits,
    draft: Option<&DraftSizes>,
    spec: &ModelSpec,
    info: &DeviceInfo,
    prompt_step: Duration,
) -> Result<SchedulerConfig> {
    // Who says how many tokens of a prompt a step has gets as many.
    let by_time =
        args.limits.long_prefill_adaptive.unwrap_or(args.long_prefill_token_threshold == 0);
    let prefix_caching = args.enable_prefix_caching && !spec.whole_prompts();
    let state = spec.recurrent.as_ref().map(|_| StateConfig {
        snapshots: limits.snapshots,
        block: sizes::state_block(limits, spec.dtype),
    });
    Ok(SchedulerConfig {
        max_num_seqs: args.limits.max_num_active_seqs.unwrap_or(limits.slots).min(limits.slots),
        max_num_batched_tokens: sizes::scheduled_tokens(args, limits, spec)?,
        max_model_len: limits.max_model_len,
        page_size: limits.page_size,
        pages: limits.pages,
        long_prefill_token_threshold: args.long_prefill_token_threshold as usize,
        long_prefill_adaptive: args.limits.long_prefill_adaptive == Some(true),
        step_ms: if by_time { prompt_step.as_secs_f64() * 1e3 } else { 0.0 },
        chunked_prefill: args.enable_chunked_prefill && !spec.whole_prompts(),
        // Pages are hit in front of a copy of the state only.
        prefix_caching: prefix_caching && state.is_none_or(|state| state.snapshots > 0),
        state,
        pooling: spec.pooling.is_some(),
        watermark: args.watermark,
        reserve_full_isl: args.scheduler_reserve_full_isl,
        max_loras: args.lora.as_ref().map_or(0, |lora| lora.max_loras),
        depth: info.depth,
        speculation: speculation::config(args, limits, draft),
        images: spec
            .vision
            .as_ref()
            .map(|vision| image_limits(vision, args, limits))
            .transpose()?,
    })
}

/// As many tokens of images as of text in a step, or those of the largest image.
fn image_limits(
    vision: &VisionSpec,
    args: &EngineArgs,
    limits: &DeviceLimits,
) -> Result<ImageLimits> {
    let (most, step_tokens) = (vision.max_tokens, limits.step_tokens);
    let whole = args.media.whole_images;
    if whole && most > step_tokens {
        return Err(invalid!(
            "Chunked MM input disabled but max_tokens_per_mm_item ({most}) is larger than \
             max_num_batched_tokens ({step_tokens}). Please increase max_num_batched_tokens."
        ));
    }
    Ok(ImageLimits { tokens: most.max(step_tokens), whole })
}

fn facts(
    limits: &DeviceLimits,
    spec: &ModelSpec,
    info: &DeviceInfo,
    adapters: Option<&AdapterList>,
) -> EngineFacts {
    EngineFacts {
        device_kind: info.kind.clone(),
        device: info.name.clone(),
        dtype: dtype_name(spec.dtype).into(),
        kv_dtype: limits.kv.dtype.name().into(),
        max_model_len: limits.max_model_len as u32,
        max_num_seqs: limits.slots as u32,
        max_num_batched_tokens: limits.step_tokens as u32,
        kv_tokens: match limits.kv.layers() {
            0 => 0,
            _ => budget::pool_tokens(limits.pages, limits.page_size),
        },
        vocab_size: spec.vocab_size as u32,
        embeds: spec.pooling.is_some(),
        adapters: adapters.map(AdapterList::names),
        images: spec.vision.is_some(),
    }
}

/// One line with what was decided.
fn report(facts: &EngineFacts, args: &EngineArgs, classifies: bool) {
    let cache = match facts.kv_tokens {
        0 => "no KV cache".to_string(),
        tokens => {
            let times = tokens as f64 / f64::from(facts.max_model_len);
            let size = args.block_size;
            let pages = tokens / u64::from(size);
            let kv_dtype = &facts.kv_dtype;
            format!(
                "KV cache {tokens} tokens ({times:.2}x max_model_len) in {pages} pages of {size}, \
                 {kv_dtype}"
            )
        }
    };

    let task = match (facts.embeds, classifies) {
        (_, true) => "classifying with",
        (true, false) => "embedding with",
        (false, false) => "serving",
    };
    let drafts = match &args.speculation {
        None => String::new(),
        Some(SpeculationArgs { method, lengths, .. }) => {
            format!(", up to {} drafts a step by {method}", lengths.most())
        }
    };
    tracing::info!(
        "{task} {} on {}: dtype {}, max_model_len {}, max_num_seqs {}, max_num_batched_tokens {}, \
         {cache}, prefix caching {}, chunked prefill {}, eager {}{drafts}",
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
