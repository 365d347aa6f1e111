//! The cache of one model, as the Python tools lay it out: `blobs/<etag>` hold bytes,
//! `snapshots/<commit>/<file>` are links to them, `refs/<revision>` holds a commit, and
//! `.locks/<model>/<etag>.lock` beside the models keeps two processes from writing one blob. It
//! asks `remote` for what is missing. A blob gets its name only after size and hash are right.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::remote::{FileInfo, Remote};
use crate::error::{Error, Result};
use crate::files::{read_text, Kind::Line};
use crate::invalid;

/// How long another process may hold a file's lock while its download does not grow.
const LOCK_WITHOUT_PROGRESS: Duration = Duration::from_secs(300);
const LOCK_PERIOD: Duration = Duration::from_millis(100);

pub(super) struct Store {
    cache: PathBuf,
    /// `models--org--name`
    name: String,
    revision: String,
}

impl Store {
    /// # Errors
    /// InvalidArgument: a revision that would leave the cache.
    pub fn new(cache: &Path, repo: &str, revision: &str) -> Result<Store> {
        let good = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\\');
        if revision.len() > 256 || !revision.split('/').all(good) {
            return Err(invalid!(
                "revision '{revision}' in model.json is no branch, tag or commit."
            ));
        }
        let name = format!("models--{}", repo.replace('/', "--"));
        Ok(Store { cache: cache.to_path_buf(), name, revision: revision.to_string() })
    }

    fn folder(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// What is here of the revision: a commit, or a name that stood for one when it was loaded.
    pub fn cached(&self) -> Option<PathBuf> {
        let named = read_text(&self.folder().join("refs").join(&self.revision), Line);
        let commit = named.map_or_else(|_| self.revision.clone(), |text| text.trim().to_string());
        let plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        Some(self.snapshot(&commit)).filter(|folder| plain && folder.is_dir())
    }

    /// Remember which commit the revision stands for.
    pub fn write_ref(&self, commit: &str) -> Result<()> {
        if self.revision == commit {
            return Ok(());
        }
        let path = self.folder().join("refs").join(&self.revision);
        if read_text(&path, Line).is_ok_and(|old| old == commit) {
            return Ok(());
        }
        self.make_parent(&path)?;
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let written = std::fs::write(&new, commit).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|e| self.write_error("refs", &e))
    }

    /// See that a file of a commit is in the snapshot.
    pub fn fetch(&self, remote: &Remote, commit: &str, file: &str) -> Result<()> {
        let link = self.snapshot(commit).join(file);
        if link.exists() {
            return Ok(());
        }
        let info = remote.file_info(commit, file)?;
        let blob = self.folder().join("blobs").join(&info.etag);
        if !blob.exists() {
            let lock = self.lock(&info.etag, file, remote)?;
            // The process that held the lock may have brought it.
            if !blob.exists() {
                self.download(remote, commit, file, &info, &blob)?;
            }
            drop(lock);
        }

        self.make_parent(&link)?;
        // Out of the file's own folders, the snapshot and `snapshots`.
        let up = "../".repeat(2 + file.matches('/').count());
        let target = Path::new(&up).join("blobs").join(&info.etag);
        // A link that leads nowhere (a blob was deleted) gives way.
        let _ = std::fs::remove_file(&link);
        match std::os::unix::fs::symlink(target, &link) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(self.write_error(file, &e)),
            _ => Ok(()),
        }
    }

    fn download(
        &self,
        remote: &Remote,
        commit: &str,
        file: &str,
        info: &FileInfo,
        blob: &Path,
    ) -> Result<()> {
        self.make_parent(blob)?;
        let part = blob.with_file_name(format!("{}.incomplete", info.etag));
        let write_error = |e: &std::io::Error| self.write_error(file, e);
        match info.bytes {
            Some(bytes) => tracing::info!("downloading {file}: {} MB", bytes / 1_000_000),
            None => tracing::info!("downloading {file}"),
        }

        loop {
            let opened = open_own(OpenOptions::new().create(true).append(true), &part);
            let mut writer = opened.map_err(|e| write_error(&e))?;
            let resumed = remote.bytes(commit, file, info.bytes, &mut writer, &write_error)?;
            writer.sync_all().map_err(|e| write_error(&e))?;
            let found = match kind_of(&info.etag) {
                Some(kind) => hash(&part, kind).map_err(|e| write_error(&e))?,
                None => break,
            };
            if found == info.etag.to_ascii_lowercase() {
                break;
            }
            std::fs::remove_file(&part).map_err(|e| write_error(&e))?;
            // What an earlier attempt left may be to blame: once more from the start.
            if !resumed {
                return Err(Error::Unavailable(format!(
                    "'{file}' arrived damaged: its hash is {found}, expected {}; load the model \
                     again, and check proxies and HF_ENDPOINT if it stays so.",
                    info.etag
                )));
            }
        }
        std::fs::rename(&part, blob).map_err(|e| write_error(&e))
    }

    /// Held while the file lives. The Python tools lock the same file in the same way (flock).
    fn lock(&self, etag: &str, file: &str, remote: &Remote) -> Result<File> {
        let path = self.cache.join(".locks").join(&self.name).join(format!("{etag}.lock"));
        self.make_parent(&path)?;
        let mut options = OpenOptions::new();
        let opened = open_own(options.create(true).truncate(false).write(true), &path);
        let lock = opened.map_err(|e| self.write_error(file, &e))?;
        let part = self.folder().join("blobs").join(format!("{etag}.incomplete"));
        let length = || std::fs::metadata(&part).map_or(0, |found| found.len());

        let mut had = length();
        let mut since = Instant::now();
        let mut is_said = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(self.write_error(file, &e)),
            }
            if !is_said {
                tracing::info!("{file}: another process is downloading it, waiting for that");
                is_said = true;
            }
            remote.wanted()?;
            let has = length();
            if has != had {
                had = has;
                since = Instant::now();
            }
            if since.elapsed() > LOCK_WITHOUT_PROGRESS {
                return Err(Error::Unavailable(format!(
                    "{file}: another process holds {} and has brought nothing for {} s: end it, \
                     or set 'download_dir' to a folder of this server's own.",
                    path.display(),
                    LOCK_WITHOUT_PROGRESS.as_secs()
                )));
            }
            std::thread::sleep(LOCK_PERIOD);
        }
    }

    fn make_parent(&self, path: &Path) -> Result<()> {
        let parent = path.parent().unwrap_or(path);
        std::fs::create_dir_all(parent).map_err(|e| self.write_error("a folder", &e))
    }

    fn write_error(&self, file: &str, e: &std::io::Error) -> Error {
        let cache = self.cache.display();
        let other = "set HF_HOME, HF_HUB_CACHE or 'download_dir' to a folder";
        match e.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => invalid!(
                "{file}: no space left for the cache {cache}: free some, or {other} on a larger \
                 disk."
            ),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                invalid!("{file}: the cache {cache} cannot be written ({e}): {other} that can.")
            }
            _ => invalid!("{file}: the cache {cache} cannot be written: {e}."),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Sha256,
    /// SHA-1 of `blob <length>\0` and the bytes.
    Git,
}

/// Which hash an ETag is, by its form.
fn kind_of(etag: &str) -> Option<Kind> {
    let hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
    match etag.len() {
        64 if hex => Some(Kind::Sha256),
        40 if hex => Some(Kind::Git),
        _ => None,
    }
}

/// Open a file of the cache, which others write too: a FIFO there must not hang us.
fn open_own(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

fn hash(path: &Path, kind: Kind) -> std::io::Result<String> {
    let mut file = open_own(OpenOptions::new().read(true), path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other(format!("{} is no regular file", path.display())));
    }
    let mut context = match kind {
        Kind::Sha256 => Context::new(&SHA256),
        Kind::Git => {
            let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {}\0", file.metadata()?.len()).as_bytes());
            context
        }
    };
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            let digest = context.finish();
            return Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        context.update(&chunk[..count]);
    }
}
