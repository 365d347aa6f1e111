//! Logprobs as the JSON text of the `logprobs` output, letter for letter as Python's `json.dumps`
//! writes it: a list of positions, each an object from token ids to logprob, rank and text. Called
//! by `response`; it knows no tensor.

use std::fmt::Write;

use crate::engine::{LogprobEntry, Position};
use crate::sampling::python::float_text;

/// `null` where none were asked for.
pub(super) fn json(positions: Option<&[Position]>) -> String {
    let Some(positions) = positions else { return "null".into() };
    let entries: usize = positions.iter().map(Vec::len).sum();
    let mut out = String::with_capacity(2 + 80 * entries);
    out.push('[');
    for (i, position) in positions.iter().enumerate() {
        out.push_str(if i == 0 { "{" } else { ", {" });
        for (i, entry) in position.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { ", " });
            write_entry(&mut out, entry);
        }
        out.push('}');
    }
    out.push(']');
    out
}

fn write_entry(out: &mut String, entry: &LogprobEntry) {
    let LogprobEntry { token, logprob, rank, text } = entry;
    let logprob = number(f64::from(*logprob));
    // Writing into a String cannot fail.
    let _ = write!(out, "\"{token}\": {{\"logprob\": {logprob}, \"rank\": {rank}");
    out.push_str(", \"decoded_token\": ");
    match text {
        Some(text) => write_text(out, text),
        None => out.push_str("null"),
    }
    out.push('}');
}

fn number(x: f64) -> String {
    match x {
        x if x.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        x => float_text(x),
    }
}

/// ASCII only: everything else is escaped, beyond 16 bits as a surrogate pair.
fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(out, "\\u{unit:04x}");
            }),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TokenId;

    fn entry(token: u32, logprob: f32, rank: u32, text: Option<&str>) -> LogprobEntry {
        LogprobEntry { token: TokenId(token), logprob, rank, text: text.map(str::to_owned) }
    }

    /// Expectations printed by Python's json.dumps.
    #[test]
    fn text_is_python_json() {
        let positions = [
            vec![
                entry(851, -1.857_608_3, 1, Some(" @")),
                entry(7, f32::NEG_INFINITY, 4096, Some("é\u{7f}\u{1f980}")),
            ],
            vec![entry(0, 0.0, 1, None)],
            vec![entry(2, -1e-5, 2, Some("a\"\\\n\t\u{1}"))],
        ];
        let expected = concat!(
            r#"[{"851": {"logprob": -1.8576083183288574, "rank": 1, "decoded_token": " @"}, "#,
            r#""7": {"logprob": -Infinity, "rank": 4096, "#,
            r#""decoded_token": "\u00e9\u007f\ud83e\udd80"}}, "#,
            r#"{"0": {"logprob": 0.0, "rank": 1, "decoded_token": null}}, "#,
            r#"{"2": {"logprob": -9.999999747378752e-06, "rank": 2, "#,
            r#""decoded_token": "a\"\\\n\t\u0001"}}]"#,
        );
        assert_eq!(json(Some(&positions)), expected);
        assert_eq!(json(Some(&[])), "[]");
        assert_eq!(json(None), "null");
    }
}
