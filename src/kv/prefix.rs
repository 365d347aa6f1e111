//! Which page holds which prefix. A full page is known by a chained hash: of everything before it,
//! and of its own tokens. Called by the cache manager; it knows nothing of who holds a page or how
//! long.

use std::collections::hash_map::{DefaultHasher, Entry, HashMap, RandomState};
use std::hash::{BuildHasher, Hasher};

use crate::ids::{AdapterId, GroupId, PageId, TokenId};

/// Names the tokens 0..=end of a page, under one adapter and one group. 128 bits under a key that
/// is drawn in each process: two prefixes of n pages in all collide with probability about n^2 /
/// 2^129, and nobody outside can search for a pair, so equal hashes are taken for equal tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PageHash(u64, u64);

/// The keyed hash: std's SipHash under two keys.
#[derive(Debug)]
pub(super) struct PrefixHasher {
    halves: [RandomState; 2],
    /// `RandomState`s made on one thread have neighbouring keys; this sets the halves further
    /// apart.
    salt: u64,
}

impl PrefixHasher {
    pub(super) fn new() -> PrefixHasher {
        let salt = RandomState::new().build_hasher().finish();
        PrefixHasher { halves: [RandomState::new(), RandomState::new()], salt }
    }

    /// What stands before the first page: K and V depend on the adapter, page ids on the group.
    /// They depend on the type and the scales of pages too, but these are the same in all pages of
    /// an engine, and a cache serves no other engine.
    pub(super) fn root(&self, group: GroupId, adapter: AdapterId) -> PageHash {
        self.both(|hasher| {
            hasher.write_u8(group.0);
            hasher.write_u16(adapter.0);
        })
    }

    /// The page that holds `tokens` and follows `parent`. `images`: those that some of the tokens
    /// stand for, each by its hash and by where it begins, counted from the page's first token.
    pub(super) fn page(
        &self,
        parent: PageHash,
        tokens: &[TokenId],
        images: &[(usize, [u8; 32])],
    ) -> PageHash {
        self.both(|hasher| {
            hasher.write_u64(parent.0);
            hasher.write_u64(parent.1);
            for token in tokens {
                hasher.write_u32(token.0);
            }
            for (start, hash) in images {
                hasher.write_usize(*start);
                hasher.write(hash);
            }
        })
    }

    fn both(&self, feed: impl Fn(&mut DefaultHasher)) -> PageHash {
        let [mut low, mut high] = self.halves.each_ref().map(RandomState::build_hasher);
        high.write_u64(self.salt);
        feed(&mut low);
        feed(&mut high);
        PageHash(low.finish(), high.finish())
    }
}

/// The pages that can be hit. If two sequences computed the same page, the first one is kept here
/// and the other is an ordinary page: tables never change, so there is nothing to merge.
#[derive(Debug)]
pub(super) struct PrefixCache {
    /// Only looked up, never iterated: its order is not the same in two runs.
    by_hash: HashMap<PageHash, PageId>,
    by_page: Vec<Option<PageHash>>,
}

impl PrefixCache {
    pub(super) fn new(pages: usize) -> PrefixCache {
        PrefixCache { by_hash: HashMap::with_capacity(pages), by_page: vec![None; pages] }
    }

    pub(super) fn get(&self, hash: PageHash) -> Option<PageId> {
        self.by_hash.get(&hash).copied()
    }

    pub(super) fn contains_page(&self, page: PageId) -> bool {
        self.by_page[page.index()].is_some()
    }

    pub(super) fn insert(&mut self, hash: PageHash, page: PageId) {
        assert!(!self.contains_page(page), "page {page} is cached under another hash");
        if let Entry::Vacant(entry) = self.by_hash.entry(hash) {
            entry.insert(page);
            self.by_page[page.index()] = Some(hash);
        }
    }

    /// The page gets other content.
    pub(super) fn evict(&mut self, page: PageId) {
        if let Some(hash) = self.by_page[page.index()].take() {
            self.by_hash.remove(&hash);
        }
    }

    /// Panics unless both directions agree.
    pub(super) fn check(&self) {
        let mut cached = 0;
        for (page, hash) in self.by_page.iter().enumerate() {
            let Some(hash) = hash else { continue };
            cached += 1;
            assert_eq!(self.get(*hash).map(PageId::index), Some(page), "page {page}: its hash");
        }
        assert_eq!(cached, self.by_hash.len(), "cached pages");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().copied().map(TokenId).collect()
    }

    #[test]
    fn a_hash_says_everything_that_keys_a_page() {
        let hasher = PrefixHasher::new();
        let root = hasher.root(GroupId(0), AdapterId(0));
        let first = hasher.page(root, &tokens(&[1, 2]), &[]);
        assert_eq!(first, hasher.page(root, &tokens(&[1, 2]), &[]));
        let others = [
            hasher.page(root, &tokens(&[2, 1]), &[]),
            hasher.page(first, &tokens(&[1, 2]), &[]),
            hasher.page(hasher.root(GroupId(0), AdapterId(1)), &tokens(&[1, 2]), &[]),
            hasher.page(hasher.root(GroupId(1), AdapterId(0)), &tokens(&[1, 2]), &[]),
            PrefixHasher::new().page(root, &tokens(&[1, 2]), &[]),
            hasher.page(root, &tokens(&[1, 2]), &[(0, [1; 32])]),
        ];
        let image = hasher.page(root, &tokens(&[1, 2]), &[(0, [1; 32])]);
        let here = hasher.page(root, &tokens(&[1, 2]), &[(1, [1; 32])]);
        let other = hasher.page(root, &tokens(&[1, 2]), &[(0, [2; 32])]);
        assert!(image != here && image != other, "an image, and where in it");
        for other in others {
            assert!(other.0 != first.0 && other.1 != first.1);
        }
        assert_ne!(first.0, first.1, "the halves are two hashes, not one twice");
    }

    #[test]
    fn the_first_page_of_a_hash_wins_until_it_is_evicted() {
        let hasher = PrefixHasher::new();
        let hash = hasher.root(GroupId(0), AdapterId(0));
        let mut cache = PrefixCache::new(4);
        cache.insert(hash, PageId(2));
        cache.insert(hash, PageId(3));
        cache.check();
        assert_eq!(cache.get(hash), Some(PageId(2)));
        assert!(!cache.contains_page(PageId(3)));
        cache.evict(PageId(3));
        assert_eq!(cache.get(hash), Some(PageId(2)));
        cache.evict(PageId(2));
        assert_eq!(cache.get(hash), None);
        cache.check();
    }
}
