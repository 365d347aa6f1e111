//! JSON values as typed arguments, with the coercions of model.json in one place. Called by `args`.

use std::fmt::Display;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::invalid;
use crate::sampling::python::quoted;

/// Reads keys of one object. `null` and a missing key are the same: not set.
pub(super) struct Reader<'a> {
    map: &'a Map<String, Value>,
    warnings: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(map: &'a Map<String, Value>, warnings: &'a mut Vec<String>) -> Self {
        Reader { map, warnings }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn string(&mut self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(other) => Err(wrong(key, "a string", other)),
        }
    }

    /// A string out of a closed set.
    pub(super) fn one_of(&mut self, key: &str, names: &[&str]) -> Result<Option<String>> {
        let value = self.string(key)?;
        match &value {
            Some(v) if !names.contains(&v.as_str()) => Err(invalid!(
                "{key}: got {}, this version supports {}",
                quoted(v),
                names.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ")
            )),
            _ => Ok(value),
        }
    }

    pub(super) fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let coerced = match value {
            Value::Bool(b) => return Ok(Some(*b)),
            Value::String(s) => truth(s),
            Value::Number(n) => match n.as_f64() {
                Some(0.0) => Some(false),
                Some(1.0) => Some(true),
                _ => None,
            },
            _ => None,
        };
        let coerced = coerced.ok_or_else(|| wrong(key, "a valid boolean", value))?;
        self.warn(key, value, coerced);
        Ok(Some(coerced))
    }

    pub(super) fn int(&mut self, key: &str) -> Result<Option<i64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        if let Some(n) = value.as_i64() {
            return Ok(Some(n));
        }
        if let Some(n) = value.as_f64().and_then(integral) {
            return Ok(Some(n));
        }
        let coerced = value.as_str().and_then(|s| s.trim().parse::<i64>().ok());
        let coerced = coerced.ok_or_else(|| wrong(key, "a valid integer", value))?;
        self.warn(key, value, coerced);
        Ok(Some(coerced))
    }

    /// An integer from `least` to the largest that the field's type holds.
    pub(super) fn at_least<T: TryFrom<i64>>(&mut self, key: &str, least: i64) -> Result<Option<T>> {
        let Some(n) = self.int(key)? else { return Ok(None) };
        if n < least {
            return Err(invalid!("{key} must be at least {least}, got {n}"));
        }
        T::try_from(n).map(Some).map_err(|_| invalid!("{key} is too large: {n}"))
    }

    pub(super) fn float(&mut self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        if let Some(x) = value.as_f64() {
            return Ok(Some(x));
        }
        let coerced = value.as_str().and_then(|s| s.trim().parse::<f64>().ok());
        let coerced = coerced.ok_or_else(|| wrong(key, "a valid number", value))?;
        self.warn(key, value, coerced);
        Ok(Some(coerced))
    }

    pub(super) fn object(&mut self, key: &str) -> Result<Map<String, Value>> {
        match self.get(key) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(other) => Err(wrong(key, "an object", other)),
        }
    }

    fn warn(&mut self, key: &str, value: &Value, read_as: impl Display) {
        self.warnings.push(format!("model.json: '{key}': {value} is read as {read_as}"));
    }
}

/// The spellings that vLLM's own checker takes for a boolean.
fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "t" | "y" => Some(true),
        "false" | "0" | "no" | "off" | "f" | "n" => Some(false),
        _ => None,
    }
}

fn integral(x: f64) -> Option<i64> {
    // 2^53: beyond it a double does not say which integer was meant.
    (x.fract() == 0.0 && x.abs() < 9_007_199_254_740_992.0).then_some(x as i64)
}

pub(super) fn wrong(key: &str, expected: &str, got: &Value) -> Error {
    let how = if got.is_string() { " (unable to parse the string)" } else { "" };
    invalid!("{key}: Input should be {expected}{how}, got {got}")
}

/// `value` means the same as the JSON text `default`; null is always the default.
pub(super) fn is_default(value: &Value, default: &str) -> bool {
    let default: Value = serde_json::from_str(default).unwrap_or_default();
    match (value, &default) {
        (Value::Null, _) => true,
        (Value::String(s), Value::Bool(b)) => truth(s) == Some(*b),
        (Value::String(s), Value::Number(n)) => s.trim().parse::<f64>().ok() == n.as_f64(),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        // An empty container or text is "nothing given", whatever the default's type.
        (Value::Object(m), _) if m.is_empty() => true,
        (Value::Array(a), _) if a.is_empty() => true,
        (Value::String(s), _) if s.is_empty() => true,
        _ => *value == default,
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
