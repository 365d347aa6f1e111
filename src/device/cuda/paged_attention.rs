//! Attention over pages: which kernel, with which work list. `Cuda::begin` has the list of a step
//! made and ships it with the step's input, `Cuda::attend` launches. It knows lengths, no values.
//!
//! Chunks of prompts and single tokens have kernels of their own, and so have pages of eight bits;
//! those that need Hopper's instructions (kernels/attention_prefill_sm90.cu and
//! attention_ring_sm90.cu). f32, head sizes without a tile, pages that tensor maps cannot cut for
//! such a kernel, and the very first step (which learns the number of q heads) go to the plain
//! kernel.
//!
//! The list lies at the front of the step's input, so its address never changes, and the grid of
//! single tokens depends on the card alone: one recorded launch fits all decode steps.

use std::sync::Arc;

use super::abi::{self, PagedAttention, PromptAttention, RopeStore};
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::graphs;
use super::launch::Kernel;
use super::memory::Memory;
use super::module::Kernels;
use super::prompt_attention::{self, MappedTile};
use super::ring_attention::{self, Ring};
use super::steps::OnDevice;
use super::tensor_map::Matrix;
use super::worklist::{KeysEnd, Tiling, WorkList, PARTS_PER_BLOCK};
use crate::device::batch::BatchChunk;
use crate::device::{AttnSpec, DType, DeviceLimits, KvType};
use crate::error::{Error, Result};

const TILE_KEYS: usize = abi::TILE_KEYS as usize;
const PROMPT_ROWS: usize = abi::PROMPT_ROWS as usize;
const SPLIT_ROWS: usize = abi::SPLIT_ROWS as usize;
const SPLIT_STAGES: usize = 2;
/// Stages of bytes: as many of them are in flight as with two stages of 16-bit elements.
const SPLIT_BYTE_STAGES: usize = 3;
/// Where they fit; else two.
const CHUNK_STAGES: usize = 3;
/// Stages of what became f16 out of bytes, where they fit; else one.
const CHUNK_TURNED_STAGES: usize = 2;
/// Warps of the split kernel, which merge through shared memory.
const SPLIT_WARPS: usize = abi::SPLIT_THREADS as usize / 32;
/// The kernels' own, beside the stages.
const STATIC_SHARED_BYTES: usize = 1024;
/// The architecture of kernels/attention_prefill_sm90.cu.
const HOPPER: u32 = 90;
/// Its own stages: a K and a V each.
const PROMPT_STAGES: usize = abi::PROMPT_STAGES as usize;
/// Blocks of the split kernel that the card holds at once, at most, for arithmetic before a card is
/// known.
const MOST_BLOCKS: usize = 4 * 160;

/// Bytes for the parts of split sequences, at most.
pub fn parts_bytes(kv_heads: usize, head_dim: usize) -> usize {
    let parts = PARTS_PER_BLOCK * (MOST_BLOCKS + kv_heads);
    parts * SPLIT_ROWS * (head_dim + 2) * 4
}

/// One `attend`.
pub struct AttendPages<'a> {
    pub rows: usize,
    pub spec: &'a AttnSpec,
    /// Of each head, or null.
    pub sinks: DevicePtr,
    /// The same; only the plain kernel knows of them.
    pub slopes: DevicePtr,
    /// Keys that rows see beside those before them, or null.
    pub seen: DevicePtr,
    /// The rotation and store in front, where attention is to do them: of a layer that
    /// [`Attention::rotates`].
    pub rope: Option<&'a RopeStore>,
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

/// A kernel for tiles of prompts.
#[derive(Clone, Copy)]
enum Prompts<'a> {
    /// A block for each tile of a head.
    Each(&'a Kernel<PagedAttention>),
    /// Blocks that walk over them, and have tensor maps copy.
    Mapped(&'a Kernel<PromptAttention>),
}

/// The kernels of a head size and a type of pages.
#[derive(Clone, Copy)]
struct Kinds<'a> {
    /// 128 packed rows, by mma.
    chunk: &'a Kernel<PagedAttention>,
    /// Tiles of prompts by wgmma.
    prompt: Option<Prompts<'a>>,
    /// 16 packed rows.
    split: &'a Kernel<PagedAttention>,
    /// The same by a ring of copied boxes.
    ring: Option<Ring<'a>>,
}

pub struct Attention {
    dtype: DType,
    /// Of the pages.
    kv: KvType,
    /// Tensor maps can copy pages for the prompt kernel.
    mappable: bool,
    tiling: Tiling,
    /// Pairs of blocks of the mapped prompt kernel that the card holds at once.
    prompt_pairs: usize,
    /// There are tensor-core tiles for this type and head size on this card.
    tiled: bool,
    /// q heads per KV head, once a step has shown it.
    group: Option<usize>,
    chunk: Shape,
    split: Shape,
    /// The ring takes the place of the split kernel.
    ring: bool,
    page_size: usize,
    /// K or V of heads in a layer's pool.
    pool_rows: usize,
    /// Blocks of the split kernel per KV head: together as many as the card holds at once.
    split_blocks: usize,
    list: WorkList,
    /// Where the list begins in the step's input, in words.
    list_start: usize,
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
        [kv_heads, dim]: [usize; 2],
    ) -> Result<Attention> {
        let (kv, page_size) = (limits.kv.dtype, limits.page_size);
        let pool_rows = limits.pages * page_size * 2 * kv_heads;
        let kv_heads = kv_heads.max(1);
        // Rows of a tensor map have numbers of 31 bits.
        let numbered = i32::try_from(pool_rows).is_ok();
        let mappable = numbered && MappedTile::of(dim).piece(page_size).is_some();
        let fits = |shape: &Shape| shape.shared_bytes + STATIC_SHARED_BYTES <= context.shared_bytes;
        let split = Shape::split(kv, dim);
        let [more, fewer] = Shape::chunk(kv, dim);
        let mut chunk = if fits(&more) { more } else { fewer };

        let fit = dtype != DType::F32 && fits(&split) && fits(&chunk);
        let kinds = tile_kernels(kernels, kv, dim, mappable).filter(|_| fit);
        if let Some(kinds) = &kinds {
            if kinds.prompt.is_some() {
                chunk = Shape::prompt(kv, dim);
            }
            kinds.prompts().allow_shared(chunk.shared_bytes)?;
            kinds.split.allow_shared(split.shared_bytes)?;
        }
        let prompts = kinds.map(|kinds| kinds.prompts().tile(dim, chunk)).transpose()?;
        let (prompt_rows, prompt_pairs) = prompts.unwrap_or((PROMPT_ROWS, 0));

        let tiled = kinds.is_some();
        // A box lies on one page.
        let boxes = numbered && page_size.is_multiple_of(abi::RING_BOX_KEYS as usize);
        let ring = kinds.and_then(|kinds| kinds.ring).filter(|_| boxes);
        let resident =
            kinds.map(|kinds| kinds.resident_splits(context, split, ring)).transpose()?;
        let split_blocks = (resident.unwrap_or(0).min(MOST_BLOCKS) / kv_heads).max(1);

        let parts = if tiled { PARTS_PER_BLOCK * split_blocks * kv_heads } else { 0 };
        let rows = parts * SPLIT_ROWS;
        let arrivals = Memory::new(context, 4 * parts, "parts of attention")?;
        arrivals.fill(0)?;
        Ok(Attention {
            dtype,
            kv,
            mappable,
            tiling: Tiling { prompt_rows, pairs: prompt_pairs > 0, ..Tiling::HEADS },
            prompt_pairs,
            tiled,
            group: None,
            chunk,
            split,
            ring: ring.is_some(),
            page_size,
            pool_rows,
            split_blocks,
            list: WorkList::default(),
            list_start: 0,
            parts: Memory::new(context, rows * dim * 4, "parts of attention")?,
            statistics: Memory::new(context, rows * 8, "parts of attention")?,
            arrivals,
        })
    }

    /// Make the work list of a step, to lie from word `start` of its input on; empty where the
    /// plain kernel runs. Whether all steps with as many rows are launched alike: not before it is
    /// known which kernel runs, nor with prompts.
    pub fn plan(&mut self, chunks: &[BatchChunk], keys_end: KeysEnd<'_>, start: usize) -> bool {
        let Some(group) = self.group else { return false };
        self.list_start = start;
        if self.tiled {
            self.list.make(self.tiling, chunks, group, self.split_blocks, keys_end);
        }
        self.list.prompt_tiles == 0
    }

    /// The work list, in words.
    pub fn words(&self) -> &[u32] {
        bytemuck::cast_slice(&self.list.items)
    }

    /// Words that hold every list of a recorded step of so many token rows, whosever they are: each
    /// block has a first item, rows have one more, and one more for each block that they are cut
    /// at.
    pub fn most_words(&self, tokens: usize) -> usize {
        let Some(group) = self.group.filter(|_| self.tiled) else { return 0 };
        let tokens = graphs::padded(tokens).unwrap_or(tokens);
        let items = 2 * self.split_blocks + tokens * group.div_ceil(SPLIT_ROWS);
        items * size_of::<abi::WorkItem>() / size_of::<u32>()
    }

    /// Whether attention can rotate `half` pairs of each head and store what comes of it, in a step
    /// all of whose sequences have one row.
    pub fn rotates(&self, spec: &AttnSpec, half: usize) -> bool {
        self.ring
            && self.planned(spec)
            && self.list.prompt_tiles == 0
            && ring_attention::rotates(spec, half)
    }

    /// Whether the list is one for such heads.
    fn planned(&self, spec: &AttnSpec) -> bool {
        self.group == Some(group_of(spec)) && !self.list.items.is_empty()
    }

    pub fn run(
        &mut self,
        context: &Context,
        kernels: &Kernels,
        call: &AttendPages<'_>,
    ) -> Result<()> {
        let spec = call.spec;
        let planned = self.planned(spec);
        self.group = Some(group_of(spec));
        match tile_kernels(kernels, self.kv, spec.head_dim, self.mappable) {
            Some(tiles) if planned && call.slopes.is_null() => self.run_tiles(context, tiles, call),
            _ => self.run_plain(context, kernels, call),
        }
    }

    fn run_tiles(&self, context: &Context, kinds: Kinds<'_>, call: &AttendPages<'_>) -> Result<()> {
        let kv_heads = call.spec.kv_heads;
        let WorkList { prompt_tiles, split, .. } = self.list;
        let items = call.device.input.address.offset_words(self.list_start);
        if prompt_tiles > 0 {
            self.run_prompts(context, kinds.prompts(), call, items)?;
        }
        if !split {
            return Ok(());
        }

        let items = items.offset_bytes(prompt_tiles * size_of::<abi::WorkItem>());
        if let Some(ring) = kinds.ring.filter(|_| self.ring) {
            let pool = self.pool(call).whole_rows(self.kv.plain(), abi::RING_BOX_KEYS as usize)?;
            let stages = ring_attention::slots(call.spec.head_dim);
            let parameters = self.parameters(call, items, stages);
            return ring.launch(context, self.split_blocks, pool, parameters, call.rope);
        }
        let parameters = self.parameters(call, items, self.split.stages);
        let shared = self.split.shared_bytes;
        let blocks = [self.split_blocks, kv_heads];
        kinds.split.launch_shared(context, blocks, abi::SPLIT_THREADS, shared, &parameters)
    }

    /// The tiles of prompts, which lie at `items`.
    fn run_prompts(
        &self,
        context: &Context,
        prompts: Prompts<'_>,
        call: &AttendPages<'_>,
        items: DevicePtr,
    ) -> Result<()> {
        let (tiles, kv_heads) = (self.list.prompt_tiles, call.spec.kv_heads);
        let parameters = self.parameters(call, items, self.chunk.stages);
        let shared = self.chunk.shared_bytes;

        match prompts {
            Prompts::Each(kernel) => {
                let blocks = [tiles, kv_heads];
                kernel.launch_shared(context, blocks, abi::CHUNK_THREADS, shared, &parameters)
            }
            Prompts::Mapped(kernel) => {
                let together = self.list.prompt_blocks;
                let most = match together {
                    1 => context.multiprocessors as usize,
                    _ => self.prompt_pairs,
                };
                let blocks = [(tiles * kv_heads).min(most) * together, 1];
                let threads = MappedTile::of(call.spec.head_dim).threads;
                let pool = self.pool(call);
                let all = prompt_attention::parameters(&pool, self.dtype, parameters, tiles)?;
                kernel.launch_clusters(context, blocks, together, threads, shared, &all)
            }
        }
    }

    /// The layer's pages of 16-bit elements: rows of K or V of a head.
    fn pool(&self, call: &AttendPages<'_>) -> Matrix {
        let (columns, rows) = (call.spec.head_dim, self.pool_rows);
        Matrix { first: call.pool, columns, rows, row_bytes: columns * DType::BF16.bytes() }
    }

    fn parameters(
        &self,
        call: &AttendPages<'_>,
        items: DevicePtr,
        stages: usize,
    ) -> PagedAttention {
        let AttendPages { spec, device, .. } = *call;
        let scales = Scales::of(spec, self.kv);

        PagedAttention {
            items,
            qkv: call.qkv,
            position: device.position.address,
            slots: call.slots,
            pool: call.pool,
            sinks: call.sinks,
            out: call.out,
            parts: self.parts.address,
            statistics: self.statistics.address,
            arrivals: self.arrivals.address,
            heads: spec.heads as u32,
            kv_heads: spec.kv_heads as u32,
            page_size: self.page_size as u32,
            scale: scales.scores,
            window: spec.window.unwrap_or(0) as u32,
            softcap: spec.softcap.unwrap_or(0.0),
            stages: stages as u32,
            kv: self.kv.into(),
            value_scale: scales.values,
            chunk: spec.chunk.unwrap_or(0) as u32,
            row_width: spec.row_width() as u32,
            unused: 0,
            seen: call.seen,
        }
    }

    fn run_plain(
        &self,
        context: &Context,
        kernels: &Kernels,
        call: &AttendPages<'_>,
    ) -> Result<()> {
        let AttendPages { spec, device, .. } = *call;
        head_fits(spec, abi::ATTEND_WIDE_HEAD_DIM)?;
        let scales = Scales::of(spec, self.kv);
        let parameters = abi::AttendRows {
            qkv: call.qkv,
            position: device.position.address,
            slot_of: device.slot_of.address,
            slots: call.slots,
            pool: call.pool,
            sinks: call.sinks,
            slopes: call.slopes,
            seen: call.seen,
            out: call.out,
            heads: spec.heads as u32,
            kv_heads: spec.kv_heads as u32,
            dim: spec.head_dim as u32,
            page_size: self.page_size as u32,
            scale: scales.scores,
            window: spec.window.unwrap_or(0) as u32,
            softcap: spec.softcap.unwrap_or(0.0),
            kv: self.kv.into(),
            value_scale: scales.values,
            chunk: spec.chunk.unwrap_or(0) as u32,
            row_width: spec.row_width() as u32,
            unused: 0,
        };

        let blocks = [call.rows, spec.heads];
        let wide = spec.head_dim > abi::ATTEND_MAX_HEAD_DIM as usize;
        let kernel = match (self.kv.plain(), wide) {
            (Some(_), false) => &kernels.attend_rows,
            (Some(_), true) => &kernels.attend_rows_wide,
            (None, false) => &kernels.attend_rows_fp8,
            (None, true) => &kernels.attend_rows_fp8_wide,
        };
        kernel.launch(context, blocks, abi::ATTEND_THREADS, &parameters)
    }
}

/// q heads per KV head.
fn group_of(spec: &AttnSpec) -> usize {
    spec.heads / spec.kv_heads.max(1)
}

/// # Errors
/// Unsupported: no kernel takes heads of this size.
pub(super) fn head_fits(spec: &AttnSpec, most: u32) -> Result<()> {
    if spec.head_dim <= most as usize {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "head_dim {}: attention on GPUs goes up to {most}.",
        spec.head_dim
    )))
}

impl<'a> Kinds<'a> {
    /// Blocks of the split kernel, or of the ring in its place, that the card holds at once.
    fn resident_splits(
        &self,
        context: &Context,
        split: Shape,
        ring: Option<Ring<'_>>,
    ) -> Result<usize> {
        match ring {
            Some(ring) => ring.prepare(context),
            None => self.split.resident_blocks(context, abi::SPLIT_THREADS, split.shared_bytes),
        }
    }

    /// The one for tiles of prompts.
    fn prompts(&self) -> Prompts<'a> {
        self.prompt.unwrap_or(Prompts::Each(self.chunk))
    }
}

impl Prompts<'_> {
    /// Packed rows of a block's tile of heads of `dim`, and how many pairs of blocks that take one
    /// together the card holds at once.
    fn tile(&self, dim: usize, shape: Shape) -> Result<(usize, usize)> {
        match self {
            Prompts::Each(_) => Ok((PROMPT_ROWS, 0)),
            Prompts::Mapped(kernel) => {
                let MappedTile { rows, threads, .. } = MappedTile::of(dim);
                Ok((rows, kernel.resident_clusters(2, threads, shape.shared_bytes)?))
            }
        }
    }

    /// See [`Kernel::allow_shared`].
    fn allow_shared(&self, bytes: usize) -> Result<()> {
        match self {
            Prompts::Each(kernel) => kernel.allow_shared(bytes),
            Prompts::Mapped(kernel) => kernel.allow_shared(bytes),
        }
    }

    fn capability(&self) -> u32 {
        match self {
            Prompts::Each(kernel) => kernel.capability(),
            Prompts::Mapped(kernel) => kernel.capability(),
        }
    }
}

/// The kernels of a head size, if there are any; `mappable`: tensor maps can copy its pages.
fn tile_kernels(k: &Kernels, kv: KvType, dim: usize, mappable: bool) -> Option<Kinds<'_>> {
    use Prompts::{Each, Mapped};
    let (chunk, prompt, split) = match (kv, dim) {
        (KvType::E4m3, 64) => (&k.chunk_fp8_64, Some(Each(&k.prompt_fp8_64)), &k.split_e4m3_64),
        (KvType::E4m3, 80) => (&k.chunk_fp8_80, None, &k.split_e4m3_80),
        (KvType::E4m3, 96) => (&k.chunk_fp8_96, None, &k.split_e4m3_96),
        (KvType::E4m3, 128) => (&k.chunk_fp8_128, Some(Each(&k.prompt_fp8_128)), &k.split_e4m3_128),
        (KvType::E4m3, 256) => (&k.chunk_fp8_256, Some(Each(&k.prompt_fp8_256)), &k.split_e4m3_256),
        (KvType::E5m2, 64) => (&k.chunk_fp8_64, Some(Each(&k.prompt_fp8_64)), &k.split_e5m2_64),
        (KvType::E5m2, 128) => (&k.chunk_fp8_128, Some(Each(&k.prompt_fp8_128)), &k.split_e5m2_128),
        (KvType::E4m3 | KvType::E5m2, _) => return None,
        (_, 64) => (&k.chunk_64, Some(Mapped(&k.prompt_64)), &k.split_64),
        (_, 80) => (&k.chunk_80, None, &k.split_80),
        (_, 96) => (&k.chunk_96, None, &k.split_96),
        (_, 128) => (&k.chunk_128, Some(Mapped(&k.prompt_128)), &k.split_128),
        (_, 256) => (&k.chunk_256, Some(Mapped(&k.prompt_256)), &k.split_256),
        _ => return None,
    };
    let ring = kv.plain().and_then(|_| Ring::of(k, dim));
    let prompt = prompt.filter(|kernel| kernel.capability() == HOPPER);
    // Where the kernel by wgmma is, the one by mma has no code.
    if matches!(prompt, Some(Mapped(_))) && !mappable {
        return None;
    }
    Some(Kinds { chunk, prompt, split, ring })
}

/// What the kernels multiply scores and results with: the scales of pages of eight bits are part of
/// both.
struct Scales {
    scores: f32,
    values: f32,
}

impl Scales {
    fn of(spec: &AttnSpec, kv: KvType) -> Scales {
        match kv.plain() {
            Some(_) => Scales { scores: spec.scale, values: 1.0 },
            None => Scales { scores: spec.scale * spec.kv_scales.k, values: spec.kv_scales.v },
        }
    }
}

impl From<KvType> for abi::KvType {
    fn from(kv: KvType) -> abi::KvType {
        match kv {
            KvType::F32 | KvType::F16 | KvType::BF16 => abi::KvType::Act,
            KvType::E4m3 => abi::KvType::E4m3,
            KvType::E5m2 => abi::KvType::E5m2,
        }
    }
}

/// Bytes of a stage of 16-bit elements: K and V, rows padded by 16 bytes.
fn operand_stage_bytes(dim: usize) -> usize {
    2 * TILE_KEYS * (dim + abi::TILE_PADDING as usize) * 2
}

impl Shape {
    /// Of the split kernel. Merging takes its warps' sums, with their rows' maxima and sums.
    fn split(kv: KvType, dim: usize) -> Shape {
        let merge_bytes = SPLIT_WARPS * SPLIT_ROWS * (dim + 4 + 2) * 4;
        let (stages, stage_bytes) = match kv.plain() {
            Some(_) => (SPLIT_STAGES, operand_stage_bytes(dim)),
            None => {
                // Swizzled rows, or rows an odd number of 16 bytes apart
                // (kernels/attention_fp8.cu).
                let pitch = if dim.is_multiple_of(64) { dim } else { ((dim / 16) | 1) * 16 };
                (SPLIT_BYTE_STAGES, 2 * TILE_KEYS * pitch)
            }
        };
        Shape { stages, shared_bytes: merge_bytes.max(stages * stage_bytes) }
    }

    /// Of the chunk kernel: the better shape, and the one for cards where it does not fit.
    fn chunk(kv: KvType, dim: usize) -> [Shape; 2] {
        let stage_bytes = operand_stage_bytes(dim);
        let (most, raw_bytes) = match kv.plain() {
            Some(_) => (CHUNK_STAGES, 0),
            None => (CHUNK_TURNED_STAGES, 2 * TILE_KEYS * dim),
        };
        [most, most - 1]
            .map(|stages| Shape { stages, shared_bytes: stages * stage_bytes + raw_bytes })
    }

    /// Of the prompt kernel: Q, stages of K and V, what aligns them; of eight bits a tile of each
    /// as it lies in pages.
    fn prompt(kv: KvType, dim: usize) -> Shape {
        let (rows, keys, stages, raw_bytes) = match kv.plain() {
            Some(_) => {
                let MappedTile { rows, queries, keys, stages, .. } = MappedTile::of(dim);
                (queries * rows, keys, stages, 0)
            }
            None => {
                let keys = if dim == 256 { abi::PROMPT_KEYS_OF_256 } else { abi::PROMPT_KEYS };
                let keys = keys as usize;
                (PROMPT_ROWS, keys, PROMPT_STAGES, 2 * keys * dim)
            }
        };
        let operands = (rows + 2 * stages * keys) * dim * 2;
        Shape { stages, shared_bytes: operands + raw_bytes + abi::PROMPT_ALIGNMENT as usize }
    }
}
