//! JSON as Python writes it, and objects read key by key.

use super::*;
use crate::json::object::KeysRead;
use serde_json::json;

fn good(text: impl AsRef<[u8]>) -> Value {
    parse(text.as_ref()).unwrap()
}

#[test]
fn case_14_a_byte_order_mark_is_skipped() {
    assert_eq!(good("\u{FEFF}{\"a\": 1}"), json!({"a": 1}));
    assert!(parse("\u{FEFF}\u{FEFF}{}".as_bytes()).is_err(), "one of them");
    let wide: Vec<u8> = "\u{FEFF}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(parse(&wide).unwrap_err().contains("UTF-16"));
}

#[test]
fn numbers_that_json_lacks() {
    assert_eq!(
        good(r#"{"t":NaN,"l":[-Infinity,Infinity]}"#)["l"],
        json!(["-Infinity", "Infinity"])
    );
    let same = r#"{"s":"NaN \" Infinity","\\":"NaN\\"}"#;
    assert_eq!(good(same), serde_json::from_str::<Value>(same).unwrap());
    assert_eq!(good(r#"["\"", NaN, "\\", NaN]"#), json!(["\"", "NaN", "\\", "NaN"]));
    for bad in [
        "{NaN: 1}",
        "{NaN : 1}",
        "[-NaN]",
        "[1NaN]",
        "[NaNs]",
        "[NaN NaN]",
        "[\"a\"NaN]",
        "[+Infinity]",
        "[nan]",
        "NaN NaN",
        "[\"NaN]",
        "[\"\\\"NaN]",
    ] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn errors_say_where() {
    for (text, place) in [
        ("not json", "line 1 column 2"),
        ("", "line 1 column 0"),
        ("{\"a\": NaN,\n \"b\": nope}", "line 2 column 8"),
        ("{\"a\": \"NaN", "line 1 column 10"),
        ("[-Infinity,NaN,}", "line 1 column 16"),
    ] {
        let message = parse(text.as_bytes()).unwrap_err();
        assert!(message.ends_with(place), "{text:?}: {message}");
    }
    assert!(parse("[".repeat(100_000).as_bytes()).is_err(), "depth is the reader's limit");
}

/// Against a reader that knows the words itself: what each text without them means stays, and each
/// word counts where a number could.
#[test]
fn words_are_told_from_texts() {
    let parts = ["NaN", "Infinity", "-Infinity", "\"NaN\"", "\"\\\"\"", "1", "\"\\\\\"", "\"-\""];
    let mut state = 7u64;
    for _ in 0..20_000 {
        let mut pick = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            parts[(state >> 33) as usize % parts.len()]
        };
        let chosen: Vec<&str> = (0..6).map(|_| pick()).collect();
        let want: Vec<Value> = chosen
            .iter()
            .map(|part| serde_json::from_str(part).unwrap_or_else(|_| json!(part)))
            .collect();
        assert_eq!(good(format!("[{}]", chosen.join(" ,"))), Value::Array(want), "{chosen:?}");
    }
}

/// Any text: no panic, and what strict JSON takes is taken alike.
#[test]
fn any_text_is_read_or_refused() {
    let alphabet = [
        "{", "}", "[", "]", ":", ",", "\"", "\\", "NaN", "Infinity", "-", "1", "é", " ",
        "\u{FEFF}", "a", "null",
    ];
    let mut state = 1u64;
    for _ in 0..50_000 {
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize
        };
        let text: String = (0..next() % 12).map(|_| alphabet[next() % alphabet.len()]).collect();
        let strict = serde_json::from_str::<Value>(&text);
        match parse(text.as_bytes()) {
            Ok(value) => assert!(strict.is_err() || strict.unwrap() == value, "{text:?}"),
            Err(_) => assert!(strict.is_err(), "{text:?}"),
        }
    }
}

#[test]
fn values_in_messages_are_short_and_plain() {
    assert_eq!(shown(&json!("a\nb\u{202E}")), r#""a\nb\u{202e}""#);
    assert_eq!(shown(&json!([1, 2])), "[1,2]");
    assert_eq!(shown(&json!(vec![0; 5000])), "a list of 5000 values");
    let long = shown(&json!("x".repeat(10_000)));
    assert_eq!((long.chars().count(), long.ends_with('…')), (61, true));
}

#[test]
fn keys_are_read_by_type() {
    let map = json!({"n": 3, "f": 0.5, "b": true, "s": "x", "l": [1], "null": null, "zero": 0,
        "text": "4", "less": -1, "real": 4.0, "huge": 1e300, "tiny": 1e-60, "nan": "NaN"});
    let object = Object::new("config.json", map.as_object().unwrap());
    assert_eq!(object.count("n", 3), Ok(Some(3)));
    assert_eq!((object.count("null", 3), object.count("none", 3)), (Ok(None), Ok(None)));
    assert_eq!((object.positive("f"), object.positive("n")), (Ok(Some(0.5)), Ok(Some(3.0))));
    assert_eq!((object.flag("b"), object.text("s")), (Ok(Some(true)), Ok(Some("x"))));
    for key in ["f", "b", "s", "l", "zero", "text", "less", "real", "huge"] {
        let text = object.count(key, 3).unwrap_err().to_string();
        let start = format!("config.json: '{key}' must be an integer in 1..=3, got ");
        assert!(text.starts_with(&start), "{text}");
    }
    assert!(object.count("n", 2).is_err());
    for key in ["b", "s", "l", "zero", "text", "less", "huge", "tiny", "nan"] {
        assert!(object.positive(key).is_err(), "{key}");
    }
    for key in ["n", "zero", "s", "l", "text"] {
        assert!(object.flag(key).is_err() && object.object(key).is_err(), "{key}");
    }
    assert!(object.text("n").is_err() && object.list("s").is_err());
}

#[test]
fn a_key_is_named_by_where_it_came_from() {
    let merged = json!({"a": "x", "s": {"p": "x", "q": "x", "r": "x"}, "t": 1});
    let (merged, given) = (merged.as_object().unwrap(), json!({"s": {"p": "x"}, "a": "x"}));
    let keys_read = KeysRead::default();
    let object = Object::new("c.json", merged).noting(&keys_read);
    let object = object.over("m.json", "hf_overrides.", given.as_object().unwrap());
    let text = |e: crate::error::Error| e.to_string();
    assert_eq!(text(object.wrong("a", "1")), "m.json: 'hf_overrides.a' must be 1, got \"x\".");
    assert_eq!(text(object.wrong("z", "1")), "c.json: 'z' is missing; it must be 1.");
    let inner = object.object("s").unwrap().unwrap();
    let said = text(inner.positive("p").unwrap_err());
    assert!(said.starts_with("m.json: 'hf_overrides.s.p' must be a positive number"), "{said}");
    let said = text(inner.positive("q").unwrap_err());
    assert!(said.starts_with("c.json: 's.q' must be"), "{said}");
    let keys_read: Vec<String> = keys_read.borrow().iter().cloned().collect();
    assert_eq!(keys_read, ["s", "s.p", "s.q"]);
}
