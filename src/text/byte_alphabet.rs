//! GPT-2's alphabet, in which byte-level tokenizers spell bytes: a character that can be seen for
//! each. Called by `tokenizer`, `tekken` and grammars; it knows no vocabulary.

/// The bytes of a byte-level token.
pub(super) fn from_alphabet(token: &str) -> Vec<u8> {
    spelled_in(&byte_alphabet(), token)
}

/// A token that is not spelled in the alphabet (an added one) stands for itself.
pub(super) fn spelled_in(alphabet: &[Option<u8>], token: &str) -> Vec<u8> {
    let spelled: Option<Vec<u8>> = token.chars().map(|c| *alphabet.get(c as usize)?).collect();
    spelled.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The character of GPT-2's alphabet that stands for each byte.
pub(super) fn byte_chars() -> [char; 256] {
    let mut chars = ['\0'; 256];
    for (code, byte) in (0u32..).zip(byte_alphabet()) {
        if let (Some(byte), Some(c)) = (byte, char::from_u32(code)) {
            chars[usize::from(byte)] = c;
        }
    }
    chars
}

/// GPT-2's alphabet: which byte a character of a token stands for. Printable bytes stand for
/// themselves, the others, in order, for the characters from 256 on.
pub(super) fn byte_alphabet() -> Vec<Option<u8>> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut alphabet = vec![None; 256];
    for byte in 0..=255u8 {
        if printable(byte) {
            alphabet[byte as usize] = Some(byte);
        } else {
            alphabet.push(Some(byte));
        }
    }
    alphabet
}
