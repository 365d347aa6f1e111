//! How much an engine may hold at once: sequences and tokens of a step, pages, and the memory for
//! all of it. Called by `assemble` before anything is taken.

use super::args::EngineArgs;
use super::draft::{Draft, DraftSizes};
use super::files::Model;
use super::speculation;
use crate::device::cpu::memory::{self, Promise};
#[cfg(feature = "cuda")]
use crate::device::cuda::{self, Cuda};
#[cfg(feature = "cuda")]
use crate::device::trace::Held;
use crate::device::{DType, DeviceInfo, DeviceKind, DeviceLimits, KvShape, Rank};
use crate::error::Result;
use crate::invalid;
use crate::model::budget::{self, PoolOptions, PoolSize};
use crate::model::{ModelSpec, Shard, WeightSource};

/// `max_num_seqs` at most.
const SEQS_MAX: usize = 1 << 16;
/// `max_num_batched_tokens` at most: as long as the longest text.
const STEP_TOKENS_MAX: usize = 1 << 24;

/// How a device's page pool is sized, and the memory that it was promised for all it holds. An
/// encoder's pool has the pages that `limits` say, which take no memory. The limits are a rank's,
/// the memory that of all ranks; a model that drafts has part in it.
pub(super) type SizePool = fn(
    &DeviceInfo,
    Option<&DraftSizes>,
    &ModelSpec,
    &WeightSource,
    &PoolOptions,
    &DeviceLimits,
    Rank,
) -> Result<(PoolSize, Option<Promise>)>;

pub(super) fn cpu_pool(
    _: &DeviceInfo,
    draft: Option<&DraftSizes>,
    spec: &ModelSpec,
    weights: &WeightSource,
    options: &PoolOptions,
    limits: &DeviceLimits,
    rank: Rank,
) -> Result<(PoolSize, Option<Promise>)> {
    let mut held = budget::held(spec, weights, limits, DType::F32, rank)?;
    if let Some(draft) = draft {
        held = held.and(draft.held(DType::F32)?);
    }
    let held = held.times(rank.of);
    let limits = &with_pages_of(limits, draft, DType::F32, rank.of);
    let (pool, promise) = memory::promise(|memory| {
        if !spec.family.encoder {
            return budget::cpu_pool(memory, &held, options, limits);
        }
        Ok((encoder_pool(limits), budget::cpu_encoder(memory, &held)?))
    })?;
    Ok((pool, Some(promise)))
}

/// Limits whose pages take as many bytes as those of so many ranks, and of what drafts on each.
fn with_pages_of(
    limits: &DeviceLimits,
    draft: Option<&DraftSizes>,
    activation: DType,
    ranks: usize,
) -> DeviceLimits {
    let mut rows = limits.kv.rows.clone();
    rows.extend(draft.iter().flat_map(|draft| draft.rows(activation)));
    let kv = KvShape { rows: rows.repeat(ranks), ..limits.kv.clone() };
    DeviceLimits { kv, ..limits.clone() }
}

/// An encoder's, which takes no memory.
fn encoder_pool(limits: &DeviceLimits) -> PoolSize {
    let DeviceLimits { pages, slots, .. } = *limits;
    PoolSize { pages, available_bytes: 0, slots, snapshots: 0 }
}

#[cfg(feature = "cuda")]
pub(super) fn gpu_pool(
    info: &DeviceInfo,
    draft: Option<&DraftSizes>,
    spec: &ModelSpec,
    weights: &WeightSource,
    options: &PoolOptions,
    limits: &DeviceLimits,
    rank: Rank,
) -> Result<(PoolSize, Option<Promise>)> {
    if spec.family.encoder {
        return Ok((encoder_pool(limits), None));
    }
    let mut held = gpu_held(info, spec, weights, limits, rank)?;
    if let Some(sizes @ DraftSizes { draft, limits }) = draft {
        let own = gpu_held(info, &draft.spec, &draft.weights, limits, Rank::ALONE)?;
        held = held.and(sizes.but_common(own));
        held = held.and(sizes.held_for_it(spec.dtype)?);
    }
    held.tensors += cuda::ranks::extra_bytes(rank);
    let limits = &with_pages_of(limits, draft, spec.dtype, 1);
    Ok((budget::gpu_pool(info, &held, options, limits)?, None))
}

/// What a model holds on a GPU beside pages and what ranks need for each other.
#[cfg(feature = "cuda")]
fn gpu_held(
    info: &DeviceInfo,
    spec: &ModelSpec,
    weights: &WeightSource,
    limits: &DeviceLimits,
    rank: Rank,
) -> Result<Held> {
    let mut held = budget::held(spec, weights, limits, spec.dtype, rank)?;
    if !info.experts_of_codes {
        held.weights = held.weights.saturating_add(held.plain_experts);
    }
    let gate_up = 2 * spec.mlp_width().div_ceil(rank.of);
    let coded = if held.codes { spec.product_width() } else { 0 };
    let vocab = spec.vocab_size;
    let share = if rank.of == 1 { 0 } else { Shard::new(spec, rank)?.vocabulary.len() };
    held.tensors += Cuda::extra_bytes(limits, spec.dtype, gate_up, vocab, share, coded);
    Ok(held)
}

/// How much one step takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchSizes {
    /// `max_num_seqs`
    pub seqs: usize,
    /// `max_num_batched_tokens`
    pub tokens: usize,
}

/// Sequences that run beside an image that is fed in one step, where nobody says how many.
const MIN_BESIDE_IMAGE: usize = 16;

/// `max_num_seqs` and `max_num_batched_tokens`, by the Python backend's rules: more on GPUs of
/// 70 GiB and up, but for the A100.
pub(super) fn batch_sizes(
    args: &EngineArgs,
    spec: &ModelSpec,
    info: &DeviceInfo,
) -> Result<BatchSizes> {
    const LARGE_BYTES: u64 = 70 << 30;
    let large = match &info.kind {
        DeviceKind::Gpu { product } => {
            info.total_bytes >= LARGE_BYTES && !product.to_lowercase().contains("a100")
        }
        DeviceKind::Cpu | DeviceKind::Trace => false,
    };
    let (usual_seqs, usual_tokens) = if large { (1024, 8192) } else { (256, 2048) };
    let double = if args.throughput_mode { 2 } else { 1 };
    let length = spec.max_model_len;
    let whole = spec.whole_prompts() || !args.enable_chunked_prefill;
    let mut seqs = args.max_num_seqs.map_or(usual_seqs * double, |n| n as usize);
    let mut tokens = args.max_num_batched_tokens.map_or(usual_tokens * double, |n| n as usize);
    if args.max_num_batched_tokens.is_none() {
        if whole {
            tokens = tokens.max(length);
        }
        tokens = tokens.max(seqs).min(seqs.saturating_mul(length));
    }
    // Such an image is fed in one step, beside the tokens of others.
    let both_ways = spec.vision.as_ref().filter(|vision| vision.tower.both_ways.anywhere());
    let image = both_ways.map_or(0, |vision| vision.max_tokens);
    if args.max_num_batched_tokens.is_none() {
        tokens = tokens.max(image + seqs.min(MIN_BESIDE_IMAGE));
    }
    if args.max_num_seqs.is_none() {
        seqs = seqs.min(tokens.saturating_sub(image).max(1));
    }
    if image > 0 && tokens < image + seqs {
        return Err(invalid!(
            "Chunked MM input disabled but max_tokens_per_mm_item ({image}) and max_num_seqs \
             ({seqs}) together are larger than max_num_batched_tokens ({tokens}). Please increase \
             max_num_batched_tokens."
        ));
    }
    if spec.whole_prompts() && tokens < length {
        return Err(invalid!(
            "max_num_batched_tokens ({tokens}) is smaller than max_model_len ({length}): this \
             model takes each text in one step. Increase max_num_batched_tokens or lower \
             max_model_len."
        ));
    }
    // Each sequence and each token of a step takes memory of the host.
    for (key, value, limit) in
        [("max_num_seqs", seqs, SEQS_MAX), ("max_num_batched_tokens", tokens, STEP_TOKENS_MAX)]
    {
        if value > limit {
            return Err(invalid!("{key} is {value}, at most {limit}."));
        }
    }
    Ok(BatchSizes { seqs, tokens })
}

/// Tokens of a step: as many as the buffers take, or fewer by `max_num_scheduled_tokens`.
pub(super) fn scheduled_tokens(
    args: &EngineArgs,
    limits: &DeviceLimits,
    spec: &ModelSpec,
) -> Result<usize> {
    let Some(tokens) = args.limits.max_num_scheduled_tokens else { return Ok(limits.step_tokens) };
    let tokens = tokens.min(limits.step_tokens);
    let running = args.limits.max_num_active_seqs.unwrap_or(limits.slots).min(limits.slots);
    let whole = spec.whole_prompts() || !args.enable_chunked_prefill;
    let both_ways = spec.vision.as_ref().filter(|vision| vision.tower.both_ways.anywhere());
    let (least, key) = if whole {
        (limits.max_model_len, "max_model_len, as prompts are not read in chunks")
    } else if let Some(vision) = both_ways {
        (vision.max_tokens + running, "the tokens of an image and max_num_seqs")
    } else {
        (running, "max_num_seqs (or max_num_active_seqs)")
    };
    if tokens < least {
        return Err(invalid!(
            "max_num_scheduled_tokens ({tokens}) must be at least {least}: {key}"
        ));
    }
    Ok(tokens)
}

/// What a rank holds.
pub(super) struct Sizes<'a> {
    pub limits: DeviceLimits,
    /// Of the model that drafts.
    pub draft: Option<DraftSizes<'a>>,
    /// Of all ranks' memory.
    pub promise: Option<Promise>,
}

/// Everything a device must hold that is this rank; the pool by arithmetic. `max_model_len: -1`
/// takes what fits.
pub(super) fn limits_of<'a>(
    model: &Model,
    draft: Option<&'a Draft>,
    args: &EngineArgs,
    info: &DeviceInfo,
    size_pool: SizePool,
    batch: BatchSizes,
    rank: Rank,
) -> Result<Sizes<'a>> {
    let Model { spec, weights, .. } = model;
    // An encoder keeps no K and V: a page is then the right to a slot and takes no memory.
    let page_size = if spec.family.encoder {
        spec.max_model_len.next_multiple_of(16)
    } else {
        args.block_size as usize
    };
    let options = PoolOptions {
        gpu_memory_utilization: args.gpu_memory_utilization,
        kv_cache_memory_bytes: args.kv_cache_memory_bytes,
        num_gpu_blocks_override: args.num_gpu_blocks_override.map(u64::from),
        fit_max_model_len: args.fit_max_model_len,
        keep_states: args.enable_prefix_caching && args.enable_chunked_prefill,
    };
    let BatchSizes { seqs: slots, tokens: step_tokens } = batch;
    let shard = Shard::new(spec, rank)?;
    let mut limits = DeviceLimits {
        step_tokens,
        slots,
        logits_rows: (slots + speculation::draft_rows(args, slots)).min(step_tokens),
        pages: 0,
        page_size,
        max_model_len: spec.max_model_len,
        kv: shard.kv_shape(spec, &spec.kv_shape(args.kv_cache_dtype)?),
        state: shard.state_shape(spec),
        snapshots: 0,
        spares: speculation::spares(args, spec),
    };
    if spec.family.encoder {
        limits.pages = 1 + slots;
    }
    let draft = draft.map(|draft| draft.sizes(&limits, args)).transpose()?;
    let (pool, promise) = size_pool(info, draft.as_ref(), spec, weights, &options, &limits, rank)?;
    limits.pages = pool.pages;
    if limits.state.layers > 0 {
        fit_states(&mut limits, &pool, spec, args);
    }
    if args.fit_max_model_len && !spec.family.encoder {
        limits.max_model_len = budget::longest_request(&pool, page_size, spec.max_model_len);
    }
    let draft = draft.map(|DraftSizes { draft, limits: own }| {
        let DeviceLimits { pages, max_model_len, slots, .. } = limits;
        DraftSizes { draft, limits: DeviceLimits { pages, max_model_len, slots, ..own } }
    });
    Ok(Sizes { limits, draft, promise })
}

/// As many slots and copies of states as there is room for.
fn fit_states(limits: &mut DeviceLimits, pool: &PoolSize, spec: &ModelSpec, args: &EngineArgs) {
    let mib = limits.state.bytes(spec.dtype.bytes()) as f64 / f64::from(1 << 20);
    let drafts = match limits.spares {
        0 => String::new(),
        spares => format!(", with one more behind each of {spares} drafts"),
    };
    if pool.slots < limits.slots {
        tracing::warn!(
            "max_num_seqs is lowered from {} to {}: the state of a sequence takes {mib:.1} \
             MiB{drafts}, and at most half of the memory for states and KV cache is for states",
            limits.slots,
            pool.slots
        );
        limits.slots = pool.slots;
        let rows = pool.slots + speculation::draft_rows(args, pool.slots);
        limits.logits_rows = rows.min(limits.step_tokens);
    }

    limits.snapshots = pool.snapshots;
    tracing::info!(
        "states of {mib:.1} MiB for {} sequences{drafts}, and {} copies of states for the prefix \
         cache, one each {} tokens",
        limits.slots,
        limits.snapshots,
        state_block(limits, spec.dtype)
    );
}

/// Tokens from one copy of a state to the next: as many as keep in an attention layer's pages what
/// a layer's state takes, in whole pages. The rule is vLLM's.
pub(super) fn state_block(limits: &DeviceLimits, dtype: DType) -> usize {
    let DeviceLimits { state, kv, page_size, .. } = limits;
    let of_layer = state.bytes(dtype.bytes()) / state.layers.max(1) as u64;
    let of_page = kv.page_bytes(*page_size) / kv.layers().max(1) as u64;
    let pages = of_layer.div_ceil(of_page.max(1)).max(1);
    usize::try_from(pages).unwrap_or(usize::MAX).saturating_mul(*page_size)
}
