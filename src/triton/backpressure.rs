//! Holds responses back while an HTTP thread of the server lags. The stock server hands each
//! response to its HTTP thread by a non-blocking write to a unix socket pair and **drops it when
//! the pair is full**: a lost event, or a lost FINAL that hangs the client. So before some sends we
//! look how much is queued in the process's socket pairs, and a request whose thread has much
//! queued waits. Nothing of the server is changed. Without an HTTP front end there are no such
//! pairs and nothing is done. Called by `backend_request`.
//!
//! Only the requests of the pair that is crowded may wait, and the server does not say which those
//! are: a gRPC request looks like an HTTP one. But a pair whose thread is stuck keeps what it
//! holds, so one response that is sent then shows it: if the pair holds more afterwards and nobody
//! else sent meanwhile, the request is one of its own; if it holds the same, the request is
//! another's. Each request learns that once, when it first meets a crowded pair. Such trials end
//! well before a pair is full, and then requests of unknown pairs wait too.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

/// Look at the queues before every 16th send of a thread, and before each while a pair is
/// crowded. A queued response occupies under 1 kB of its socket, so 16 sends by each of a few
/// threads are far less than what is left above the limit.
const SENDS_PER_LOOK: u32 = 16;
/// A socket takes about 208 kB by default; half of it leaves room for sends between two looks.
const QUEUED_BYTES_MAX: libc::c_int = 100_000;
/// Up to here requests of unknown pairs may try.
const TRIAL_BYTES_MAX: libc::c_int = 150_000;
/// A thread that is at work takes a response in less.
const TAKES_AT_MOST: Duration = Duration::from_micros(100);
/// Between two looks of a request that waits.
const PAUSE: Duration = Duration::from_micros(50);
/// An HTTP thread that does not move for so long is stuck: waiting on would hang every client.
const STUCK_LIMIT: Duration = Duration::from_secs(5);
/// How long a list of sockets holds. The server makes its pairs once, at the start of its HTTP
/// service.
const REFRESH: Duration = Duration::from_secs(10);
/// While there are none.
const REFRESH_EMPTY: Duration = Duration::from_secs(1);

/// The process's socket pairs.
struct Pairs {
    fds: Vec<RawFd>,
    stale_at: Option<Instant>,
}

static PAIRS: RwLock<Pairs> = RwLock::new(Pairs { fds: Vec::new(), stale_at: None });
/// A pair was crowded at the last look.
static CROWDED: AtomicBool = AtomicBool::new(false);
/// Sends that began, and those that ended: whether a send was alone.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static SENDS: Cell<u32> = const { Cell::new(0) };
}

/// What is known of the pair that a request's responses go through. One per request.
#[derive(Default)]
pub(super) struct HttpPair {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The pair.
    own: Option<RawFd>,
    /// Pairs that are not it.
    foreign: Vec<RawFd>,
    /// Since when it waits.
    waits_since: Option<Instant>,
}

/// Whether a response may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Send,
    /// This pair is crowded and may be the request's: one response will show.
    Try(RawFd),
    Wait,
}

impl HttpPair {
    /// A response may go out without waiting.
    pub(super) fn clear(&self) -> bool {
        !look_is_due() || self.verdict() != Verdict::Wait
    }

    /// Call `send`, which hands one response to the server, as soon as there is room for it.
    pub(super) fn send<T>(&self, send: impl FnOnce() -> T) -> T {
        if !look_is_due() {
            return counted(send).0;
        }
        loop {
            match self.verdict() {
                Verdict::Send => return counted(send).0,
                Verdict::Try(fd) => return self.try_out(fd, send),
                Verdict::Wait => std::thread::sleep(PAUSE),
            }
        }
    }

    fn verdict(&self) -> Verdict {
        let now = Instant::now();
        refresh(now);

        let queued = PAIRS.read().fds.iter().map(|&fd| (fd, queued_bytes(fd))).collect::<Vec<_>>();
        let crowded = queued.into_iter().filter(|(_, queued)| *queued > QUEUED_BYTES_MAX);
        let crowded = crowded.collect::<Vec<_>>();
        CROWDED.store(!crowded.is_empty(), Ordering::Relaxed);
        let mut known = self.known.lock();
        let verdict = known.judge(&crowded);

        if verdict != Verdict::Wait {
            known.waits_since = None;
        } else if now.duration_since(*known.waits_since.get_or_insert(now)) > STUCK_LIMIT {
            tracing::warn!(
                "the server's HTTP threads have not taken responses for {STUCK_LIMIT:?}"
            );
            known.waits_since = None;
            return Verdict::Send;
        }
        verdict
    }

    /// Send, and learn from the crowded pair `fd` whether it is the request's.
    fn try_out<T>(&self, fd: RawFd, send: impl FnOnce() -> T) -> T {
        let earlier = queued_bytes(fd);
        std::thread::sleep(TAKES_AT_MOST);
        let before = queued_bytes(fd);
        let (sent, alone) = counted(send);
        let after = queued_bytes(fd);

        let mut known = self.known.lock();
        if after > before && alone {
            known.own = Some(fd);
        }
        if earlier == before && before == after {
            known.foreign.push(fd);
        }
        sent
    }
}

impl Known {
    /// What the crowded pairs with their bytes mean for this request.
    fn judge(&self, crowded: &[(RawFd, libc::c_int)]) -> Verdict {
        let may_be_own = |fd| match self.own {
            Some(own) => own == fd,
            None => !self.foreign.contains(&fd),
        };
        match crowded.iter().find(|(fd, _)| may_be_own(*fd)) {
            None => Verdict::Send,
            Some(&(fd, queued)) if self.own.is_none() && queued < TRIAL_BYTES_MAX => {
                Verdict::Try(fd)
            }
            Some(_) => Verdict::Wait,
        }
    }
}

/// Once in `SENDS_PER_LOOK` calls of this thread, always while a pair is crowded.
fn look_is_due() -> bool {
    let sends = SENDS.get();
    SENDS.set(sends.wrapping_add(1));
    sends.is_multiple_of(SENDS_PER_LOOK) || CROWDED.load(Ordering::Relaxed)
}

/// Call `send`; true if no other send ran meanwhile.
fn counted<T>(send: impl FnOnce() -> T) -> (T, bool) {
    let begun = BEGUN.fetch_add(1, Ordering::AcqRel) + 1;
    let ended = ENDED.load(Ordering::Acquire);
    let sent = send();
    let alone = ended + 1 == begun && BEGUN.load(Ordering::Acquire) == begun;
    ENDED.fetch_add(1, Ordering::AcqRel);
    (sent, alone)
}

fn refresh(now: Instant) {
    if PAIRS.read().stale_at.is_some_and(|at| now < at) {
        return;
    }
    // One thread looks; the others go on with the old list meanwhile.
    let Some(mut pairs) = PAIRS.try_write() else { return };
    pairs.fds = own_socket_pairs();
    let holds = if pairs.fds.is_empty() { REFRESH_EMPTY } else { REFRESH };
    pairs.stale_at = Some(now + holds);
}

/// Unix stream sockets of this process whose other end is in this process too.
fn own_socket_pairs() -> Vec<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let fds = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    fds.filter(|&fd| is_own_pair(fd)).collect()
}

fn is_own_pair(fd: RawFd) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
        && option(fd, libc::SO_TYPE) == Some(libc::SOCK_STREAM)
        && read_option(fd, libc::SO_PEERCRED, &mut peer)
        && u32::try_from(peer.pid) == Ok(std::process::id())
}

fn option(fd: RawFd, name: libc::c_int) -> Option<libc::c_int> {
    let mut value = 0;
    read_option(fd, name, &mut value).then_some(value)
}

fn read_option<T>(fd: RawFd, name: libc::c_int, value: &mut T) -> bool {
    let mut length = size_of::<T>() as libc::socklen_t;
    let value: *mut T = value;
    // SAFETY: the kernel writes at most `length` bytes into `value`; a wrong or closed fd is an
    // error.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, value.cast(), &mut length) == 0 }
}

/// Bytes sent into `fd` and not yet read at the other end; 0 if it is no socket any more.
fn queued_bytes(fd: RawFd) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: SIOCOUTQ (called TIOCOUTQ by libc) writes one int.
    match unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut bytes) } {
        0 => bytes,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn finds_own_pairs_and_sees_what_is_queued() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pairs = own_socket_pairs();
        assert!(pairs.contains(&near.as_raw_fd()) && pairs.contains(&far.as_raw_fd()));
        assert!(!pairs.contains(&tcp.as_raw_fd()));
        assert_eq!(queued_bytes(near.as_raw_fd()), 0);
        near.write_all(&[0; 4096]).unwrap();
        assert!(queued_bytes(near.as_raw_fd()) >= 4096);
        assert_eq!(queued_bytes(far.as_raw_fd()), 0);
    }

    /// A stuck HTTP thread: its own request waits, one of gRPC and one of another thread do not.
    #[test]
    fn only_the_requests_of_a_crowded_pair_wait() {
        let (mut stuck, mut thread) = UnixStream::pair().unwrap();
        let (mut idle, _other) = UnixStream::pair().unwrap();
        while queued_bytes(stuck.as_raw_fd()) <= QUEUED_BYTES_MAX {
            stuck.write_all(&[0; 24]).unwrap();
        }
        let (own, grpc, elsewhere) =
            (HttpPair::default(), HttpPair::default(), HttpPair::default());
        let event = [1; 24];
        for _ in 0..3 {
            PAIRS.write().stale_at = None;
            own.try_out(stuck.as_raw_fd(), || stuck.write_all(&event).unwrap());
            grpc.try_out(stuck.as_raw_fd(), || ());
            elsewhere.try_out(stuck.as_raw_fd(), || idle.write_all(&event).unwrap());
        }
        let crowded = stuck.as_raw_fd();
        let foreign = |pair: &HttpPair| pair.known.lock().foreign.contains(&crowded);
        assert!(foreign(&grpc) && foreign(&elsewhere) && !foreign(&own));
        // Other tests send nothing, so the request was alone at least once.
        assert_eq!(own.known.lock().own, Some(crowded));
        assert_eq!(own.verdict(), Verdict::Wait);
        assert_ne!(grpc.verdict(), Verdict::Wait);

        let mut taken = vec![0; 1 << 20];
        thread.set_nonblocking(true).unwrap();
        while thread.read(&mut taken).is_ok() {}
        assert_eq!(own.verdict(), Verdict::Send);
    }
}
