//! Which images' vectors are kept for tokens that are still to be fed: the scheduler plans by it,
//! the model keeps vectors by it. Both see the same chunks, so what the one has room for the other
//! has too. An image that no sequence needs any more stays until its rows are needed.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::images::PromptImages;

/// What is kept, by the hashes of images.
#[derive(Debug)]
pub struct ImageCache {
    capacity: usize,
    free: Vec<usize>,
    held: HashMap<[u8; 32], Held>,
    /// Those that no sequence needs, from the one that has been so for the longest time.
    idle: VecDeque<[u8; 32]>,
}

#[derive(Debug)]
struct Held {
    rows: Vec<usize>,
    users: usize,
}

impl ImageCache {
    /// An empty one with room for the vectors of `capacity` tokens.
    pub fn new(capacity: usize) -> ImageCache {
        let free = (0..capacity).rev().collect();
        ImageCache { capacity, free, held: HashMap::new(), idle: VecDeque::new() }
    }

    /// The rows of an image's vectors, one for each of its tokens, if they are kept.
    pub fn rows(&self, hash: &[u8; 32]) -> Option<&[usize]> {
        self.held.get(hash).map(|held| &*held.rows)
    }

    /// There is room for an image of so many tokens, if those that nobody needs go.
    pub fn fits(&self, tokens: usize) -> bool {
        let idle: usize = self.idle.iter().map(|hash| self.held[hash].rows.len()).sum();
        tokens <= self.free.len() + idle
    }

    /// A sequence needs an image from now on. False: it is not kept.
    pub fn enter(&mut self, hash: &[u8; 32]) -> bool {
        let Some(held) = self.held.get_mut(hash) else { return false };
        held.users += 1;
        if held.users == 1 {
            self.idle.retain(|idle| idle != hash);
        }
        true
    }

    /// Keep an image of so many tokens, at most the capacity, which `users` sequences need. Where
    /// the idle ones do not make room, others go too.
    pub fn add(&mut self, hash: [u8; 32], tokens: usize, users: usize) {
        assert!(tokens <= self.capacity, "an image of {tokens} tokens, room for {}", self.capacity);
        self.remove(&hash);
        while self.free.len() < tokens {
            let oldest = self.idle.front().or_else(|| self.held.keys().min()).copied();
            // proof: rows that are not free belong to an image.
            let oldest = oldest.expect("an image to remove");
            self.remove(&oldest);
        }
        let rows = self.free.split_off(self.free.len() - tokens);
        self.held.insert(hash, Held { rows, users });
        if users == 0 {
            self.idle.push_back(hash);
        }
    }

    fn remove(&mut self, hash: &[u8; 32]) {
        if let Some(held) = self.held.remove(hash) {
            self.free.extend(held.rows);
            self.idle.retain(|idle| idle != hash);
        }
    }

    /// A sequence needs an image no longer.
    pub fn leave(&mut self, hash: &[u8; 32]) {
        let Some(held) = self.held.get_mut(hash).filter(|held| held.users > 0) else { return };
        held.users -= 1;
        if held.users == 0 {
            self.idle.push_back(*hash);
        }
    }

    /// How many images sequences need, each as often as it has such sequences.
    pub fn users(&self) -> usize {
        self.held.values().map(|held| held.users).sum()
    }
}

impl PromptImages {
    /// The images of which some tokens are in `range`, by their numbers.
    pub fn touching(&self, range: Range<usize>) -> Range<usize> {
        let first = self.spans.partition_point(|span| span.start + span.tokens() <= range.start);
        let end = self.spans.partition_point(|span| span.start < range.end);
        first..end.max(first)
    }

    /// Behind the last token of the image that the n-th span is of, or a part of.
    pub fn image_end(&self, n: usize) -> usize {
        let image = &self.spans[n].patches;
        let parts = self.spans[n..].iter().take_while(|span| Arc::ptr_eq(&span.patches, image));
        parts.last().map_or(0, |span| span.start + span.tokens())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> [u8; 32] {
        [n; 32]
    }

    #[test]
    fn what_nobody_needs_makes_room_in_the_order_in_which_it_was_left() {
        let mut cache = ImageCache::new(10);
        cache.add(hash(1), 4, 1);
        cache.add(hash(2), 4, 1);
        assert!(cache.fits(2) && !cache.fits(3));
        cache.leave(&hash(2));
        cache.leave(&hash(1));
        assert!(cache.fits(10));
        assert_eq!(cache.users(), 0);

        assert!(cache.enter(&hash(1)), "it is still there");
        assert!(cache.fits(6) && !cache.fits(7));
        cache.leave(&hash(1));
        cache.add(hash(3), 4, 1);
        assert!(!cache.enter(&hash(2)), "it was left first");
        assert_eq!(cache.rows(&hash(1)).map(<[usize]>::len), Some(4));
        let mut rows = cache.rows(&hash(3)).unwrap().to_vec();
        rows.extend(cache.rows(&hash(1)).unwrap());
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 8, "no row belongs to two images");
    }

    #[test]
    fn two_sequences_need_one_image_once() {
        let mut cache = ImageCache::new(4);
        cache.add(hash(1), 4, 2);
        cache.leave(&hash(1));
        assert!(!cache.fits(1));
        cache.leave(&hash(1));
        assert!(cache.fits(4));
        cache.leave(&hash(1));
        cache.leave(&hash(9));
        cache.add(hash(2), 3, 1);
        assert!(cache.fits(1) && !cache.fits(2));
    }

    /// A model that is driven without the scheduler's care.
    #[test]
    fn needed_ones_go_last() {
        let mut cache = ImageCache::new(4);
        cache.add(hash(1), 2, 1);
        cache.add(hash(2), 2, 0);
        cache.add(hash(3), 2, 1);
        assert!(cache.rows(&hash(1)).is_some() && cache.rows(&hash(2)).is_none());
        cache.add(hash(4), 4, 1);
        assert!(cache.rows(&hash(1)).is_none() && cache.rows(&hash(3)).is_none());
        cache.leave(&hash(1));
        assert_eq!(cache.users(), 1);
    }
}
