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
    let state = State::General(General::primed(tokenizer, prompt, skip));
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
