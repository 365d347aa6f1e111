//! Work lists against what they stand for: every row meets its keys once.

use std::collections::BTreeMap;

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
    let lengths = [(1, 1), (1, 64), (1, 65), (1, 5000), (300, 300), (17, 900), (3, 12), (1, 131)];
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
                chunks.push(BatchChunk { logits: tokens, ..chunk(slot, first, tokens, length) });
                first += tokens;
            }
            let mut list = WorkList::default();
            list.make(tiling, &chunks, group, blocks, &causal, &[]);
            check(tiling, &list, &chunks, group, blocks);
        }
    }
}

/// The same where single tokens share keys: with more than fit a tile of rows, in groups, among
/// others that share nothing.
#[test]
fn shared_keys_are_met_once() {
    let lengths = [(1, 700), (1, 65), (300, 300), (1, 4100), (2, 900), (1, 129), (1, 800)];
    for (tiling, group) in [HEADS, PAIRS].into_iter().flat_map(|t| [1, 3, 4, 7, 16].map(|g| (t, g)))
    {
        for (blocks, more) in [(1, 0), (8, 20), (40, 2), (1000, 70), (33, 400)] {
            let mut first = 0;
            let mut chunks = Vec::new();
            let many = (0..more).map(|n| (1, 641 + n));
            for (slot, (tokens, length)) in lengths.into_iter().chain(many).enumerate() {
                chunks.push(chunk(slot, first, tokens, length));
                first += tokens;
            }
            let mut alike: Vec<usize> = [0, 6].into_iter().chain(7..7 + more).collect();
            alike.sort_by_key(|&n| chunks[n].length);
            let shared = [
                SharedKeys { keys: 128, chunks: vec![5, 3] },
                SharedKeys { keys: 640, chunks: alike },
            ];
            let mut list = WorkList::default();
            list.make(tiling, &chunks, group, blocks, &causal, &shared);
            assert!(list.shares);
            check(tiling, &list, &chunks, group, blocks);
            // Nothing is left of it.
            list.make(tiling, &chunks, group, blocks, &causal, &[]);
            assert!(!list.shares);
            check(tiling, &list, &chunks, group, blocks);
        }
    }
}

fn check(tiling: Tiling, list: &WorkList, chunks: &[BatchChunk], group: usize, blocks: usize) {
    let Tiling { prompt_rows, pairs, split_rows, .. } = tiling;
    assert!(list.prompt_blocks == 1 || pairs && list.prompt_blocks == 2);
    let (prompts, rest) = list.items.split_at(list.prompt_tiles);
    let mut seen = vec![vec![]; chunks.len()];
    let mut see = |chunk: usize, row: u32, item: &WorkItem| {
        assert!(item.keys_from < item.keys_to);
        seen[chunk].push((row as usize, item.keys_from as usize, item.keys_to as usize));
    };
    for item in prompts {
        let most = (prompt_rows * list.prompt_blocks) as u32;
        assert!((1..=most).contains(&item.count) && item.part == NO_PART && item.pieces == 0);
        (item.begin..item.begin + item.count).for_each(|row| see(item.slot as usize, row, item));
    }

    // Of each chunk the parts over shared keys: the first one, its row in them, their number.
    let mut common = BTreeMap::new();
    let shared = if list.shares { walk(rest, blocks) } else { Vec::new() };
    let [own_parts, shared_parts] = parts(blocks, list.shares);
    check_parts(&shared, own_parts, PARTS_OF_SHARED, shared_parts);
    for item in &shared {
        let count = item.count % NEXT_ITEM;
        assert!((1..=abi::SHARED_ROWS).contains(&count) && count.is_multiple_of(group as u32));
        assert!(item.begin == 0 && item.part != NO_PART);
        for row in 0..count as usize {
            let member = &rest[item.members as usize + row / group];
            let first = |chunk: &BatchChunk| chunk.first == member.first_row as usize;
            let chunk = chunks.iter().position(first).unwrap();
            see(chunk, (row % group) as u32, item);
            let parts = (item.part, (row / group * group) as u16, item.pieces);
            assert_eq!(*common.entry(chunk).or_insert(parts), parts);
            // None sees keys before those of the first one's window.
            assert!(chunks[chunk].length >= chunks[item.slot as usize].length);
        }
    }

    let singles = walk(&rest[if list.shares { blocks } else { 0 }..], blocks);
    let reached = shared.len() + singles.len();
    assert_eq!(reached, rest.iter().filter(|item| item.count != 0).count());
    check_parts(&singles, 0, 1, own_parts);
    for item in singles {
        let count = item.count % NEXT_ITEM;
        assert!((1..=split_rows as u32).contains(&count));
        let parts = common.get(&(item.slot as usize)).copied().unwrap_or_default();
        assert_eq!((item.shared, item.shared_row, item.shared_pieces), parts, "{item:?}");
        let whole = item.part == NO_PART;
        assert!(!whole || item.pieces == 0 && (item.keys_from == 0 || parts.2 > 0), "{item:?}");
        (item.begin..item.begin + count).for_each(|row| see(item.slot as usize, row, &item));
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

/// Every block's items, one after the other.
fn walk(items: &[WorkItem], blocks: usize) -> Vec<WorkItem> {
    let mut all = Vec::new();
    for block in 0..blocks {
        let mut at = block;
        while items.get(at).is_some_and(|item| item.count != 0) {
            all.push(items[at]);
            match (items[at].count / NEXT_ITEM) as usize {
                0 => break,
                next => at = next,
            }
        }
    }
    all
}

/// Parts follow each other without gaps from `first` on, each so many `apart`, at most `most`,
/// and each piece is there once.
fn check_parts(items: &[WorkItem], first: usize, apart: usize, most: usize) {
    let mut pieces_of = BTreeMap::new();
    for item in items.iter().filter(|item| item.part != NO_PART) {
        assert!(item.piece < item.pieces);
        pieces_of.entry(item.part).or_insert((item.pieces, vec![])).1.push(item.piece);
    }
    let mut next = first;
    for (part, (pieces, mut which)) in pieces_of {
        which.sort_unstable();
        assert_eq!((part as usize, which), (next, (0..pieces).collect()));
        next += apart * usize::from(pieces);
    }
    assert!(next <= first + most, "{next} parts");
}

/// Two blocks take tiles of prompts together unless many of them have no rows then.
#[test]
fn pairs_have_rows() {
    let blocks = |tiling: Tiling, lengths: &[(usize, usize)]| {
        let chunk = |(slot, &(tokens, length))| chunk(slot, 0, tokens, length);
        let chunks: Vec<BatchChunk> = lengths.iter().enumerate().map(chunk).collect();
        let mut list = WorkList::default();
        list.make(tiling, &chunks, 4, 40, &causal, &[]);
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
        list.make(HEADS, &[drafts], group, 40, &causal, &[]);
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
    let rows = HEADS.split_rows;
    let deal = Deal { blocks: 49, rows, keys: HEADS.keys, first_part: 0, parts: 1 };
    let line = |length| Line { item: item(&chunk(0, 0, 1, length), 0, 4, 0..length), rows: 4 };
    assert_eq!(least_cost(deal, &[line(529); 16]), ITEM_COST_TILES + 3);
    // A hundred short ones and a long one: nobody gets all the short ones.
    let mut lines = vec![line(20); 100];
    lines.push(line(64 * 500));
    let cost = least_cost(deal, &lines);
    let mut of_block = vec![0; 49];
    cut(deal, &lines, cost, |block, _, _, keys| {
        of_block[block] += ITEM_COST_TILES + keys.len().div_ceil(HEADS.keys);
    });
    let all: usize = of_block.iter().sum();
    assert!(of_block.iter().all(|&c| c <= cost) && cost * 49 < all + 49 * 2 * ITEM_COST_TILES);
}
