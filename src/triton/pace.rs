//! Holds responses back while the server's HTTP threads lag. The stock server hands each response
//! to its HTTP thread by a non-blocking write to a unix socket pair and **drops it when the pair is
//! full**: a lost event, or a lost FINAL that hangs the client. So before some sends we look how
//! much is queued in the process's socket pairs, and wait while it is much. Passive: nothing of the
//! server is changed. Without an HTTP front end there are no such pairs and nothing is done. Called
//! by `client`.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

/// Look at the queues before each so-manieth send of a thread. A queued response occupies under 1
/// kB of its socket, so 16 sends by each of a few threads are far less than what is left above the
/// limit.
const SENDS_PER_LOOK: u32 = 16;
/// A socket takes about 208 kB by default; half of it leaves room for sends between two looks.
const QUEUED_BYTES_MAX: libc::c_int = 100_000;
const PAUSE: Duration = Duration::from_micros(50);
/// An HTTP thread that does not move for so long is stuck: waiting on would hang every client.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a list of sockets holds. The server makes its pairs once, at the start of its HTTP
/// service.
const REFRESH: Duration = Duration::from_secs(10);
const REFRESH_EMPTY: Duration = Duration::from_secs(1);

struct Pairs {
    fds: Vec<RawFd>,
    stale_at: Option<Instant>,
}

static PAIRS: RwLock<Pairs> = RwLock::new(Pairs { fds: Vec::new(), stale_at: None });

thread_local! {
    static SENDS: Cell<u32> = const { Cell::new(0) };
}

/// To be called before each response.
pub(super) fn before_send() {
    let sends = SENDS.get();
    SENDS.set(sends.wrapping_add(1));
    if !sends.is_multiple_of(SENDS_PER_LOOK) {
        return;
    }
    let now = Instant::now();
    refresh(now);
    let pairs = PAIRS.read();
    while pairs.fds.iter().any(|&fd| queued_bytes(fd) > QUEUED_BYTES_MAX) {
        if now.elapsed() > PATIENCE {
            tracing::warn!("the server's HTTP threads have not taken responses for {PATIENCE:?}");
            return;
        }
        std::thread::sleep(PAUSE);
    }
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
    use std::io::Write;
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
}
