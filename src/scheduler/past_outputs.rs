//! The newest outputs of sequences that are over, and where some tokens occur in them. Used by
//! `suffix`; of each output it knows the tokens only.
//!
//! A ring of tokens with chains, as compressors find repetitions: a table says where a number of
//! tokens ([`ORDERS`]) occurred last, by their hash, and each place says where the same hash
//! occurred before it. Nothing is ever removed: what the ring has overwritten ends a chain.

use std::collections::VecDeque;
use std::ops::Range;

use crate::ids::TokenId;

/// Tokens of the ring. With the chains, 20 bytes each.
const TOKENS: usize = 1 << 20;
/// Different hashes.
const BUCKETS: usize = TOKENS / 4;
/// Tokens that a chain's places have in common. The first finds rare long agreements, where the
/// second, of few tokens, has too many places to look at them all.
const ORDERS: [usize; 2] = [6, 2];
/// An output of fewer tokens has no place to find.
const SHORTEST: usize = ORDERS[1] + 1;

/// Places that are counted at most, in a sequence and in earlier outputs each.
pub(super) const PLACES: usize = 128;

/// Where a sequence's newest tokens occurred before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// What followed.
    pub next: &'a [TokenId],
    /// Tokens that agree, counted back from there; at least 1.
    pub agrees: usize,
}

/// Tokens at the ends of both that are the same, as far as `depth`.
pub(super) fn agreement(a: &[TokenId], b: &[TokenId], depth: usize) -> usize {
    a.iter().rev().zip(b.iter().rev()).take(depth).take_while(|(a, b)| a == b).count()
}

#[derive(Debug)]
pub(super) struct PastOutputs {
    /// Outputs at most.
    most: usize,
    /// Place p is at `p % TOKENS`.
    ring: Vec<TokenId>,
    /// The places of each output that is kept, oldest first.
    outputs: VecDeque<Range<usize>>,
    /// In the order of `ORDERS`.
    chains: [Chains; ORDERS.len()],
}

/// Where tokens of one number occurred, by their hash. Places are kept plus 1; 0 is none.
#[derive(Debug, Default)]
struct Chains {
    /// By hash: the newest place behind such tokens.
    newest: Vec<usize>,
    /// By place in the ring: the one before of the same hash.
    before: Vec<usize>,
}

impl PastOutputs {
    /// Of so many outputs at most.
    pub(super) fn new(most: usize) -> PastOutputs {
        let chains = Default::default();
        PastOutputs { most, ring: Vec::new(), outputs: VecDeque::new(), chains }
    }

    /// Keep an output. Of one that is longer than the ring, its end.
    pub(super) fn add(&mut self, output: &[TokenId]) {
        let output = &output[output.len().saturating_sub(TOKENS)..];
        if self.most == 0 || output.len() < SHORTEST {
            return;
        }
        // No output lies across the ring's end.
        let mut begin = self.outputs.back().map_or(0, |newest| newest.end);
        if begin % TOKENS + output.len() > TOKENS {
            begin = begin.next_multiple_of(TOKENS);
        }

        for (at, &token) in output.iter().enumerate() {
            let place = begin + at;
            match self.ring.get_mut(place % TOKENS) {
                Some(old) => *old = token,
                None => self.ring.push(token),
            }
            for (chains, order) in self.chains.iter_mut().zip(ORDERS) {
                if let Some(from) = at.checked_sub(order) {
                    chains.add(&output[from..at], place);
                }
            }
        }

        let end = begin + output.len();
        self.outputs.push_back(begin..end);
        let lost = |oldest: &Range<usize>| oldest.start + TOKENS < end;
        while self.outputs.len() > self.most || self.outputs.front().is_some_and(lost) {
            self.outputs.pop_front();
        }
    }

    /// Where the newest of these tokens occurred, newest first.
    pub(super) fn places(&self, tokens: &[TokenId], depth: usize) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        let mut longer = usize::MAX;
        let oldest = self.outputs.front().map_or(usize::MAX, |oldest| oldest.start);
        for (chains, order) in self.chains.iter().zip(ORDERS) {
            let Some(from) = tokens.len().checked_sub(order).filter(|_| order <= depth) else {
                continue;
            };
            for place in chains.places(&tokens[from..], oldest).take(PLACES) {
                let Some((said, next)) = self.split(place) else { continue };
                let agrees = agreement(said, tokens, depth);
                if agrees >= order && agrees < longer {
                    places.push(Place { next, agrees });
                }
            }
            longer = order;
        }
        places
    }

    /// The output that a place is in, up to the place and from there on.
    fn split(&self, place: usize) -> Option<(&[TokenId], &[TokenId])> {
        let behind = self.outputs.partition_point(|output| output.start <= place);
        let output = self.outputs.get(behind.checked_sub(1)?)?;
        let from = output.start % TOKENS;
        let tokens = self.ring.get(from..from + output.len())?;
        tokens.split_at_checked(place - output.start)
    }
}

impl Chains {
    /// These tokens are in front of `place`.
    fn add(&mut self, tokens: &[TokenId], place: usize) {
        if self.newest.is_empty() {
            self.newest = vec![0; BUCKETS];
        }
        let at = place % TOKENS;
        if self.before.len() <= at {
            self.before.resize(at + 1, 0);
        }
        let bucket = self.bucket(tokens);
        self.before[at] = std::mem::replace(&mut self.newest[bucket], place + 1);
    }

    /// Places, newest first, as far as `oldest`; the tokens in front of some may be others.
    fn places(&self, tokens: &[TokenId], oldest: usize) -> impl Iterator<Item = usize> + '_ {
        let newest = self.newest.get(self.bucket(tokens)).copied().unwrap_or(0);
        let kept = move |next: &usize| *next > oldest;
        let older = move |&next: &usize| {
            let before = self.before[(next - 1) % TOKENS];
            Some(before).filter(|before| *before < next).filter(kept)
        };
        std::iter::successors(Some(newest).filter(|next| *next > 0).filter(kept), older)
            .map(|next| next - 1)
    }

    fn bucket(&self, tokens: &[TokenId]) -> usize {
        let mix = |hash: u64, token: &TokenId| {
            (hash ^ u64::from(token.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        };
        tokens.iter().fold(1, mix) as usize % BUCKETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: impl IntoIterator<Item = usize>) -> Vec<TokenId> {
        ids.into_iter().map(|id| TokenId(id as u32)).collect()
    }

    /// What followed, and how many tokens agreed.
    fn found(past: &PastOutputs, of: &[TokenId]) -> Vec<(Option<u32>, usize)> {
        let places = past.places(of, 24);
        places.iter().map(|p| (p.next.first().map(|token| token.0), p.agrees)).collect()
    }

    #[test]
    fn places_are_found_by_both_orders_and_never_twice() {
        let mut past = PastOutputs::new(3);
        past.add(&tokens([1, 2, 3, 4, 5, 6, 7, 8, 9]));
        past.add(&tokens([6, 7, 4]));
        past.add(&tokens([7, 7]));
        assert_eq!(found(&past, &tokens([0, 2, 3, 4, 5, 6, 7])), [(Some(8), 6), (Some(4), 2)]);
        assert_eq!(found(&past, &tokens([1, 6, 7])), [(Some(4), 2), (Some(8), 2)]);
        assert!(found(&past, &tokens([8, 7])).is_empty());
        assert!(found(&past, &tokens([7])).is_empty());

        // Nothing lies across two outputs, and the oldest goes when there are too many.
        past.add(&tokens([4, 9, 9]));
        assert!(found(&past, &tokens([7, 4])).is_empty());
        past.add(&tokens([5, 5, 5]));
        assert_eq!(found(&past, &tokens([1, 6, 7])), [(Some(4), 2)]);
    }

    #[test]
    fn the_ring_forgets_what_it_overwrites() {
        let mut past = PastOutputs::new(1000);
        past.add(&tokens([1, 2, 3]));
        for round in 0..5 {
            let long = tokens((0..300_000).map(|at| 10 + (at * 7919 + round) % 50_000));
            past.add(&long);
            let found = found(&past, &long[1000..1020]);
            assert!(found.iter().any(|&(next, agrees)| next == Some(long[1020].0) && agrees == 20));
        }
        assert!(found(&past, &tokens([1, 2])).is_empty());
        assert!(past.ring.len() <= TOKENS && past.outputs.len() <= 3, "{}", past.outputs.len());
        past.add(&tokens((0..TOKENS + 9).map(|at| at % 99)));
        assert_eq!(past.outputs.len(), 1);
    }
}
