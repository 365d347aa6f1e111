//! Bytes of a tensor, wherever they are: in memory, in a file, or made on the way. `model` makes
//! them, devices read them; they know no file.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Where bytes lie that are fetched as they are needed: a file. Several threads may ask at once.
pub trait Storage: Sync {
    /// Fill `to` with the bytes from `at` on.
    ///
    /// # Errors
    /// They cannot be read, or are no longer there.
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()>;
}

/// The bytes of a tensor.
#[derive(Clone)]
pub enum Bytes<'a> {
    /// They are here.
    InMemory(&'a [u8]),
    /// They were made on the way: codes that were packed another way.
    Shared(SharedBytes),
    /// So many from `at` on.
    Stored {
        /// Where they lie.
        storage: &'a dyn Storage,
        /// The first.
        at: u64,
        /// How many.
        length: usize,
    },
    /// Some columns of lines of bytes.
    Columns(Columns<'a>),
}

/// Of each line of a matrix the same bytes, one line's behind the other's: nothing is copied until
/// they are read.
#[derive(Clone)]
pub struct Columns<'a> {
    whole: Arc<Bytes<'a>>,
    /// Bytes of a line.
    line: usize,
    /// Those of a line that count.
    columns: Range<usize>,
    /// Of all that count.
    range: Range<usize>,
}

impl Columns<'_> {
    /// Fill `to` with those from the range's start on.
    fn read(&self, to: &mut [u8]) -> Result<()> {
        let width = self.columns.len();
        let mut at = self.range.start;
        let mut rest = to;
        while !rest.is_empty() {
            let (line, column) = (at / width, at % width);
            let (some, more) = rest.split_at_mut((width - column).min(rest.len()));
            self.whole.read(line * self.line + self.columns.start + column, some)?;
            at += some.len();
            rest = more;
        }
        Ok(())
    }
}

/// A range of bytes that several hold.
#[derive(Clone)]
pub struct SharedBytes {
    all: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> SharedBytes {
        SharedBytes { range: 0..bytes.len(), all: Arc::new(bytes) }
    }
}

impl SharedBytes {
    fn bytes(&self) -> &[u8] {
        &self.all[self.range.clone()]
    }
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Bytes<'a> {
        Bytes::InMemory(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Bytes<'a> {
    fn from(bytes: &'a Vec<u8>) -> Bytes<'a> {
        Bytes::InMemory(bytes)
    }
}

impl<'a> Bytes<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Bytes::InMemory(bytes) => bytes.len(),
            Bytes::Shared(shared) => shared.range.len(),
            Bytes::Stored { length, .. } => *length,
            Bytes::Columns(columns) => columns.range.len(),
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of a range.
    ///
    /// # Panics
    /// If it reaches beyond the end: a mistake of the caller.
    pub fn slice(&self, range: Range<usize>) -> Bytes<'a> {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {}", self.len());
        match self {
            Bytes::InMemory(bytes) => Bytes::InMemory(&bytes[range]),
            Bytes::Shared(SharedBytes { all, range: old }) => Bytes::Shared(SharedBytes {
                all: all.clone(),
                range: old.start + range.start..old.start + range.end,
            }),
            Bytes::Stored { storage, at, .. } => {
                let at = at + range.start as u64;
                Bytes::Stored { storage: *storage, at, length: range.len() }
            }
            Bytes::Columns(columns) => {
                let start = columns.range.start;
                let range = start + range.start..start + range.end;
                Bytes::Columns(Columns { range, ..columns.clone() })
            }
        }
    }

    /// Fill `to` with those from `at` on.
    ///
    /// # Errors
    /// They cannot be read, or are no longer there.
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        match self.slice(at..at + to.len()) {
            Bytes::InMemory(bytes) => to.copy_from_slice(bytes),
            Bytes::Shared(shared) => to.copy_from_slice(shared.bytes()),
            Bytes::Stored { storage, at, .. } => storage.read(at, to)?,
            Bytes::Columns(columns) => columns.read(to)?,
        }
        Ok(())
    }

    /// Whether `other` has the same ones.
    ///
    /// # Errors
    /// As `read`.
    pub fn equal(&self, other: &Bytes) -> Result<bool> {
        const AT_ONCE: usize = 1 << 20;
        if self.len() != other.len() {
            return Ok(false);
        }
        let [mut ours, mut theirs] = [(); 2].map(|()| vec![0; AT_ONCE.min(self.len())]);
        for at in (0..self.len()).step_by(AT_ONCE) {
            let count = AT_ONCE.min(self.len() - at);
            self.read(at, &mut ours[..count])?;
            other.read(at, &mut theirs[..count])?;
            if ours[..count] != theirs[..count] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Of lines of `line` bytes each the bytes in `columns`, line by line.
    ///
    /// # Panics
    /// If they are no whole lines, or the columns reach beyond their end: a mistake of the caller.
    pub fn columns(&self, line: usize, columns: Range<usize>) -> Bytes<'a> {
        assert!(columns.start <= columns.end && columns.end <= line, "{columns:?} of {line}");
        assert!(self.len().is_multiple_of(line.max(1)), "{} bytes in lines of {line}", self.len());
        let lines = self.len() / line.max(1);
        let range = 0..lines * columns.len();
        Bytes::Columns(Columns { whole: Arc::new(self.clone()), line, columns, range })
    }

    /// All of them.
    ///
    /// # Errors
    /// As `read`; Unavailable: no memory for them.
    pub fn load(&self) -> Result<Cow<'a, [u8]>> {
        match self {
            Bytes::InMemory(bytes) => Ok(Cow::Borrowed(bytes)),
            Bytes::Shared(_) | Bytes::Stored { .. } | Bytes::Columns(_) => {
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(self.len()).map_err(|_| no_memory(self.len()))?;
                bytes.resize(self.len(), 0);
                self.read(0, &mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// What is said where a tensor finds no room.
pub(super) fn no_memory(bytes: usize) -> Error {
    Error::Unavailable(format!("no memory for {bytes} bytes of a tensor: use a smaller model."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_read_as_if_they_lay_together() {
        let lines: Vec<u8> = (0..60).collect();
        let columns = Bytes::from(&lines).columns(12, 3..8);
        let want: Vec<u8> = (0..60).filter(|i| (3..8).contains(&(i % 12))).collect();
        assert_eq!(*columns.load().unwrap(), want);
        for (from, to) in [(0, 25), (1, 24), (4, 6), (5, 10), (7, 7), (25, 25)] {
            let slice = columns.slice(from..to);
            assert_eq!(*slice.load().unwrap(), want[from..to], "{from}..{to}");
            let mut read = vec![0; to - from];
            columns.read(from, &mut read).unwrap();
            assert_eq!(read, want[from..to], "{from}..{to}");
        }
        // Columns of columns.
        let inner = columns.columns(5, 1..3).slice(2..6);
        assert_eq!(*inner.load().unwrap(), [16, 17, 28, 29]);
        assert!(Bytes::from(&lines).columns(12, 4..4).is_empty());
    }
}
