//! Drafts by suffixes, as vLLM's method "suffix": how texts went on where a sequence's newest
//! tokens occurred before, in itself or in earlier outputs, and how often each way. The more of the
//! newest tokens agree, the more is drafted; a draft ends where it becomes unlikely.
//!
//! vLLM walks a tree of all suffixes. Here the places themselves are looked up, the newest first
//! and so many at most ([`PLACES`]), and counted token by token, so that a draft's cost has a limit
//! and forgetting an output costs nothing. Earlier outputs are found by [`super::past_outputs`].

use super::drafts::{Proposer, SuffixConfig};
use super::past_outputs::{agreement, PastOutputs, Place, PLACES};
use crate::ids::TokenId;

/// See [`super::DraftMethod::Suffix`].
#[derive(Debug)]
pub(super) struct Suffix {
    config: SuffixConfig,
    past: PastOutputs,
}

/// A way to go on.
#[derive(Debug, Default)]
struct Path {
    tokens: Vec<TokenId>,
    /// Expected number of its tokens that come true.
    score: f64,
}

impl Suffix {
    pub(super) fn new(config: SuffixConfig) -> Suffix {
        let past = PastOutputs::new(config.cached_requests);
        Suffix { config, past }
    }

    /// Of all numbers of tokens that agree somewhere, the path that promises most; of equal ones
    /// that of more agreement.
    fn best(&self, places: &[Place], most: usize) -> Path {
        let mut lengths: Vec<usize> = places.iter().map(|place| place.agrees).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let mut best = Path::default();
        for length in lengths {
            let allowed = (length as f64 * self.config.max_factor) as usize;
            let agreeing = places.iter().filter(|place| place.agrees >= length);
            let path = self.path(agreeing.map(|place| place.next).collect(), most.min(allowed));
            if path.score >= best.score {
                best = path;
            }
        }
        best
    }

    /// The likeliest token behind these places, then the likeliest behind those where it came; of
    /// equal ones that of the first place.
    fn path(&self, mut places: Vec<&[TokenId]>, most: usize) -> Path {
        let mut path = Path::default();
        let mut likely = 1.0;
        while path.tokens.len() < most {
            let at = path.tokens.len();
            let mut counts: Vec<(TokenId, usize)> = Vec::new();
            for token in places.iter().filter_map(|next| next.get(at)) {
                match counts.iter_mut().find(|(known, _)| known == token) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((*token, 1)),
                }
            }
            let likeliest = counts.into_iter().rev().max_by_key(|&(_, count)| count);
            let Some((token, count)) = likeliest else { break };

            likely *= count as f64 / places.len() as f64;
            if likely < self.config.min_probability {
                break;
            }
            path.tokens.push(token);
            path.score += likely;
            places.retain(|next| next.get(at) == Some(&token));
        }
        path
    }
}

impl Proposer for Suffix {
    fn propose(&mut self, tokens: &[TokenId], most: usize, drafts: &mut Vec<TokenId>) {
        let depth = self.config.max_depth;
        let own = self.best(&own_places(tokens, depth), most);
        let past = self.best(&self.past.places(tokens, depth), most);
        drafts.extend(if own.score >= past.score { own.tokens } else { past.tokens });
    }

    fn ended(&mut self, outputs: &[TokenId]) {
        self.past.add(outputs);
    }
}

/// Where in itself a sequence's newest token occurred before, the newest place first.
fn own_places(tokens: &[TokenId], depth: usize) -> Vec<Place<'_>> {
    let Some((newest, before)) = tokens.split_last() else { return Vec::new() };
    let ends = (0..before.len()).rev().filter(|&at| before[at] == *newest).take(PLACES);
    ends.map(|at| Place {
        next: &tokens[at + 1..],
        agrees: agreement(&tokens[..=at], tokens, depth),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().map(|&id| TokenId(id)).collect()
    }

    fn config() -> SuffixConfig {
        SuffixConfig { max_depth: 24, cached_requests: 9, max_factor: 1.0, min_probability: 0.1 }
    }

    fn drafts(suffix: &mut Suffix, of: &[u32], most: usize) -> Vec<u32> {
        let mut drafts = Vec::new();
        suffix.propose(&tokens(of), most, &mut drafts);
        drafts.into_iter().map(|token| token.0).collect()
    }

    #[test]
    fn as_many_tokens_are_drafted_as_agree() {
        let mut suffix = Suffix::new(config());
        assert_eq!(drafts(&mut suffix, &[1, 2, 3, 4, 5, 6, 9, 2, 3], 9), [4, 5]);
        assert_eq!(drafts(&mut suffix, &[1, 2, 3, 4, 5, 6, 1, 2, 3], 9), [4, 5, 6]);
        assert_eq!(drafts(&mut suffix, &[1, 2, 3, 4, 5, 6, 1, 2, 3], 2), [4, 5]);
        assert!(drafts(&mut suffix, &[1, 2, 3, 4], 9).is_empty());
        assert!(drafts(&mut suffix, &[], 9).is_empty());

        let far = SuffixConfig { max_factor: 2.0, ..config() };
        assert_eq!(drafts(&mut Suffix::new(far), &[2, 3, 4, 5, 6, 9, 3], 9), [4, 5]);
        let flat = SuffixConfig { max_depth: 1, ..config() };
        assert_eq!(drafts(&mut Suffix::new(flat), &[2, 3, 4, 5, 6, 2, 3], 9), [4]);
    }

    #[test]
    fn the_usual_way_wins_and_unlikely_ones_are_not_drafted() {
        let mut suffix = Suffix::new(config());
        // Behind "1 2": twice 3, once 4, the newest time.
        let said = [1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 4, 5, 1, 2];
        assert_eq!(drafts(&mut suffix, &said, 9), [3, 8]);
        let sure = SuffixConfig { min_probability: 0.5, ..config() };
        assert_eq!(drafts(&mut Suffix::new(sure), &said, 9), [3]);
        let certain = SuffixConfig { min_probability: 0.7, ..config() };
        assert!(drafts(&mut Suffix::new(certain), &said, 9).is_empty());
    }

    #[test]
    fn outputs_of_others_are_drafted_from_unless_the_own_text_says_more() {
        let mut suffix = Suffix::new(config());
        suffix.ended(&tokens(&[1, 2, 3, 4, 5, 6]));
        assert_eq!(drafts(&mut suffix, &[9, 2, 3, 4], 9), [5, 6], "to the end of that output");
        assert_eq!(drafts(&mut suffix, &[9, 9, 9, 3, 4], 9), [5, 6]);
        assert_eq!(drafts(&mut suffix, &[8, 2, 3, 4, 7, 7, 7, 8, 2, 3, 4], 9), [7, 7, 7, 8]);

        let mut none = Suffix::new(SuffixConfig { cached_requests: 0, ..config() });
        none.ended(&tokens(&[1, 2, 3, 4, 5, 6]));
        assert!(drafts(&mut none, &[9, 2, 3, 4], 9).is_empty());
    }
}
