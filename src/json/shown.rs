//! Values and texts from outside as messages show them: short, on one line, without characters that
//! hide. Called wherever an error repeats what it was given.

use serde_json::Value;

/// Characters of a value in a message.
const SHOWN_CHARS: usize = 60;

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
