//! A model's tokenizer: text to ids, and what the detokeniser must know of each id. Loaded once,
//! shared by all threads. It knows no request.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokenizers::{DecoderWrapper, Encoding, Tokenizer as Inner};

use super::byte_alphabet::{byte_alphabet, spelled_in};
use super::held::TextRule;
use super::load::{self, Loaded, TokenizerFiles};
use super::pieces::{PieceHelper, Pieces};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::threads;
use crate::{internal, invalid};

/// Ids index tables: a file with a wild one must not ask for gigabytes. Real ones stay below 2^19.
const MAX_ID: u32 = (1 << 22) - 1;

/// A model's tokenizer: text to ids and back. Shared by all threads.
pub struct Tokenizer {
    inner: Arc<Inner>,
    /// How long texts are tokenised by several threads.
    pieces: Arc<Pieces>,
    eos: Option<TokenId>,
    bos: Option<TokenId>,
    vocab_size: u32,
    max_token_chars: usize,
    /// Only if decoding is the concatenation of bytes (ByteLevel), which most models' is.
    bytes: Option<ByteTable>,
    /// How other decoders put texts together, if that is known.
    text_rule: Option<TextRule>,
    /// Ids given to the crate to decode.
    #[cfg(test)]
    pub(super) decoded: std::sync::atomic::AtomicUsize,
}

/// The bytes of every token, for decoders that do nothing but put them together.
pub(super) struct ByteTable {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    len: u32,
    special: bool,
}

impl Tokenizer {
    /// Read the tokenizer files of a model's folder.
    ///
    /// # Errors
    /// NotFound or InvalidArgument, one line that names the file.
    pub fn load(dir: &Path) -> Result<Tokenizer> {
        Tokenizer::load_from(dir, TokenizerFiles::Any)
    }

    /// The same of some of its files.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_from(dir: &Path, files: TokenizerFiles) -> Result<Tokenizer> {
        Tokenizer::of(load::load(dir, files), dir)
    }

    /// The same of values that another file holds: what tokenizer.json and tokenizer_config.json
    /// would. `path` is that file's, for messages.
    ///
    /// # Errors
    /// InvalidArgument, one line that names the file.
    pub fn from_json(path: &Path, whole: &Value, config: &Map<String, Value>) -> Result<Tokenizer> {
        Tokenizer::of(load::from_json(path, whole, config), path)
    }

    /// The same of what tokenizer.model, a sentencepiece model, and tokenizer_config.json would.
    ///
    /// # Errors
    /// As `from_json`.
    pub fn from_pieces(
        path: &Path,
        pieces: &[u8],
        config: &Map<String, Value>,
    ) -> Result<Tokenizer> {
        Tokenizer::of(load::from_pieces(path, pieces, config), path)
    }

    fn of(loaded: Result<Loaded>, path: &Path) -> Result<Tokenizer> {
        let loaded = loaded.map_err(Error::on_one_line)?;
        let vocab = loaded.inner.get_vocab(true);
        let largest = vocab.values().copied().max().unwrap_or(0);
        if largest > MAX_ID {
            return Err(invalid!(
                "the tokenizer in {} has a token with id {largest}, more than {MAX_ID}",
                path.display()
            ));
        }
        Ok(Tokenizer {
            eos: loaded.eos,
            bos: loaded.bos,
            vocab_size: if vocab.is_empty() { 0 } else { largest + 1 },
            max_token_chars: vocab.keys().map(|t| t.chars().count()).max().unwrap_or(0),
            bytes: ByteTable::new(&loaded.inner, largest),
            text_rule: TextRule::of(&loaded.inner),
            #[cfg(test)]
            decoded: Default::default(),
            pieces: Arc::new(Pieces::new(&loaded.inner)),
            inner: Arc::new(loaded.inner),
        })
    }

    /// Text to ids, with the special tokens that the tokenizer puts around a prompt. Helpers
    /// ([`Tokenizer::helper`]) make it sooner for a long text.
    ///
    /// # Errors
    /// Internal: the tokenizer's files contradict each other.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>> {
        self.ids(text, true)
    }

    fn ids(&self, text: &str, with_special_tokens: bool) -> Result<Vec<TokenId>> {
        let pieces = guarded("tokenise", || self.pieces.encode(&self.inner, text))?;
        let encoding = guarded("tokenise", || {
            let encoding = match pieces {
                Some(pieces) => self.inner.post_process(pieces, None, with_special_tokens),
                None => self.inner.encode_fast(text, with_special_tokens),
            };
            encoding.map_err(|e| internal!("cannot tokenise: {e}"))
        })?;
        Ok(ids_of(&encoding))
    }

    /// For a thread that wants to help others of this tokenizer with long texts.
    pub fn helper(&self) -> PieceHelper {
        PieceHelper::new(&self.pieces)
    }

    /// The same of a part of a text: nothing is put around it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_part(&self, text: &str) -> Result<Vec<TokenId>> {
        self.ids(text, false)
    }

    /// The same of two texts that belong together, as the tokenizer's template joins them; without
    /// one the second follows the first. And the type of each token, 0 or 1 as a rule.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<(Vec<TokenId>, Vec<u32>)> {
        let encoding = guarded("tokenise", || {
            let encoding = self.inner.encode_fast((first, second), true);
            encoding.map_err(|e| internal!("cannot tokenise: {e}"))
        })?;
        Ok((ids_of(&encoding), encoding.get_type_ids().to_vec()))
    }

    /// The token that the vocabulary spells so, added tokens included.
    pub fn token(&self, spelling: &str) -> Option<TokenId> {
        self.inner.token_to_id(spelling).map(TokenId)
    }

    /// The tokens that an output may not contain, for each of `words` without its leading blanks:
    /// those at the start of a text, and those after a blank where they begin otherwise and are as
    /// many. Special tokens are not put around them.
    ///
    /// # Errors
    /// Internal, as [`Tokenizer::encode`].
    pub fn bad_words(&self, words: &[String]) -> Result<Vec<Box<[TokenId]>>> {
        let encode = |text: &str| self.encode_part(text).map(Vec::into_boxed_slice);
        let mut all = Vec::new();
        for word in words {
            let word = word.trim_start();
            let (plain, spaced) = (encode(word)?, encode(&format!(" {word}"))?);
            if spaced.len() == plain.len() && spaced.first() != plain.first() {
                all.push(spaced);
            }
            all.push(plain);
        }
        // Nothing but blanks, which no token stands for.
        all.retain(|tokens| !tokens.is_empty());
        Ok(all)
    }

    /// Ids to text, as a whole. Ids that no token has are skipped.
    ///
    /// # Errors
    /// Internal: the decoder's rules fail on these tokens.
    pub fn decode(&self, ids: &[TokenId], skip_special_tokens: bool) -> Result<String> {
        let ids: Vec<u32> = ids.iter().map(|id| id.0).collect();
        #[cfg(test)]
        self.decoded.fetch_add(ids.len(), std::sync::atomic::Ordering::Relaxed);
        guarded("detokenise", || {
            let text = self.inner.decode(&ids, skip_special_tokens);
            text.map_err(|e| internal!("cannot detokenise: {e}"))
        })
    }

    /// The token that ends a text, as tokenizer_config.json says.
    pub fn eos(&self) -> Option<TokenId> {
        self.eos
    }

    /// The token that begins a text, as tokenizer_config.json says.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// Largest id + 1, added tokens included. A model may have more rows (padding).
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Characters of the longest token as the vocabulary spells it: at least those of its text.
    pub fn max_token_chars(&self) -> usize {
        self.max_token_chars
    }

    /// The text of an added token, special or not; None for the others.
    pub(super) fn added(&self, id: TokenId) -> Option<String> {
        self.inner.get_added_vocabulary().simple_id_to_token(id.0)
    }

    /// As the vocabulary has it, added tokens included; None for an id that no token has.
    pub(super) fn spelling(&self, id: TokenId) -> Option<String> {
        self.inner.id_to_token(id.0)
    }

    /// What the decoder sees of a token; None for one that it is not given.
    pub(super) fn decoded_spelling(
        &self,
        id: TokenId,
        skip_special_tokens: bool,
    ) -> Option<String> {
        self.spelling(id).filter(|token| !(skip_special_tokens && self.is_special(token)))
    }

    pub(super) fn text_rule(&self) -> Option<&TextRule> {
        self.text_rule.as_ref()
    }

    pub(super) fn is_special(&self, spelling: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(spelling)
    }

    /// The decoder's rules as tokenizer.json writes them; null if there are none.
    pub(super) fn decoder(&self) -> serde_json::Value {
        serde_json::to_value(self.inner.get_decoder()).unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> Option<&ByteTable> {
        self.bytes.as_ref()
    }

    #[cfg(test)]
    pub(super) fn inner_for_test(&self) -> &Arc<Inner> {
        &self.inner
    }
}

/// Run a call of the crate, which panics where a tokenizer's rules contradict a text: then this
/// call alone fails.
fn guarded<T>(what: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
    threads::catch_quietly(call).unwrap_or_else(|panic| {
        Err(internal!(
            "cannot {what}: the rules of the model's tokenizer fail on this text: {panic}"
        ))
    })
}

fn ids_of(encoding: &Encoding) -> Vec<TokenId> {
    encoding.get_ids().iter().map(|id| TokenId(*id)).collect()
}

impl ByteTable {
    fn new(inner: &Inner, largest: u32) -> Option<ByteTable> {
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return None;
        }
        let alphabet = byte_alphabet();
        let added = inner.get_added_vocabulary();
        let mut table = ByteTable { bytes: Vec::new(), entries: Vec::new() };
        for id in 0..=largest {
            let start = table.bytes.len() as u32;
            let token = inner.id_to_token(id).unwrap_or_default();
            table.bytes.extend(spelled_in(&alphabet, &token));
            let len = table.bytes.len() as u32 - start;
            table.entries.push(Entry { start, len, special: added.is_special_token(&token) });
        }
        Some(table)
    }

    /// What a token adds; nothing for an id that no token has.
    pub fn get(&self, id: TokenId, skip_special_tokens: bool) -> &[u8] {
        match self.entries.get(id.index()) {
            Some(entry) if !(skip_special_tokens && entry.special) => {
                let start = entry.start as usize;
                &self.bytes[start..start + entry.len as usize]
            }
            _ => &[],
        }
    }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
