//! One file of a checkpoint, read at any place by several threads at once. It is not mapped: a
//! mapped file that another process shortens ends this one, a read that comes short is an error.
//! Called by `checkpoint` and `gguf`.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::device::{Bytes, Storage};
use crate::error::{Error, Result};
use crate::files::{self, Kind, Progress};
use crate::invalid;

pub struct Shard {
    path: PathBuf,
    file: File,
    found: Stamp,
    progress: Arc<Progress>,
}

/// What changes when a file is written or replaced.
#[derive(PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Stamp {
    fn of(found: &Metadata) -> Stamp {
        Stamp {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified_s: found.mtime(),
            modified_ns: found.mtime_nsec(),
        }
    }
}

impl Shard {
    /// # Errors
    /// As [`files::open`].
    pub fn open(path: PathBuf, progress: &Arc<Progress>) -> Result<Shard> {
        Shard::open_as(path, Kind::Weights, progress)
    }

    /// The same of a file of another kind.
    ///
    /// # Errors
    /// As [`files::open`].
    pub fn open_as(path: PathBuf, kind: Kind, progress: &Arc<Progress>) -> Result<Shard> {
        let (file, found) = progress.count(|| files::open(&path, kind))?;
        Ok(Shard { path, file, found: Stamp::of(&found), progress: Arc::clone(progress) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it.
    pub fn bytes(&self) -> Bytes<'_> {
        Bytes::Stored { storage: self, at: 0, length: self.found.bytes as usize }
    }

    /// Whether it is still the file that was opened. What was read before may be of both.
    ///
    /// # Errors
    /// InvalidArgument: it was written to or replaced; says how.
    pub fn unchanged(&self) -> Result<()> {
        let shown = self.path.display();
        let then = &self.found;
        let again = "Load again when nobody writes it, and put new files in place by rename.";
        let now = self.file.metadata().map_err(|e| invalid!("{shown}: cannot be read: {e}."))?;
        let now = Stamp::of(&now);
        if now.bytes != then.bytes {
            return Err(invalid!(
                "{shown} changed while it was read: it had {} bytes, now it has {}. {again}",
                then.bytes,
                now.bytes
            ));
        }
        if now != *then {
            return Err(invalid!(
                "{shown} changed while it was read: it was written to at {}.{:09} s. {again}",
                now.modified_s,
                now.modified_ns
            ));
        }
        // A file that was removed is whole for whoever has it open.
        let Ok(named) = std::fs::metadata(&self.path) else { return Ok(()) };
        let named = Stamp::of(&named);
        if (named.device, named.inode) != (then.device, then.inode) {
            return Err(invalid!(
                "{shown} changed while it was read: another file (inode {}, it was {}) has its \
                 name. Load again.",
                named.inode,
                then.inode
            ));
        }
        Ok(())
    }
}

impl Storage for Shard {
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let outcome = self.progress.count(|| Ok(self.file.read_exact_at(to, at)))?;
        outcome.map_err(|e| {
            let shown = self.path.display();
            match e.kind() {
                ErrorKind::UnexpectedEof => self.unchanged().err().unwrap_or_else(|| {
                    invalid!("{shown} ended before byte {}.", at + to.len() as u64)
                }),
                _ => Error::Unavailable(format!("{shown}: cannot be read at byte {at}: {e}.")),
            }
        })
    }
}
