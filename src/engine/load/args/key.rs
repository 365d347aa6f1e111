//! What the table says of a key of model.json: its class, the values that say nothing, and the
//! releases of vLLM that have it. Used by `table` and `keys`.

use serde_json::Value;

use super::values;

/// The newest minor version of vLLM 0.x whose fields are in the table.
pub(super) const NEWEST: u8 = 33;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A typed field of `EngineArgs`, or read and checked by name in `args`.
    Read,
    /// Taken with any value and in silence: it changes nothing here (we never run a checkpoint's
    /// code, the engine is in this process, labels carry Triton's model name), or it belongs to a
    /// feature that another key turns on.
    Silent,
    /// Neutral values are silent, anything else is ignored with one warning.
    NoEffect,
    /// Neutral values are silent, anything else would change answers or asks for what is not
    /// built: the load fails.
    Refused,
    /// Neutral values are silent, anything else is read as this key, or as a part of it (`a.b`),
    /// with one warning. If that is set too, it wins.
    Renamed(&'static str),
}

pub(super) struct Key {
    pub name: &'static str,
    pub class: Class,
    /// A JSON list of values that say nothing. null and empty texts, lists and objects always do.
    pub neutral: &'static str,
    /// Minor versions of vLLM 0.x that have it.
    pub since: u8,
    pub until: u8,
}

pub(super) const fn key(
    name: &'static str,
    class: Class,
    neutral: &'static str,
    since: u8,
    until: u8,
) -> Key {
    Key { name, class, neutral, since, until }
}

impl Key {
    pub(super) fn neutral(&self) -> Vec<Value> {
        serde_json::from_str(self.neutral).unwrap_or_default()
    }

    pub(super) fn is_neutral(&self, value: &Value) -> bool {
        values::is_empty(value) || self.neutral().iter().any(|other| values::same(value, other))
    }

    /// Which versions of vLLM had it; "" for one that is still there.
    pub(super) fn ages(&self) -> String {
        match (self.until < NEWEST, self.since == self.until) {
            (false, _) => String::new(),
            (true, true) => format!(" (a key of vLLM 0.{})", self.since),
            (true, false) => format!(" (a key of vLLM 0.{} to 0.{})", self.since, self.until),
        }
    }
}
