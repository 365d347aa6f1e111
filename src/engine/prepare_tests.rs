//! Requests that wait for others to be prepared: which of them may, and which may not.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, unbounded, Receiver, Sender};
use parking_lot::{Condvar, Mutex};

use super::request::{Answer, Client, ImageSource};
use super::tests::{bench, request, Bench, Fault, PATIENCE, TOKENIZER};
use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// What a thread that prepares requests asks its first question of.
struct Asked<F> {
    cancelled: F,
    ends: Sender<Result<Answer>>,
}

impl<F: Fn() -> bool + Send + Sync> Client for Asked<F> {
    fn cancelled(&self) -> bool {
        (self.cancelled)()
    }

    fn respond(&self, _: Answer) {}

    fn finish(&self, outcome: Result<Answer>) {
        let _ = self.ends.send(outcome);
    }
}

/// Has so many bytes of words that are not to be said.
fn submit(
    bench: &Bench,
    bytes: usize,
    cancelled: impl Fn() -> bool + Send + Sync + 'static,
) -> Receiver<Result<Answer>> {
    let (ends, told) = unbounded();
    let words = "x".repeat(bytes / 2);
    let sampling = format!(r#"{{"temperature": 0, "max_tokens": 3, "bad_words": ["{words}"]}}"#);
    let request = request(Arc::new(Asked { cancelled, ends }), false, &sampling).expect("valid");
    bench.engine.submit(request).expect("room");
    told
}

/// Two chats, and two books, are prepared at the same time: each waits for the other.
#[test]
fn requests_of_a_kind_are_prepared_side_by_side() {
    for bytes in [4 << 10, 100 << 10] {
        let bench = bench(Fault::None, 1, 4, 64);
        let here = Arc::new((Mutex::new(0), Condvar::new()));
        let both: Vec<_> = (0..2)
            .map(|_| {
                let (here, met) = (here.clone(), OnceLock::new());
                let meet = move || {
                    let (count, came) = &*here;
                    let mut count = count.lock();
                    *count += 1;
                    came.notify_all();
                    let alone = |count: &mut usize| *count < 2;
                    !came.wait_while_for(&mut count, alone, PATIENCE / 4).timed_out()
                };
                submit(&bench, bytes, move || *met.get_or_init(&meet))
            })
            .collect();
        for told in both {
            let outcome = told.recv_timeout(PATIENCE).expect("a final");
            assert!(matches!(outcome, Err(Error::Cancelled(_))), "{bytes} bytes: {outcome:?}");
        }
        bench.engine.drain(PATIENCE);
    }
}

/// Pictures are read one at a time, on the thread for them, also where a grammar is to be compiled:
/// beside each other they take more memory than there is, and the time that the grammar has.
#[test]
fn images_are_read_before_a_grammar_is_compiled() {
    let bench = bench(Fault::None, 1, 4, 64);
    let (ends, told) = unbounded();
    let (asks, asked) = unbounded();
    let cancelled = move || {
        let _ = asks.send(std::thread::current().name().unwrap_or_default().to_string());
        false
    };
    let sampling = r#"{"max_tokens": 3, "structured_outputs": {"choice": ["a", "b"]}}"#;
    let client = Arc::new(Asked { cancelled, ends });
    let mut request = request(client, false, sampling).expect("valid");
    request.images = vec![ImageSource::Text("a picture".into())];
    bench.engine.submit(request).expect("room");

    let error = told.recv_timeout(PATIENCE).expect("a final").expect_err("the model takes none");
    assert!(error.message().contains("text-only"), "{error}");
    let threads: Vec<String> = asked.try_iter().collect();
    assert!(threads.iter().any(|name| name.starts_with("image")), "{threads:?}");
    assert!(!threads.iter().any(|name| name.starts_with("compile")), "{threads:?}");
    bench.engine.drain(PATIENCE);
}

/// However many books there are, a chat does not wait for them.
#[test]
fn books_hold_up_no_chat() {
    let bench = bench(Fault::None, 1, 4, 64);
    let (open, gate) = bounded::<()>(0);
    let books: Vec<_> = (0..20)
        .map(|_| {
            let gate = gate.clone();
            submit(&bench, 100 << 10, move || gate.recv_timeout(PATIENCE) != Ok(()))
        })
        .collect();

    let chat = submit(&bench, 4 << 10, || false);
    assert!(chat.recv_timeout(PATIENCE / 2).expect("a final").is_ok());

    drop(open);
    for told in books {
        assert!(told.recv_timeout(PATIENCE).expect("a final").is_err());
    }
    bench.engine.drain(Duration::from_secs(5));
}

/// The threads of books tokenise pieces of texts that others have begun.
#[test]
fn books_are_tokenised_by_all_of_their_threads() {
    let bench = bench(Fault::None, 1, 4, 64);
    let tokenizer = &bench.engine.intake.tokenizer;
    let text = "the most dangerous animal is nobody ".repeat(4000);
    let whole = Tokenizer::load(Path::new(TOKENIZER)).expect("fixture").encode(&text);
    let helper = tokenizer.helper();
    assert_eq!(tokenizer.encode(&text), whole);
    let begun = Instant::now();
    while !helper.calls().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "nobody answers");
        std::thread::sleep(Duration::from_millis(1));
    }

    // They are books' threads still, also while others ask for help.
    let asking = std::thread::scope(|scope| {
        let asks = scope.spawn(|| (0..20).map(|_| tokenizer.encode(&text)).collect::<Vec<_>>());
        let book = submit(&bench, 100 << 10, || false);
        assert!(book.recv_timeout(PATIENCE).expect("a final").is_ok());
        asks.join().expect("no panic")
    });
    assert!(asking.iter().all(|tokens| *tokens == whole));
    bench.engine.drain(PATIENCE);
}

/// A request whose preparation has begun is in flight as any other is.
#[test]
fn a_drain_waits_for_what_is_prepared() {
    let bench = bench(Fault::None, 1, 4, 64);
    let (open, gate) = bounded::<()>(0);
    let held = submit(&bench, 4 << 10, move || gate.recv_timeout(PATIENCE) == Ok(()));
    bench.engine.begin_drain(PATIENCE);
    std::thread::sleep(Duration::from_millis(100));
    drop(open);
    let outcome = held.recv_timeout(PATIENCE).expect("a final");
    assert!(outcome.is_ok(), "{outcome:?}");
    assert!(bench.engine.drain(PATIENCE), "no thread is left behind");
}

#[test]
fn a_drain_ends_at_its_deadline_also_for_what_is_prepared() {
    let bench = bench(Fault::None, 1, 4, 64);
    let (open, gate) = bounded::<()>(0);
    let held = submit(&bench, 4 << 10, move || gate.recv_timeout(PATIENCE) == Ok(()));
    bench.engine.begin_drain(Duration::from_millis(50));
    let error = held.recv_timeout(PATIENCE).expect("a final").expect_err("it had no time");
    assert!(error.message().contains("was unloaded before"), "{error}");
    drop(open);
    assert!(bench.engine.drain(PATIENCE), "no thread is left behind");
}
