//! Sequences with a grammar beside others, on the scripted device of `engine::tests`, which
//! samples what a mask allows: grammars are obeyed at both depths, whatever else happens, and hold
//! nobody up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use crate::engine::output::Backlog;
use crate::engine::request::{Answer, FinishReason, RequestOptions};
use crate::engine::tests::*;
use crate::error::{Error, Result};

fn sampling(outputs: serde_json::Value, more: serde_json::Value) -> String {
    let mut all = json!({"temperature": 0, "max_tokens": 100, "structured_outputs": outputs});
    let given = more.as_object().expect("an object").clone();
    all.as_object_mut().expect("an object").extend(given);
    all.to_string()
}

fn answer(told: &crossbeam::channel::Receiver<Result<Answer>>) -> Answer {
    told.recv_timeout(PATIENCE).expect("a final").expect("an answer")
}

#[test]
fn grammars_are_obeyed_beside_others() {
    for depth in [1, 2] {
        let bench = bench(Fault::None, depth, 8, 64);
        let choice = sampling(json!({"choice": ["yes", "no", "maybe"]}), json!({}));
        let digits = sampling(json!({"regex": "[0-9]{30}"}), json!({}));

        let both: Vec<_> = (0..30)
            .map(|i| {
                let sampling = [&choice, &digits, GREEDY][i % 3];
                bench.submit(i % 2 == 0, sampling).expect("room")
            })
            .collect();

        for (i, (client, told)) in both.iter().enumerate() {
            let last = answer(told);
            let answers = client.answers.lock();
            let texts = answers.iter().chain([&last]).map(|a| a.outputs[0].text.as_str());
            let text: String = texts.collect();

            let reason = last.outputs[0].finish_reason.expect("the end");
            match i % 3 {
                0 => assert!(["yes", "no", "maybe"].contains(&text.as_str()), "{text:?}"),
                1 => assert!(text.len() == 30 && text.bytes().all(|b| b.is_ascii_digit())),
                _ => {}
            }
            let wanted = if i % 3 == 2 { FinishReason::Length } else { FinishReason::Stop };
            assert_eq!(reason, wanted, "request {i}, depth {depth}: {text:?}");
        }
        bench.engine.drain(PATIENCE);
    }
}

/// The pool holds a third of what these need: they are preempted again and again, and a matcher
/// stays where its sequence's known tokens are.
#[test]
fn a_preemption_does_not_lose_the_way() {
    let bench = bench(Fault::None, 2, 16, 64);
    let pattern = json!({"regex": "(ab[0-9]c){50}"});
    let sampling = sampling(pattern, json!({"max_tokens": 240}));
    let all: Vec<_> = (0..12).map(|_| bench.submit(false, &sampling).expect("room")).collect();
    for (_, told) in &all {
        let answer = answer(told);
        let text = &answer.outputs[0].text;
        assert_eq!(text.len(), 200, "{text}");
        for group in text.as_bytes().chunks(4) {
            assert!(group.starts_with(b"ab") && group[2].is_ascii_digit() && group[3] == b'c');
        }
    }
    bench.engine.drain(PATIENCE);
}

/// Each sequence of a request has a way of its own; ends are masked before `min_tokens`.
#[test]
fn several_outputs_and_other_limits() {
    let bench = bench(Fault::None, 2, 8, 64);
    let many = json!({"n": 3, "temperature": 1, "seed": 1});
    let (_, told) =
        bench.submit(false, &sampling(json!({"regex": "[a-z]{1,9}"}), many)).expect("room");
    let outputs = answer(&told).outputs;
    assert_eq!(outputs.len(), 3);
    for output in outputs {
        let text = &output.text;
        assert!((1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase()));
    }
    let ab = json!({"regex": "(ab)*"});
    let (_, told) = bench.submit(false, &sampling(ab, json!({"min_tokens": 5}))).expect("room");
    let output = &answer(&told).outputs[0];
    assert!(output.tokens >= 5 && output.text.len() >= 5, "{output:?}");
    // Nothing but the end is left long before: it comes as often as it must.
    let one = json!({"choice": ["ab"]});
    let (_, told) = bench.submit(false, &sampling(one, json!({"min_tokens": 9}))).expect("room");
    let output = &answer(&told).outputs[0];
    assert_eq!((output.text.as_str(), output.tokens), ("ab", 9));
    assert_eq!(output.finish_reason, Some(FinishReason::Stop));
    let one = sampling(json!({"choice": ["ab"]}), json!({"ignore_eos": true, "max_tokens": 7}));
    let (_, told) = bench.submit(false, &one).expect("room");
    let output = &answer(&told).outputs[0];
    assert_eq!((output.text.as_str(), output.tokens), ("ab", 7));
    let stop = sampling(json!({"regex": "x[0-9]{20}y"}), json!({"stop": ["y"]}));
    let (_, told) = bench.submit(true, &stop).expect("room");
    assert_eq!(answer(&told).outputs[0].finish_reason, Some(FinishReason::Stop));
    bench.engine.drain(PATIENCE);
}

/// A grammar that takes long to compile, sent first, is not the first to be done.
#[test]
fn a_slow_grammar_holds_nobody_up() {
    let bench = bench(Fault::None, 2, 8, 64);
    let properties: serde_json::Map<_, _> = (0..2400)
        .map(|i| (format!("p{i}"), json!({"type": "string", "maxLength": 1000 + i})))
        .collect();
    let required: Vec<String> = properties.keys().cloned().collect();
    let schema = json!({"type": "object", "properties": properties, "required": required});
    let slow = sampling(json!({"json": schema}), json!({}));
    let (_, slow) = bench.submit(false, &slow).expect("room");
    // Two requests only: on a busy machine more of them take as long as the slow one.
    for quick in [GREEDY, &sampling(json!({"choice": ["ab"]}), json!({}))] {
        let (_, told) = bench.submit(false, quick).expect("room");
        answer(&told);
    }
    assert!(slow.is_empty(), "the slow one came first");
    let _ = slow.recv_timeout(PATIENCE).expect("a final");
    bench.engine.drain(PATIENCE);
}

/// Masks that come later than a step waits: their sequences skip steps and lose nothing, and
/// nobody beside them waits.
#[test]
fn a_late_mask_costs_its_own_sequence_only() {
    for depth in [1, 2] {
        let bench = bench(Fault::None, depth, 8, 64);
        bench.mask_delay_ms.store(150, Ordering::Release);
        let late = sampling(json!({"regex": "(ab[0-9]c){6}"}), json!({"min_tokens": 2}));
        let late: Vec<_> = (0..2).map(|_| bench.submit(false, &late).expect("room").1).collect();
        // Each of these takes as many steps as a late sequence takes tokens.
        for _ in 0..2 {
            let (_, told) = bench.submit(false, GREEDY).expect("room");
            answer(&told);
        }
        assert!(late.iter().all(crossbeam::channel::Receiver::is_empty), "depth {depth}");
        for told in &late {
            let text = answer(told).outputs[0].text.clone();
            assert_eq!(text.len(), 24, "depth {depth}: {text}");
            for group in text.as_bytes().chunks(4) {
                assert!(group.starts_with(b"ab") && group[2].is_ascii_digit(), "{text}");
            }
        }
        bench.engine.drain(PATIENCE);
    }
}

/// Without a token that ends a text the grammar's end is the request's, at its last token.
#[test]
fn a_model_without_an_end_ends_with_its_grammar() {
    for (depth, delay_ms) in [(1, 0), (2, 0), (1, 60), (2, 60)] {
        let backlog = Backlog { tokens: usize::MAX, logprobs: usize::MAX };
        let bench = bench_with(Fault::None, depth, 4, 64, backlog, false);
        bench.mask_delay_ms.store(delay_ms, Ordering::Release);
        let outputs = sampling(json!({"regex": "[ab]{7}"}), json!({}));
        for stream in [false, true] {
            let (client, told) = bench.submit(stream, &outputs).expect("room");
            let last = answer(&told);
            let answers = client.answers.lock();
            let texts = answers.iter().chain([&last]).map(|a| a.outputs[0].text.as_str());
            let text: String = texts.collect();
            assert!(text.len() == 7 && text.bytes().all(|b| b"ab".contains(&b)), "{text:?}");
            assert_eq!(last.outputs[0].finish_reason, Some(FinishReason::Stop));
        }
        bench.engine.drain(PATIENCE);
    }
}

/// The clients of grammars that compile leave, or have a timeout, or the model is unloaded.
#[test]
fn a_compilation_ends_with_its_client() {
    let bench = bench(Fault::None, 2, 8, 64);
    let properties: serde_json::Map<_, _> = (0..400)
        .map(|i| (format!("p{i}"), json!({"type": "string", "pattern": format!("^a{{{i}}}$")})))
        .collect();
    let slow = sampling(json!({"json": {"type": "object", "properties": properties}}), json!({}));
    let (client, told) = bench.submit(false, &slow).expect("room");
    client.gone.store(true, Ordering::Release);
    let outcome = told.recv_timeout(PATIENCE).expect("a final");
    assert!(matches!(outcome, Err(Error::Cancelled(_))), "{outcome:?}");
    let options =
        RequestOptions { timeout: Some(Duration::from_millis(1)), ..RequestOptions::default() };
    let (_, told) = bench.submit_with(false, &slow, options).expect("room");
    let outcome = told.recv_timeout(PATIENCE).expect("a final");
    assert!(matches!(&outcome, Err(Error::Unavailable(text)) if text.contains("1000 us")));
    let (_, told) = bench.submit(false, &slow).expect("room");
    assert!(bench.engine.drain(PATIENCE), "no thread is left behind");
    assert!(told.try_recv().is_ok(), "answered");
}

/// Refused when it is compiled, which is after the request was accepted.
#[test]
fn a_bad_grammar_fails_its_request_only() {
    let bench = bench(Fault::None, 1, 2, 8);
    let (client, told) =
        bench.submit(true, &sampling(json!({"regex": "(["}), json!({}))).expect("room");
    let outcome = told.recv_timeout(PATIENCE).expect("a final");
    assert!(matches!(&outcome, Err(Error::InvalidArgument(m)) if m.starts_with("Grammar error: ")));
    assert_eq!(client.deltas.load(Ordering::Acquire), 0);
    let (_, told) = bench.submit(false, GREEDY).expect("room");
    answer(&told);
    assert_eq!(bench.engine.in_flight(), 0);
    bench.engine.drain(PATIENCE);
}
