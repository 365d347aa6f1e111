//! JSON schemas as the grammar engine takes them: with our options put in. Called by
//! [`super::Grammars`] and by structural tags; a pure function.

use serde_json::{json, Map, Value};

use crate::error::Result;
use crate::invalid;
use crate::sampling::StructuredOptions;

/// How JSON is written, from the request's options and the engine's.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonRules {
    compact: bool,
    closed: bool,
    whitespace: Option<String>,
}

impl JsonRules {
    pub fn new(request: &StructuredOptions, engine: &StructuredOptions) -> JsonRules {
        JsonRules {
            compact: request.disable_any_whitespace || engine.disable_any_whitespace,
            closed: request.disable_additional_properties || engine.disable_additional_properties,
            whitespace: request.whitespace_pattern.clone(),
        }
    }
}

/// The schema with the engine's own options as `x-guidance`.
///
/// # Errors
/// InvalidArgument: it is neither an object nor `true`.
pub(super) fn prepared(schema: &Value, rules: &JsonRules) -> Result<Value> {
    let mut map = match schema {
        Value::Object(map) => map.clone(),
        Value::Bool(true) => Map::new(),
        _ => return Err(invalid!("Grammar error: a schema must be an object or true")),
    };
    let options = match (&rules.whitespace, rules.compact) {
        (_, true) => json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "
        }),
        (Some(pattern), false) => json!({"whitespace_pattern": pattern}),
        (None, false) => json!({}),
    };
    map.insert("x-guidance".into(), options);
    let mut schema = Value::Object(map);
    if rules.closed {
        close(&mut schema);
    }
    Ok(schema)
}

/// Keywords that hold one schema, a list of them, or a map of them.
const ONE: [&str; 4] = ["items", "additionalProperties", "contains", "not"];
const LISTS: [&str; 4] = ["prefixItems", "anyOf", "oneOf", "allOf"];
const MAPS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// No properties but those that are named, in every object that does not say otherwise.
fn close(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    let named = ["properties", "patternProperties"].iter().any(|key| map.contains_key(*key));
    let open = ["additionalProperties", "unevaluatedProperties"];
    if named && !open.iter().any(|key| map.contains_key(*key)) {
        map.insert("additionalProperties".into(), Value::Bool(false));
    }
    for (key, value) in map {
        match value {
            Value::Array(list) if LISTS.contains(&key.as_str()) || key == "items" => {
                list.iter_mut().for_each(close);
            }
            Value::Object(schemas) if MAPS.contains(&key.as_str()) => {
                schemas.values_mut().for_each(close);
            }
            Value::Object(_) if ONE.contains(&key.as_str()) => close(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_closed_where_schemas_stand() {
        let rules = JsonRules { closed: true, ..JsonRules::default() };
        let schema = json!({
            "properties": {
                "properties": {"properties": {"a": {}}},
                "open": {"properties": {}, "additionalProperties": {"properties": {}}},
            },
            "$defs": {"x": {"items": {"anyOf": [{"patternProperties": {}}, {"type": "object"}]}}},
            "enum": [{"properties": {}}],
        });
        assert_eq!(
            prepared(&schema, &rules).unwrap(),
            json!({
                "properties": {
                    "properties": {"properties": {"a": {}}, "additionalProperties": false},
                    "open": {
                        "properties": {},
                        "additionalProperties": {"properties": {}, "additionalProperties": false}
                    },
                },
                "$defs": {"x": {"items": {"anyOf": [
                    {"patternProperties": {}, "additionalProperties": false}, {"type": "object"}
                ]}}},
                "enum": [{"properties": {}}],
                "x-guidance": {},
                "additionalProperties": false,
            })
        );
    }

    /// A client's own `x-guidance` does not count.
    #[test]
    fn whitespace_follows_the_options() {
        let options = |any: bool, pattern: Option<&str>| StructuredOptions {
            disable_any_whitespace: any,
            disable_additional_properties: false,
            whitespace_pattern: pattern.map(str::to_string),
        };
        let none = StructuredOptions::default();
        let own = json!({"x-guidance": {"lenient": true}});
        let of = |request: &StructuredOptions, engine: &StructuredOptions| {
            prepared(&own, &JsonRules::new(request, engine)).unwrap()["x-guidance"].clone()
        };
        assert_eq!(of(&none, &none), json!({}));
        assert_eq!(of(&options(false, Some(" ?")), &none), json!({"whitespace_pattern": " ?"}));
        for (request, engine) in [(true, false), (false, true)] {
            let x = of(&options(request, Some(" ?")), &options(engine, None));
            assert_eq!(x["whitespace_flexible"], false);
            assert_eq!((&x["item_separator"], &x["key_separator"]), (&json!(", "), &json!(": ")));
        }
        assert!(prepared(&json!([]), &JsonRules::default()).is_err());
    }
}
