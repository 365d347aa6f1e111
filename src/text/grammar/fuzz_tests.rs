//! Grammar strings from a seeded generator of nonsense: every one is compiled or refused within
//! its limits, and nothing falls over. Mutations of real grammars go deeper than noise does.

use serde_json::{json, Value};

use super::tests::{set, Rig};
use super::*;
use crate::text::testing::Random;

const SEEDS: [(&str, &str); 8] = [
    ("regex", r"(a|[^b-z]{2,5}\w+?)*(?i)x\.é$"),
    ("regex", r"[a-z]{1,400}([0-9]{3}){200}"),
    ("grammar", "root ::= (\"a\" b{2,3} | [x-z]+)? \"\\n\"\nb ::= root | . # x"),
    (
        "grammar",
        "start: a{2,7} B | %json {\"type\": \"object\"}\na: \"x\"i | a a\nB[lazy]: /.*/ & ~/x/",
    ),
    (
        "json",
        r##"{"type":"object","properties":{"a":{"$ref":"#/$defs/x"}},
            "$defs":{"x":{"anyOf":[{"type":"integer","minimum":-5},{"pattern":"^a+$"}]}},
            "required":["a"]}"##,
    ),
    (
        "json",
        r##"{"allOf":[{"minLength":2},{"maxLength":30}],
            "type":["string","array"],"items":{"$ref":"#"},"format":"date-time"}"##,
    ),
    (
        "structural_tag",
        r#"{"structures":[{"begin":"<a>","schema":{},"end":"</a>"}],"triggers":["<a"]}"#,
    ),
    (
        "structural_tag",
        r#"{"format":{"type":"sequence","elements":[
            {"type":"any_text"},{"type":"grammar","grammar":"root ::= \"a\""}]}}"#,
    ),
];
const PIECES: [&str; 24] = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "{9999}",
    "{0,}",
    "|",
    "*",
    "+",
    "\\",
    "\"",
    "/",
    "::=",
    "\n",
    "é",
    "%json",
    "<[1-9]>",
    "~",
    "&",
    "\u{0}",
    "99999999999999999999",
    "(?i",
];

fn mutated(random: &mut Random, seed: &str) -> String {
    let mut chars: Vec<char> = seed.chars().collect();
    for _ in 0..1 + random.below(3) {
        let at = random.below(chars.len().max(1));
        let end = (at + random.below(9)).min(chars.len());
        match random.below(4) {
            0 => drop(chars.drain(at..end)),
            1 => {
                let piece = PIECES[random.below(PIECES.len())];
                chars.splice(at.min(chars.len())..at.min(chars.len()), piece.chars());
            }
            2 => {
                let copy: Vec<char> = chars[at.min(chars.len())..end].to_vec();
                let copies = 1 + random.below(40);
                let many = copy.iter().copied().cycle().take(copy.len() * copies);
                let many: Vec<char> = many.collect();
                chars.splice(end..end, many);
            }
            _ => chars.truncate(at),
        }
    }
    chars.into_iter().collect()
}

#[test]
fn nonsense_is_refused_or_served() {
    let work = || {
        let rig = Rig::opt();
        let mut random = Random(29);
        let (mut compiled, mut refused) = (0, 0);
        for round in 0..600 {
            let (kind, seed) = SEEDS[round % SEEDS.len()];
            let text = mutated(&mut random, seed);
            let Ok(mut matcher) = rig.compile(&json!({kind: text})) else {
                refused += 1;
                continue;
            };
            compiled += 1;
            for _ in 0..5 {
                let Ok(Next::Mask(mask)) = matcher.next(&[]) else { break };
                let allowed = set(&mask);
                matcher.accept(allowed[random.below(allowed.len())]).unwrap();
            }
        }
        (compiled, refused)
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap();
    let (compiled, refused) = thread.join().unwrap();
    assert!(compiled > 60 && refused > 100, "{compiled} compiled, {refused} refused");
}

/// What nests or repeats as much as the limits let it.
#[test]
fn monsters_are_refused_or_served() {
    let nest = |open: &str, inner: &str, close: &str, n: usize| {
        format!("{}{inner}{}", open.repeat(n), close.repeat(n))
    };
    let chain = |n: usize, rule: fn(usize) -> String| (0..n).map(rule).collect::<String>();
    let monsters: Vec<Value> = vec![
        json!({"regex": nest("(", "a", ")?", 499)}),
        json!({"regex": nest("(a|", "b", ")", 499)}),
        json!({"regex": "a?".repeat(3000) + &"a".repeat(3000)}),
        json!({"regex": "(x+x+)+y"}),
        json!({"regex": "((((a{99}){99}){99}){99}){99}"}),
        json!({"regex": "[^a]{1,9999}b[^c]{1,9999}"}),
        json!({"regex": "\\PL".repeat(10_000)}),
        json!({"choice": (0..20_000).map(|i| format!("choice {i}")).collect::<Vec<_>>()}),
        json!({"grammar": format!("start: {}", nest("(", "\"a\" | \"b\"", ")+", 499))}),
        json!({"grammar": format!("root ::= r0\n{}", chain(1900, |i| {
            format!("r{i} ::= r{} \"a\"\n", i + 1)
        }) + "r1900 ::= \"b\"")}),
        json!({"grammar": format!("start: r0\n{}", chain(1900, |i| {
            format!("r{i}: r{} \"a\"\n", i + 1)
        }) + "r1900: \"b\"")}),
        json!({"grammar": format!("start: T0\n{}", chain(1900, |i| {
            format!("T{i}: T{} T{}\n", i + 1, i + 1)
        }) + "T1900: \"b\"")}),
        json!({"grammar": "start: start start start | \"a\" |"}),
        json!({"json": (0..120).fold(json!({"type": "null"}), |inner, _| {
            json!({"anyOf": [inner, {"type": "array", "items": {"type": "integer"}}]})
        })}),
        json!({"json": {"allOf": (0..14).map(|i| json!({"anyOf": [
            {"minimum": i}, {"maximum": 100 - i}, {"type": "string", "minLength": i}
        ]})).collect::<Vec<_>>()}}),
        json!({"json": {"type": "object", "properties": (0..3000).map(|i| {
            (format!("p{i}"), json!({"type": "string", "maxLength": 1000 + i}))
        }).collect::<serde_json::Map<_, _>>()}}),
        json!({"json": {"type": "array", "minItems": 1_000_000_000, "items": {"type": "null"}}}),
        json!({"json": {"type": "integer", "multipleOf": 999_983, "minimum": 1e300}}),
        json!({"json": {"type": "string", "pattern": "(a|b)*a(a|b){400}"}}),
    ];

    let work = move || {
        let rig = Rig::opt();
        for (number, monster) in monsters.into_iter().enumerate() {
            let start = std::time::Instant::now();
            let outcome = rig.compile(&monster).and_then(|mut matcher| {
                for _ in 0..20 {
                    let Next::Mask(mask) = matcher.next(&[])? else { break };
                    matcher.accept(set(&mask)[0])?;
                }
                Ok(())
            });
            if std::env::var_os("SHOW").is_some() {
                let text: String = outcome.map_or_else(|e| e.to_string(), |_| "ok".into());
                let text: String = text.chars().take(90).collect();
                println!("monster {number}: {:?} {text:?}", start.elapsed());
            }
        }
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap();
}
