//! Texts of clients as JSON: no more values are held than a limit, and nothing of what is passed
//! over. A value takes 10 to 200 times the bytes of its text. It never knows what a key means.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What is kept of a text.
pub struct Bounds<'a> {
    /// Values and names of members, together.
    pub values: usize,
    /// Members of the outermost object whose values nobody asks for: they are null.
    pub passed_over: &'a dyn Fn(&str) -> bool,
}

/// Why a text is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is no JSON, with line and column.
    Invalid(String),
    /// It has more values than the limit.
    TooMany,
}

impl From<String> for Refused {
    fn from(why: String) -> Refused {
        Refused::Invalid(why)
    }
}

impl Bounds<'_> {
    /// JSON as it is defined.
    ///
    /// # Errors
    /// It is no JSON, or too much of it.
    pub fn read(&self, text: &[u8]) -> Result<Value, Refused> {
        let left = Cell::new(Some(self.values));
        let outermost = Reader { left: &left, passed_over: Some(self.passed_over) };
        let mut json = serde_json::Deserializer::from_slice(text);
        let value = outermost.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        value.map_err(|error| match left.get() {
            Some(_) => Refused::Invalid(error.to_string()),
            None => Refused::TooMany,
        })
    }
}

/// Reads one value with all that it holds.
struct Reader<'a> {
    /// How many more there may be; None: there were more.
    left: &'a Cell<Option<usize>>,
    /// Of the outermost object.
    passed_over: Option<&'a dyn Fn(&str) -> bool>,
}

impl Reader<'_> {
    fn inner(&self) -> Reader<'_> {
        Reader { left: self.left, passed_over: None }
    }

    fn count<E: Error>(&self) -> Result<(), E> {
        self.left.set(self.left.get().and_then(|left| left.checked_sub(1)));
        self.left.get().map(drop).ok_or_else(|| E::custom("too many values"))
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        self.count()?;
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut json: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = json.next_element_seed(self.inner())? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut json: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = json.next_key::<String>()? {
            self.count()?;
            let value = if self.passed_over.is_some_and(|passed_over| passed_over(&name)) {
                json.next_value::<IgnoredAny>()?;
                Value::Null
            } else {
                json.next_value_seed(self.inner())?
            };
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str, values: usize) -> Result<Value, Refused> {
        Bounds { values, passed_over: &|name| name == "x" }.read(text.as_bytes())
    }

    #[test]
    fn values_are_those_of_any_reader() {
        for text in [
            "null",
            "-1",
            "18446744073709551615",
            "1e400",
            "-0.5e3",
            "\"a\\u00e9\\n\"",
            "[[], {}, [true, false, null]]",
            "{\"a\": {\"x\": [1]}, \"b\": 1, \"a\": 2}",
            "{\"a\": {\"x\": [1]}}",
            " 1 ",
            "1 2",
            "{\"a\"}",
            "[1,]",
            "",
            "\"\\ud800\"",
            &"[".repeat(200),
        ] {
            let theirs = serde_json::from_str::<Value>(text);
            assert_eq!(read(text, 1000), theirs.map_err(|e| Refused::Invalid(e.to_string())));
        }
    }

    #[test]
    fn values_and_names_count_but_for_those_that_are_passed_over() {
        let text = "{\"a\": [1, {\"x\": 2}], \"x\": [1, 2, 3, {\"y\": 4}]}";
        let kept = json!({"a": [1, {"x": 2}], "x": null});
        assert_eq!(read(text, 8), Ok(kept));
        assert_eq!(read(text, 7), Err(Refused::TooMany));
        assert_eq!(read("[1, 2]", 2), Err(Refused::TooMany));
        assert_eq!(read("1", 1), Ok(json!(1)));
        // What is passed over has to be JSON still.
        assert!(matches!(read("{\"x\": [1,]}", 9), Err(Refused::Invalid(_))));
    }
}
