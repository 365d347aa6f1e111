//! The text of the `sampling_parameters` tensor as a JSON object, read as generously as Python
//! does. Called by [`super::params`] only; it knows no parameter.

use serde_json::{Map, Value};

use super::python;
use crate::error::Result;
use crate::invalid;

/// Parse an object; the last of equal keys wins. `NaN`, `Infinity` and `-Infinity`, which JSON
/// lacks, become texts that `float()` reads back.
///
/// # Errors
/// InvalidArgument, one line that says where.
pub fn object(text: &str) -> Result<Map<String, Value>> {
    let value = match serde_json::from_str::<Value>(text) {
        Ok(value) => value,
        Err(first) => match without_bare_words(text) {
            None => return Err(not_json(&first)),
            Some((quoted, same_length)) => match serde_json::from_str(&quoted) {
                Ok(value) => value,
                // The place is told by a version in which nothing has moved.
                Err(_) => {
                    let place = serde_json::from_str::<Value>(&same_length).err();
                    return Err(not_json(place.as_ref().unwrap_or(&first)));
                }
            },
        },
    };
    match value {
        Value::Object(map) => Ok(map),
        other => Err(invalid!(
            "sampling_parameters must be a JSON object, got {} at line 1 column 1",
            python::type_name(&other)
        )),
    }
}

fn not_json(error: &serde_json::Error) -> crate::error::Error {
    invalid!("sampling_parameters is not valid JSON: {error}")
}

/// Two copies of the text in which bare words outside of strings are legal JSON: quoted, and as a
/// number of the same length. None if there is no such word.
fn without_bare_words(text: &str) -> Option<(String, String)> {
    let (mut quoted, mut same_length) = (String::new(), String::new());
    let mut rest = text;
    let mut in_string = false;
    let mut found = false;
    while let Some(c) = rest.chars().next() {
        let words = ["NaN", "-Infinity", "Infinity"];
        let word = words.into_iter().find(|w| !in_string && rest.starts_with(w));
        let taken = match word {
            Some(word) => {
                found = true;
                quoted.push_str(&format!("\"{word}\""));
                same_length.push_str(&format!("{:>1$}", "0", word.len()));
                word.len()
            }
            None => {
                let escape = in_string && c == '\\';
                let escaped = rest.chars().nth(1).filter(|_| escape).map_or(0, char::len_utf8);
                in_string ^= c == '"';
                let taken = c.len_utf8() + escaped;
                quoted.push_str(&rest[..taken]);
                same_length.push_str(&rest[..taken]);
                taken
            }
        };
        rest = &rest[taken..];
    }
    found.then_some((quoted, same_length))
}

#[cfg(test)]
mod tests {
    use super::*;

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
