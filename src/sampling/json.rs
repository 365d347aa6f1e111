//! The text of the `sampling_parameters` tensor as a JSON object, read as generously as Python
//! does. Called by `parse` and `verify`; it knows no parameter.

use serde_json::{Map, Value};

use super::bounds::ListLimits;
use super::python;
use super::raw::RawParams;
use crate::error::Result;
use crate::invalid;
use crate::json;

/// Parse an object; the last of equal keys wins. `NaN`, `Infinity` and `-Infinity`, which JSON
/// lacks, become texts that `float()` reads back. Values that mean nothing are null.
///
/// # Errors
/// InvalidArgument, one line that says where; more values than the limit.
pub fn object(text: &str, limits: &ListLimits) -> Result<Map<String, Value>> {
    let value = json::parse_bounded(text.as_bytes(), &limits.json(&RawParams::passes_over))
        .map_err(|why| limits.refused("sampling_parameters", why))?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(invalid!(
            "sampling_parameters must be a JSON object, got {} at line 1 column 1",
            python::type_name(&other)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Result<Map<String, Value>> {
        super::object(text, &ListLimits::DEFAULT)
    }

    #[test]
    fn an_object_is_read() {
        let map = object(" {\"a\": 1, \"b\": \"x\", \"a\": 2}\n").unwrap();
        assert_eq!(map.get("a"), Some(&Value::from(2)));
        let map = object(r#"{"t":NaN,"s":"NaN \" Infinity","l":[-Infinity,Infinity]}"#).unwrap();
        let expected = r#"{"t":"NaN","s":"NaN \" Infinity","l":["-Infinity","Infinity"]}"#;
        assert_eq!(Value::Object(map), serde_json::from_str::<Value>(expected).unwrap());
    }

    #[test]
    fn errors_say_where() {
        for (text, place) in [
            ("not json", "line 1 column 2"),
            ("", "line 1 column 0"),
            ("{\"temperature\":0} x", "line 1 column 19"),
            ("{\"a\": NaN,\n \"b\": nope}", "line 2 column 8"),
            ("{\"a\": \"NaN", "line 1 column 10"),
        ] {
            let message = object(text).unwrap_err().to_string();
            assert!(message.starts_with("sampling_parameters is not valid JSON: "), "{message}");
            assert!(message.ends_with(place), "{text:?}: {message}");
            assert!(!message.contains('\n'));
        }
        assert_eq!(
            object("[1,2]").unwrap_err().to_string(),
            "sampling_parameters must be a JSON object, got list at line 1 column 1"
        );
    }

    /// Deep nesting is refused by the reader, not by the stack.
    #[test]
    fn depth_is_limited() {
        assert!(object(&format!("{{\"a\":{}", "[".repeat(100_000))).is_err());
    }
}
