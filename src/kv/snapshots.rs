//! Copies of states that a device keeps, for models that keep one beside pages: which copy is the
//! state behind which prefix. Called by the cache manager; it knows neither pages nor sequences,
//! and a copy is a number here.
//!
//! A place is given out anew as soon as it is the one that was used least recently. That is safe as
//! with pages: whoever goes on from what it held does so in an earlier change of the device.

use std::collections::HashMap;

use super::prefix::PageHash;
use crate::ids::SnapshotId;

#[derive(Debug, Clone, Copy)]
struct Place {
    /// Of the last page in front of the state that is kept here.
    hash: Option<PageHash>,
    /// When it was saved or gone on from; 0: never.
    used: u64,
}

/// Who is where, and when it was used.
#[derive(Debug)]
pub(super) struct Snapshots {
    by_hash: HashMap<PageHash, usize>,
    places: Vec<Place>,
    /// Counts uses.
    now: u64,
}

impl Snapshots {
    /// So many places, all empty.
    pub(super) fn new(count: usize) -> Snapshots {
        let places = vec![Place { hash: None, used: 0 }; count];
        Snapshots { by_hash: HashMap::with_capacity(count), places, now: 0 }
    }

    /// There is a state behind this page.
    pub(super) fn contains(&self, hash: PageHash) -> bool {
        self.by_hash.contains_key(&hash)
    }

    /// A sequence goes on from the state behind this page.
    pub(super) fn hit(&mut self, hash: PageHash) -> Option<SnapshotId> {
        let at = *self.by_hash.get(&hash)?;
        self.touch(at);
        Some(SnapshotId(at as u32))
    }

    /// A place for the state behind this page, the least recently used one; None if there is one
    /// already, or no place at all.
    pub(super) fn take(&mut self, hash: PageHash) -> Option<SnapshotId> {
        if self.hit(hash).is_some() {
            return None;
        }
        let (at, _) = self.places.iter().enumerate().min_by_key(|(_, place)| place.used)?;
        if let Some(old) = self.places[at].hash.replace(hash) {
            self.by_hash.remove(&old);
        }
        self.by_hash.insert(hash, at);
        self.touch(at);
        Some(SnapshotId(at as u32))
    }

    /// Nobody is to go on from the state behind this page.
    pub(super) fn forget(&mut self, hash: PageHash) {
        if let Some(at) = self.by_hash.remove(&hash) {
            self.places[at] = Place { hash: None, used: 0 };
        }
    }

    /// Panics unless both directions agree.
    pub(super) fn check(&self) {
        let kept = self.places.iter().enumerate().filter_map(|(at, p)| Some((p.hash?, at)));
        let mut count = 0;
        for (hash, at) in kept {
            count += 1;
            assert_eq!(self.by_hash.get(&hash), Some(&at), "place {at}: its hash");
        }
        assert_eq!(count, self.by_hash.len(), "places that keep a state");
    }

    fn touch(&mut self, at: usize) {
        self.now += 1;
        self.places[at].used = self.now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AdapterId, GroupId, TokenId};
    use crate::kv::prefix::PrefixHasher;

    #[test]
    fn the_least_recently_used_gives_way() {
        let hasher = PrefixHasher::new();
        let root = hasher.root(GroupId(0), AdapterId(0));
        let [a, b, c] = [1, 2, 3].map(|token| hasher.page(root, &[TokenId(token)], &[]));
        let mut snapshots = Snapshots::new(2);
        assert_eq!(snapshots.take(a), Some(SnapshotId(0)));
        assert_eq!(snapshots.take(b), Some(SnapshotId(1)));
        assert_eq!(snapshots.take(a), None, "it is there, and was used now");
        assert_eq!(snapshots.take(c), Some(SnapshotId(1)));
        assert_eq!((snapshots.hit(b), snapshots.hit(a)), (None, Some(SnapshotId(0))));
        snapshots.check();

        snapshots.forget(a);
        assert_eq!(snapshots.hit(a), None);
        assert_eq!(snapshots.take(b), Some(SnapshotId(0)), "an empty place goes first");
        snapshots.check();
        assert_eq!(Snapshots::new(0).take(a), None);
    }
}
