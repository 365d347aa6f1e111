//! Loading, encoding, decoding against what transformers answers for the same files.

use super::*;
use crate::error::Error;
use crate::text::testing::*;
use serde_json::{json, Value};

/// Counts and texts that the Python backend recorded: opt-tiny's template adds `<s>`, gpt2-tiny has
/// none.
#[test]
fn recorded_prompts() {
    let opt = golden("opt-tiny");
    assert_eq!(opt.encode("The most dangerous animal is").unwrap().len(), 11);
    assert_eq!(opt.encode("").unwrap(), ids(&[0]));
    assert_eq!(opt.eos(), Some(TokenId(2)));
    assert_eq!(opt.vocab_size(), 4096);
    assert_eq!(
        opt.decode(&ids(&[851, 3255, 3205, 1186, 3988]), true).unwrap(),
        " @undoepcopyonthlocked"
    );
    assert_eq!(golden("gpt2-tiny").encode("").unwrap(), []);
    // A special token in a text is one, behind the one that the template puts there.
    assert_eq!(opt.encode("<s>hi</s>").unwrap()[..2], ids(&[0, 0]));
}

/// Each word at the start of a text and behind a blank, by the Python backend's rule.
#[test]
fn bad_words_are_tokens_with_and_without_a_blank() {
    let opt = golden("opt-tiny");
    let words = |list: &[&str]| {
        opt.bad_words(&list.iter().map(|w| w.to_string()).collect::<Vec<_>>()).unwrap()
    };
    let plain = |text: &str| opt.encode(text).unwrap()[1..].to_vec().into_boxed_slice();
    let both = words(&["the"]);
    assert_eq!(both.len(), 2, "one token each, and not the same");
    assert!(both.contains(&plain("the")) && both.contains(&plain(" the")));
    assert_eq!(words(&["  the"]), both, "blanks in front do not count");
    let long = words(&["dangerous animals"]);
    assert!(long.contains(&plain("dangerous animals")));
    let other = ["http", "Paris", "print", "zebra", "ing", "model", "x", "animal", "most"]
        .into_iter()
        .find(|word| plain(word).len() != plain(&format!(" {word}")).len())
        .expect("a word that has another number of tokens behind a blank");
    assert_eq!(words(&[other]), [plain(other)]);
    assert_eq!(words(&["", "the"])[words(&[""]).len()..], both);
    assert!(words(&[]).is_empty());
}

/// The bytes of the table put together are the crate's own decoding.
#[test]
fn table_decodes_like_the_crate() {
    let tokenizer = golden("llama-tiny");
    let table = tokenizer.bytes().unwrap();
    let mut rng = Random(1);
    for round in 0..500 {
        let some: Vec<TokenId> = (0..20).map(|_| TokenId(rng.below(4200) as u32)).collect();
        let skip = round % 2 == 0;
        let bytes: Vec<u8> = some.iter().flat_map(|id| table.get(*id, skip).to_vec()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), tokenizer.decode(&some, skip).unwrap());
    }
}

fn tokenizer_json(more: Value) -> String {
    let level = json!({
        "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true
    });
    let mut whole = json!({
        "version": "1.0", "added_tokens": [], "decoder": level, "pre_tokenizer": level,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "<x>": 3}, "merges": []},
    });
    for (key, value) in more.as_object().unwrap() {
        whole[key] = value.clone();
    }
    whole.to_string()
}

#[test]
fn truncation_and_padding_are_switched_off() {
    let cut = json!({
        "truncation": {
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
        },
        "padding": {
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "a"
        },
    });
    let folder = Folder::with(&[("tokenizer.json", tokenizer_json(cut))]);
    assert_eq!(folder.load().unwrap().encode("abab").unwrap(), ids(&[0, 1, 0, 1]));
}

/// tokenizer_config.json: added tokens get ids at the end, known ones become special, eos by name,
/// and a prefix space only if it asks for one.
#[test]
fn side_files_count() {
    let config = json!({
        "added_tokens_decoder": {
            "5": {"content": "<b>", "special": false}, "4": {"content": "<a>", "special": true}
        },
        "bos_token": {"content": "<x>"}, "eos_token": "<a>",
    });
    let map = json!({"eos_token": "b", "pad_token": "<pad>"});
    let files = [
        ("tokenizer.json", tokenizer_json(json!({}))),
        ("tokenizer_config.json", config.to_string()),
        ("special_tokens_map.json", map.to_string()),
    ];
    let tokenizer = Folder::with(&files).load().unwrap();
    assert_eq!(tokenizer.encode("a<b><a><x><pad>b").unwrap(), ids(&[0, 5, 4, 3, 6, 1]));
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(TokenId(3)), Some(TokenId(4))));
    assert_eq!(tokenizer.decode(&ids(&[0, 5, 4, 3, 6]), true).unwrap(), "a<b>");
    assert_eq!(tokenizer.vocab_size(), 7);

    let files = [
        ("tokenizer.json", tokenizer_json(json!({}))),
        ("tokenizer_config.json", json!({"add_prefix_space": true}).to_string()),
    ];
    assert_eq!(Folder::with(&files).load().unwrap().encode("a").unwrap(), ids(&[2, 0]));
}

/// The original gpt2 names its special tokens nowhere: the model's type does.
#[test]
fn the_class_has_defaults() {
    let model = json!({
        "model": {"type": "BPE", "vocab": {"a": 0, "<|endoftext|>": 1, "</s>": 2}, "merges": []}
    });
    let load = |name: &str, side: Value| {
        let files = [("tokenizer.json", tokenizer_json(model.clone())), (name, side.to_string())];
        Folder::with(&files).load().unwrap()
    };
    let gpt2 = load("config.json", json!({"model_type": "gpt2"}));
    assert_eq!((gpt2.eos(), gpt2.vocab_size()), (Some(TokenId(1)), 3));
    assert_eq!(gpt2.decode(&ids(&[0, 1]), true).unwrap(), "a");
    let named = load("tokenizer_config.json", json!({"tokenizer_class": "GPT2TokenizerFast"}));
    assert_eq!(named.eos(), Some(TokenId(1)));
    let other = load("config.json", json!({"model_type": "gpt2", "tokenizer_class": "Other"}));
    assert_eq!(other.eos(), None);
    let own = json!({"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"});
    assert_eq!(load("tokenizer_config.json", own).eos(), Some(TokenId(2)));
}

/// For Llama's class the config outranks the file's post-processor.
#[test]
fn llama_adds_bos() {
    let tokenizer = llama_like(&["▁", "h", "i"]);
    assert_eq!(tokenizer.encode("hi").unwrap(), ids(&[1, 259, 260, 261]));
    assert_eq!(tokenizer.eos(), Some(TokenId(2)));
    assert_eq!(tokenizer.encode("é").unwrap(), ids(&[1, 259, 3 + 0xc3, 3 + 0xa9]));
}

#[test]
fn broken_folders_say_which_file() {
    let text = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(n, t)| (*n, t.to_string())).collect();
        let folder = Folder::with(&files);
        let error = folder.load().map(|_| ()).unwrap_err();
        let message = error.to_string().replace(&folder.0.display().to_string(), "DIR");
        assert!(!message.contains('\n'), "{message}");
        (error, message)
    };
    let (error, message) = text(&[]);
    assert_eq!(
        message,
        "no tokenizer in DIR: expected tokenizer.json, vocab.json and merges.txt, or \
         tokenizer.model; the folder holds nothing. Copy it from the model's repository, or name \
         another folder as 'tokenizer'."
    );
    let tekken = text(&[("tekken.json", "{}"), ("params.json", "{}")]).1;
    assert_eq!(tekken, "DIR/tekken.json: 'config' is missing; it must be an object.");
    assert!(matches!(error, Error::NotFound(_)));
    assert!(text(&[("tokenizer.model", "x")])
        .1
        .contains("tokenizer.model is not a tokenizer file"));

    assert!(text(&[("vocab.json", "{}")]).1.starts_with("no tokenizer in DIR"));
    for (name, content, words) in [
        ("tokenizer.json", "", " is empty"),
        ("tokenizer.json", "{\"version\":\"1.0\"}", " is not a tokenizer file: "),
        ("tokenizer.json", "\u{0}\u{1}", " is not a tokenizer file: "),
        ("tokenizer_config.json", "[]", ": must hold one JSON object, got []"),
        ("special_tokens_map.json", "{", ": is not valid JSON: "),
    ] {
        let (error, message) = text(&[(name, content)]);
        assert!(message.starts_with(&format!("DIR/{name}{words}")), "{message}");
        assert!(matches!(error, Error::InvalidArgument(_)));
    }
    let (_, message) = text(&[("vocab.json", "{\"a\":0}"), ("merges.txt", "#version: 0.2\na b\n")]);
    assert!(message.starts_with("DIR/merges.txt is not a tokenizer file: "), "{message}");
    let (_, message) = text(&[("vocab.json", "{\"a\":0,\"b\":1}"), ("merges.txt", "a b")]);
    assert!(message.ends_with("vocabulary and merges contradict each other"), "{message}");
    let (_, message) = text(&[("vocab.json", "{\"a\":4000000000}"), ("merges.txt", "")]);
    assert!(message.ends_with("has a token with id 4000000000, more than 4194303"), "{message}");
    let opt = r#"{"add_bos_token":true,"bos_token":"</s>"}"#;
    let files = [("vocab.json", "{\"a\":0}"), ("merges.txt", ""), ("tokenizer_config.json", opt)];
    assert!(text(&files).1.contains("add_bos_token is set, but it has no </s>"));
}

/// The tokenizers crate panics on each of these, some at load, some with the first text.
#[test]
fn rules_that_panic_are_refused_by_file_and_cause() {
    let fixed = json!({"type": "FixedLength", "length": 0});
    let empty = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x"});
    let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    let second = json!({"type": "TemplateProcessing", "special_tokens": {},
        "single": [{"Sequence": {"id": "B", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}}]});
    for (key, rule, words) in [
        ("pre_tokenizer", fixed, "its rules fail on the text"),
        ("normalizer", empty, "its rules fail on the text"),
        ("normalizer", charsmap, "a normalizer cannot be read: Precompiled"),
        ("post_processor", second, "its rules fail on the text"),
    ] {
        let folder = Folder::with(&[("tokenizer.json", tokenizer_json(json!({key: rule})))]);
        let said = folder.load().map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("tokenizer.json is not a tokenizer file: "), "{key}: {said}");
        assert!(said.contains(words), "{key}: {said}");
    }
}

/// Refused before the crate reads it: a token that it normalises would fill the memory.
#[test]
fn rules_that_multiply_text_are_refused_at_load() {
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let rules = json!({"normalizer": {"type": "Sequence", "normalizers": vec![double; 26]}});
    let folder = Folder::with(&[("tokenizer.json", tokenizer_json(rules))]);
    let said = folder.load().map(|_| ()).unwrap_err().to_string();
    let words = "tokenizer.json is not a tokenizer file: 'normalizer' can make 67108864 ";
    assert!(said.contains(words), "{said}");
}

/// Attack 13: every key that is read has its type.
#[test]
fn attack_13_values_of_other_types_are_refused() {
    let vocab = ("vocab.json", r#"{"a":0,"b":1}"#.to_string());
    let refused = |file: &'static str, key: &str, value: Value| {
        let side = (file, serde_json::json!({ key: value }).to_string());
        let merges = ("merges.txt", String::new());
        match Folder::with(&[vocab.clone(), merges, side]).load() {
            Ok(_) => None,
            Err(e) => Some(e.to_string()),
        }
    };
    let config = "tokenizer_config.json";

    for (key, values) in [
        ("add_bos_token", r#"["true", 1, []]"#),
        ("add_prefix_space", r#"["false", 0, {}]"#),
        ("legacy", r#"["x"]"#),
        ("tokenizer_class", r#"[1, ["x"], true]"#),
        ("bos_token", r#"[1, true, ["<s>"], {}, {"content": 1}]"#),
        ("eos_token", r#"[{"content": "a", "special": "yes"}]"#),
        ("additional_special_tokens", r#"["x", [1], 3, [{"content": null}]]"#),
        ("added_tokens_decoder", r#"["x", [], {"a": {"content": "x"}}, {"1": 3}, {"-1": "x"}]"#),
    ] {
        for value in serde_json::from_str::<Vec<Value>>(values).unwrap() {
            for file in [config, "special_tokens_map.json"] {
                let said = refused(file, key, value.clone());
                let said = said.unwrap_or_else(|| panic!("{file}: {key}: {value} loads"));
                assert!(said.contains(&format!("{file}: '{key}")), "{key}: {value}: {said}");
            }
        }
        assert_eq!(refused(config, key, Value::Null), None, "{key}: null is absent");
    }
    let both =
        [vocab, ("merges.txt", String::new()), ("config.json", r#"{"model_type": 3}"#.into())];
    let said = Folder::with(&both).load().map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("config.json: 'model_type' must be a string, got 3"), "{said}");
}

/// A byte order mark, and NaN, which Python writes.
#[test]
fn case_14_json_of_tokenizers_as_python_writes_it() {
    let folder = Folder::with(&[
        ("vocab.json", "\u{FEFF}{\"a\":0,\"b\":1,\"<s>\":2}".to_string()),
        ("merges.txt", String::new()),
        ("tokenizer_config.json", "\u{FEFF}{\"x\": NaN, \"bos_token\": \"<s>\"}".to_string()),
    ]);
    assert_eq!(folder.load().unwrap().bos(), Some(TokenId(2)));
}

/// Every answer that the Python backend recorded with a token count or with token ids.
#[test]
fn recorded_answers() {
    let mut tokenizers = std::collections::HashMap::new();
    let (mut counted, mut decoded) = (0, 0);

    for file in ["goldens.json", "goldens_models.json"] {
        let text = std::fs::read_to_string(path("goldens").join(file)).unwrap();
        let goldens: Value = serde_json::from_str(&text).unwrap();
        for case in goldens["cases"].as_array().unwrap() {
            let (Some(prompt), Some(model)) =
                (case["inputs"]["text_input"].as_str(), case["model"].as_str())
            else {
                continue;
            };
            let tokenizer = tokenizers.entry(model.to_string()).or_insert_with(|| golden(model));
            let answer = &case["response"]["json"];
            if let Some(count) = answer["num_input_tokens"].as_u64() {
                counted += 1;
                assert_eq!(tokenizer.encode(prompt).unwrap().len() as u64, count, "{prompt:?}");
            }
            let logprobs = answer["logprobs"].as_str().unwrap_or("null");
            let positions: Value = serde_json::from_str(logprobs).unwrap();
            let id = |position: &Value| {
                position.as_object().unwrap().keys().next().unwrap().parse().map(TokenId).unwrap()
            };
            let ids: Vec<TokenId> = positions.as_array().into_iter().flatten().map(id).collect();
            if ids.is_empty() {
                continue;
            }
            decoded += 1;
            let mut out = String::new();
            let prompt = tokenizer.encode(prompt).unwrap();
            let mut detokenizer = crate::text::Detokenizer::new(tokenizer, &prompt, true, true);
            ids.iter().for_each(|id| detokenizer.push(*id, &mut out));
            let text = answer["text_output"].as_str().unwrap();
            assert!(text.ends_with(&out), "{}: {out:?} in {text:?}", case["id"]);
        }
    }
    assert!(counted > 10 && decoded > 5, "{counted} counts, {decoded} texts");
}
