//! Image files of URLs, from hosts that the operator named and no others. Blocking, on threads of
//! its own. A client chooses the URL and a host what it answers, so everything is limited: time,
//! bytes, redirects, and where a name may lead to.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::{header, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::Agent;

use crate::error::{Error, Result};
use crate::invalid;

/// Key of model.json that names the hosts.
pub const DOMAINS: &str = "allowed_media_domains";
/// For one file, redirects included.
const FILE_TIME: Duration = Duration::from_secs(5);
const REDIRECTS_MAX: usize = 5;

/// Is this a URL and not a file?
pub fn is_url(text: &str) -> bool {
    let begins = |scheme: &str| {
        text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    };
    begins("http://") || begins("https://")
}

/// Fetches from some hosts.
pub struct Fetcher {
    hosts: Vec<String>,
    agent: Agent,
}

impl Fetcher {
    /// From these hosts, whose certificates `roots` vouch for.
    pub fn new(hosts: &[String], roots: RootCerts) -> Fetcher {
        let hosts: Vec<String> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Each step of the way is judged here.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("triton_vllm/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        let resolver = JudgingResolver { own: DefaultResolver::default(), hosts: hosts.clone() };
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        Fetcher { hosts, agent }
    }

    /// May it be fetched at all? Judged before anything is.
    ///
    /// # Errors
    /// InvalidArgument: it is no URL of one of the hosts.
    pub fn check(&self, url: &str) -> Result<()> {
        self.allowed(url).map(|_| ())
    }

    /// The file of a URL, of at most `room` bytes, before `until`.
    ///
    /// # Errors
    /// InvalidArgument: as `check`, also of where a host sends us on to; the host has no such file,
    /// or a larger one. Unavailable: it does not answer, or not in time.
    pub fn fetch(&self, url: &str, room: usize, until: Instant) -> Result<Vec<u8>> {
        let until = until.min(Instant::now() + FILE_TIME);
        let mut uri = self.allowed(url)?;
        for _ in 0..=REDIRECTS_MAX {
            let host = uri.host().unwrap_or_default().to_owned();
            let failed = |error: ureq::Error| failure(&host, room, error);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed(ureq::Error::Timeout(ureq::Timeout::Global)));
            }

            let request = self.agent.get(uri.clone()).config().timeout_global(Some(left)).build();
            let mut answer = request.call().map_err(failed)?;
            let status = answer.status();
            if status.is_redirection() {
                let place = answer.headers().get(header::LOCATION);
                let place = place.and_then(|place| place.to_str().ok());
                let place = place.ok_or_else(|| invalid!("image: {host} sends on to nowhere."))?;
                let next = self.allowed(&joined(&uri, place))?;
                if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                    return Err(invalid!("image: {host} sends on from https to http."));
                }
                uri = next;
                continue;
            }
            if status.is_server_error() || status.as_u16() == 429 {
                return Err(Error::Unavailable(format!(
                    "image: {host} answers with status {}.",
                    status.as_u16()
                )));
            }
            if !status.is_success() {
                return Err(invalid!("image: {host} answers with status {}.", status.as_u16()));
            }
            // One more, so that a file of just that size is none that is too large.
            let body = answer.body_mut().with_config().limit(room as u64 + 1).read_to_vec();
            let body = body.map_err(failed)?;
            if body.len() > room {
                return Err(failed(ureq::Error::BodyExceedsLimit(room as u64)));
            }
            return Ok(body);
        }
        Err(invalid!("image: more than {REDIRECTS_MAX} redirects."))
    }

    fn allowed(&self, url: &str) -> Result<Uri> {
        let uri: Uri = url.parse().map_err(|_| invalid!("image: no URL that can be read."))?;
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        if !matches!(scheme, "http" | "https") || authority.is_empty() {
            return Err(invalid!("image: no URL of http or https."));
        }
        if authority.contains('@') {
            return Err(invalid!("image: a URL with a user's name is not fetched."));
        }
        let host = uri.host().unwrap_or_default();
        if !is_one_of(&self.hosts, host) {
            return Err(invalid!(
                "image: nothing is fetched from '{}', which '{DOMAINS}' of model.json does not \
                 name.",
                crate::json::cut(host)
            ));
        }
        Ok(uri)
    }
}

fn is_one_of(hosts: &[String], host: &str) -> bool {
    hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
}

/// Where `place` leads to from `uri`: it may be a whole URL, or lack what is the same.
fn joined(uri: &Uri, place: &str) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    if is_url(place) {
        return place.to_owned();
    }
    if place.starts_with("//") {
        return format!("{scheme}:{place}");
    }
    if place.starts_with('/') {
        return format!("{scheme}://{authority}{place}");
    }
    if place.contains(':') {
        // Another scheme, which is refused.
        return place.to_owned();
    }
    let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{scheme}://{authority}{folder}/{place}")
}

/// One line, without what a stranger may have put into an answer.
fn failure(host: &str, room: usize, error: ureq::Error) -> Error {
    match error {
        ureq::Error::Other(inner) if inner.is::<LeadsInside>() => {
            invalid!("image: {inner}")
        }
        ureq::Error::BodyExceedsLimit(_) => {
            invalid!("image: the file from {host} is larger than the {room} bytes that are left.")
        }
        ureq::Error::Timeout(_) => {
            Error::Unavailable(format!("image: {host} does not send the file in time."))
        }
        error => Error::Unavailable(format!("image: {host} cannot be reached: {error}.")),
    }
}

/// Resolves as ever, but names lead nowhere inside.
#[derive(Debug)]
struct JudgingResolver {
    own: DefaultResolver,
    hosts: Vec<String>,
}

impl Resolver for JudgingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.own.resolve(uri, config, timeout)?;
        let host = uri.host().unwrap_or_default();
        // What is not on the list is the proxy that the environment names.
        let judged = is_one_of(&self.hosts, host);
        match found.iter().find(|to| judged && leads_inside(host, to.ip())) {
            Some(to) => {
                Err(ureq::Error::Other(LeadsInside { host: host.into(), to: to.ip() }.into()))
            }
            None => Ok(found),
        }
    }
}

/// Whoever answers for a name must not be able to send us to this machine's own services, nor to
/// those that clouds keep on link-local addresses. An address that the list names is meant.
fn leads_inside(host: &str, to: IpAddr) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    if literal.parse::<IpAddr>().is_ok() {
        return false;
    }
    let inside = |to: Ipv4Addr| {
        to.is_unspecified() || to.is_link_local() || to.is_multicast() || to.is_broadcast()
    };
    let (own, inside) = match to.to_canonical() {
        IpAddr::V4(to) => (to.is_loopback(), inside(to) || to.octets()[0] == 0),
        IpAddr::V6(to) => {
            let link_local = to.segments()[0] & 0xffc0 == 0xfe80;
            (to.is_loopback(), link_local || to.is_unspecified() || to.is_multicast())
        }
    };
    inside || own && !host.eq_ignore_ascii_case("localhost")
}

#[derive(Debug)]
struct LeadsInside {
    host: String,
    to: IpAddr,
}

impl std::fmt::Display for LeadsInside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LeadsInside { host, to } = self;
        write!(f, "'{host}' leads to {to}, which only '{DOMAINS}' itself may name.")
    }
}

impl std::error::Error for LeadsInside {}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
