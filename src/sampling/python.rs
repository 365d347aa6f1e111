//! Python's rules for numbers and texts: clients of the Python backend rely on `int()`, `float()`,
//! `bool()` and on how values look in its messages. Called by `raw` and `verify`, and by `triton`
//! for numbers in its answers; it knows no parameter. Where we decided otherwise (null, "true" and
//! "false" texts) the function says so.

use serde_json::Value;

use crate::error::Result;
use crate::invalid;

/// `int(value)`; null is None. Integers beyond 64 bits arrive as f64 from the JSON reader and
/// beyond 127 bits saturate: all limits are far below.
///
/// # Errors
/// InvalidArgument with Python's own text.
pub fn int(value: &Value) -> Result<Option<i128>> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(b) => Ok(Some(i128::from(*b))),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), _, _) => Ok(Some(i128::from(i))),
            (_, Some(u), _) => Ok(Some(i128::from(u))),
            (_, _, Some(f)) if f.is_finite() => Ok(Some(f as i128)),
            _ => Err(invalid!("cannot convert float infinity to integer")),
        },
        Value::String(s) => match int_literal(s) {
            Some(i) => Ok(Some(i)),
            None => Err(invalid!("invalid literal for int() with base 10: {}", shown_text(s))),
        },
        other => Err(invalid!(
            "int() argument must be a string, a bytes-like object or a real number, not '{}'",
            type_name(other)
        )),
    }
}

/// `float(value)`; null is None.
///
/// # Errors
/// InvalidArgument with Python's own text.
pub fn float(value: &Value) -> Result<Option<f64>> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(b) => Ok(Some(f64::from(u8::from(*b)))),
        Value::Number(n) => Ok(Some(n.as_f64().unwrap_or(f64::NAN))),
        Value::String(s) => {
            let digits = without_separators(s.trim());
            match digits.and_then(|d| d.parse::<f64>().ok()) {
                Some(f) => Ok(Some(f)),
                None => Err(invalid!("could not convert string to float: {}", shown_text(s))),
            }
        }
        other => Err(invalid!(
            "float() argument must be a string or a real number, not '{}'",
            type_name(other)
        )),
    }
}

/// `bool(value)`: everything but zero and emptiness is true, except that the texts "true" and
/// "false" (in any case) mean what they say. Null is None.
pub fn truth(value: &Value) -> Option<bool> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty() && !s.trim().eq_ignore_ascii_case("false"),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    })
}

/// The integer that `int(text)` reads in base 10: blanks around, a sign, `_` between digits.
pub fn int_literal(text: &str) -> Option<i128> {
    let plain = without_separators(text.trim())?;
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let limit = if plain.starts_with('-') { i128::MIN } else { i128::MAX };
    Some(plain.parse().unwrap_or(limit))
}

/// The text without its `_`; None if one of them does not stand between two digits.
fn without_separators(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let legal = |i: usize| i > 0 && digit(i - 1) && digit(i + 1);
    let mut separators = (0..bytes.len()).filter(|&i| bytes[i] == b'_');
    separators.all(legal).then(|| text.replace('_', ""))
}

/// The name of the Python type that `json.loads` makes of a value.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

/// `repr(value)`.
pub fn repr(value: &Value) -> String {
    let mut out = String::new();
    write(value, usize::MAX, &mut out);
    out
}

/// The beginning of `repr(value)`, for messages: a client's value may be as large as a request.
pub fn shown(value: &Value) -> String {
    let mut out = String::new();
    write(value, SHOWN_BYTES, &mut out);
    cut(out)
}

/// The same for a text.
pub fn shown_text(text: &str) -> String {
    cut(quoted(head(text, SHOWN_BYTES + 1)))
}

/// The same for a list whose elements are written on demand.
pub fn shown_list(elements: impl Iterator<Item = String>) -> String {
    let mut out = String::from("[");
    for (i, element) in elements.enumerate() {
        if out.len() > SHOWN_BYTES {
            return cut(out);
        }
        out.push_str(if i > 0 { ", " } else { "" });
        out.push_str(&element);
    }
    cut(out + "]")
}

/// Bytes of a client's value that a message repeats.
const SHOWN_BYTES: usize = 200;

fn cut(mut text: String) -> String {
    if text.len() > SHOWN_BYTES {
        text.truncate(head(&text, SHOWN_BYTES).len());
        text.push_str("...");
    }
    text
}

/// The whole characters of the first `bytes` bytes.
fn head(text: &str, bytes: usize) -> &str {
    let whole = (0..=bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..whole.unwrap_or(0)]
}

/// Append `repr(value)`, but begin nothing more once there are `limit` bytes.
fn write(value: &Value, limit: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(n) if n.is_f64() => {
            out.push_str(&float_text(n.as_f64().unwrap_or(f64::NAN)));
        }
        Value::Number(n) => out.push_str(&n.to_string()),
        Value::String(s) => {
            out.push_str(&quoted(head(s, limit.saturating_add(1))));
        }

        Value::Array(list) => {
            out.push('[');
            for (i, element) in list.iter().enumerate() {
                if out.len() > limit {
                    break;
                }
                out.push_str(if i > 0 { ", " } else { "" });
                write(element, limit, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                if out.len() > limit {
                    break;
                }
                out.push_str(if i > 0 { ", " } else { "" });
                out.push_str(&quoted(head(key, limit.saturating_add(1))));
                out.push_str(": ");
                write(value, limit, out);
            }
            out.push('}');
        }
    }
}

/// `repr` of a float: shortest digits that read back the same, always with a point or an exponent,
/// which starts at 1e16 and below 1e-4 and has at least two digits.
pub fn float_text(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.strip_prefix('-') {
        Some(e) => format!("{digits}e-{e:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}

/// `repr` of a text: single quotes, unless it holds one and no double quote.
pub fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Expectations printed by Python 3.11.
    #[test]
    fn floats_print_like_python() {
        for (x, text) in [
            (2.0, "2.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (0.0001, "0.0001"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
            (1e-320, "1e-320"),
            (123456.789, "123456.789"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float_text(x), text);
        }
    }

    #[test]
    fn int_reads_like_python() {
        for (text, value) in [
            ("5", Some(5)),
            (" +5\n", Some(5)),
            ("-0", Some(0)),
            ("1_000", Some(1000)),
            ("007", Some(7)),
            ("", None),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("+_1", None),
            ("+ 1", None),
            ("--1", None),
            ("4.9", None),
            ("0x10", None),
            ("1e3", None),
        ] {
            assert_eq!(int_literal(text), value, "{text:?}");
        }

        assert_eq!(int_literal(&"9".repeat(60)), Some(i128::MAX));
        assert_eq!(int(&json!(5.7)).unwrap(), Some(5));
        assert_eq!(int(&json!(-5.7)).unwrap(), Some(-5));
        assert_eq!(int(&json!(true)).unwrap(), Some(1));
        assert_eq!(int(&json!(18446744073709551615u64)).unwrap(), Some(18446744073709551615));
        assert_eq!(int(&json!(null)).unwrap(), None);
        let text = |v| int(&v).unwrap_err().to_string();
        assert_eq!(text(json!("4.9")), "invalid literal for int() with base 10: '4.9'");
        assert!(text(json!([1])).ends_with("a real number, not 'list'"));
    }

    #[test]
    fn float_reads_like_python() {
        for (text, value) in
            [("0.1", 0.1), (" 1e-3 ", 1e-3), ("+.5", 0.5), ("5.", 5.0), ("1_0", 10.0)]
        {
            assert_eq!(float(&json!(text)).unwrap(), Some(value), "{text:?}");
        }
        assert_eq!(float(&json!("-Infinity")).unwrap(), Some(f64::NEG_INFINITY));
        assert!(float(&json!("NaN")).unwrap().unwrap().is_nan());
        assert_eq!(float(&json!(false)).unwrap(), Some(0.0));
        let text = |v| float(&v).unwrap_err().to_string();
        assert_eq!(text(json!("hot")), "could not convert string to float: 'hot'");
        assert_eq!(text(json!("")), "could not convert string to float: ''");
        assert_eq!(
            text(json!({})),
            "float() argument must be a string or a real number, not 'dict'"
        );
    }

    #[test]
    fn truth_is_python_but_for_the_words() {
        let yes = [json!(1), json!("yes"), json!("0"), json!(" True "), json!([0]), json!(-0.5)];
        let no = [json!(0), json!(0.0), json!(""), json!("false"), json!("FALSE"), json!([])];
        assert!(yes.iter().all(|v| truth(v) == Some(true)));
        assert!(no.iter().all(|v| truth(v) == Some(false)));
        assert_eq!(truth(&json!(null)), None);
    }

    /// Case 11: a message repeats the beginning of a value, and costs no more than that.
    #[test]
    fn messages_show_the_beginning_of_a_value() {
        assert_eq!(shown(&json!([1, "a"])), "[1, 'a']");
        assert_eq!(shown_text("a"), "'a'");
        assert_eq!(shown_list(["1".to_string(), "2".into()].into_iter()), "[1, 2]");
        let long = "é".repeat(1 << 20);
        let many: Vec<Value> = (0..1 << 16).map(Value::from).collect();
        let map: serde_json::Map<String, Value> =
            (0..1 << 16).map(|i| (format!("{long:.300}{i}"), json!(i))).collect();
        let texts = [
            shown_text(&long),
            shown(&json!(long)),
            shown(&json!([long, long])),
            shown(&json!(many)),
            shown(&Value::Object(map)),
            shown_list((0..1 << 16).map(|i| i.to_string())),
            int(&json!("9".repeat(1 << 20) + "x")).unwrap_err().to_string(),
            float(&json!("9".repeat(1 << 20) + "x")).unwrap_err().to_string(),
        ];
        for text in texts {
            assert!((200..300).contains(&text.len()) && text.ends_with("..."), "{text}");
        }
    }

    #[test]
    fn repr_quotes_like_python() {
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted("'\""), "'\\'\"'");
        assert_eq!(quoted("a\n\u{1}é\\"), "'a\\n\\x01é\\\\'");
        assert_eq!(
            repr(&json!(["1", 2, 3.0, null, true, {"a": []}])),
            "['1', 2, 3.0, None, True, {'a': []}]"
        );
    }
}
