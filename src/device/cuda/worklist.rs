//! The work list of paged attention on tensor cores: which tile of packed rows meets which keys.
//! `attention` has it made once a step and ships it with the step's input. It knows lengths, no
//! values and no card but for its number of blocks.
//!
//! Prompts become tiles of packed rows (tokens x the q heads of a KV head), those with most keys
//! first. A single token becomes a tile of at most 16 packed rows, a few tokens that all have
//! logits (drafts) some. All keys of all of those are laid in one line and cut among as many blocks
//! as the card holds at once, so that all of them end together whatever the lengths; a block walks
//! over its items, and the last block of a tile to finish joins the tile's parts.

use std::cmp::Reverse;
use std::ops::Range;

use super::abi::{self, WorkItem, NEXT_ITEM, NO_PART};
use crate::device::batch::BatchChunk;

// `count` of an item has room for them below the next item's number.
const _: () = assert!(abi::PROMPT_ROWS < NEXT_ITEM && abi::SPLIT_ROWS < NEXT_ITEM);
const _: () = assert!(abi::LATENT_MANY_ROWS < NEXT_ITEM);
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

/// Where the keys end that a token of a chunk sees, by its position. No later token's end before.
pub type KeysEnd<'a> = &'a dyn Fn(&BatchChunk, usize) -> usize;

/// Of texts: each token is the last one that it sees.
pub fn causal(_: &BatchChunk, position: usize) -> usize {
    position + 1
}

/// The work list of a step: chunk tiles; then, if there are single tokens, the first item
/// of each block of the split kernel, empty where it has none, and the items that follow them.
#[derive(Default)]
pub struct WorkList {
    pub items: Vec<WorkItem>,
    /// Tiles of prompts.
    pub prompt_tiles: usize,
    /// Blocks that take each of them together.
    pub prompt_blocks: usize,
    /// There are single tokens.
    pub split: bool,
    /// Where the items of the packed rows in hand lie.
    pieces: Vec<usize>,
}

impl WorkList {
    /// Make the list of a step with `group` q heads per KV head, for `blocks` blocks of the split
    /// kernel per KV head.
    pub fn make(
        &mut self,
        tiling: Tiling,
        chunks: &[BatchChunk],
        group: usize,
        blocks: usize,
        keys_end: KeysEnd<'_>,
    ) {
        self.items.clear();
        let split_rows = tiling.split_rows;
        let single = |chunk: &&BatchChunk| is_split(chunk, group, split_rows);
        self.cut_prompts(tiling, || chunks.iter().filter(|s| !single(s)), group, keys_end);

        let tokens = || chunks.iter().filter(single);
        self.split = tokens().next().is_some();
        if !self.split {
            return;
        }
        let cost = least_cost(tiling, tokens, group, blocks);
        let first = self.items.len();
        self.items.resize(first + blocks, WorkItem::default());
        // The block in hand, where its last item lies, and parts of the rows before these.
        let (mut current, mut last, mut parts) = (None, 0, 0);
        cut(tiling, tokens(), group, cost, |block, chunk, begin, keys| {
            let count = split_rows.min(chunk.tokens * group - begin);
            let end = keys.end;
            let whole = keys == (0..chunk.length);
            let mut item = item(chunk, begin, count, keys);
            if !whole {
                item.part = parts as u32;
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
            if end == chunk.length {
                // Now it is known how many pieces these rows have.
                let count = self.pieces.len();
                for at in self.pieces.drain(..) {
                    self.items[at].pieces = count as u16;
                }
                parts += count;
            }
        });
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
        piece: 0,
        pieces: 0,
    }
}

/// The least cost of the most expensive block with which `blocks` suffice.
fn least_cost<'a, S>(tiling: Tiling, singles: impl Fn() -> S, group: usize, blocks: usize) -> usize
where
    S: Iterator<Item = &'a BatchChunk>,
{
    let of = |chunk: &BatchChunk| {
        let row_tiles = (chunk.tokens * group).div_ceil(tiling.split_rows);
        row_tiles * (chunk.length.div_ceil(tiling.keys) + ITEM_COST_TILES)
    };
    let all: usize = singles().map(of).sum();
    // Cuts cost little more than a block's share of everything, so this ends after a few rounds.
    (all.div_ceil(blocks).max(ITEM_COST_TILES + 1)..)
        .find(|&cost| cut(tiling, singles(), group, cost, |_, _, _, _| {}) <= blocks)
        .unwrap_or(all)
}

/// Deal the keys of single tokens to blocks of `cost` each: `item` gets the block, the chunk, the
/// first of at most SPLIT_ROWS packed rows, and its keys. Returns the number of blocks.
fn cut<'a>(
    tiling: Tiling,
    singles: impl Iterator<Item = &'a BatchChunk>,
    group: usize,
    cost: usize,
    mut item: impl FnMut(usize, &BatchChunk, usize, Range<usize>),
) -> usize {
    let (mut block, mut room) = (0, cost);
    for chunk in singles {
        for begin in (0..chunk.tokens * group).step_by(tiling.split_rows) {
            let mut from = 0;
            while from < chunk.length {
                if room <= ITEM_COST_TILES {
                    (block, room) = (block + 1, cost);
                }
                let left = (chunk.length - from).div_ceil(tiling.keys);
                let tiles = left.min(room - ITEM_COST_TILES);
                let to = chunk.length.min(from + tiles * tiling.keys);
                item(block, chunk, begin, from..to);
                (from, room) = (to, room - ITEM_COST_TILES - tiles);
            }
        }
    }
    block + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SlotId;

    const HEADS: Tiling = Tiling::HEADS;
    /// Of latent vectors.
    const MANY: Tiling = Tiling { prompt_rows: 64, pairs: false, split_rows: 64, keys: 32 };
    /// Of heads whose keys two blocks can read together.
    const PAIRS: Tiling = Tiling { pairs: true, ..HEADS };

    fn chunk(slot: usize, first: usize, tokens: usize, length: usize) -> BatchChunk {
        let slot = SlotId(slot as u32);
        BatchChunk { slot, first, tokens, length, known: None, first_logits: 0, logits: 0 }
    }

    /// Every packed row of every chunk meets each of its keys exactly once, and parts are within
    /// bounds.
    #[test]
    fn tiles_cover_rows_and_keys_once() {
        let lengths =
            [(1, 1), (1, 64), (1, 65), (1, 5000), (300, 300), (17, 900), (3, 12), (1, 131)];
        let tilings = |group| [(HEADS, group), (MANY, group), (PAIRS, group)];
        for (tiling, group) in [1, 3, 4, 7, 20, 32, 128].into_iter().flat_map(tilings) {
            for blocks in [1, 8, 40, 1000] {
                let mut first = 0;
                let mut chunks = Vec::new();
                for (slot, &(tokens, length)) in lengths.iter().enumerate() {
                    chunks.push(chunk(slot, first, tokens, length));
                    first += tokens;
                }
                // With drafts, of which all have logits.
                for (tokens, length) in [(2, 70), (4, 900), (5, 4000), (8, 8), (65, 300)] {
                    let slot = chunks.len();
                    chunks
                        .push(BatchChunk { logits: tokens, ..chunk(slot, first, tokens, length) });
                    first += tokens;
                }
                let mut list = WorkList::default();
                list.make(tiling, &chunks, group, blocks, &causal);
                check(tiling, &list, &chunks, group, blocks);
            }
        }
    }

    fn check(tiling: Tiling, list: &WorkList, chunks: &[BatchChunk], group: usize, blocks: usize) {
        let Tiling { prompt_rows, pairs, split_rows, .. } = tiling;
        assert!(list.prompt_blocks == 1 || pairs && list.prompt_blocks == 2);
        let prompt_rows = prompt_rows * list.prompt_blocks;
        let (prompts, rest) = list.items.split_at(list.prompt_tiles);
        // Every block's items, one after the other: all items of the list that are not empty.
        let mut splits = Vec::new();
        for block in 0..blocks {
            let mut at = block;
            while rest[at].count != 0 {
                splits.push(&rest[at]);
                match (rest[at].count / NEXT_ITEM) as usize {
                    0 => break,
                    next => at = next,
                }
            }
        }
        assert_eq!(splits.len(), rest.iter().filter(|item| item.count != 0).count());
        let mut seen = vec![vec![]; chunks.len()];
        let mut pieces_of = std::collections::BTreeMap::new();
        for (n, item) in prompts.iter().chain(splits).enumerate() {
            let (count, most) = match n < list.prompt_tiles {
                true => (item.count, prompt_rows),
                false => (item.count % NEXT_ITEM, split_rows),
            };
            assert!((1..=most as u32).contains(&count));
            assert!(item.keys_from < item.keys_to);
            if item.part == NO_PART {
                assert!(item.pieces == 0 && item.piece == 0 && item.keys_from == 0, "{item:?}");
            } else {
                let parts = item.part as usize + usize::from(item.pieces);
                assert!(item.piece < item.pieces && parts <= PARTS_PER_BLOCK * blocks);
                pieces_of.entry(item.part).or_insert((item.pieces, vec![])).1.push(item.piece);
            }
            for row in item.begin..item.begin + count {
                let keys = (item.keys_from as usize, item.keys_to as usize);
                seen[item.slot as usize].push((row as usize, keys.0, keys.1));
            }
        }
        // Parts follow each other without gaps, and each piece is there once.
        let mut next = 0;
        for (first, (pieces, mut which)) in pieces_of {
            which.sort_unstable();
            assert_eq!((first, which), (next, (0..pieces).collect()));
            next += u32::from(pieces);
        }
        for (chunk, seen) in chunks.iter().zip(&mut seen) {
            seen.sort_unstable();
            for row in 0..chunk.tokens * group {
                let position = chunk.length - chunk.tokens + row / group;
                let mut next = 0;
                for &(_, from, to) in seen.iter().filter(|(r, ..)| *r == row) {
                    assert_eq!(from, next, "{chunk:?} row {row}");
                    next = to;
                }
                assert!(next > position && next <= chunk.length, "{chunk:?} row {row} to {next}");
            }
        }
    }

    /// Two blocks take tiles of prompts together unless many of them have no rows then.
    #[test]
    fn pairs_have_rows() {
        let blocks = |tiling: Tiling, lengths: &[(usize, usize)]| {
            let chunk = |(slot, &(tokens, length))| chunk(slot, 0, tokens, length);
            let chunks: Vec<BatchChunk> = lengths.iter().enumerate().map(chunk).collect();
            let mut list = WorkList::default();
            list.make(tiling, &chunks, 4, 40, &causal);
            (list.prompt_blocks, list.prompt_tiles)
        };
        assert_eq!(blocks(HEADS, &[(4096, 4096)]), (1, 128));
        assert_eq!(blocks(PAIRS, &[(4096, 4096)]), (2, 64));
        // 31 tiles of rows, 33, 3.
        assert_eq!(blocks(PAIRS, &[(31 * 32, 4096)]), (1, 31));
        assert_eq!(blocks(PAIRS, &[(33 * 32, 4096)]), (2, 17));
        assert_eq!(blocks(PAIRS, &[(70, 70); 33]), (1, 3 * 33));
        // A long context counts as much as it is read.
        assert_eq!(blocks(PAIRS, &[(4096, 4096), (30, 100_000)]), (1, 129));
        assert_eq!(blocks(PAIRS, &[(4096, 4096), (30, 30)]), (2, 65));
        // Single tokens have lists of their own.
        assert_eq!(blocks(PAIRS, &[(4096, 4096), (1, 100_000)]), (2, 64));
    }

    /// Few rows of a sequence are no tiles of prompts if all of them have logits, or are two.
    #[test]
    fn drafts_go_with_single_tokens() {
        let prompts = |group: usize, tokens: usize, logits: usize| {
            let mut list = WorkList::default();
            let drafts = BatchChunk { logits, ..chunk(0, 0, tokens, 900) };
            list.make(HEADS, &[drafts], group, 40, &causal);
            assert_eq!(list.split, list.prompt_tiles == 0);
            list.prompt_tiles
        };
        assert_eq!((prompts(4, 4, 1), prompts(4, 5, 1)), (0, 1), "one tile of rows");
        assert_eq!((prompts(4, 16, 16), prompts(4, 17, 17)), (0, 1), "four");
        assert_eq!((prompts(20, 6, 6), prompts(20, 7, 7)), (0, 2), "four of those of a token");
        assert_eq!((prompts(16, 2, 1), prompts(16, 3, 1)), (0, 1));
    }

    /// Sixteen streams of nine tiles on a card that holds 49 blocks a head: three tiles each.
    #[test]
    fn blocks_end_together() {
        let single = |slot| chunk(slot, slot, 1, 529);
        let chunks: Vec<BatchChunk> = (0..16).map(single).collect();
        assert_eq!(least_cost(HEADS, || chunks.iter(), 4, 49), ITEM_COST_TILES + 3);
        // A hundred short ones and a long one: nobody gets all the short ones.
        let mut chunks: Vec<BatchChunk> =
            (0..100).map(|slot| BatchChunk { length: 20, ..single(slot) }).collect();
        chunks.push(BatchChunk { length: 64 * 500, ..single(100) });
        let cost = least_cost(HEADS, || chunks.iter(), 4, 49);
        let mut of_block = vec![0; 49];
        cut(HEADS, chunks.iter(), 4, cost, |block, _, _, keys| {
            of_block[block] += ITEM_COST_TILES + keys.len().div_ceil(HEADS.keys);
        });
        let all: usize = of_block.iter().sum();
        assert!(of_block.iter().all(|&c| c <= cost) && cost * 49 < all + 49 * 2 * ITEM_COST_TILES);
    }
}
