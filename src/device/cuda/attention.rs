//! Attention over pages: which kernel, and the work list of the tensor-core one. `Cuda::begin`
//! plans a step's tiles and ships them with the step's input, `Cuda::attend` launches. It knows
//! lengths, no values.
//!
//! Prompts become tiles of 128 packed rows (tokens x the q heads of a KV head), longest first; one
//! of the two kernels for them needs Hopper's instructions (kernels/prompts.cu). A single token
//! becomes a tile of at most 16 packed rows whose keys are cut into parts, so that the
//! blocks of all sequences fill the card a few times over whatever their lengths; the last block of
//! a sequence to finish joins its parts. f32, head sizes without a tile, and the very first step
//! (which learns the number of q heads) go to the plain kernel.
//!
//! The list lies at the front of the step's input, so its address never changes, and in a decode
//! step it is padded with empty tiles to a power of two: one recorded launch fits many steps.

use std::sync::Arc;

use super::context::Context;
use super::launch::{Argument, Kernel};
use super::memory::Memory;
use super::module::Kernels;
use super::slots::{RowLayout, Span};
use super::steps::OnDevice;
use crate::device::{AttnSpec, DType, KvShape, Limits};
use crate::error::{Error, Result};

/// Head sizes that the plain kernel takes at most.
pub(super) const MAX_HEAD_DIM: usize = 256;
pub(super) const THREADS: u32 = 128;
const CHUNK_THREADS: u32 = 256;
/// As in kernels/tiles.cuh, tiles.cu and prompts.cu.
const ITEM_WORDS: usize = 8;
const CHUNK_ROWS: usize = 128;
const SPLIT_ROWS: usize = 16;
const TILE_KEYS: usize = 64;
const SPLIT_STAGES: usize = 2;
/// Where they fit; else two.
const CHUNK_STAGES: usize = 3;
/// The kernels' own, beside the stages.
const STATIC_SHARED_BYTES: usize = 1024;
/// The architecture of kernels/prompts.cu, its stages, and what its tiles are aligned to.
const PROMPT_CAPABILITY: u32 = 90;
const PROMPT_STAGES: usize = 2;
const PANEL_BYTES: usize = 1024;
const NO_PART: u32 = u32::MAX;
/// Fewest tiles that a padded list has.
const FEWEST_ITEMS: usize = 8;
/// Blocks of the split kernel per multiprocessor that the parts are cut for: three fit at a time,
/// so this is five rounds of them, which evens out lengths.
const BLOCKS_PER_MULTIPROCESSOR: usize = 15;
/// Multiprocessors of the largest card, for arithmetic before a card is known.
const MOST_MULTIPROCESSORS: usize = 160;

/// Bytes for the parts of split sequences, at most.
pub fn parts_bytes(kv: &KvShape) -> usize {
    let blocks = BLOCKS_PER_MULTIPROCESSOR * MOST_MULTIPROCESSORS + kv.kv_heads;
    blocks * SPLIT_ROWS * (kv.head_dim + 2) * 4
}

/// One `attend`.
pub struct Call<'a> {
    pub rows: usize,
    pub spec: &'a AttnSpec,
    pub page_size: usize,
    pub layout: &'a RowLayout,
    pub device: &'a OnDevice,
    pub qkv: u64,
    pub pool: u64,
    pub out: u64,
}

/// The work list of a step, in words: chunk tiles, then split tiles, of which the last may be
/// empty.
#[derive(Default)]
struct Plan {
    words: Vec<u32>,
    chunks: usize,
    splits: usize,
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
    chunk: &'a Kernel,
    /// The same by wgmma.
    prompt: Option<&'a Kernel>,
    /// 16 packed rows.
    split: &'a Kernel,
}

pub struct Attention {
    /// There are tensor-core tiles for this type and head size on this card.
    tiled: bool,
    /// q heads per KV head, once a step has shown it.
    group: Option<usize>,
    chunk: Shape,
    split: Shape,
    /// Tiles that the parts are cut for.
    split_budget: usize,
    plan: Plan,
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
        limits: &Limits,
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
        let blocks = BLOCKS_PER_MULTIPROCESSOR * context.multiprocessors as usize;
        let split_budget = (blocks / kv_heads).max(1);
        let rows = if tiled { split_budget * kv_heads * SPLIT_ROWS } else { 0 };
        let arrivals = Memory::new(context, 4 * split_budget * kv_heads, "parts of attention")?;
        arrivals.fill(0)?;
        Ok(Attention {
            tiled,
            group: None,
            chunk,
            split,
            split_budget,
            plan: Plan::default(),
            parts: Memory::new(context, rows * dim * 4, "parts of attention")?,
            statistics: Memory::new(context, rows * 8, "parts of attention")?,
            arrivals,
        })
    }

    /// Make the work list of a step; empty where the plain kernel runs. `pad`: to a size that
    /// returns. None: which kernel runs is not known yet. Some: blocks per KV head.
    pub fn plan(&mut self, spans: &[Span], pad: bool) -> Option<usize> {
        let group = self.group?;
        if !self.tiled {
            return Some(0);
        }
        self.plan.make(spans, group, self.split_budget);
        if pad {
            self.plan.pad();
        }
        Some(self.plan.chunks + self.plan.splits)
    }

    /// The work list, in words.
    pub fn words(&self) -> &[u32] {
        &self.plan.words
    }

    pub fn run(&mut self, context: &Context, kernels: &Kernels, call: &Call<'_>) -> Result<()> {
        let spec = call.spec;
        let group = spec.heads / spec.kv_heads.max(1);
        let planned = self.group == Some(group) && !self.plan.words.is_empty();
        self.group = Some(group);
        match tile_kernels(kernels, spec.head_dim) {
            Some(tiles) if planned => self.run_tiles(context, tiles, call),
            _ => run_plain(context, kernels, call),
        }
    }

    fn run_tiles(&self, context: &Context, kinds: Kinds<'_>, call: &Call<'_>) -> Result<()> {
        let Call { spec, layout, device, .. } = *call;
        let Plan { chunks, splits, .. } = self.plan;
        let launches = [
            (kinds.prompts(), chunks, CHUNK_THREADS, self.chunk),
            (kinds.split, splits, THREADS, self.split),
        ];
        let mut at = device.input.address;
        for (kernel, count, threads, shape) in launches {
            let arguments: [&dyn Argument; 18] = [
                &at,
                &call.qkv,
                &device.position.address,
                &device.rows.address,
                &layout.stride,
                &layout.pages,
                &(spec.heads as u32),
                &(spec.kv_heads as u32),
                &(call.page_size as u32),
                &spec.scale,
                &(spec.window.unwrap_or(0) as u32),
                &spec.softcap.unwrap_or(0.0),
                &call.pool,
                &call.out,
                &self.parts.address,
                &self.statistics.address,
                &self.arrivals.address,
                &(shape.stages as u32),
            ];
            let blocks = [count, spec.kv_heads];
            kernel.launch_shared(context, blocks, threads, shape.shared_bytes, &arguments)?;
            at += (4 * ITEM_WORDS * count) as u64;
        }
        Ok(())
    }
}

fn run_plain(context: &Context, kernels: &Kernels, call: &Call<'_>) -> Result<()> {
    let Call { spec, layout, device, .. } = *call;
    if spec.head_dim > MAX_HEAD_DIM {
        return Err(Error::Unsupported(format!(
            "head_dim {}: attention on GPUs goes up to {MAX_HEAD_DIM}.",
            spec.head_dim
        )));
    }
    let arguments: [&dyn Argument; 15] = [
        &call.qkv,
        &device.position.address,
        &device.slot_of.address,
        &device.rows.address,
        &layout.stride,
        &layout.pages,
        &(spec.heads as u32),
        &(spec.kv_heads as u32),
        &(spec.head_dim as u32),
        &(call.page_size as u32),
        &spec.scale,
        &(spec.window.unwrap_or(0) as u32),
        &spec.softcap.unwrap_or(0.0),
        &call.pool,
        &call.out,
    ];
    kernels.attend_rows.launch(context, [call.rows, spec.heads], THREADS, &arguments)
}

impl<'a> Kinds<'a> {
    /// The one for 128 packed rows.
    fn prompts(&self) -> &'a Kernel {
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
    let prompt = prompt.filter(|kernel| kernel.capability == PROMPT_CAPABILITY);
    Some(Kinds { chunk, prompt, split })
}

/// K and V tiles of the stages, rows padded by 16 bytes.
fn shared_bytes(dim: usize, stages: usize) -> usize {
    stages * 2 * TILE_KEYS * (dim + 8) * 2
}

/// Q, two stages of K and V (128 keys, 64 at the largest head size), and what aligns them.
fn prompt_shared_bytes(dim: usize) -> usize {
    let keys = if dim == 256 { 64 } else { 128 };
    (CHUNK_ROWS + 2 * PROMPT_STAGES * keys) * dim * 2 + PANEL_BYTES
}

impl Plan {
    fn make(&mut self, spans: &[Span], group: usize, split_budget: usize) {
        self.words.clear();
        let single = |span: &&Span| span.tokens * group <= SPLIT_ROWS || span.tokens == 1;
        self.chunks = 0;
        // Longest first: the last blocks to start are then short.
        for span in spans.iter().filter(|s| !single(s)) {
            let packed = span.tokens * group;
            for begin in (0..packed).step_by(CHUNK_ROWS).rev() {
                let count = CHUNK_ROWS.min(packed - begin);
                let keys = span.length - span.tokens + (begin + count - 1) / group + 1;
                self.item(span, begin, count, [0, keys], None);
                self.chunks += 1;
            }
        }
        let singles: Vec<&Span> = spans.iter().filter(single).collect();
        let per_part = keys_per_part(&singles, group, split_budget);
        let mut parts = 0;
        self.splits = 0;
        for span in singles {
            let packed = span.tokens * group;
            let pieces = span.length.div_ceil(per_part);
            for begin in (0..packed).step_by(SPLIT_ROWS) {
                let count = SPLIT_ROWS.min(packed - begin);
                for piece in 0..pieces {
                    let keys = [piece * per_part, span.length.min((piece + 1) * per_part)];
                    let parts = (pieces > 1).then_some([parts, pieces, piece]);
                    self.item(span, begin, count, keys, parts);
                    self.splits += 1;
                }
                parts += if pieces > 1 { pieces } else { 0 };
            }
        }
    }

    /// Empty tiles up to the next power of two.
    fn pad(&mut self) {
        self.splits = self.splits.max(FEWEST_ITEMS).next_power_of_two();
        self.words.resize(ITEM_WORDS * (self.chunks + self.splits), 0);
    }

    /// `parts`: the first part of these rows, how many there are, and which this one is.
    fn item(
        &mut self,
        span: &Span,
        begin: usize,
        count: usize,
        keys: [usize; 2],
        parts: Option<[usize; 3]>,
    ) {
        let [first, begin, count] = [span.first, begin, count].map(|n| n as u32);
        let [from, to] = keys.map(|n| n as u32);
        let [part, pieces] = match parts {
            Some([first, pieces, piece]) => [first as u32, (pieces << 16 | piece) as u32],
            None => [NO_PART, 0],
        };
        self.words.extend([span.slot, first, begin, count, from, to, part, pieces]);
    }
}

/// Keys of a part, in whole tiles: the fewest with which all parts stay within the budget (or
/// within one per tile of rows, where those alone exceed it: then nothing is split and no part is
/// stored).
fn keys_per_part(singles: &[&Span], group: usize, split_budget: usize) -> usize {
    let row_tiles = |s: &Span| (s.tokens * group).div_ceil(SPLIT_ROWS);
    let budget = singles.iter().map(|s| row_tiles(s)).sum::<usize>().max(split_budget);
    let parts = |keys: usize| -> usize {
        singles.iter().map(|s| row_tiles(s) * s.length.div_ceil(keys)).sum()
    };
    let longest = singles.iter().map(|s| s.length).max().unwrap_or(1).div_ceil(TILE_KEYS);
    let (mut low, mut high) = (1, longest.max(1));
    while low < high {
        let middle = (low + high) / 2;
        if parts(middle * TILE_KEYS) <= budget {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low * TILE_KEYS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every packed row of every span meets each of its keys exactly once, and parts are within
    /// bounds.
    #[test]
    fn tiles_cover_rows_and_keys_once() {
        let lengths =
            [(1, 1), (1, 64), (1, 65), (1, 5000), (300, 300), (17, 900), (3, 12), (1, 131)];
        for group in [1, 3, 4, 7, 32] {
            for budget in [1, 8, 40, 1000] {
                let mut first = 0;
                let mut spans = Vec::new();
                for (slot, &(tokens, length)) in lengths.iter().enumerate() {
                    spans.push(Span { slot: slot as u32, first, tokens, length });
                    first += tokens;
                }
                let mut plan = Plan::default();
                plan.make(&spans, group, budget);
                check(&plan, &spans, group, budget);
            }
        }
    }

    fn check(plan: &Plan, spans: &[Span], group: usize, budget: usize) {
        let items = plan.words.chunks_exact(ITEM_WORDS).take(plan.chunks + plan.splits);
        let mut seen = vec![vec![]; spans.len()];
        for (n, item) in items.enumerate() {
            let rows = if n < plan.chunks { CHUNK_ROWS } else { SPLIT_ROWS };
            assert!(item[3] >= 1 && item[3] as usize <= rows);
            assert!(item[4] < item[5]);
            let (pieces, piece) = (item[7] >> 16, item[7] & 0xffff);
            let whole = item[6] == NO_PART && item[7] == 0;
            let part = piece < pieces && ((item[6] + pieces) as usize) <= budget;
            assert!(whole || part, "{item:?} of {budget}");
            for row in item[2]..item[2] + item[3] {
                seen[item[0] as usize].push((row as usize, item[4] as usize, item[5] as usize));
            }
        }
        for (span, seen) in spans.iter().zip(&mut seen) {
            seen.sort_unstable();
            for row in 0..span.tokens * group {
                let position = span.length - span.tokens + row / group;
                let mut next = 0;
                for &(_, from, to) in seen.iter().filter(|(r, ..)| *r == row) {
                    assert_eq!(from, next, "{span:?} row {row}");
                    next = to;
                }
                assert!(next > position && next <= span.length, "{span:?} row {row} to {next}");
            }
        }
        assert_eq!(plan.words.len(), ITEM_WORDS * (plan.chunks + plan.splits));
    }
}
