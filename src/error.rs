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
