//! The KV cache manager: which sequence holds which pages of the KV pool, and which pages can be
//! hit again by their content. Called by `scheduler` only. It never knows a device's memory, a step
//! or a request.
//!
//! Page ids are given out, shared and taken back at planning time. That is safe although the device
//! is still busy with earlier steps: a device runs steps in order, so whatever an earlier step
//! reads or writes in a page is over before the step that uses the page anew begins. See also
//! [`KvCacheManager::register`] for when a page may be hit.

mod pages;
mod prefix;
mod snapshots;

use std::sync::Arc;

use crate::ids::{AdapterId, GroupId, PageId, SnapshotId, TokenId};
use crate::plan::PromptImages;
use pages::{End, PagePool};
use prefix::{PageHash, PrefixCache, PrefixHasher};
use snapshots::Snapshots;

/// How large the pool is, and how it is used.
#[derive(Debug, Clone)]
pub struct KvConfig {
    /// Pages in the pool, the null page included.
    pub pages: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages of other sequences are hit by their content.
    pub prefix_caching: bool,
    /// Pages that admission leaves free as head room for what is running.
    pub watermark_pages: usize,
    /// For models that keep a state beside pages: how many copies of states the device keeps. Only
    /// behind a kept state can pages be hit.
    pub snapshots: Option<usize>,
}

/// The pages of one sequence in one group: position p lives in `pages()[p / page_size]`. The
/// entries never change, they are appended and at the end released all together.
#[derive(Debug)]
pub struct PageTable {
    group: GroupId,
    adapter: AdapterId,
    /// Of the prompt: the same tokens mean another page where they stand for another image.
    images: Option<Arc<PromptImages>>,
    pages: Vec<PageId>,
    /// Hash of each full page of the known tokens, as far as it was needed. Tokens of a sequence
    /// never change, so hashes outlive a preemption and each token is hashed once.
    hashes: Vec<PageHash>,
    /// Leading pages that were offered to the cache (or came from it).
    registered: usize,
    /// Admitted before: a second lookup after a preemption does not count in the hit rate.
    counted: bool,
}

impl PageTable {
    /// Of a sequence that holds no page yet. What it computes depends on `adapter`, so pages are
    /// shared between sequences of the same adapter only.
    pub fn new(group: GroupId, adapter: AdapterId) -> PageTable {
        PageTable {
            group,
            adapter,
            images: None,
            pages: Vec::new(),
            hashes: Vec::new(),
            registered: 0,
            counted: false,
        }
    }

    /// The same with these images in its prompt.
    pub fn with_images(self, images: Option<Arc<PromptImages>>) -> PageTable {
        PageTable { images, ..self }
    }

    /// The group whose layers these pages are for.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// In the order of positions.
    pub fn pages(&self) -> &[PageId] {
        &self.pages
    }

    /// Leading pages that hold the same in both, as far as their hashes are known. What one has of
    /// these the other can hit, once they are full.
    pub fn shared_pages(&self, other: &PageTable) -> usize {
        let both = self.hashes.len().min(other.hashes.len());
        let same = |page: usize| self.hashes[page] == other.hashes[page];
        if both == 0 || !same(0) {
            return 0;
        }
        // A hash stands for all pages before it too: behind two that differ, all do.
        let mut least = 1;
        let mut end = both;
        while least < end {
            let middle = least + (end - least) / 2;
            if same(middle) {
                least = middle + 1;
            } else {
                end = middle;
            }
        }
        least
    }
}

/// Tokens asked of the prefix cache and found there, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefixStats {
    /// Tokens of all sequences that were admitted.
    pub queries_tokens: u64,
    /// Of these, those whose pages were cached.
    pub hits_tokens: u64,
}

/// Who holds which page, and which pages can be hit again.
#[derive(Debug)]
pub struct KvCacheManager {
    config: KvConfig,
    pool: PagePool,
    hasher: PrefixHasher,
    cache: PrefixCache,
    snapshots: Option<Snapshots>,
    stats: PrefixStats,
}

impl KvCacheManager {
    /// An empty pool.
    ///
    /// # Panics
    /// A page size of 0, or a pool without a page beside the null page.
    pub fn new(config: KvConfig) -> KvCacheManager {
        assert!(config.page_size > 0, "page_size is 0");
        KvCacheManager {
            pool: PagePool::new(config.pages),
            hasher: PrefixHasher::new(),
            cache: PrefixCache::new(config.pages),
            snapshots: config.snapshots.map(Snapshots::new),
            stats: PrefixStats::default(),
            config,
        }
    }

    /// Cached pages that begin `tokens` (all that are known of the sequence). At most
    /// floor((tokens - 1) / page_size): the last token is always fed, for its logits. Where there
    /// are states, up to the last one that is kept.
    /// Takes nothing: the answer holds until the next call that changes the cache manager.
    pub fn lookup(&self, table: &mut PageTable, tokens: &[TokenId]) -> Vec<PageId> {
        assert!(table.pages.is_empty(), "a lookup for a sequence that holds pages");
        if !self.config.prefix_caching {
            return Vec::new();
        }
        let limit = tokens.len().saturating_sub(1) / self.config.page_size;
        self.hash_to(table, tokens, limit);
        let mut hits: Vec<PageId> =
            table.hashes[..limit].iter().map_while(|&hash| self.cache.get(hash)).collect();
        if let Some(snapshots) = &self.snapshots {
            let kept = table.hashes[..hits.len()].iter().rposition(|&h| snapshots.contains(h));
            hits.truncate(kept.map_or(0, |last| last + 1));
        }
        hits
    }

    /// Whether [`KvCacheManager::admit`] can give `positions` positions, the pages in `hits` among
    /// them; `headroom`: and leave the watermark free.
    pub fn fits(&self, hits: &[PageId], positions: usize, headroom: bool) -> bool {
        let idle_hits = hits.iter().filter(|&&page| self.pool.refs(page) == 0).count();
        let fresh = self.pages_for(positions).saturating_sub(hits.len());
        let watermark = if headroom { self.config.watermark_pages } else { 0 };
        fresh + idle_hits + watermark <= self.pool.free()
    }

    /// Give an empty table the pages of `hits` (from [`KvCacheManager::lookup`] of the same
    /// `tokens`). Returns the state behind them, where there are states.
    pub fn admit(
        &mut self,
        table: &mut PageTable,
        tokens: &[TokenId],
        hits: &[PageId],
    ) -> Option<SnapshotId> {
        assert!(table.pages.is_empty(), "a sequence that holds pages is admitted");
        for &page in hits {
            self.pool.share(page);
            table.pages.push(page);
        }
        table.registered = hits.len();
        if self.config.prefix_caching && !table.counted {
            table.counted = true;
            self.stats.queries_tokens += tokens.len() as u64;
            self.stats.hits_tokens += (hits.len() * self.config.page_size) as u64;
        }
        let last = *table.hashes.get(hits.len().checked_sub(1)?)?;
        self.snapshots.as_mut()?.hit(last)
    }

    /// A place for the state behind the first `positions` positions of the table, which are whole
    /// pages and registered. None: it is kept already, or none is.
    pub fn keep_state(&mut self, table: &PageTable, positions: usize) -> Option<SnapshotId> {
        let pages = positions / self.config.page_size;
        if pages > table.registered {
            return None;
        }
        let last = *table.hashes.get(pages.checked_sub(1)?)?;
        self.snapshots.as_mut()?.take(last)
    }

    /// Make the table reach `positions` positions; the new pages are at its end. False: there are
    /// not enough free pages, and nothing changed.
    pub fn grow(&mut self, table: &mut PageTable, positions: usize) -> bool {
        let fresh = self.pages_for(positions).saturating_sub(table.pages.len());
        if fresh > self.pool.free() {
            return false;
        }
        for _ in 0..fresh {
            let Some(page) = self.pool.take() else { unreachable!("free pages were counted") };
            self.cache.evict(page);
            table.pages.push(page);
        }
        true
    }

    /// Offer the table's full pages to the cache: those whose tokens are all known and whose
    /// `written` first positions belong to steps that were planned before any reader is. Readers
    /// run in later steps of the same device, hence after the writes, even if the writer is over by
    /// then.
    pub fn register(&mut self, table: &mut PageTable, tokens: &[TokenId], written: usize) {
        let full = written.min(tokens.len()) / self.config.page_size;
        if full <= table.registered || !self.config.prefix_caching {
            return;
        }
        self.hash_to(table, tokens, full);
        for index in table.registered..full {
            self.cache.insert(table.hashes[index], table.pages[index]);
        }
        table.registered = full;
    }

    /// Let nobody hit the table's pages any more: what is in them is not to be trusted. Those who
    /// share them keep them.
    pub fn forget(&mut self, table: &PageTable) {
        table.pages.iter().for_each(|&page| self.cache.evict(page));
        if let Some(snapshots) = &mut self.snapshots {
            table.hashes.iter().for_each(|&hash| snapshots.forget(hash));
        }
    }

    /// Take back all pages of a table. Tail first, so that of a chain the tail is evicted before
    /// the head, without which it could not be hit. Pages without a hash are given out next.
    pub fn release(&mut self, table: &mut PageTable) {
        for page in table.pages.drain(..).rev() {
            let cached = self.cache.contains_page(page);
            self.pool.release(page, if cached { End::Back } else { End::Front });
        }
        table.registered = 0;
    }

    /// Share of the pool that sequences hold, 0..=1. Cached pages that nobody holds count as free.
    pub fn usage(&self) -> f64 {
        1.0 - self.pool.free() as f64 / self.pool.capacity() as f64
    }

    /// How the prefix cache did since the start.
    pub fn stats(&self) -> PrefixStats {
        self.stats
    }

    /// Panics unless the cache manager agrees with itself and `tables` are all that hold pages.
    /// O(pages).
    pub fn check<'a>(&self, tables: impl Iterator<Item = &'a PageTable>) {
        let mut held = vec![0; self.config.pages];
        for page in tables.flat_map(|table| &table.pages) {
            held[page.index()] += 1;
        }
        assert_eq!(held[0], 0, "tables that hold the null page");
        self.pool.check(&held);
        self.cache.check();
        self.snapshots.iter().for_each(Snapshots::check);
    }

    fn pages_for(&self, positions: usize) -> usize {
        positions.div_ceil(self.config.page_size)
    }

    fn hash_to(&self, table: &mut PageTable, tokens: &[TokenId], pages: usize) {
        let size = self.config.page_size;
        while table.hashes.len() < pages {
            let parent = match table.hashes.last() {
                Some(&hash) => hash,
                None => self.hasher.root(table.group, table.adapter),
            };
            let start = table.hashes.len() * size;
            let end = start + size;
            let images = table.images.iter().flat_map(|images| images.overlapping(start..end));
            let images = images.map(|span| (span.start.wrapping_sub(start), span.patches.hash));
            let images = images.collect::<Vec<_>>();
            table.hashes.push(self.hasher.page(parent, &tokens[start..end], &images));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(pages: usize) -> KvCacheManager {
        KvCacheManager::new(KvConfig {
            pages,
            page_size: 4,
            prefix_caching: true,
            watermark_pages: 1,
            snapshots: None,
        })
    }

    fn table() -> PageTable {
        PageTable::new(GroupId(0), AdapterId(0))
    }

    fn tokens(count: u32) -> Vec<TokenId> {
        (0..count).map(TokenId).collect()
    }

    fn write(kv: &mut KvCacheManager, tokens: &[TokenId]) -> PageTable {
        let mut table = table();
        let hits = kv.lookup(&mut table, tokens);
        kv.admit(&mut table, tokens, &hits);
        assert!(kv.grow(&mut table, tokens.len()));
        kv.register(&mut table, tokens, tokens.len());
        table
    }

    #[test]
    fn a_hit_leaves_the_last_token_to_feed() {
        let mut kv = manager(8);
        let mut writer = write(&mut kv, &tokens(8));
        kv.release(&mut writer);
        assert_eq!(kv.usage(), 0.0);
        assert_eq!(kv.lookup(&mut table(), &tokens(8)), [PageId(1)]);
        assert_eq!(kv.lookup(&mut table(), &tokens(9)), [PageId(1), PageId(2)]);
        assert_eq!(kv.lookup(&mut table(), &tokens(4)), []);
        let mut other = PageTable::new(GroupId(0), AdapterId(7));
        assert_eq!(kv.lookup(&mut other, &tokens(9)), []);
    }

    #[test]
    fn pages_in_common_are_counted_by_their_hashes() {
        let kv = manager(8);
        let hashed = |tokens: &[TokenId]| {
            let mut table = table();
            kv.lookup(&mut table, tokens);
            table
        };
        let long = hashed(&tokens(41));
        for same in 0..=40 {
            let mut other = tokens(45);
            other[same] = TokenId(1000);
            let pages = hashed(&other).shared_pages(&long);
            assert_eq!(pages, same / 4, "{same} tokens alike");
            assert_eq!(long.shared_pages(&hashed(&other)), pages);
        }
        assert_eq!(long.shared_pages(&hashed(&tokens(9))), 2);
        assert_eq!(long.shared_pages(&table()), 0);
    }

    #[test]
    fn a_page_is_cached_when_it_is_written_and_its_tokens_are_known() {
        let mut kv = manager(8);
        let mut writer = table();
        assert!(kv.grow(&mut writer, 8));
        kv.register(&mut writer, &tokens(8), 3);
        assert_eq!(kv.lookup(&mut table(), &tokens(9)).len(), 0);
        kv.register(&mut writer, &tokens(7), 8);
        assert_eq!(kv.lookup(&mut table(), &tokens(9)).len(), 1);
        kv.register(&mut writer, &tokens(8), 8);
        assert_eq!(kv.lookup(&mut table(), &tokens(9)).len(), 2);
    }

    #[test]
    fn the_tail_of_a_chain_is_evicted_before_its_head() {
        let mut kv = manager(4);
        let mut writer = write(&mut kv, &tokens(12));
        kv.release(&mut writer);
        let mut stranger = table();
        assert!(kv.grow(&mut stranger, 4));
        assert_eq!(stranger.pages(), [PageId(3)]);
        assert_eq!(kv.lookup(&mut table(), &tokens(13)), [PageId(1), PageId(2)]);
        kv.check([&stranger].into_iter());
    }

    #[test]
    fn admission_counts_idle_hits_and_the_watermark() {
        let mut kv = manager(5);
        let mut writer = write(&mut kv, &tokens(8));
        let hits = kv.lookup(&mut table(), &tokens(9));
        assert!(kv.fits(&hits, 16, false), "2 shared, 2 fresh of 2 free");
        assert!(!kv.fits(&hits, 16, true), "the watermark is one page");
        assert!(!kv.fits(&hits, 17, false));
        kv.release(&mut writer);
        assert!(kv.fits(&hits, 16, false), "2 idle hits, 2 fresh of 4 free");
        assert!(!kv.fits(&hits, 17, false));
    }

    /// Pages alone are no hit where a state belongs to them.
    #[test]
    fn hits_end_at_the_last_state_that_is_kept() {
        let config = manager(8).config;
        let mut kv = KvCacheManager::new(KvConfig { snapshots: Some(1), ..config });
        let mut writer = write(&mut kv, &tokens(12));
        assert_eq!(kv.lookup(&mut table(), &tokens(13)), []);
        assert_eq!(kv.keep_state(&writer, 8), Some(SnapshotId(0)));
        assert_eq!(kv.keep_state(&writer, 8), None, "it is there");
        kv.release(&mut writer);

        let mut reader = table();
        let hits = kv.lookup(&mut reader, &tokens(13));
        assert_eq!(hits, [PageId(1), PageId(2)]);
        assert_eq!(kv.admit(&mut reader, &tokens(13), &hits), Some(SnapshotId(0)));
        assert_eq!(kv.lookup(&mut table(), &tokens(8)), [], "the last token is fed");
        kv.forget(&reader);
        assert_eq!(kv.lookup(&mut table(), &tokens(13)), []);
        kv.check([&reader].into_iter());
    }

    #[test]
    fn growing_is_all_or_nothing() {
        let mut kv = manager(4);
        let mut holder = table();
        assert!(!kv.grow(&mut holder, 13));
        assert_eq!(kv.usage(), 0.0);
        assert!(kv.grow(&mut holder, 12));
        assert_eq!(kv.usage(), 1.0);
        kv.check([&holder].into_iter());
    }

    #[test]
    fn forgotten_pages_are_hit_by_nobody_and_may_be_cached_anew() {
        let mut kv = manager(8);
        let mut writer = write(&mut kv, &tokens(8));
        let mut sharer = write(&mut kv, &tokens(9));
        assert_eq!(sharer.pages()[..2], writer.pages()[..]);
        kv.forget(&writer);
        kv.release(&mut writer);
        assert_eq!(kv.lookup(&mut table(), &tokens(9)), []);
        kv.check([&sharer].into_iter());
        let again = write(&mut kv, &tokens(8));
        assert_eq!(kv.lookup(&mut table(), &tokens(9)), again.pages());
        kv.release(&mut sharer);
        kv.check([&again].into_iter());
    }

    #[test]
    fn a_sequence_counts_once_in_the_hit_rate() {
        let mut kv = manager(8);
        let mut writer = write(&mut kv, &tokens(9));
        kv.release(&mut writer);
        let mut reader = write(&mut kv, &tokens(9));
        kv.release(&mut reader);
        let hits = kv.lookup(&mut reader, &tokens(9));
        kv.admit(&mut reader, &tokens(9), &hits);
        assert_eq!(kv.stats(), PrefixStats { queries_tokens: 18, hits_tokens: 8 });
    }
}
