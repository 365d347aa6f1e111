//! Which of several engines a prompt goes to: the one that read its beginning before, unless the
//! others have less to do. Called by `engines`. It sees texts, not pages: what an engine's prefix
//! cache holds is guessed by what was sent there lately.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// Beginnings are compared by blocks of so many bytes of text.
const BLOCK_BYTES: usize = 256;
/// Blocks of a prompt that are looked at: 1 MiB of text.
const MAX_BLOCKS: usize = 4096;
/// Bytes of text that make a token, about, to know how much text a KV cache holds.
const BYTES_PER_TOKEN: u64 = 4;
/// Of an engine, whatever its KV cache holds.
const MAX_KEPT_BLOCKS: u64 = 1 << 20;
/// What each sequence in flight costs a new one, in bytes of prompt that would have to be read.
/// A guess: a step with one more row is longer by about a hundredth, and a sequence lasts for some
/// hundred steps, in each of which a hundred tokens of a prompt could have been read.
const SEQUENCE_BYTES: usize = 512;

/// The beginnings of one prompt, shortest first: each block's hash depends on all before it.
pub(super) struct Beginnings(Vec<u64>);

/// What each engine read lately.
pub(super) struct PrefixRoutes {
    hashes: RandomState,
    engines: Vec<LatelyRead>,
    /// Where equals are looked for first: the engine behind the one that was chosen last.
    first: usize,
}

/// Blocks that an engine read, in two generations: when the newer one is full, the older one goes.
struct LatelyRead {
    newer: HashSet<u64>,
    older: HashSet<u64>,
    /// Of one generation.
    limit: usize,
}

impl PrefixRoutes {
    /// `kv_tokens`: what the KV cache of each engine has room for; 0: it finds no prefixes again.
    pub fn new(kv_tokens: &[u64]) -> PrefixRoutes {
        let lately = |tokens: &u64| {
            let blocks = tokens.saturating_mul(BYTES_PER_TOKEN) / BLOCK_BYTES as u64;
            LatelyRead {
                newer: HashSet::new(),
                older: HashSet::new(),
                limit: blocks.min(MAX_KEPT_BLOCKS) as usize,
            }
        };
        let engines = kv_tokens.iter().map(lately).collect();
        PrefixRoutes { hashes: RandomState::new(), engines, first: 0 }
    }

    /// Texts of different adapters have nothing in common.
    pub fn beginnings(&self, text: &str, adapter: Option<&str>) -> Beginnings {
        let mut before = self.hashes.hash_one(adapter);
        let hash = |block: &[u8]| {
            before = self.hashes.hash_one((before, block));
            before
        };
        Beginnings(text.as_bytes().chunks_exact(BLOCK_BYTES).take(MAX_BLOCKS).map(hash).collect())
    }

    /// The engine that is done with the prompt first, as far as can be guessed, by its number.
    /// `loads`: sequences in flight of each, None where it can take no more; if that is so
    /// everywhere, the next in turn.
    pub fn choose(&mut self, prompt: &Beginnings, loads: &[Option<usize>]) -> usize {
        let count = self.engines.len();
        let cost = |n: &usize| {
            let read = self.engines[*n].leading(prompt) * BLOCK_BYTES;
            let load = loads.get(*n).copied().flatten()?;
            let unread = (prompt.0.len() * BLOCK_BYTES).saturating_sub(read);
            Some(unread.saturating_add(load.saturating_mul(SEQUENCE_BYTES)))
        };
        let in_turn = (self.first..count).chain(0..self.first);
        let costs = in_turn.filter_map(|n| Some((cost(&n)?, n)));
        // The first of equals.
        let chosen = costs.min_by_key(|(cost, _)| *cost).map_or(self.first, |(_, n)| n);

        self.first = (chosen + 1) % count.max(1);
        if let Some(engine) = self.engines.get_mut(chosen) {
            engine.remember(prompt);
        }
        chosen
    }
}

impl LatelyRead {
    /// How many of the prompt's blocks were read here, from the first on.
    fn leading(&self, prompt: &Beginnings) -> usize {
        let read = |hash: &&u64| self.newer.contains(hash) || self.older.contains(hash);
        prompt.0.iter().take_while(read).count()
    }

    fn remember(&mut self, prompt: &Beginnings) {
        if self.limit == 0 {
            return;
        }
        for hash in &prompt.0 {
            if self.newer.len() == self.limit && !self.newer.contains(hash) {
                self.older = std::mem::take(&mut self.newer);
            }
            self.newer.insert(*hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many blocks, each unlike those of another `seed`.
    fn text(seed: usize, blocks: usize) -> String {
        format!("{seed} in words. ")
            .repeat(BLOCK_BYTES * blocks)
            .split_at(BLOCK_BYTES * blocks)
            .0
            .into()
    }

    fn told(routes: &mut PrefixRoutes, text: &str, loads: &[usize]) -> usize {
        let prompt = routes.beginnings(text, None);
        routes.choose(&prompt, &loads.iter().map(|load| Some(*load)).collect::<Vec<_>>())
    }

    #[test]
    fn a_prompt_goes_where_its_beginning_was_read() {
        let mut routes = PrefixRoutes::new(&[100_000; 3]);
        let shared = text(1, 8);
        let home = told(&mut routes, &shared, &[0, 0, 0]);
        for n in 0..10 {
            let other = told(&mut routes, &text(2 + n, 8), &[0, 0, 0]);
            assert!(other < 3);
            let again = format!("{shared} and question {n}{}", text(n, 1));
            assert_eq!(told(&mut routes, &again, &[0, 0, 0]), home);
        }

        // Eight blocks are worth four sequences, not five.
        let busy = |load| [0, 1, 2].map(|n| if n == home { load } else { 0 });
        assert_eq!(told(&mut routes, &shared, &busy(3)), home);
        assert_ne!(told(&mut routes, &shared, &busy(5)), home);
    }

    #[test]
    fn only_the_whole_beginning_counts_and_only_of_the_same_adapter() {
        let routes = PrefixRoutes::new(&[100_000]);
        let (one, other) = (text(1, 4), format!("x{}", &text(1, 4)[1..]));
        let one = routes.beginnings(&one, None);
        let other = routes.beginnings(&other, None);
        assert!(one.0.iter().all(|hash| !other.0.contains(hash)), "later blocks hash the earlier");
        let adapted = routes.beginnings(&text(1, 4), Some("a"));
        assert!(one.0.iter().all(|hash| !adapted.0.contains(hash)));
        assert_eq!(one.0, routes.beginnings(&format!("{}rest", text(1, 4)), None).0);
        assert!(routes.beginnings("short", None).0.is_empty());
        let long = "x".repeat(BLOCK_BYTES * (MAX_BLOCKS + 5));
        assert_eq!(routes.beginnings(&long, None).0.len(), MAX_BLOCKS);
    }

    #[test]
    fn strangers_are_dealt_out_evenly_and_the_idle_come_first() {
        let mut routes = PrefixRoutes::new(&[0, 0, 0, 0]);
        let dealt: Vec<usize> = (0..8).map(|_| told(&mut routes, "hello", &[2; 4])).collect();
        assert_eq!(dealt, [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(told(&mut routes, "hello", &[2, 2, 1, 2]), 2);
        assert_eq!(told(&mut routes, "hello", &[9, 1, 1, 1]), 3);
        let mut told = |loads: &[Option<usize>]| routes.choose(&Beginnings(Vec::new()), loads);
        assert_eq!(told(&[None, Some(900), None, None]), 1);
        assert_eq!(told(&[None; 4]), 2, "the next in turn refuses");
    }

    /// An engine forgets what is about twice as much as its cache holds.
    #[test]
    fn what_is_remembered_is_bounded() {
        let mut routes = PrefixRoutes::new(&[640, 0]);
        for seed in 0..100 {
            told(&mut routes, &text(seed, 3), &[0, 1000]);
            let LatelyRead { newer, older, limit } = &routes.engines[0];
            assert!(newer.len() <= *limit && older.len() <= *limit && *limit == 10);
        }
        let last = routes.beginnings(&text(99, 3), None);
        let first = routes.beginnings(&text(0, 3), None);
        assert_eq!((routes.engines[0].leading(&last), routes.engines[0].leading(&first)), (3, 0));

        // Longer than a generation: the end of it is kept.
        told(&mut routes, &"y".repeat(BLOCK_BYTES * 35), &[0, 1000]);
        assert!(routes.engines[0].newer.len() <= 10);
        assert!(routes.engines[1].newer.is_empty());
    }
}
