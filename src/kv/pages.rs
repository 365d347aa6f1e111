//! The pool of page ids: how many sequences hold each page, and the order in which pages that
//! nobody holds are given out. Called by the cache manager; it knows neither tokens nor hashes, and
//! a page is a number here: its memory belongs to a device.

use crate::ids::PageId;

/// Page 0: padding on the device. It is never given out, so here its links are the ends of the
/// list.
const NULL: u32 = 0;

/// Where a page that nobody holds any more enters the list of free pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Given out next: its content is of no use.
    Front,
    /// Given out last: its content may be hit again (least recently used order).
    Back,
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    /// Sequences whose table names this page. 0 = in the free list.
    refs: u32,
    prev: u32,
    next: u32,
}

/// Reference counts, and the free list as links between page ids: every operation is O(1) and
/// allocates nothing.
#[derive(Debug)]
pub(super) struct PagePool {
    meta: Vec<Meta>,
    free: usize,
}

impl PagePool {
    /// A pool of `pages` pages, the null page included; lowest ids are given out first.
    pub(super) fn new(pages: usize) -> PagePool {
        assert!(pages >= 2, "a pool of {pages} pages has none beside the null page");
        assert!(u32::try_from(pages).is_ok(), "page ids are 32 bits, {pages} pages are too many");
        let mut pool =
            PagePool { meta: vec![Meta { refs: 0, prev: NULL, next: NULL }; pages], free: 0 };
        for page in 1..pages {
            pool.link(page as u32, End::Back);
        }
        pool
    }

    /// Pages that can be held: all but the null page.
    pub(super) fn capacity(&self) -> usize {
        self.meta.len() - 1
    }

    /// Pages that nobody holds, those with cached content included.
    pub(super) fn free(&self) -> usize {
        self.free
    }

    pub(super) fn refs(&self, page: PageId) -> u32 {
        self.meta[page.index()].refs
    }

    /// The free page at the front, held once from now on. None: all are held.
    pub(super) fn take(&mut self) -> Option<PageId> {
        let page = self.meta[NULL as usize].next;
        if page == NULL {
            return None;
        }
        self.unlink(page);
        self.meta[page as usize].refs = 1;
        Some(PageId(page))
    }

    /// One more holder of a page, free or not.
    pub(super) fn share(&mut self, page: PageId) {
        assert_ne!(page.0, NULL, "the null page is shared by nobody");
        if self.refs(page) == 0 {
            self.unlink(page.0);
        }
        self.meta[page.index()].refs += 1;
    }

    /// One holder less; the last one puts the page at `end` of the free list.
    pub(super) fn release(&mut self, page: PageId, end: End) {
        let meta = &mut self.meta[page.index()];
        assert!(meta.refs > 0, "page {page} was released more often than taken");
        meta.refs -= 1;
        if meta.refs == 0 {
            self.link(page.0, end);
        }
    }

    fn link(&mut self, page: u32, end: End) {
        let (prev, next) = match end {
            End::Front => (NULL, self.meta[NULL as usize].next),
            End::Back => (self.meta[NULL as usize].prev, NULL),
        };
        self.meta[page as usize].prev = prev;
        self.meta[page as usize].next = next;
        self.meta[prev as usize].next = page;
        self.meta[next as usize].prev = page;
        self.free += 1;
    }

    fn unlink(&mut self, page: u32) {
        let Meta { prev, next, .. } = self.meta[page as usize];
        self.meta[prev as usize].next = next;
        self.meta[next as usize].prev = prev;
        self.free -= 1;
    }

    /// Panics unless every page has the count that `held` says and the list holds exactly the rest.
    pub(super) fn check(&self, held: &[u32]) {
        for (page, meta) in self.meta.iter().enumerate().skip(1) {
            assert_eq!(
                meta.refs, held[page],
                "page {page}: its count, and how many tables name it"
            );
        }
        let mut at = NULL;
        let mut listed = 0;
        loop {
            let next = self.meta[at as usize].next;
            assert_eq!(self.meta[next as usize].prev, at, "page {next}: its link back");
            if next == NULL {
                break;
            }
            assert_eq!(self.meta[next as usize].refs, 0, "page {next} is free and held");
            listed += 1;
            assert!(listed <= self.capacity(), "the free list runs in a circle");
            at = next;
        }
        let unheld = held[1..].iter().filter(|&&refs| refs == 0).count();
        assert_eq!((listed, self.free), (unheld, unheld), "free pages: listed and counted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(pool: &mut PagePool) -> Vec<u32> {
        std::iter::from_fn(|| pool.take()).map(|page| page.0).collect()
    }

    #[test]
    fn the_null_page_is_never_given_out_and_the_rest_is_in_order() {
        let mut pool = PagePool::new(5);
        assert_eq!(pool.free(), 4);
        assert_eq!(drain(&mut pool), [1, 2, 3, 4]);
        assert_eq!((pool.free(), pool.take()), (0, None));
        pool.check(&[0, 1, 1, 1, 1]);
    }

    #[test]
    fn useless_pages_go_first_cached_ones_by_age() {
        let mut pool = PagePool::new(5);
        drain(&mut pool);
        pool.release(PageId(3), End::Back);
        pool.release(PageId(1), End::Back);
        pool.release(PageId(4), End::Front);
        pool.release(PageId(2), End::Front);
        pool.check(&[0; 5]);
        assert_eq!(drain(&mut pool), [2, 4, 3, 1]);
    }

    #[test]
    fn a_shared_page_is_free_when_its_last_holder_leaves() {
        let mut pool = PagePool::new(3);
        let page = pool.take().unwrap();
        pool.share(page);
        pool.release(page, End::Back);
        assert_eq!((pool.refs(page), pool.free()), (1, 1));
        pool.release(page, End::Back);
        assert_eq!(pool.free(), 2);
        pool.share(page);
        assert_eq!(drain(&mut pool), [2]);
        pool.check(&[0, 1, 1]);
    }

    #[test]
    #[should_panic(expected = "released more often")]
    fn a_page_cannot_be_released_twice() {
        let mut pool = PagePool::new(3);
        let page = pool.take().unwrap();
        pool.release(page, End::Back);
        pool.release(page, End::Back);
    }
}
