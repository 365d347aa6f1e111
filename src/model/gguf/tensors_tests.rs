//! Tensors whose bytes are spoiled, and files that change.

use std::path::PathBuf;

use super::*;

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/qwen2/model.gguf")
}

#[test]
fn scales_must_be_numbers_and_files_stay_as_they_are() {
    let open = |path: &PathBuf| Gguf::open(path, &Arc::default()).unwrap();
    let at = open(&fixture()).find("blk.0.attn_q.weight").unwrap().at as usize;
    let mut bytes = std::fs::read(fixture()).unwrap();
    // A half that is infinite.
    bytes[at..at + 2].copy_from_slice(&[0x00, 0x7c]);
    let path = std::env::temp_dir().join(format!("gguf_spoiled_{}.gguf", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();

    let tensors = open(&path).tensors().unwrap();
    let names = ["model.layers.0.self_attn.q_proj.weight".to_string()];
    let said = tensors.codes(&names, &[32], 32).err().unwrap().to_string();
    assert!(tensors.unchanged().is_ok());
    std::fs::write(&path, &bytes[1..]).unwrap();
    let changed = tensors.unchanged().unwrap_err().to_string();
    std::fs::remove_file(&path).unwrap();
    assert!(said.contains("'blk.0.attn_q.weight' has a scale that is no finite number"), "{said}");
    assert!(changed.contains("changed while it was read"), "{changed}");
}
