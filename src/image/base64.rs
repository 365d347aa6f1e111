//! A client's text to the bytes of an image file: base64 as Python's `base64.b64decode` reads it
//! when it is not strict, whose messages clients know, and `data:` URIs.

use crate::error::Result;
use crate::invalid;

/// The bytes that `text` means. Characters outside the alphabet are skipped, so lines may be broken
/// anywhere; what follows complete padding is not read. Of a URI `data:<type>;base64,<text>` the
/// text counts.
///
/// # Errors
/// InvalidArgument, in Python's words: padding is missing, a character is left over, or the text
/// is not ASCII.
pub fn decode_text(text: &str) -> Result<Vec<u8>> {
    let text = data_of_uri(text).unwrap_or(text);
    if !text.is_ascii() {
        return Err(invalid!("string argument should contain only ASCII characters"));
    }

    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    // Characters of the current four, their bits, and how many `=` came since the last one.
    let (mut place, mut bits) = (0, 0u32);
    let mut pads = 0;
    for c in text.bytes() {
        if c == b'=' {
            pads += 1;
            if place >= 2 && place + pads >= 4 {
                return Ok(bytes);
            }
            continue;
        }
        let Some(value) = value_of(c) else { continue };
        pads = 0;
        bits = bits << 6 | value;
        place += 1;
        if place > 1 {
            bytes.push((bits >> (8 - 2 * place)) as u8);
        }
        if place == 4 {
            (place, bits) = (0, 0);
        }
    }

    match place {
        0 => Ok(bytes),
        1 => Err(invalid!(
            "Invalid base64-encoded string: number of data characters ({}) cannot be 1 more than \
             a multiple of 4",
            bytes.len() / 3 * 4 + 1
        )),
        _ => Err(invalid!("Incorrect padding")),
    }
}

fn data_of_uri(text: &str) -> Option<&str> {
    let (head, data) = text.trim_start().strip_prefix("data:")?.split_once(',')?;
    head.ends_with(";base64").then_some(data)
}

fn value_of(c: u8) -> Option<u32> {
    let value = match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of Python 3.11's `base64.b64decode`.
    #[test]
    fn texts_mean_what_python_reads() {
        let read = |text| decode_text(text).map_err(|e| e.message().to_owned());
        let cases: [(&str, &[u8]); 9] = [
            ("", b""),
            ("YWJj", b"abc"),
            ("YW\r\nJj ZGU=", b"abcde"),
            ("YQ==", b"a"),
            ("YQ==YWJj", b"a"),
            ("Y=Q==", b"a"),
            ("=YWJj=", b"abc"),
            ("data:image/png;base64,YWJj", b"abc"),
            ("data:;base64,YQ==", b"a"),
        ];
        for (text, bytes) in cases {
            assert_eq!(read(text).as_deref(), Ok(bytes), "{text:?}");
        }

        let refused = [
            ("YWJ", "Incorrect padding"),
            ("YW=", "Incorrect padding"),
            (
                "YWJjZ",
                "Invalid base64-encoded string: number of data characters (5) cannot be 1 more \
                 than a multiple of 4",
            ),
            ("YWé=", "string argument should contain only ASCII characters"),
        ];
        for (text, error) in refused {
            assert_eq!(read(text).unwrap_err(), error, "{text:?}");
        }
    }
}
