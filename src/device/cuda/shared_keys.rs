//! Which sequences of a step begin with the same pages: a system prompt, the turns of a chat so
//! far, a prompt with several answers. Pages are shared where the prefix cache gave them to several
//! sequences, so the same number at the same place of two tables is the same keys. `Cuda::begin`
//! asks each step; it knows page numbers and lengths, no kernel.

use crate::device::batch::BatchChunk;

/// Keys that sequences share are whole tiles of the kernel that reads them.
const TILE_KEYS: usize = super::abi::TILE_KEYS as usize;

/// Sequences of a step that have their first keys in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedKeys {
    /// So many, before the newest key of each.
    pub keys: usize,
    /// Indices of their chunks, at least two, those of shorter sequences first.
    pub chunks: Vec<usize>,
}

impl SharedKeys {
    /// Keys that are not read again by all but the first.
    pub fn saved(&self) -> usize {
        self.keys * (self.chunks.len() - 1)
    }
}

/// The sequences among `chunks`, of those that feed one token, that begin with the same pages of
/// `page_size` keys. Each is in one group at most: where some share more than others, with those
/// with whom the most is saved.
pub fn find<'a>(
    chunks: &[BatchChunk],
    page_size: usize,
    pages_of: impl Fn(&BatchChunk) -> &'a [u32],
) -> Vec<SharedKeys> {
    // Those that share anything share the pages of their first tile.
    let of_tile = TILE_KEYS.div_ceil(page_size);
    let begins = |(n, chunk): (usize, &BatchChunk)| {
        let single = chunk.tokens == 1 && chunk.position() >= TILE_KEYS;
        Some((pages_of(chunk).get(..of_tile).filter(|_| single)?, n))
    };
    let common_keys = |[a, b]: [&BatchChunk; 2]| {
        let pages = equal_pages(pages_of(a), pages_of(b));
        (pages * page_size).min(a.position()).min(b.position()) / TILE_KEYS * TILE_KEYS
    };
    let mut beginnings: Vec<(&[u32], usize)> =
        chunks.iter().enumerate().filter_map(begins).collect();
    beginnings.sort_unstable();

    let mut groups = Vec::new();
    for alike in beginnings.chunk_by(|a, b| a.0 == b.0) {
        let mut left: Vec<usize> = alike.iter().map(|&(_, n)| n).collect();
        while left.len() > 1 {
            let first = left[0];
            let common = |&other: &usize| (common_keys([first, other].map(|n| &chunks[n])), other);
            let mut others: Vec<(usize, usize)> = left[1..].iter().map(common).collect();
            others.sort_unstable_by(|a, b| b.cmp(a));

            // With the n-th of them, all before it have as much in common.
            let saved = |&n: &usize| others[n].0 * (n + 1);
            let last = (0..others.len()).max_by_key(saved).unwrap_or(0);
            let keys = others[last].0;
            let within = others.iter().take_while(|(common, _)| *common >= keys);
            let mut members: Vec<usize> =
                std::iter::once(first).chain(within.map(|&(_, n)| n)).collect();
            left.retain(|n| !members.contains(n));
            members.sort_unstable_by_key(|&n| (chunks[n].length, n));
            groups.push(SharedKeys { keys, chunks: members });
        }
    }
    groups
}

/// Pages at the beginning of both tables: of 128 000 positions 8000, for every sequence and step.
fn equal_pages(a: &[u32], b: &[u32]) -> usize {
    const AT_ONCE: usize = 64;
    let blocks = a.chunks_exact(AT_ONCE).zip(b.chunks_exact(AT_ONCE));
    let same = AT_ONCE * blocks.take_while(|(a, b)| a == b).count();
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SlotId;

    /// Sequences of one token each, of these lengths and pages of 16.
    fn find_in(sequences: &[(usize, &[u32])]) -> Vec<(usize, Vec<usize>)> {
        let chunk = |(n, &(length, _)): (usize, &(usize, &[u32]))| BatchChunk {
            slot: SlotId(n as u32),
            first: n,
            tokens: 1,
            length,
            known: None,
            first_logits: n,
            logits: 1,
        };
        let chunks: Vec<BatchChunk> = sequences.iter().enumerate().map(chunk).collect();
        let groups = find(&chunks, 16, |chunk| sequences[chunk.slot.index()].1);
        groups.into_iter().map(|group| (group.keys, group.chunks)).collect()
    }

    #[test]
    fn equal_beginnings_are_found() {
        let eight: Vec<u32> = (10..18).collect();
        let nine: Vec<u32> = (10..19).collect();
        // Whole tiles of four pages, of those that all see.
        let long = [eight.as_slice(), &[1, 2, 3]].concat();
        let other = [eight.as_slice(), &[7]].concat();
        assert_eq!(find_in(&[(176, &long), (144, &other)]), [(128, vec![1, 0])]);
        assert_eq!(find_in(&[(128, &eight), (144, &other)]), [(64, vec![0, 1])], "its own key");
        assert_eq!(find_in(&[(140, &nine), (139, &nine)]), [(128, vec![1, 0])]);
        // Nothing, too little, not from the beginning on.
        assert_eq!(find_in(&[(40, &[1, 2, 3]), (40, &[4, 2, 3])]), []);
        assert_eq!(find_in(&[(40, &[1, 2, 3]), (40, &[1, 2, 3])]), []);
        let moved = [&[9], &eight[1..], &[1, 2]].concat();
        assert_eq!(find_in(&[(160, &long), (160, &moved)]), []);
        assert_eq!(find_in(&[]), []);
    }

    /// Eleven with 4 pages in common, of which two share 8 more: less is saved by these. And two of
    /// four, by which more is.
    #[test]
    fn most_is_saved() {
        let deep: Vec<u32> = (10..22).collect();
        let shallow: Vec<Vec<u32>> =
            (0..9).map(|n| [&deep[..4], &[100 + n, 200 + n, 300 + n]].concat()).collect();
        let deeper = [deep.as_slice(), &[50]].concat();
        let of = |table: &'_ Vec<u32>| (table.len() * 16 - 3, table.clone());

        let all: Vec<_> =
            [of(&deep), of(&deeper)].into_iter().chain(shallow.iter().map(of)).collect();
        let all: Vec<_> = all.iter().map(|(n, pages)| (*n, pages.as_slice())).collect();
        let found = find_in(&all);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1.len()), (64, 11));

        let found =
            find_in(&[all[0], all[2], (200, &[deep.as_slice(), &[1, 2, 3, 4, 5]].concat())]);
        assert_eq!(found, [(64, vec![1, 0, 2])]);
        let much: Vec<u32> = (10..90).collect();
        let more = [much.as_slice(), &[5, 6]].concat();
        let some = [&much[..4], &[7, 8, 9]].concat();
        let less = [&much[..4], &[3, 4, 5]].concat();
        let found = find_in(&[(1280, &much), (1300, &more), (100, &some), (101, &less)]);
        assert_eq!(found, [(1216, vec![0, 1]), (64, vec![2, 3])]);
    }

    /// Prompts and drafts have kernels of their own.
    #[test]
    fn single_tokens_alone() {
        let chunk = |n: usize, tokens| BatchChunk {
            slot: SlotId(n as u32),
            first: 0,
            tokens,
            length: 200,
            known: None,
            first_logits: 0,
            logits: 1,
        };
        let pages: Vec<u32> = (1..14).collect();
        let of = |tokens: [usize; 3]| {
            let chunks: Vec<_> = (0..3).map(|n| chunk(n, tokens[n])).collect();
            find(&chunks, 16, |_| &pages).into_iter().map(|g| g.chunks).collect::<Vec<_>>()
        };
        assert_eq!(of([1, 2, 1]), [vec![0, 2]]);
        assert!(of([1, 2, 8]).is_empty());
    }
}
