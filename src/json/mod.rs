//! JSON files as Python and hand editors write them: with a byte order mark, and with NaN, Infinity
//! and -Infinity, which JSON lacks. Every JSON text of the crate is read here; [`object`] reads the
//! keys of what was found, by type. It never knows what a key means.

pub mod object;

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::files::{self, Kind};
use crate::invalid;
pub use object::Object;

const MARK: &[u8] = b"\xEF\xBB\xBF";
const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
/// Characters of a value in a message.
const SHOWN_CHARS: usize = 60;

/// The value of a text. The last of equal keys wins; the numbers that JSON lacks become texts of
/// the same letters, which no reader of numbers takes by accident.
///
/// # Errors
/// Why it is no JSON, with line and column.
pub fn parse(text: &[u8]) -> std::result::Result<Value, String> {
    if text.starts_with(b"\xFF\xFE") || text.starts_with(b"\xFE\xFF") {
        return Err("it is UTF-16: save it as UTF-8".into());
    }
    let text = unmarked(text);
    let first = match serde_json::from_slice(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let Some(words) = Words::of(text) else { return Err(first.to_string()) };
    // Places are told by a copy in which nothing has moved.
    let place = |_| serde_json::from_slice::<Value>(&words.same_length).err().unwrap_or(first);
    serde_json::from_slice(&words.quoted).map_err(|e| place(e).to_string())
}

/// A text without its byte order mark.
pub fn unmarked(text: &[u8]) -> &[u8] {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// The value in a file.
///
/// # Errors
/// Those of [`files::read`]; InvalidArgument: no JSON. One line that starts with the path.
pub fn read(path: &Path, kind: Kind) -> Result<Value> {
    let bytes = files::read(path, kind)?;
    parse(&bytes)
        .map_err(|why| invalid!("{}: is not valid JSON: {why}.", path.display()).on_one_line())
}

/// The object in a file.
///
/// # Errors
/// As [`read`]; InvalidArgument: another value.
pub fn read_object(path: &Path, kind: Kind) -> Result<Map<String, Value>> {
    match read(path, kind)? {
        Value::Object(object) => Ok(object),
        other => {
            Err(invalid!("{}: must hold one JSON object, got {}.", path.display(), shown(&other))
                .on_one_line())
        }
    }
}

/// A value for a message: short, and without characters that end a line or hide.
pub fn shown(value: &Value) -> String {
    let text = match value {
        // Not written out before it is cut: a file may hold a list of a million.
        Value::Array(list) if list.len() > 8 => format!("a list of {} values", list.len()),
        Value::Object(map) if map.len() > 8 => format!("an object of {} keys", map.len()),
        other => other.to_string(),
    };
    cut(&text)
}

/// A text for a message: at most 60 characters, control characters and those that turn the
/// direction of writing escaped.
pub fn cut(text: &str) -> String {
    let mut short = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == SHOWN_CHARS {
            short.push('…');
            break;
        }
        match c {
            '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' => {
                short.extend(c.escape_unicode());
            }
            c if c.is_control() => short.extend(c.escape_default()),
            c => short.push(c),
        }
    }
    short
}

/// Two copies of a text in which the numbers that JSON lacks are legal: as strings, and as a number
/// of the same length.
struct Words {
    quoted: Vec<u8>,
    same_length: Vec<u8>,
}

impl Words {
    /// None: there is no such word outside of strings.
    fn of(text: &[u8]) -> Option<Words> {
        let mut words = Words { quoted: Vec::new(), same_length: Vec::new() };
        let (mut at, mut in_string, mut found) = (0, false, false);
        while let Some(&byte) = text.get(at) {
            let rest = &text[at..];
            if let Some(word) = WORDS.into_iter().find(|w| !in_string && is_value(rest, w)) {
                found = true;
                words.quoted.extend([b"\"", word, b"\""].concat());
                words.same_length.push(b'0');
                words.same_length.resize(words.same_length.len() + word.len() - 1, b' ');
                at += word.len();
                continue;
            }
            let taken = if in_string && byte == b'\\' { 2.min(rest.len()) } else { 1 };
            in_string ^= byte == b'"';
            words.quoted.extend(&rest[..taken]);
            words.same_length.extend(&rest[..taken]);
            at += taken;
        }
        found.then_some(words)
    }
}

/// Does the text begin with this word, as a value and not as a key?
fn is_value(text: &[u8], word: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(word) else { return false };
    rest.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b':')
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
