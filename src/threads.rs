//! How threads start and how their panics are caught: each thread has a name, there is one error
//! for one that the operating system refuses, and one text for a panic. A leaf that every module
//! may import; what a thread does, and who joins it, is the affair of the module that starts it.

use std::any::Any;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread::{Builder, JoinHandle};

use crate::error::Result;
use crate::internal;

/// Start a thread with the stack that Rust gives by default (2 MiB). The system shows the first 15
/// bytes of `name`.
///
/// # Errors
/// Internal: the operating system refuses a thread.
pub fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    try_spawn(name, body).map_err(refused)
}

/// [`spawn`] with a stack of this many bytes, for parsers that recurse.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_with_stack<T: Send + 'static>(
    name: String,
    stack_bytes: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    Builder::new().name(name).stack_size(stack_bytes).spawn(body).map_err(refused)
}

/// [`spawn`] for callers that say themselves what a refused thread means.
///
/// # Errors
/// The operating system's.
pub fn try_spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name).spawn(body)
}

fn refused(error: io::Error) -> crate::error::Error {
    internal!("cannot start a thread: {error}")
}

/// Run `body`. What it had borrowed when it panicked may be half changed: the caller must not go on
/// with that.
///
/// # Errors
/// It panicked: the panic's message, or "no message".
pub fn catch<T>(body: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| panic_text(&*panic))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let formatted = panic.downcast_ref::<String>().map(String::as_str);
    let literal = panic.downcast_ref::<&str>().copied();
    formatted.or(literal).unwrap_or("no message").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_by_its_message() {
        assert_eq!(catch(|| 5), Ok(5));
        assert_eq!(catch(|| panic!("a literal")), Err::<(), _>("a literal".into()));
        assert_eq!(catch(|| panic!("number {}", 7)), Err::<(), _>("number 7".into()));
        assert_eq!(catch(|| std::panic::panic_any(7)), Err::<(), _>("no message".into()));
    }

    #[test]
    fn a_thread_has_its_name_and_its_stack() {
        let name = || std::thread::current().name().map(str::to_string);
        let small = spawn("small".into(), name).expect("a thread");
        assert_eq!(small.join().expect("no panic").as_deref(), Some("small"));
        let deep = || {
            let bytes = [1u8; 4 << 20];
            std::hint::black_box(&bytes).iter().map(|&byte| usize::from(byte)).sum::<usize>()
        };
        let large = spawn_with_stack("large".into(), 16 << 20, deep).expect("a thread");
        assert_eq!(large.join().expect("no panic"), 4 << 20);
    }
}
