//! From arguments to a running engine: device, files, model, page budget, scheduler, threads.
//! Called by `deadline`, once per instance; everything that can be refused is refused here, in one
//! line.

use std::sync::Arc;

use super::args::{dtype_name, EngineArgs};
use super::device_runner::DeviceRunner;
use super::files::{self, Model};
use super::placement::choose_gpu;
use super::sizes::{self, SizePool};
use super::start_threads::{self, Parts};
use crate::device::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::device::cuda::Cuda;
use crate::device::{BreakOnPurpose, Device, DeviceInfo, DeviceLimits};
use crate::engine::adapters::AdapterList;
use crate::engine::handle::Engine;
use crate::engine::options::{EngineFacts, EngineOptions};
use crate::engine::step_loop::Runner;
use crate::error::Result;
use crate::files::Progress;
use crate::model::{budget, Decoder, ModelSpec, WeightSource};
use crate::scheduler::{Scheduler, SchedulerConfig};

/// Read config, tokenizer and weights, allocate everything, start the threads.
///
/// # Errors
/// One line that names the file or key.
pub(super) fn load(
    args: EngineArgs,
    options: EngineOptions,
    progress: &Arc<Progress>,
) -> Result<Engine> {
    let gpu = choose_gpu(&args, &options)?;
    let model = files::read(&args, &options, progress)?;
    match gpu {
        #[cfg(feature = "cuda")]
        Some(gpu) => {
            let mut device = Cuda::open(gpu, model.spec.dtype)?;
            if args.enforce_eager {
                device.launch_eagerly();
            }
            load_on(device, sizes::gpu_pool, model, args, options)
        }
        _ => {
            let device = Cpu::new(start_threads::cores())?;
            load_on(device, sizes::cpu_pool, model, args, options)
        }
    }
}

fn load_on<D: Device + BreakOnPurpose>(
    mut device: D,
    pool: SizePool,
    model: Model,
    args: EngineArgs,
    options: EngineOptions,
) -> Result<Engine> {
    let Model { spec, weights, tokenizer } = model;
    let info = device.info();
    let adapters = files::adapters_of(&spec, &args, &options)?;

    // Judge all sizes before anything is taken.
    let batch = sizes::batch_sizes(&args, &spec, &info)?;
    let (limits, promise) = sizes::limits_of(&spec, &weights, &args, &info, pool, batch)?;

    let decoder = Decoder::load(&spec, &weights, &mut device, &limits)?;
    if let WeightSource::Files(checkpoint) = &weights {
        checkpoint.unchanged()?;
    }
    drop(weights);

    let scheduler = Scheduler::new(scheduler_config(&args, &limits, &spec, &info)?)?;
    let facts = facts(&limits, &spec, &info, adapters.as_ref());
    let mut runner: Box<dyn Runner> =
        Box::new(DeviceRunner { device, decoder, depth: info.depth, _promise: promise });
    if let Some(faults) = args.inject_faults {
        runner = faults.around(runner)?;
    }

    let parts = Parts { runner, scheduler, tokenizer, spec, adapters, facts };
    let engine = start_threads::start(parts, &args, options)?;
    report(engine.facts(), &args);
    Ok(engine)
}

fn scheduler_config(
    args: &EngineArgs,
    limits: &DeviceLimits,
    spec: &ModelSpec,
    info: &DeviceInfo,
) -> Result<SchedulerConfig> {
    Ok(SchedulerConfig {
        max_num_seqs: args.limits.max_num_active_seqs.unwrap_or(limits.slots).min(limits.slots),
        max_num_batched_tokens: sizes::scheduled_tokens(args, limits, spec)?,
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
    })
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
        kv_tokens: match limits.kv.layers {
            0 => 0,
            _ => budget::pool_tokens(limits.pages, limits.page_size),
        },
        vocab_size: spec.vocab_size as u32,
        embeds: spec.pooling.is_some(),
        adapters: adapters.map(AdapterList::names),
    }
}

/// One line with what was decided.
fn report(facts: &EngineFacts, args: &EngineArgs) {
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
