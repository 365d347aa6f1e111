//! A row without finite logits while further steps are in flight: its request ends once, with the
//! others of its request, and nobody else notices.

use std::sync::atomic::Ordering;

use super::tests::{bench, Fault, GREEDY, PATIENCE};
use crate::error::Error;

#[test]
fn a_request_without_finite_logits_fails_alone() {
    for (depth, stream) in [(1, false), (2, false), (2, true)] {
        // Prompts take the first steps; the fifth finds everybody at a token of their own.
        let bench = bench(Fault::NonFinite(5), depth, 4, 64);
        let all: Vec<_> = (0..3).map(|_| bench.submit(stream, GREEDY).expect("room")).collect();
        let mut failed = 0;
        for (client, told) in &all {
            match told.recv_timeout(PATIENCE).expect("a final") {
                Ok(answer) => {
                    let last = answer.outputs[0].tokens;
                    assert_eq!(client.deltas.load(Ordering::Acquire) + last as usize, 12);
                }
                Err(Error::Internal(line)) => {
                    assert!(line.contains("of output token ") && line.contains("dtype"), "{line}");
                    failed += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(failed, 1, "depth {depth}");
        let (_, told) = bench.submit(stream, GREEDY).expect("room");
        assert!(told.recv_timeout(PATIENCE).expect("a final").is_ok(), "the engine goes on");
        assert_eq!(bench.engine.in_flight(), 0);
        bench.engine.drain(PATIENCE);
    }
}

#[test]
fn one_sequence_without_finite_logits_ends_its_whole_request() {
    let bench = bench(Fault::NonFinite(4), 2, 4, 64);
    let sampling = r#"{"temperature": 1.0, "n": 3, "max_tokens": 12, "ignore_eos": true}"#;
    let (_, told) = bench.submit(true, sampling).expect("room");
    let outcome = told.recv_timeout(PATIENCE).expect("a final");
    assert!(matches!(outcome, Err(Error::Internal(_))), "{outcome:?}");
    assert_eq!(bench.engine.in_flight(), 0);
    bench.engine.drain(PATIENCE);
}
