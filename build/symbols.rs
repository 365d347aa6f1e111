//! Which functions of the NVIDIA driver and of cuBLASLt `src/device/cuda/*.rs` use, read from the
//! sources, so that no list of them is kept by hand. Called by `build.rs` with the feature `cuda`;
//! `context.rs` and `gemm.rs` include what it writes and look every function up before they call
//! the first, because cudarc panics where one is missing.
//!
//! A function is used where its name stands in code: called, passed on, or looked up as a byte
//! string. Comments and other strings do not count.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

const FOLDER: &str = "src/device/cuda";

/// Write `driver_symbols.rs` and `cublaslt_symbols.rs`: an array of names each.
///
/// # Errors
/// A text for the user: a source that cannot be read, or a list that cannot be written.
pub fn write() -> Result<(), String> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").map_err(|e| e.to_string())?);
    let out = PathBuf::from(std::env::var("OUT_DIR").map_err(|e| e.to_string())?);
    println!("cargo:rerun-if-changed={FOLDER}");
    let mut words = BTreeSet::new();
    let entries = fs::read_dir(root.join(FOLDER)).map_err(|e| format!("{FOLDER}: {e}"))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path);
            words.extend(words_of(&text.map_err(|e| format!("{}: {e}", path.display()))?));
        }
    }
    for (file, prefix) in [("driver_symbols.rs", "cu"), ("cublaslt_symbols.rs", "cublasLt")] {
        let names: Vec<&String> = words.iter().filter(|word| is_function(word, prefix)).collect();
        fs::write(out.join(file), format!("&{names:?}")).map_err(|e| format!("{file}: {e}"))?;
    }
    Ok(())
}

/// `cuInit`, `cublasLtMatmul`; not `cublasLtMatmul` among those of `cu`, nor `cublasLtHandle_t`.
fn is_function(word: &str, prefix: &str) -> bool {
    let rest = word.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
        && !word.ends_with("_t")
}

/// Identifiers of a source's code, and the contents of its byte strings.
fn words_of(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';

        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' || rest.starts_with("b\"") {
            let begin = rest.find('"').map_or(0, |quote| quote + 1);
            let length = string_length(&rest[begin..]);
            if first == 'b' {
                words.insert(rest[begin..begin + length].to_string());
            }
            (begin + length + 1).min(rest.len())
        } else if rest.starts_with("'\"'") {
            3
        } else if is_word(first) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            words.insert(rest[..length].to_string());
            length
        } else {
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    words
}

/// Bytes up to the quote that ends a string.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.unwrap_or(text.len())
}
