//! libFuzzer on tokenizer_config.json.
#![no_main]

#[allow(dead_code)]
#[path = "../entries.rs"]
mod entries;

// libFuzzer's hook ends the process at a panic of the tokenizers crate, which `text` catches.
libfuzzer_sys::fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |data: &[u8]| {
    entries::tokenizer_config(data);
});
