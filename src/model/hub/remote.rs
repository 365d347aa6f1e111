//! HTTP to a hub: the listing of a revision, what is known of a file, and its bytes. Blocking, on
//! the thread that loads a model. Each answer that is not a success becomes one line with what to
//! do. It never writes a file: `store` gives it one.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode};
use ureq::tls::{parse_pem, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::files::SMALL_FILES;
use crate::error::{Error, Result};
use crate::files;
use crate::invalid;
use crate::model::gguf::is_gguf;

const LISTING_BYTES_MAX: u64 = 64 << 20;
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// Attempts in a row that bring nothing.
const FAILURES_MAX: u64 = 5;
/// Of a listing, or of what is known of a file.
const TRIES: u64 = 3;
const REDIRECTS_MAX: usize = 5;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
const CHUNK_BYTES: usize = 1 << 20;

/// A cache may stand in for a hub that cannot be reached, not for one that refuses.
pub(super) enum Failure {
    Unreachable(Error),
    Refused(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Unreachable(error) | Failure::Refused(error) => error,
        }
    }
}

pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What the hub says of a file before it sends it.
pub(super) struct FileInfo {
    /// SHA-256 of large files, git's hash of small ones; a mirror may have others.
    pub etag: String,
    pub bytes: Option<u64>,
}

pub(super) struct Remote<'a> {
    endpoint: &'a str,
    repo: &'a str,
    token: Option<&'a str>,
    retry_ms: u64,
    progress: Option<&'a files::Progress>,
    /// Follows redirects.
    following: Agent,
    /// Does not.
    staying: Agent,
}

impl<'a> Remote<'a> {
    pub fn new(
        endpoint: &'a str,
        token: Option<&'a str>,
        repo: &'a str,
        retry_ms: u64,
        roots: Option<RootCerts>,
    ) -> Remote<'a> {
        let roots = roots.unwrap_or(RootCerts::WebPki);
        let agent = |redirects: u32| -> Agent {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(redirects)
                .max_redirects_will_error(false)
                // The token is for the hub, not for the storage that it sends us on to.
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .user_agent(concat!("triton_vllm/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .tls_config(TlsConfig::builder().root_certs(roots.clone()).build())
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(ANSWER))
                .timeout_per_read(Some(ANSWER))
                .build()
                .into()
        };

        Remote {
            endpoint,
            repo,
            token,
            retry_ms,
            progress: None,
            following: agent(10),
            staying: agent(0),
        }
    }

    pub fn called_off_by(mut self, progress: &'a files::Progress) -> Remote<'a> {
        self.progress = Some(progress);
        self
    }

    /// # Errors
    /// Cancelled: nobody waits for what is being fetched.
    pub fn wanted(&self) -> Result<()> {
        self.progress.map_or(Ok(()), files::Progress::wanted)
    }

    /// Ask until there is an answer or a refusal: a hub that cannot be reached or is busy gets
    /// [`TRIES`].
    fn with_retries<T>(
        &self,
        ask: impl Fn() -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        for tried in 1..TRIES {
            match ask() {
                Err(Failure::Unreachable(error)) => tracing::warn!("{error} Trying again."),
                outcome => return outcome,
            }
            std::thread::sleep(Duration::from_millis(self.retry_ms * tried));
            self.wanted().map_err(Failure::Refused)?;
        }
        ask()
    }

    /// The commit that a revision stands for, and the names of its files.
    pub fn listing(&self, revision: &str) -> std::result::Result<Listing, Failure> {
        self.with_retries(|| self.listing_once(revision))
    }

    fn listing_once(&self, revision: &str) -> std::result::Result<Listing, Failure> {
        let (endpoint, repo) = (self.endpoint, self.repo);
        let url = format!("{endpoint}/api/models/{repo}/revision/{}", escaped(revision));
        let what = format!("model '{repo}' at revision '{revision}'");
        let mut request = self.following.get(&url);
        if let Some(token) = self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }

        let mut answer =
            request.call().map_err(|e| Failure::Unreachable(self.unreachable(&what, &e)))?;
        let status = answer.status();
        if may_pass(status) {
            return Err(Failure::Unreachable(self.refusal(status, &what)));
        }
        if !status.is_success() {
            return Err(Failure::Refused(self.refusal(status, &what)));
        }
        let body = answer.body_mut().with_config().limit(LISTING_BYTES_MAX).read_to_vec();
        let body = body.map_err(|e| Failure::Unreachable(self.unreachable(&what, &e)))?;
        listing_of(&body).ok_or_else(|| {
            Failure::Refused(self.nonsense(&format!("{what}: the listing names no commit")))
        })
    }

    fn url(&self, commit: &str, file: &str) -> String {
        let file: Vec<String> = file.split('/').map(escaped).collect();
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.repo, file.join("/"))
    }

    fn what(&self, file: &str) -> String {
        format!("'{file}' of model '{}'", self.repo)
    }

    /// Redirects to elsewhere are not followed: what is known stands in the hub's own answer.
    pub fn file_info(&self, commit: &str, file: &str) -> Result<FileInfo> {
        Ok(self.with_retries(|| self.file_info_once(commit, file))?)
    }

    fn file_info_once(&self, commit: &str, file: &str) -> std::result::Result<FileInfo, Failure> {
        let what = self.what(file);
        let mut url = self.url(commit, file);
        for _ in 0..REDIRECTS_MAX {
            let mut request = self.staying.head(&url);
            if let Some(token) = self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let answer = request.call();
            let answer = answer.map_err(|e| Failure::Unreachable(self.unreachable(&what, &e)))?;
            if may_pass(answer.status()) {
                return Err(Failure::Unreachable(self.refusal(answer.status(), &what)));
            }
            let location = header(&answer, "location").filter(|_| answer.status().is_redirection());
            if let Some(path) = location.filter(|l| l.starts_with('/') && !l.starts_with("//")) {
                url = format!("{}{path}", origin(self.endpoint));
                continue;
            }
            if !answer.status().is_success() && !answer.status().is_redirection() {
                return Err(Failure::Refused(self.refusal(answer.status(), &what)));
            }

            let moved = answer.status().is_redirection();
            let length = header(&answer, "content-length").filter(|_| !moved);
            let bytes = header(&answer, "x-linked-size").or(length);
            let etag = header(&answer, "x-linked-etag").or_else(|| header(&answer, "etag"));
            let etag = etag.unwrap_or_default().trim_start_matches("W/").trim_matches('"');
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            // It becomes a file's name.
            if etag.is_empty() || etag.len() > 128 || !etag.chars().all(plain) {
                let text = format!("{what} comes with the ETag {etag:?}");
                return Err(Failure::Refused(self.nonsense(&text)));
            }
            let bytes = bytes.and_then(|n| n.parse().ok());
            return Ok(FileInfo { etag: etag.to_string(), bytes });
        }
        let text = format!("{what}: more than {REDIRECTS_MAX} redirects");
        Err(Failure::Refused(self.nonsense(&text)))
    }

    /// All bytes of a file behind those that `part` has already; goes on where a connection breaks.
    /// True if any of them were there before.
    pub fn bytes(
        &self,
        commit: &str,
        file: &str,
        size: Option<u64>,
        part: &mut std::fs::File,
        write_error: &dyn Fn(&std::io::Error) -> Error,
    ) -> Result<bool> {
        let length = |part: &std::fs::File| part.metadata().map(|m| m.len());
        let mut failures = 0;
        let mut have = length(part).map_err(|e| write_error(&e))?;
        if size.is_none_or(|size| have > size) {
            part.set_len(0).map_err(|e| write_error(&e))?;
            have = 0;
        }
        let resumed = have > 0;

        let mut progress = DownloadLog { file, size, last: Instant::now() };
        while size != Some(have) {
            let before = have;
            let outcome = self.once(commit, file, &mut have, part, &mut progress, write_error)?;
            let Err(error) = outcome else {
                if size.is_none() {
                    break;
                }
                failures = if have == before { failures + 1 } else { 0 };
                if failures < FAILURES_MAX {
                    continue;
                }
                let size = size.unwrap_or_default();
                let text = format!("{} ends after {have} of {size} bytes", self.what(file));
                return Err(self.nonsense(&text));
            };
            failures = if have == before { failures + 1 } else { 1 };
            if failures >= FAILURES_MAX {
                return Err(error);
            }
            tracing::warn!("{error} Going on at byte {have}.");
            std::thread::sleep(Duration::from_millis(self.retry_ms * failures));
        }
        Ok(resumed)
    }

    /// One request. The outer error ends the download, the inner one is worth another try.
    fn once(
        &self,
        commit: &str,
        file: &str,
        have: &mut u64,
        part: &mut std::fs::File,
        progress: &mut DownloadLog,
        write_error: &dyn Fn(&std::io::Error) -> Error,
    ) -> Result<std::result::Result<(), Error>> {
        let what = self.what(file);
        let mut request = self.following.get(self.url(commit, file));
        if let Some(token) = self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if *have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let answer = match request.call() {
            Ok(answer) => answer,
            Err(e) => return Ok(Err(self.unreachable(&what, &e))),
        };
        let status = answer.status();
        if may_pass(status) {
            return Ok(Err(self.refusal(status, &what)));
        }

        let continues = header(&answer, "content-range")
            .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        let goes_on = status == StatusCode::PARTIAL_CONTENT && continues == Some(*have);
        if !status.is_success() && status != StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(self.refusal(status, &what));
        }
        if !goes_on && *have > 0 {
            part.set_len(0).map_err(|e| write_error(&e))?;
            *have = 0;
        }
        if !goes_on && status != StatusCode::OK {
            return Ok(Err(self.nonsense(&format!("{what}: status {status} for a range"))));
        }

        let mut reader = answer.into_body().into_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            self.wanted()?;
            let count = match reader.read(&mut chunk) {
                Ok(0) => return Ok(Ok(())),
                Ok(count) => count,
                Err(e) => return Ok(Err(self.unreachable(&what, &e))),
            };
            // More than was promised must not fill the disk.
            if progress.size.is_some_and(|size| *have + count as u64 > size) {
                let _ = part.set_len(0);
                return Err(self.nonsense(&format!("{what} is longer than its size says")));
            }
            part.write_all(&chunk[..count]).map_err(|e| write_error(&e))?;
            *have += count as u64;
            progress.show(*have);
        }
    }

    fn unreachable(&self, what: &str, why: &dyn std::fmt::Display) -> Error {
        Error::Unavailable(format!(
            "{what}: {} cannot be reached: {why}; check the network, HF_ENDPOINT, HTTPS_PROXY \
             and SSL_CERT_FILE, or give a local folder as 'model'.",
            self.endpoint
        ))
    }

    fn nonsense(&self, what: &str) -> Error {
        Error::Unavailable(format!("{what}, which {} should not send.", self.endpoint))
    }

    fn refusal(&self, status: StatusCode, what: &str) -> Error {
        let (endpoint, repo) = (self.endpoint, self.repo);

        match status.as_u16() {
            401 if self.token.is_some() => invalid!(
                "{what}: {endpoint} does not accept the token (401): renew it in HF_TOKEN or \
                 'hf_token', and check the model's name."
            ),
            401 => invalid!(
                "{what}: {endpoint} wants a token (401): if the name is right, the model is \
                 private or gated; set HF_TOKEN or 'hf_token' in model.json."
            ),
            403 => invalid!(
                "{what}: access denied (403): ask for access or accept the licence at \
                 {endpoint}/{repo}, with the account whose token is in HF_TOKEN or 'hf_token'."
            ),
            404 => Error::NotFound(format!(
                "{what} does not exist on {endpoint} (404): check 'model' and 'revision' in \
                 model.json; a local folder must exist on this machine."
            )),
            429 => Error::Unavailable(format!(
                "{what}: {endpoint} gets too many requests (429): wait, or set HF_TOKEN."
            )),
            code => Error::Unavailable(format!(
                "{what}: {endpoint} answers with status {code}: try again later."
            )),
        }
    }
}

fn listing_of(body: &[u8]) -> Option<Listing> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let commit = json.get("sha")?.as_str()?;
    if commit.is_empty() || commit.len() > 64 || !commit.chars().all(|c| c.is_ascii_alphanumeric())
    {
        return None;
    }
    let names = json.get("siblings")?.as_array()?.iter();
    let names = names.filter_map(|file| file.get("rfilename")?.as_str());
    // Only files beside config.json are ever used, and some one folder below: a name is a file's.
    let below = |name: &str| SMALL_FILES.contains(&name) || is_gguf_below(name);
    let known = |name: &&str| !name.contains('/') || below(name);
    let plain = names.filter(known).filter(|name| !name.starts_with('.'));
    Some(Listing { commit: commit.to_string(), files: plain.map(str::to_string).collect() })
}

/// `folder/model.gguf`
fn is_gguf_below(name: &str) -> bool {
    let Some((folder, file)) = name.split_once('/') else { return false };
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('/');
    plain(folder) && plain(file) && is_gguf(file)
}

fn header<'r>(answer: &'r Response<Body>, name: &str) -> Option<&'r str> {
    answer.headers().get(name)?.to_str().ok()
}

/// Another try may bring another answer.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// The certificates of a PEM file that the variable `name` names.
///
/// # Errors
/// InvalidArgument: it cannot be read, or holds no certificate.
pub(super) fn roots(name: &str, file: &Path) -> Result<RootCerts> {
    let shown = file.display();
    let bytes = files::read(file, files::Kind::Certificates)
        .map_err(|e| invalid!("{name}: {e} Correct or unset it."))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let found: Vec<_> = parse_pem(&bytes).filter_map(certificate).collect();
    if found.is_empty() {
        return Err(invalid!("{name}: {shown} holds no PEM certificate; correct or unset it."));
    }
    Ok(found.into())
}

/// Scheme and host of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |at| &url[..host + at])
}

fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    let one = |b: u8| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(one).collect()
}

/// Says now and then how far a download is.
struct DownloadLog<'a> {
    file: &'a str,
    size: Option<u64>,
    last: Instant,
}

impl DownloadLog<'_> {
    fn show(&mut self, have: u64) {
        if self.last.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.last = Instant::now();
        let mega = |bytes: u64| bytes / 1_000_000;
        match self.size {
            Some(size) => tracing::info!(
                "downloading {}: {} of {} MB ({} %)",
                self.file,
                mega(have),
                mega(size),
                have * 100 / size.max(1)
            ),
            None => tracing::info!("downloading {}: {} MB", self.file, mega(have)),
        }
    }
}
