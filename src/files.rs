//! How files that others wrote are read: regular ones only, and no larger than their kind may be. A
//! FIFO would hang a load and a device would fill the memory; both are refused by name. Every read
//! of a file in the crate goes through here but those of `/proc` and `/sys`. A leaf: it never knows
//! what is in a file, but for files that are not what their name says (`mistaken`).

mod kind;
mod mistaken;

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::invalid;
pub use kind::Kind;

/// Open a file to read it.
///
/// # Errors
/// NotFound: it is not there. InvalidArgument: it is no regular file, larger than its kind may be,
/// or cannot be read; it is something else than its name says, e.g. a pointer of Git LFS. One line
/// that starts with the path.
pub fn open(path: &Path, kind: Kind) -> Result<(File, Metadata)> {
    open_raw(path, kind).map_err(Error::on_one_line)
}

fn open_raw(path: &Path, kind: Kind) -> Result<(File, Metadata)> {
    // Before it is opened, since to open some devices is to act on them; after that again, since
    // another file may have taken the name. O_NONBLOCK: a FIFO would wait for its writer.
    judge(path, kind, &std::fs::metadata(path).map_err(|e| io_error(path, &e))?)?;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|e| io_error(path, &e))?;
    let found = file.metadata().map_err(|e| io_error(path, &e))?;
    judge(path, kind, &found)?;
    let mut head = [0; mistaken::HEAD_BYTES];
    // What cannot be read is said by whoever reads it.
    if let Ok(read) = file.read_at(&mut head, 0) {
        mistaken::judge(path, kind, &head[..read])?;
    }
    Ok((file, found))
}

fn judge(path: &Path, kind: Kind, found: &Metadata) -> Result<()> {
    let shown = path.display();
    if !found.is_file() {
        return Err(invalid!("{shown} is {}, not a regular file.", name_of(found.file_type())));
    }
    if found.len() > kind.max_bytes() {
        return Err(too_large(path, kind, found.len()));
    }
    Ok(())
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_block_device() => "a block device",
        _ => "something else",
    }
}

fn too_large(path: &Path, kind: Kind, bytes: u64) -> Error {
    let limit = kind.max_bytes();
    invalid!("{} has {bytes} bytes, at most {limit} are read of such a file.", path.display())
}

fn io_error(path: &Path, e: &std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::NotFound => Error::NotFound(format!("{} not found.", path.display())),
        _ => invalid!("{}: cannot be read: {e}.", path.display()),
    }
}

/// The whole file.
///
/// # Errors
/// As `open`.
pub fn read(path: &Path, kind: Kind) -> Result<Vec<u8>> {
    let (file, found) = open(path, kind)?;
    let limit = kind.max_bytes();
    let mut bytes = Vec::with_capacity(found.len() as usize);
    // It may grow while it is read.
    let outcome = file.take(limit + 1).read_to_end(&mut bytes);
    outcome.map_err(|e| io_error(path, &e).on_one_line())?;
    if bytes.len() as u64 > limit {
        return Err(too_large(path, kind, bytes.len() as u64).on_one_line());
    }
    Ok(bytes)
}

/// The whole file as text.
///
/// # Errors
/// As `open`; InvalidArgument: it is not UTF-8.
pub fn read_text(path: &Path, kind: Kind) -> Result<String> {
    String::from_utf8(read(path, kind)?)
        .map_err(|e| invalid!("{}: is not UTF-8: {e}.", path.display()).on_one_line())
}

/// A file that need not be there: None if it is not. What is there but cannot be read is an error.
pub fn optional<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads that may take long, and whether they are still wanted. Whoever reads counts each one;
/// whoever waits sees that one hangs, and may call it all off.
#[derive(Debug, Default)]
pub struct Progress {
    begun: AtomicU64,
    ended: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Run a read.
    ///
    /// # Errors
    /// Cancelled: nobody waits for it any more. The read's own.
    pub fn count<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        self.wanted()?;
        self.begun.fetch_add(1, Ordering::Relaxed);
        let outcome = read();
        self.ended.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// Whether somebody still waits for the reads.
    ///
    /// # Errors
    /// Cancelled: nobody does.
    pub fn wanted(&self) -> Result<()> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Error::Cancelled("the load was called off.".into()));
        }
        Ok(())
    }

    /// Reads that ended, if one is under way.
    pub fn busy(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::Acquire);
        (self.begun.load(Ordering::Acquire) > ended).then_some(ended)
    }

    /// Nobody waits any more: the next read fails.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
