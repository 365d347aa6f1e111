//! How texts are cut into words before byte-level BPE merges them, by the names that GGUF files
//! give: the rules of the models' own tokenizer.json. A new name is a new row. Called by
//! `tokenizer`; it knows no vocabulary.

use serde_json::{json, Value};

use crate::error::{Error, Result};
use crate::json::cut;

/// What cuts a text; one after the other.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// At matches of a pattern, which stay whole.
    At(&'static str),
    /// Around each digit.
    Digits,
    /// By GPT-2's own pattern.
    Gpt2,
}

/// Rules of one or several tokenizers.
#[derive(Debug)]
pub(super) struct Split {
    /// In `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Texts are composed first.
    nfc: bool,
    cuts: &'static [Cut],
    /// A word that is a token is not merged.
    pub ignore_merges: bool,
    /// A text begins with bos, if the file does not say otherwise.
    pub bos: bool,
}

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|",
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|",
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const PLAIN: Split =
    Split { names: &[], nfc: false, cuts: &[Cut::Gpt2], ignore_merges: false, bos: false };

/// Every name that is known.
const SPLITS: [Split; 8] = [
    Split {
        names: &["llama-bpe", "llama3", "llama-v3"],
        cuts: &[Cut::At(LLAMA3)],
        ignore_merges: true,
        bos: true,
        ..PLAIN
    },
    Split { names: &["dbrx", "smaug-bpe"], cuts: &[Cut::At(LLAMA3)], ..PLAIN },
    Split { names: &["qwen2"], nfc: true, cuts: &[Cut::At(QWEN2)], ..PLAIN },
    Split { names: &["deepseek-r1-qwen"], cuts: &[Cut::At(QWEN2)], ..PLAIN },
    Split { names: &["tekken"], cuts: &[Cut::At(TEKKEN)], ignore_merges: true, bos: true, ..PLAIN },
    Split { names: &["gpt-4o", "llama4"], cuts: &[Cut::At(GPT4O)], ..PLAIN },
    Split { names: &["smollm", "starcoder"], cuts: &[Cut::Digits, Cut::Gpt2], ..PLAIN },
    Split { names: &["gpt-2", "phi-2", "olmo"], ..PLAIN },
];

/// The rules of a name.
///
/// # Errors
/// Unsupported: an unknown name, or none.
pub(super) fn find(name: Option<&str>) -> Result<&'static Split> {
    static ROWS: &[Split] = &SPLITS;
    let row = name.and_then(|name| ROWS.iter().find(|row| row.names.contains(&name)));
    row.ok_or_else(|| {
        let names: Vec<&str> = ROWS.iter().flat_map(|row| row.names).copied().collect();
        let said = name.map_or("missing".into(), |name| format!("'{}'", cut(name)));
        Error::Unsupported(format!(
            "'tokenizer.ggml.pre' is {said}, so how texts are cut into words is not known; \
             supported: {}. Name a folder with the model's tokenizer.json as 'tokenizer'.",
            names.join(", ")
        ))
    })
}

impl Split {
    /// As tokenizer.json has it.
    pub fn normalizer(&self) -> Value {
        if self.nfc {
            json!({"type": "NFC"})
        } else {
            Value::Null
        }
    }

    /// The same.
    pub fn pre_tokenizer(&self) -> Value {
        let mut by_pattern = false;
        let mut steps: Vec<Value> = Vec::new();
        for cut in self.cuts {
            match cut {
                Cut::At(pattern) => steps.push(json!({
                    "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                    "invert": false
                })),
                Cut::Digits => steps.push(json!({"type": "Digits", "individual_digits": true})),
                Cut::Gpt2 => by_pattern = true,
            }
        }
        steps.push(byte_level(by_pattern));
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

/// Bytes as characters that can be seen.
pub(super) fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex
    })
}
