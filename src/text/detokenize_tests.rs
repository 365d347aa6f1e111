//! The byte path, the general path and Hugging Face's DecodeStream give the same pieces.

use super::*;
use crate::text::testing::*;

/// DecodeStream's step, with its state.
struct Stream<'a> {
    tokenizer: &'a tokenizers::Tokenizer,
    skip: bool,
    ids: Vec<u32>,
    prefix: String,
    index: usize,
}

impl Stream<'_> {
    fn push(&mut self, id: u32) -> String {
        let step = |s: &mut Self| {
            tokenizers::step_decode_stream(
                s.tokenizer,
                vec![id],
                s.skip,
                &mut s.ids,
                &mut s.prefix,
                &mut s.index,
            )
        };
        match step(self) {
            Ok(piece) => piece.unwrap_or_default(),
            // "Invalid prefix": the Python backend starts a new stream with this token.
            Err(_) => {
                (self.ids, self.prefix, self.index) = (Vec::new(), String::new(), 0);
                step(self).unwrap().unwrap_or_default()
            }
        }
    }
}

fn general(tokenizer: &Arc<Tokenizer>, prompt: &[TokenId], skip: bool) -> Detokenizer {
    let state = State::General(General::primed(tokenizer, prompt, skip).unwrap());
    Detokenizer { state, ..Detokenizer::new(tokenizer, prompt, skip, true) }
}

fn push(detokenizer: &mut Detokenizer, id: TokenId) -> String {
    let mut out = String::new();
    detokenizer.push(id, &mut out);
    out
}

/// Random tokens, half of them single bytes so that most characters are broken, after a prompt.
fn compare(
    tokenizer: Arc<Tokenizer>,
    crate_own: &tokenizers::Tokenizer,
    bytes: &[u32],
    end: usize,
) {
    let mut rng = Random(5);

    for round in 0..400 {
        let skip = round % 2 == 0;
        let prompt = tokenizer.encode(["", "A story", "né 日"][round % 3]).unwrap();
        let mut one = Detokenizer::new(&tokenizer, &prompt, skip, true);
        let mut two = general(&tokenizer, &prompt, skip);
        let ids = prompt.iter().map(|id| id.0).collect();
        let mut three = Stream { tokenizer: crate_own, skip, ids, prefix: String::new(), index: 0 };
        for i in 0..60 {
            let id = match rng.below(8) {
                0..=3 => bytes[rng.below(bytes.len())],
                4 => rng.below(4) as u32,
                _ => rng.below(end) as u32,
            };
            let wanted = three.push(id);
            assert_eq!(push(&mut two, TokenId(id)), wanted, "general, round {round}, token {i}");
            assert_eq!(push(&mut one, TokenId(id)), wanted, "round {round}, token {i}: {id}");
        }
    }
}

#[test]
fn byte_level_equals_decode_stream() {
    let tokenizer = golden("opt-tiny");
    let file = path("goldens/models/opt-tiny/tokenizer.json");
    let own = tokenizers::Tokenizer::from_file(file).unwrap();
    let table = tokenizer.bytes().unwrap();
    // Tokens of one byte, and the three of U+FFFD itself; beyond 4096 are no tokens.
    let mut bytes: Vec<u32> =
        (0..4096).filter(|id| table.get(TokenId(*id), false).len() == 1).collect();
    assert_eq!(bytes.len(), 256);
    let broken = |id: &u32| table.get(TokenId(*id), false)[0] >= 0x80;
    bytes.retain(broken);
    let rare = [0xef, 0xbf, 0xbd]
        .map(|b| *bytes.iter().find(|id| table.get(TokenId(**id), false) == [b]).unwrap());
    bytes.extend(rare.iter().cycle().take(60));
    compare(tokenizer, &own, &bytes, 4200);
}

#[test]
fn byte_fallback_equals_decode_stream() {
    let tokens = ["▁", "a", "b", "▁a", "é", "▁日", "\u{fffd}"];
    let tokenizer = Arc::new(llama_like(&tokens));
    let own = tokenizer.inner_for_test().clone();
    let bytes: Vec<u32> = (3..259).collect();
    compare(tokenizer, &own, &bytes, 259 + tokens.len() + 3);
}

/// Stretches of one kind of token, longer than what is decoded anew with each: broken bytes, U+FFFD
/// as a token, tokens without a text, tokens that are not decoded. Piece by piece as DecodeStream.
fn compare_stretches(tokenizer: &Arc<Tokenizer>, kinds: &[Vec<u32>]) {
    let own = tokenizer.inner_for_test().clone();
    let mut rng = Random(9);
    let (mut waited, mut whole) = (0, 0);

    for round in 0..300 {
        let skip = round % 2 == 0;
        let prompt: Vec<u32> =
            (0..round % 9).map(|_| kinds[0][rng.below(kinds[0].len())]).collect();
        let mut one = general(tokenizer, &ids(&prompt), skip);
        let mut two =
            Stream { tokenizer: &own, skip, ids: prompt, prefix: String::new(), index: 0 };
        let (mut told, mut wanted) = (String::new(), String::new());
        for _ in 0..6 {
            let kind = &kinds[rng.below(kinds.len())];
            for i in 0..[1, 3, 20, 90][rng.below(4)] {
                let id = kind[rng.below(kind.len())];
                let (got, want) = (push(&mut one, TokenId(id)), two.push(id));
                assert_eq!(got, want, "round {round}, {i} of {kind:?}");
                (told, wanted) = (told + &got, wanted + &want);
            }
            let State::General(state) = &one.state else { panic!("not general") };
            waited += usize::from(state.ids.len() - state.read > FEW_HELD);
        }
        one.finish(&mut told);
        assert_eq!(told, wanted, "round {round}");
        whole += told.len();
    }
    assert!(waited > 50 && whole > 1000, "{waited} waited, {whole} bytes came out");
}

fn bpe_with(decoder: serde_json::Value, tokens: &[&str]) -> Arc<Tokenizer> {
    Arc::new(with_decoder(tokens, &serde_json::Value::Null, &decoder))
}

#[test]
fn what_waits_long_comes_out_as_of_decode_stream() {
    let words = ["a", "▁b", "é", "<0x20>", "x##", "##y"];
    let more = ["\u{fffd}", "", "<0xFF>", "b\u{fffd}", "<0xC3>", "<0xA9>", "<0xEF>", "<0xBF>"];
    let tokens: Vec<&str> = words.iter().chain(&more).chain(&["<0xBD>"]).copied().collect();
    // Words, then each kind alone, then all of them, with ids that no token has.
    let mut kinds: Vec<Vec<u32>> = vec![(0..6).collect()];
    kinds.extend((6..15).map(|id| vec![id]));
    kinds.extend([vec![10, 11], vec![12, 13, 14], vec![99], (0..20).collect()]);

    let json = |text: &str| serde_json::from_str(text).unwrap();
    let replace = r#"{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}"#;
    let fallback = r#"{"type": "ByteFallback"}"#;
    let fuse = r#"{"type": "Fuse"}"#;
    let strip = r#"{"type": "Strip", "content": " ", "start": 1, "stop": 0}"#;
    let all = |list: &[&str]| {
        json(&format!(r#"{{"type": "Sequence", "decoders": [{}]}}"#, list.join(",")))
    };
    let metaspace = r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}"#;
    for decoder in [
        all(&[replace, fallback, fuse, strip]),
        all(&[replace, fallback, fuse]),
        all(&[replace, fallback]),
        json(metaspace),
        serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        serde_json::Value::Null,
    ] {
        let tokenizer = bpe_with(decoder, &tokens);
        assert!(tokenizer.text_rule().is_some(), "{}", tokenizer.decoder());
        compare_stretches(&tokenizer, &kinds);
    }
    // Nothing is known of these: text may be late, but comes.
    for decoder in [all(&[fallback, metaspace]), all(&[fuse, replace])] {
        let tokenizer = bpe_with(decoder, &tokens);
        assert!(tokenizer.text_rule().is_none(), "{}", tokenizer.decoder());
        for trailing in [0, 3] {
            let mut detokenizer = Detokenizer::new(&tokenizer, &[], true, true);
            let stretch = [vec![6; 130], vec![0, 1, 0], vec![6; trailing]].concat();
            let mut out = String::new();
            stretch.iter().for_each(|id| detokenizer.push(TokenId(*id), &mut out));
            detokenizer.finish(&mut out);
            assert_eq!(out, REPLACEMENT.repeat(130) + "a ba", "{}", tokenizer.decoder());
        }
    }
}

/// A client may ask for tokens that never come to a text; the work for each of them must not grow
/// with those before it.
#[test]
fn tokens_that_wait_cost_no_more_than_others() {
    const TOKENS: usize = 4000;
    let llama = Arc::new(llama_like(&["▁", "a", "\u{fffd}", ""]));
    let odd = bpe_with(
        serde_json::json!({"type": "CTC", "pad_token": "p", "word_delimiter_token": "|",
            "cleanup": false}),
        &["\u{fffd}", "a", "b\u{fffd}"],
    );
    let work = |tokenizer: &Arc<Tokenizer>, mut token: Box<dyn FnMut(usize) -> u32>, last: u32| {
        let mut detokenizer = Detokenizer::new(tokenizer, &[], true, true);
        let before = tokenizer.decoded.load(std::sync::atomic::Ordering::Relaxed);
        let mut out = String::new();
        (0..TOKENS).for_each(|i| detokenizer.push(TokenId(token(i)), &mut out));
        detokenizer.push(TokenId(last), &mut out);
        detokenizer.finish(&mut out);
        (tokenizer.decoded.load(std::sync::atomic::Ordering::Relaxed) - before, out)
    };
    let broken = "\u{fffd}".repeat(TOKENS);

    let (bytes, text) = work(&llama, Box::new(|_| 3 + 0x80), 260);
    assert_eq!(text, broken.clone() + "a");
    let (replacements, text) = work(&llama, Box::new(|_| 261), 260);
    assert_eq!(text, broken + "a");
    let (mixed, _) = work(&llama, Box::new(|i| [3 + 0xff, 262, 261][i % 3]), 260);
    let (skipped, text) = work(&llama, Box::new(|_| 1), 260);
    assert_eq!(text, "a");
    let (empty, text) = work(&llama, Box::new(|_| 262), 260);
    assert_eq!(text, "a");
    let (unknown, text) = work(&odd, Box::new(|i| [0, 2][i % 2]), 1);
    assert!(text.ends_with("b\u{fffd}a"));
    for (what, decoded, most) in [
        ("bytes", bytes, 4),
        ("U+FFFD", replacements, 4),
        ("a mixture", mixed, 4),
        ("tokens that are not decoded", skipped, 4),
        ("tokens without a text", empty, 4),
        ("an unknown decoder", unknown, 16),
    ] {
        assert!(decoded <= most * TOKENS, "{what}: {decoded} ids decoded");
    }
}

/// The crate's Strip panics on a token of nothing but what it strips: the sequence fails, the
/// thread goes on, and so does the next sequence.
#[test]
fn a_decoder_that_panics_fails_its_sequence_alone() {
    let strip = serde_json::json!({"type": "Strip", "content": "x", "start": 1, "stop": 2});
    let tokenizer = bpe_with(strip, &["ab", "x"]);
    for _ in 0..2 {
        let mut detokenizer = Detokenizer::new(&tokenizer, &[], true, true);
        assert_eq!(push(&mut detokenizer, TokenId(0)), "ab");
        assert_eq!(detokenizer.failed(), None);
        assert_eq!(push(&mut detokenizer, TokenId(1)), "");
        let said = detokenizer.failed().expect("a failure").to_string();
        assert!(
            said.starts_with(
                "cannot detokenise: the rules of the model's tokenizer fail on this text: "
            ),
            "{said}"
        );
        assert_eq!(push(&mut detokenizer, TokenId(0)), "", "it is over");
    }
    let after = Detokenizer::new(&tokenizer, &ids(&[1]), true, true);
    assert!(after.failed().is_some(), "the prompt's end cannot be decoded");
}

/// Bytes of a byte-level tokenizer that wait are looked at once.
#[test]
fn long_stretches_of_broken_bytes_equal_the_lossy_text() {
    let mut rng = Random(3);
    let kinds: [&[u8]; 5] = [b"\x80", b"\xf0\x9f", b"\xef\xbf\xbd", b"a", b"\xe6\x97\xa5"];
    for _ in 0..300 {
        let (mut held, mut all, mut out) = (HeldBytes::default(), Vec::new(), String::new());
        for _ in 0..8 {
            let kind = kinds[rng.below(kinds.len())];
            for _ in 0..rng.below(30) {
                let byte = &kind[rng.below(kind.len())..][..1];
                held.push(byte, &mut out);
                all.extend_from_slice(byte);
                let open = if held.open.is_empty() { "" } else { REPLACEMENT };
                let text = String::from_utf8_lossy(&all);
                assert_eq!(format!("{out}{}{open}", held.text), text);
                assert_eq!(held.text.is_empty() && open.is_empty(), !text.ends_with(REPLACEMENT));
                assert!(held.open.len() < 4);
            }
        }
    }
}

/// The prompt is what the output follows: the first word keeps its blank.
#[test]
fn metaspace_keeps_the_first_blank() {
    let tokenizer = Arc::new(llama_like(&["▁", "a", "▁b"]));
    let prompt = tokenizer.encode("a").unwrap();
    let mut after = Detokenizer::new(&tokenizer, &prompt, true, true);
    assert_eq!(push(&mut after, TokenId(261)), " b");
    assert_eq!(push(&mut after, TokenId(261)), " b");
    // With nothing but a skipped bos before it, the output starts the text.
    let mut first = Detokenizer::new(&tokenizer, &ids(&[1]), true, true);
    assert_eq!(push(&mut first, TokenId(261)), "b");
    assert_eq!(push(&mut first, TokenId(261)), " b");
    // Many special tokens at the end of a prompt do not hide its text.
    let long: Vec<TokenId> = prompt.iter().copied().chain(ids(&[2; 50])).collect();
    let mut after = Detokenizer::new(&tokenizer, &long, true, true);
    assert_eq!(push(&mut after, TokenId(261)), " b");
}

/// The pieces of a long output are the text of the whole.
#[test]
fn pieces_add_up() {
    let tokenizer = golden("llama-tiny");
    let text = "naïve café 日本語 👨‍👩‍👧 — ok\n\tПривет";
    let output = tokenizer.encode(text).unwrap();
    let mut detokenizer = Detokenizer::new(&tokenizer, &[], true, true);
    let mut out = String::new();
    let mut pieces = 0;
    for id in &output {
        let before = out.len();
        detokenizer.push(*id, &mut out);
        pieces += usize::from(out.len() > before);
        assert!(text.starts_with(&out));
    }
    assert_eq!(out, text);
    assert!(pieces > 10 && pieces < output.len(), "{pieces} of {}", output.len());
}

/// Without skipping, special tokens have a text; a prompt that ends in U+FFFD is not repeated.
#[test]
fn specials_and_odd_prompts() {
    let tokenizer = golden("opt-tiny");
    let mut keep = Detokenizer::new(&tokenizer, &[], false, true);
    assert_eq!(push(&mut keep, TokenId(2)), "</s>");
    let mut skip = Detokenizer::new(&tokenizer, &[], true, true);
    assert_eq!(push(&mut skip, TokenId(2)), "");
    let llama = Arc::new(llama_like(&["▁", "a", "\u{fffd}"]));
    let mut odd = Detokenizer::new(&llama, &ids(&[1, 260, 261]), true, true);
    assert_eq!(push(&mut odd, TokenId(260)), "a");
}

/// An added token behind another one comes out as the vocabulary spells it: `é` is a byte
/// otherwise.
#[test]
fn raw_added_tokens() {
    let config = serde_json::json!({"added_tokens_decoder": {
        "1": {"content": "é", "special": true}, "2": {"content": "<b>", "special": false}
    }});
    let whole = serde_json::json!({
        "version": "1.0", "added_tokens": [],
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        },
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    });
    let files =
        [("tokenizer.json", whole.to_string()), ("tokenizer_config.json", config.to_string())];
    let tokenizer = Arc::new(Folder::with(&files).load().unwrap());
    let sequence = [2, 1, 2, 0, 2];
    let pieces = |spaces| {
        let mut d = Detokenizer::new(&tokenizer, &[], false, spaces);
        sequence.map(|id| push(&mut d, TokenId(id)))
    };
    assert_eq!(pieces(true), ["<b>", "", "\u{fffd}<b>", "a", "<b>"]);
    assert_eq!(pieces(false), ["<b>", "é", "<b>", "a", "<b>"]);
}
