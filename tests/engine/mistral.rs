//! A folder in Mistral's own format, by the arguments that choose formats: params.json with made-up
//! weights, and tekken.json.

use std::path::{Path, PathBuf};

use serde_json::{json, Value};
use triton_vllm::engine::{EngineArgs, Engines};

use super::served::{options, serve, serve_args};

const MODEL: &str = "llama-tiny";

/// Gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("triton-vllm-own-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let params = json!({"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8,
            "hidden_dim": 40, "norm_eps": 1e-5, "vocab_size": 624, "rope_theta": 1e6,
            "max_seq_len": 512});
        std::fs::write(folder.join("params.json"), params.to_string()).expect("params.json");
        let fixture = "tests/fixtures/tokenizers/tekken/tekken.json";
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture);
        std::fs::copy(fixture, folder.join("tekken.json")).expect("tekken.json");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_folder_of_mistrals_own_serves() {
    let folder = Folder::new();
    let with = |more: Value| {
        let mut args = json!({"model": folder.0, "load_format": "dummy"});
        let more = more.as_object().cloned().unwrap_or_default();
        args.as_object_mut().expect("an object").extend(more);
        args
    };
    let sampling = json!({"max_tokens": 5, "temperature": 0.0, "ignore_eos": true});
    let auto = serve(MODEL, with(json!({}))).text("[INST] hello [/INST]", sampling.clone());
    let named = json!({"config_format": "mistral", "tokenizer_mode": "mistral"});
    let named = serve(MODEL, with(named)).text("[INST] hello [/INST]", sampling);
    assert_eq!(auto, named);

    for (key, words) in [
        ("config_format", "config.json not found"),
        ("tokenizer_mode", "expected tokenizer.json, vocab.json and merges.txt, or"),
        ("load_format", "no safetensors file and no pytorch_model.bin"),
    ] {
        let args = serve_args(MODEL, &with(json!({key: "hf"}))).to_string();
        let (args, _) = EngineArgs::parse(&args).expect("valid");
        let refused = Engines::load(&args, vec![options(MODEL)]).err().expect("a refusal");
        assert!(refused.message().contains(words), "{key}: {refused}");
    }
}
