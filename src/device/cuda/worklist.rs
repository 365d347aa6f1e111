//! The work list of paged attention on tensor cores: which tile of packed rows meets which keys.
//! `attention` has it made once a step and ships it with the step's input;
//! kernels/attention_mma.cuh says what the words mean. It knows lengths, no values and no card but
//! for its number of blocks.
//!
//! Prompts become tiles of 128 packed rows (tokens x the q heads of a KV head), longest first. A
//! single token becomes a tile of at most 16 packed rows. All keys of all single tokens are laid in
//! one line and cut among as many blocks as the card holds at once, so that all of them end
//! together whatever the lengths; a block walks over its items, and the last block of a sequence to
//! finish joins the sequence's parts.

use crate::device::batch::BatchChunk;

/// As in kernels/attention_mma.cuh, attention_mma.cu and attention_prefill_sm90.cu.
pub const ITEM_WORDS: usize = 8;
pub const PROMPT_ROWS: usize = 128;
pub const SPLIT_ROWS: usize = 16;
pub const TILE_KEYS: usize = 64;
const NO_PART: u32 = u32::MAX;
/// The word with the number of packed rows, and above them where the block's next item lies.
const ITEM_COUNT: usize = 3;
const NEXT_SHIFT: u32 = 8;
/// What an item of the split kernel costs beside its tiles of keys, in tiles: load q, look up the
/// first pages, wait for them, merge.
const ITEM_COST_TILES: usize = 2;
/// Parts that a block of the split kernel can leave: what it begins with and what it ends with.
pub const PARTS_PER_BLOCK: usize = 2;

/// The work list of a step, in words: chunk tiles; then, if there are single tokens, the first item
/// of each block of the split kernel, empty where it has none, and the items that follow them.
#[derive(Default)]
pub struct WorkList {
    pub words: Vec<u32>,
    /// Tiles of prompts.
    pub prompt_tiles: usize,
    /// There are single tokens.
    pub split: bool,
    /// Where the items of the packed rows in hand lie.
    pieces: Vec<usize>,
}

impl WorkList {
    /// Make the list of a step with `group` q heads per KV head, for `blocks` blocks of the split
    /// kernel per KV head.
    pub fn make(&mut self, chunks: &[BatchChunk], group: usize, blocks: usize) {
        self.words.clear();
        let single = |chunk: &&BatchChunk| chunk.tokens * group <= SPLIT_ROWS || chunk.tokens == 1;
        self.prompt_tiles = 0;
        // Longest first: the last blocks to start are then short.
        for chunk in chunks.iter().filter(|s| !single(s)) {
            let packed = chunk.tokens * group;
            for begin in (0..packed).step_by(PROMPT_ROWS).rev() {
                let count = PROMPT_ROWS.min(packed - begin);
                let keys = chunk.length - chunk.tokens + (begin + count - 1) / group + 1;
                self.words.extend(item(chunk, begin, count, [0, keys], None));
                self.prompt_tiles += 1;
            }
        }
        let tokens = || chunks.iter().filter(single);
        self.split = tokens().next().is_some();
        if !self.split {
            return;
        }
        let cost = least_cost(tokens, group, blocks);
        let first = self.words.len();
        self.words.resize(first + ITEM_WORDS * blocks, 0);
        // The block in hand, and where its last item lies.
        let (mut current, mut last, mut parts) = (None, 0, 0);
        cut(tokens(), group, cost, |block, chunk, begin, [from, to]| {
            let count = SPLIT_ROWS.min(chunk.tokens * group - begin);
            let whole = from == 0 && to == chunk.length;
            let at = match current == Some(block) {
                true => self.words.len(),
                false => first + ITEM_WORDS * block,
            };
            if current == Some(block) {
                let next = ((at - first) / ITEM_WORDS) as u32;
                self.words[last + ITEM_COUNT] |= next << NEXT_SHIFT;
                self.words.resize(at + ITEM_WORDS, 0);
            }
            (current, last) = (Some(block), at);
            let part = (!whole).then_some([parts, self.pieces.len()]);
            let item = item(chunk, begin, count, [from, to], part);
            self.words[at..at + ITEM_WORDS].copy_from_slice(&item);
            if whole {
                return;
            }
            self.pieces.push(at);
            if to == chunk.length {
                // Now it is known how many pieces these rows have.
                let count = self.pieces.len();
                for at in self.pieces.drain(..) {
                    self.words[at + ITEM_WORDS - 1] |= (count << 16) as u32;
                }
                parts += count;
            }
        });
    }
}

/// `part`: the first part of these rows, and which this one is; how many there are comes later.
fn item(
    chunk: &BatchChunk,
    begin: usize,
    count: usize,
    keys: [usize; 2],
    part: Option<[usize; 2]>,
) -> [u32; ITEM_WORDS] {
    let [first, begin, count] = [chunk.first, begin, count].map(|n| n as u32);
    let [from, to] = keys.map(|n| n as u32);
    let [part, piece] = part.map_or([NO_PART, 0], |part| part.map(|n| n as u32));
    [chunk.slot.0, first, begin, count, from, to, part, piece]
}

/// The least cost of the most expensive block with which `blocks` suffice.
fn least_cost<'a, S>(singles: impl Fn() -> S, group: usize, blocks: usize) -> usize
where
    S: Iterator<Item = &'a BatchChunk>,
{
    let of = |chunk: &BatchChunk| {
        let row_tiles = (chunk.tokens * group).div_ceil(SPLIT_ROWS);
        row_tiles * (chunk.length.div_ceil(TILE_KEYS) + ITEM_COST_TILES)
    };
    let all: usize = singles().map(of).sum();
    // Cuts cost little more than a block's share of everything, so this ends after a few rounds.
    (all.div_ceil(blocks).max(ITEM_COST_TILES + 1)..)
        .find(|&cost| cut(singles(), group, cost, |_, _, _, _| {}) <= blocks)
        .unwrap_or(all)
}

/// Deal the keys of single tokens to blocks of `cost` each: `item` gets the block, the chunk, the
/// first of at most SPLIT_ROWS packed rows, and keys from and to. Returns the number of blocks.
fn cut<'a>(
    singles: impl Iterator<Item = &'a BatchChunk>,
    group: usize,
    cost: usize,
    mut item: impl FnMut(usize, &BatchChunk, usize, [usize; 2]),
) -> usize {
    let (mut block, mut room) = (0, cost);
    for chunk in singles {
        for begin in (0..chunk.tokens * group).step_by(SPLIT_ROWS) {
            let mut from = 0;
            while from < chunk.length {
                if room <= ITEM_COST_TILES {
                    (block, room) = (block + 1, cost);
                }
                let left = (chunk.length - from).div_ceil(TILE_KEYS);
                let tiles = left.min(room - ITEM_COST_TILES);
                let to = chunk.length.min(from + tiles * TILE_KEYS);
                item(block, chunk, begin, [from, to]);
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
        for group in [1, 3, 4, 7, 32] {
            for blocks in [1, 8, 40, 1000] {
                let mut first = 0;
                let mut chunks = Vec::new();
                for (slot, &(tokens, length)) in lengths.iter().enumerate() {
                    chunks.push(chunk(slot, first, tokens, length));
                    first += tokens;
                }
                let mut list = WorkList::default();
                list.make(&chunks, group, blocks);
                check(&list, &chunks, group, blocks);
            }
        }
    }

    fn check(list: &WorkList, chunks: &[BatchChunk], group: usize, blocks: usize) {
        let (prompts, rest) = list.words.split_at(list.prompt_tiles * ITEM_WORDS);
        // Every block's items, one after the other: all items of the list that are not empty.
        let items: Vec<&[u32]> = rest.chunks_exact(ITEM_WORDS).collect();
        let mut splits = Vec::new();
        for block in 0..blocks {
            let mut at = block;
            while items[at][ITEM_COUNT] != 0 {
                splits.push(items[at]);
                match (items[at][ITEM_COUNT] >> NEXT_SHIFT) as usize {
                    0 => break,
                    next => at = next,
                }
            }
        }
        assert_eq!(splits.len(), items.iter().filter(|item| item[ITEM_COUNT] != 0).count());
        let mut seen = vec![vec![]; chunks.len()];
        let mut pieces_of = std::collections::BTreeMap::new();
        for (n, item) in prompts.chunks_exact(ITEM_WORDS).chain(splits).enumerate() {
            let most = if n < list.prompt_tiles { PROMPT_ROWS } else { SPLIT_ROWS };
            let count = item[ITEM_COUNT] % (1 << NEXT_SHIFT);
            assert!((1..=most as u32).contains(&count));
            assert!(item[4] < item[5]);
            if item[6] == NO_PART {
                assert!(item[7] == 0 && item[4] == 0, "{item:?}");
            } else {
                let (pieces, piece) = (item[7] >> 16, item[7] & 0xffff);
                assert!(piece < pieces && (item[6] + pieces) as usize <= PARTS_PER_BLOCK * blocks);
                pieces_of.entry(item[6]).or_insert((pieces, vec![])).1.push(piece);
            }
            for row in item[2]..item[2] + count {
                seen[item[0] as usize].push((row as usize, item[4] as usize, item[5] as usize));
            }
        }
        // Parts follow each other without gaps, and each piece is there once.
        let mut next = 0;
        for (first, (pieces, mut which)) in pieces_of {
            which.sort_unstable();
            assert_eq!((first, which), (next, (0..pieces).collect()));
            next += pieces;
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

    /// Sixteen streams of nine tiles on a card that holds 49 blocks a head: three tiles each.
    #[test]
    fn blocks_end_together() {
        let single = |slot| chunk(slot, slot, 1, 529);
        let chunks: Vec<BatchChunk> = (0..16).map(single).collect();
        assert_eq!(least_cost(|| chunks.iter(), 4, 49), ITEM_COST_TILES + 3);
        // A hundred short ones and a long one: nobody gets all the short ones.
        let mut chunks: Vec<BatchChunk> =
            (0..100).map(|slot| BatchChunk { length: 20, ..single(slot) }).collect();
        chunks.push(BatchChunk { length: 64 * 500, ..single(100) });
        let cost = least_cost(|| chunks.iter(), 4, 49);
        let mut of_block = vec![0; 49];
        cut(chunks.iter(), 4, cost, |block, _, _, [from, to]| {
            of_block[block] += ITEM_COST_TILES + (to - from).div_ceil(TILE_KEYS);
        });
        let all: usize = of_block.iter().sum();
        assert!(of_block.iter().all(|&c| c <= cost) && cost * 49 < all + 49 * 2 * ITEM_COST_TILES);
    }
}
