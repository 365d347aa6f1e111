//! The one error type. Every room returns it, `triton/` maps it 1:1 to TRITONSERVER error codes. A
//! message names the thing, the value, the limit and the key to change. It never knows who reads
//! it.

use std::fmt;

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

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
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

    /// The same without line breaks and the like, which names in strangers' files may hold: a log
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
    use super::nearest;

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
}
