//! From a model's folder to a `tokenizers` tokenizer: `tokenizer.json`, or `vocab.json` and
//! `merges.txt` (GPT-2's byte-level BPE, also OPT's), or sentencepiece's `tokenizer.model`, with
//! what `tokenizer_config.json` and `special_tokens_map.json` say of special tokens; or Mistral's
//! own `tekken.json`. It does what transformers, or mistral-common, does at load. Called by
//! [`super::Tokenizer`] only.

use std::path::{Path, PathBuf};

use serde_json::{json, Map, Value};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer as Inner};

use super::growth;
use super::sentencepiece::{self, Rules};
use super::tekken;
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::ids::TokenId;
use crate::invalid;
use crate::json::{self, Object};
use crate::threads;

/// Which of a folder's tokenizer files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerFiles {
    /// Mistral's own if the folder holds weights in its format, or nothing else; else Hugging
    /// Face's.
    Any,
    /// tokenizer.json, or vocab.json and merges.txt, or tokenizer.model.
    HuggingFace,
    /// tekken.json, or a `tokenizer.model.v*`.
    Mistral,
}

/// What a folder holds.
pub(super) struct Loaded {
    pub inner: Inner,
    pub eos: Option<TokenId>,
    pub bos: Option<TokenId>,
}

/// Keys that name one special token each, in the order in which transformers adds missing ones.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Words that each calling thread remembers the tokens of; halves the time of `encode`. The crate
/// keeps them as long as the thread lives, even when this tokenizer is gone: about 150 bytes a
/// word.
const CACHED_WORDS: usize = 2000;
/// Texts that a tokenizer is tried with.
const PROBES: [&str; 2] = ["", "Hello, world!  1 23\n\u{e9} \u{65e5}\u{672c} \u{1f980} a"];
/// Mistral's own tokenizer.
const TEKKEN: &str = "tekken.json";

/// # Errors
/// NotFound without tokenizer files, InvalidArgument for files that are broken: one line with the
/// path.
pub(super) fn load(dir: &Path, files: TokenizerFiles) -> Result<Loaded> {
    let own = match files {
        TokenizerFiles::HuggingFace => None,
        TokenizerFiles::Mistral => Some(mistrals_own(dir).ok_or_else(|| no_tokenizer(dir, files))?),
        TokenizerFiles::Any => mistrals_own(dir).filter(|_| is_mistrals(dir)),
    };
    if let Some(path) = own {
        return of_mistral(&path);
    }

    let mut config = side_files(dir)?;
    set_class(dir, &mut config)?;
    let whole = dir.join("tokenizer.json");
    let pieces = dir.join("tokenizer.model");
    let (inner, file) = if let Some(bytes) = files::optional(read(&whole))? {
        (parsed(&whole, &bytes)?, whole)
    } else if pieces.exists() && !dir.join("vocab.json").exists() {
        (sentencepiece(dir, &pieces, &mut config)?, pieces)
    } else {
        (byte_level_bpe(dir, &mut config)?, dir.join("vocab.json"))
    };
    finished(inner, &config, dir, &file)
}

/// Mistral's own tokenizer file, if there is one: of several sentencepiece models the last.
fn mistrals_own(dir: &Path) -> Option<PathBuf> {
    let names = names_in(dir);
    let is_pieces = |name: &&String| name.starts_with("tokenizer.model.v");
    let name = names.iter().find(|name| *name == TEKKEN);
    name.or_else(|| names.iter().rfind(is_pieces)).map(|name| dir.join(name))
}

/// Whether the folder holds weights in Mistral's format, or no tokenizer of another.
fn is_mistrals(dir: &Path) -> bool {
    let names = names_in(dir);
    let weights =
        |name: &String| name.starts_with("consolidated") && name.ends_with(".safetensors");
    let others = ["tokenizer.json", "tokenizer.model", "vocab.json"];
    names.iter().any(weights) || !names.iter().any(|name| others.contains(&name.as_str()))
}

/// Its special tokens never arise from a text.
fn of_mistral(path: &Path) -> Result<Loaded> {
    let mut config = Map::new();
    let inner = if path.ends_with(TEKKEN) {
        let shown = path.display().to_string();
        let whole = json::read_object(path, Kind::Tokenizer)?;
        let (whole, roles) = tekken::read(&shown, &whole)?;
        config = roles;
        parsed(path, whole.to_string().as_bytes())?
    } else {
        config.insert("tokenizer_class".into(), "LlamaTokenizer".into());
        set_defaults("LlamaTokenizer", &mut config);
        sentencepiece::read(&read(path)?, &rules(&config)).map_err(|e| broken(path, &e))?
    };
    let mut loaded = finished(inner, &config, path, path)?;
    loaded.inner.set_encode_special_tokens(true);
    Ok(loaded)
}

/// A tokenizer that lies in no folder of its own: what tokenizer.json would hold, and what
/// tokenizer_config.json would. `path` is only named.
///
/// # Errors
/// As [`load`].
pub(super) fn from_json(path: &Path, whole: &Value, config: &Map<String, Value>) -> Result<Loaded> {
    let inner = parsed(path, whole.to_string().as_bytes())?;
    finished(inner, config, path, path)
}

/// The same of what tokenizer.model would hold.
///
/// # Errors
/// As [`load`].
pub(super) fn from_pieces(
    path: &Path,
    pieces: &[u8],
    config: &Map<String, Value>,
) -> Result<Loaded> {
    let rules = rules(config);
    let inner = sentencepiece::read(pieces, &rules).map_err(|e| broken(path, &e))?;
    finished(inner, config, path, path)
}

/// What the side files say, put to the tokenizer that the large `file` made, and a text tried with
/// it: the crate panics on rules that contradict each other. `place` and `file` are named.
fn finished(
    inner: Inner,
    config: &Map<String, Value>,
    place: &Path,
    file: &Path,
) -> Result<Loaded> {
    let fails = |on: &str, panic: String| broken(file, &format!("its rules fail {on}: {panic}"));
    let loaded = threads::catch_quietly(|| completed(inner, config, place))
        .map_err(|panic| fails("on a special token", panic))??;
    for text in PROBES {
        // Its errors are those of single texts, which some tokenizers have no tokens for.
        let encoded = threads::catch_quietly(|| loaded.inner.encode_fast(text, true))
            .map_err(|panic| fails(&format!("on the text {text:?}"), panic))?;
        let Ok(tokens) = encoded else { continue };
        threads::catch_quietly(|| loaded.inner.decode(tokens.get_ids(), false).is_ok())
            .map_err(|panic| fails(&format!("on the tokens of {text:?}"), panic))?;
    }
    Ok(loaded)
}

fn completed(mut inner: Inner, config: &Map<String, Value>, place: &Path) -> Result<Loaded> {
    let at = |e: Error| e.context(&format!("{}: ", place.display()));
    // A serving engine neither cuts nor pads, whatever a training script has left in the file.
    inner.with_truncation(None).map_err(|e| broken(place, &e))?;
    inner.with_padding(None);

    let mut model = inner.get_model().clone();
    model.resize_cache(CACHED_WORDS);
    inner.with_model(model);

    add_tokens(&mut inner, config).map_err(at)?;
    set_prefix_space(&mut inner, config);
    let bos = role(config, "bos_token").and_then(|t| inner.token_to_id(&t)).map(TokenId);
    let eos = role(config, "eos_token").and_then(|t| inner.token_to_id(&t)).map(TokenId);
    set_template(&mut inner, config).map_err(at)?;
    Ok(Loaded { inner, eos, bos })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    files::read(path, Kind::Tokenizer)
}

fn broken(path: &Path, why: &dyn std::fmt::Display) -> Error {
    invalid!("{} is not a tokenizer file: {why}", path.display())
}

/// `path` is only named. The crate trusts what it reads and panics where that contradicts itself.
fn parsed(path: &Path, bytes: &[u8]) -> Result<Inner> {
    let bytes = json::unmarked(bytes);
    growth::judge(bytes).map_err(|e| broken(path, &e))?;
    match threads::catch_quietly(|| Inner::from_bytes(bytes)) {
        Ok(Ok(inner)) => Ok(inner),
        Ok(Err(e)) => Err(broken(path, &e)),
        // The crate's words for a charsmap that it cannot read.
        Err(panic) if panic.starts_with("Precompiled") => {
            Err(broken(path, &format!("a normalizer cannot be read: {panic}")))
        }
        Err(panic) => {
            let why = "a key such as continuing_subword_prefix does not fit the vocabulary, or \
                       vocabulary and merges contradict each other";
            Err(broken(path, &format!("the tokenizers library fails on it ({panic}): {why}")))
        }
    }
}

/// What tokenizer_config.json and, where that is silent, special_tokens_map.json say; every key
/// that is read has its type.
fn side_files(dir: &Path) -> Result<Map<String, Value>> {
    let [first, second] =
        ["tokenizer_config.json", "special_tokens_map.json"].map(|name| dir.join(name));
    let [config, map] = [object(&first)?, object(&second)?];
    let mut both = config.clone();
    for (key, value) in map {
        both.entry(key).or_insert(value);
    }

    let [first, second] = [first, second].map(|path| path.display().to_string());
    judge(&Object::new(&second, &both).over(&first, "", &config)).map_err(Error::on_one_line)?;
    Ok(both)
}

/// # Errors
/// A key that is read has a value of another type.
fn judge(config: &Object) -> Result<()> {
    config.text("tokenizer_class")?;
    for key in ["add_bos_token", "add_eos_token", "add_prefix_space", "legacy"] {
        config.flag(key)?;
    }
    for key in ROLES {
        if !config.given(key).is_none_or(is_token) {
            return Err(config.wrong(key, TOKEN));
        }
    }

    for key in MORE_TOKENS {
        let good = match config.given(key) {
            None => true,
            Some(Value::Array(list)) => list.iter().all(is_token),
            Some(Value::Object(map)) => map.values().all(is_token),
            Some(_) => false,
        };
        if !good {
            return Err(config.wrong(key, "a list of tokens, each a string or an object"));
        }
    }

    let Some(listed) = config.object(LISTED)? else { return Ok(()) };
    for (id, token) in config.given(LISTED).and_then(Value::as_object).into_iter().flatten() {
        if id.parse::<u32>().is_err() {
            return Err(invalid!("{} is no token id.", listed.name(id)));
        }
        if !is_token(token) {
            return Err(listed.wrong(id, TOKEN));
        }
    }
    Ok(())
}

const TOKEN: &str = "a token, as a string or as an object with 'content' and flags";
const LISTED: &str = "added_tokens_decoder";
const MORE_TOKENS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];
const TOKEN_FLAGS: [&str; 5] = ["special", "lstrip", "rstrip", "single_word", "normalized"];

fn is_token(value: &Value) -> bool {
    let flag = |key: &&str| value.get(key).is_none_or(|flag| flag.is_boolean() || flag.is_null());
    match value {
        Value::String(_) => true,
        Value::Object(map) => {
            map.get("content").is_some_and(Value::is_string) && TOKEN_FLAGS.iter().all(flag)
        }
        _ => false,
    }
}

/// An optional file: absent = empty.
fn object(path: &Path) -> Result<Map<String, Value>> {
    Ok(files::optional(json::read_object(path, Kind::Config))?.unwrap_or_default())
}

/// The text of a special token: given as such or as an object with `content`.
fn role(config: &Map<String, Value>, key: &str) -> Option<String> {
    content(config.get(key)?).map(str::to_string)
}

fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn class(config: &Map<String, Value>) -> &str {
    config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("")
}

fn flag(config: &Map<String, Value>, key: &str, default: bool) -> bool {
    config.get(key).and_then(Value::as_bool).unwrap_or(default)
}

/// The tokenizer's class: as tokenizer_config.json or config.json names it, or the one of the
/// model's type. It decides special tokens that no file names: gpt2 itself comes without any of
/// them.
fn set_class(dir: &Path, config: &mut Map<String, Value>) -> Result<()> {
    if class(config).is_empty() {
        let path = dir.join("config.json");
        let shown = path.display().to_string();
        let model = object(&path)?;
        let object = Object::new(&shown, &model);
        object.text("tokenizer_class").map_err(Error::on_one_line)?;
        let of_type = match object.text("model_type")?.unwrap_or("") {
            "gpt2" | "opt" => "GPT2Tokenizer",
            "llama" | "mistral" | "mixtral" => "LlamaTokenizer",
            "gemma" | "gemma2" => "GemmaTokenizer",
            _ => "",
        };
        let name = match class(&model) {
            "" => of_type,
            named => named,
        };
        config.insert("tokenizer_class".into(), name.into());
    }
    let class = class(config).trim_end_matches("Fast").to_string();
    set_defaults(&class, config);
    Ok(())
}

fn set_defaults(class: &str, config: &mut Map<String, Value>) {
    let [bos, eos, unk] = match class {
        "GPT2Tokenizer" => ["<|endoftext|>"; 3],
        "LlamaTokenizer" => ["<s>", "</s>", "<unk>"],
        "GemmaTokenizer" => ["<bos>", "<eos>", "<unk>"],
        _ => return,
    };
    for (key, token) in [("bos_token", bos), ("eos_token", eos), ("unk_token", unk)] {
        config.entry(key).or_insert_with(|| token.into());
    }
}

/// Gemma's or, for all others, Llama's tokenizer from a sentencepiece model; `config` gets the
/// class, its default special tokens and what `added_tokens.json` holds.
fn sentencepiece(dir: &Path, path: &Path, config: &mut Map<String, Value>) -> Result<Inner> {
    let gemma = class(config).trim_end_matches("Fast") == "GemmaTokenizer";
    let name = if gemma { "GemmaTokenizer" } else { "LlamaTokenizer" };
    config.insert("tokenizer_class".into(), name.into());
    set_defaults(name, config);
    let mut listed = Map::new();
    for (token, id) in object(&dir.join("added_tokens.json"))? {
        let special = ROLES.iter().any(|key| role(config, key).as_ref() == Some(&token));
        listed.insert(id.to_string(), json!({"content": token, "special": special}));
    }
    config.entry("added_tokens_decoder").or_insert(Value::Object(listed));
    sentencepiece::read(&read(path)?, &rules(config)).map_err(|e| broken(path, &e))
}

/// How a sentencepiece model is used, by its class and flags.
fn rules(config: &Map<String, Value>) -> Rules {
    Rules {
        gemma: class(config).trim_end_matches("Fast") == "GemmaTokenizer",
        legacy: flag(config, "legacy", true),
        prefix_space: flag(config, "add_prefix_space", true),
    }
}

/// What would have been read, and what there is.
fn no_tokenizer(dir: &Path, files: TokenizerFiles) -> Error {
    let names: Vec<String> = names_in(dir).iter().map(|name| json::cut(name)).collect();
    let holds = match names.len() {
        0 => "nothing".into(),
        n if n > 8 => format!("{} and {} more", names[..8].join(", "), n - 8),
        _ => names.join(", "),
    };
    let expected = match files {
        TokenizerFiles::Mistral => "tekken.json, or tokenizer.model.v* (tokenizer_mode mistral)",
        _ => "tokenizer.json, vocab.json and merges.txt, or tokenizer.model",
    };
    Error::NotFound(format!(
        "no tokenizer in {}: expected {expected}; the folder holds {holds}. Copy it from the \
         model's repository, or name another folder as 'tokenizer'.",
        dir.display()
    ))
    .on_one_line()
}

/// Names of what is in a folder, in alphabetical order; at most a thousand.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(1000);
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// GPT-2's tokenizer from its two files; `config` gets its default special tokens.
fn byte_level_bpe(dir: &Path, config: &mut Map<String, Value>) -> Result<Inner> {
    let vocab_path = dir.join("vocab.json");
    let merges_path = dir.join("merges.txt");
    if !vocab_path.exists() || !merges_path.exists() {
        return Err(no_tokenizer(dir, TokenizerFiles::HuggingFace));
    }

    set_defaults("GPT2Tokenizer", config);
    let vocab = json::read_object(&vocab_path, Kind::Tokenizer)?;
    let merges = files::read_text(&merges_path, Kind::Tokenizer)?;
    let merges: Vec<&str> = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.trim().is_empty())
        .collect();

    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    let post_processor = match role(config, "bos_token") {
        Some(bos) if flag(config, "add_bos_token", false) => {
            let id = vocab.get(&bos).and_then(Value::as_u64).ok_or_else(|| {
                broken(&vocab_path, &format!("add_bos_token is set, but it has no {bos}"))
            })?;
            template(Some((&bos, id)), None)
        }
        _ => byte_level.clone(),
    };

    let whole = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": post_processor,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    parsed(&merges_path, whole.to_string().as_bytes())
}

/// The post-processor that puts bos before and eos behind a text.
fn template(bos: Option<(&str, u64)>, eos: Option<(&str, u64)>) -> Value {
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
    let mut tokens = Map::new();
    for (token, id) in bos.iter().chain(&eos) {
        tokens.insert(token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    if let Some((token, _)) = bos {
        single.insert(0, special(token));
    }
    if let Some((token, _)) = eos {
        single.push(special(token));
    }
    let pair = json!([
        {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    ]);
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

/// Tokens that the side files know: with the flags that they give them, where the vocabulary has
/// them; at its end, where it has not.
fn add_tokens(inner: &mut Inner, config: &Map<String, Value>) -> Result<()> {
    let mut listed: Vec<(u32, &Value)> = Vec::new();
    for (id, token) in config.get(LISTED).and_then(Value::as_object).into_iter().flatten() {
        let id = id.parse().map_err(|_| invalid!("added_tokens_decoder has a key {id:?}"))?;
        listed.push((id, token));
    }
    listed.sort_by_key(|(id, _)| *id);
    let mut tokens: Vec<AddedToken> =
        listed.iter().filter_map(|(_, token)| added_token(token, false)).collect();
    let more = MORE_TOKENS.iter().filter_map(|key| config.get(*key)).flat_map(|list| match list {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    });
    let known = inner.get_added_tokens_decoder();
    for token in ROLES.iter().filter_map(|key| config.get(*key)).chain(more) {
        let Some(token) = added_token(token, true) else { continue };
        let same = |other: &AddedToken| other.content == token.content;
        if !tokens.iter().any(same) && !known.values().any(same) {
            tokens.push(token);
        }
    }
    inner.add_tokens(tokens).map(|_| ()).map_err(|e| invalid!("special tokens: {e}"))
}

fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    let flag = |key: &str, default| value.get(key).and_then(Value::as_bool).unwrap_or(default);
    let special = special || flag("special", false);
    let token = AddedToken::from(content(value)?, special)
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false))
        .single_word(flag("single_word", false))
        .normalized(flag("normalized", !special));
    (!token.content.is_empty()).then_some(token)
}

/// tokenizer_config.json decides whether a byte-level tokenizer puts a space before a text; absent
/// = no.
fn set_prefix_space(inner: &mut Inner, config: &Map<String, Value>) {
    let wanted = flag(config, "add_prefix_space", false);
    let rule = match inner.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::ByteLevel(rule)) if rule.add_prefix_space != wanted => *rule,
        _ => return,
    };
    inner.with_pre_tokenizer(Some(rule.add_prefix_space(wanted)));
}

/// The classes whose `add_bos_token` and `add_eos_token` outrank the file's post-processor. For all
/// others tokenizer.json decides.
fn set_template(inner: &mut Inner, config: &Map<String, Value>) -> Result<()> {
    let class = class(config).trim_end_matches("Fast");
    if !matches!(class, "LlamaTokenizer" | "GemmaTokenizer" | "CohereTokenizer") {
        return Ok(());
    }
    let token = |key: &str, wanted: bool| -> Option<(String, u64)> {
        let text = role(config, key).filter(|_| wanted)?;
        let id = inner.token_to_id(&text)?;
        Some((text, u64::from(id)))
    };
    let bos = token("bos_token", flag(config, "add_bos_token", true));
    let eos = token("eos_token", flag(config, "add_eos_token", false));
    let rule = template(
        bos.as_ref().map(|(t, id)| (t.as_str(), *id)),
        eos.as_ref().map(|(t, id)| (t.as_str(), *id)),
    );
    let rule: PostProcessorWrapper =
        serde_json::from_value(rule).map_err(|e| invalid!("bos_token or eos_token: {e}"))?;
    inner.with_post_processor(Some(rule));
    Ok(())
}
