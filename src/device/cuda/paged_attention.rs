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

use super::abi::{self, PagedAttention, RopeStore};
use super::attention_kernels::{tile_kernels, Kinds, Prompts, Shape};
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::graphs;
use super::memory::Memory;
use super::module::Kernels;
use super::prompt_attention::{self, MappedTile};
use super::ring_attention::{self, Ring};
use super::shared_keys::SharedKeys;
use super::steps::OnDevice;
use super::tensor_map::Matrix;
use super::worklist::{self, KeysEnd, Tiling, WorkList};
use crate::device::batch::BatchChunk;
use crate::device::{AttnSpec, DType, DeviceLimits, KvType};
use crate::error::{Error, Result};

const PROMPT_ROWS: usize = abi::PROMPT_ROWS as usize;
const SPLIT_ROWS: usize = abi::SPLIT_ROWS as usize;
/// Blocks of the split kernel that the card holds at once, at most, for arithmetic before a card is
/// known.
const MOST_BLOCKS: usize = 4 * 160;

/// Bytes for the parts of split sequences, at most.
pub fn parts_bytes(kv_heads: usize, head_dim: usize) -> usize {
    let parts: usize = worklist::parts(MOST_BLOCKS.div_ceil(kv_heads.max(1)), true).iter().sum();
    parts * kv_heads * SPLIT_ROWS * (head_dim + 2) * 4
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
    /// It can read keys once that sequences share.
    can_share: bool,
    page_size: usize,
    /// K or V of heads in a layer's pool.
    pool_rows: usize,
    /// Of a key, K and V of all heads.
    key_bytes: usize,
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
        let fits = |shape: &Shape| shape.fits(context);
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

        let can_share = ring.is_some_and(|ring| ring.shares());
        let [own, shared] = if tiled { worklist::parts(split_blocks, can_share) } else { [0; 2] };
        let rows = (own + shared) * kv_heads * SPLIT_ROWS;
        let arrivals = Memory::new(context, 4 * own * kv_heads, "parts of attention")?;
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
            can_share,
            page_size,
            pool_rows,
            key_bytes: 2 * kv_heads * dim * dtype.bytes(),
            split_blocks,
            list: WorkList::default(),
            list_start: 0,
            parts: Memory::new(context, rows * dim * 4, "parts of attention")?,
            statistics: Memory::new(context, rows * 8, "parts of attention")?,
            arrivals,
        })
    }

    /// Bytes of a key, K and V of all heads, if keys that sequences share can be read once.
    pub fn shared_key_bytes(&self) -> Option<usize> {
        let group = self.group.filter(|&group| self.can_share && group <= SPLIT_ROWS);
        group.map(|_| self.key_bytes)
    }

    /// Make the work list of a step, to lie from word `start` of its input on; empty where the
    /// plain kernel runs. `shared`: keys that are to be read once, where that is possible. Whether
    /// all steps with as many rows that share keys or not are launched alike: not before it is
    /// known which kernel runs, nor with prompts.
    pub fn plan(
        &mut self,
        chunks: &[BatchChunk],
        keys_end: KeysEnd<'_>,
        shared: &[SharedKeys],
        start: usize,
    ) -> bool {
        let Some(group) = self.group else { return false };
        self.list_start = start;
        let shared = if self.shared_key_bytes().is_some() { shared } else { &[] };
        if self.tiled {
            self.list.make(self.tiling, chunks, group, self.split_blocks, keys_end, shared);
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
        let of_singles = 2 * self.split_blocks + tokens * group.div_ceil(SPLIT_ROWS);
        // As many of tiles of shared keys at most, and an entry for each sequence.
        let of_shared = if self.can_share { 2 * self.split_blocks + 2 * tokens } else { 0 };
        let items = of_singles + of_shared;
        items * size_of::<abi::WorkItem>() / size_of::<u32>()
    }

    /// Whether attention can rotate `half` pairs of each head and store what comes of it, in a step
    /// all of whose sequences have one row.
    pub fn rotates(&self, spec: &AttnSpec, half: usize) -> bool {
        self.ring
            && self.planned(spec)
            && self.list.prompt_tiles == 0
            && !self.list.shares
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
            return self.run_ring(context, ring, call, items);
        }
        let parameters = self.parameters(call, items, self.split.stages);
        let shared = self.split.shared_bytes;
        let blocks = [self.split_blocks, kv_heads];
        kinds.split.launch_shared(context, blocks, abi::SPLIT_THREADS, shared, &parameters)
    }

    /// Single tokens, whose items lie at `items`, behind those of keys that they share.
    fn run_ring(
        &self,
        context: &Context,
        ring: Ring<'_>,
        call: &AttendPages<'_>,
        items: DevicePtr,
    ) -> Result<()> {
        let pool = self.pool(call).whole_rows(self.kv.plain(), abi::RING_BOX_KEYS as usize)?;
        let (blocks, stages) = (self.split_blocks, ring_attention::slots(call.spec.head_dim));
        let mut parameters = self.parameters(call, items, stages);
        if self.list.shares {
            ring.launch_shared(context, blocks, pool, parameters)?;
            parameters.items = items.offset_bytes(blocks * size_of::<abi::WorkItem>());
        }
        ring.launch(context, blocks, pool, parameters, call.rope)
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
