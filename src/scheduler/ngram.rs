//! Drafts by n-grams: how the sequence went on where its newest tokens occurred before. As vLLM's
//! method "ngram": of all lengths from `most` down to `least` the longest that occurs, of its
//! places the earliest. Costs a scan of the sequence for its last token, some thousand tokens in a
//! microsecond, and a comparison at each place where that occurs.

use super::drafts::Proposer;
use crate::ids::TokenId;

/// See [`super::DraftMethod::Ngram`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Ngram {
    pub(super) least: usize,
    pub(super) most: usize,
}

impl Proposer for Ngram {
    fn propose(&mut self, tokens: &[TokenId], most: usize, drafts: &mut Vec<TokenId>) {
        if let Some(behind) = self.place(tokens) {
            drafts.extend(tokens[behind..].iter().take(most));
        }
    }
}

impl Ngram {
    /// Where the sequence goes on behind what its last tokens equal.
    fn place(&self, tokens: &[TokenId]) -> Option<usize> {
        let (newest, before) = tokens.split_last()?;
        let mut longest = self.least.max(1) - 1;
        let mut place = None;
        let mut from = 0;
        while let Some(found) = before[from..].iter().position(|token| token == newest) {
            let end = from + found;
            let same = before[..end].iter().rev().zip(before.iter().rev());
            let equal = 1 + same.take(self.most - 1).take_while(|(a, b)| a == b).count();
            if equal > longest {
                longest = equal;
                place = Some(end + 1);
            }
            if longest >= self.most {
                break;
            }
            from = end + 1;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joined: `[9, 2]` is "9 2".
    fn drafts(least: usize, most: usize, tokens: &[u32], count: usize) -> String {
        let tokens: Vec<TokenId> = tokens.iter().map(|&id| TokenId(id)).collect();
        let mut drafts = Vec::new();
        Ngram { least, most }.propose(&tokens, count, &mut drafts);
        drafts.iter().map(|token| token.0.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_longest_match_wins_and_of_its_places_the_earliest() {
        let tokens = [1, 2, 3, 9, 2, 3, 8, 1, 2, 3];
        assert_eq!(drafts(1, 3, &tokens, 2), "9 2");
        assert_eq!(drafts(1, 2, &tokens, 9), "9 2 3 8 1 2 3");
        let later = [2, 3, 8, 1, 2, 3, 9, 1, 2, 3];
        assert_eq!(drafts(1, 2, &later, 1), "8");
        assert_eq!(drafts(1, 3, &later, 1), "9");
        assert_eq!(drafts(1, 9, &later, 1), "9");
    }

    #[test]
    fn shorter_than_the_least_is_no_match() {
        let tokens = [5, 2, 3, 9, 4, 3];
        assert_eq!(drafts(2, 4, &tokens, 3), "");
        assert_eq!(drafts(1, 4, &tokens, 3), "9 4 3");
        assert_eq!(drafts(1, 1, &[], 3), "");
        assert_eq!(drafts(1, 1, &[7], 3), "");
    }

    #[test]
    fn a_match_may_overlap_the_end() {
        assert_eq!(drafts(2, 3, &[7, 7, 7, 7], 4), "7");
        assert_eq!(drafts(2, 2, &[7, 7, 7, 7], 4), "7 7");
        assert_eq!(drafts(1, 2, &[1, 2, 1, 2, 1], 9), "2 1");
    }
}
