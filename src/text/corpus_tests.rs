//! Texts of many scripts, emoji, code and control characters through every kind of tokenizer files
//! under `tests/fixtures/tokenizers`: ids and texts as transformers answers, whole and token by
//! token.

use std::sync::Arc;

use serde_json::Value;

use super::testing::*;
use super::{Detokenizer, Tokenizer};
use crate::ids::TokenId;

const REPLACEMENT: char = '\u{fffd}';

struct Case {
    text: String,
    ids: Vec<TokenId>,
    decoded: String,
    without_specials: String,
}

/// Name, tokenizer and cases of each folder; the special tokens are checked on the way.
fn folders() -> Vec<(String, Arc<Tokenizer>, Vec<Case>)> {
    let mut folders: Vec<_> = std::fs::read_dir(path("fixtures/tokenizers")).unwrap().collect();
    folders.sort_by_key(|entry| entry.as_ref().unwrap().path());
    let read = |dir: std::path::PathBuf| {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let tokenizer = Arc::new(Tokenizer::load(&dir).unwrap());
        let expected = std::fs::read(dir.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let role = |key: &str| expected[key].as_u64().map(|id| TokenId(id as u32));
        assert_eq!(tokenizer.bos(), role("bos"), "{name}");
        assert_eq!(tokenizer.eos(), role("eos"), "{name}");
        let text = |case: &Value, key: &str| case[key].as_str().unwrap().to_string();
        let cases = expected["cases"].as_array().unwrap().iter().map(|case| Case {
            text: text(case, "text"),
            ids: ids(&serde_json::from_value::<Vec<u32>>(case["ids"].clone()).unwrap()),
            decoded: text(case, "decoded"),
            without_specials: text(case, "decoded_skip_special"),
        });
        let cases: Vec<Case> = cases.collect();
        assert!(cases.len() > 55, "{name}: {} texts", cases.len());
        (name, tokenizer, cases)
    };

    let found: Vec<_> = folders.into_iter().map(|entry| read(entry.unwrap().path())).collect();
    assert!(found.len() >= 14, "{} folders", found.len());
    found
}

#[test]
fn whole_texts() {
    for (name, tokenizer, cases) in folders() {
        for case in cases {
            assert_eq!(tokenizer.encode(&case.text).unwrap(), case.ids, "{name}: {:?}", case.text);
            assert_eq!(tokenizer.decode(&case.ids, false).unwrap(), case.decoded, "{name}");
            assert_eq!(tokenizer.decode(&case.ids, true).unwrap(), case.without_specials, "{name}");
        }
    }
}

/// As a stream would carry it: from the start, and behind each prompt whose text stands by itself.
#[test]
fn token_by_token() {
    for (name, tokenizer, cases) in folders() {
        let mut behind = 0;
        for case in cases {
            for (skip, whole) in [(false, &case.decoded), (true, &case.without_specials)] {
                for cut in 0..case.ids.len() {
                    let (prompt, output) = case.ids.split_at(cut);
                    let before = tokenizer.decode(prompt, skip).unwrap();
                    let Some(want) = whole.strip_prefix(&before) else { continue };
                    if before.ends_with(REPLACEMENT) || whole.ends_with(REPLACEMENT) {
                        continue;
                    }
                    let mut out = String::new();
                    let mut detokenizer = Detokenizer::new(&tokenizer, prompt, skip, true);
                    output.iter().for_each(|id| detokenizer.push(*id, &mut out));
                    assert_eq!(out, want, "{name}: {:?} behind {before:?}", case.text);
                    behind += usize::from(cut > 0);
                }
            }
        }
        assert!(behind > 500, "{name}: {behind}");
    }
}
