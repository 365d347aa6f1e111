//! Does an output repeat itself? One [`RepetitionDetector`] per sequence that
//! asks for the rule. Called by `step_loop` with each new token; it knows tokens only.

use std::ops::Range;

use crate::error::Result;
use crate::ids::TokenId;
use crate::invalid;
use crate::sampling::RepetitionRule;

/// For each pattern size how long the output has been equal to itself that many tokens before: a
/// token costs one comparison per size, whatever the output looks like.
pub(crate) struct RepetitionDetector {
    /// The first size of `runs`.
    least: usize,
    /// Repetitions after the first occurrence of the pattern.
    more: usize,
    runs: Vec<u32>,
    outputs: Vec<TokenId>,
}

/// Pattern sizes that the sequences of one request may watch together: each costs four bytes, and a
/// comparison at every token.
const MAX_SIZES: usize = 1 << 15;

impl RepetitionDetector {
    /// # Errors
    /// InvalidArgument: `sequences` of them watch more than a request may.
    pub fn check(rule: &RepetitionRule, max_tokens: u32, sequences: u32) -> Result<()> {
        let sizes = RepetitionDetector::sizes(rule, max_tokens).len();
        let all = sizes.saturating_mul(sequences as usize);
        if all > MAX_SIZES {
            return Err(invalid!(
                "repetition_detection watches {sizes} pattern sizes for each of n = {sequences} \
                 sequences, {all} together, more than {MAX_SIZES}: lower max_pattern_size, n or \
                 max_tokens, or raise min_pattern_size or min_count."
            ));
        }
        Ok(())
    }

    /// Larger patterns cannot repeat often enough within `max_tokens`.
    fn sizes(rule: &RepetitionRule, max_tokens: u32) -> Range<usize> {
        let largest = (*rule.sizes.end()).min(max_tokens / rule.count) as usize;
        *rule.sizes.start() as usize..largest + 1
    }

    /// For at most `max_tokens` outputs.
    pub fn new(rule: &RepetitionRule, max_tokens: u32) -> RepetitionDetector {
        let sizes = RepetitionDetector::sizes(rule, max_tokens);
        RepetitionDetector {
            least: sizes.start,
            more: rule.count as usize - 1,
            runs: vec![0; sizes.len()],
            outputs: Vec::new(),
        }
    }

    /// True: the newest tokens, this one among them, are one pattern often enough in a row.
    pub fn push(&mut self, token: TokenId) -> bool {
        let mut closed = false;
        for (size, run) in (self.least..).zip(&mut self.runs) {
            let before = self.outputs.len().checked_sub(size).map(|at| self.outputs[at]);
            *run = if before == Some(token) { *run + 1 } else { 0 };
            closed |= *run as usize >= size.saturating_mul(self.more);
        }
        self.outputs.push(token);
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, looked at anew for each token.
    fn naive(outputs: &[u32], rule: &RepetitionRule) -> bool {
        rule.sizes.clone().any(|size| {
            let (size, count) = (size as usize, rule.count as usize);
            let Some(start) = outputs.len().checked_sub(size * count) else { return false };
            outputs[start..].chunks(size).all(|chunk| chunk == &outputs[start..start + size])
        })
    }

    #[test]
    fn equals_the_definition() {
        let mut state = 1u64;
        let mut next = |limit: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % limit
        };
        let mut found = 0;
        for _ in 0..3000 {
            let least = 1 + next(4) as u32;
            let rule =
                RepetitionRule { sizes: least..=least + next(5) as u32, count: 2 + next(3) as u32 };
            let mut repetition = RepetitionDetector::new(&rule, 40);
            let mut outputs = Vec::new();
            for _ in 0..40 {
                outputs.push(next(2) as u32);
                let closed = repetition.push(TokenId(outputs[outputs.len() - 1]));
                assert_eq!(closed, naive(&outputs, &rule), "{rule:?} {outputs:?}");
                found += u32::from(closed);
            }
        }
        assert!(found > 1000);
    }

    #[test]
    fn sizes_that_cannot_fit_cost_nothing() {
        let rule = RepetitionRule { sizes: 1..=u32::MAX, count: 2 };
        assert_eq!(RepetitionDetector::new(&rule, 100).runs.len(), 50);
        let rule = RepetitionRule { sizes: 51..=u32::MAX, count: 2 };
        assert!(!RepetitionDetector::new(&rule, 100).push(TokenId(0)));
    }

    /// Without a limit it was a gigabyte for n = 4000 at 131 072 tokens.
    #[test]
    fn the_sequences_of_a_request_share_a_limit() {
        let rule = RepetitionRule { sizes: 1..=u32::MAX, count: 2 };
        let refused = RepetitionDetector::check(&rule, 131_072, 4000).unwrap_err().to_string();
        assert!(refused.contains("65536 pattern sizes for each of n = 4000"), "{refused}");
        assert_eq!(RepetitionDetector::check(&rule, 65_536, 1), Ok(()));
        assert_eq!(
            RepetitionDetector::check(&RepetitionRule { sizes: 3..=10, count: 2 }, 131_072, 4000),
            Ok(())
        );
        assert_eq!(
            RepetitionDetector::check(&RepetitionRule { sizes: 51..=60, count: 2 }, 100, 1),
            Ok(())
        );
    }
}
