//! JSON values as typed arguments, with the coercions of model.json in one place. Called by `args`.

use std::fmt::Display;

use serde_json::{Map, Value};

use crate::error::{nearest, Error, Result};
use crate::invalid;
use crate::json;
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

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn string(&mut self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(other) => Err(wrong(key, "a string", other)),
        }
    }

    /// A string whose case says nothing, in capitals.
    pub(super) fn upper(&mut self, key: &str) -> Result<Option<String>> {
        Ok(self.string(key)?.map(|text| text.to_ascii_uppercase()))
    }

    /// One more line of warning.
    pub(super) fn say(&mut self, warning: String) {
        self.warnings.push(warning);
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
        let coerced = coerced.ok_or_else(|| wrong_integer(key, value))?;
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
            Some(text @ Value::String(_)) => {
                let map = parsed_object(key, text)?;
                self.warn(key, text, "an object");
                Ok(map)
            }
            Some(other) => Err(wrong(key, "an object", other)),
        }
    }

    /// Every member of the object called `name` must be `known`.
    pub(super) fn only(&self, name: &str, known: &[&str]) -> Result<()> {
        let stranger = self.map.keys().find(|member| !known.contains(&member.as_str()));
        stranger.map_or(Ok(()), |member| Err(unknown(name, "key", member, known)))
    }

    fn warn(&mut self, key: &str, value: &Value, read_as: impl Display) {
        self.warnings.push(format!("'{key}': {} is read as {read_as}", json::shown(value)));
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
    invalid!("{key}: Input should be {expected}{how}, got {}", json::shown(got))
}

/// `member` of the object `name` is no `what` that is known.
pub(super) fn unknown(name: &str, what: &str, member: &str, known: &[&str]) -> Error {
    let remedy = match nearest(member, known.iter().copied()) {
        Some(known) => format!("did you mean '{known}'?"),
        None => format!("known are {}", known.join(", ")),
    };
    invalid!("{name}: unknown {what} {}: {remedy}", quoted(&json::cut(member)))
}

/// "1k", "2M", "1_000": what vLLM's command line takes, and its engine arguments do not.
fn wrong_integer(key: &str, got: &Value) -> Error {
    let error = wrong(key, "a valid integer", got);
    let text = got.as_str().unwrap_or_default().trim();
    let number = text.trim_end_matches(|c: char| "kKmMgGtT".contains(c));
    let numeric = |c: char| c.is_ascii_digit() || "_,.".contains(c);
    if number.starts_with(|c: char| c.is_ascii_digit()) && number.chars().all(numeric) {
        return error.with_end(": write all digits, without suffix or separators");
    }
    error
}

/// An object, or a text that holds one.
pub(super) fn parsed_object(key: &str, value: &Value) -> Result<Map<String, Value>> {
    let parsed = match value {
        Value::String(text) => match json::parse(text.as_bytes()) {
            Ok(Value::Object(map)) => Some(map),
            _ => None,
        },
        Value::Object(map) => Some(map.clone()),
        _ => None,
    };
    parsed.ok_or_else(|| {
        let got = json::shown(value);
        invalid!("{key}: Input should be an object, or the JSON text of one, got {got}")
    })
}

/// The object in `map` that is called `name`, made if it is not there.
pub(super) fn object_at<'a>(
    map: &'a mut Map<String, Value>,
    name: &str,
) -> Result<&'a mut Map<String, Value>> {
    let slot = map.entry(name).or_insert(Value::Null);
    if slot.is_null() || slot.is_string() {
        let inner = if is_empty(slot) { Map::new() } else { parsed_object(name, slot)? };
        *slot = Value::Object(inner);
    }
    match slot {
        Value::Object(inner) => Ok(inner),
        other => Err(wrong(name, "an object", other)),
    }
}

/// Nothing is given: null, or an empty text, list or object.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// `value` means the same as `other`, if need be as a text of it.
pub(super) fn same(value: &Value, other: &Value) -> bool {
    match (value, other) {
        (Value::String(s), Value::Bool(b)) => truth(s) == Some(*b),
        (Value::Number(n), Value::Bool(b)) => n.as_f64() == Some(f64::from(u8::from(*b))),
        (Value::String(s), Value::Number(n)) => s.trim().parse::<f64>().ok() == n.as_f64(),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => value == other,
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
