//! Whether the branches of a `oneOf` exclude each other. Called by the writer of schemas, for a
//! warning only: what cannot be proven in few steps counts as overlapping.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::parts::Parts;

/// References behind each other that are followed.
const MAX_HOPS: usize = 16;
/// Branches of a `oneOf` that are compared with each other; more count as overlapping.
const MAX_COMPARED: usize = 100;
/// Constants, names and references that all comparisons of one schema may look at: a tenth of a
/// second.
const MAX_STEPS: u64 = 1_000_000;
/// Bytes of a text that count as one more step.
const STEP_BYTES: usize = 64;
/// The types of JSON.
const TYPES: [&str; 6] = ["array", "boolean", "null", "number", "object", "string"];

/// Compares branches until its steps are spent.
pub(super) struct Branches {
    left: u64,
}

/// What is known of the values for which a branch holds.
struct Facts<'s> {
    types: HashSet<&'static str>,
    /// All of them.
    constants: Option<HashSet<&'s Value>>,
    /// Properties that they must have. Empty one floor further down.
    must: HashMap<&'s str, Facts<'s>>,
}

impl Branches {
    pub fn new() -> Branches {
        Branches { left: MAX_STEPS }
    }

    /// Is it sure that no two of the branches hold for the same value?
    pub fn are_disjoint(&mut self, branches: &[Value], parts: &Parts) -> bool {
        if branches.len() > MAX_COMPARED {
            return false;
        }
        let facts = branches.iter().map(|schema| self.facts(schema, parts, true));
        let Some(facts) = facts.collect::<Option<Vec<_>>>() else { return false };
        let pairs = (0..facts.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        pairs.into_iter().all(|(a, b)| self.exclude(&facts[a], &facts[b]) == Some(true))
    }

    /// None: there are no steps left for it.
    fn spend(&mut self, steps: usize) -> Option<()> {
        let left = self.left.checked_sub(steps as u64);
        self.left = left.unwrap_or(0);
        left.map(drop)
    }

    fn facts<'s>(&mut self, schema: &'s Value, parts: &'s Parts, deep: bool) -> Option<Facts<'s>> {
        let schema = self.resolved(schema, parts)?;
        let constants = match (schema.get("const"), schema.get("enum")) {
            (Some(one), _) => Some(std::slice::from_ref(one)),
            (None, Some(Value::Array(all))) => Some(&all[..]),
            _ => None,
        };
        constants.into_iter().flatten().try_for_each(|value| self.spend_on(value))?;

        let mut must = HashMap::new();
        let properties = schema.get("properties").and_then(Value::as_object).filter(|_| deep);
        let required = schema.get("required").and_then(Value::as_array);
        if let (Some(properties), Some(required)) = (properties, required) {
            for name in required {
                self.spend_on(name)?;
                if let Some((name, schema)) =
                    name.as_str().and_then(|name| properties.get_key_value(name))
                {
                    must.insert(name.as_str(), self.facts(schema, parts, false)?);
                }
            }
        }
        Some(Facts {
            types: types(schema, constants),
            constants: constants.map(|all| all.iter().collect()),
            must,
        })
    }

    fn resolved<'s>(&mut self, schema: &'s Value, parts: &'s Parts) -> Option<&'s Value> {
        let mut schema = schema;
        for _ in 0..MAX_HOPS {
            let Some(to) = schema.get("$ref") else { break };
            self.spend_on(to)?;
            let to = to.as_str().map(|to| parts.local(to));
            match to.and_then(|to| parts.target(&to)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        Some(schema)
    }

    /// What it takes to read a value.
    fn spend_on(&mut self, value: &Value) -> Option<()> {
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            self.spend(1)?;
            match value {
                Value::Array(list) => open.extend(list),
                Value::Object(map) => open.extend(map.values()),
                Value::String(text) => self.spend(text.len() / STEP_BYTES)?,
                _ => {}
            }
        }
        Some(())
    }

    /// By their types, their constants, or a property that both must have.
    fn exclude(&mut self, a: &Facts, b: &Facts) -> Option<bool> {
        self.spend(1)?;
        if a.types.is_disjoint(&b.types) {
            return Some(true);
        }
        if let (Some(a), Some(b)) = (&a.constants, &b.constants) {
            let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
            few.iter().try_for_each(|value| self.spend_on(value))?;
            return Some(few.is_disjoint(many));
        }
        if a.types.len() > 1 || b.types.len() > 1 {
            return Some(false);
        }
        for (name, schema) in &a.must {
            self.spend(1)?;
            let Some(other) = b.must.get(name) else { continue };
            if self.exclude(schema, other)? {
                return Some(true);
            }
        }
        Some(false)
    }
}

/// The types of JSON that a schema names, by itself or in constants; all if it names none.
fn types(schema: &Value, constants: Option<&[Value]>) -> HashSet<&'static str> {
    let named = |name: &str| {
        let name = if name == "integer" { "number" } else { name };
        TYPES.into_iter().find(|known| *known == name)
    };
    let of_value = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if let Some(constants) = constants {
        return constants.iter().map(of_value).collect();
    }
    match schema.get("type") {
        Some(Value::String(name)) => named(name).into_iter().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(|t| named(t.as_str()?)).collect(),
        _ => TYPES.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::interrupt::NeverInterrupted;
    use super::*;

    /// Is it proven, and in how many steps?
    fn proven(root: &Value, branches: &Value) -> (bool, u64) {
        let mut compared = Branches::new();
        let parts = Parts::new(root, &NeverInterrupted);
        let proven = compared.are_disjoint(branches.as_array().unwrap(), &parts);
        (proven, MAX_STEPS - compared.left)
    }

    #[test]
    fn branches_are_disjoint_by_type_constants_or_a_property() {
        let root = json!({"$defs": {"list": {"type": "array"}, "a": {"const": "a"}}});
        let tagged = |kind: Value| {
            let properties = json!({ "kind": kind });
            json!({"type": "object", "properties": properties, "required": ["kind"]})
        };
        let (a, b) = (tagged(json!({"const": "a"})), tagged(json!({"const": "b"})));
        for (branches, disjoint) in [
            (json!([{"type": "integer"}, {"$ref": "#/$defs/list"}]), true),
            (json!([{"type": "integer"}, {"type": "number"}]), false),
            (json!([{"const": 1}, {"enum": [2, "x"]}]), true),
            (json!([{"const": 1}, {"enum": [1, "x"]}]), false),
            (json!([{"const": [1, {"x": 2}]}, {"const": [1, {"x": 2}]}]), false),
            (json!([a, b]), true),
            (json!([a, a]), false),
            (json!([tagged(json!({"$ref": "#/$defs/a"})), b]), true),
            (json!([tagged(json!({"$ref": "#/$defs/a"})), a]), false),
            (json!([tagged(a.clone()), tagged(b.clone())]), false),
            (json!([{}, {"type": "null"}]), false),
        ] {
            assert_eq!(proven(&root, &branches).0, disjoint, "{branches}");
        }
    }

    #[test]
    fn many_branches_of_many_constants_are_compared_in_few_steps() {
        let kinds = |i: usize| {
            let kinds: Vec<String> = (0..50).map(|k| format!("kind {i} {k}")).collect();
            json!({"type": "object", "properties": {"k": {"enum": kinds}}, "required": ["k"]})
        };
        let branches = json!((0..100).map(kinds).collect::<Vec<_>>());
        let (proven, steps) = proven(&Value::Null, &branches);
        assert!(proven && steps < 300_000, "{proven} {steps}");
    }

    /// What takes more counts as overlapping, and from there on nothing is compared.
    #[test]
    fn comparisons_end() {
        let names = |c: char| json!((0..20_000).map(|i| format!("{c}{i}")).collect::<Vec<_>>());
        let root = json!({"$defs": {"A": {"enum": names('a')}, "B": {"enum": names('b')}}});
        let both = [json!({"$ref": "#/$defs/A"}), json!({"$ref": "#/$defs/B"})];
        let parts = Parts::new(&root, &NeverInterrupted);
        let mut compared = Branches::new();
        let proven = (0..2000).filter(|_| compared.are_disjoint(&both, &parts)).count();
        assert_eq!((proven, compared.left), (16, 0));

        let long = "x".repeat(100_000);
        let long: Vec<Value> = (0..100).map(|i| json!({"const": format!("{long}{i}")})).collect();
        let mut compared = Branches::new();
        assert!(!compared.are_disjoint(&long, &parts));
        assert_eq!(compared.left, 0);
    }
}
