//! How many KV pages a device can hold, by arithmetic: the trace device loads the model and counts,
//! no profiling run is needed. Called by `engine` at load; it asks nothing of the real device.

use super::checkpoint::WeightSource;
use super::config::ModelSpec;
use super::decoder::Decoder;
use crate::device::cpu::memory::Memory;
use crate::device::trace::{Held, Launch, Trace};
use crate::device::{DType, DeviceInfo, DeviceLimits, Rank};
use crate::error::{Error, Result};
use crate::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use crate::invalid;
use crate::plan::{Feed, SlotChange, SlotOpen, StepPlan, TokenMasks};

/// What the user said about KV memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolOptions {
    /// Share of the device's memory that this engine may use in all, (0, 1].
    pub gpu_memory_utilization: f64,
    /// The pool's size, whatever the share.
    pub kv_cache_memory_bytes: Option<u64>,
    /// The number of pages, whatever the rest says.
    pub num_gpu_blocks_override: Option<u64>,
    /// `max_model_len` is -1: a pool too small for the longest request is no error, the length
    /// gives way ([`longest_request`]).
    pub fit_max_model_len: bool,
    /// Copies of states are kept, so that pages in front of them can be hit.
    pub keep_states: bool,
}

/// Pages, the null page included, and why so many; of models with a state, states too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    /// How many there are.
    pub pages: usize,
    /// Bytes that were to share out.
    pub available_bytes: u64,
    /// Sequences that can run at the same time: as many as were asked for, or as states fit.
    pub slots: usize,
    /// Copies of states that can be kept.
    pub snapshots: usize,
}

/// The pool of the Python backend's CPU engine, and the most that ours takes unasked.
const CPU_POOL_BYTES: u64 = 4 << 30;
/// Below this a pool is not worth making smaller.
const CPU_SMALL_POOL_BYTES: u64 = 64 << 20;
/// What the cache manager knows of a page, in the host's memory.
const CACHE_MANAGER_PAGE_BYTES: u64 = 128;
/// Copies of states: more than can be of use are not made, nor more than these bytes on the CPU.
const SNAPSHOTS_MAX: u64 = 1 << 14;
const CPU_SNAPSHOT_BYTES: u64 = 1 << 30;
/// Tokenizer, grammars, threads, and what a load holds for a moment.
const CPU_OTHER_BYTES: u64 = 256 << 20;

/// What a model with these weights holds on a device under `limits`, and what one full step
/// launches. `limits.pages` may be anything. `activation` is the device's own type: F32 on cpu.
///
/// # Errors
/// Files that do not hold what quantised weights need. None else for a spec that
/// [`ModelSpec::read`] made and limits of at least one slot and token.
pub fn footprint(
    spec: &ModelSpec,
    weights: &WeightSource,
    limits: &DeviceLimits,
    activation: DType,
) -> Result<(Held, Vec<Launch>)> {
    let per_slot = limits.sequence_pages();
    let (mut trace, mut decoder) = counted(spec, weights, limits, activation, Rank::ALONE)?;
    let plan = full_step(limits, per_slot);
    decoder.step(&mut trace, &plan)?;
    decoder.sample(&mut trace, &TokenMasks::default())?;
    let mut held = trace.held();
    held.pages = (limits.pages as u64).saturating_mul(limits.kv.page_bytes(limits.page_size));
    Ok((held, trace.take_launches()))
}

/// The same of a rank, whose `limits` are, without a step, which they may make too large to be
/// counted.
///
/// # Errors
/// As `footprint`; those of [`Shard::new`](super::shard::Shard::new).
pub fn held(
    spec: &ModelSpec,
    weights: &WeightSource,
    limits: &DeviceLimits,
    activation: DType,
    rank: Rank,
) -> Result<Held> {
    Ok(counted(spec, weights, limits, activation, rank)?.0.held())
}

fn counted(
    spec: &ModelSpec,
    weights: &WeightSource,
    limits: &DeviceLimits,
    activation: DType,
    rank: Rank,
) -> Result<(Trace, Decoder<Trace>)> {
    let mut trace = Trace::of_rank(activation, rank);
    let mut roomy = limits.clone();
    roomy.pages = limits.sequence_pages() + 1;
    let decoder = Decoder::load_shapes(spec, weights, &mut trace, &roomy)?;
    Ok((trace, decoder))
}

/// A step of `step_tokens` prompt tokens in as few sequences as can be. They share pages: only the
/// trace device runs it.
fn full_step(limits: &DeviceLimits, per_slot: usize) -> StepPlan {
    let mut plan = StepPlan { step: 1, ..Default::default() };
    let mut left = limits.step_tokens;
    for s in 0..limits.slots as u32 {
        let count = left.min(limits.max_model_len);
        if count == 0 {
            break;
        }

        let slot = SlotId(s);
        plan.changes.push(SlotChange::Open(Box::new(SlotOpen {
            slot,
            adapter: AdapterId(0),
            tokens: vec![TokenId(0); count].into(),
            prompt_tokens: count as u32,
            cached_tokens: 0,
            sampler: Default::default(),
        })));
        let pages = (1..=per_slot as u32).map(PageId).collect();
        plan.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages });

        let first = plan.chunk_tokens.len();
        plan.chunk_tokens.resize(first + count, TokenId(0));
        plan.push(slot, Feed::Known(first..first + count), true);
        left -= count;
    }
    plan
}

/// Pages on a GPU: its share of the memory, less what the model holds.
///
/// # Errors
/// Unavailable: less memory is free than the share. InvalidArgument: nothing is left, or less than
/// one request of `max_model_len` tokens needs. The texts are the Python backend's.
pub fn gpu_pool(
    device: &DeviceInfo,
    held: &Held,
    options: &PoolOptions,
    limits: &DeviceLimits,
) -> Result<PoolSize> {
    let available = match options.kv_cache_memory_bytes {
        Some(bytes) => bytes,
        None => share(device, options)?.saturating_sub(held.without_pages()),
    };
    let states = states(available, held, options, limits, u64::MAX)?;
    let page_bytes = limits.kv.page_bytes(limits.page_size).max(1);
    if limits.kv.rows.is_empty() && held.state > 0 {
        // Layers that keep a state alone: positions are counted in pages that take nothing.
        let pages = 1 + states.slots * limits.sequence_pages();
        let pages = pages.min(u32::MAX as usize);
        let (slots, snapshots) = (states.slots, states.snapshots);
        return Ok(PoolSize { pages, available_bytes: available, slots, snapshots });
    }
    let pool = size(available.saturating_sub(states.bytes), page_bytes, options, limits)?;
    Ok(PoolSize { slots: states.slots, snapshots: states.snapshots, ..pool })
}

/// States of sequences, and copies of them.
struct States {
    slots: usize,
    snapshots: usize,
    /// Of all.
    bytes: u64,
}

/// Of the memory for states and pages at most half is for the states of running sequences and of
/// their drafts, and an eighth of the rest, or `most_kept` bytes, for copies.
fn states(
    available: u64,
    held: &Held,
    options: &PoolOptions,
    limits: &DeviceLimits,
    most_kept: u64,
) -> Result<States> {
    let each = held.state;
    if each == 0 {
        return Ok(States { slots: limits.slots, snapshots: 0, bytes: 0 });
    }
    let spares = limits.spares as u64;
    let of_slot = each.saturating_mul(1 + spares);
    let slots = (available / 2 / of_slot).min(limits.slots as u64);
    if slots == 0 {
        let drafts = match spares {
            0 => String::new(),
            _ => format!(", with one more behind each of {spares} drafts"),
        };
        return Err(invalid!(
            "The state of one sequence takes {:.2} GiB{drafts}, and {:.2} GiB are available for \
             states and KV cache. Try increasing `gpu_memory_utilization` when initializing the \
             engine{}.",
            gib(of_slot),
            gib(available),
            if spares > 0 { " or decreasing `num_speculative_tokens`" } else { "" }
        ));
    }

    let rest = available - slots * of_slot;
    let kept = if options.keep_states { (rest / 8).min(most_kept) / each } else { 0 };
    let kept = kept.min(SNAPSHOTS_MAX);
    let bytes = slots * of_slot + kept * each;
    Ok(States { slots: slots as usize, snapshots: kept as usize, bytes })
}

fn share(device: &DeviceInfo, options: &PoolOptions) -> Result<u64> {
    let utilization = options.gpu_memory_utilization;
    let requested = (device.total_bytes as f64 * utilization).ceil() as u64;
    if device.free_bytes < requested {
        return Err(Error::Unavailable(format!(
            "Free memory on device {} ({:.2}/{:.2} GiB) on startup is less than desired GPU memory \
             utilization ({utilization}, {:.2} GiB). Decrease GPU memory utilization or reduce GPU \
             memory used by other processes.",
            device.name,
            gib(device.free_bytes),
            gib(device.total_bytes),
            gib(requested)
        )));
    }
    Ok(requested)
}

/// Pages on the CPU, where memory is shared with everything else and taken only as it is touched:
/// `gpu_memory_utilization` has no say. Without an override the pool holds all slots at a quarter
/// of their longest length (sequences seldom all grow to it, and preemption covers the rest), or 64
/// MiB worth of them if that is more, and never more than 4 GiB, a quarter of the memory, or what
/// is free. With the bytes that the engine may take in all.
///
/// # Errors
/// Unavailable: weights, activations and pool need more than is free. InvalidArgument: the pool is
/// to hold less than one request of `max_model_len` tokens needs.
pub fn cpu_pool(
    memory: &Memory,
    held: &Held,
    options: &PoolOptions,
    limits: &DeviceLimits,
) -> Result<(PoolSize, u64)> {
    let page_bytes =
        limits.kv.page_bytes(limits.page_size).saturating_add(CACHE_MANAGER_PAGE_BYTES);
    let per_slot = limits.sequence_pages() as u64;
    let pages = |count: u64| count.saturating_add(1).saturating_mul(page_bytes);
    let all = pages((limits.slots as u64).saturating_mul(per_slot));
    let one = pages(per_slot);

    let fixed = held.without_pages().saturating_add(CPU_OTHER_BYTES);
    let left = memory.free_bytes.saturating_sub(fixed);
    let states = states(left, held, options, limits, CPU_SNAPSHOT_BYTES)?;
    let held = &Held { slots: held.slots.saturating_add(states.bytes), ..*held };
    let fixed = fixed.saturating_add(states.bytes);
    let left = left.saturating_sub(states.bytes);
    let wanted = (all / 4).max(CPU_SMALL_POOL_BYTES).max(one).min(all);
    let usual = wanted.min(CPU_POOL_BYTES).min(memory.total_bytes / 4);
    // The user's word is kept or refused; a pool that nobody asked for gives way.
    let least = if options.fit_max_model_len { pages(1) } else { one };
    let asked = match (options.num_gpu_blocks_override, options.kv_cache_memory_bytes) {
        (Some(count), _) => count.saturating_mul(page_bytes),
        (None, Some(bytes)) => bytes,
        (None, None) => usual.min(left).max(least.min(usual)),
    };
    if fixed.saturating_add(asked) > memory.free_bytes {
        return Err(too_large(memory, held, asked));
    }
    let pool = size(asked, page_bytes, options, limits)?;
    let pool = PoolSize { slots: states.slots, snapshots: states.snapshots, ..pool };
    Ok((pool, held.without_pages().saturating_add(asked)))
}

/// An encoder on the CPU keeps no pages: the bytes that it may take in all.
///
/// # Errors
/// As `cpu_pool`.
pub fn cpu_encoder(memory: &Memory, held: &Held) -> Result<u64> {
    let needed = held.without_pages();
    if needed.saturating_add(CPU_OTHER_BYTES) > memory.free_bytes {
        return Err(too_large(memory, held, 0));
    }
    Ok(needed)
}

fn too_large(memory: &Memory, held: &Held, pool_bytes: u64) -> Error {
    let fixed = held.without_pages().saturating_add(CPU_OTHER_BYTES);
    let other = fixed - held.weights.min(fixed);
    let pool = match pool_bytes {
        0 => String::new(),
        bytes => format!(", KV cache {:.2}", gib(bytes)),
    };
    Error::Unavailable(format!(
        "Not enough memory on the CPU: {:.2} GiB are needed (weights {:.2}, activations and the \
         like {:.2}{pool}), {:.2} of {:.2} GiB are free ({}, less what loaded models may still \
         take). Lower kv_cache_memory_bytes, num_gpu_blocks_override, max_model_len, max_num_seqs \
         or max_num_batched_tokens, use a smaller model, or unload others.",
        gib(fixed.saturating_add(pool_bytes)),
        gib(held.weights),
        gib(other),
        gib(memory.free_bytes),
        gib(memory.total_bytes),
        memory.of
    ))
}

/// Whole pages in `available`, or the override; enough for one request.
fn size(
    available: u64,
    page_bytes: u64,
    options: &PoolOptions,
    limits: &DeviceLimits,
) -> Result<PoolSize> {
    let (pages, available) = match options.num_gpu_blocks_override {
        Some(pages) => (pages, pages.saturating_mul(page_bytes)),
        None => (available / page_bytes, available),
    };
    if pages <= 1 {
        return Err(invalid!(
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` \
             when initializing the engine."
        ));
    }
    // The null page holds no tokens.
    let needed = 1 + limits.sequence_pages() as u64;
    if pages < needed && !options.fit_max_model_len {
        return Err(invalid!(
            "To serve at least one request with the models's max seq len ({}), ({:.2} GiB KV cache \
             is needed, which is larger than the available KV cache memory ({:.2} GiB). Based on \
             the available memory, the estimated maximum model length is {}. Try increasing \
             `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.",
            limits.max_model_len,
            gib(needed.saturating_mul(page_bytes)),
            gib(available),
            (pages - 1) * limits.page_size as u64
        ));
    }
    // Page ids are 32 bits wide.
    let pages = pages.min(u64::from(u32::MAX)) as usize;
    Ok(PoolSize { pages, available_bytes: available, slots: limits.slots, snapshots: 0 })
}

/// The longest request that fits a pool: `max_model_len` -1.
pub fn longest_request(pool: &PoolSize, page_size: usize, derived: usize) -> usize {
    derived.min((pool.pages - 1) * page_size)
}

/// Tokens of a page pool, for logs: the null page holds none.
pub fn pool_tokens(pages: usize, page_size: usize) -> u64 {
    pages.saturating_sub(1) as u64 * page_size as u64
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
