//! A hub on loopback for tests: one model with one commit, and whatever misbehaviour a test asks
//! for. Speaks just enough HTTP/1.1.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use ring::digest::{digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Default)]
pub struct HubState {
    pub files: BTreeMap<String, Vec<u8>>,
    /// The next answers, whatever is asked.
    pub statuses: Vec<u16>,
    /// Answer every request with this status.
    pub status: Option<u16>,
    /// Answer requests for files, not for the listing, with this status.
    pub file_status: Option<u16>,
    /// The next answers to GET of a file end after so many bytes of body.
    pub cuts: Vec<usize>,
    /// Sent in place of the first byte of each file.
    pub damage: Option<u8>,
    pub etag: Option<String>,
    /// `METHOD path [range] [authorization]` of all requests.
    pub log: Vec<String>,
}

pub struct StandIn {
    pub endpoint: String,
    state: Arc<Mutex<HubState>>,
}

impl StandIn {
    pub fn new(files: &[(&str, &[u8])]) -> StandIn {
        StandIn::with(files, "http", |stream| stream)
    }

    /// Over TLS, with a certificate for 127.0.0.1 that `tests/fixtures/tls/ca.pem` signed.
    pub fn with_tls(files: &[(&str, &[u8])]) -> StandIn {
        let pem = |name: &str| std::fs::read(tls_file(name)).unwrap();
        let certificate = CertificateDer::from_pem_slice(&pem("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem("key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate], key).unwrap());
        StandIn::with(files, "https", move |stream| {
            StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream)
        })
    }

    fn with<S: Read + Write>(
        files: &[(&str, &[u8])],
        scheme: &str,
        wrap: impl Fn(TcpStream) -> S + Send + 'static,
    ) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, data)| (name.to_string(), data.to_vec()));
        let state = HubState { files: files.collect(), ..HubState::default() };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(wrap(stream), &shared);
            }
        });
        StandIn { endpoint, state }
    }

    pub fn state(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap()
    }

    /// Requests since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As the hub: SHA-256 for weights, git's hash for the rest.
pub fn etag(name: &str, data: &[u8]) -> String {
    if name.ends_with(".safetensors") || name.ends_with(".bin") {
        return hex(digest(&SHA256, data).as_ref());
    }
    let git = [format!("blob {}\0", data.len()).as_bytes(), data].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &git).as_ref())
}

pub fn tls_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

fn answer(mut stream: impl Read + Write, state: &Mutex<HubState>) -> std::io::Result<()> {
    let mut lines = BufReader::new(&mut stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ');
    let method = words.next().unwrap_or("");
    let path = words.next().unwrap_or("").to_string();
    let mut from = None;
    let mut entry = format!("{method} {path}");
    for line in lines.by_ref() {
        let line = line?;
        let Some((key, value)) = line.split_once(": ") else { break };
        if key.eq_ignore_ascii_case("range") || key.eq_ignore_ascii_case("authorization") {
            entry += &format!(" {value}");
        }
        if let Some(range) = value.strip_prefix("bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok();
        }
    }

    let mut state = state.lock().unwrap();
    state.log.push(entry);
    drop(lines);
    let mut send = |status: u16, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        stream.flush()
    };

    let refuse = "Content-Length: 0\r\n";
    if !state.statuses.is_empty() {
        let status = state.statuses.remove(0);
        return send(status, refuse, b"");
    }
    if let Some(status) = state.status {
        return send(status, refuse, b"");
    }

    if path.starts_with("/api/models/") {
        let names: Vec<String> =
            state.files.keys().map(|name| format!(r#"{{"rfilename":"{name}"}}"#)).collect();
        let body = format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, names.join(","));
        return send(200, &format!("Content-Length: {}\r\n", body.len()), body.as_bytes());
    }

    let file = path.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/'));
    let name = file.map_or("", |(_, name)| name).to_string();
    let Some(data) = state.files.get(&name).cloned() else { return send(404, refuse, b"") };
    if let Some(status) = state.file_status {
        return send(status, refuse, b"");
    }
    let etag = state.etag.clone().unwrap_or_else(|| etag(&name, &data));
    let mut sent = data.clone();
    if let (Some(first), Some(byte)) = (sent.first_mut(), state.damage) {
        *first = byte;
    }

    let start = from.unwrap_or(0).min(sent.len());
    let body = &sent[start..];
    let mut headers = format!(
        "ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {}\r\n",
        body.len()
    );
    if method == "HEAD" {
        return send(200, &headers, b"");
    }
    let cut = if state.cuts.is_empty() { body.len() } else { state.cuts.remove(0).min(body.len()) };
    if from.is_some() {
        headers += &format!("Content-Range: bytes {start}-{}/{}\r\n", sent.len() - 1, sent.len());
    }
    send(if from.is_some() { 206 } else { 200 }, &headers, &body[..cut])
}

/// A folder that is gone when the test ends.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("hub-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new(&self.0).join(inside)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
