//! What every token adds to a text, in exact bytes, as a trie for the grammar engine. Made once per
//! tokenizer by [`super::Grammars`]. It knows no grammar.
//!
//! A text is the concatenation of its tokens' bytes for byte-level tokenizers, also where other
//! steps of the decoder come before the bytes, and for those of
//! sentencepiece (`▁` is a blank, `<0xAB>` a byte); for others (WordPiece) what a token adds
//! depends on its neighbours, and no mask could be right.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use serde_json::Value;

use super::super::byte_alphabet::from_alphabet;
use super::super::Tokenizer;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::internal;
use crate::threads;

/// Longer tokens are never allowed: the trie is this deep at most.
const MAX_TOKEN_BYTES: usize = 1000;

/// The trie over the model's `vocab_size` tokens, and one behind them that stands for the end of a
/// text if the model has no token for it. `ends` and special tokens are no text: grammars name them
/// as `<name>` if they want them.
///
/// # Errors
/// Unsupported: a decoder that does not put bytes together.
pub(super) fn token_env(
    tokenizer: &Tokenizer,
    vocab_size: u32,
    ends: &[TokenId],
) -> Result<TokEnv> {
    let decoder = Decoder::of(tokenizer)?;
    let mut words: Vec<Vec<u8>> = (0..vocab_size)
        .map(TokenId)
        .map(|id| match tokenizer.spelling(id) {
            None => Vec::new(),
            Some(spelling) if tokenizer.is_special(&spelling) || ends.contains(&id) => {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], spelling.as_bytes()].concat()
            }
            Some(spelling) => decoder.bytes(tokenizer, id, &spelling),
        })
        .map(|word| if word.len() > MAX_TOKEN_BYTES { Vec::new() } else { word })
        .collect();
    words.push(vec![TokTrie::SPECIAL_TOKEN_MARKER]);
    let mut eos: Vec<u32> = ends.iter().map(|id| id.0).filter(|id| *id < vocab_size).collect();
    if eos.is_empty() {
        eos.push(vocab_size);
    }
    let info = TokRxInfo::new(vocab_size + 1, eos[0]);
    // The crate checks its limits by panicking.
    let trie = threads::catch(|| TokTrie::from(&info, &words).with_eos_tokens(&eos));
    let trie = trie.map_err(|_| internal!("the tokenizer's {vocab_size} tokens make no trie"))?;
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

/// How a token's spelling becomes bytes.
#[derive(Debug, Default, PartialEq)]
struct Decoder {
    byte_fallback: bool,
    /// The last step of a sequence: characters stand for bytes, as in GPT-2.
    byte_level: bool,
    replacements: Vec<(String, String)>,
}

impl Decoder {
    fn of(tokenizer: &Tokenizer) -> Result<Decoder> {
        let mut decoder = Decoder::default();
        if tokenizer.bytes().is_some() {
            return Ok(decoder);
        }
        let rules = tokenizer.decoder();
        if !decoder.take(&rules) {
            return Err(Error::Unsupported(format!(
                "structured_outputs is not supported for this model: its tokenizer's decoder ({}) \
                 does not put a text together from bytes",
                rules.get("type").and_then(Value::as_str).unwrap_or("none")
            )));
        }
        Ok(decoder)
    }

    /// False for a rule under which tokens are not independent of each other.
    fn take(&mut self, rule: &Value) -> bool {
        let text = |value: &Value| value.as_str().map(str::to_string);
        if self.byte_level {
            // It makes one text of all tokens: what comes behind it sees no tokens any more.
            return false;
        }
        match rule.get("type").and_then(Value::as_str).unwrap_or_default() {
            "ByteFallback" => self.byte_fallback = true,
            "ByteLevel" => self.byte_level = true,
            "Metaspace" => {
                let Some(blank) = text(&rule["replacement"]) else { return false };
                self.replacements.push((blank, " ".into()));
            }
            "Replace" => {
                let (from, to) = (text(&rule["pattern"]["String"]), text(&rule["content"]));
                let (Some(from), Some(to)) = (from, to) else { return false };
                self.replacements.push((from, to));
            }
            "Fuse" => {}
            // The first blank of the whole text, which the prompt has.
            "Strip" => return rule["content"] == " " && rule["stop"] == 0,
            "Sequence" => {
                let rules = rule["decoders"].as_array();
                return rules.is_some_and(|rules| rules.iter().all(|rule| self.take(rule)));
            }
            _ => return false,
        }
        true
    }

    fn bytes(&self, tokenizer: &Tokenizer, id: TokenId, spelling: &str) -> Vec<u8> {
        if let Some(table) = tokenizer.bytes() {
            return table.get(id, false).to_vec();
        }
        let byte = spelling.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        let byte = byte.filter(|hex| self.byte_fallback && hex.len() == 2);
        if let Some(byte) = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            return vec![byte];
        }
        let mut text = spelling.to_string();
        for (from, to) in &self.replacements {
            text = text.replace(from.as_str(), to);
        }
        if self.byte_level {
            from_alphabet(&text)
        } else {
            text.into_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::{byte_level, golden, ids, llama_like, Random};

    fn words(tokenizer: &Tokenizer, ends: &[TokenId]) -> Vec<Vec<u8>> {
        let size = tokenizer.vocab_size();
        let env = token_env(tokenizer, size, ends).unwrap();
        (0..size).map(|id| env.tok_trie().token(id).to_vec()).collect()
    }

    /// Behind a token that is text, any tokens together are what the tokenizer decodes.
    fn concatenates(tokenizer: &Tokenizer, first: TokenId) {
        let words = words(tokenizer, &[]);
        let mut random = Random(7);
        for _ in 0..300 {
            let mut tokens = vec![first];
            tokens.extend((0..8).map(|_| TokenId(random.below(words.len()) as u32)));
            let text = tokenizer.decode(&tokens, true).unwrap();
            let kept = tokens.iter().map(|id| &words[id.index()]);
            let kept = kept.filter(|word| word.first() != Some(&0xff));
            let bytes: Vec<u8> = kept.flatten().copied().collect();
            if let Ok(whole) = std::str::from_utf8(&bytes) {
                assert_eq!(text, whole, "{tokens:?}");
            }
        }
    }

    #[test]
    fn words_add_up_to_the_decoded_text() {
        concatenates(&golden("opt-tiny"), TokenId(300));
        let llama = llama_like(&["a", "▁", "▁b", "é", "▁日本", "<0x4", "x▁y"]);
        concatenates(&llama, TokenId(259));
        let spelled = words(&llama, &[]);
        assert_eq!(spelled[3 + 0xe9], [0xe9], "a byte that is no character");
        assert_eq!(spelled[261], b" b");
        assert_eq!(spelled[264], b"<0x4");
        assert_eq!(spelled[265], b"x y");
    }

    #[test]
    fn special_and_ending_tokens_are_no_text() {
        let llama = llama_like(&["a", "<end>"]);
        let spelled = words(&llama, &ids(&[260]));
        assert_eq!(spelled[2], b"\xff</s>");
        assert_eq!(spelled[260], b"\xff<end>");
        let env = token_env(&llama, llama.vocab_size(), &ids(&[260, 9999])).unwrap();
        assert_eq!(env.tok_trie().eos_tokens(), [260]);
    }

    /// A model may have more rows than the tokenizer has tokens, or fewer.
    #[test]
    fn the_model_decides_how_many_tokens_there_are() {
        let tokenizer = byte_level(&["a", "b"]);
        let env = token_env(&tokenizer, 5, &[]).unwrap();
        assert_eq!(env.tok_trie().vocab_size(), 6);
        assert_eq!(env.tok_trie().eos_tokens(), [5], "the one behind all");
        assert!(env.tok_trie().token(3).is_empty());
        assert_eq!(token_env(&tokenizer, 1, &[]).unwrap().tok_trie().token(0), b"a");
    }

    /// Published byte-level tokenizers have other steps before the last one.
    #[test]
    fn a_sequence_may_end_in_bytes() {
        let level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        });
        let steps = serde_json::json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": "Ġ"}, level,
        ]});
        let tokens = ["a", "Ġb", "Ã©", "▁c", "Ċ", "ÃĹ", "日"];
        let tokenizer = crate::text::testing::with_decoder(&tokens, &level, &steps);
        concatenates(&tokenizer, TokenId(0));
        let spelled = words(&tokenizer, &[]);
        assert_eq!(spelled[1], b" b");
        assert_eq!(spelled[2], "é".as_bytes());
        assert_eq!(spelled[3], b" c");
        assert_eq!(spelled[4], b"\n");
        assert_eq!(spelled[6], "日".as_bytes(), "not in the alphabet: itself");
    }

    #[test]
    fn a_decoder_that_looks_at_neighbours_is_refused() {
        for rule in [
            serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            serde_json::json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}),
            serde_json::json!({"type": "Sequence", "decoders": [{"type": "CTC"}]}),
            serde_json::json!({"type": "Sequence", "decoders": [
                {"type": "ByteLevel", "trim_offsets": true}, {"type": "Fuse"},
            ]}),
            Value::Null,
        ] {
            assert!(!Decoder::default().take(&rule), "{rule}");
        }
    }
}
