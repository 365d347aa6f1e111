//! Ids to text, token by token: a token's text appears as soon as no later token can change it, so
//! half a character is held back until its other half comes, and dropped if it never does.
//! [`super::TextStream`] is the only caller. It knows no stop string.
//!
//! The rule (that of Hugging Face's DecodeStream): with the tokens since the last piece of text
//! that came out, decode them behind the tokens of that piece; if the result is longer than the
//! piece and does not end in U+FFFD, what is new comes out. For a byte-level decoder this needs no
//! decoding: the bytes held since the last piece come out, with U+FFFD for broken ones, as soon as
//! they do not end in U+FFFD themselves.

use std::sync::Arc;

use super::Tokenizer;
use crate::ids::TokenId;

/// Prompt tokens that are put before the output to start with: the decoders that treat the start of
/// a text in a special way (metaspace strips a blank) shall not take the output for one.
const PRIMING_TOKENS: usize = 6;
const REPLACEMENT: &str = "\u{fffd}";

/// Text of one sequence's output as it grows.
#[derive(Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    /// Consecutive added tokens come out as the vocabulary spells them, with nothing between.
    raw_added_tokens: bool,
    last_was_added: bool,
    state: State,
}

#[derive(Clone)]
enum State {
    /// Bytes that no complete text has come of yet.
    Bytes(Vec<u8>),
    General(General),
}

/// For decoders of any kind. `ids[..read]` gave the last piece, `piece` is their text.
#[derive(Clone, Default)]
struct General {
    ids: Vec<TokenId>,
    read: usize,
    piece: String,
}

impl Detokenizer {
    /// For the output that follows `prompt` (all of it, or at least its last tokens).
    pub fn new(
        tokenizer: &Arc<Tokenizer>,
        prompt: &[TokenId],
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
    ) -> Detokenizer {
        let state = match tokenizer.bytes() {
            Some(_) => State::Bytes(Vec::new()),
            None => State::General(General::primed(tokenizer, prompt, skip_special_tokens)),
        };
        Detokenizer {
            tokenizer: tokenizer.clone(),
            skip_special_tokens,
            raw_added_tokens: !skip_special_tokens && !spaces_between_special_tokens,
            last_was_added: false,
            state,
        }
    }

    /// Append the text that this token completes.
    pub fn push(&mut self, token: TokenId, out: &mut String) {
        let before = out.len();
        match &mut self.state {
            State::Bytes(held) => {
                if let Some(table) = self.tokenizer.bytes() {
                    push_bytes(held, table.get(token, self.skip_special_tokens), out);
                }
            }
            State::General(general) => {
                general.push(&self.tokenizer, token, self.skip_special_tokens, out);
            }
        }
        if self.raw_added_tokens {
            let added = self.tokenizer.added(token);
            if let Some(raw) = added.as_ref().filter(|_| self.last_was_added) {
                out.truncate(before);
                out.push_str(raw);
            }
            self.last_was_added = added.is_some();
        }
    }
}

fn push_bytes(held: &mut Vec<u8>, new: &[u8], out: &mut String) {
    if held.is_empty() {
        match std::str::from_utf8(new) {
            Ok(text) if !text.ends_with(REPLACEMENT) => return out.push_str(text),
            _ => {}
        }
    }
    held.extend_from_slice(new);
    let text = String::from_utf8_lossy(held);
    if !text.is_empty() && !text.ends_with(REPLACEMENT) {
        out.push_str(&text);
        held.clear();
    }
}

impl General {
    fn primed(tokenizer: &Tokenizer, prompt: &[TokenId], skip: bool) -> General {
        // Where bytes are tokens, a tail that begins inside of a character spoils all that follows
        // it without a word between. Of four neighbouring tails one begins elsewhere.
        for tokens in (PRIMING_TOKENS - 3..=PRIMING_TOKENS).rev() {
            let tail = &prompt[prompt.len().saturating_sub(tokens)..];
            let piece = tokenizer.decode(tail, skip).unwrap_or_default();
            if !piece.is_empty() && !piece.contains(REPLACEMENT) {
                return General { ids: tail.to_vec(), read: tail.len(), piece };
            }
        }
        let mut tokens = PRIMING_TOKENS;
        loop {
            let tail = &prompt[prompt.len().saturating_sub(tokens)..];
            let piece = tokenizer.decode(tail, skip).unwrap_or_default();
            if !piece.is_empty() || tail.len() == prompt.len() {
                return General { ids: tail.to_vec(), read: tail.len(), piece };
            }
            // Nothing but special tokens: look further back for a text to follow.
            tokens *= 4;
        }
    }

    fn push(&mut self, tokenizer: &Tokenizer, token: TokenId, skip: bool, out: &mut String) {
        self.ids.push(token);
        let mut text = tokenizer.decode(&self.ids, skip).unwrap_or_default();
        if text.len() <= self.piece.len() || text.ends_with(REPLACEMENT) {
            return;
        }
        if !text.starts_with(self.piece.as_str()) {
            // Later tokens changed an earlier piece (broken UTF-8 in byte fallback): start afresh.
            *self = General { ids: vec![token], ..General::default() };
            text = tokenizer.decode(&self.ids, skip).unwrap_or_default();
            if text.is_empty() || text.ends_with(REPLACEMENT) {
                return;
            }
        }
        out.push_str(&text[self.piece.len()..]);
        self.ids.drain(..self.read);
        self.read = self.ids.len();
        self.piece = tokenizer.decode(&self.ids, skip).unwrap_or_default();
    }
}

#[cfg(test)]
#[path = "detokenize_tests.rs"]
mod tests;
