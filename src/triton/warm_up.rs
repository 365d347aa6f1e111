//! Warm-up requests (`model_warmup` in config.pbtxt), which the server sends to an instance before
//! the model is ready. Called by `model`, which counts them, and by `backend_request` at their end.
//!
//! One that fails makes the load fail, and there stock servers may read outside a list: the
//! instance's own thread says that the warm-up failed, and only then puts the instance back into
//! the list by which the thread that loads stops it. Which of the two is first is up to the kernel:
//! 15 of 33 such loads ended in SIGSEGV on two busy cores. When the error is sent and by which
//! thread does not matter: 30 ms later by another one it were 6 of 18. So the thread that loads,
//! which only waits for the warm-up, is held by a signal: one that is pending is handled before the
//! thread goes on, however it is woken.

use std::ffi::c_int;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::handles::monotonic_ns;

/// How long the thread that loads is held: thousands of times what the server needs.
const PAUSE_NS: u64 = 30_000_000;
/// A signal that nobody misses where it has no handler: it is ignored by default.
const SIGNAL: c_int = libc::SIGURG;

/// Until when held threads wait, by `monotonic_ns`.
static UNTIL_NS: AtomicU64 = AtomicU64::new(0);
/// Of who changes the signal's handler.
static HANDLER: Mutex<()> = Mutex::new(());

/// The warm-up of one instance.
pub(super) struct WarmUp {
    /// Requests that are still to come.
    left: AtomicU64,
    failed: AtomicBool,
    /// The thread that loads the instance.
    loader: libc::pid_t,
}

impl WarmUp {
    /// Of an instance that is loaded by this thread: its first `requests` requests.
    pub(super) fn new(requests: u64) -> WarmUp {
        // SAFETY: it takes nothing and cannot fail.
        let loader = unsafe { libc::gettid() };
        WarmUp { left: AtomicU64::new(requests), failed: AtomicBool::new(false), loader }
    }

    /// Whether the request that has come is one of the warm-up.
    pub(super) fn takes_one(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }

    /// One of its requests ends now: to be called before its last response is sent. The server
    /// waits for all requests of a sample, so that after one that failed each may be the last.
    pub(super) fn ends_one(&self, failed: bool) {
        if self.failed.fetch_or(failed, Ordering::AcqRel) || failed {
            hold(self.loader);
        }
    }
}

/// Hold a thread of this process for a moment, before it does anything else.
fn hold(thread: libc::pid_t) {
    UNTIL_NS.fetch_max(monotonic_ns() + PAUSE_NS, Ordering::AcqRel);
    if !install() {
        return;
    }
    // SAFETY: the signal is ours; for a thread that is gone it does nothing.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
}

/// The handler: it calls nothing but what a handler may.
extern "C" fn wait(_: c_int) {
    // SAFETY: errno is this thread's own, and has to be for the code that was interrupted what it
    // was.
    let errno = unsafe { *libc::__errno_location() };
    loop {
        let left = UNTIL_NS.load(Ordering::Acquire).saturating_sub(monotonic_ns());
        if left == 0 {
            break;
        }
        let left = libc::timespec { tv_sec: 0, tv_nsec: left.min(PAUSE_NS) as _ };
        // SAFETY: the time is ours, and the rest of it is not asked for.
        unsafe { libc::nanosleep(&left, ptr::null_mut()) };
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Our handler's address, as the system has it.
fn ours() -> libc::sighandler_t {
    wait as extern "C" fn(c_int) as libc::sighandler_t
}

/// What handles the signal now. None: the system does not say.
fn current() -> Option<libc::sighandler_t> {
    // SAFETY: a sigaction is numbers and pointers, for which zeros are good; it is only written.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        (libc::sigaction(SIGNAL, ptr::null(), &mut action) == 0).then_some(action.sa_sigaction)
    }
}

fn set(handler: libc::sighandler_t) -> bool {
    // SAFETY: the handler is `wait` or the default, and may run on any thread at any time. System
    // calls that it interrupts go on.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(SIGNAL, &action, ptr::null_mut()) == 0
    }
}

/// Whether the signal is ours: not where somebody else in this process listens to it.
fn install() -> bool {
    let _guard = HANDLER.lock();
    match current() {
        Some(handler) if handler == ours() => true,
        Some(libc::SIG_DFL | libc::SIG_IGN) => set(ours()),
        _ => false,
    }
}

/// The library may leave the process: nothing points into it any more.
pub(super) fn close() {
    let _guard = HANDLER.lock();
    if current() == Some(ours()) {
        set(libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    /// How long after the end of a warm-up request the thread that loads goes on, for each end.
    fn delays(ends: &[bool]) -> Vec<Duration> {
        let (made, warm_up) = mpsc::channel();
        let (end, ended) = mpsc::channel::<Instant>();
        let loader = std::thread::spawn(move || {
            made.send(WarmUp::new(0)).unwrap();
            ended.iter().map(|since| since.elapsed()).collect::<Vec<_>>()
        });
        let warm_up = warm_up.recv().unwrap();
        for &failed in ends {
            // It waits, like the server's.
            std::thread::sleep(Duration::from_millis(100));
            warm_up.ends_one(failed);
            end.send(Instant::now()).unwrap();
        }
        drop(end);
        loader.join().unwrap()
    }

    #[test]
    fn after_a_failure_the_thread_that_loads_goes_on_later() {
        let delays = delays(&[false, true, false]);
        let least = Duration::from_nanos(PAUSE_NS / 2);
        assert!(delays[1] > least && delays[2] > least, "{delays:?}");
        assert!(install(), "the signal stays ours");
        close();
        assert_eq!(current(), Some(libc::SIG_DFL));
    }

    #[test]
    fn only_the_first_requests_warm_up() {
        let warm_up = WarmUp::new(2);
        assert!(warm_up.takes_one() && warm_up.takes_one());
        assert!(!warm_up.takes_one() && !warm_up.takes_one());
        assert!(!WarmUp::new(0).takes_one());
    }
}
