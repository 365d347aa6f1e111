//! Spoiled files of every format that comes from outside, some thousands of each: no panic, no
//! hang, bounded memory, and one line for what is refused. The same functions as under libFuzzer
//! (`fuzz/`), driven by a seeded mutator.

// main.rs has sampling parameters and model.json.
#[allow(dead_code)]
#[path = "../../fuzz/entries.rs"]
mod entries;

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::seeds;

/// Peak of the whole process over all tests of this binary, which run side by side.
const MOST_MEMORY_KIB: u64 = 600 << 10;
/// A case takes milliseconds; this long it hangs.
const HANGS_AFTER: Duration = Duration::from_secs(100);

/// What parsers trip over, for any format.
const WORDS: [&[u8]; 22] = [
    b"0",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"9223372036854775808",
    b"4294967295",
    b"16777216",
    b"16777217",
    b"null",
    b"true",
    b"\"\"",
    b"\"\\n\"",
    b"{}",
    b"[]",
    b"[[[[[[[[",
    b"NaN",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\xc3",
    b"\xe2\x96\x81",
    b"\n",
];

struct Noise(u64);

impl Noise {
    /// Below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    /// A range of at most `longest` in `length`.
    fn range(&mut self, length: usize, longest: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..(start + self.below(longest + 1)).min(length)
    }

    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let word = WORDS[self.below(WORDS.len())];
        match self.below(9) {
            0 if length > 0 => bytes[self.below(length)] ^= 1 << self.below(8),
            1 if length > 0 => bytes[self.below(length)] = self.below(256) as u8,
            2 => bytes.truncate(self.below(length + 1)),
            3 => drop(bytes.drain(self.range(length, 20))),
            4 => {
                let copied = self.range(length, 40);
                let at = self.below(length + 1);
                let copied = bytes[copied].to_vec();
                drop(bytes.splice(at..at, copied));
            }
            5 => {
                let at = self.below(length + 1);
                drop(bytes.splice(at..at, word.iter().copied()));
            }
            6 => drop(bytes.splice(self.range(length, 8), word.iter().copied())),
            // A number, or a value in quotes, for another.
            7 => self.replace(bytes, word, |b| b.is_ascii_digit()),
            _ => self.replace(bytes, word, |b| b != b'"' && b != b',' && b != b':'),
        }
    }

    /// The run of such bytes from some place on becomes `word`.
    fn replace(&mut self, bytes: &mut Vec<u8>, word: &[u8], of: impl Fn(u8) -> bool) {
        let from = self.below(bytes.len() + 1);
        let start = bytes[from..].iter().position(|&b| of(b)).map_or(from, |n| from + n);
        let end = bytes[start..].iter().position(|&b| !of(b)).map_or(bytes.len(), |n| start + n);
        drop(bytes.splice(start..end, word.iter().copied()));
    }
}

/// Feed `count` spoiled copies of each good file. Good ones must pass too.
fn drive(entry: fn(&[u8]), count: u64, good: &[Vec<u8>]) {
    let (alive, watch) = mpsc::channel();
    let watchdog = std::thread::spawn(move || {
        let mut last = 0;
        loop {
            match watch.recv_timeout(HANGS_AFTER) {
                Ok(case) => last = case,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("case {last} hangs");
                    std::process::abort();
                }
            }
        }
    });

    for (n, good) in good.iter().enumerate() {
        entry(good);
        for case in seeds(count) {
            alive.send(case).unwrap();
            let mut noise = Noise(case.wrapping_mul(0x9e37_79b9_7f4a_7c15) + n as u64);
            let mut bytes = good.clone();
            for _ in 0..=noise.below(4) {
                noise.spoil(&mut bytes);
            }

            let run = std::panic::AssertUnwindSafe(|| entry(&bytes));
            if let Err(panic) = std::panic::catch_unwind(run) {
                let text = String::from_utf8_lossy(&bytes);
                eprintln!("file {n}, repeat it: FUZZ_SEED={case}\n{text:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }

    drop(alive);
    watchdog.join().unwrap();

    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB at the peak");
}

fn fixture(path: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::read(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn silence_tokenizers() {
    std::panic::set_hook(Box::new(|info| {
        if !info.location().is_some_and(|l| l.file().contains("tokenizers")) {
            eprintln!("{info}");
        }
    }));
}

#[test]
fn safetensors_headers() {
    drive(entries::safetensors, 4000, &[entries::good_safetensors()]);
}

#[test]
fn safetensors_indexes() {
    let index = br#"{"metadata": {"total_size": 34}, "weight_map": {"a": "a.safetensors",
        "b": "a.safetensors", "c": "a.safetensors"}}"#;
    drive(entries::index, 1500, &[index.to_vec()]);
}

#[test]
fn pytorch_archives() {
    let shard = "models/opt-bin-sharded/pytorch_model-00004-of-00004.bin";
    drive(entries::torch, 1000, &[fixture(shard)]);
}

#[test]
fn pickles() {
    drive(entries::pickle, 5000, &[entries::good_pickle()]);
}

/// Panics of the tokenizers crate are caught, and silenced as below.
#[test]
fn gguf_files() {
    silence_tokenizers();
    let good = ["qwen2/model.gguf", "tokenizers/json-llama3.gguf", "tokenizers/spm-bpe.gguf"];
    drive(entries::gguf, 400, &good.map(|name| fixture(&format!("gguf/{name}"))));
}

#[test]
fn configs() {
    let names = ["llama-rope-llama3", "gemma3-v5-config", "phi3-longrope-long", "qwen2-moe-step"];
    let good = names.map(|name| fixture(&format!("models/{name}/config.json")));
    drive(entries::config, 1200, &good);
}

/// Mistral's own, and its tokenizer.
#[test]
fn mistrals_own_files() {
    silence_tokenizers();
    let names = ["models/ministral3-own/params.json", "quantised/fp8-mistral-own/params.json"];
    drive(entries::params, 1200, &names.map(fixture));
    drive(entries::tekken, 150, &[fixture("tokenizers/tekken-listed/tekken.json")]);
}

/// The same with a method of quantisation each, whose layers are asked for.
#[test]
fn quantised_configs() {
    let methods: [&str; 6] = [
        r#"{"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
            "ignored_layers": ["lm_head", "model.layers.0.mlp.experts.0.up_proj"]}"#,
        r#"{"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head",
            "re:.*mlp.gate$"], "config_groups": {"a": {"targets": ["Linear", "re:(?!x).*q_proj"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
            "symmetric": false}, "input_activations": null}}, "kv_cache_scheme": {"num_bits": 8,
            "type": "float", "strategy": "tensor", "symmetric": true}}"#,
        r#"{"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": true, "desc_act": false,
            "dynamic": {"-:.*gate": {}, "+:.*layers\\.0.*": {"bits": 8, "group_size": 64}},
            "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]]}"#,
        r#"{"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": true,
            "packing_format": "auto_round:auto_awq", "extra_config": {".*gate$": {"bits": 16},
            "lm_head": {"bits": 4}}, "block_name_to_quantize": "model.layers"}"#,
        r#"{"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "ignore": ["*.mlp.[a-g]*"],
            "quantized_layers": {"lm_head": {"quant_algo": "NVFP4", "group_size": 16}}}"#,
        r#"{"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false,
            "llm_int8_skip_modules": ["lm_head", "mlp.gate"], "bnb_4bit_quant_type": "nf4"}"#,
    ];

    let config = |quant: &str| {
        format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "quantization_config": {quant},
                "hidden_size": 64}}"#
        )
        .into_bytes()
    };
    drive(entries::config, 1800, &methods.map(config));
}

/// Strings of every kind of grammar. More of them are beside the compiler (`text/grammar`).
#[test]
fn grammars() {
    let good: [&[u8]; 6] = [
        br#"{"structured_outputs": {"regex": "(a|[^b-z]{2,5}\\w+?)*\\.x$"}}"#,
        br#"{"structured_outputs": {"choice": ["yes", "no", "maybe"]}}"#,
        br#"{"structured_outputs": {"grammar": "root ::= (\"a\" b{2,3})? b\nb ::= [x-z]+"}}"#,
        br#"{"structured_outputs": {"grammar": "start: A | a\na: \"x\" a\nA: /[0-9]+/"}}"#,
        br#"{"structured_outputs": {"json": {"type": "object", "properties": {"a": {"type":
            "integer", "minimum": 3}, "b": {"enum": [1, "x"]}}, "required": ["a"]},
            "disable_any_whitespace": true}}"#,
        br#"{"structured_outputs": {"structural_tag": {"structures": [{"begin": "<a>", "schema":
            {"type": "array", "items": {"type": "boolean"}}, "end": "</a>"}],
            "triggers": ["<a"]}}}"#,
    ];
    drive(entries::grammar, 60, &good.map(<[u8]>::to_vec));
}

/// The tokenizers crate trusts some files and panics: those panics are caught, and silenced here.
#[test]
fn tokenizer_files() {
    silence_tokenizers();
    drive(entries::tokenizer_config, 2500, &[fixture("tokenizers/opt-like/tokenizer_config.json")]);

    let vocab = br#"{"a":0,"b":1,"ab":2,"<s>":3,"</s>":4,"\u0120":5,"H":6,"e":7,"l":8,"o":9}"#;
    let both = [&vocab[..], b"\n---\n#version: 0.2\na b\nl o\nH e\n"].concat();
    drive(entries::vocab_and_merges, 2500, &[both]);

    let models =
        ["spm-bpe", "spm-unigram"].map(|n| fixture(&format!("tokenizers/{n}/tokenizer.model")));
    drive(entries::sentencepiece, 150, &models);

    let whole = br#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 8,
        "strategy": "LongestFirst", "stride": 2}, "padding": null, "added_tokens": [{"id": 3,
        "content": "<s>", "single_word": false, "lstrip": true, "rstrip": false,
        "normalized": false, "special": true}], "normalizer": {"type": "Sequence", "normalizers":
        [{"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
        "use_regex": true}, "post_processor": {"type": "TemplateProcessing", "single":
        [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}}, "decoder":
        {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": "a", "fuse_unk": false,
        "byte_fallback": false, "ignore_merges": false, "vocab": {"a": 0, "b": 1, "ab": 2,
        "<s>": 3}, "merges": [["a", "b"]]}}"#;
    drive(entries::tokenizer_json, 2500, &[whole.to_vec()]);
}

/// Image files of every format, and the text that a client sends of one.
#[test]
fn images() {
    let names = [
        "png_2_8.png",
        "png_3_4.png",
        "jpeg_2_30_s_37.jpg",
        "jpeg_1_75_p_37.jpg",
        "jpeg_cmyk.jpg",
        "webp_lossy_alpha.webp",
        "webp_animated.webp",
        "gif_part.gif",
        "bmp_rle4.bmp",
        "bmp_565.bmp",
        "tiff_lzw.tiff",
        "tiff_turned.tiff",
    ];
    drive(entries::image, 700, &names.map(|name| fixture(&format!("images/{name}"))));
    let text =
        b"data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP8AACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==";
    drive(entries::image_text, 3000, &[text.to_vec()]);
}
