//! `model: "org/name"`: the files of a model on a Hugging Face hub, in the cache that the Python
//! tools share. `engine` calls it where no local folder has that name, and gets a folder. It never
//! knows what is in a file.
//!
//! | file | holds |
//! |---|---|
//! | `hub` | the rules: settings, cache or network |
//! | [`files`] | which files of a repository a model needs |
//! | [`remote`] | HTTP: what the hub says of a revision or a file, and its bytes |
//! | [`store`] | the cache folder: blobs, snapshots, refs, locks, hashes |
//!
//! Facts: the documented environment variables and cache layout of `huggingface_hub`.

mod files;
mod remote;
mod store;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::RootCerts;

use super::checkpoint::{Files, ADAPTER_FILES};
use super::foreign_formats::other_format;
use super::gguf::GgufName;
use super::mistral;
use crate::error::{Error, Result};
use crate::files::{read_text, Kind, Progress};
use files::{gguf_files, matches, shards, weight_files, SMALL_FILES};
use remote::{Failure, Remote};
use store::Store;

/// As the Python tools read them, in this order.
const ROOTS: [&str; 3] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"];
const ENDPOINT: &str = "https://huggingface.co";
/// The key `hf_token`.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the file that `hf auth login` writes.
    Environment,
    /// `false`: none, even if the environment has one.
    None,
    /// This one.
    Given(String),
}

/// Never the token itself: arguments are logged.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Environment => "Environment",
            Token::None => "None",
            Token::Given(_) => "Given(***)",
        })
    }
}

/// Where models come from and go to.
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
    /// Certificates to trust in place of Mozilla's: the variable that says so, and the file.
    roots: Option<(&'static str, PathBuf)>,
    /// Pause before a broken download goes on, times the number of failures in a row.
    retry_ms: u64,
    /// May call a download off.
    progress: Arc<Progress>,
}

/// What is to be fetched.
pub struct SnapshotRequest<'a> {
    /// `org/name` or `name`.
    pub repo: &'a str,
    /// Branch, tag, `refs/pr/1` or commit; None = `main`.
    pub revision: Option<&'a str>,
    /// Shell patterns of files that are left out.
    pub ignore: &'a [String],
    /// None: no weights.
    pub weights: Option<Files>,
    /// Which GGUF file, if there are any.
    pub gguf: &'a GgufName,
}

/// Could this be the name of a model on a hub? One or two parts of letters, digits, `-`, `_`, `.`.
pub fn is_repo(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.contains("..")
            && part.chars().all(plain)
    };
    name.len() <= 96 && name.split('/').count() <= 2 && name.split('/').all(good)
}

impl Hub {
    /// Settings from model.json, then from the environment (`var`, e.g. `std::env::var`).
    pub fn new(
        download_dir: Option<&Path>,
        token: &Token,
        var: impl Fn(&str) -> Option<String>,
    ) -> Hub {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let home = var("HOME").map(PathBuf::from).unwrap_or_else(|| "/root".into());
        let folder = |name: &str| var(name).map(|path| expanded(&path, &home));
        let hf_home = folder("HF_HOME").unwrap_or_else(|| {
            folder("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache")).join("huggingface")
        });

        let cache = download_dir.map(Path::to_path_buf);
        let cache = cache.or_else(|| folder("HF_HUB_CACHE"));
        let cache = cache.or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let file = folder("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = match token {
            Token::None => None,
            Token::Given(token) => Some(token.clone()),
            Token::Environment => var("HF_TOKEN")
                .or_else(|| var("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| read_text(&file, Kind::Line).ok()),
        };

        let yes = |value: String| {
            matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
        };
        let mut roots = ROOTS.iter().filter_map(|&name| Some((name, folder(name)?)));
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        Hub {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache: cache.unwrap_or_else(|| hf_home.join("hub")),
            token: token.map(|t| t.trim().to_string()).filter(|t| !t.is_empty()),
            offline: var("HF_HUB_OFFLINE").or_else(|| var("TRANSFORMERS_OFFLINE")).is_some_and(yes),
            roots: roots.next(),
            retry_ms: 1000,
            progress: Arc::default(),
        }
    }

    /// The certificates that the environment has us trust in place of Mozilla's.
    ///
    /// # Errors
    /// InvalidArgument: they cannot be read.
    pub fn trusted_roots(&self) -> Result<Option<RootCerts>> {
        self.roots.as_ref().map(|(name, file)| remote::roots(name, file)).transpose()
    }

    /// The same where `progress` may call downloads off.
    pub fn called_off_by(mut self, progress: &Arc<Progress>) -> Hub {
        self.progress = Arc::clone(progress);
        self
    }

    /// The folder with all that is wanted of a model, downloaded where the cache lacks it. If the
    /// hub cannot be reached, what the cache has of this revision, with a warning.
    ///
    /// # Errors
    /// One line that says what to do. NotFound: no such model, revision or file, or not in the
    /// cache while offline. InvalidArgument: no access, or no place to write. Unavailable: the hub
    /// does not answer, or sends something else than it promised.
    pub fn snapshot(&self, request: &SnapshotRequest) -> Result<PathBuf> {
        self.judged_snapshot(request, &|_| Ok(()))
    }

    /// The same where `judge` sees the folder with all but its weights before any are fetched, and
    /// may refuse it.
    ///
    /// # Errors
    /// As `snapshot`, and `judge`'s own.
    pub fn judged_snapshot(
        &self,
        request: &SnapshotRequest,
        judge: &dyn Fn(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let revision = request.revision.unwrap_or("main");
        let store = Store::new(&self.cache, request.repo, revision)?;
        if self.offline {
            return store.cached().ok_or_else(|| {
                Error::NotFound(format!(
                    "model '{}' (revision '{revision}') is not in the cache {}, and HF_HUB_OFFLINE \
                     is set: unset it, or give a local folder.",
                    request.repo,
                    self.cache.display()
                ))
            });
        }

        let roots = self.trusted_roots()?;
        let token = self.token.as_deref();
        let remote = Remote::new(&self.endpoint, token, request.repo, self.retry_ms, roots)
            .called_off_by(&self.progress);

        match remote.listing(revision) {
            Ok(listing) => self.download(request, &remote, &store, &listing, judge),
            Err(Failure::Unreachable(error)) => match store.cached() {
                Some(folder) => {
                    tracing::warn!("{error} Serving what the cache has: {}", folder.display());
                    Ok(folder)
                }
                None => Err(error),
            },
            Err(Failure::Refused(error)) => Err(error),
        }
    }

    fn download(
        &self,
        request: &SnapshotRequest,
        remote: &Remote,
        store: &Store,
        listing: &remote::Listing,
        judge: &dyn Fn(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let names: Vec<&str> = listing
            .files
            .iter()
            .map(String::as_str)
            .filter(|name| !request.ignore.iter().any(|pattern| matches(pattern, name)))
            .collect();
        let folder = store.snapshot(&listing.commit);
        let fetch = |name: &str| store.fetch(remote, &listing.commit, name);
        let small: &[&str] = match request.weights {
            Some(Files::Adapter) => &["adapter_config.json"],
            _ => &SMALL_FILES,
        };
        for name in small.iter().filter(|name| names.contains(name)) {
            fetch(name)?;
        }

        let gguf = match request.weights {
            Some(files) => gguf_files(&names, files, request.gguf)
                .map_err(|e| e.context(&format!("model '{}': ", request.repo)))?,
            None => None,
        };
        let in_gguf = gguf.is_some();
        let weights = match (gguf, request.weights) {
            (Some(files), _) => files,
            (None, Some(files)) => with_shards(&folder, &names, files, &fetch)?,
            (None, None) => Vec::new(),
        };

        let repo = request.repo;
        let (what, read) = match request.weights {
            Some(Files::Adapter) => ("an adapter", ADAPTER_FILES.join(", ")),
            _ => ("a language model", "*.safetensors, pytorch_model.bin, *.gguf".into()),
        };
        if !folder.is_dir() && weights.is_empty() {
            return Err(match other_format(names.iter().copied()) {
                Some(format) => {
                    Error::Unsupported(format!("model '{repo}' is not read: {format}."))
                }
                None => Error::NotFound(format!(
                    "model '{repo}' on {} holds no file of {what}.",
                    self.endpoint
                )),
            });
        }
        // A GGUF file's configuration is in itself.
        if !in_gguf {
            judge(&folder)?;
        }
        if weights.is_empty() && request.weights.is_some() {
            let format = other_format(names.iter().copied());
            return Err(Error::Unsupported(format!(
                "model '{repo}' has no weights that are read ({read}){}.",
                format.map(|format| format!(": {format}")).unwrap_or_default()
            )));
        }
        for name in weights {
            fetch(name)?;
        }
        store.write_ref(&listing.commit)?;
        Ok(folder)
    }
}

/// The files of weights; an index among them is fetched, for the shards that it names.
fn with_shards<'a>(
    folder: &Path,
    names: &[&'a str],
    files: Files,
    fetch: &dyn Fn(&str) -> Result<()>,
) -> Result<Vec<&'a str>> {
    let other = files == Files::Any && mistral::is_not_read(folder);
    let files = if other { Files::HuggingFace } else { files };
    let mut weights = Vec::new();
    for name in weight_files(names, files) {
        if name.ends_with(".index.json") {
            fetch(name)?;
            weights.extend(shards(folder, name, names)?);
        } else {
            weights.push(name);
        }
    }
    Ok(weights)
}

fn expanded(path: &str, home: &Path) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(path),
    }
}

#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod tests;
