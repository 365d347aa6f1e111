//! How long the lists of one request may be, so that its cost is bounded: each limit is a number of
//! the operator's, and a refusal names the key that raises it. Called by [`super::verify`] before
//! anything is copied; the door reads the keys.

use crate::error::{Error, Result};
use crate::invalid;

/// At most so many, each in one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListLimits {
    pub stop_strings: usize,
    /// Of all stop strings together.
    pub stop_bytes: usize,
    pub stop_token_ids: usize,
    pub bad_words: usize,
    /// Of all bad words together; a token is at least a byte.
    pub bad_words_bytes: usize,
    pub logit_biases: usize,
}

impl ListLimits {
    pub const DEFAULT: ListLimits = ListLimits {
        stop_strings: 16_384,
        stop_bytes: 256 << 10,
        stop_token_ids: 16_384,
        bad_words: 4_096,
        bad_words_bytes: 64 << 10,
        logit_biases: 16_384,
    };

    /// Each limit with its key of `--backend-config=vllm,`.
    pub fn by_key(&mut self) -> [(&'static str, &mut usize); 6] {
        [
            ("max-stop-strings", &mut self.stop_strings),
            ("max-stop-bytes", &mut self.stop_bytes),
            ("max-stop-token-ids", &mut self.stop_token_ids),
            ("max-bad-words", &mut self.bad_words),
            ("max-bad-words-bytes", &mut self.bad_words_bytes),
            ("max-logit-biases", &mut self.logit_biases),
        ]
    }
}

impl Default for ListLimits {
    fn default() -> Self {
        ListLimits::DEFAULT
    }
}

/// # Errors
/// InvalidArgument if there are more `units` than `limit`, with both numbers and the key.
pub fn check(name: &str, units: &str, got: usize, limit: usize, key: &str) -> Result<()> {
    match got <= limit {
        true => Ok(()),
        false => Err(above(name, units, got, limit, key)),
    }
}

fn above(name: &str, units: &str, got: usize, limit: usize, key: &str) -> Error {
    invalid!(
        "{name} has {got} {units}, more than the {limit} that one request may have: send fewer, or \
         raise --backend-config=vllm,{key}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_key() {
        let mut limits = ListLimits::default();
        for (at, (_, limit)) in limits.by_key().into_iter().enumerate() {
            *limit = at;
        }
        let all = ListLimits {
            stop_strings: 0,
            stop_bytes: 1,
            stop_token_ids: 2,
            bad_words: 3,
            bad_words_bytes: 4,
            logit_biases: 5,
        };
        assert_eq!(limits, all);
    }

    #[test]
    fn a_refusal_says_how_many_and_which_key() {
        assert_eq!(check("stop", "strings", 3, 3, "max-stop-strings"), Ok(()));
        assert_eq!(
            check("stop", "strings", 4, 3, "max-stop-strings").unwrap_err().to_string(),
            "stop has 4 strings, more than the 3 that one request may have: send fewer, or raise \
             --backend-config=vllm,max-stop-strings"
        );
    }
}
