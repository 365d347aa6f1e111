//! The work list of paged attention on tensor cores: which tile of packed rows meets which keys.
//! `attention` has it made once a step and ships it with the step's input. It knows lengths, no
//! values and no card but for its number of blocks.
//!
//! Prompts become tiles of packed rows (tokens x the q heads of a KV head), those with most keys
//! first. A single token becomes a tile of at most 16 packed rows, a few tokens that all have
//! logits (drafts) some. All keys of all of those are laid in one line and cut among as many blocks
//! as the card holds at once, so that all of them end together whatever the lengths; a block walks
//! over its items, and the last block of a tile to finish joins the tile's parts.
//!
//! Keys that several sequences share are laid in a line of their own, once for all of a tile's
//! sequences, for a launch in front of that of single tokens: what it leaves are parts too.

use std::cmp::Reverse;
use std::ops::Range;

use super::abi::{self, WorkItem, NEXT_ITEM, NO_PART};
use super::shared_keys::SharedKeys;
use crate::device::batch::BatchChunk;

// `count` of an item has room for them below the next item's number.
const _: () = assert!(abi::PROMPT_ROWS < NEXT_ITEM && abi::SPLIT_ROWS < NEXT_ITEM);
const _: () = assert!(abi::LATENT_MANY_ROWS < NEXT_ITEM && abi::SHARED_ROWS < NEXT_ITEM);
/// What an item of the split kernel costs beside its tiles of keys, in tiles: load q, look up the
/// first pages, wait for them, merge.
const ITEM_COST_TILES: usize = 2;
/// Tiles of a sequence with drafts at most, as a multiple of those of one token: up to here cutting
/// its keys among all blocks is worth reading them again for each tile, out of L2, and such a step
/// is launched like one of single tokens, so that it can be recorded.
const FEW_TILES: usize = 4;
/// What two blocks that read keys together gain of their time: one part in so many, at least with
/// long prompts (ci/runs/2026-11-30-h200-prompts2.md).
const PAIRS_GAIN: usize = 32;
/// Parts that a block of the split kernel can leave: what it begins with and what it ends with.
pub const PARTS_PER_BLOCK: usize = 2;
/// Parts of single tokens in whose place a part of shared keys is.
const PARTS_OF_SHARED: usize = (abi::SHARED_ROWS / abi::SPLIT_ROWS) as usize;
/// Tiles of rows whose shared keys are read once, at most: a block may leave parts of many.
/// Sequences beyond read all their keys.
const MOST_SHARED_TILES: usize = 32;

/// What kernels take at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Packed rows of a tile of prompts, for each block that takes it.
    pub prompt_rows: usize,
    /// Two blocks can take a tile of prompts together.
    pub pairs: bool,
    /// Packed rows of a tile of single tokens.
    pub split_rows: usize,
    /// Keys of either.
    pub keys: usize,
}

impl Tiling {
    /// Of attention over K and V of heads.
    pub const HEADS: Tiling = Tiling {
        prompt_rows: abi::PROMPT_ROWS as usize,
        pairs: false,
        split_rows: abi::SPLIT_ROWS as usize,
        keys: abi::TILE_KEYS as usize,
    };
}

/// Parts of a list for `blocks` blocks per KV head, each of SPLIT_ROWS rows: those of single
/// tokens, and behind them those of shared keys.
pub fn parts(blocks: usize, can_share: bool) -> [usize; 2] {
    let cut = PARTS_PER_BLOCK * blocks;
    match can_share {
        true => [cut, (cut + MOST_SHARED_TILES) * PARTS_OF_SHARED],
        false => [cut, 0],
    }
}

/// Where the keys end that a token of a chunk sees, by its position. No later token's end before.
pub type KeysEnd<'a> = &'a dyn Fn(&BatchChunk, usize) -> usize;

/// Of texts: each token is the last one that it sees.
pub fn causal(_: &BatchChunk, position: usize) -> usize {
    position + 1
}

/// The work list of a step: chunk tiles; then, if there are single tokens, the first item
/// of each block of the split kernel, empty where it has none, and the items that follow them.
/// Where keys are shared, the first items of the kernel that reads those lie before the former, and
/// of the sequences that share them an entry each among the latter.
#[derive(Default)]
pub struct WorkList {
    pub items: Vec<WorkItem>,
    /// Tiles of prompts.
    pub prompt_tiles: usize,
    /// Blocks that take each of them together.
    pub prompt_blocks: usize,
    /// There are single tokens.
    pub split: bool,
    /// Some of them share keys.
    pub shares: bool,
    /// Where the items of the packed rows in hand lie.
    pieces: Vec<usize>,
    /// Packed rows whose keys are dealt.
    lines: Vec<Line>,
    /// Of each chunk what it has in common with others.
    common: Vec<Common>,
}

/// Packed rows of a sequence, or of several, whose keys are cut among blocks.
#[derive(Clone, Copy)]
struct Line {
    /// All its keys; of its rows, as if they were one tile.
    item: WorkItem,
    /// Packed rows.
    rows: usize,
}

impl Line {
    fn keys(&self) -> Range<usize> {
        self.item.keys_from as usize..self.item.keys_to as usize
    }
}

/// The first keys of a chunk that others have too, and where the parts are that they leave.
#[derive(Default, Clone, Copy)]
struct Common {
    keys: usize,
    part: u32,
    row: u16,
    pieces: u16,
}

/// How lines are dealt: to so many blocks, in tiles of so many rows, each of which is so many
/// parts, numbered from the first one on.
#[derive(Clone, Copy)]
struct Deal {
    blocks: usize,
    rows: usize,
    keys: usize,
    first_part: usize,
    parts: usize,
}

impl WorkList {
    /// Make the list of a step with `group` q heads per KV head, for `blocks` blocks of the split
    /// kernel per KV head. `shared`: what sequences of one token have in common
    /// ([`super::shared_keys`]); `group` is at most SHARED_ROWS then.
    pub fn make(
        &mut self,
        tiling: Tiling,
        chunks: &[BatchChunk],
        group: usize,
        blocks: usize,
        keys_end: KeysEnd<'_>,
        shared: &[SharedKeys],
    ) {
        self.items.clear();
        let rows = tiling.split_rows;
        let single = |chunk: &BatchChunk| is_split(chunk, group, rows);
        let prompts = || chunks.iter().filter(|chunk| !single(chunk));
        self.cut_prompts(tiling, prompts, group, keys_end);

        self.split = chunks.iter().any(single);
        self.shares = !shared.is_empty();
        if !self.split {
            return;
        }
        let mut first = self.items.len();
        self.common.clear();
        self.common.resize(chunks.len(), Common::default());
        // Where a launch finds its items does not depend on what the other one has.
        self.items.resize(first + blocks, WorkItem::default());
        if self.shares {
            self.items.resize(first + 2 * blocks, WorkItem::default());
            self.share(tiling, chunks, group, blocks, shared);
            first += blocks;
        }

        self.lines.clear();
        for (chunk, common) in chunks.iter().zip(&self.common).filter(|(chunk, _)| single(chunk)) {
            let rows = chunk.tokens * group;
            let Common { keys, part: shared, row: shared_row, pieces: shared_pieces } = *common;
            let item = item(chunk, 0, rows, keys..chunk.length);
            let item = WorkItem { shared, shared_row, shared_pieces, ..item };
            self.lines.push(Line { item, rows });
        }
        let deal = Deal { blocks, rows, keys: tiling.keys, first_part: 0, parts: 1 };
        self.deal(deal, first, |_, _| {});
    }

    /// Deal keys that are shared, for the launch whose first items are `blocks` before those of
    /// single tokens, which are the list's last. What each chunk has in common is known then.
    fn share(
        &mut self,
        tiling: Tiling,
        chunks: &[BatchChunk],
        group: usize,
        blocks: usize,
        shared: &[SharedKeys],
    ) {
        let first = self.items.len() - 2 * blocks;
        self.lines.clear();
        // All rows of a sequence are in one tile.
        let sequences = abi::SHARED_ROWS as usize / group;
        let mut tiles: Vec<(usize, &[usize])> = Vec::new();
        for SharedKeys { keys, chunks } in shared {
            tiles.extend(chunks.chunks(sequences).map(|some| (*keys, some)));
        }
        tiles.truncate(MOST_SHARED_TILES);
        for &(keys, some) in &tiles {
            // Where it has no key before this one, for a window, nor has any of the others.
            let shortest = &chunks[some[0]];
            let rows = some.len() * group;
            let members = (self.items.len() - first) as u32;
            let item = WorkItem { members, ..item(shortest, 0, rows, 0..keys) };
            self.lines.push(Line { item, rows });

            let row = |&n: &usize| chunks[n].first as u32;
            let entry = |n| WorkItem { first_row: row(n), ..WorkItem::default() };
            self.items.extend(some.iter().map(entry));
        }

        let deal = Deal {
            blocks,
            rows: abi::SHARED_ROWS as usize,
            keys: tiling.keys,
            first_part: parts(blocks, true)[0],
            parts: PARTS_OF_SHARED,
        };
        let mut tiles = tiles.into_iter();
        let mut common = std::mem::take(&mut self.common);
        self.deal(deal, first, |part, pieces| {
            let Some((keys, some)) = tiles.next() else { return };
            for (n, &chunk) in some.iter().enumerate() {
                common[chunk] = Common { keys, part, row: (n * group) as u16, pieces };
            }
        });
        self.common = common;
    }

    /// Cut the keys of all lines among blocks, whose first items lie from `first` on. `parted`
    /// learns of each tile of rows that is in parts, in order, the first of them and their number.
    fn deal(&mut self, deal: Deal, first: usize, mut parted: impl FnMut(u32, u16)) {
        let lines = std::mem::take(&mut self.lines);
        let cost = least_cost(deal, &lines);
        // The block in hand, where its last item lies, and parts of the rows before these.
        let (mut current, mut last, mut parts) = (None, 0, 0);
        cut(deal, &lines, cost, |block, line, begin, keys| {
            let count = deal.rows.min(line.rows - begin);
            let end = keys.end;
            // What several sequences share is a part of each, even if a block has all of it.
            let whole = keys == line.keys() && line.item.members == 0;
            let mut item = WorkItem {
                begin: begin as u32,
                count: count as u32,
                keys_from: keys.start as u32,
                keys_to: keys.end as u32,
                ..line.item
            };
            let first_part = (deal.first_part + parts * deal.parts) as u32;
            if !whole {
                item.part = first_part;
                item.piece = self.pieces.len() as u16;
            }

            let mut at = first + block;
            if current == Some(block) {
                at = self.items.len();
                self.items[last].count += NEXT_ITEM * (at - first) as u32;
                self.items.push(item);
            } else {
                self.items[at] = item;
            }
            (current, last) = (Some(block), at);
            if whole {
                return;
            }

            self.pieces.push(at);
            if end == line.keys().end {
                // Now it is known how many pieces these rows have.
                let count = self.pieces.len();
                for at in self.pieces.drain(..) {
                    self.items[at].pieces = count as u16;
                }
                parts += count;
                parted(first_part, count as u16);
            }
        });
        self.lines = lines;
    }

    /// The tiles of prompts, for one block each or for two.
    fn cut_prompts<'a, S>(
        &mut self,
        tiling: Tiling,
        prompts: impl Fn() -> S,
        group: usize,
        keys_end: KeysEnd<'_>,
    ) where
        S: Iterator<Item = &'a BatchChunk>,
    {
        self.prompt_blocks = blocks_of_prompts(tiling, &prompts, group);
        let rows = self.prompt_blocks * tiling.prompt_rows;
        // Longest first: the last blocks to start are then short, and blocks that deal them among
        // themselves have as much each.
        for chunk in prompts() {
            let packed = chunk.tokens * group;
            for begin in (0..packed).step_by(rows).rev() {
                let count = rows.min(packed - begin);
                let last = chunk.position() + (begin + count - 1) / group;
                self.items.push(item(chunk, begin, count, 0..keys_end(chunk, last)));
            }
        }
        self.items.sort_by_key(|item| Reverse(item.keys_to));
        self.prompt_tiles = self.items.len();
    }
}

/// Whether a sequence's keys are cut among blocks: those of one token, and of few, each tile of
/// whose rows reads them anew.
fn is_split(chunk: &BatchChunk, group: usize, split_rows: usize) -> bool {
    let tiles = |tokens: usize| (tokens * group).div_ceil(split_rows);
    // As `Batch::decode` has it.
    let few = chunk.tokens <= 2 || chunk.tokens == chunk.logits;
    tiles(chunk.tokens) <= if few { FEW_TILES * tiles(1) } else { tiles(1) }
}

/// Blocks that take a tile of prompts together: two, where hardly any of them has no rows then.
fn blocks_of_prompts<'a, S>(tiling: Tiling, prompts: &impl Fn() -> S, group: usize) -> usize
where
    S: Iterator<Item = &'a BatchChunk>,
{
    // Keys that all blocks read of a head.
    let read = |blocks: usize| -> usize {
        let tiles = |rows: usize| rows.div_ceil(blocks * tiling.prompt_rows);
        prompts().map(|chunk| tiles(chunk.tokens * group) * blocks * chunk.length).sum()
    };
    let (alone, paired) = (read(1), read(2));
    if tiling.pairs && paired - alone <= alone / PAIRS_GAIN {
        2
    } else {
        1
    }
}

/// An item with all keys of its rows, and nothing behind it.
fn item(chunk: &BatchChunk, begin: usize, count: usize, keys: Range<usize>) -> WorkItem {
    WorkItem {
        slot: chunk.slot.0,
        first_row: chunk.first as u32,
        begin: begin as u32,
        count: count as u32,
        keys_from: keys.start as u32,
        keys_to: keys.end as u32,
        part: NO_PART,
        ..WorkItem::default()
    }
}

/// The least cost of the most expensive block with which the blocks suffice.
fn least_cost(deal: Deal, lines: &[Line]) -> usize {
    let of = |line: &Line| {
        let row_tiles = line.rows.div_ceil(deal.rows);
        row_tiles * (line.keys().len().div_ceil(deal.keys) + ITEM_COST_TILES)
    };
    let all: usize = lines.iter().map(of).sum();
    // Cuts cost little more than a block's share of everything, so this ends after a few rounds.
    (all.div_ceil(deal.blocks).max(ITEM_COST_TILES + 1)..)
        .find(|&cost| cut(deal, lines, cost, |_, _, _, _| {}) <= deal.blocks)
        .unwrap_or(all)
}

/// Deal the keys of lines to blocks of `cost` each: `item` gets the block, the line, the first
/// packed row of a tile, and its keys. Returns the number of blocks.
fn cut(
    deal: Deal,
    lines: &[Line],
    cost: usize,
    mut item: impl FnMut(usize, &Line, usize, Range<usize>),
) -> usize {
    let (mut block, mut room) = (0, cost);
    for line in lines {
        let end = line.keys().end;
        for begin in (0..line.rows).step_by(deal.rows) {
            let mut from = line.keys().start;
            while from < end {
                if room <= ITEM_COST_TILES {
                    (block, room) = (block + 1, cost);
                }
                let left = (end - from).div_ceil(deal.keys);
                let tiles = left.min(room - ITEM_COST_TILES);
                let to = end.min(from + tiles * deal.keys);
                item(block, line, begin, from..to);
                (from, room) = (to, room - ITEM_COST_TILES - tiles);
            }
        }
    }
    block + 1
}

#[cfg(test)]
#[path = "worklist_tests.rs"]
mod tests;
