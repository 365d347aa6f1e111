//! Ids to text, token by token: a token's text appears as soon as no later token can change it, so
//! half a character is held back until its other half comes, and dropped if it never does.
//! [`super::TextStream`] is the only caller. It knows no stop string.
//!
//! The rule (that of Hugging Face's DecodeStream): with the tokens since the last piece of text
//! that came out, decode them behind the tokens of that piece; if the result is longer than the
//! piece and does not end in U+FFFD, what is new comes out. For a byte-level decoder this needs no
//! decoding: the bytes held since the last piece come out, with U+FFFD for broken ones, as soon as
//! they do not end in U+FFFD themselves.
//!
//! A client may ask for tokens that never come to a text (bytes that are no UTF-8, by
//! `allowed_token_ids`), so the cost of a token must not grow with those that wait: where many do,
//! they are decoded when something comes out ([`super::held`]).

use std::sync::Arc;

use super::held::HeldText;
use super::Tokenizer;
use crate::error::{Error, Result};
use crate::ids::TokenId;

/// Prompt tokens that are put before the output to start with: the decoders that treat the start of
/// a text in a special way (metaspace strips a blank) shall not take the output for one.
const PRIMING_TOKENS: usize = 6;
const REPLACEMENT: &str = "\u{fffd}";
/// So many held tokens are decoded anew with each further one: the least work for real texts.
const FEW_HELD: usize = 16;
/// The same for decoders of which nothing is known. From there on, text may come an eighth later:
/// only when so many more wait, or at the end.
const FEW_HELD_UNKNOWN: usize = 64;

/// Text of one sequence's output as it grows.
#[derive(Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    /// Consecutive added tokens come out as the vocabulary spells them, with nothing between.
    raw_added_tokens: bool,
    last_was_added: bool,
    state: State,
    failed: Option<Error>,
}

#[derive(Clone)]
enum State {
    Bytes(HeldBytes),
    General(General),
}

/// Bytes that no complete text has come of yet.
#[derive(Clone, Default)]
struct HeldBytes {
    /// What can no longer change, U+FFFD for broken ones.
    text: String,
    /// Of a character that is not whole yet.
    open: Vec<u8>,
}

/// For decoders of any kind. `ids[..read]` gave the last piece, `piece` is their text. Tokens that
/// are not decoded at all are not among them.
#[derive(Clone, Default)]
struct General {
    ids: Vec<TokenId>,
    read: usize,
    piece: String,
    /// Of all `ids`, once more than a few are held.
    held: Option<HeldText>,
    /// Of an unknown decoder: held tokens at which they are decoded again.
    next_look: usize,
    /// They were not decoded since the last one came, and might come out.
    unseen: bool,
}

impl Detokenizer {
    /// For the output that follows `prompt` (all of it, or at least its last tokens).
    pub fn new(
        tokenizer: &Arc<Tokenizer>,
        prompt: &[TokenId],
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
    ) -> Detokenizer {
        // Told by `failed`.
        let mut failed = None;
        let state = match tokenizer.bytes() {
            Some(_) => State::Bytes(HeldBytes::default()),
            None => match General::primed(tokenizer, prompt, skip_special_tokens) {
                Ok(general) => State::General(general),
                Err(e) => {
                    failed = Some(e);
                    State::General(General::default())
                }
            },
        };
        Detokenizer {
            failed,
            tokenizer: tokenizer.clone(),
            skip_special_tokens,
            raw_added_tokens: !skip_special_tokens && !spaces_between_special_tokens,
            last_was_added: false,
            state,
        }
    }

    /// Why no more text comes: the decoder's rules fail on the tokens.
    pub fn failed(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Append the text that this token completes.
    pub fn push(&mut self, token: TokenId, out: &mut String) {
        if self.failed.is_some() {
            return;
        }
        let before = out.len();
        match &mut self.state {
            State::Bytes(held) => {
                if let Some(table) = self.tokenizer.bytes() {
                    held.push(table.get(token, self.skip_special_tokens), out);
                }
            }
            State::General(general) => {
                let outcome = general.push(&self.tokenizer, token, self.skip_special_tokens, out);
                self.failed = outcome.err();
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

    /// Append what was held back only because it was not decoded yet. No token comes any more. Half
    /// a character stays back.
    pub fn finish(&mut self, out: &mut String) {
        let State::General(general) = &mut self.state else { return };
        if !std::mem::take(&mut general.unseen) || self.tokenizer.text_rule().is_some() {
            // What is known to wait has nothing to say.
            return;
        }
        match self.tokenizer.decode(&general.ids, self.skip_special_tokens) {
            Ok(text) => {
                let whole = text.trim_end_matches(REPLACEMENT);
                out.push_str(whole.strip_prefix(general.piece.as_str()).unwrap_or_default());
            }
            Err(e) => self.failed = Some(e),
        }
    }
}

impl HeldBytes {
    fn push(&mut self, new: &[u8], out: &mut String) {
        if self.text.is_empty() && self.open.is_empty() {
            match std::str::from_utf8(new) {
                Ok(text) if !text.ends_with(REPLACEMENT) => return out.push_str(text),
                _ => {}
            }
        }

        self.open.extend_from_slice(new);
        let bytes = std::mem::take(&mut self.open);
        let mut rest = &bytes[..];
        while let Err(e) = std::str::from_utf8(rest) {
            let (good, broken) = rest.split_at(e.valid_up_to());
            self.text.push_str(std::str::from_utf8(good).unwrap_or_default());
            let Some(bytes) = e.error_len() else {
                self.open = broken.to_vec();
                rest = &[];
                break;
            };
            self.text.push_str(REPLACEMENT);
            rest = &broken[bytes..];
        }
        self.text.push_str(std::str::from_utf8(rest).unwrap_or_default());

        if self.open.is_empty() && !self.text.ends_with(REPLACEMENT) {
            out.push_str(&self.text);
            self.text.clear();
        }
    }
}

impl General {
    fn primed(tokenizer: &Tokenizer, prompt: &[TokenId], skip: bool) -> Result<General> {
        // Where bytes are tokens, a tail that begins inside of a character spoils all that follows
        // it without a word between. Of four neighbouring tails one begins elsewhere.
        for tokens in (PRIMING_TOKENS - 3..=PRIMING_TOKENS).rev() {
            let tail = &prompt[prompt.len().saturating_sub(tokens)..];
            let piece = tokenizer.decode(tail, skip)?;
            if !piece.is_empty() && !piece.contains(REPLACEMENT) {
                return Ok(General::behind(tail, piece));
            }
        }
        let mut tokens = PRIMING_TOKENS;
        loop {
            let tail = &prompt[prompt.len().saturating_sub(tokens)..];
            let piece = tokenizer.decode(tail, skip)?;
            if !piece.is_empty() || tail.len() == prompt.len() {
                return Ok(General::behind(tail, piece));
            }
            // Nothing but special tokens: look further back for a text to follow.
            tokens *= 4;
        }
    }

    fn behind(tail: &[TokenId], piece: String) -> General {
        General { ids: tail.to_vec(), read: tail.len(), piece, ..General::default() }
    }

    fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: TokenId,
        skip: bool,
        out: &mut String,
    ) -> Result<()> {
        // The text is what it was: nothing comes out.
        if tokenizer.decoded_spelling(token, skip).is_none() {
            return Ok(());
        }
        self.ids.push(token);
        self.unseen = self.waits(tokenizer, token, skip);
        if self.unseen {
            return Ok(());
        }
        self.look(tokenizer, token, skip, out)
    }

    /// Whether nothing can come out now, or with an unknown decoder shall not yet.
    fn waits(&mut self, tokenizer: &Tokenizer, token: TokenId, skip: bool) -> bool {
        let held = self.ids.len() - self.read;
        if held <= FEW_HELD {
            return false;
        }
        if let Some(waits) = self.known_to_wait(tokenizer, token, skip) {
            return waits;
        }
        if held > FEW_HELD_UNKNOWN && held < self.next_look {
            return true;
        }
        self.next_look = held + held / 8;
        false
    }

    /// None: the decoder is unknown.
    fn known_to_wait(&mut self, tokenizer: &Tokenizer, token: TokenId, skip: bool) -> Option<bool> {
        let rule = tokenizer.text_rule()?;
        let spelling = |token| tokenizer.decoded_spelling(token, skip).unwrap_or_default();
        if self.held.is_none() {
            let mut held = HeldText::default();
            for &token in &self.ids[..self.ids.len() - 1] {
                held.push(rule, spelling(token));
            }
            self.held = Some(held);
        }

        let held = self.held.as_mut()?;
        // Where the decoder fails on it, decoding says so.
        let Some(changed) = held.push(rule, spelling(token)) else { return Some(false) };
        Some(!changed || held.len() <= self.piece.len() || held.ends_broken())
    }

    /// Decode what is held, for what came out with `newest`, its last token.
    fn look(
        &mut self,
        tokenizer: &Tokenizer,
        newest: TokenId,
        skip: bool,
        out: &mut String,
    ) -> Result<()> {
        let mut text = tokenizer.decode(&self.ids, skip)?;
        if text.len() <= self.piece.len() || text.ends_with(REPLACEMENT) {
            return Ok(());
        }
        if !text.starts_with(self.piece.as_str()) {
            // Later tokens changed an earlier piece (broken UTF-8 in byte fallback): start afresh.
            *self = General { ids: vec![newest], ..General::default() };
            text = tokenizer.decode(&self.ids, skip)?;
            if text.is_empty() || text.ends_with(REPLACEMENT) {
                return Ok(());
            }
        }
        out.push_str(&text[self.piece.len()..]);
        self.ids.drain(..self.read);
        self.read = self.ids.len();
        self.piece = tokenizer.decode(&self.ids, skip)?;
        (self.held, self.next_look) = (None, 0);
        Ok(())
    }
}

#[cfg(test)]
#[path = "detokenize_tests.rs"]
mod tests;
