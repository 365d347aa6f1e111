//! What is refused, and what published tokenizers have.

use super::*;
use serde_json::json;

fn judged(key: &str, rules: Value) -> Result<(), String> {
    judge(json!({ key: rules }).to_string().as_bytes())
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn regex(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
}

fn normalizers(list: Vec<Value>) -> Value {
    json!({"type": "Sequence", "normalizers": list})
}

/// A charsmap whose trie is empty, with one text of so many characters.
fn charsmap(characters: usize) -> Value {
    // Each group of four characters of base64 is three bytes: "aaa", but for the first four, which
    // are the trie's size, zero.
    let text = format!("AAAAAGFh{}YWEA", "YWFh".repeat((characters - 4) / 3));
    json!({"type": "Precompiled", "precompiled_charsmap": text})
}

#[test]
fn published_rules_pass() {
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let precompiled = || charsmap(19);
    for list in [
        vec![prepend, replace(" ", "▁")],
        vec![precompiled(), json!({"type": "Strip", "strip_left": true}), regex(" {2,}", "▁")],
        vec![replace("``", "\""), replace("''", "\""), json!({"type": "NFKD"}), precompiled()],
        vec![json!({"type": "NFC"}), regex("\\s+", " "), json!({"type": "Lowercase"})],
        vec![json!({"type": "BertNormalizer", "lowercase": true})],
        // Many of one character each, each its own; a long text for a long text.
        (0..40).map(|i| replace(&char::from(b'A' + i).to_string(), "<nl>")).collect(),
        vec![replace(&"x".repeat(40), &"y".repeat(400)), replace("\n", "<newline>")],
        vec![replace("\t", &" ".repeat(8)), replace(" ", "▁")],
    ] {
        let shown = json!(list).to_string();
        assert_eq!(judged("normalizer", normalizers(list)), Ok(()), "{shown}");
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false});
    let split = json!({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated"});
    let rules = json!({"type": "Sequence", "pretokenizers": [split, byte_level]});
    assert_eq!(judged("pre_tokenizer", rules), Ok(()));
    assert_eq!(judged("decoder", json!({"type": "BPEDecoder", "suffix": "</w>"})), Ok(()));
    assert_eq!(judge(b"{}"), Ok(()));
    assert_eq!(judge(b"{\"normalizer\": null, \"decoder\": null, \"model\": [1]}"), Ok(()));
}

#[test]
fn what_multiplies_is_refused_by_key_factor_and_limit() {
    let doubled = |times| vec![replace("a", "aa"); times];
    assert_eq!(judged("normalizer", normalizers(doubled(6))), Ok(()));
    assert_eq!(
        judged("normalizer", normalizers(doubled(7))).unwrap_err(),
        "'normalizer' can make 128 characters or more of one, at most 64 are allowed"
    );
    let decoder = json!({"decoders": doubled(25)});
    assert!(judged("decoder", decoder).unwrap_err().starts_with("'decoder' can make 33554432 "));

    let levels = vec![json!({"type": "ByteLevel"}); 26];
    let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": levels});
    assert!(judged("pre_tokenizer", pre_tokenizer).is_err());
    let long = |pattern: Value| judged("normalizer", pattern).is_err();
    assert!(!long(replace("a", &"b".repeat(64))) && long(replace("a", &"b".repeat(65))));
    assert!(!long(regex("a+", &"b".repeat(64))) && long(regex("a+", &"b".repeat(65))));
    assert!(long(charsmap(100)), "one text of a charsmap");
    assert!(long(normalizers(vec![regex("(?=a)|", "b"); 7])), "between any two characters");
    assert!(long(normalizers(vec![replace("", "b"); 7])));
    // By turns, across what each has written, and nested.
    let turns = |one: Value, two: Value| (0..4).flat_map(|_| [one.clone(), two.clone()]).collect();
    let nested = normalizers(turns(replace("a", "bb"), replace("b", "aa")));
    assert!(long(normalizers(vec![nested])));
    assert!(long(normalizers(turns(replace("a", "bcb"), replace("bb", &"a".repeat(30))))));
    assert!(judged("decoder", json!({"decoders": vec![json!({"suffix": ""}); 7]})).is_err());

    let prepend = |count: usize| json!({"prepend": "a".repeat(count)});
    assert!(!long(prepend(256)));
    assert_eq!(
        judged("normalizer", prepend(257)).unwrap_err(),
        "'normalizer' puts up to 257 characters or more before a text, at most 256 are allowed"
    );
    assert!(long(normalizers(vec![prepend(100), replace("a", "bbb")])));
    assert!(long(normalizers(vec![replace("a", "b"); 1025])), "the number of rules");
}

/// A key that comes twice is refused: the crate would take one, and this another.
#[test]
fn no_key_comes_twice() {
    assert!(judge(br#"{"normalizer": null, "normalizer": null}"#).is_err());
}
