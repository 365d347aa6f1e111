//! What hangs together in a schema: references inside it, and the parts that hold at the same
//! place. Called by the writer of schemas; it changes nothing.

use std::cell::Cell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::super::interrupt::Interrupt;
use super::values;
use crate::error::Result;
use crate::invalid;

/// Parts and their names that are looked at for all places of a schema together: a chain of
/// references is walked from each of its links. One to three seconds, of the five of a compilation.
const MAX_PARTS: u64 = 2_000_000;
/// Steps between two questions whether to go on: a millisecond.
const STRIDE: u64 = 4096;
const BRANCHES: [&str; 3] = ["allOf", "anyOf", "oneOf"];

pub(super) struct Parts<'a> {
    root: &'a Value,
    /// The whole schema's own name, which its references may repeat.
    id: Option<&'a str>,
    /// Whether all values of `multipleOf` in the schema go together, so that some of them do.
    multiples_fit: bool,
    interrupt: &'a dyn Interrupt,
    seen: Cell<u64>,
}

impl<'a> Parts<'a> {
    pub fn new(root: &'a Value, interrupt: &'a dyn Interrupt) -> Parts<'a> {
        let id = root.get("$id").or_else(|| root.get("id")).and_then(Value::as_str);
        Parts {
            root,
            id: id.map(|id| id.trim_end_matches('#')).filter(|id| !id.is_empty()),
            multiples_fit: values::check_common_multiple(multiples(root).into_iter()).is_ok(),
            interrupt,
            seen: Cell::new(0),
        }
    }

    /// Count what is looked at, and ask at times whether to go on.
    ///
    /// # Errors
    /// InvalidArgument: it is more than a schema may have. And why `interrupt` ends it.
    pub fn count(&self, steps: usize) -> Result<()> {
        let before = self.seen.get();
        let now = before + steps as u64;
        self.seen.set(now);
        if now > MAX_PARTS {
            return Err(invalid!(
                "Grammar error: `allOf`, `anyOf`, `oneOf` and `$ref` of the schema lead to more \
                 than the limit of {MAX_PARTS} parts and names, counted at each place that has \
                 them: use shorter chains of them"
            ));
        }
        if now / STRIDE > before / STRIDE {
            self.interrupt.check()?;
        }
        Ok(())
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
    ///
    /// # Errors
    /// Those of [`Parts::count`].
    pub fn listed(&self, map: &Map<String, Value>) -> Result<Option<BTreeSet<String>>> {
        let mut names = BTreeSet::new();
        if !Parts::are_several(map) {
            let lists =
                ["properties", "patternProperties"].iter().any(|key| map.contains_key(*key));
            add_names(map, &mut names);
            return Ok(lists.then_some(names));
        }
        let mut lists = map.contains_key("properties");
        add_names(map, &mut names);
        let mut seen = BTreeSet::new();
        for part in self.parts_of(map, &mut seen)? {
            let others = part.get("additionalProperties").is_some_and(|v| *v != Value::Bool(false));
            let patterns = ["patternProperties", "unevaluatedProperties"];
            if others || patterns.iter().any(|key| part.contains_key(*key)) {
                return Ok(None);
            }
            lists |= part.contains_key("properties");
            self.count(add_names(part, &mut names))?;
        }
        Ok(lists.then_some(names))
    }

    /// Everything that holds together with `map`, through references; each place once.
    fn parts_of<'s>(
        &'s self,
        map: &'s Map<String, Value>,
        seen: &mut BTreeSet<String>,
    ) -> Result<Vec<&'s Map<String, Value>>> {
        let mut found = Vec::new();
        let mut open = vec![map];
        while let Some(map) = open.pop() {
            self.count(1)?;
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
        Ok(found)
    }

    /// # Errors
    /// InvalidArgument: the values of `multipleOf` that hold together make one with too many
    /// digits. And those of [`Parts::count`].
    pub fn check_multiples(&self, map: &Map<String, Value>) -> Result<()> {
        if self.multiples_fit {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        let parts = self.parts_of(map, &mut seen)?;
        let all = parts.into_iter().chain([map]).filter_map(|part| part.get("multipleOf"));
        values::check_common_multiple(all)
    }
}

/// All values of `multipleOf`, wherever they stand.
fn multiples(root: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(list) => open.extend(list),
            Value::Object(map) => {
                found.extend(map.get("multipleOf"));
                open.extend(map.values());
            }
            _ => {}
        }
    }
    found
}

/// Returns how many there are.
fn add_names(map: &Map<String, Value>, names: &mut BTreeSet<String>) -> usize {
    let mut count = 0;
    if let Some(Value::Object(properties)) = map.get("properties") {
        names.extend(properties.keys().cloned());
        count += properties.len();
    }
    if let Some(Value::Array(required)) = map.get("required") {
        names.extend(required.iter().filter_map(Value::as_str).map(str::to_string));
        count += required.len();
    }
    count
}
