//! JSON schemas as the grammar engine takes them, with the meaning that vLLM's users know: an
//! object that lists its properties has no others, `oneOf` is `anyOf`, what says nothing about the
//! output is left out, and our options are put in. Called by [`super::Grammars`] and by structural
//! tags; a pure function but for a line in the log.
//!
//! | file | what |
//! |---|---|
//! | `branches` | whether those of a `oneOf` exclude each other |
//! | `parts` | what the parts of one schema (`allOf`, `$ref`, ...) are together |
//! | `values` | numbers, texts and constants |
//! | `size` | how large a schema may be |

mod branches;
mod parts;
mod size;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;

use serde_json::{json, Map, Value};

use super::interrupt::Interrupt;
use super::lark::ascii_classes;
use crate::error::Result;
use crate::invalid;
use crate::sampling::StructuredOptions;
use branches::Branches;
use parts::Parts;
use size::Size;

/// How JSON is written, from the request's options and the engine's.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonRules {
    compact: bool,
    whitespace: Option<String>,
}

impl JsonRules {
    pub fn new(request: &StructuredOptions, engine: &StructuredOptions) -> JsonRules {
        JsonRules {
            compact: request.disable_any_whitespace || engine.disable_any_whitespace,
            whitespace: request.whitespace_pattern.clone(),
        }
    }
}

/// The schema in the engine's dialect, with its options as `x-guidance`.
///
/// # Errors
/// InvalidArgument: it is neither an object nor `true`, or too large, with the number and limit.
/// And why `interrupt` ends it.
pub(super) fn prepared(
    schema: &Value,
    rules: &JsonRules,
    interrupt: &dyn Interrupt,
) -> Result<Value> {
    interrupt.check()?;
    if !matches!(schema, Value::Object(_) | Value::Bool(true)) {
        return Err(invalid!("Grammar error: a schema must be an object or true"));
    }
    let mut writer = Writer {
        parts: Parts::new(schema, interrupt),
        branches: Branches::new(),
        size: Size::default(),
        open: BTreeMap::new(),
        unwritten: Vec::new(),
        overlap: false,
    };
    let mut map = match writer.schema(schema, Role::Alone)? {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    writer.add_open_copies(&mut map)?;
    if writer.overlap {
        tracing::warn!(
            "structured_outputs: branches of a oneOf may hold for the same value: taken as anyOf"
        );
    }

    let options = match (&rules.whitespace, rules.compact) {
        (_, true) => json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "
        }),
        (Some(pattern), false) => json!({"whitespace_pattern": ascii_classes(pattern)}),
        (None, false) => json!({}),
    };
    map.insert("x-guidance".into(), options);
    Ok(Value::Object(map))
}

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// By itself: an object that lists properties is closed here.
    Alone,
    /// One of several that hold together: who holds them closes them all.
    Part,
}

/// Keywords without a meaning for the output.
const NEUTRAL: [&str; 20] = [
    "$comment",
    "$dynamicAnchor",
    "$id",
    "$recursiveAnchor",
    "$schema",
    "$vocabulary",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
    "x-guidance",
];
struct Writer<'a> {
    parts: Parts<'a>,
    branches: Branches,
    size: Size,
    /// Pointers to schemas that are parts somewhere, with the names of their copies that are not
    /// closed.
    open: BTreeMap<String, String>,
    /// Those whose copies are still to be written.
    unwritten: Vec<(String, String)>,
    overlap: bool,
}

impl Writer<'_> {
    fn schema(&mut self, schema: &Value, role: Role) -> Result<Value> {
        self.size.value()?;
        self.parts.count(1)?;
        let Value::Object(map) = schema else { return Ok(schema.clone()) };
        let several = Parts::are_several(map);
        let inner = if several { Role::Part } else { role };
        self.size.object(map)?;
        if role == Role::Alone {
            self.parts.check_multiples(map)?;
        }

        let mut out = Map::new();
        for (key, value) in map {
            if !NEUTRAL.contains(&key.as_str()) && !says_nothing(key, value, map) {
                self.keyword(key, value, map, inner, &mut out)?;
            }
        }
        values::bound_integers(&mut out);
        if role == Role::Alone {
            self.close(map, &mut out)?;
        }
        Ok(Value::Object(out))
    }

    fn keyword(
        &mut self,
        key: &str,
        value: &Value,
        map: &Map<String, Value>,
        inner: Role,
        out: &mut Map<String, Value>,
    ) -> Result<()> {
        let written = match (key, value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(all)) => {
                let mut schemas = Map::new();
                for (name, schema) in all {
                    schemas.insert(name.clone(), self.schema(schema, Role::Alone)?);
                }
                Value::Object(schemas)
            }
            ("items", Value::Array(list)) => {
                out.insert("prefixItems".into(), self.list(list, Role::Alone)?);
                return Ok(());
            }
            ("additionalItems", _) => {
                // Without a list before it, it has no meaning.
                if map.get("items").is_some_and(Value::is_array) {
                    out.insert("items".into(), self.schema(value, Role::Alone)?);
                }
                return Ok(());
            }
            ("prefixItems", Value::Array(list)) => self.list(list, Role::Alone)?,
            ("items" | "additionalProperties", _) => self.schema(value, Role::Alone)?,
            ("oneOf", Value::Array(list)) => {
                self.overlap |= !self.branches.are_disjoint(list, &self.parts);
                let branches = self.list(list, inner)?;
                if map.contains_key("anyOf") {
                    add_parts(out, vec![json!({"anyOf": branches})])
                } else {
                    drop(out.insert("anyOf".into(), branches))
                }
                return Ok(());
            }
            ("allOf", Value::Array(list)) => {
                let list: Result<Vec<_>> = list.iter().map(|one| self.schema(one, inner)).collect();
                add_parts(out, list?);
                return Ok(());
            }
            ("anyOf", Value::Array(list)) => self.list(list, inner)?,
            ("$ref", Value::String(to)) => Value::String(self.reference(to, inner)),
            ("unevaluatedProperties", _) if !Parts::are_several(map) => {
                if !map.contains_key("additionalProperties") {
                    let others = self.schema(value, Role::Alone)?;
                    out.insert("additionalProperties".into(), others);
                }
                return Ok(());
            }
            ("unevaluatedProperties", Value::Bool(_)) => return Ok(()),
            _ => return self.leaf(key, value, map, out),
        };
        out.insert(key.to_string(), written);
        Ok(())
    }

    /// A keyword that holds no schema.
    fn leaf(
        &mut self,
        key: &str,
        value: &Value,
        map: &Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<()> {
        let written = match (key, value) {
            ("pattern", Value::String(pattern)) => {
                self.size.pattern(pattern)?;
                ascii_classes(pattern).into()
            }
            ("format", Value::String(format)) => match values::format(format) {
                values::Format::Known => value.clone(),
                values::Format::Pattern(pattern) if !map.contains_key("pattern") => {
                    out.insert("pattern".into(), pattern.into());
                    return Ok(());
                }
                values::Format::Pattern(_) => value.clone(),
                values::Format::Unknown => return Ok(()),
            },

            ("const", _) => {
                self.size.constant(value)?;
                values::check_exact(value)?;
                value.clone()
            }

            ("enum", Value::Array(list)) => {
                for constant in list {
                    self.size.choice(constant)?;
                    values::check_exact(constant)?;
                }
                value.clone()
            }
            ("multipleOf", _) => {
                values::check_common_multiple([value].into_iter())?;
                value.clone()
            }
            _ => {
                self.size.constant(value)?;
                value.clone()
            }
        };

        out.insert(key.to_string(), written);
        Ok(())
    }

    fn list(&mut self, list: &[Value], role: Role) -> Result<Value> {
        let list: Result<Vec<Value>> =
            list.iter().map(|schema| self.schema(schema, role)).collect();
        list.map(Value::Array)
    }

    /// The same place, or that of its copy that is not closed.
    fn reference(&mut self, to: &str, role: Role) -> String {
        let to = self.parts.local(to);
        let Some(pointer) = to.strip_prefix('#').filter(|_| self.parts.target(&to).is_some())
        else {
            return to;
        };
        if role == Role::Alone {
            return to.replace("/oneOf/", "/anyOf/");
        }
        if let Some(name) = self.open.get(pointer) {
            return format!("#/$defs/{name}");
        }
        let next = self.open.len();
        let mut name = format!("part{next}");
        while self.parts.has_definition(&name) {
            name.push('_');
        }
        self.open.insert(pointer.to_string(), name.clone());
        self.unwritten.push((to.clone(), name.clone()));
        format!("#/$defs/{name}")
    }

    /// Write what [`Writer::reference`] has promised; a copy may refer to others.
    fn add_open_copies(&mut self, root: &mut Map<String, Value>) -> Result<()> {
        while let Some((to, name)) = self.unwritten.pop() {
            let Some(target) = self.parts.target(&to) else { continue };
            let copy = self.schema(target, Role::Part)?;
            let definitions = root.entry("$defs").or_insert_with(|| json!({}));
            if let Value::Object(definitions) = definitions {
                definitions.insert(name, copy);
            }
        }
        Ok(())
    }

    /// No properties but those that are listed, here or in a part, unless it says otherwise.
    fn close(&mut self, map: &Map<String, Value>, out: &mut Map<String, Value>) -> Result<()> {
        let refused = map.get("unevaluatedProperties") == Some(&Value::Bool(false));
        let open = ["additionalProperties", "unevaluatedProperties"];
        if open.iter().any(|key| map.contains_key(*key)) && !refused {
            return Ok(());
        }
        let Some(names) = self.parts.listed(map)? else { return Ok(()) };
        if Parts::are_several(map) {
            self.size.closed(names.len())?;
        }
        let listed = out.entry("properties").or_insert_with(|| json!({}));
        let Value::Object(listed) = listed else { return Ok(()) };
        for name in names {
            listed.entry(name).or_insert(Value::Bool(true));
        }
        out.entry("additionalProperties").or_insert(Value::Bool(false));
        Ok(())
    }
}

/// What holds together with the rest of a schema.
fn add_parts(schema: &mut Map<String, Value>, parts: Vec<Value>) {
    if let Value::Array(all) = schema.entry("allOf").or_insert_with(|| json!([])) {
        all.extend(parts);
    }
}

/// A keyword with a value that leaves every output as it is.
fn says_nothing(key: &str, value: &Value, map: &Map<String, Value>) -> bool {
    let absent = |other: &str| !map.contains_key(other);
    let anything = *value == Value::Bool(true) || *value == json!({});
    match key {
        "uniqueItems" | "not" => *value == Value::Bool(false),
        "if" => absent("then") && absent("else"),
        "then" | "else" => absent("if") || anything,
        "minContains" | "maxContains" => absent("contains"),
        "contains" => map.get("minContains") == Some(&json!(0)) && absent("maxContains"),
        "dependentRequired" | "dependentSchemas" | "dependencies" => *value == json!({}),
        "propertyNames" => anything || *value == json!({"type": "string"}),
        "unevaluatedItems" => anything,
        _ => false,
    }
}
