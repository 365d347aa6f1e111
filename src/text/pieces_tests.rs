//! Texts of every kind through every tokenizer: pieces have the tokens of the whole, cut at every
//! place where a text may be cut. And who tokenises what.

use std::sync::atomic::AtomicBool;

use serde_json::{json, Value};

use super::*;
use crate::text::testing::*;
use crate::text::Tokenizer;

/// Those of the fixtures whose texts may be cut.
const CUT: [&str; 11] = [
    "gpt2-like",
    "gpt2-tiny",
    "json-llama3",
    "json-neox",
    "json-qwen2",
    "llama-tiny",
    "opt-like",
    "opt-tiny",
    "qwen2-tiny",
    "tekken",
    "tekken-listed",
];

fn fixtures() -> Vec<(String, Tokenizer)> {
    let mut all = Vec::new();
    for place in ["fixtures/tokenizers", "goldens/models"] {
        for entry in std::fs::read_dir(path(place)).unwrap() {
            let folder = entry.unwrap().path();
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            if let Ok(tokenizer) = Tokenizer::load(&folder) {
                all.push((name, tokenizer));
            }
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

const WORDS: [&str; 18] = [
    "the",
    "story",
    "of",
    "a",
    "House",
    "dangerous",
    "return",
    "x",
    "I",
    "nobody",
    "lambda",
    "é",
    "naïve",
    "über",
    "zwölf",
    "ſ",
    "K",
    "ﬁn",
];
const REST: [&str; 40] = [
    " ",
    " ",
    " ",
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "      ",
    "\n",
    "\n\n",
    " \n",
    "\n    ",
    "\r\n",
    "\t",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "'s",
    "'ll",
    "'S",
    "n't",
    "' ",
    "1",
    "42",
    " 2026",
    "3.14",
    "日本語",
    "的",
    "한국",
    "e\u{301}",
    "\u{301}",
    " \u{308}",
    "🙂",
    "👩\u{200d}🚀",
    "{}();",
    " //",
    "<|",
    "_",
    "\u{0}",
];

/// What texts are put together of; `added` are tokens of the tokenizer.
fn text(rng: &mut Random, added: &[String], parts: usize) -> String {
    let mut text = String::new();
    for _ in 0..parts {
        match rng.below(20) {
            0 if !added.is_empty() => text += &added[rng.below(added.len())],
            0..=10 => text += WORDS[rng.below(WORDS.len())],
            11..=15 => text += " ",
            _ => text += REST[rng.below(REST.len())],
        }
    }
    text
}

/// Pieces of `text` as they are cut at so many places, beside the whole; returns the places.
fn compare(name: &str, inner: &Inner, text: &str, pieces: usize) -> usize {
    let starts = piece_starts(text, pieces);
    let mut ids = Vec::new();
    for (n, &start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(text.len());
        ids.extend(ids_of(inner, &text[start..end]).unwrap());
    }
    assert_eq!(ids, ids_of(inner, text).unwrap(), "{name}: {text:?} at {starts:?}");
    starts.len() - 1
}

#[test]
fn pieces_have_the_tokens_of_the_whole() {
    let mut rng = Random(11);
    let mut cut = Vec::new();
    for (name, tokenizer) in fixtures() {
        let inner = tokenizer.inner_for_test();
        if !can_cut(inner) {
            continue;
        }
        let added = inner.get_added_tokens_decoder();
        let added: Vec<String> = added.into_values().map(|token| token.content).collect();
        let mut places = 0;
        for round in 0..300 {
            let text = text(&mut rng, &added, 4 + round / 3);
            let raw = inner.encode_fast(text.as_str(), false).unwrap();
            assert_eq!(ids_of(inner, &text).unwrap(), raw.get_ids(), "{name}: {text:?}");
            places += compare(&name, inner, &text, text.len());
            places += compare(&name, inner, &text, 2 + rng.below(5));
        }
        assert!(places > 1000, "{name}: {places}");
        cut.push(name);
    }
    assert_eq!(cut, CUT);
}

/// A tokenizer with one part changed; a word of many letters and one of a blank and letters differ.
fn changed(change: impl Fn(&mut Value)) -> Tokenizer {
    let level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    let mut whole = json!({
        "version": "1.0", "added_tokens": [], "decoder": level, "pre_tokenizer": level,
        "normalizer": null,
        "model": {
            "type": "BPE", "merges": ["a Ġ", "aĠ b", "Ġ b", "a a"],
            "vocab": {"a": 0, "b": 1, "Ġ": 2, "aĠ": 3, "aĠb": 4, "Ġb": 5, "aa": 6, "▁": 7}
        },
    });
    change(&mut whole);
    Folder::with(&[("tokenizer.json", whole.to_string())]).load().unwrap()
}

/// What must forbid cuts, one part at a time; beside each its nearest neighbour that need not.
#[test]
fn parts_that_forbid_cuts() {
    let allowed = |change: &dyn Fn(&mut Value)| can_cut(changed(change).inner_for_test());
    assert!(allowed(&|_| ()));

    let set = |path: &'static str, value: Value| {
        move |whole: &mut Value| *whole.pointer_mut(path).unwrap() = value.clone()
    };
    let split = |pattern: Value, behavior: &str| {
        let invert = false;
        json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert})
    };
    let list = |all: &[Value]| json!({"type": "Sequence", "pretokenizers": all});
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    });
    let blank = split(json!({"String": " "}), "Isolated");
    let digits = json!({"type": "Digits", "individual_digits": false});
    let splits = |rule: Value| allowed(&set("/pre_tokenizer", rule));
    assert!(splits(list(&[blank.clone(), bytes.clone()])));
    assert!(splits(list(&[digits.clone(), blank.clone(), digits.clone(), bytes.clone()])));
    assert!(splits(split(json!({"String": " "}), "Removed")));
    for rule in [
        Value::Null,
        bytes.clone(),
        digits.clone(),
        list(&[digits, bytes.clone()]),
        list(&[bytes, blank]),
        split(json!({"String": " "}), "MergedWithPrevious"),
        split(json!({"String": " "}), "MergedWithNext"),
        split(json!({"String": " "}), "Contiguous"),
        split(json!({"Regex": "[a-z ]+"}), "Isolated"),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false}),
        json!({"type": "Whitespace"}),
        json!({"type": "BertPreTokenizer"}),
        json!({"type": "FixedLength", "length": 5}),
    ] {
        assert!(!splits(rule.clone()), "{rule}");
    }

    let normalizes = |rule: Value| allowed(&set("/normalizer", rule));
    let nfc = json!({"type": "NFC"});
    assert!(normalizes(nfc.clone()));
    assert!(normalizes(json!({"type": "Sequence", "normalizers": [nfc]})));
    for rule in [
        json!({"type": "NFKC"}),
        json!({"type": "Lowercase"}),
        json!({"type": "Prepend", "prepend": "▁"}),
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
        json!({"type": "Sequence", "normalizers": [nfc, {"type": "Lowercase"}]}),
    ] {
        assert!(!normalizes(rule.clone()), "{rule}");
    }

    let drops = |share: Value| allowed(&|whole| whole["model"]["dropout"] = share.clone());
    assert!(drops(json!(0.0)) && !drops(json!(0.5)));
    let model = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
    assert!(!allowed(&set("/model", model)));

    // Content, lstrip, rstrip, single_word, allowed.
    for (content, lstrip, rstrip, single_word, expected) in [
        ("<x>", true, true, true, true),
        ("  ", false, false, false, true),
        ("x", true, false, true, true),
        ("x", false, true, false, false),
        (" x", false, false, false, true),
        (" x", false, false, true, false),
        ("x y", false, false, false, false),
        ("x ", false, false, false, false),
    ] {
        let token = json!([{
            "id": 8, "content": content, "lstrip": lstrip, "rstrip": rstrip, "special": false,
            "single_word": single_word, "normalized": false
        }]);
        assert_eq!(allowed(&set("/added_tokens", token.clone())), expected, "{token}");
    }
}

/// With tokens that reach to a place from the left and from the right, and every flag.
#[test]
fn added_tokens_beside_cuts() {
    let mut rng = Random(5);
    let (mut allowed, mut places) = (0, 0);
    for round in 0..150 {
        const CONTENTS: [&str; 10] = ["b", "a", "<x>", "  ", " a", "ab", "\n", " ", "a b", "b "];
        let mut tokens = Vec::new();
        for id in 0..1 + rng.below(3) {
            let [lstrip, rstrip, single_word, normalized] = [2, 3, 3, 2].map(|n| rng.below(n) == 0);
            tokens.push(json!({
                "id": 8 + id, "content": CONTENTS[rng.below(CONTENTS.len())], "special": false,
                "lstrip": lstrip, "rstrip": rstrip, "single_word": single_word,
                "normalized": normalized
            }));
        }
        let tokenizer = changed(|whole| {
            whole["added_tokens"] = Value::Array(tokens.clone());
            if round % 2 == 0 {
                whole["normalizer"] = json!({"type": "NFC"});
            }
            whole["pre_tokenizer"]["add_prefix_space"] = json!(round % 3 == 0);
        });
        let inner = tokenizer.inner_for_test();
        if !can_cut(inner) {
            continue;
        }

        allowed += 1;
        for _ in 0..40 {
            const CHARS: [&str; 9] = ["a", "b", "a", " ", " ", "\n", "<x>", "a b", "\u{301}"];
            let text: String = (0..30).map(|_| CHARS[rng.below(CHARS.len())]).collect();
            places += compare(&format!("{tokens:?}"), inner, &text, text.len());
        }
    }
    assert!(allowed > 40 && places > 5000, "{allowed} {places}");
}

#[test]
fn cuts_are_even_and_only_where_they_may_be() {
    assert_eq!(piece_starts("ab cd ef gh", 100), [0, 2, 5, 8]);
    assert_eq!(piece_starts("ab cd  ef. gh (ij 1 kl", 100), [0, 2]);
    assert_eq!(piece_starts("ab cd\u{301} ef gé", 100), [0, 2]);
    assert_eq!(piece_starts("ab c\u{301}d e", 100), [0]);
    assert_eq!(piece_starts("", 4), [0]);

    let text = "word ".repeat(10_000);
    let starts = piece_starts(&text, 7);
    assert_eq!(starts.len(), 7);
    for (n, start) in starts.iter().enumerate() {
        assert!(start.abs_diff(n * text.len() / 7) < 5, "{n}: {start}");
    }

    // As far from one place to the next as may be, and a byte more, at both ends too.
    const MOST: usize = 32 << 10;
    let x = |count| "x".repeat(count);
    for (more, expected) in [(0, true), (1, false)] {
        let between = format!("ab cd{} ef", x(MOST - 3 + more));
        let before = format!("{}ab cd", x(MOST - 2 + more));
        let behind = format!("ab cd{}", x(MOST - 3 + more));
        for (text, pieces) in [(between, 3), (before, 2), (behind, 2)] {
            let starts = piece_starts(&text, text.len());
            assert_eq!(starts.len(), if expected { pieces } else { 1 }, "{more} {pieces}");
        }
    }
}

fn long_text(bytes: usize) -> String {
    let mut rng = Random(3);
    let mut long = String::new();
    while long.len() < bytes {
        long += &text(&mut rng, &[], 100);
    }
    while long.len() > bytes {
        long.pop();
    }
    let rest = bytes - long.len();
    long + &"x".repeat(rest)
}

/// Who asks for help, and for how much.
#[test]
fn only_long_texts_are_cut_and_only_if_somebody_helps() {
    let tokenizer = golden("opt-tiny");
    let long = long_text(8 * PIECE_BYTES);
    let whole = tokenizer.encode(&long).unwrap();
    let calls = |tokenizer: &Tokenizer, helpers: usize, text: &str| {
        let helpers: Vec<_> = (0..helpers).map(|_| tokenizer.helper()).collect();
        let tokens = tokenizer.encode(text).unwrap();
        let Some(helper) = helpers.first() else { return (tokens, Vec::new()) };
        let calls = helper.calls().try_iter();
        (tokens, calls.map(|PieceCall(job)| job.starts.len()).collect())
    };

    assert_eq!(calls(&tokenizer, 0, &long), (whole.clone(), vec![]));
    assert_eq!(calls(&tokenizer, 1, &long), (whole.clone(), vec![]));
    assert_eq!(calls(&tokenizer, 2, &long), (whole.clone(), vec![8]));
    assert_eq!(calls(&tokenizer, 3, &long), (whole.clone(), vec![6; 2]));
    assert_eq!(calls(&tokenizer, 100, &long), (whole.clone(), vec![8; MAX_THREADS - 1]));
    assert_eq!(calls(&tokenizer, 8, &long_text(LONG_TEXT_BYTES)).1, [4; 3]);
    assert_eq!(calls(&tokenizer, 8, &long_text(LONG_TEXT_BYTES - 1)).1, [0; 0]);
    assert_eq!(calls(&tokenizer, 8, &"日本語".repeat(20_000)).1, [0; 0], "no place");

    // Once the special tokens of the template, and none.
    assert_eq!(whole[0], crate::ids::TokenId(0));
    let _helpers = [tokenizer.helper(), tokenizer.helper()];
    assert_eq!(tokenizer.encode_part(&long).unwrap(), whole[1..]);

    let gemma = Tokenizer::load(&path("fixtures/tokenizers/json-gemma")).unwrap();
    assert_eq!(calls(&gemma, 8, &long).1, [0; 0]);
}

/// Calls that nobody answers do not pile up, and hold up nobody.
#[test]
fn calls_are_limited() {
    let tokenizer = golden("gpt2-tiny");
    let helpers: Vec<_> = (0..8).map(|_| tokenizer.helper()).collect();
    let long = long_text(LONG_TEXT_BYTES);
    for _ in 0..MAX_CALLS {
        tokenizer.encode(&long).unwrap();
    }
    assert_eq!(helpers[0].calls().len(), MAX_CALLS);
    // All pieces are done.
    for call in helpers[0].calls().try_iter() {
        let before = call.0.next.load(Ordering::Relaxed);
        assert!(before >= call.0.starts.len());
        call.help();
    }
}

/// Two that ask and two that help, each other's texts too, until each has done a part.
#[test]
fn helpers_do_their_part() {
    let tokenizer = golden("gpt2-tiny");
    let texts = [long_text(6 * PIECE_BYTES), long_text(5 * PIECE_BYTES)];
    let expected = texts.each_ref().map(|text| tokenizer.encode(text).unwrap());
    let helped = [AtomicBool::new(false), AtomicBool::new(false)];
    let all = || helped.iter().all(|done| done.load(Ordering::Relaxed));
    let asking = AtomicUsize::new(texts.len());
    let helpers = [tokenizer.helper(), tokenizer.helper()];
    std::thread::scope(|scope| {
        for (helper, helped) in helpers.iter().zip(&helped) {
            let asking = &asking;
            scope.spawn(move || {
                while asking.load(Ordering::Relaxed) > 0 {
                    let wait = std::time::Duration::from_millis(10);
                    let Ok(PieceCall(job)) = helper.calls().recv_timeout(wait) else { continue };
                    helped.fetch_or(job.run() > 0, Ordering::Relaxed);
                }
            });
        }
        for (text, expected) in texts.iter().zip(&expected) {
            let (tokenizer, asking, all) = (&tokenizer, &asking, &all);
            scope.spawn(move || {
                let mut right = true;
                for round in 0..1000 {
                    right &= &tokenizer.encode(text).unwrap() == expected;
                    if !right || (round > 3 && all()) {
                        break;
                    }
                }
                // The helpers end, whatever was found.
                asking.fetch_sub(1, Ordering::Relaxed);
                assert!(right, "other tokens than the whole");
            });
        }
    });
    assert!(all(), "a helper did nothing");
}

/// A fault of the crate in one piece is the text's, with the same panic, and no helper ends of it.
#[test]
fn a_panic_in_a_piece_is_the_texts() {
    let tokenizer = golden("gpt2-tiny");
    let (done, ends) = unbounded();
    // In the middle of a character.
    let job = Job {
        inner: Arc::clone(tokenizer.inner_for_test()),
        text: "a é b".into(),
        starts: vec![0, 3, 4],
        next: AtomicUsize::new(0),
        done,
    };
    let job = Arc::new(job);
    PieceCall(Arc::clone(&job)).help();
    let outcome = threads::catch(|| job.joined(&ends).map(|_| ()));
    let panic = outcome.expect_err("the panic of the piece");
    assert!(panic.contains("char boundary"), "{panic}");
}
