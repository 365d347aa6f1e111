//! What the tests of this module share: tokenizers, recorded answers, a seeded generator.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use serde_json::{json, Map, Value};

use super::Tokenizer;
use crate::ids::TokenId;

pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(relative)
}

pub fn golden(model: &str) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::load(&path("goldens/models").join(model)).unwrap())
}

pub fn ids(list: &[u32]) -> Vec<TokenId> {
    list.iter().copied().map(TokenId).collect()
}

/// A folder that is gone when the test ends.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn with(files: &[(&str, String)]) -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("words-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        for (name, text) in files {
            std::fs::write(folder.0.join(name), text).unwrap();
        }
        folder
    }

    pub fn load(&self) -> crate::error::Result<Tokenizer> {
        Tokenizer::load(&self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn vocab(tokens: &[&str]) -> Map<String, Value> {
    tokens.iter().enumerate().map(|(id, t)| (t.to_string(), id.into())).collect()
}

/// Byte-level: these tokens, no merges.
pub fn byte_level(tokens: &[&str]) -> Tokenizer {
    let level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    with_decoder(tokens, &level, &level)
}

/// BPE of these tokens, no merges.
pub fn with_decoder(tokens: &[&str], pre_tokenizer: &Value, decoder: &Value) -> Tokenizer {
    let whole = json!({
        "version": "1.0", "added_tokens": [], "decoder": decoder, "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": vocab(tokens), "merges": []},
    });
    Folder::with(&[("tokenizer.json", whole.to_string())]).load().unwrap()
}

/// As Llama 2: blanks are `▁`, unknown characters are bytes `<0x00>` (id = 3 + byte), a decoder in
/// four steps that strips the first blank. Ids 0 to 2 are `<unk> <s> </s>`, from 259 on come
/// `tokens`.
pub fn llama_like(tokens: &[&str]) -> Tokenizer {
    let bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let all: Vec<&str> = ["<unk>", "<s>", "</s>"]
        .into_iter()
        .chain(bytes.iter().map(String::as_str))
        .chain(tokens.iter().copied())
        .collect();

    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        })
    };

    let whole = json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {
            "type": "BPE", "vocab": vocab(&all), "merges": [], "unk_token": "<unk>",
            "byte_fallback": true, "fuse_unk": true
        },
    });

    let config =
        json!({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"});
    let files =
        [("tokenizer.json", whole.to_string()), ("tokenizer_config.json", config.to_string())];
    Folder::with(&files).load().unwrap()
}

/// splitmix64
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}
