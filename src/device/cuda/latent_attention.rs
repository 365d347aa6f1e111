//! Attention over pages of latent vectors: which kernel, with which work list, as
//! `paged_attention` does it for K and V of heads. All heads are packed rows of one KV head. The
//! very first step (which learns the number of heads), f32 and widths without a tile go to the
//! plain kernel. It knows lengths, no values.

use std::sync::Arc;

use super::abi::{self, PagedLatent};
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::launch::Kernel;
use super::memory::Memory;
use super::module::Kernels;
use super::steps::OnDevice;
use super::worklist::{self, causal, Tiling, WorkList, PARTS_PER_BLOCK};
use crate::device::batch::BatchChunk;
use crate::device::{DType, LatentSpec};
use crate::error::{Error, Result};

const RANK: usize = abi::LATENT_TILE_RANK as usize;
const ROTARY: usize = abi::LATENT_TILE_ROTARY as usize;
const KEYS: usize = abi::LATENT_KEYS as usize;
const FEW: usize = abi::LATENT_FEW_ROWS as usize;
const MANY: usize = abi::LATENT_MANY_ROWS as usize;
/// The kernels' own, beside what they are given.
const STATIC_SHARED_BYTES: usize = 1024;
/// Multiprocessors of a card at most, for arithmetic before a card is known.
const MOST_MULTIPROCESSORS: usize = 160;

/// For the parts of split sequences, at most.
pub const PARTS_BYTES: usize =
    PARTS_PER_BLOCK * MOST_MULTIPROCESSORS * MANY * (RANK + 2) * size_of::<f32>();

/// One `attend_latent`.
pub struct AttendLatent<'a> {
    pub rows: usize,
    pub spec: &'a LatentSpec,
    pub page_size: usize,
    pub slots: abi::SlotRows,
    pub device: &'a OnDevice,
    pub queries: DevicePtr,
    pub pool: DevicePtr,
    pub out: DevicePtr,
}

/// Kernels of a number of packed rows.
#[derive(Clone, Copy)]
struct Tiles {
    rows: usize,
    threads: u32,
    shared_bytes: usize,
    /// Blocks of the split kernel: as many as the card holds at once.
    split_blocks: usize,
}

impl Tiles {
    const FEW: Tiles = Tiles::new(FEW, abi::LATENT_FEW_THREADS);
    const MANY: Tiles = Tiles::new(MANY, abi::LATENT_MANY_THREADS);

    /// q, the stages, weights, and statistics of each warp along columns.
    const fn new(rows: usize, threads: u32) -> Tiles {
        let padding = abi::LATENT_PADDING as usize;
        let vectors = rows + abi::LATENT_STAGES as usize * KEYS;
        let columns = threads as usize / 32 / (rows / 16);
        let shared_bytes = 2 * vectors * (RANK + ROTARY + padding)
            + 2 * rows * (KEYS + padding)
            + 2 * 4 * columns * rows;
        Tiles { rows, threads, shared_bytes, split_blocks: 0 }
    }

    /// The same with the blocks that this card holds; None: it has too little shared memory.
    fn on(self, context: &Context, kernels: &Kernels) -> Result<Option<Tiles>> {
        if self.shared_bytes + STATIC_SHARED_BYTES > context.shared_bytes {
            return Ok(None);
        }
        let [chunk, split] = self.kernels(kernels);
        chunk.allow_shared(self.shared_bytes)?;
        split.allow_shared(self.shared_bytes)?;
        let blocks = split.resident_blocks(context, self.threads, self.shared_bytes)?;
        let most = PARTS_BYTES / (PARTS_PER_BLOCK * self.rows * (RANK + 2) * size_of::<f32>());
        Ok((blocks > 0).then(|| Tiles { split_blocks: blocks.min(most), ..self }))
    }

    /// Of prompts, and of single tokens.
    fn kernels(self, kernels: &Kernels) -> [&Kernel<PagedLatent>; 2] {
        if self.rows == FEW {
            [&kernels.latent_chunk_16, &kernels.latent_split_16]
        } else {
            [&kernels.latent_chunk_64, &kernels.latent_split_64]
        }
    }

    fn parts(self) -> usize {
        worklist::parts(self.split_blocks, false)[0]
    }
}

pub struct LatentAttention {
    /// Tiles of few packed rows, and of many where the card has the memory; none: the plain kernel.
    few: Option<Tiles>,
    many: Option<Tiles>,
    /// Heads, once a step has shown them.
    heads: Option<usize>,
    list: WorkList,
    parts: Memory,
    statistics: Memory,
    /// Parts that are done, per sequence; 0 between launches.
    arrivals: Memory,
}

impl LatentAttention {
    pub fn new(
        context: &Arc<Context>,
        kernels: &Kernels,
        dtype: DType,
        width: usize,
    ) -> Result<LatentAttention> {
        if width > abi::LATENT_MAX_WIDTH as usize {
            return Err(Error::Unsupported(format!(
                "kv_lora_rank and qk_rope_head_dim are {width} together: attention on GPUs goes up \
                 to {}.",
                abi::LATENT_MAX_WIDTH
            )));
        }
        let tiled = dtype != DType::F32 && width == RANK + ROTARY;
        let mut few = None;
        let mut many = None;
        if tiled {
            few = Tiles::FEW.on(context, kernels)?;
            many = Tiles::MANY.on(context, kernels)?;
        }

        let all = || few.iter().chain(&many);
        let parts = all().map(|tiles| tiles.parts()).max().unwrap_or(0);
        let rows = all().map(|tiles| tiles.parts() * tiles.rows).max().unwrap_or(0);
        let arrivals = Memory::new(context, 4 * parts, "parts of attention")?;
        arrivals.fill(0)?;
        Ok(LatentAttention {
            few,
            many,
            heads: None,
            list: WorkList::default(),
            parts: Memory::new(context, rows * RANK * 4, "parts of attention")?,
            statistics: Memory::new(context, rows * 8, "parts of attention")?,
            arrivals,
        })
    }

    /// Tiles of prompts, and of single tokens of so many heads.
    fn tiles(&self, heads: usize) -> Option<[Tiles; 2]> {
        let few = self.few?;
        let many = self.many.unwrap_or(few);
        Some([many, if heads > FEW { many } else { few }])
    }

    /// Make the work list of a step; empty where the plain kernel runs. Whether all steps with as
    /// many rows are launched alike: not before it is known which kernel runs, nor with prompts.
    pub fn plan(&mut self, chunks: &[BatchChunk]) -> bool {
        let Some(heads) = self.heads else { return false };
        if let Some([prompt, single]) = self.tiles(heads) {
            let (prompt_rows, split_rows) = (prompt.rows, single.rows);
            let tiling = Tiling { prompt_rows, pairs: false, split_rows, keys: KEYS };
            self.list.make(tiling, chunks, heads, single.split_blocks, &causal, &[]);
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
        call: &AttendLatent<'_>,
    ) -> Result<()> {
        let LatentSpec { heads, rank, rotary, .. } = *call.spec;
        let planned = self.heads == Some(heads) && !self.list.items.is_empty();
        self.heads = Some(heads);
        match self.tiles(heads) {
            Some(tiles) if planned && (rank, rotary) == (RANK, ROTARY) => {
                self.run_tiles(context, kernels, tiles, call)
            }
            _ => run_plain(context, kernels, call),
        }
    }

    fn run_tiles(
        &self,
        context: &Context,
        kernels: &Kernels,
        [prompt, single]: [Tiles; 2],
        call: &AttendLatent<'_>,
    ) -> Result<()> {
        let AttendLatent { spec, device, .. } = *call;
        let WorkList { prompt_tiles, split, .. } = self.list;
        let split_blocks = if split { single.split_blocks } else { 0 };
        let launches = [
            (prompt.kernels(kernels)[0], prompt_tiles, prompt),
            (single.kernels(kernels)[1], split_blocks, single),
        ];

        let mut items = device.input.address;
        for (kernel, blocks, tiles) in launches {
            let parameters = PagedLatent {
                items,
                queries: call.queries,
                position: device.position.address,
                slots: call.slots,
                pool: call.pool,
                out: call.out,
                parts: self.parts.address,
                statistics: self.statistics.address,
                arrivals: self.arrivals.address,
                heads: spec.heads as u32,
                page_size: call.page_size as u32,
                scale: spec.scale,
                unused: 0,
            };
            let Tiles { threads, shared_bytes, .. } = tiles;
            kernel.launch_shared(context, [blocks, 1], threads, shared_bytes, &parameters)?;
            items = items.offset_bytes(blocks * size_of::<abi::WorkItem>());
        }
        Ok(())
    }
}

fn run_plain(context: &Context, kernels: &Kernels, call: &AttendLatent<'_>) -> Result<()> {
    let AttendLatent { spec, device, .. } = *call;
    let parameters = abi::AttendLatent {
        queries: call.queries,
        position: device.position.address,
        slot_of: device.slot_of.address,
        slots: call.slots,
        pool: call.pool,
        out: call.out,
        heads: spec.heads as u32,
        width: spec.width() as u32,
        rank: spec.rank as u32,
        page_size: call.page_size as u32,
        scale: spec.scale,
        unused: 0,
    };
    let blocks = [call.rows, spec.heads];
    kernels.attend_latent_rows.launch(context, blocks, abi::LATENT_THREADS, &parameters)
}
