//! Structured outputs through the whole engine: what random schemas allow parses and validates,
//! however it is scheduled and sent, and grammars made to hurt hurt nobody else.

use serde_json::{json, Value};
use triton_vllm::engine::{Answer, FinishReason};

use crate::requests::Rng;
use crate::served::{device, serve, Served, Told};

const SCHEMAS: usize = 200;

/// A schema whose shortest texts are short.
fn schema(rng: &mut Rng, depth: usize) -> Value {
    match rng.below(if depth == 0 { 7 } else { 10 }) {
        0 => json!({"type": "boolean"}),
        1 => {
            let low = rng.below(2000) as i64 - 1000;
            json!({"type": "integer", "minimum": low, "maximum": low + rng.below(500) as i64})
        }
        2 => json!({"type": "string", "minLength": rng.below(2), "maxLength": 1 + rng.below(6)}),
        3 => json!({"enum": ["é\"\\", 1, null, {"a": [true]}, "日本", -2.5]}),
        4 => json!({"const": [["x", {"y z": "\n"}], rng.below(100)]}),
        5 => json!({"type": "string", "pattern": "^[A-F][0-9]{2,4}(-é|/x)$"}),
        6 => json!({"type": "string", "format": rng.pick(&["date", "uuid", "ipv4"])}),
        // Schemas of schemas, which depth 0 leaves out.
        7 => {
            let least = rng.below(2);
            json!({"type": "array", "items": schema(rng, depth - 1), "minItems": least,
                   "maxItems": least + rng.below(3)})
        }
        8 => json!({"anyOf": [schema(rng, depth - 1), schema(rng, depth - 1)]}),
        _ => {
            let names = ["a", "b c", "é", "\"", "long_name"];
            let names = &names[..1 + rng.below(3)];
            let member = |name: &&str| (name.to_string(), schema(rng, depth - 1));
            let properties: serde_json::Map<String, Value> = names.iter().map(member).collect();
            json!({"type": "object", "properties": properties, "additionalProperties": false,
                   "required": names.iter().filter(|_| rng.percent(50)).collect::<Vec<_>>()})
        }
    }
}

pub struct Asked {
    pub schema: Value,
    pub sampling: Value,
    pub prompt: String,
}

/// Both spellings, all options of whitespace, one or several sequences.
pub fn ask(rng: &mut Rng, number: usize) -> Asked {
    let schema = schema(rng, 2);
    let given = if rng.percent(30) { json!(schema.to_string()) } else { schema.clone() };
    let mut outputs = json!({"json": given});
    match rng.below(4) {
        0 => outputs["whitespace_pattern"] = json!("[ \\n]?"),
        _ => outputs["disable_any_whitespace"] = json!(true),
    }
    if number.is_multiple_of(2) {
        outputs = json!(outputs.to_string());
    }
    let mut sampling = json!({"temperature": 0.9, "seed": number, "max_tokens": 200,
                              "structured_outputs": outputs});
    if rng.percent(20) {
        sampling["n"] = json!(2);
    }
    let prompt = format!("{number} {}", "one two three four five six ".repeat(1 + number % 5));
    Asked { schema, sampling, prompt }
}

fn serve_all(served: &Served, all: &[Asked], stream: impl Fn(usize) -> bool) -> Vec<Answer> {
    let submit =
        |(i, asked): (usize, &Asked)| served.ask(&asked.prompt, asked.sampling.clone(), stream(i));
    let told: Vec<Told> = all.iter().enumerate().map(submit).collect();
    told.into_iter().map(Told::answer).collect()
}

#[test]
fn outputs_of_random_schemas_validate() {
    let mut rng = Rng(17);
    let all: Vec<Asked> = (0..SCHEMAS).map(|number| ask(&mut rng, number)).collect();
    let plain = serve("llama-tiny", json!({"enable_prefix_caching": false}));
    let expected = serve_all(&plain, &all, |_| false);
    // Chunks of 16 tokens, pages for about two sequences: prefix hits and preemptions all the way.
    let tight = serve(
        "llama-tiny",
        json!({"max_num_seqs": 16, "max_num_batched_tokens": 16, "num_gpu_blocks_override": 22}),
    );
    let told = serve_all(&tight, &all, |i| i % 3 > 0);
    let (mut whole, mut sequences) = (0, 0);
    for ((asked, expected), told) in all.iter().zip(&expected).zip(&told) {
        let Asked { schema, sampling, .. } = asked;
        let validator = jsonschema::options().should_validate_formats(true);
        let validator = validator.build(schema).expect("a schema");
        for answer in [expected, told] {
            for output in &answer.outputs {
                sequences += 1;
                if output.finish_reason == Some(FinishReason::Length) {
                    continue;
                }
                whole += 1;
                let text = &output.text;
                let value = serde_json::from_str(text);
                let value: Value = value.unwrap_or_else(|e| panic!("{sampling}: {e}: {text:?}"));
                assert!(validator.is_valid(&value), "{sampling}: {text}");
            }
        }
        if device() == "cpu" {
            let texts = |answer: &Answer| -> Vec<String> {
                answer.outputs.iter().map(|output| output.text.clone()).collect()
            };
            assert_eq!(texts(expected), texts(told), "{sampling}");
        }
    }
    assert!(sequences > 2 * SCHEMAS && whole * 10 > sequences * 9, "{whole} of {sequences} ended");
}

/// Bytes of memory that this process ever held.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

fn monsters() -> Vec<Value> {
    let double = |leaf: &str, rule: fn(usize) -> String| {
        let rules: String = (0..40).map(rule).collect();
        json!({"grammar": format!("start: T0\n{rules}T40: {leaf}\n")})
    };
    let both = |i: usize| format!("T{i}: T{} T{}\n", i + 1, i + 1);
    let properties: serde_json::Map<_, _> = (0..1500)
        .map(|i| (format!("p{i}"), json!({"type": "string", "maxLength": 1000 + i})))
        .collect();
    vec![
        double("/[a-z]/", both),
        double("\"b\"", both),
        json!({"json": {"type": "object", "properties": properties}}),
        json!({"regex": "a?".repeat(3000) + &"a".repeat(3000)}),
        json!({"regex": "((((a{99}){99}){99}){99}){99}"}),
        json!({"regex": "(.*a){30}[ab]{200}"}),
        json!({"grammar": "start: start start start | \"a\" | \"b\" |"}),
        json!({"grammar": "root ::= (root root | [a-z]*)*"}),
        json!({"choice": (0..20_000).map(|i| format!("choice {i}")).collect::<Vec<_>>()}),
    ]
}

/// Sent first, they keep nobody waiting, and cost bounded memory. Each is served or refused in one
/// line.
#[test]
fn hostile_grammars_hold_nobody_up() {
    let served = serve("llama-tiny", json!({"max_num_seqs": 16}));
    let before = peak_bytes();
    let hostile = |monster: Value| {
        let sampling = json!({"temperature": 1.0, "seed": 1, "max_tokens": 40,
                              "structured_outputs": monster});
        served.ask("one", sampling, true)
    };
    let hostile: Vec<Told> = monsters().into_iter().chain(monsters()).map(hostile).collect();

    for i in 0..40 {
        let sampling = json!({"temperature": 0, "max_tokens": 20, "ignore_eos": true});
        let answer = served.ask(&format!("{i} two"), sampling, i % 2 == 0).answer();
        assert_eq!(answer.outputs[0].tokens, 20);
    }

    let mut refused = 0;
    for told in hostile {
        if let Err(error) = told.outcome() {
            assert!(error.message().contains("rammar") && error.message().len() < 5000, "{error}");
            refused += 1;
        }
    }
    assert!((2..18).contains(&refused), "{refused} refused");
    let grown = peak_bytes() - before;
    assert!(grown < 1 << 30, "{} MiB", grown >> 20);

    let quick = json!({"temperature": 0, "structured_outputs": {"choice": ["yes", "no"]}});
    assert!(["yes", "no"].contains(&served.text("one", quick).as_str()));
}
