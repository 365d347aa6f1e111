//! Grammars that were made to cost much are refused or served in about the time of others, and in
//! words for their client.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{json, Value};

use super::tests::{set, Rig};
use super::*;
use crate::error::Error;

/// Half a second on an idle machine at worst; machines that test are not idle.
const SOON: Duration = Duration::from_secs(8);

fn hostile() -> Vec<(&'static str, Value)> {
    let names = |n: usize| (0..n).map(|i| format!("n{i}")).collect::<Vec<_>>();
    let letters = |n: usize| {
        let letter = |i: usize| format!("\"{}\"", (b'a' + (i * 7 % 10) as u8) as char);
        (0..n).map(letter).collect::<Vec<_>>().join(" | ")
    };
    let nested = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let wide = json!((0..60_000).map(|i| json!([i])).collect::<Vec<_>>());
    let primes: Vec<Value> =
        [3, 5, 7, 11, 13, 17, 19].iter().map(|p| json!({"multipleOf": p})).collect();
    let literal = "\"a\" | ".repeat(13_000) + "\"b\"";

    vec![
        ("multipleOf", json!({"json": {"type": "integer", "multipleOf": 4_849_845}})),
        ("a product", json!({"json": {"type": "integer", "allOf": primes}})),
        ("alternatives", json!({"grammar": format!("start: {}", letters(20_000))})),
        ("fewer of them", json!({"grammar": format!("start: {}", letters(8_000))})),
        ("EBNF", json!({"grammar": format!("root ::= {}", letters(20_000))})),
        ("recursive EBNF", json!({"grammar": format!("root ::= {} | root root", letters(18_000))})),
        (
            "names of rules",
            json!({"grammar": format!("start: {}a\na: \"x\"", "a|".repeat(60_000))}),
        ),
        ("a regex", json!({"regex": letters(16_000 / 3).replace(['"', ' '], "")})),
        ("a terminal", json!({"grammar": format!("start: T\nT: {literal}")})),
        ("required", json!({"json": {"type": "object", "required": names(60_000)}})),
        (
            "in %json",
            json!({"grammar": format!(
                "start: %json {}", json!({"type": "object", "required": names(15_000)})
            )}),
        ),
        (
            "optional",
            json!({"json": {"type": "object", "properties":
                names(500).into_iter().map(|n| (n, json!({}))).collect::<serde_json::Map<_, _>>()
            }}),
        ),
        ("nested const", json!({"json": {"const": nested}})),
        ("wide const", json!({"json": {"const": wide}})),
        ("empty choices", json!({"choice": vec![""; 1_000_000]})),
        ("equal choices", json!({"choice": vec![""; 50_000]})),
        ("1 MiB of choices", json!({"choice": names(150_000)})),
        (
            "512 kB of choices",
            json!({"choice":
                (0..50_000).map(|i| format!("{i:010}")).collect::<Vec<_>>()
            }),
        ),
        ("enum", json!({"json": {"enum": names(50_000)}})),
        (
            "complements",
            json!({"grammar":
                "start: T\nT: \"a\" | \"b\" (/(a|b)*a(a|b){40}/ & ~/(a|b)*b(a|b){41}/)"
            }),
        ),
        (
            "patterns",
            json!({"json": {"allOf": (1..12).map(|i| {
            json!({"type": "string", "pattern": format!("^(x{{{}}})*$", 2 * i + 1)})
        }).collect::<Vec<_>>()}}),
        ),
        (
            "patternProperties",
            json!({"json": {"type": "object", "patternProperties":
                (0..50).map(|i| (format!("^p{i}_.*(a|b)*a(a|b){{9}}$"), json!({})))
                    .collect::<serde_json::Map<_, _>>()
            }}),
        ),
        (
            "oneOf",
            json!({"json": {"oneOf": (0..4_000).map(|i| {
            json!({"type": "object", "properties": {"k": {"const": i}}, "required": ["k"]})
        }).collect::<Vec<_>>()}}),
        ),
    ]
}

#[test]
fn hostile_grammars_cost_no_more_than_others() {
    let work = || {
        let mut rig = Rig::opt();
        rig.walk(&json!({"choice": ["warm"]}));
        for (name, outputs) in hostile() {
            let start = Instant::now();
            let outcome = rig.compile(&outputs).and_then(|mut matcher| {
                for _ in 0..10 {
                    let Next::Mask(mask) = matcher.next(&[])? else { break };
                    matcher.accept(set(&mask)[0])?;
                }
                Ok(())
            });
            let took = start.elapsed();
            let text = outcome.map_or_else(|e| e.to_string(), |()| "served".into());
            if std::env::var_os("SHOW").is_some() {
                println!("{name}: {took:?}: {}", text.chars().take(110).collect::<String>());
            }
            assert!(took < SOON, "{name}: {took:?}: {text}");
            assert!(!text.contains("panic") && !text.contains("assertion"), "{name}: {text}");
            assert!(text.chars().count() < 600, "{name}: {text}");
        }
    };
    on_a_large_stack(work);
}

/// Ends after some questions, as if the client had left.
struct Short(AtomicUsize);

impl Interrupt for Short {
    fn check(&self) -> Result<()> {
        let left = self.0.fetch_sub(1, Ordering::AcqRel);
        if left > 1 {
            return Ok(());
        }
        self.0.store(1, Ordering::Release);
        Err(Error::Cancelled("gone".into()))
    }

    fn stop_by(&self, stop: StopHandle) {
        stop.stop();
    }
}

#[test]
fn a_compilation_ends_with_whom_it_is_for() {
    let rig = Rig::opt();
    let outputs = StructuredOutputs::parse(&json!({"regex": "[ab]+"})).unwrap();
    for questions in [1, 2, 3, 100] {
        let outcome = rig.grammars().compile(&outputs, &Short(AtomicUsize::new(questions)));
        assert_eq!(outcome.err(), Some(Error::Cancelled("gone".into())), "{questions}");
    }
    // Told to stop when all parts are done: the first mask is refused.
    let outcome = rig.grammars().compile(&outputs, &Short(AtomicUsize::new(usize::MAX)));
    let text = outcome.err().expect("stopped").to_string();
    assert!(text.contains("longer than 5000 ms") && text.contains("grammar-timeout-ms"), "{text}");
}

/// Goes on, and counts how often it is asked.
#[derive(Debug)]
struct Counting(AtomicUsize);

impl Interrupt for Counting {
    fn check(&self) -> Result<()> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn stop_by(&self, _: StopHandle) {}
}

/// A chain of `n` definitions, each of which a `link` leads on.
fn chain(n: usize, link: fn(Value) -> Value, last: Value) -> Value {
    let next = |i: usize| link(json!({"$ref": format!("#/$defs/d{}", i + 1)}));
    let mut all: serde_json::Map<_, _> = (0..n).map(|i| (format!("d{i}"), next(i))).collect();
    all.insert(format!("d{n}"), last);
    all.insert("other".into(), json!({"multipleOf": 99_991}));
    json!({"json": {"$defs": all, "$ref": "#/$defs/d0"}})
}

fn on_a_large_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap();
}

/// Schemas whose parts are looked at over and over: each asks on its way whether to go on, and ends
/// by itself.
#[test]
fn schemas_that_take_long_can_be_ended() {
    on_a_large_stack(|| {
        let last = || json!({"multipleOf": 9_973});
        let wide: Vec<String> = (0..3_000).map(|i| format!("n{i}")).collect();
        let both =
            |i: usize| json!({"allOf": [{"$ref": "#/$defs/n"}, {"required": [i.to_string()]}]});
        let names = json!({"json": {
            "$defs": {"n": {"type": "object", "required": wide}},
            "anyOf": (0..1_500).map(both).collect::<Vec<_>>(),
        }});
        let any = |next| json!({"anyOf": [next, {"type": "string"}]});
        let rig = Rig::opt();
        for (name, outputs) in [
            ("references", chain(3_000, |next| next, last())),
            ("anyOf", chain(2_400, any, last())),
            ("allOf", chain(2_500, |next| json!({"allOf": [next]}), last())),
            ("names", names),
        ] {
            let outputs = StructuredOutputs::parse(&outputs).unwrap();
            let asked = Counting(AtomicUsize::new(0));
            let refused = rig.grammars().compile(&outputs, &asked).err().map(|e| e.to_string());
            let asked = asked.0.into_inner();
            assert!(asked > 100, "{name}: asked {asked} times: {refused:?}");
            let refused = refused.expect(name);
            assert!(refused.contains("limit of 2000000 parts and names"), "{name}: {refused}");

            let gone = rig.grammars().compile(&outputs, &Short(AtomicUsize::new(asked / 2))).err();
            assert_eq!(gone, Some(Error::Cancelled("gone".into())), "{name}");
        }
    });
}

/// What no walk is needed for is prepared in one pass, and what it makes is not too deep.
#[test]
fn long_chains_are_prepared_in_one_pass() {
    on_a_large_stack(|| {
        let rig = Rig::opt();
        let last = || json!({"type": "null"});
        let any = |next| json!({"anyOf": [next, {"type": "string"}]});
        for (name, outputs) in [
            ("fewer that are walked", chain(1_000, |next| next, json!({"multipleOf": 9_973}))),
            ("references", chain(9_900, |next| next, last())),
            ("anyOf", chain(2_400, any, last())),
            ("allOf", chain(2_500, |next| json!({"allOf": [next]}), last())),
        ] {
            let start = Instant::now();
            let outputs = StructuredOutputs::parse(&outputs).unwrap();
            let asked = Counting(AtomicUsize::new(0));
            let outcome = rig.grammars().compile(&outputs, &asked);
            let text = outcome.err().map_or_else(|| "served".into(), |e| e.to_string());
            if std::env::var_os("SHOW").is_some() {
                println!("{name}: {:?}: {asked:?}: {text:.110}", start.elapsed());
            }
            assert!(!text.contains("parts and names"), "{name}: {text}");
            // About once for each byte that may begin a text, and for a thousand parts.
            assert!(asked.0.into_inner() < 400, "{name}: {text}");
        }
    });
}

#[test]
fn a_matcher_that_is_stopped_says_so_and_its_forks_go_on() {
    let rig = Rig::opt();
    let mut matcher = rig.compile(&json!({"regex": "[ab]+"})).unwrap();
    let mut fork = matcher.fork();
    matcher.stop_handle().stop();
    for _ in 0..2 {
        let text = matcher.next(&[]).unwrap_err().to_string();
        assert!(text.contains("takes longer than 5000 ms"), "{text}");
    }
    assert!(matches!(fork.next(&[]), Ok(Next::Mask(_))));
}
