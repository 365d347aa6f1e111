//! The ways by which bytes of strangers come in, one function each: whatever the bytes are, it
//! returns, takes bounded memory, and what it refuses it refuses in one line. `tests/fuzz` feeds
//! spoiled copies of good files, `fuzz_targets/` what libFuzzer finds. Request tensors are private
//! to the `triton` module and have theirs beside them (`src/triton/tensors.rs`).

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use triton_vllm::device::DType;
use triton_vllm::engine::EngineArgs;
use triton_vllm::error::{Error, Result};
use triton_vllm::ids::TokenId;
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::gguf::{Gguf, TokenizerParts, Vocabulary};
use triton_vllm::model::quant::LayerKind;
use triton_vllm::model::{Checkpoint, ModelSpec};
use triton_vllm::sampling::{SamplingLimits, SamplingParams};
use triton_vllm::text::{Grammars, NeverInterrupted, Next, Tokenizer, STACK_BYTES};

/// Tensors that the good checkpoints of `tests/fuzz` hold, with shapes right and wrong.
const TENSORS: [(&str, usize, usize); 6] = [
    ("a", 2, 3),
    ("a", 3, 2),
    ("b", 4, 1),
    ("c", 1, 1),
    ("model.decoder.layers.1.fc1.weight", 104, 64),
    ("model.decoder.layers.1.fc2.bias", 64, 1),
];

/// # Panics
/// If an error is not one line.
fn judge<T>(result: Result<T>) -> Option<T> {
    let one_line = |e: &Error| !e.message().is_empty() && !e.message().contains('\n');
    match result {
        Ok(value) => Some(value),
        Err(e) => {
            assert!(one_line(&e), "more than a line: {:?}", e.message());
            None
        }
    }
}

/// A folder of one thread, in memory where the machine has a place for that. Gone with the thread.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let thread = format!("{:?}", std::thread::current().id());
        Folder(base.join(format!("triton_vllm_fuzz_{}_{thread}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The folder with these files and no others.
fn folder(files: &[(&str, &[u8])]) -> PathBuf {
    thread_local!(static FOLDER: Folder = Folder::new());
    let folder = FOLDER.with(|folder| folder.0.clone());
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    for entry in std::fs::read_dir(&folder).expect("a temporary folder").flatten() {
        if !files.iter().any(|(name, _)| entry.file_name() == *name) {
            std::fs::remove_file(entry.path()).expect("a temporary file");
        }
    }
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).expect("a temporary file");
    }
    folder
}

/// Open a checkpoint and look at all of every tensor that fits, then once more while the files are
/// shorter than they were.
fn open(folder: PathBuf) {
    if let Some(checkpoint) = judge(Checkpoint::open(&folder)) {
        for (name, rows, cols) in TENSORS {
            if let Some(tensor) = judge(checkpoint.tensor(name, rows, cols)) {
                assert_eq!(judge(tensor.values()).map(|v| v.len()), Some(rows * cols));
            }
            judge(checkpoint.stack(name, 1, rows, cols));
        }
        checkpoint.stored_dtype();
        judge(checkpoint.unchanged());
        for entry in std::fs::read_dir(&folder).expect("a temporary folder").flatten() {
            let file = std::fs::File::options().write(true).open(entry.path());
            let file = file.expect("a temporary file");
            let length = file.metadata().expect("a temporary file").len();
            file.set_len(length / 2).expect("a temporary file");
        }
        for (name, rows, cols) in TENSORS {
            if let Ok(tensor) = checkpoint.tensor(name, rows, cols) {
                judge(tensor.values());
            }
        }
        judge(checkpoint.unchanged());
    }
}

pub fn safetensors(data: &[u8]) {
    open(folder(&[("model.safetensors", data)]));
}

/// An index over one good file, `a.safetensors`.
pub fn index(data: &[u8]) {
    let good = good_safetensors();
    open(folder(&[("model.safetensors.index.json", data), ("a.safetensors", &good)]));
}

/// A whole `pytorch_model.bin`.
pub fn torch(data: &[u8]) {
    open(folder(&[("pytorch_model.bin", data)]));
}

/// Only its pickle; the archive around it is sound.
pub fn pickle(data: &[u8]) {
    let storage = [0u8; 24];
    torch(&zip(&[("archive/data.pkl", data), ("archive/data/0", &storage)]));
}

/// Layers whose formats are asked for.
const LAYERS: [(LayerKind, &str); 4] = [
    (LayerKind::Linear, "model.layers.0.self_attn.q_proj"),
    (LayerKind::Linear, "model.layers.0.mlp.gate"),
    (LayerKind::Experts, "model.layers.0.mlp.experts.0.up_proj"),
    (LayerKind::Head, "lm_head"),
];

pub fn config(data: &[u8]) {
    described(folder(&[("config.json", data)]));
}

/// Mistral's own params.json, alone.
pub fn params(data: &[u8]) {
    described(folder(&[("params.json", data), ("consolidated.safetensors", b"")]));
}

/// What a folder's files make of a model.
fn described(folder: PathBuf) {
    let supported = &[DType::F32, DType::BF16, DType::F16];
    let options = SpecOptions { supported, ..Default::default() };
    if let Some(spec) = judge(ModelSpec::read(&folder, &options)) {
        judge(spec.kv_shape(None));
        assert!(spec.layers == spec.attention.len() && spec.max_model_len > 0);
        for (kind, name) in LAYERS {
            if let Some(quant) = &spec.quant {
                judge(quant.format_of(kind, &[name.to_string()], &|_| false));
            }
        }
    }
}

/// A whole GGUF file: keys as a configuration and as a tokenizer, tensors as floats and as codes.
pub fn gguf(data: &[u8]) {
    let path = folder(&[("model.gguf", data)]).join("model.gguf");
    let Some(gguf) = judge(Gguf::open(&path, &Arc::default())) else { return };
    if let Some(keys) = judge(gguf.config()) {
        let supported = &[DType::F32, DType::BF16, DType::F16];
        let options = SpecOptions { supported, ..Default::default() };
        judge(ModelSpec::from_keys(gguf.path(), keys, &options));
    }
    if let Some(TokenizerParts { vocabulary, config }) = judge(gguf.tokenizer()) {
        let tokenizer = match vocabulary {
            Vocabulary::Json(whole) => Tokenizer::from_json(&path, &whole, &config),
            Vocabulary::Pieces(pieces) => Tokenizer::from_pieces(&path, &pieces, &config),
        };
        if let Some(ids) = judge(tokenizer).and_then(|made| judge(made.encode("a <s> \u{e9} 12"))) {
            assert!(ids.len() < 100);
        }
    }

    let Some(tensors) = judge(gguf.tensors()) else { return };
    let checkpoint = Checkpoint::of_gguf(tensors);
    let names: Vec<String> = checkpoint.names().take(40).map(str::to_string).collect();
    for name in &names {
        for (rows, cols) in [(32, 1), (97, 32), (16, 32), (32, 32), (64, 32), (32, 64)] {
            if let Some(tensor) = judge(checkpoint.tensor(name, rows, cols)) {
                assert_eq!(judge(tensor.values()).map(|v| v.len()), Some(rows * cols));
            }
            let codes = checkpoint.codes(std::slice::from_ref(name), &[rows], cols);
            if let Some(Some((form, parts))) = judge(codes) {
                let values = judge(parts[0].values(&form, 0..rows));
                assert_eq!(values.map(|v| v.len()), Some(rows * cols));
            }
        }
    }
    judge(checkpoint.unchanged());
}

pub fn model_json(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        judge(EngineArgs::parse(text));
    }
}

pub fn sampling(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let limits = SamplingLimits::new(1000, 20);
        judge(SamplingParams::parse_text(text, &limits));
    }
}

/// Sampling parameters with a grammar in them, against a small vocabulary: compiled, then a few
/// masks.
pub fn grammar(data: &[u8]) {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    let limits = SamplingLimits::new(559, 20);
    let text = String::from_utf8_lossy(data);
    let Some(params) = judge(SamplingParams::parse_text(&text, &limits)) else { return };
    let Some(outputs) = params.structured_outputs else { return };
    let grammars = GRAMMARS.get_or_init(|| {
        let whole = include_bytes!("../tests/fixtures/tokenizers/json-llama3/tokenizer.json");
        let tokenizer = Tokenizer::load(&folder(&[("tokenizer.json", whole)]));
        let tokenizer = Arc::new(tokenizer.expect("a fixture"));
        let timeout = Duration::from_secs(5);
        Grammars::new(tokenizer, 559, &[TokenId(558)], Default::default(), timeout)
    });
    let work = || {
        // The compiler points into the grammar, in several lines.
        let Ok(mut guide) = grammars.compile(&outputs, &NeverInterrupted) else { return };
        for _ in 0..4 {
            let Some(Next::Mask(mask)) = judge(guide.next(&[])) else { return };
            let words = mask.iter().zip(0u32..).find(|(word, _)| **word != 0);
            let Some((word, n)) = words else { return };
            judge(guide.accept(TokenId(32 * n + word.trailing_zeros())));
        }
    };
    // As the engine does: grammars nest.
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    std::thread::scope(|scope| {
        let thread = thread.spawn_scoped(scope, work).expect("a thread");
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Load, then a text to ids and back.
fn tokenize(files: &[(&str, &[u8])]) {
    let folder = folder(files);
    if let Some(tokenizer) = judge(Tokenizer::load(&folder)) {
        if let Some(ids) = judge(tokenizer.encode("Hello <s> wörld, 1 + 1\n\t\u{1f600}</s> x")) {
            judge(tokenizer.decode(&ids, true));
            judge(tokenizer.decode(&ids, false));
        }
    }
}

pub fn tokenizer_json(data: &[u8]) {
    tokenize(&[("tokenizer.json", data)]);
}

/// Mistral's own tokenizer file.
pub fn tekken(data: &[u8]) {
    tokenize(&[("tekken.json", data)]);
}

pub fn sentencepiece(data: &[u8]) {
    tokenize(&[("tokenizer.model", data)]);
}

/// A vocabulary, then a line of three dashes, then merges.
pub fn vocab_and_merges(data: &[u8]) {
    let cut = data.windows(5).position(|w| w == b"\n---\n").unwrap_or(data.len());
    let merges = data.get(cut + 5..).unwrap_or_default();
    tokenize(&[("vocab.json", &data[..cut]), ("merges.txt", merges)]);
}

/// What says how the rest is meant, beside a small vocabulary.
pub fn tokenizer_config(data: &[u8]) {
    let vocab = br#"{"a":0,"b":1,"ab":2,"<s>":3,"</s>":4}"#;
    let files: [(&str, &[u8]); 3] =
        [("vocab.json", vocab), ("merges.txt", b"a b\n"), ("tokenizer_config.json", data)];
    tokenize(&files);
}

/// Three small tensors: a matrix, a vector, an element.
pub fn good_safetensors() -> Vec<u8> {
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"#,
        r#""a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"#,
        r#""b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"#,
        r#""c":{"dtype":"F16","shape":[1,1],"data_offsets":[32,34]}}"#,
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend([0u8; 34]);
    file
}

/// `{"a": tensor of 2 x 3}` over storage 0, as torch.save writes it.
pub fn good_pickle() -> Vec<u8> {
    let mut pickle = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01".to_vec();
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03");
    pickle.extend(b"ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06");
    pickle.extend(b"K\x06tq\x07QK\x00K\x02K\x03\x86q\x08K\x03K\x01\x86q\x09\x89");
    pickle.extend(b"ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds.");
    pickle
}

/// A zip archive of stored entries without checksums, which torch.save's readers do not need.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for (name, bytes) in entries {
        let sizes = (bytes.len() as u32).to_le_bytes();
        let name_length = (name.len() as u16).to_le_bytes();
        let at = (file.len() as u32).to_le_bytes();

        file.extend(b"PK\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00");
        file.extend([sizes, sizes].concat());
        file.extend(name_length);
        file.extend([0, 0]);
        file.extend(name.as_bytes());
        file.extend(*bytes);

        directory.extend(b"PK\x01\x02\x00\x00\x00\x00\x00\x00\x00\x00");
        directory.extend([0; 8]);
        directory.extend([sizes, sizes].concat());
        directory.extend(name_length);
        directory.extend([0; 12]);
        directory.extend(at);
        directory.extend(name.as_bytes());
    }

    let start = (file.len() as u32).to_le_bytes();
    let size = (directory.len() as u32).to_le_bytes();
    let count = (entries.len() as u16).to_le_bytes();

    file.extend(directory);
    file.extend(b"PK\x05\x06\x00\x00\x00\x00");
    file.extend([count, count].concat());
    file.extend([size, start].concat());
    file.extend([0, 0]);
    file
}

/// An image file, decoded and, if it is one, processed as Qwen's are.
pub fn image(bytes: &[u8]) {
    let Some(picture) = judge(triton_vllm::image::decode(bytes)) else { return };
    assert_eq!(picture.bytes().len(), 3 * picture.width() * picture.height());
    let keys = serde_json::Map::new();
    let kind = triton_vllm::image::Kind::Qwen;
    let settings = triton_vllm::image::Settings::read("fuzz", &keys, kind, 14, 2);
    let Some(settings) = judge(settings) else { return };
    judge(triton_vllm::image::Processor { settings }.process(&picture));
}

/// The text of an image, and its file.
pub fn image_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(file) = judge(triton_vllm::image::decode_text(text)) {
        image(&file);
    }
}
