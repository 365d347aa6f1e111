//! What hangs together in a schema: references inside it, and the parts that hold at the same
//! place. Called by the writer of schemas; it changes nothing.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::values;
use crate::error::Result;

/// References behind each other that are followed.
const MAX_HOPS: usize = 16;
/// Branches of a `oneOf` that are compared with each other; more count as overlapping.
const MAX_COMPARED: usize = 100;
const BRANCHES: [&str; 3] = ["allOf", "anyOf", "oneOf"];

pub(super) struct Parts<'a> {
    root: &'a Value,
    /// The whole schema's own name, which its references may repeat.
    id: Option<&'a str>,
}

impl<'a> Parts<'a> {
    pub fn new(root: &'a Value) -> Parts<'a> {
        let id = root.get("$id").or_else(|| root.get("id")).and_then(Value::as_str);
        Parts { root, id: id.map(|id| id.trim_end_matches('#')).filter(|id| !id.is_empty()) }
    }

    /// Does more than one thing at this place list or limit an object's properties?
    pub fn are_several(map: &Map<String, Value>) -> bool {
        let own = ["properties", "patternProperties", "additionalProperties", "required"];
        let own = usize::from(own.iter().any(|key| map.contains_key(*key)));
        let all = map.get("allOf").and_then(Value::as_array).map_or(0, Vec::len);
        let one = |key: &str| usize::from(map.contains_key(key));
        let others = all + one("anyOf") + one("oneOf") + one("$ref");
        others > 0 && own + others > 1
    }

    /// A reference without the schema's own name.
    pub fn local(&self, to: &str) -> String {
        let rest = self.id.and_then(|id| to.strip_prefix(id)).filter(|rest| rest.starts_with('#'));
        rest.unwrap_or(to).to_string()
    }

    /// What a reference inside the schema names by its place.
    pub fn target(&self, to: &str) -> Option<&'a Value> {
        let pointer = to.strip_prefix('#')?;
        self.root.pointer(if pointer == "/" { "" } else { pointer })
    }

    pub fn has_definition(&self, name: &str) -> bool {
        self.root.get("$defs").is_some_and(|all| all.get(name).is_some())
    }

    /// The names that an object which `map` describes is to be closed over, and that `map` itself
    /// may lack. None: it stays open.
    pub fn listed(&self, map: &Map<String, Value>) -> Option<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        if !Parts::are_several(map) {
            let lists =
                ["properties", "patternProperties"].iter().any(|key| map.contains_key(*key));
            add_names(map, &mut names);
            return lists.then_some(names);
        }
        let mut lists = map.contains_key("properties");
        add_names(map, &mut names);
        let mut seen = BTreeSet::new();
        for part in self.parts_of(map, &mut seen) {
            let others = part.get("additionalProperties").is_some_and(|v| *v != Value::Bool(false));
            let patterns = ["patternProperties", "unevaluatedProperties"];
            if others || patterns.iter().any(|key| part.contains_key(*key)) {
                return None;
            }
            lists |= part.contains_key("properties");
            add_names(part, &mut names);
        }
        lists.then_some(names)
    }

    /// Everything that holds together with `map`, through references; each place once.
    fn parts_of<'s>(
        &'s self,
        map: &'s Map<String, Value>,
        seen: &mut BTreeSet<String>,
    ) -> Vec<&'s Map<String, Value>> {
        let mut found = Vec::new();
        let mut open = vec![map];
        while let Some(map) = open.pop() {
            let branches = BRANCHES.iter().filter_map(|key| map.get(*key)?.as_array()).flatten();
            let mut next: Vec<&Value> = branches.collect();
            if let Some(to) = map.get("$ref").and_then(Value::as_str).map(|to| self.local(to)) {
                if seen.insert(to.clone()) {
                    next.extend(self.target(&to));
                }
            }
            let next = next.into_iter().filter_map(Value::as_object);
            for part in next {
                found.push(part);
                open.push(part);
            }
        }
        found
    }

    /// # Errors
    /// InvalidArgument: the values of `multipleOf` that hold together make one with too many
    /// digits.
    pub fn check_multiples(&self, map: &Map<String, Value>) -> Result<()> {
        let mut seen = BTreeSet::new();
        let parts = self.parts_of(map, &mut seen);
        let all = parts.into_iter().chain([map]).filter_map(|part| part.get("multipleOf"));
        values::check_common_multiple(all)
    }

    /// Is it sure that no two of the branches hold for the same value?
    pub fn are_disjoint(&self, branches: &[Value]) -> bool {
        if branches.len() > MAX_COMPARED {
            return false;
        }
        let branches: Vec<&Value> = branches.iter().map(|schema| self.resolved(schema)).collect();
        let pairs = (0..branches.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        pairs.into_iter().all(|(a, b)| self.excludes(branches[a], branches[b], true))
    }

    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let mut schema = schema;
        for _ in 0..MAX_HOPS {
            let to = schema.get("$ref").and_then(Value::as_str).map(|to| self.local(to));
            match to.and_then(|to| self.target(&to)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// By their types, their constants, or a property that both must have.
    fn excludes(&self, a: &Value, b: &Value, deep: bool) -> bool {
        if types(a).is_disjoint(&types(b)) {
            return true;
        }
        if let (Some(a), Some(b)) = (constants(a), constants(b)) {
            return !a.iter().any(|value| b.contains(value));
        }
        let Some(first) = a.get("properties").and_then(Value::as_object).filter(|_| deep) else {
            return false;
        };
        let must = |schema: &Value, name: &str| {
            let required = schema.get("required").and_then(Value::as_array);
            required.is_some_and(|all| all.iter().any(|one| one == name))
        };
        let objects = types(a).len() == 1 && types(b).len() == 1;
        objects
            && first.iter().any(|(name, schema)| {
                let other = b.get("properties").and_then(|all| all.get(name));
                let (schema, other) = (self.resolved(schema), other.map(|o| self.resolved(o)));
                must(a, name)
                    && must(b, name)
                    && other.is_some_and(|other| self.excludes(schema, other, false))
            })
    }
}

fn add_names(map: &Map<String, Value>, names: &mut BTreeSet<String>) {
    if let Some(Value::Object(properties)) = map.get("properties") {
        names.extend(properties.keys().cloned());
    }
    if let Some(Value::Array(required)) = map.get("required") {
        names.extend(required.iter().filter_map(Value::as_str).map(str::to_string));
    }
}

fn constants(schema: &Value) -> Option<Vec<&Value>> {
    if let Some(one) = schema.get("const") {
        return Some(vec![one]);
    }
    schema.get("enum").and_then(Value::as_array).map(|all| all.iter().collect())
}

/// The types of JSON that a schema names, by itself or in constants; all if it names none.
fn types(schema: &Value) -> BTreeSet<&'static str> {
    const ALL: [&str; 6] = ["array", "boolean", "null", "number", "object", "string"];
    let named = |name: &str| {
        let name = if name == "integer" { "number" } else { name };
        ALL.into_iter().find(|known| *known == name)
    };
    let of_value = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if let Some(constants) = constants(schema) {
        return constants.into_iter().map(of_value).collect();
    }
    match schema.get("type") {
        Some(Value::String(name)) => named(name).into_iter().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(|t| named(t.as_str()?)).collect(),
        _ => ALL.into_iter().collect(),
    }
}
