//! The one error type. Every module returns it, `triton/` maps it 1:1 to TRITONSERVER error codes.
//! A message names the thing, the value, the limit and the key to change. It never knows who reads
//! it.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// What went wrong, by what the caller can do about it. The text is what the user sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The request or a configuration value is wrong: changing it helps, repeating it does not.
    InvalidArgument(String),
    /// A file, tensor or model that was named does not exist.
    NotFound(String),
    /// Right request, wrong moment (full, draining, dead engine): later or elsewhere may work.
    Unavailable(String),
    /// The client gave up.
    Cancelled(String),
    /// Asked for something that this version does not do.
    Unsupported(String),
    /// Our fault.
    Internal(String),
}

/// What most functions of the crate return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The text, which the client or the log sees.
    pub fn message(&self) -> &str {
        match self {
            Error::InvalidArgument(m)
            | Error::NotFound(m)
            | Error::Unavailable(m)
            | Error::Cancelled(m)
            | Error::Unsupported(m)
            | Error::Internal(m) => m,
        }
    }

    /// The same kind of error with a text in front, e.g. the file that was being read.
    pub fn context(self, prefix: &str) -> Error {
        let text = format!("{prefix}{}", self.message());
        self.with_text(text)
    }

    /// The same kind of error with a text behind, e.g. what to do.
    pub fn with_end(self, end: &str) -> Error {
        let text = format!("{}{end}", self.message());
        self.with_text(text)
    }

    /// The same without line breaks and the like, which names in a client's files may hold: a log
    /// line that a file can end is a log line that a file can write.
    pub fn on_one_line(self) -> Error {
        if !self.message().contains(char::is_control) {
            return self;
        }
        let text = self.message().replace(char::is_control, " ");
        self.with_text(text)
    }

    fn with_text(self, text: String) -> Error {
        match self {
            Error::InvalidArgument(_) => Error::InvalidArgument(text),
            Error::NotFound(_) => Error::NotFound(text),
            Error::Unavailable(_) => Error::Unavailable(text),
            Error::Cancelled(_) => Error::Cancelled(text),
            Error::Unsupported(_) => Error::Unsupported(text),
            Error::Internal(_) => Error::Internal(text),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

/// Names longer than this are nobody's typing error.
const NAME_MAX_CHARS: usize = 64;

/// The known name that a mistyped one most likely stands for: at most a third of its letters
/// differ. Case and `-` for `_` do not count.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let chars = name.chars().take(NAME_MAX_CHARS + 1).count();
    if chars > NAME_MAX_CHARS {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let name = plain(name);
    let distance = |other: &str| strsim::osa_distance(&name, &plain(other));
    let ranked = known.into_iter().map(|other| (distance(other), other));
    let (distance, best) = ranked.min_by_key(|(distance, _)| *distance)?;
    (distance <= (chars / 3).max(1)).then_some(best)
}

/// A text as it may leave the process, in a log line or an answer: at most about `limit_bytes`, of
/// which a longer one keeps beginning and end, and without control characters but those of `kept`.
/// A client's or a file's text may stand in any message: it must not fill a log, nor begin a line
/// of its own, nor grow beyond what gRPC carries.
pub fn brief<'a>(text: &'a str, limit_bytes: usize, kept: &[char]) -> Cow<'a, str> {
    let shown = |c: char| !c.is_control() || kept.contains(&c);
    if text.len() <= limit_bytes && text.chars().all(shown) {
        return Cow::Borrowed(text);
    }
    let (mut head, mut tail) = (text, "");
    if text.len() > limit_bytes {
        let boundary = |near: usize| (0..=near).rev().find(|&at| text.is_char_boundary(at));
        let from = boundary(limit_bytes / 4 * 3).unwrap_or(0);
        let to = boundary(text.len() - limit_bytes / 4).unwrap_or(text.len());
        (head, tail) = (&text[..from], &text[to..]);
    }

    let mut out = String::with_capacity(limit_bytes.min(text.len()));
    let push = |part: &str, out: &mut String| {
        for c in part.chars() {
            if shown(c) {
                out.push(c)
            } else {
                out.extend(c.escape_default())
            }
        }
    };
    push(head, &mut out);
    if !tail.is_empty() {
        // Writing to a String does not fail.
        let _ = write!(out, " [... {} bytes ...] ", text.len() - head.len() - tail.len());
    }
    push(tail, &mut out);
    Cow::Owned(out)
}

/// `return Err(invalid!("top_p must be in (0, 1], got {x}."))` without the noise.
#[macro_export]
macro_rules! invalid {
    ($($arg:tt)*) => { $crate::error::Error::InvalidArgument(format!($($arg)*)) };
}

/// The same for errors that are ours.
#[macro_export]
macro_rules! internal {
    ($($arg:tt)*) => { $crate::error::Error::Internal(format!($($arg)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_finds_its_own() {
        let known = ["max_num_seqs", "max_model_len", "seed", "dtype"];
        for (typed, meant) in [
            ("max_num_seq", Some("max_num_seqs")),
            ("max-model-len", Some("max_model_len")),
            ("MAX_MODEL_LENGTH", Some("max_model_len")),
            ("sede", Some("seed")),
            ("dype", Some("dtype")),
            ("invalid_attribute", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
        assert_eq!(nearest(&"max_model_len".repeat(1000), known), None);
        assert_eq!(nearest("seed", []), None);
    }

    #[test]
    fn a_brief_text_is_short_and_forges_no_line() {
        assert_eq!(brief("as it is, é", 20, &[]), "as it is, é");
        assert_eq!(brief("a\n[E] b\u{1b}[31m\0c", 99, &[]), "a\\n[E] b\\u{1b}[31m\\u{0}c");
        assert_eq!(brief("a\nb\r", 99, &['\n']), "a\nb\\r");

        let long = format!("name {} raise key", "é".repeat(1 << 20));
        let short = brief(&long, 400, &[]);
        assert!(short.len() < 440, "{}", short.len());
        assert!(short.starts_with("name éé") && short.ends_with("éé raise key"), "{short}");
        assert!(short.contains(" [... 2096"), "{short}");
    }
}
