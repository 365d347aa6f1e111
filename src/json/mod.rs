//! JSON files as Python and hand editors write them: with a byte order mark, and with NaN, Infinity
//! and -Infinity, which JSON lacks. A leaf: every JSON text of the crate is read here. It never
//! knows what a key means.
//!
//! | file | holds |
//! |---|---|
//! | `json` | texts and files -> values |
//! | `bounded` | texts of clients, of which no more is held than a limit |
//! | [`object`] | keys of an object, read by type |
//! | `shown` | values as messages show them |

mod bounded;
pub mod object;
mod shown;

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::files::{self, Kind};
use crate::invalid;
pub use bounded::{Bounds, Refused};
pub use object::Object;
pub use shown::{cut, shown};

const MARK: &[u8] = b"\xEF\xBB\xBF";
/// Numbers of Python's json module that JSON lacks.
const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// The value of a text. The last of equal keys wins; the numbers that JSON lacks become texts of
/// the same letters, which no reader of numbers takes by accident.
///
/// # Errors
/// Why it is no JSON, with line and column.
pub fn parse(text: &[u8]) -> std::result::Result<Value, String> {
    generously(text, |text| serde_json::from_slice(text).map_err(|e| e.to_string()))
}

/// The same for a text of a client.
///
/// # Errors
/// Why it is no JSON, or that it holds too much.
pub fn parse_bounded(text: &[u8], bounds: &Bounds) -> std::result::Result<Value, Refused> {
    generously(text, |text| bounds.read(text))
}

fn generously<E: From<String>>(
    text: &[u8],
    read: impl Fn(&[u8]) -> std::result::Result<Value, E>,
) -> std::result::Result<Value, E> {
    if text.starts_with(b"\xFF\xFE") || text.starts_with(b"\xFE\xFF") {
        return Err("it is UTF-16: save it as UTF-8".to_string().into());
    }
    let text = unmarked(text);
    let first = match read(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let Some(words) = Words::of(text) else { return Err(first) };
    // Line and column are taken from a copy in which nothing has moved.
    read(&words.quoted).map_err(|_| read(&words.same_length).err().unwrap_or(first))
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
        let mut at = 0;
        let mut in_string = false;
        let mut found = false;
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
