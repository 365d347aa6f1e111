//! How threads start and how their panics are caught: each thread has a name, there is one error
//! for one that the operating system refuses, and one text for a panic. A leaf that every module
//! may import; what a thread does, and who joins it, is the affair of the module that starts it.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;
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

/// Run `body` on each item at the same time, each on a thread of its own named `<name><number>`,
/// until all have ended.
///
/// # Errors
/// The first item's whose body fails. Internal: the operating system refuses a thread, or a body
/// panicked.
pub fn each<T: Send, R: Send>(
    name: &str,
    items: Vec<T>,
    body: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let body = &body;
    std::thread::scope(|scope| {
        let start = |(n, item)| {
            let run = move || catch(|| body(item));
            Builder::new().name(format!("{name}{n}")).spawn_scoped(scope, run).map_err(refused)
        };
        let started: Vec<_> = items.into_iter().enumerate().map(start).collect();

        let ends = started.into_iter().map(|thread| {
            // A panic is caught on the thread.
            let end = thread?.join().unwrap_or_else(|_| Err("no message".into()));
            end.unwrap_or_else(|panic| Err(internal!("a thread panicked: {panic}")))
        });
        // All of them, so that the first in order is told.
        ends.collect::<Vec<_>>().into_iter().collect()
    })
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

/// [`catch`] for what others' code does with a client's data: nothing is printed, for a client
/// could fill the log with it.
///
/// # Errors
/// As [`catch`].
pub fn catch_quietly<T>(body: impl FnOnce() -> T) -> std::result::Result<T, String> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });

    let was = QUIET.replace(true);
    let outcome = catch(body);
    QUIET.set(was);
    outcome
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
        assert_eq!(catch_quietly(|| panic!("number {}", 8)), Err::<(), _>("number 8".into()));
    }

    #[test]
    fn each_item_has_a_thread_and_all_end() {
        let meet = std::sync::Barrier::new(3);
        let names = each("item", vec![5, 6, 7], |n| {
            meet.wait();
            Ok((n, std::thread::current().name().map(str::to_string)))
        });
        let want = [(5, "item0"), (6, "item1"), (7, "item2")];
        assert_eq!(names.unwrap(), want.map(|(n, name)| (n, Some(name.to_string()))));

        let ended = std::sync::atomic::AtomicUsize::new(0);
        let outcome = each("item", vec![0, 1, 2], |n| {
            ended.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            match n {
                1 => panic!("number one"),
                2 => Err(internal!("number two")),
                n => Ok(n),
            }
        });
        assert_eq!(outcome, Err(internal!("a thread panicked: number one")));
        assert_eq!(ended.into_inner(), 3);
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
