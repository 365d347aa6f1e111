//! A GGUF model's keys -> what its tokenizer files would hold: tokenizer.json (byte-level BPE) or
//! tokenizer.model (sentencepiece), and tokenizer_config.json. `engine` gives them to `text`, which
//! reads them as it reads files.

use std::collections::BTreeMap;

use serde_json::{json, Map, Value};

use super::architectures;
use super::files::Gguf;
use super::pieces::{self, Piece};
use super::splits::{self, byte_level, Split};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::cut;

/// Tokens at most; real vocabularies stay below half of it.
const TOKENS_MAX: usize = 1 << 20;
/// `tokenizer.ggml.token_type`.
const NORMAL: u8 = 1;
const CONTROL: u8 = 3;
const USER_DEFINED: u8 = 4;
const UNUSED: u8 = 5;

/// A tokenizer's large file.
pub enum Vocabulary {
    /// What tokenizer.json holds.
    Json(Value),
    /// What tokenizer.model holds.
    Pieces(Vec<u8>),
}

/// What the tokenizer files of a model would hold.
pub struct TokenizerParts {
    /// The large one.
    pub vocabulary: Vocabulary,
    /// tokenizer_config.json.
    pub config: Map<String, Value>,
}

impl Gguf {
    /// The tokenizer that the file holds.
    ///
    /// # Errors
    /// InvalidArgument: a key is missing or has another type, or keys contradict each other.
    /// Unsupported: another kind of tokenizer. One line that begins with the file's path.
    pub fn tokenizer(&self) -> Result<TokenizerParts> {
        Source::read(self).and_then(|source| source.parts()).map_err(|e| self.at(e))
    }
}

/// What a file says of its tokenizer.
struct Source<'a> {
    gguf: &'a Gguf,
    model_type: &'static str,
    model: &'a str,
    tokens: Vec<&'a str>,
    /// One for each token.
    kinds: Vec<u8>,
}

/// `tokenizer.ggml.<key>`
fn key(key: &str) -> String {
    format!("tokenizer.ggml.{key}")
}

impl<'a> Source<'a> {
    fn read(gguf: &'a Gguf) -> Result<Source<'a>> {
        let keys = &gguf.keys;
        let missing = |name: &str| {
            invalid!(
                "'{}' is missing, so it holds no tokenizer: name a folder with the model's \
                 tokenizer.json as 'tokenizer'.",
                key(name)
            )
        };
        let model = keys.text(&key("model"))?.ok_or_else(|| missing("model"))?;
        let tokens = keys.texts(&key("tokens"))?.ok_or_else(|| missing("tokens"))?;
        if tokens.len() > TOKENS_MAX {
            let count = tokens.len();
            return Err(invalid!("it has {count} tokens, at most {TOKENS_MAX} are read."));
        }

        let kinds = keys.numbers(&key("token_type"))?;
        let kinds = match kinds {
            None => vec![NORMAL; tokens.len()],
            Some(kinds) if kinds.len() == tokens.len() => kinds.iter().map(|&k| k as u8).collect(),
            Some(kinds) => {
                let (tokens, kinds) = (tokens.len(), kinds.len());
                return Err(invalid!("'{}' has {kinds} of {tokens} tokens.", key("token_type")));
            }
        };
        let architecture = keys.text("general.architecture")?.unwrap_or_default();
        let model_type = architectures::find(architecture)?.model_type;
        Ok(Source { gguf, model_type, model, tokens, kinds })
    }

    fn parts(&self) -> Result<TokenizerParts> {
        match self.model {
            "gpt2" => self.byte_level_bpe(),
            "llama" => self.sentencepiece(),
            other => Err(Error::Unsupported(format!(
                "'{}' is '{}', which is not supported; supported: gpt2, llama. Name a folder with \
                 the model's tokenizer.json as 'tokenizer'.",
                key("model"),
                cut(other)
            ))),
        }
    }

    /// The token that a key names.
    fn role(&self, role: &str) -> Result<Option<(&'a str, usize)>> {
        let name = key(&format!("{role}_token_id"));
        let Some(id) = self.gguf.keys.count(&name)? else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|id| Some((*self.tokens.get(id)?, id)));
        let count = self.tokens.len();
        token.map(Some).ok_or_else(|| invalid!("'{name}' is {id}, and there are {count} tokens."))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.gguf.keys.flag(&key(name))?.unwrap_or(default))
    }

    /// What tokenizer_config.json has in any case.
    fn config(&self, class: &str) -> Result<Map<String, Value>> {
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), json!(class));
        for (own, name) in [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token")] {
            if let Some((token, _)) = self.role(own)? {
                config.insert(name.into(), json!(token));
            }
        }
        if let Some(template) = self.gguf.keys.text("tokenizer.chat_template")? {
            config.insert("chat_template".into(), json!(template));
        }
        Ok(config)
    }

    fn byte_level_bpe(&self) -> Result<TokenizerParts> {
        let split = splits::find(self.gguf.keys.text(&key("pre"))?)?;
        let mut vocabulary: BTreeMap<&str, usize> = BTreeMap::new();
        let mut added = Vec::new();
        for (id, (&token, &kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            // These only fill the table; texts that read like them are no tokens.
            if kind == UNUSED || token.is_empty() {
                continue;
            }
            if let Some(other) = vocabulary.insert(token, id) {
                return Err(invalid!("tokens {other} and {id} are both '{}'.", cut(token)));
            }
            if matches!(kind, CONTROL | USER_DEFINED) {
                added.push(json!({
                    "id": id, "content": token, "special": kind == CONTROL, "single_word": false,
                    "lstrip": false, "rstrip": false, "normalized": false
                }));
            }
        }

        let whole = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": split.normalizer(), "pre_tokenizer": split.pre_tokenizer(),
            "post_processor": self.post_processor(split)?, "decoder": byte_level(true),
            "model": {
                "type": "BPE", "vocab": vocabulary, "merges": self.merges()?,
                "ignore_merges": split.ignore_merges
            },
        });
        let config = self.config("PreTrainedTokenizerFast")?;
        Ok(TokenizerParts { vocabulary: Vocabulary::Json(whole), config })
    }

    fn merges(&self) -> Result<Vec<Value>> {
        let merges = self.gguf.keys.texts(&key("merges"))?;
        let merges = merges.ok_or_else(|| invalid!("'{}' is missing.", key("merges")))?;
        let pair = |(n, merge): (usize, &&str)| match merge.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok(json!([left, right])),
            _ => Err(invalid!("merge {n}, '{}', is not two tokens.", cut(merge))),
        };
        merges.iter().enumerate().map(pair).collect()
    }

    /// What puts bos before and eos behind a text, if anything is to.
    fn post_processor(&self, split: &Split) -> Result<Value> {
        let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut special = Map::new();
        let bos = self.role("bos")?;
        let eos = self.role("eos")?;
        let wanted = [
            (bos, self.flag("add_bos_token", split.bos && bos.is_some())?, 0, "bos"),
            (eos, self.flag("add_eos_token", false)?, usize::MAX, "eos"),
        ];
        for (token, wanted, at, role) in wanted {
            if !wanted {
                continue;
            }
            let (text, id) = token.ok_or_else(|| {
                let (flag, id) = (format!("add_{role}_token"), format!("{role}_token_id"));
                invalid!("'{}' is set, and '{}' is missing.", key(&flag), key(&id))
            })?;
            let step = json!({"SpecialToken": {"id": text, "type_id": 0}});
            single.insert(at.min(single.len()), step);
            special.insert(text.into(), json!({"id": text, "ids": [id], "tokens": [text]}));
        }

        if special.is_empty() {
            return Ok(byte_level(true));
        }
        let pair = json!([
            {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
        ]);
        Ok(json!({
            "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special
        }))
    }

    fn sentencepiece(&self) -> Result<TokenizerParts> {
        let scores = self.gguf.keys.numbers(&key("scores"))?;
        let scores = scores.ok_or_else(|| invalid!("'{}' is missing.", key("scores")))?;
        if scores.len() != self.tokens.len() {
            let (tokens, scores) = (self.tokens.len(), scores.len());
            return Err(invalid!("'{}' has {scores} of {tokens} tokens.", key("scores")));
        }
        let unknown = self.role("unknown")?.map(|(text, _)| text);
        let all = self.tokens.iter().zip(&self.kinds).zip(&scores);
        let piece = |((text, kind), score): ((&&'a str, &u8), &f64)| Piece {
            text,
            score: *score as f32,
            kind: *kind,
        };
        let pieces = pieces::model(all.map(piece), unknown);

        let gemma = self.model_type.starts_with("gemma");
        let mut config = self.config(if gemma { "GemmaTokenizer" } else { "LlamaTokenizer" })?;
        for (name, own, default) in [
            ("add_bos_token", "add_bos_token", true),
            ("add_eos_token", "add_eos_token", false),
            ("add_prefix_space", "add_space_prefix", true),
        ] {
            config.insert(name.into(), json!(self.flag(own, default)?));
        }
        if self.model_type == "phi3" {
            config.insert("added_tokens_decoder".into(), self.with_blanks_behind());
        }
        Ok(TokenizerParts { vocabulary: Vocabulary::Pieces(pieces), config })
    }

    /// Phi-3's added tokens take the blanks behind them, which a file does not say.
    fn with_blanks_behind(&self) -> Value {
        let mut listed = Map::new();
        for (id, (&token, &kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            let without = ["<unk>", "<s>", "<|endoftext|>"].contains(&token);
            if matches!(kind, CONTROL | USER_DEFINED) && !token.is_empty() {
                listed.insert(
                    id.to_string(),
                    json!({
                        "content": token, "special": kind == CONTROL, "rstrip": !without,
                        "normalized": false
                    }),
                );
            }
        }
        Value::Object(listed)
    }
}
