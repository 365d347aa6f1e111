//! What schemas become for the engine. What texts they then allow is tested one floor up.

use super::super::interrupt::NeverInterrupted;
use super::*;

fn written(schema: Value) -> Value {
    let mut written = prepared(&schema, &JsonRules::default(), &NeverInterrupted).unwrap();
    written.as_object_mut().unwrap().shift_remove("x-guidance");
    written
}

fn refusal(schema: Value) -> String {
    prepared(&schema, &JsonRules::default(), &NeverInterrupted).unwrap_err().to_string()
}

#[test]
fn objects_that_list_properties_are_closed() {
    assert_eq!(
        written(json!({
            "properties": {
                "properties": {"properties": {"a": {}}},
                "open": {"properties": {}, "additionalProperties": {"properties": {}}},
                "any": {"type": "object"},
            },
            "$defs": {"x": {"items": {"anyOf": [{"patternProperties": {}}, {"type": "object"}]}}},
            "enum": [{"properties": {}}],
        })),
        json!({
            "properties": {
                "properties": {"properties": {"a": {}}, "additionalProperties": false},
                "open": {
                    "properties": {},
                    "additionalProperties": {"properties": {}, "additionalProperties": false}
                },
                "any": {"type": "object"},
            },
            "$defs": {"x": {"items": {"anyOf": [
                {"patternProperties": {}, "properties": {}, "additionalProperties": false},
                {"type": "object"}
            ]}}},
            "enum": [{"properties": {}}],
            "additionalProperties": false,
        })
    );

    assert_eq!(
        written(json!({"properties": {"a": {}}, "required": ["a", "b"]})),
        json!({
            "properties": {"a": {}, "b": true}, "required": ["a", "b"],
            "additionalProperties": false
        })
    );
    for open in ["additionalProperties", "unevaluatedProperties"] {
        let schema = written(json!({"properties": {"a": {}}, open: true}));
        assert_eq!(schema, json!({"properties": {"a": {}}, "additionalProperties": true}));
    }
    let schema = written(json!({"properties": {"a": {}}, "unevaluatedProperties": false}));
    assert_eq!(schema, json!({"properties": {"a": {}}, "additionalProperties": false}));
}

/// Parts are closed together: each alone would forbid what the others ask for.
#[test]
fn parts_of_one_object_are_closed_together() {
    assert_eq!(
        written(json!({
            "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"properties": {"c": {}}}}}],
            "$defs": {"base": {"properties": {"a": {}}, "required": ["a"]}},
        })),
        json!({
            "allOf": [
                {"$ref": "#/$defs/part0"},
                {"properties": {"b": {"properties": {"c": {}}, "additionalProperties": false}}},
            ],
            "$defs": {
                "base": {"properties": {"a": {}}, "required": ["a"], "additionalProperties": false},
                "part0": {"properties": {"a": {}}, "required": ["a"]},
            },
            "properties": {"a": true, "b": true},
            "additionalProperties": false,
        })
    );
    let one = json!({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"properties": {}}}});
    assert_eq!(written(one)["allOf"], json!([{"$ref": "#/$defs/x"}]));
    let open = json!({"properties": {"a": {}}, "anyOf": [{"additionalProperties": true}]});
    assert_eq!(written(open.clone()), open);
}

#[test]
fn what_says_nothing_is_left_out() {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.org/x",
        "title": "t", "description": "d", "default": 1, "examples": [1], "deprecated": true,
        "readOnly": true, "writeOnly": false, "$comment": "c", "uniqueItems": false,
        "not": false, "if": {}, "minContains": 1, "dependentRequired": {}, "format": "int32",
        "propertyNames": {"type": "string"}, "unevaluatedItems": true, "type": "integer",
        "additionalItems": false, "nullable": true,
    });
    assert_eq!(written(schema), json!({"type": "integer", "nullable": true}));
    let named = json!({
        "$id": "https://example.org/x", "$ref": "https://example.org/x#/$defs/y",
        "$defs": {"y": {"type": "null"}}
    });
    assert_eq!(written(named)["$ref"], "#/$defs/y");
    for kept in [json!({"uniqueItems": true}), json!({"not": {}}), json!({"if": {}, "then": false})]
    {
        assert_eq!(written(kept.clone()), kept);
    }
    assert_eq!(written(json!(true)), json!({}));
}

#[test]
fn one_of_is_any_of() {
    let both = json!({"oneOf": [{"type": "null"}], "anyOf": [{"type": "null"}]});
    assert_eq!(
        written(both),
        json!({"allOf": [{"anyOf": [{"type": "null"}]}], "anyOf": [{"type": "null"}]})
    );
}

#[test]
fn integers_keep_their_bounds() {
    let edge = 9_223_372_036_854_774_784.0;
    for (bounds, wanted) in [
        (json!({"minimum": -5, "maximum": 7.5}), json!({"minimum": -5, "maximum": 7.5})),
        (
            json!({"minimum": i64::MIN, "maximum": i64::MAX}),
            json!({"minimum": -edge, "maximum": edge}),
        ),
        (
            json!({"exclusiveMinimum": 9_007_199_254_740_993_i64}),
            json!({"minimum": 9_007_199_254_740_994.0}),
        ),
        (
            json!({"maximum": 9_007_199_254_740_993_i64}),
            json!({"maximum": 9_007_199_254_740_992.0}),
        ),
        (json!({"minimum": 0, "maximum": u64::MAX}), json!({"minimum": 0, "maximum": edge})),
        (json!({"minimum": i64::MAX / 2}), {
            json!({"minimum": 4_611_686_018_427_387_904.0, "maximum": edge})
        }),
    ] {
        let typed = |mut map: Value| {
            map["type"] = json!("integer");
            map
        };
        assert_eq!(written(typed(bounds.clone())), typed(wanted), "{bounds}");
    }

    let float = json!({"type": "number", "maximum": i64::MAX});
    assert_eq!(written(float.clone()), float);
    assert!(refusal(json!({"const": 9_007_199_254_740_993_i64})).contains("larger than 2^53"));
    assert!(refusal(json!({"enum": [[u64::MAX]]})).contains("larger than 2^53"));
}

#[test]
fn multiples_stay_small_also_together() {
    assert!(refusal(json!({"multipleOf": 100_000_001})).contains("above the limit of 100000000"));
    let primes = [9973, 9967, 9949];
    let all: Vec<Value> = primes.iter().map(|p| json!({"multipleOf": p})).collect();
    assert!(refusal(json!({"allOf": all})).contains("above the limit of 100000000"));
    let chain = json!({
        "multipleOf": 9973, "$ref": "#/$defs/a",
        "$defs": {"a": {"multipleOf": 9967, "$ref": "#/$defs/b"}, "b": {"multipleOf": 9949}},
    });
    assert!(refusal(chain).contains("above the limit of 100000000"));
    let fine = json!({"allOf": [{"multipleOf": 0.25}, {"multipleOf": 10}]});
    assert_eq!(written(fine.clone()), fine);
}

#[test]
fn classes_are_ascii_and_times_are_upper_case() {
    assert_eq!(written(json!({"pattern": r"^[\d\s]\w$"}))["pattern"], {
        r"^[[0-9][ \t\n\r\f\v]][0-9a-zA-Z_]$"
    });
    let time = written(json!({"format": "date-time"}));
    let pattern = fancy_regex::Regex::new(time["pattern"].as_str().unwrap()).unwrap();
    assert!(pattern.is_match("2024-02-29T23:59:60.5Z").unwrap());
    assert!(pattern.is_match("2024-12-01T00:00:00+05:30").unwrap());
    for wrong in ["2024-02-29t23:59:00Z", "2024-02-29T23:59:00z", "2024-02-30T23:59:00Z"] {
        assert!(!pattern.is_match(wrong).unwrap(), "{wrong}");
    }
    assert_eq!(written(json!({"format": "uuid"})), json!({"format": "uuid"}));
}

#[test]
fn large_schemas_are_refused_with_a_number() {
    let names = |n: usize| (0..n).map(|i| format!("n{i}")).collect::<Vec<_>>();
    let listed = |n: usize| -> Map<String, Value> {
        names(n).into_iter().map(|name| (name, Value::Bool(true))).collect()
    };
    for (schema, text) in [
        (json!({"required": names(60_000)}), "limit of 5000 names"),
        (json!({"properties": listed(501)}), "limit of 500 optional properties"),
        (json!({"const": names(10_001)}), "limit of 10000 values"),
        (json!({"enum": names(50_001)}), "limit of 50000 values in its enums"),
        (json!({"anyOf": vec![json!({}); 10_001]}), "limit of 10000 values"),
        (json!({"patternProperties": listed(51)}), "limit of 50 patternProperties"),
        (json!({"pattern": "a".repeat(40_000)}), "limit of 32768 bytes of patterns"),
    ] {
        let refused = refusal(schema);
        assert!(refused.starts_with("Grammar error: ") && refused.contains(text), "{refused}");
        assert!(refused.len() < 200);
    }

    let inherited = |n: usize| {
        let both = json!({"allOf": [{"$ref": "#/$defs/n"}, {"required": ["a"]}]});
        json!({"$defs": {"n": {"properties": listed(499)}}, "anyOf": vec![both; n]})
    };
    assert_eq!(written(inherited(400))["anyOf"].as_array().unwrap().len(), 400);
    assert!(refusal(inherited(401)).contains("limit of 200000 names that objects are given"));
    let described = json!({"description": names(20_000), "type": "null"});
    assert_eq!(written(described), json!({"type": "null"}));
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
        prepared(&own, &JsonRules::new(request, engine), &NeverInterrupted).unwrap()["x-guidance"]
            .clone()
    };
    assert_eq!(of(&none, &none), json!({}));
    assert_eq!(of(&options(false, Some(" ?")), &none), json!({"whitespace_pattern": " ?"}));
    for (request, engine) in [(true, false), (false, true)] {
        let x = of(&options(request, Some(" ?")), &options(engine, None));
        assert_eq!(x["whitespace_flexible"], false);
        assert_eq!((&x["item_separator"], &x["key_separator"]), (&json!(", "), &json!(": ")));
    }
    assert!(prepared(&json!([]), &JsonRules::default(), &NeverInterrupted).is_err());
}
