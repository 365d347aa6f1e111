//! How large a schema may be. Called by the writer of schemas, for each part of one. The engine's
//! cost grows with the square of some of these, so that the limits are what compiles in less than
//! half a second.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::invalid;

/// JSON values in schemas, but for those of `enum`, and without descriptions and the like.
const MAX_VALUES: usize = 10_000;
/// Values of all `enum` together.
const MAX_CHOICES: usize = 50_000;
/// In `properties` and `required`, together.
const MAX_NAMES: usize = 5_000;
/// Of one object. Each may come next as long as none has come.
const MAX_OPTIONAL: usize = 500;
/// That objects are given by the parts they hold together with, each object anew.
const MAX_INHERITED: usize = 200_000;
/// `pattern` and `patternProperties`. Those of one object are compared with each other.
const MAX_PATTERNS: usize = 500;
const MAX_PATTERN_BYTES: usize = 1 << 15;
const MAX_PATTERN_PROPERTIES: usize = 50;

/// What was counted so far.
#[derive(Debug, Default)]
pub(super) struct Size {
    values: usize,
    choices: usize,
    names: usize,
    inherited: usize,
    patterns: usize,
    pattern_bytes: usize,
    pattern_properties: usize,
}

impl Size {
    pub fn value(&mut self) -> Result<()> {
        self.values += 1;
        within(self.values, MAX_VALUES, "values")
    }

    /// A value that is no schema, with all that it holds.
    pub fn constant(&mut self, value: &Value) -> Result<()> {
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            self.value()?;
            match value {
                Value::Array(list) => open.extend(list),
                Value::Object(map) => open.extend(map.values()),
                _ => {}
            }
        }
        Ok(())
    }

    /// A value of `enum`.
    pub fn choice(&mut self, value: &Value) -> Result<()> {
        if value.is_array() || value.is_object() {
            return self.constant(value);
        }
        self.choices += 1;
        within(self.choices, MAX_CHOICES, "values in its enums")
    }

    pub fn pattern(&mut self, pattern: &str) -> Result<()> {
        self.patterns += 1;
        self.pattern_bytes += pattern.len();
        within(self.patterns, MAX_PATTERNS, "patterns")?;
        within(self.pattern_bytes, MAX_PATTERN_BYTES, "bytes of patterns")
    }

    /// The names of an object. Its schemas count when they are read.
    pub fn object(&mut self, map: &Map<String, Value>) -> Result<()> {
        let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len);
        let properties = map.get("properties").and_then(Value::as_object);
        let count = properties.map_or(0, Map::len);
        self.names += required + count;
        within(self.names, MAX_NAMES, "names in `properties` and `required`")?;
        within(count.saturating_sub(required), MAX_OPTIONAL, "optional properties in one object")?;

        if let Some(Value::Object(patterns)) = map.get("patternProperties") {
            self.pattern_properties += patterns.len();
            within(self.pattern_properties, MAX_PATTERN_PROPERTIES, "patternProperties")?;
            patterns.keys().try_for_each(|pattern| self.pattern(pattern))?;
        }
        Ok(())
    }

    /// The names that an object is closed over.
    pub fn closed(&mut self, names: usize) -> Result<()> {
        self.inherited += names;
        within(self.inherited, MAX_INHERITED, "names that objects are given by their parts")
    }
}

fn within(count: usize, limit: usize, what: &str) -> Result<()> {
    if count <= limit {
        return Ok(());
    }
    Err(invalid!("Grammar error: the schema has more than the limit of {limit} {what}"))
}
