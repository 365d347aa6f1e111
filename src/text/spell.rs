//! What a single token reads like at its place: the text that a token adds behind others, for
//! tables of likely tokens. Unlike the text of an answer it shows special tokens, and it asks what
//! *would* come out, so nothing is held back. Called by `engine` for each reported token.

use std::sync::Arc;

use super::Tokenizer;
use crate::ids::TokenId;

/// Newest tokens that may hold the first bytes of a character.
const CONTEXT_TOKENS: usize = 4;
const REPLACEMENT: char = '\u{fffd}';

/// One per sequence; knows its newest tokens.
pub struct Speller {
    tokenizer: Arc<Tokenizer>,
    recent: Vec<TokenId>,
    /// The decoder treats the start of a text in a special way (metaspace strips a blank): a token
    /// is never read alone.
    needs_context: bool,
}

impl Speller {
    /// For the output that follows `prompt`.
    pub fn new(tokenizer: &Arc<Tokenizer>, prompt: &[TokenId]) -> Speller {
        let needs_context = tokenizer.bytes().is_none();
        let tail = &prompt[prompt.len().saturating_sub(CONTEXT_TOKENS)..];
        let recent = if needs_context { tail.to_vec() } else { Vec::new() };
        Speller { tokenizer: tokenizer.clone(), recent, needs_context }
    }

    /// The text that `token` adds here: what completes a character is that character, what only
    /// begins one is "".
    pub fn spell(&self, token: TokenId) -> String {
        let least = usize::from(self.needs_context).min(self.recent.len());
        let mut broken = None;
        // The shortest context in which all characters are whole, if there is one.
        for tokens in least..=self.recent.len() {
            let context = &self.recent[self.recent.len() - tokens..];
            let whole = self.decode(context, Some(token));
            if whole.ends_with(REPLACEMENT) {
                continue;
            }
            let before = self.decode(context, None);
            let before = before.trim_end_matches(REPLACEMENT);
            let Some(added) = whole.strip_prefix(before) else { continue };
            if !whole.contains(REPLACEMENT) {
                return added.to_owned();
            }
            broken.get_or_insert_with(|| added.to_owned());
        }
        broken.unwrap_or_default()
    }

    /// The token was taken.
    pub fn push(&mut self, token: TokenId) {
        if self.recent.len() == CONTEXT_TOKENS {
            self.recent.remove(0);
        }
        self.recent.push(token);
    }

    fn decode(&self, context: &[TokenId], token: Option<TokenId>) -> String {
        let tokens = context.iter().copied().chain(token);
        if let Some(table) = self.tokenizer.bytes() {
            let bytes: Vec<u8> = tokens.flat_map(|t| table.get(t, false)).copied().collect();
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        let tokens: Vec<TokenId> = tokens.collect();
        self.tokenizer.decode(&tokens, false).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::*;

    fn tokens_of(tokenizer: &Tokenizer, text: &str) -> Vec<TokenId> {
        tokenizer.encode(text).unwrap()
    }

    /// Behind each other the texts of tokens are the text, also where a character is cut in pieces
    /// and where a word begins with a blank that the decoder strips at a start.
    #[test]
    fn texts_of_tokens_are_the_text() {
        let bytes = golden("opt-tiny");
        let metaspace = Arc::new(llama_like(&["▁", "h", "i"]));
        for (tokenizer, text) in [(bytes, "héllo 🦀 wörld\n"), (metaspace, "hi you é hi🦀")]
        {
            let prompt = tokens_of(&tokenizer, "hi");
            let mut speller = Speller::new(&tokenizer, &prompt);
            let bos = usize::from(tokenizer.encode("").unwrap().len() == 1);
            let tokens = tokens_of(&tokenizer, &format!(" {text}"));
            let mut told = String::new();
            for &token in &tokens[bos..] {
                told.push_str(&speller.spell(token));
                speller.push(token);
            }
            assert_eq!(told.trim_start(), text);
        }
    }

    #[test]
    fn pieces_are_empty_and_special_tokens_are_shown() {
        let tokenizer = golden("opt-tiny");
        let mut speller = Speller::new(&tokenizer, &[]);
        assert_eq!(speller.spell(TokenId(0)), "<s>");
        assert_eq!(speller.spell(TokenId(117)), "", "a byte that is no character");
        let crab: Vec<TokenId> = tokens_of(&tokenizer, "🦀")[1..].to_vec();
        assert!(crab.len() > 1, "{crab:?}");
        for &token in &crab[..crab.len() - 1] {
            assert_eq!(speller.spell(token), "");
            speller.push(token);
        }
        assert_eq!(speller.spell(crab[crab.len() - 1]), "🦀");
        assert_eq!(speller.spell(TokenId(851)), " @", "another token instead of its last byte");
    }
}
