//! Clients that do not take their responses, and requests with much to say: what they may cost, and
//! whom.

use std::sync::Arc;

use crossbeam::channel::{bounded, Receiver, Sender};

use super::output::Backlog;
use super::request::{Answer, Client, FinishReason};
use super::tests::{bench, bench_with, request, Bench, Fault, GREEDY, LONG, PATIENCE};
use crate::error::{Error, Result};

/// Takes its first response when the test opens the gate.
struct Slow {
    gate: Receiver<()>,
    outcome: Sender<Result<Answer>>,
}

impl Client for Slow {
    fn cancelled(&self) -> bool {
        false
    }

    fn respond(&self, _: Answer) {
        let _ = self.gate.recv();
    }

    fn finish(&self, outcome: Result<Answer>) {
        let _ = self.outcome.send(outcome);
    }
}

/// Submit a stream whose client blocks in its first response until the sender is dropped.
fn blocked(bench: &Bench) -> (Sender<()>, Receiver<Result<Answer>>) {
    let (open, gate) = bounded(0);
    let (outcome, told) = bounded(1);
    let request = request(Arc::new(Slow { gate, outcome }), true, LONG).unwrap();
    bench.engine.submit(request).expect("room");
    (open, told)
}

#[test]
fn a_stream_that_lags_too_far_fails_alone_and_frees_its_place() {
    let backlog = Backlog { tokens: 50, logprobs: usize::MAX };
    let bench = bench_with(Fault::None, 2, 2, 8, backlog, true);
    let (open, told_slow) = blocked(&bench);
    // It runs beside the slow one and is as long.
    let (_, told) = bench.submit(false, LONG).expect("room");
    let answer = told.recv_timeout(PATIENCE).expect("a final").expect("an answer");
    assert_eq!(answer.outputs[0].tokens, 200);
    drop(open);
    let error = told_slow.recv_timeout(PATIENCE).expect("a final").expect_err("it lags");
    assert!(matches!(error, Error::Unavailable(_)));
    assert!(error.message().contains("50 tokens"), "{error}");
    assert!(error.message().contains("max-backlog-tokens"), "{error}");
    assert_eq!(bench.engine.in_flight(), 0);
    bench.engine.drain(PATIENCE);
}

/// As the server's ensembles do it: a response is not taken until a later step has room. There are
/// two outbox threads, so some of these requests share one with a client that blocks.
#[test]
fn a_client_that_blocks_keeps_nobody_else_waiting() {
    let bench = bench(Fault::None, 2, 8, 8);
    let slow: Vec<_> = (0..3).map(|_| blocked(&bench)).collect();
    let others: Vec<_> = (0..5).map(|_| bench.submit(true, LONG).expect("room").1).collect();
    for told in others {
        let answer = told.recv_timeout(PATIENCE).expect("a final").expect("an answer");
        assert_eq!(answer.outputs[0].finish_reason, Some(FinishReason::Length));
    }
    for (open, told) in slow {
        assert!(told.try_recv().is_err(), "it is blocked");
        drop(open);
        told.recv_timeout(PATIENCE).expect("a final").expect("an answer");
    }
    bench.engine.drain(PATIENCE);
}

#[test]
fn a_death_is_told_to_everyone_beside_a_client_that_blocks() {
    let bench = bench(Fault::None, 2, 8, 8);
    let (open, told_slow) = blocked(&bench);
    let waiting: Vec<_> = (0..4).map(|_| bench.submit(true, LONG).expect("room").1).collect();
    bench.engine.health.poison("a test");
    for told in waiting {
        // Some were done before.
        let _ = told.recv_timeout(PATIENCE).expect("a final");
    }
    drop(open);
    told_slow.recv_timeout(PATIENCE).expect("a final").expect_err("it is dead");
    bench.engine.drain(PATIENCE);
}

/// Sixteen hundred tokens become text at once, in several turns: nothing is lost or told twice, and
/// a stream on the same thread goes on.
#[test]
fn a_large_answer_takes_turns() {
    let backlog = Backlog { tokens: 50, logprobs: usize::MAX };
    let bench = bench_with(Fault::None, 2, 9, 64, backlog, true);
    let large = r#"{"n": 8, "seed": 3, "max_tokens": 200, "ignore_eos": true}"#;
    let (_, told) = bench.submit(false, large).expect("room");
    let (_, other) = bench.submit(true, GREEDY).expect("room");
    assert!(other.recv_timeout(PATIENCE).expect("a final").is_ok());
    let whole = told.recv_timeout(PATIENCE).expect("a final").expect("an answer").outputs;
    assert_eq!(whole.len(), 8);
    for output in &whole {
        assert_eq!((output.tokens, output.finish_reason), (200, Some(FinishReason::Length)));
        assert!(output.text.len() > 200);
    }
    assert_eq!(bench.engine.in_flight(), 0);
    bench.engine.drain(PATIENCE);
}
