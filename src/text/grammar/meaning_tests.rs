//! What vLLM's users expect of grammars, by random walks: strict objects, `oneOf`, ASCII classes,
//! wide integers, times in upper case, notes for readers.

use serde_json::{json, Value};

use super::tests::Rig;

fn walks(rig: &mut Rig, schema: &Value, rounds: usize) -> Vec<Value> {
    let outputs = json!({"json": schema, "disable_any_whitespace": true});
    let parsed =
        |text: String| serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    (0..rounds).map(|_| parsed(rig.walk(&outputs))).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// An object that lists its properties has no others, wherever it stands.
#[test]
fn objects_are_strict() {
    let mut rig = Rig::opt();
    let digit = json!({"type": "integer", "minimum": 0, "maximum": 9});
    let plain = json!({"type": "object", "properties": {"a": digit}, "required": ["a"]});
    for value in walks(&mut rig, &plain, 20) {
        assert_eq!(keys(&value), ["a"], "{value}");
    }
    let nested = json!({
        "type": "object",
        "properties": {"list": {"type": "array", "items": plain, "minItems": 1, "maxItems": 2},
                       "either": {"anyOf": [plain, {"$ref": "#/$defs/other"}]}},
        "required": ["list", "either"],
        "$defs": {"other": {"type": "object", "properties": {"b": digit}, "required": ["b"]}},
    });

    for value in walks(&mut rig, &nested, 20) {
        assert_eq!(keys(&value), ["list", "either"], "{value}");
        value["list"].as_array().unwrap().iter().for_each(|one| assert_eq!(keys(one), ["a"]));
        assert!(["a", "b"].contains(&keys(&value["either"])[0]));
    }
    let parts = json!({
        "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": digit}, "required": ["b"]}],
        "$defs": {"base": {"type": "object", "properties": {"a": digit}, "required": ["a"]}},
    });
    for value in walks(&mut rig, &parts, 10) {
        let mut found = keys(&value);
        found.sort_unstable();
        assert_eq!(found, ["a", "b"], "{value}");
    }
    let any = json!({"json": {"type": "object"}, "disable_any_whitespace": true});
    let mut texts = (0..30).map(|_| rig.walk(&any));
    assert!(texts.any(|text| text.len() > 2), "any object is some object");
}

#[test]
fn one_of_with_references() {
    let mut rig = Rig::opt();
    let schema = json!({
        "type": "object", "additionalProperties": false,
        "properties": {"POINT": {"oneOf": [
            {"type": "integer", "minimum": 0, "maximum": 500}, {"$ref": "#/$defs/Location"}
        ]}},
        "required": ["POINT"],
        "$defs": {"Location": {
            "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000},
            "minItems": 2, "maxItems": 2
        }},
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let values = walks(&mut rig, &schema, 40);
    values.iter().for_each(|value| assert!(validator.is_valid(value), "{value}"));
    assert!(values.iter().any(|value| value["POINT"].is_array()));
    assert!(values.iter().any(|value| value["POINT"].is_number()));
    let overlapping = json!({"oneOf": [{"type": "integer", "maximum": 9}, {"type": "integer"}]});
    walks(&mut rig, &overlapping, 3).iter().for_each(|value| assert!(value.is_number()));
}

#[test]
fn classes_are_ascii() {
    for mut rig in [Rig::opt(), Rig::llama()] {
        for (pattern, of) in [
            (r"\d{3}-\d{4}", "0123456789-"),
            (r"[\d]{8}", "0123456789"),
            (r"\w{1,5}", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"),
            (r"\s{2}", " \t\n\r\u{b}\u{c}"),
        ] {
            for _ in 0..20 {
                let text = rig.walk(&json!({"regex": pattern}));
                assert!(text.chars().all(|c| of.contains(c)), "{pattern}: {text:?}");
            }
        }
        let tag = json!({"format": {"type": "regex", "pattern": r"\d{4}"}});
        let text = rig.walk(&json!({"structural_tag": tag}));
        assert!(text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit()), "{text:?}");
    }
    let schema = json!({"type": "string", "pattern": r"^\d\s\w$"});
    for value in walks(&mut Rig::opt(), &schema, 20) {
        assert!(value.as_str().unwrap().is_ascii(), "{value}");
    }
}

#[test]
fn integers_are_wide() {
    let mut rig = Rig::opt();
    for (low, high) in [(i64::MIN, i64::MAX), (0, i64::MAX), (i64::MIN, -1), (-1 << 60, 1 << 60)] {
        let schema = json!({"type": "integer", "minimum": low, "maximum": high});
        for value in walks(&mut rig, &schema, 10) {
            let value = value.as_i64().unwrap_or_else(|| panic!("{value} is no int64"));
            assert!((low..=high).contains(&value));
        }
    }
    for bound in [json!({"minimum": i64::MAX - 2000}), json!({"maximum": i64::MIN + 2000})] {
        let mut schema = bound.clone();
        schema["type"] = json!("integer");
        for value in walks(&mut rig, &schema, 3) {
            assert!(value.as_i64().is_some(), "{bound}: {value}");
        }
    }
    let unsigned = json!({"type": "integer", "minimum": 0, "maximum": u64::MAX});
    assert!(walks(&mut rig, &unsigned, 5).iter().all(|value| value.as_u64().is_some()));
}

#[test]
fn times_are_upper_case_and_notes_are_read_over() {
    let mut rig = Rig::opt();
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#", "title": "A", "default": {},
        "type": "object", "description": "x",
        "properties": {
            "at": {"type": "string", "format": "date-time", "description": "y", "deprecated": true},
            "time": {"type": "string", "format": "time"},
            "n": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 3},
            "s": {"type": "string", "format": "password", "maxLength": 2, "readOnly": true},
        },
        "required": ["at", "time", "n", "s"],
    });
    for value in walks(&mut rig, &schema, 20) {
        for text in [&value["at"], &value["time"]] {
            let text = text.as_str().unwrap();
            assert!(!text.contains(['t', 'z']), "{text}");
        }
        assert!(value["at"].as_str().unwrap().contains('T'));
    }
}
