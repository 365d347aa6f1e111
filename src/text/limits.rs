//! Is a prompt short enough? The texts are the Python backend's. Called by the engine's intake, on
//! the caller's thread: before tokenising (a cheap guard) and after it.

use super::Tokenizer;
use crate::error::Result;
use crate::ids::TokenId;
use crate::invalid;

const ADVICE: &str =
    "Please reduce the length of the input prompt or the number of requested output tokens.";

/// Refuse a text that must have too many tokens, without tokenising it: more characters than
/// `max_model_len` of the longest token can spell.
///
/// # Errors
/// InvalidArgument with both numbers.
pub fn check_prompt_chars(prompt: &str, tokenizer: &Tokenizer, max_model_len: u32) -> Result<()> {
    let limit = tokenizer.max_token_chars().saturating_mul(max_model_len as usize);
    if prompt.len() <= limit {
        return Ok(());
    }
    let chars = prompt.chars().count();
    if chars <= limit {
        return Ok(());
    }
    Err(invalid!(
        "This model's maximum context length is {max_model_len} tokens. However, you requested 0 \
         output tokens and your prompt contains {chars} characters (more than {limit} characters, \
         which is the upper bound for {max_model_len} input tokens). {ADVICE} \
         (parameter=input_text, value={chars})"
    ))
}

/// Refuse a tokenised prompt that is empty or leaves no room for one output token.
///
/// # Errors
/// InvalidArgument with both numbers.
pub fn check_prompt_tokens(tokens: usize, max_model_len: u32) -> Result<()> {
    check_input_tokens(tokens, max_model_len)?;
    if tokens == max_model_len as usize {
        return Err(invalid!(
            "The decoder prompt (length {tokens}) plus the number of requested output tokens (at \
             least 1) is longer than the maximum model length of {max_model_len}. Make sure that \
             `max_model_len` is no smaller than the number of text tokens (prompt + requested \
             output tokens)."
        ));
    }
    Ok(())
}

/// The same for a text that needs no room for outputs.
///
/// # Errors
/// InvalidArgument with both numbers.
pub fn check_input_tokens(tokens: usize, max_model_len: u32) -> Result<()> {
    let limit = max_model_len as usize;
    if tokens == 0 {
        return Err(invalid!("The decoder prompt cannot be empty"));
    }
    if tokens > limit {
        // The Python backend stops counting one token above the limit, hence its "at least".
        let least = limit + 1;
        return Err(invalid!(
            "This model's maximum context length is {limit} tokens. However, you requested 0 \
             output tokens and your prompt contains at least {least} input tokens, for a total of \
             at least {least} tokens. {ADVICE} (parameter=input_tokens, value={least})"
        ));
    }
    Ok(())
}

/// Ids that a client sent instead of a text: their number, and that the model has each of them.
///
/// # Errors
/// InvalidArgument with both numbers, or with the id.
pub fn check_input_ids(ids: &[TokenId], max_model_len: u32, vocab_size: u32) -> Result<()> {
    let tokens = ids.len();
    let limit = max_model_len as usize;
    if tokens > limit {
        return Err(invalid!(
            "This model's maximum context length is {limit} tokens. However, you requested 0 \
             output tokens and your prompt contains {tokens} input tokens, for a total of \
             {tokens} tokens. {ADVICE} (parameter=input_tokens, value={tokens})"
        ));
    }
    check_input_tokens(tokens, max_model_len)?;
    check_vocabulary(ids, vocab_size)
}

/// Refuse ids that the model's embedding table has no row for, wherever they come from: a tokenizer
/// may know tokens that were added after the model was trained.
///
/// # Errors
/// InvalidArgument with the first such id, in the Python backend's words.
pub fn check_vocabulary(ids: &[TokenId], vocab_size: u32) -> Result<()> {
    match ids.iter().find(|id| id.0 >= vocab_size) {
        Some(id) => Err(invalid!("Token id {id} is out of vocabulary")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::byte_level;

    #[test]
    fn token_limits() {
        assert_eq!(check_prompt_tokens(1, 256), Ok(()));
        assert_eq!(check_prompt_tokens(255, 256), Ok(()));
        let text = |n| check_prompt_tokens(n, 256).unwrap_err().to_string();
        assert_eq!(text(0), "The decoder prompt cannot be empty");
        assert!(
            text(256).starts_with("The decoder prompt (length 256) plus the number of requested")
        );
        assert_eq!(
            text(2000),
            "This model's maximum context length is 256 tokens. However, you requested 0 \
             output tokens and your prompt contains at least 257 input tokens, for a total of at \
             least 257 tokens. Please reduce the length of the input prompt or the number of \
             requested output tokens. (parameter=input_tokens, value=257)"
        );
    }

    #[test]
    fn ids_from_outside() {
        let ids = |ids: &[u32]| ids.iter().map(|&id| TokenId(id)).collect::<Vec<_>>();
        assert_eq!(check_input_ids(&ids(&[0, 9, 3]), 3, 10), Ok(()));
        let text = |list: &[u32]| check_input_ids(&ids(list), 3, 10).unwrap_err().to_string();
        assert_eq!(text(&[]), "The decoder prompt cannot be empty");
        assert_eq!(text(&[1, 10]), "Token id 10 is out of vocabulary");
        assert!(text(&[1; 4]).contains("your prompt contains 4 input tokens, for a total of 4"));
    }

    /// Characters count, not bytes.
    #[test]
    fn char_limits() {
        let tokenizer = byte_level(&["a", "bcd"]);
        assert_eq!(tokenizer.max_token_chars(), 3);
        assert_eq!(check_prompt_chars(&"é".repeat(30), &tokenizer, 10), Ok(()));
        let message = check_prompt_chars(&"é".repeat(31), &tokenizer, 10).unwrap_err().to_string();
        assert!(
            message.contains("contains 31 characters (more than 30 characters, which is the upper"),
            "{message}"
        );
    }
}
