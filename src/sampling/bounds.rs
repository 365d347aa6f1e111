//! How long the lists of one request may be, so that its cost is bounded: each limit is a number of
//! the operator's, and a refusal names the key that raises it. Called by [`super::verify`] before
//! anything is copied; `triton` reads the keys.

use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{Bounds, Refused};

/// At most so many, each in one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListLimits {
    /// Stop strings.
    pub stop_strings: usize,
    /// Of all stop strings together.
    pub stop_bytes: usize,
    /// Ids of tokens that end a text.
    pub stop_token_ids: usize,
    /// Texts that the output may not contain.
    pub bad_words: usize,
    /// Of all bad words together; a token is at least a byte.
    pub bad_words_bytes: usize,
    /// Tokens with a bias.
    pub logit_biases: usize,
    /// Values and names in one text of JSON.
    pub json_values: usize,
}

impl ListLimits {
    /// What holds unless the operator says otherwise.
    pub const DEFAULT: ListLimits = ListLimits {
        stop_strings: 16_384,
        stop_bytes: 256 << 10,
        stop_token_ids: 16_384,
        bad_words: 4_096,
        bad_words_bytes: 64 << 10,
        logit_biases: 16_384,
        json_values: 2_000_000,
    };

    /// Each limit with its key of `--backend-config=vllm,`.
    pub fn by_key(&mut self) -> [(&'static str, &mut usize); 7] {
        [
            ("max-stop-strings", &mut self.stop_strings),
            ("max-stop-bytes", &mut self.stop_bytes),
            ("max-stop-token-ids", &mut self.stop_token_ids),
            ("max-bad-words", &mut self.bad_words),
            ("max-bad-words-bytes", &mut self.bad_words_bytes),
            ("max-logit-biases", &mut self.logit_biases),
            ("max-json-values", &mut self.json_values),
        ]
    }
}

impl ListLimits {
    /// The same for all rows of a batch together, each its stop strings and its bad words: each is
    /// prepared for itself.
    ///
    /// # Errors
    /// InvalidArgument with both numbers and the key.
    pub fn check_rows<'a>(
        &self,
        rows: impl Iterator<Item = (&'a [String], &'a [String])>,
    ) -> Result<()> {
        let bytes = |list: &[String]| list.iter().map(String::len).sum::<usize>();
        let mut stops = 0;
        let mut stop_bytes = 0;
        let mut words = 0;
        let mut word_bytes = 0;
        for (stop, bad_words) in rows {
            stops += stop.len();
            stop_bytes += bytes(stop);
            words += bad_words.len();
            word_bytes += bytes(bad_words);
        }

        let units = ["strings in all rows", "bytes in all rows", "words in all rows"];
        check("stop", units[0], stops, self.stop_strings, "max-stop-strings")?;
        check("stop", units[1], stop_bytes, self.stop_bytes, "max-stop-bytes")?;
        check("bad_words", units[2], words, self.bad_words, "max-bad-words")?;
        check("bad_words", units[1], word_bytes, self.bad_words_bytes, "max-bad-words-bytes")
    }

    /// How much is held of a text of JSON: all but what is `passed_over`.
    pub fn json<'a>(&self, passed_over: &'a dyn Fn(&str) -> bool) -> Bounds<'a> {
        Bounds { values: self.json_values, passed_over }
    }

    /// Why the text of an input is not read.
    pub fn refused(&self, input: &str, why: Refused) -> Error {
        match why {
            Refused::Invalid(why) => invalid!("{input} is not valid JSON: {why}"),
            Refused::TooMany => invalid!(
                "{input} has more than {} JSON values and names, the limit of \
                 --backend-config=vllm,max-json-values: send fewer, or raise it",
                self.json_values
            ),
        }
    }
}

impl Default for ListLimits {
    fn default() -> Self {
        ListLimits::DEFAULT
    }
}

/// Refuse a list that is too long.
///
/// # Errors
/// InvalidArgument if there are more `units` than `limit`, with both numbers and the key.
pub fn check(name: &str, units: &str, got: usize, limit: usize, key: &str) -> Result<()> {
    if got > limit {
        return Err(above(name, units, got, limit, key));
    }
    Ok(())
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
            json_values: 6,
        };
        assert_eq!(limits, all);
    }

    #[test]
    fn rows_count_together() {
        let stop = ["ab".to_string(), "c".into()];
        let limits = ListLimits { stop_strings: 5, stop_bytes: 8, ..ListLimits::default() };
        let rows = |count| std::iter::repeat_n((&stop[..], &[][..]), count);
        assert_eq!(limits.check_rows(rows(2)), Ok(()));
        let text = limits.check_rows(rows(3)).unwrap_err().to_string();
        assert!(text.starts_with("stop has 6 strings in all rows, more than the 5"), "{text}");
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
