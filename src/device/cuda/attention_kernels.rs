//! The kernels of attention over pages: which ones a head size and a type of pages have, tiles of
//! prompts and of single tokens, and the shared memory that each takes. `paged_attention` launches
//! them.

use super::abi::{self, PagedAttention, PromptAttention};
use super::context::Context;
use super::launch::Kernel;
use super::module::Kernels;
use super::prompt_attention::MappedTile;
use super::ring_attention::Ring;
use crate::device::KvType;
use crate::error::Result;

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

/// A kernel's shared memory beyond the static.
#[derive(Clone, Copy)]
pub struct Shape {
    pub stages: usize,
    pub shared_bytes: usize,
}

/// A kernel for tiles of prompts.
#[derive(Clone, Copy)]
pub enum Prompts<'a> {
    /// A block for each tile of a head.
    Each(&'a Kernel<PagedAttention>),
    /// Blocks that walk over them, and have tensor maps copy.
    Mapped(&'a Kernel<PromptAttention>),
}

/// The kernels of a head size and a type of pages.
#[derive(Clone, Copy)]
pub struct Kinds<'a> {
    /// 128 packed rows, by mma.
    pub chunk: &'a Kernel<PagedAttention>,
    /// Tiles of prompts by wgmma.
    pub prompt: Option<Prompts<'a>>,
    /// 16 packed rows.
    pub split: &'a Kernel<PagedAttention>,
    /// The same by a ring of copied boxes.
    pub ring: Option<Ring<'a>>,
}

impl<'a> Kinds<'a> {
    /// Blocks of the split kernel, or of the ring in its place, that the card holds at once.
    pub fn resident_splits(
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
    pub fn prompts(&self) -> Prompts<'a> {
        self.prompt.unwrap_or(Prompts::Each(self.chunk))
    }
}

impl Prompts<'_> {
    /// Packed rows of a block's tile of heads of `dim`, and how many pairs of blocks that take one
    /// together the card holds at once.
    pub fn tile(&self, dim: usize, shape: Shape) -> Result<(usize, usize)> {
        match self {
            Prompts::Each(_) => Ok((PROMPT_ROWS, 0)),
            Prompts::Mapped(kernel) => {
                let MappedTile { rows, threads, .. } = MappedTile::of(dim);
                Ok((rows, kernel.resident_clusters(2, threads, shape.shared_bytes)?))
            }
        }
    }

    /// See [`Kernel::allow_shared`].
    pub fn allow_shared(&self, bytes: usize) -> Result<()> {
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
pub fn tile_kernels(k: &Kernels, kv: KvType, dim: usize, mappable: bool) -> Option<Kinds<'_>> {
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

/// Bytes of a stage of 16-bit elements: K and V, rows padded by 16 bytes.
fn operand_stage_bytes(dim: usize) -> usize {
    2 * TILE_KEYS * (dim + abi::TILE_PADDING as usize) * 2
}

impl Shape {
    /// On this card, beside what the kernels have of their own.
    pub fn fits(&self, context: &Context) -> bool {
        self.shared_bytes + STATIC_SHARED_BYTES <= context.shared_bytes
    }

    /// Of the split kernel. Merging takes its warps' sums, with their rows' maxima and sums.
    pub fn split(kv: KvType, dim: usize) -> Shape {
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
    pub fn chunk(kv: KvType, dim: usize) -> [Shape; 2] {
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
    pub fn prompt(kv: KvType, dim: usize) -> Shape {
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
