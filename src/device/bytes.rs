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
        }
        Ok(())
    }

    /// All of them.
    ///
    /// # Errors
    /// As `read`; Unavailable: no memory for them.
    pub fn load(&self) -> Result<Cow<'a, [u8]>> {
        match self {
            Bytes::InMemory(bytes) => Ok(Cow::Borrowed(bytes)),
            Bytes::Shared(_) | Bytes::Stored { .. } => {
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
