//! Attention over pages: which kernel, with which work list. `Cuda::begin` has the list of a step
//! made and ships it with the step's input, `Cuda::attend` launches. It knows lengths, no values.
//!
//! Chunks of prompts and single tokens have kernels of their own; one of the two for prompts needs
//! Hopper's instructions (kernels/attention_prefill_sm90.cu). f32, head sizes without a tile, and
//! the very first step (which learns the number of q heads) go to the plain kernel.
//!
//! The list lies at the front of the step's input, so its address never changes, and the grid of
//! single tokens depends on the card alone: one recorded launch fits all decode steps.

use std::sync::Arc;

use super::abi::{self, PagedAttention};
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::launch::Kernel;
use super::memory::Memory;
use super::module::Kernels;
use super::steps::OnDevice;
use super::worklist::{WorkList, PARTS_PER_BLOCK};
use crate::device::batch::BatchChunk;
use crate::device::{AttnSpec, DType, DeviceLimits, KvShape};
use crate::error::{Error, Result};

const TILE_KEYS: usize = abi::TILE_KEYS as usize;
const PROMPT_ROWS: usize = abi::PROMPT_ROWS as usize;
const SPLIT_ROWS: usize = abi::SPLIT_ROWS as usize;
const SPLIT_STAGES: usize = 2;
/// Where they fit; else two.
const CHUNK_STAGES: usize = 3;
/// The kernels' own, beside the stages.
const STATIC_SHARED_BYTES: usize = 1024;
/// The architecture of kernels/attention_prefill_sm90.cu.
const PROMPT_CAPABILITY: u32 = 90;
/// Its own stages: a K and a V each.
const PROMPT_STAGES: usize = abi::PROMPT_STAGES as usize;
/// Blocks of the split kernel that the card holds at once, at most, for arithmetic before a card is
/// known.
const MOST_BLOCKS: usize = 4 * 160;

/// Bytes for the parts of split sequences, at most.
pub fn parts_bytes(kv: &KvShape) -> usize {
    let parts = PARTS_PER_BLOCK * (MOST_BLOCKS + kv.kv_heads);
    parts * SPLIT_ROWS * (kv.head_dim + 2) * 4
}

/// One `attend`.
pub struct AttendPages<'a> {
    pub rows: usize,
    pub spec: &'a AttnSpec,
    pub page_size: usize,
    pub slots: abi::SlotRows,
    pub device: &'a OnDevice,
    pub qkv: DevicePtr,
    pub pool: DevicePtr,
    pub out: DevicePtr,
}

/// A kernel's shared memory beyond the static.
#[derive(Clone, Copy)]
struct Shape {
    stages: usize,
    shared_bytes: usize,
}

/// The kernels of a head size.
struct Kinds<'a> {
    /// 128 packed rows, by mma.
    chunk: &'a Kernel<PagedAttention>,
    /// The same by wgmma.
    prompt: Option<&'a Kernel<PagedAttention>>,
    /// 16 packed rows.
    split: &'a Kernel<PagedAttention>,
}

pub struct Attention {
    /// There are tensor-core tiles for this type and head size on this card.
    tiled: bool,
    /// q heads per KV head, once a step has shown it.
    group: Option<usize>,
    chunk: Shape,
    split: Shape,
    /// Blocks of the split kernel per KV head: together as many as the card holds at once.
    split_blocks: usize,
    list: WorkList,
    parts: Memory,
    statistics: Memory,
    /// Parts that are done, per sequence and KV head; 0 between launches.
    arrivals: Memory,
}

impl Attention {
    pub fn new(
        context: &Arc<Context>,
        kernels: &Kernels,
        dtype: DType,
        limits: &DeviceLimits,
    ) -> Result<Attention> {
        let (dim, kv_heads) = (limits.kv.head_dim, limits.kv.kv_heads.max(1));
        let fits = |shape: &Shape| shape.shared_bytes + STATIC_SHARED_BYTES <= context.shared_bytes;
        let split = Shape { stages: SPLIT_STAGES, shared_bytes: shared_bytes(dim, SPLIT_STAGES) };
        let three = Shape { stages: CHUNK_STAGES, shared_bytes: shared_bytes(dim, CHUNK_STAGES) };
        let mut chunk = if fits(&three) { three } else { split };

        let kinds = tile_kernels(kernels, dim).filter(|_| dtype != DType::F32 && fits(&split));
        if let Some(kinds) = &kinds {
            if kinds.prompt.is_some() {
                chunk = Shape { stages: PROMPT_STAGES, shared_bytes: prompt_shared_bytes(dim) };
            }
            kinds.prompts().allow_shared(chunk.shared_bytes)?;
            kinds.split.allow_shared(split.shared_bytes)?;
        }

        let tiled = kinds.is_some();
        let resident = match &kinds {
            Some(kinds) => {
                kinds.split.resident_blocks(context, abi::SPLIT_THREADS, split.shared_bytes)?
            }
            None => 0,
        };
        let split_blocks = (resident.min(MOST_BLOCKS) / kv_heads).max(1);

        let parts = if tiled { PARTS_PER_BLOCK * split_blocks * kv_heads } else { 0 };
        let rows = parts * SPLIT_ROWS;
        let arrivals = Memory::new(context, 4 * parts, "parts of attention")?;
        arrivals.fill(0)?;
        Ok(Attention {
            tiled,
            group: None,
            chunk,
            split,
            split_blocks,
            list: WorkList::default(),
            parts: Memory::new(context, rows * dim * 4, "parts of attention")?,
            statistics: Memory::new(context, rows * 8, "parts of attention")?,
            arrivals,
        })
    }

    /// Make the work list of a step; empty where the plain kernel runs. Whether all steps with as
    /// many rows are launched alike: not before it is known which kernel runs, nor with prompts.
    pub fn plan(&mut self, chunks: &[BatchChunk]) -> bool {
        let Some(group) = self.group else { return false };
        if self.tiled {
            self.list.make(chunks, group, self.split_blocks);
        }
        self.list.prompt_tiles == 0
    }

    /// The work list, in words.
    pub fn words(&self) -> &[u32] {
        bytemuck::cast_slice(&self.list.items)
    }

    pub fn run(
        &mut self,
        context: &Context,
        kernels: &Kernels,
        call: &AttendPages<'_>,
    ) -> Result<()> {
        let spec = call.spec;
        let group = spec.heads / spec.kv_heads.max(1);
        let planned = self.group == Some(group) && !self.list.items.is_empty();
        self.group = Some(group);
        match tile_kernels(kernels, spec.head_dim) {
            Some(tiles) if planned => self.run_tiles(context, tiles, call),
            _ => run_plain(context, kernels, call),
        }
    }

    fn run_tiles(&self, context: &Context, kinds: Kinds<'_>, call: &AttendPages<'_>) -> Result<()> {
        let AttendPages { spec, device, .. } = *call;
        let WorkList { prompt_tiles, split, .. } = self.list;
        let split_blocks = if split { self.split_blocks } else { 0 };
        let launches = [
            (kinds.prompts(), prompt_tiles, abi::CHUNK_THREADS, self.chunk),
            (kinds.split, split_blocks, abi::SPLIT_THREADS, self.split),
        ];

        let mut items = device.input.address;
        for (kernel, count, threads, shape) in launches {
            let parameters = PagedAttention {
                items,
                qkv: call.qkv,
                position: device.position.address,
                slots: call.slots,
                pool: call.pool,
                out: call.out,
                parts: self.parts.address,
                statistics: self.statistics.address,
                arrivals: self.arrivals.address,
                heads: spec.heads as u32,
                kv_heads: spec.kv_heads as u32,
                page_size: call.page_size as u32,
                scale: spec.scale,
                window: spec.window.unwrap_or(0) as u32,
                softcap: spec.softcap.unwrap_or(0.0),
                stages: shape.stages as u32,
            };
            let blocks = [count, spec.kv_heads];
            kernel.launch_shared(context, blocks, threads, shape.shared_bytes, &parameters)?;
            items = items.offset_bytes(count * size_of::<abi::WorkItem>());
        }
        Ok(())
    }
}

/// # Errors
/// Unsupported: no kernel takes heads of this size.
pub(super) fn head_fits(spec: &AttnSpec) -> Result<()> {
    const MOST: usize = abi::ATTEND_MAX_HEAD_DIM as usize;
    if spec.head_dim <= MOST {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "head_dim {}: attention on GPUs goes up to {MOST}.",
        spec.head_dim
    )))
}

fn run_plain(context: &Context, kernels: &Kernels, call: &AttendPages<'_>) -> Result<()> {
    let AttendPages { spec, device, .. } = *call;
    head_fits(spec)?;
    let parameters = abi::AttendRows {
        qkv: call.qkv,
        position: device.position.address,
        slot_of: device.slot_of.address,
        slots: call.slots,
        pool: call.pool,
        out: call.out,
        heads: spec.heads as u32,
        kv_heads: spec.kv_heads as u32,
        dim: spec.head_dim as u32,
        page_size: call.page_size as u32,
        scale: spec.scale,
        window: spec.window.unwrap_or(0) as u32,
        softcap: spec.softcap.unwrap_or(0.0),
    };
    let blocks = [call.rows, spec.heads];
    kernels.attend_rows.launch(context, blocks, abi::ATTEND_THREADS, &parameters)
}

impl<'a> Kinds<'a> {
    /// The one for 128 packed rows.
    fn prompts(&self) -> &'a Kernel<PagedAttention> {
        self.prompt.unwrap_or(self.chunk)
    }
}

/// The kernels of a head size, if there are any.
fn tile_kernels(k: &Kernels, dim: usize) -> Option<Kinds<'_>> {
    let (chunk, prompt, split) = match dim {
        64 => (&k.chunk_64, Some(&k.prompt_64), &k.split_64),
        80 => (&k.chunk_80, None, &k.split_80),
        96 => (&k.chunk_96, None, &k.split_96),
        128 => (&k.chunk_128, Some(&k.prompt_128), &k.split_128),
        256 => (&k.chunk_256, Some(&k.prompt_256), &k.split_256),
        _ => return None,
    };
    let prompt = prompt.filter(|kernel| kernel.capability() == PROMPT_CAPABILITY);
    Some(Kinds { chunk, prompt, split })
}

/// K and V tiles of the stages, rows padded by 16 bytes.
fn shared_bytes(dim: usize, stages: usize) -> usize {
    stages * 2 * TILE_KEYS * (dim + abi::TILE_PADDING as usize) * 2
}

/// Q, two stages of K and V (128 keys, 64 at the largest head size), and what aligns them.
fn prompt_shared_bytes(dim: usize) -> usize {
    let keys = if dim == 256 { abi::PROMPT_KEYS_OF_256 } else { abi::PROMPT_KEYS };
    let rows = PROMPT_ROWS + 2 * PROMPT_STAGES * keys as usize;
    rows * dim * 2 + abi::PROMPT_ALIGNMENT as usize
}
