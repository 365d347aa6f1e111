//! Mistral's own `tekken.json` -> what tokenizer.json would hold: byte-level BPE that merges by
//! rank, with special tokens in front of the others. Called by `load`. It knows no other file.
//!
//! A token's id is its rank plus the number of special tokens. Which two tokens make a longer one
//! is not in the file: of the pairs that can, all are merges, and the rank of what they make is
//! their order, as in tiktoken.

use std::collections::HashMap;

use serde_json::{json, Map, Value};

use super::byte_alphabet::byte_chars;
use crate::error::Result;
use crate::invalid;
use crate::json::{self, Object};

/// Tokens at most; real vocabularies stay below a quarter of it.
const MAX_TOKENS: usize = 1 << 20;
/// Each is cut at each byte: real ones stay below 100.
const MAX_TOKEN_BYTES: usize = 512;
/// Those of files that list none, in order; behind them stand fillers.
const SPECIAL: [&str; 20] = [
    "<unk>",
    BOS,
    EOS,
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];
const BOS: &str = "<s>";
const EOS: &str = "</s>";

/// What tokenizer.json and tokenizer_config.json would hold. `shown` is the file's path.
///
/// # Errors
/// InvalidArgument, one line with the path: a key is missing or has another type, tokens are out of
/// order, two have the same text.
pub(super) fn read(shown: &str, whole: &Map<String, Value>) -> Result<(Value, Map<String, Value>)> {
    let file = Object::new(shown, whole);
    let config = file.needed("config", "an object", file.object("config")?)?;
    let needed = |key: &str| config.needed(key, "an integer", config.count(key, MAX_TOKENS)?);
    let vocab_size = needed("default_vocab_size")?;
    let special_count = needed("default_num_special_tokens")?;
    let pattern = config.needed("pattern", "a regular expression", config.text("pattern")?)?;
    if special_count >= vocab_size {
        return Err(config.wrong("default_num_special_tokens", "less than default_vocab_size"));
    }

    let special = special(&file, special_count)?;
    let ordinary = ordinary(&file, vocab_size - special_count)?;
    let chars = byte_chars();
    let spell = |token: &Vec<u8>| token.iter().map(|&byte| chars[usize::from(byte)]).collect();
    let spelled: Vec<String> = ordinary.iter().map(spell).collect();
    let mut vocabulary = Map::new();
    for (id, token) in special.iter().chain(&spelled).enumerate() {
        if let Some(other) = vocabulary.insert(token.clone(), json!(id)) {
            let token = json::cut(token);
            return Err(invalid!("{shown}: tokens {other} and {id} are both '{token}'."));
        }
    }

    let added = special.iter().enumerate().map(|(id, token)| {
        json!({
            "id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false
        })
    });
    let bytes_only = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    });
    let split = json!({
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false
    });
    let whole = json!({
        "version": "1.0", "added_tokens": added.collect::<Vec<_>>(), "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_only]},
        "post_processor": bos_first(&file, &special)?, "decoder": bytes_only,
        "model": {
            "type": "BPE", "vocab": vocabulary, "merges": merges(&ordinary, &spelled),
            "ignore_merges": true
        },
    });
    let roles = [("bos_token", BOS), ("eos_token", EOS)];
    let config = roles.map(|(role, token)| (role.to_string(), json!(token)));
    Ok((whole, config.into_iter().collect()))
}

/// The special tokens in order of their ids.
fn special(file: &Object, count: usize) -> Result<Vec<String>> {
    const KEY: &str = "special_tokens";
    let mut all: Vec<String> = match file.list(KEY)? {
        None => SPECIAL.iter().map(|token| token.to_string()).collect(),
        Some(list) => {
            let text = |(rank, token): (usize, &Value)| {
                let in_order = token.get("rank").and_then(Value::as_u64) == Some(rank as u64);
                let text = token.get("token_str").and_then(Value::as_str);
                text.filter(|text| in_order && !text.is_empty()).map(str::to_string).ok_or_else(
                    || invalid!("{}: entry {rank} is no token of rank {rank}.", file.name(KEY)),
                )
            };
            list.iter().enumerate().map(text).collect::<Result<_>>()?
        }
    };
    if all.len() > count {
        let listed = all.len();
        return Err(invalid!("{} has {listed} entries, at most {count}.", file.name(KEY)));
    }
    all.extend((all.len()..count).map(|id| format!("<SPECIAL_{id}>")));
    Ok(all)
}

/// The bytes of the first `count` tokens, by rank.
fn ordinary(file: &Object, count: usize) -> Result<Vec<Vec<u8>>> {
    const KEY: &str = "vocab";
    let list = file.needed(KEY, "a list of tokens", file.list(KEY)?)?;
    if list.len() < count {
        return Err(invalid!("{} has {} of {count} tokens.", file.name(KEY), list.len()));
    }
    let bytes = |(rank, token): (usize, &Value)| {
        let in_order = token.get("rank").and_then(Value::as_u64) == Some(rank as u64);
        let bytes = token.get("token_bytes").and_then(Value::as_str).and_then(from_base64);
        let fits = |bytes: &Vec<u8>| in_order && (1..=MAX_TOKEN_BYTES).contains(&bytes.len());
        let wrong = || invalid!("{}: entry {rank} is no token of rank {rank}.", file.name(KEY));
        bytes.filter(fits).ok_or_else(wrong)
    };
    let all: Vec<Vec<u8>> =
        list.iter().take(count).enumerate().map(bytes).collect::<Result<_>>()?;

    // Every text can be said by single bytes.
    let mut seen = [false; 256];
    all.iter().take(256).filter(|token| token.len() == 1).for_each(|b| seen[b[0] as usize] = true);
    if seen.contains(&false) {
        return Err(invalid!("{}: the first 256 tokens are not the bytes.", file.name(KEY)));
    }
    Ok(all)
}

/// Pairs of tokens that make a longer one, in its order; as they are spelled.
fn merges(tokens: &[Vec<u8>], spelled: &[String]) -> Vec<Value> {
    let ranks: HashMap<&[u8], usize> =
        tokens.iter().enumerate().map(|(rank, token)| (&token[..], rank)).collect();
    let mut merges = Vec::new();
    for token in tokens {
        let cuts = (1..token.len()).map(|at| token.split_at(at));
        let mut pairs: Vec<_> = cuts
            .filter_map(|(left, right)| Some((*ranks.get(left)?, *ranks.get(right)?)))
            .collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(l, r)| json!([spelled[l], spelled[r]])));
    }
    merges
}

/// What puts bos in front of a text.
fn bos_first(file: &Object, special: &[String]) -> Result<Value> {
    let id = special.iter().position(|token| token == BOS);
    let id = id.ok_or_else(|| invalid!("{} has no '{BOS}'.", file.name("special_tokens")))?;
    let text = |of: &str, kind: u8| json!({"Sequence": {"id": of, "type_id": kind}});
    let bos = json!({"SpecialToken": {"id": BOS, "type_id": 0}});
    Ok(json!({
        "type": "TemplateProcessing", "single": [bos, text("A", 0)],
        "pair": [bos, text("A", 0), text("B", 1)],
        "special_tokens": {BOS: {"id": BOS, "ids": [id], "tokens": [BOS]}}
    }))
}

/// None: it is no base64, or is cut short.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let sextet = |c: u8| -> Option<u32> {
        Some(match c {
            b'A'..=b'Z' => u32::from(c - b'A'),
            b'a'..=b'z' => u32::from(c - b'a') + 26,
            b'0'..=b'9' => u32::from(c - b'0') + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };

    let digits = text.trim_end_matches('=').as_bytes();
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }

    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for four in digits.chunks(4) {
        let mut word = 0;
        for &digit in four {
            word = word << 6 | sextet(digit)?;
        }
        word <<= 6 * (4 - four.len());
        bytes.extend(&word.to_be_bytes()[1..four.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("YQ==", Some(b"a")),
            ("YWI=", Some(b"ab")),
            ("YWJj", Some(b"abc")),
            ("/+8=", Some(b"\xff\xef")),
            ("YQ", None),
            ("Y===", None),
            ("Y*==", None),
        ] {
            assert_eq!(from_base64(text).as_deref(), bytes, "{text}");
        }
    }

    /// A file of single bytes and these tokens behind them.
    fn file(more: &[&str]) -> Value {
        let entry = |(rank, bytes): (usize, Vec<u8>)| {
            const DIGITS: &[u8] =
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            let mut text = String::new();
            for three in bytes.chunks(3) {
                let word = three.iter().fold(0u32, |word, b| word << 8 | u32::from(*b));
                let word = word << (8 * (3 - three.len()));
                let digit = |i: usize| DIGITS[(word >> (18 - 6 * i)) as usize & 63] as char;
                text.extend((0..4).map(|i| if i <= three.len() { digit(i) } else { '=' }));
            }
            json!({"rank": rank, "token_bytes": text, "token_str": null})
        };
        let bytes = (0..=255u8).map(|byte| vec![byte]);
        let all = bytes.chain(more.iter().map(|token| token.as_bytes().to_vec()));
        json!({
            "config": {"pattern": ".+", "default_vocab_size": 276 + more.len(),
                "default_num_special_tokens": 20},
            "vocab": all.enumerate().map(entry).collect::<Vec<_>>(),
        })
    }

    fn said(file: &Value) -> String {
        let read = read("tekken.json", file.as_object().unwrap());
        read.map(|_| String::new()).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn merges_are_all_pairs_by_rank() {
        let file = file(&["ab", "bc", "abc"]);
        let (whole, _) = read("tekken.json", file.as_object().unwrap()).unwrap();
        let want = json!([["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]);
        assert_eq!(whole["model"]["merges"], want);
        assert_eq!(whole["model"]["vocab"]["abc"], 20 + 258);
    }

    #[test]
    fn broken_files_say_where() {
        let good = file(&["ab"]);
        assert_eq!(said(&good), "");
        let with = |path: &str, value: Value| {
            let mut file = good.clone();
            *file.pointer_mut(path).unwrap() = value;
            said(&file)
        };

        for (path, value, words) in [
            ("/config", json!(null), "tekken.json: 'config' must be an object, got null"),
            ("/config/pattern", json!(1), "'config.pattern' must be a string"),
            ("/config/default_vocab_size", json!(5), "less than default_vocab_size"),
            ("/config/default_vocab_size", json!(500), "'vocab' has 257 of 480 tokens"),
            ("/config/default_num_special_tokens", json!(2), "has 20 entries, at most 2"),
            ("/vocab/7/rank", json!(8), "entry 7 is no token of rank 7"),
            ("/vocab/7/token_bytes", json!("?"), "entry 7 is no token of rank 7"),
            ("/vocab/7/token_bytes", json!("AA=="), "are not the bytes"),
            ("/vocab/256/token_bytes", json!("AA=="), "tokens 20 and 276 are both"),
        ] {
            let said = with(path, value);
            assert!(said.contains(words) && !said.contains('\n'), "{path}: {said}");
        }
        let mut listed = good.clone();
        listed["special_tokens"] = json!([{"rank": 0, "token_str": "<unk>"}]);
        assert!(said(&listed).contains("has no '<s>'"), "{}", said(&listed));
        listed["special_tokens"][0]["rank"] = json!(1);
        assert!(said(&listed).contains("entry 0 is no token of rank 0"));
    }
}
