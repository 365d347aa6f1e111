//! What is known of the text of held tokens without decoding them again: how long it is and whether
//! it ends in U+FFFD. `detokenize` asks, where many tokens wait; the tokenizers crate decodes only
//! what then comes out, so that a token costs the same however many wait before it.

use tokenizers::{Decoder, DecoderWrapper, Tokenizer as Inner};

use crate::threads;

const REPLACEMENT: &str = "\u{fffd}";
/// Blanks that a decoder may strip from the start of a text: real ones strip one.
const MAX_STRIPPED: usize = 8;

/// A decoder whose text is the texts of its tokens, one behind the other, with runs of byte tokens
/// read as UTF-8: those of sentencepiece models (Llama 2, Gemma, T5), of BERT, and none at all.
pub(super) struct TextRule {
    /// What they do to a token depends on that token, and on whether it is the first.
    each: Vec<DecoderWrapper>,
    byte_tokens: bool,
    blank_between: bool,
}

impl TextRule {
    /// None: another decoder.
    pub fn of(inner: &Inner) -> Option<TextRule> {
        use DecoderWrapper::*;
        let Some(decoder) = inner.get_decoder() else {
            return Some(TextRule { each: Vec::new(), byte_tokens: false, blank_between: true });
        };
        let stages = match decoder {
            Sequence(sequence) => sequence.get_decoders(),
            one => std::slice::from_ref(one),
        };

        let is_each =
            |stage: &&DecoderWrapper| matches!(stage, Replace(_) | Metaspace(_) | WordPiece(_));
        let each: Vec<_> = stages.iter().take_while(is_each).cloned().collect();
        let rest = &stages[each.len()..];
        let (byte_tokens, rest) = match rest {
            [ByteFallback(_), rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let known = match rest {
            [] | [Fuse(_)] => true,
            [Fuse(_), Strip(strip)] => {
                strip.stop == 0 && strip.start <= MAX_STRIPPED && strip.content != '\u{fffd}'
            }
            _ => false,
        };
        let rule = TextRule { each, byte_tokens, blank_between: false };
        // The placeholder of `text_of`.
        (known && rule.text_of(String::new(), true).is_some()).then_some(rule)
    }

    /// None: the decoder fails on it.
    fn text_of(&self, spelling: String, first: bool) -> Option<String> {
        let text = threads::catch_quietly(|| {
            let mut tokens = match first {
                true => vec![spelling],
                false => vec![String::new(), spelling],
            };
            for stage in &self.each {
                tokens = stage.decode_chain(tokens).ok()?;
            }
            tokens.pop()
        });
        let text = text.ok()??;
        Some(if self.blank_between && !first { format!(" {text}") } else { text })
    }
}

/// The text of some tokens, but for blanks that are stripped from its start.
#[derive(Clone, Default)]
pub(super) struct HeldText {
    tokens: usize,
    /// Before the byte tokens at the end.
    bytes: usize,
    ends_broken: bool,
    run: ByteRun,
}

/// Byte tokens with no other token between: one text if they are UTF-8, else a U+FFFD each.
#[derive(Clone, Default)]
struct ByteRun {
    bytes: usize,
    /// Of a character that is not whole yet.
    open: Vec<u8>,
    /// No further byte makes them UTF-8.
    broken: bool,
    /// Its last whole character is U+FFFD itself.
    ends_broken: bool,
}

impl HeldText {
    /// Append a token; false if the text is what it was. None: the decoder fails on it.
    pub fn push(&mut self, rule: &TextRule, spelling: String) -> Option<bool> {
        let text = rule.text_of(spelling, self.tokens == 0)?;
        self.tokens += 1;
        if let Some(byte) = byte_of(&text).filter(|_| rule.byte_tokens) {
            self.run.push(byte);
            return Some(true);
        }

        self.ends_broken = self.ends_broken();
        self.bytes = self.len() + text.len();
        self.run = ByteRun::default();
        if !text.is_empty() {
            self.ends_broken = text.ends_with(REPLACEMENT);
        }
        Some(!text.is_empty())
    }

    /// In bytes; what the decoder strips from the start counts.
    pub fn len(&self) -> usize {
        let each = if self.run.is_text() { 1 } else { REPLACEMENT.len() };
        self.bytes + each * self.run.bytes
    }

    pub fn ends_broken(&self) -> bool {
        match self.run.bytes {
            0 => self.ends_broken,
            _ => self.run.ends_broken || !self.run.is_text(),
        }
    }
}

impl ByteRun {
    fn push(&mut self, byte: u8) {
        self.bytes += 1;
        if self.broken {
            return;
        }
        self.open.push(byte);
        match std::str::from_utf8(&self.open) {
            Ok(text) => {
                self.ends_broken = text == REPLACEMENT;
                self.open.clear();
            }
            Err(e) => self.broken = e.error_len().is_some(),
        }
    }

    fn is_text(&self) -> bool {
        !self.broken && self.open.is_empty()
    }
}

/// As the crate reads `<0xE2>`.
fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}
