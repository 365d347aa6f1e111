//! The parameter `structured_outputs`, read once: what a request's output must look like. Called by
//! [`super::verify`]; whether the grammar itself is any good is found out where it is compiled, in
//! `text`.

use serde_json::{Map, Value};

use super::python;
use crate::error::Result;
use crate::invalid;

/// Bytes of one schema, of a list of choices, of a grammar, of a regular expression: what compiles
/// in tenths of a second at worst.
const MAX_BYTES: usize = 1 << 20;
/// As a text, where characters may be escaped.
const MAX_TEXT_BYTES: usize = 1 << 21;
const MAX_CHOICE_BYTES: usize = 1 << 19;
const MAX_CHOICES: usize = 50_000;
const MAX_GRAMMAR_BYTES: usize = 1 << 17;
const MAX_REGEX_BYTES: usize = 1 << 15;
/// Characters of a client's own text that a message repeats.
const SHOWN_CHARS: usize = 200;

/// One kind of constraint with its options.
#[derive(Debug, Clone, PartialEq)]
pub struct StructuredOutputs {
    /// What the output must look like.
    pub constraint: Constraint,
    /// How JSON in it is written.
    pub options: StructuredOptions,
}

/// What the output must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// A JSON schema: the output is JSON that it describes.
    Json(Value),
    /// Any JSON object.
    JsonObject,
    /// The whole output matches it.
    Regex(String),
    /// One of these, at least one.
    Choice(Vec<String>),
    /// Lark, or EBNF with `root ::=`. Not empty.
    Grammar(String),
    /// Free text in which tags start constrained parts.
    StructuralTag(Value),
}

/// Options of the kinds that are made of JSON schemas. The engine argument
/// `structured_outputs_config` has the first two as well: either place switches them on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StructuredOptions {
    /// One blank behind `,` and `:`, nothing else between tokens.
    pub disable_any_whitespace: bool,
    /// Objects that name their properties have no others unless they say so.
    pub disable_additional_properties: bool,
    /// Regular expression of what may stand between tokens; without, any whitespace.
    pub whitespace_pattern: Option<String>,
}

impl StructuredOutputs {
    /// From an object, or a text that holds one. Null, false and unknown members count as absent.
    ///
    /// # Errors
    /// InvalidArgument, with the Python backend's text where it has one of its own.
    pub fn parse(value: &Value) -> Result<StructuredOutputs> {
        let read;
        let map = match value {
            Value::Object(map) => map,
            Value::String(text) if text.len() > MAX_TEXT_BYTES => {
                return Err(invalid!(
                    "structured_outputs has {} bytes, more than the limit of {MAX_TEXT_BYTES}.",
                    text.len()
                ));
            }
            Value::String(text) => {
                read = serde_json::from_str::<Value>(text)
                    .map_err(|e| invalid!("structured_outputs is not valid JSON: {e}"))?;
                read.as_object().ok_or_else(|| no_object(&read))?
            }
            other => return Err(no_object(other)),
        };
        let options = StructuredOptions {
            disable_any_whitespace: flag(map, "disable_any_whitespace"),
            disable_additional_properties: flag(map, "disable_additional_properties"),
            whitespace_pattern: text(map, "whitespace_pattern")?.map(str::to_string),
        };
        Ok(StructuredOutputs { constraint: constraint(map)?, options })
    }
}

fn no_object(value: &Value) -> crate::error::Error {
    invalid!("structured_outputs must be a JSON object, got {}", python::type_name(value))
}

fn constraint(map: &Map<String, Value>) -> Result<Constraint> {
    const KINDS: [&str; 6] =
        ["json", "regex", "choice", "grammar", "json_object", "structural_tag"];
    let off = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
    let given: Vec<(&str, &Value)> = KINDS
        .iter()
        .filter_map(|kind| Some((*kind, map.get(*kind)?)))
        .filter(|(_, value)| !off(value))
        .collect();

    let specified = || shortened(&python::repr(&Value::Object(map.clone())));
    let (kind, value) = match given[..] {
        [one] => one,
        [] if map.get("json_object") == Some(&Value::Bool(false)) => {
            return Err(invalid!(
                "structured_outputs.json_object must be True if set; omit structured_outputs to \
                 disable structured outputs"
            ));
        }
        [] => {
            return Err(invalid!(
                "You must use one kind of structured outputs constraint but none are specified: {}",
                specified()
            ));
        }
        _ => {
            return Err(invalid!(
                "You can only use one kind of structured outputs constraint but multiple are \
                 specified: {}",
                specified()
            ));
        }
    };

    match kind {
        "json" => Ok(Constraint::Json(document(map, kind, "Invalid JSON grammar specification.")?)),
        "structural_tag" => {
            let wrong = "Invalid structural tag specification.";
            Ok(Constraint::StructuralTag(document(map, kind, wrong)?))
        }
        "choice" => Ok(Constraint::Choice(choices(value)?)),
        "json_object" if python::truth(value) == Some(true) => Ok(Constraint::JsonObject),
        "json_object" => Err(invalid!(
            "structured_outputs.json_object must be True if set; omit structured_outputs to \
             disable structured outputs"
        )),
        "regex" => Ok(Constraint::Regex(text(map, kind)?.unwrap_or_default().to_string())),
        _ => match text(map, kind)?.unwrap_or_default() {
            blank if blank.trim().is_empty() => {
                Err(invalid!("structured_outputs.grammar cannot be an empty string"))
            }
            grammar => Ok(Constraint::Grammar(grammar.to_string())),
        },
    }
}

fn flag(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name).and_then(python::truth).unwrap_or(false)
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            within(name, text.len())?;
            Ok(Some(text))
        }
        Some(other) => Err(invalid!(
            "structured_outputs.{name} must be a string, got {}.",
            shortened(&python::repr(other))
        )),
    }
}

/// A member that is a JSON document, as itself or as its text.
fn document(map: &Map<String, Value>, name: &str, broken: &str) -> Result<Value> {
    match map.get(name) {
        Some(value @ (Value::Object(_) | Value::Bool(_))) => {
            within(name, value.to_string().len())?;
            Ok(value.clone())
        }
        _ => match text(map, name)?.unwrap_or_default() {
            blank if blank.trim().is_empty() => {
                Err(invalid!("structured_outputs.{name} cannot be an empty string"))
            }
            text => serde_json::from_str(text).map_err(|e| invalid!("{broken} {e}")),
        },
    }
}

fn choices(value: &Value) -> Result<Vec<String>> {
    let wrong = || {
        let got = shortened(&python::repr(value));
        invalid!("structured_outputs.choice must be a list of strings, got {got}.")
    };
    let list = value.as_array().ok_or_else(wrong)?;
    if list.is_empty() {
        return Err(invalid!("Choice '[]' cannot be an empty list"));
    }
    if list.len() > MAX_CHOICES {
        return Err(invalid!(
            "structured_outputs.choice has {} texts, more than the limit of {MAX_CHOICES}.",
            list.len()
        ));
    }
    let texts = list.iter().map(|item| item.as_str().map(str::to_string));
    let texts: Vec<String> = texts.collect::<Option<_>>().ok_or_else(wrong)?;
    within("choice", texts.iter().map(String::len).sum())?;
    Ok(texts)
}

fn within(name: &str, bytes: usize) -> Result<()> {
    let limit = match name {
        "regex" | "whitespace_pattern" => MAX_REGEX_BYTES,
        "grammar" | "structural_tag" => MAX_GRAMMAR_BYTES,
        "choice" => MAX_CHOICE_BYTES,
        _ => MAX_BYTES,
    };
    if bytes <= limit {
        return Ok(());
    }
    Err(invalid!("structured_outputs.{name} has {bytes} bytes, more than the limit of {limit}."))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text.to_string(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<Constraint> {
        StructuredOutputs::parse(&value).map(|outputs| outputs.constraint)
    }

    fn refusal(value: Value) -> String {
        parse(value).unwrap_err().to_string()
    }

    #[test]
    fn both_spellings_of_every_kind() {
        let schema = json!({"type": "object"});
        for (value, wanted) in [
            (json!({"json": schema}), Constraint::Json(schema.clone())),
            (json!({"json": schema.to_string()}), Constraint::Json(schema.clone())),
            (json!({"json_object": true}), Constraint::JsonObject),
            (json!({"regex": "a+"}), Constraint::Regex("a+".into())),
            (json!({"choice": ["a", "b"]}), Constraint::Choice(vec!["a".into(), "b".into()])),
            (json!({"grammar": "start: \"a\""}), Constraint::Grammar("start: \"a\"".into())),
            (json!({"structural_tag": "{}"}), Constraint::StructuralTag(json!({}))),
        ] {
            assert_eq!(parse(value.clone()), Ok(wanted.clone()));
            assert_eq!(parse(json!(value.to_string())), Ok(wanted));
        }
    }

    /// As Triton's OpenAI front end sends it: every member, most of them unset.
    #[test]
    fn unset_and_private_members_do_not_count() {
        let value = json!({
            "json": {"type": "null"}, "regex": null, "choice": null, "grammar": null,
            "json_object": false, "disable_any_whitespace": true, "whitespace_pattern": null,
            "structural_tag": null, "_backend": "x", "_backend_was_auto": false, "later": 1,
        });
        let outputs = StructuredOutputs::parse(&value).unwrap();
        assert_eq!(outputs.constraint, Constraint::Json(json!({"type": "null"})));
        assert!(outputs.options.disable_any_whitespace);
        assert!(!outputs.options.disable_additional_properties);
    }

    #[test]
    fn lists_of_choices_are_limited() {
        assert_eq!(
            refusal(json!({"choice": vec![""; MAX_CHOICES + 1]})),
            "structured_outputs.choice has 50001 texts, more than the limit of 50000."
        );
        assert_eq!(
            refusal(json!({"choice": ["x".repeat(MAX_CHOICE_BYTES), "y"]})),
            "structured_outputs.choice has 524289 bytes, more than the limit of 524288."
        );
        let long = format!("{{\"choice\": [\"\"{}]}}", ",\"\"".repeat(2_000_000));
        assert!(refusal(json!(long)).contains("more than the limit of 2097152."));
    }

    #[test]
    fn refusals_say_what() {
        let none =
            "You must use one kind of structured outputs constraint but none are specified: ";
        assert_eq!(refusal(json!({})), format!("{none}{{}}"));
        assert_eq!(refusal(json!("{\"foo\": 1}")), format!("{none}{{'foo': 1}}"));
        let long = refusal(json!({"foo": "x".repeat(1 << 20)}));
        assert!(long.len() < 400 && long.ends_with("..."), "{long}");
        assert_eq!(
            refusal(json!({"choice": ["a"], "regex": "b"})),
            "You can only use one kind of structured outputs constraint but multiple are \
             specified: {'choice': ['a'], 'regex': 'b'}"
        );
        assert_eq!(
            refusal(json!("choice")),
            "structured_outputs is not valid JSON: expected value at line 1 column 1"
        );
        assert_eq!(refusal(json!("[1]")), "structured_outputs must be a JSON object, got list");
        assert_eq!(refusal(json!(7)), "structured_outputs must be a JSON object, got int");
        assert_eq!(refusal(json!({"choice": []})), "Choice '[]' cannot be an empty list");
        assert_eq!(
            refusal(json!({"choice": ["a", 1]})),
            "structured_outputs.choice must be a list of strings, got ['a', 1]."
        );

        assert_eq!(
            refusal(json!({"grammar": " "})),
            "structured_outputs.grammar cannot be an empty string"
        );
        assert_eq!(
            refusal(json!({"json": ""})),
            "structured_outputs.json cannot be an empty string"
        );
        assert!(refusal(json!({"json": "{"})).starts_with("Invalid JSON grammar specification. "));
        assert_eq!(
            refusal(json!({"regex": 5})),
            "structured_outputs.regex must be a string, got 5."
        );
        assert_eq!(
            refusal(json!({"json_object": false})),
            "structured_outputs.json_object must be True if set; omit structured_outputs to \
             disable structured outputs"
        );
        assert_eq!(
            refusal(json!({"regex": "a".repeat(MAX_REGEX_BYTES + 1)})),
            "structured_outputs.regex has 32769 bytes, more than the limit of 32768."
        );
    }
}
