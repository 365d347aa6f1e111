//! Bad checkpoints: each gives one line that names the file and what is wrong, and never a crash.

#[path = "checkpoints/quantised.rs"]
mod quantised;

use std::path::{Path, PathBuf};

use serde_json::{json, Value};
use triton_vllm::device::trace::{Held, Trace};
use triton_vllm::device::{DType, DeviceLimits};
use triton_vllm::error::Error;
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::{Checkpoint, Decoder, Files, ModelSpec, WeightSource};

/// A copy of a fixture that a test may spoil; removed at the end.
struct Spoiled(PathBuf);

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, to).unwrap();
        }
    }
}

/// How much of a checkpoint is read.
#[derive(Debug, Clone, Copy)]
enum Load {
    Whole,
    Shapes,
    Dummy,
}

impl Spoiled {
    fn of(fixture: &str, name: &str) -> Spoiled {
        Spoiled::from("models", fixture, name)
    }

    fn from(folder: &str, fixture: &str, name: &str) -> Spoiled {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let from = root.join(folder).join(fixture);
        let unique = format!("triton_vllm_{}_{name}", std::process::id());
        let dir = std::env::temp_dir().join(unique);
        copy(&from, &dir);
        Spoiled(dir)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    fn config(&self, key: &str, value: Value) {
        let path = self.path("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// Rewrite the header of model.safetensors, keeping the data.
    fn header(&self, change: impl Fn(&mut Value)) {
        let path = self.path("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let (header, data) = split(&bytes);
        let mut json: Value = serde_json::from_slice(header).unwrap();
        change(&mut json);
        let text = json.to_string();
        let mut new = (text.len() as u64).to_le_bytes().to_vec();
        new.extend(text.as_bytes());
        new.extend(data);
        std::fs::write(path, new).unwrap();
    }

    fn bytes(&self, change: impl Fn(&mut Vec<u8>)) {
        let path = self.path("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }

    /// Change the bytes of a tensor of model.safetensors.
    fn tensor(&self, name: &str, change: impl Fn(&mut [u8])) {
        self.bytes(|bytes| {
            let (header, _) = split(bytes);
            let json: Value = serde_json::from_slice(header).unwrap();
            let start = 8 + header.len();
            let at = |n: usize| start + json[name]["data_offsets"][n].as_u64().unwrap() as usize;
            let range = at(0)..at(1);
            change(&mut bytes[range]);
        });
    }

    /// Call a tensor by a name that nobody asks for.
    fn without(&self, name: &str) {
        self.header(|h| {
            let tensor = h.as_object_mut().unwrap().remove(name).unwrap();
            h["other"] = tensor;
        });
    }

    fn load(&self) -> Result<(), Error> {
        self.held(Load::Whole).map(drop)
    }

    /// What a load would take.
    fn held(&self, load: Load) -> Result<Held, Error> {
        let checkpoint = Checkpoint::open(&self.0)?;
        let supported = &[DType::F32, DType::BF16, DType::F16];
        let options = SpecOptions { supported, ..Default::default() };
        let spec = ModelSpec::read(&self.0, &options)?;
        let limits = DeviceLimits {
            step_tokens: 16,
            slots: 1,
            logits_rows: 1,
            pages: 9,
            page_size: 16,
            max_model_len: spec.max_model_len,
            kv: spec.kv_shape(None)?,
            state: Default::default(),
            snapshots: 0,
            spares: 0,
        };

        let mut trace = Trace::new(DType::F32);
        let files = WeightSource::Files(checkpoint);
        match load {
            Load::Whole => Decoder::load(&spec, &files, &mut trace, &limits)?,
            Load::Shapes => Decoder::load_shapes(&spec, &files, &mut trace, &limits)?,
            Load::Dummy => Decoder::load(&spec, &WeightSource::Dummy, &mut trace, &limits)?,
        };
        Ok(trace.held())
    }

    /// The one line; it names the folder's file and holds all of `wanted`.
    #[track_caller]
    fn refused(&self, file: &str, wanted: &[&str]) {
        let refused = self.load().err();
        let refused = refused.unwrap_or_else(|| panic!("loads without {wanted:?}: {:?}", self.0));
        let text = refused.message().to_string();
        assert!(!text.contains('\n'), "more than a line: {text}");
        assert!(text.contains(file), "does not name {file}: {text}");
        for part in wanted {
            assert!(text.contains(part), "lacks {part:?}: {text}");
        }
    }
}

impl Drop for Spoiled {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8..].split_at(length)
}

const FILE: &str = "model.safetensors";
const DOWN: &str = "model.layers.1.mlp.down_proj.weight";

#[test]
fn good_ones_load() {
    for fixture in ["llama", "llama-sharded", "opt-bin", "opt-bin-sharded", "gpt2-no-prefix"] {
        Spoiled::of(fixture, &format!("good_{fixture}")).load().unwrap();
    }
}

#[test]
fn cut_files() {
    for (n, keep) in [0usize, 7, 8, 100, 4000, 100_000].into_iter().enumerate() {
        let spoiled = Spoiled::of("llama", &format!("cut_{n}"));
        spoiled.bytes(|b| b.truncate(keep));
        let short = format!("{keep} bytes");
        spoiled.refused(FILE, &[if keep == 0 { "is empty" } else { &short }]);
    }
    let spoiled = Spoiled::of("llama", "cut_last");
    spoiled.bytes(|b| b.truncate(b.len() - 1));
    spoiled.refused(FILE, &["not a whole safetensors file"]);
    let spoiled = Spoiled::of("llama", "longer");
    spoiled.bytes(|b| b.push(0));
    spoiled.refused(FILE, &["not a whole safetensors file"]);
}

#[test]
fn lying_headers() {
    for (n, length) in [u64::MAX, u64::MAX - 8, 1 << 62, 1 << 30, 3, 0].into_iter().enumerate() {
        let spoiled = Spoiled::of("llama", &format!("length_{n}"));
        spoiled.bytes(|b| b[..8].copy_from_slice(&length.to_le_bytes()));
        spoiled.refused(FILE, &["not a whole safetensors file"]);
    }
    type Lie = fn(&mut Value);
    let lies: [(&str, Lie); 5] = [
        ("beyond", |h| h[DOWN]["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 18432])),
        ("backwards", |h| h[DOWN]["data_offsets"] = json!([100, 0])),
        ("shape", |h| h[DOWN]["shape"] = json!([64, 9_999_999])),
        ("overflow", |h| h[DOWN]["shape"] = json!([u64::MAX, u64::MAX])),
        ("dtype", |h| h[DOWN]["dtype"] = json!("F13")),
    ];
    for (name, lie) in lies {
        let spoiled = Spoiled::of("llama", name);
        spoiled.header(lie);
        spoiled.refused(FILE, &["not a whole safetensors file"]);
    }
    let spoiled = Spoiled::of("llama", "garbage");
    spoiled.bytes(|b| b[8..40].fill(0xff));
    spoiled.refused(FILE, &["not a whole safetensors file"]);
}

#[test]
fn wrong_tensors() {
    let spoiled = Spoiled::of("llama", "missing");
    spoiled.header(|h| {
        let down = h.as_object_mut().unwrap().remove(DOWN).unwrap();
        h["other"] = down;
    });
    spoiled.refused(&spoiled.0.to_string_lossy(), &[DOWN, "is missing", "[64, 72]"]);

    let spoiled = Spoiled::of("llama", "transposed");
    spoiled.header(|h| h[DOWN]["shape"] = json!([72, 64]));
    spoiled.refused(FILE, &[DOWN, "[72, 64]", "expected [64, 72]"]);

    let spoiled = Spoiled::of("llama", "ints");
    spoiled.header(|h| h[DOWN]["dtype"] = json!("I32"));
    spoiled.refused(FILE, &[DOWN, "dtype I32", "expected F32, F16 or BF16"]);

    let spoiled = Spoiled::of("llama", "vocab");
    spoiled.config("vocab_size", json!(308));
    spoiled.refused(FILE, &["embed_tokens.weight", "[307, 64]", "[308, 64]"]);
}

/// Tensors that some checkpoints carry and no model needs; and those of layers and experts behind
/// the first, which are read as the first one's are.
fn unneeded(name: &str) -> bool {
    let later = (1..10).any(|n| name.contains(&format!(".{n}.")));
    let tower = [
        "vision_tower.",
        "vision_model.",
        "multi_modal_projector.",
        "model.visual.",
        "model.vision_tower.",
        "model.embed_vision.",
        "mtp.",
        "pooler.",
    ];
    later
        || name.ends_with("rotary_emb.inv_freq")
        || name.ends_with(".attn.bias")
        // Constants, whose usual values are known.
        || [".act_fn.beta", ".act_fn.eps"].iter().any(|end| name.ends_with(end))
        || tower.iter().any(|prefix| name.starts_with(prefix))
}

/// Tensors whose names tell how others are called: without them some other one is missed.
fn tells_names(name: &str) -> bool {
    let table = ["embed", "wte", "wpe"].iter().any(|part| name.contains(part));
    let stack = name.contains("experts.") && !name.ends_with(".weight");
    let original = name.ends_with(".parametrizations.weight.original");
    table || stack || original || name.ends_with(".gate.weight")
}

/// Each tensor of each family, by another name or turned around: one line that names it.
#[test]
fn every_tensor_of_every_family_is_missed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let (mut missed, mut turned) = (0, 0);
    for entry in std::fs::read_dir(root).unwrap() {
        let fixture = entry.unwrap().file_name().into_string().unwrap();
        let spoiled = Spoiled::of(&fixture, &format!("each_{fixture}"));
        let Ok(good) = std::fs::read(spoiled.path(FILE)) else { continue };
        let header: Value = serde_json::from_slice(split(&good).0).unwrap();
        let names = header.as_object().unwrap().keys().filter(|n| *n != "__metadata__");
        for name in names.filter(|name| !unneeded(name)) {
            let wanted = if tells_names(name) { "tensor '" } else { name.as_str() };
            spoiled.header(|h| {
                let tensor = h.as_object_mut().unwrap().remove(name).unwrap();
                h["other"] = tensor;
            });
            spoiled.refused("triton_vllm_", &[wanted, "is missing"]);
            missed += 1;
            std::fs::write(spoiled.path(FILE), &good).unwrap();

            let shape = header[name]["shape"].as_array().unwrap();
            let reversed: Vec<Value> = match shape.len() {
                1 => vec![json!(1), shape[0].clone()],
                _ => shape.iter().rev().cloned().collect(),
            };
            // What there is of each expert may be a row of one.
            let of_experts = ["e_score_correction_bias", "per_expert_scale"];
            let either = of_experts.iter().any(|end| name.ends_with(end));
            if &reversed == shape || shape[0] == 1 || either {
                continue;
            }

            spoiled.header(|h| h[name]["shape"] = json!(reversed));
            // Of a pair that does not fit, either may be named.
            let pair = name.strip_suffix(['A', 'B']).unwrap_or(name);
            spoiled.refused(FILE, &[pair, "has shape", "expected"]);
            turned += 1;
            std::fs::write(spoiled.path(FILE), &good).unwrap();
        }
        spoiled.load().unwrap();
    }
    assert!(missed > 500 && turned > 400, "{missed} missed, {turned} turned");
}

/// Mistral's own files: tensors are named as they are elsewhere, keys as they are there.
#[test]
fn mistrals_own_format() {
    const WEIGHTS: &str = "consolidated.safetensors";
    let spoiled = Spoiled::of("mistral-own", "own");
    spoiled.load().unwrap();
    let params = std::fs::read_to_string(spoiled.path("params.json")).unwrap();
    let with = |old: &str, new: &str| {
        std::fs::write(spoiled.path("params.json"), params.replace(old, new)).unwrap();
    };
    with("\"n_layers\": 2", "\"n_layers\": 3");
    spoiled.refused("triton_vllm_", &["'model.layers.2.", "is missing"]);
    with("\"dim\": 32", "\"dim\": 36");
    spoiled.refused(WEIGHTS, &["has shape", "expected"]);
    with("\"dim\": 32", "\"dim\": \"wide\"");
    spoiled.refused("params.json", &["'dim' must be an integer"]);
    with("{", "");
    spoiled.refused("params.json", &["JSON"]);
    with("", "");

    std::fs::write(spoiled.path(WEIGHTS), b"rubbish").unwrap();
    spoiled.refused(WEIGHTS, &["too few for a checkpoint"]);
    std::fs::remove_file(spoiled.path(WEIGHTS)).unwrap();
    spoiled.refused("triton_vllm_", &["no model.safetensors"]);
}

#[test]
fn missing_files() {
    let spoiled = Spoiled::of("llama", "no_config");
    std::fs::remove_file(spoiled.path("config.json")).unwrap();
    spoiled.refused("config.json", &["not found"]);

    let spoiled = Spoiled::of("llama", "no_weights");
    std::fs::remove_file(spoiled.path(FILE)).unwrap();
    spoiled.refused(&spoiled.0.to_string_lossy(), &["no model.safetensors"]);
    std::fs::write(spoiled.path("weights.gguf"), b"x").unwrap();
    spoiled.refused(&spoiled.0.to_string_lossy(), &["holds GGUF, which is read where"]);
    std::fs::write(spoiled.path("pytorch_model.bin"), b"x").unwrap();
    spoiled.refused("pytorch_model.bin", &["1 bytes are too few"]);
    std::fs::write(spoiled.path("pytorch_model.bin"), b"\x80\x02}q\x00.rubbish").unwrap();
    spoiled.refused("pytorch_model.bin", &["not a zip archive", "convert"]);

    let spoiled = Spoiled::of("llama-sharded", "no_shard");
    let shard = "model-00002-of-00003.safetensors";
    std::fs::remove_file(spoiled.path(shard)).unwrap();
    spoiled.refused(shard, &["not found"]);

    let gone = Spoiled(std::env::temp_dir().join("triton_vllm_no_such_folder"));
    gone.refused("triton_vllm_no_such_folder", &["not found"]);
}

#[test]
fn bad_configs_and_indexes() {
    let spoiled = Spoiled::of("llama", "architecture");
    spoiled.config("architectures", json!(["RwkvForCausalLM"]));
    // By config.json's model_type.
    let nearest = "the nearest that is: LlamaForCausalLM. All that are: docs/models.md.";
    spoiled.refused("'RwkvForCausalLM'", &[nearest]);

    let spoiled = Spoiled::of("llama", "layers");
    spoiled.config("num_hidden_layers", json!(1 << 24));
    spoiled.refused("config.json", &["num_hidden_layers", "16777216", "4096"]);
    let spoiled = Spoiled::of("llama", "line_break");
    spoiled.config("architectures", json!(["Llama\nERROR: all is lost"]));
    spoiled.refused("config.json", &[r"'Llama\nERROR: all is lost'"]);

    for (name, text, word) in
        [("not_json", "{", "JSON"), ("not_object", "[]", "JSON"), ("empty", "", "is empty")]
    {
        let spoiled = Spoiled::of("llama", name);
        std::fs::write(spoiled.path("config.json"), text).unwrap();
        spoiled.refused("config.json", &[word]);
    }
    let index = "model.safetensors.index.json";
    for (n, text) in [r#"{"weight_map": {"x": "../../etc/passwd"}}"#, r#"{"weight_map": 3}"#, "x"]
        .into_iter()
        .enumerate()
    {
        let spoiled = Spoiled::of("llama-sharded", &format!("index_{n}"));
        std::fs::write(spoiled.path(index), text).unwrap();
        spoiled.refused(index, &[]);
    }
    let spoiled = Spoiled::of("llama-sharded", "twice");
    let text = std::fs::read_to_string(spoiled.path(index)).unwrap();
    std::fs::copy(
        spoiled.path("model-00001-of-00003.safetensors"),
        spoiled.path("copy.safetensors"),
    )
    .unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["weight_map"]["other"] = json!("copy.safetensors");
    std::fs::write(spoiled.path(index), json.to_string()).unwrap();
    spoiled.refused("model-00001-of-00003.safetensors", &["is also in", "copy.safetensors"]);
}

#[test]
fn second_copies_are_left_out() {
    let spoiled = Spoiled::of("llama", "consolidated");
    std::fs::write(spoiled.path("consolidated.safetensors"), b"rubbish").unwrap();
    std::fs::create_dir(spoiled.path("original")).unwrap();
    std::fs::write(spoiled.path("original/x.safetensors"), b"rubbish").unwrap();
    spoiled.load().unwrap();
    // Also where the files have other names.
    std::fs::rename(spoiled.path(FILE), spoiled.path("weights.safetensors")).unwrap();
    spoiled.load().unwrap();
}

#[test]
fn one_format_only() {
    let spoiled = Spoiled::of("opt-bin", "formats");
    assert!(Checkpoint::open_only(&spoiled.0, Files::Torch).is_ok());
    let error = Checkpoint::open_only(&spoiled.0, Files::Safetensors).err().unwrap();
    assert!(error.message().contains("pytorch_model.bin"), "{error}");
    // Where there are both, safetensors win, unless PyTorch's files are asked for.
    std::fs::write(spoiled.path(FILE), b"not a safetensors file").unwrap();
    let error = Checkpoint::open(&spoiled.0).err().unwrap();
    assert!(error.message().contains(FILE), "{error}");
    assert!(Checkpoint::open_only(&spoiled.0, Files::Torch).is_ok());
}

#[test]
fn spoiled_pytorch_files() {
    let spoiled = Spoiled::of("opt-bin-sharded", "bin_shard");
    let shard = "pytorch_model-00002-of-00004.bin";
    let good = std::fs::read(spoiled.path(shard)).unwrap();
    std::fs::write(spoiled.path(shard), &good[..good.len() - 1]).unwrap();
    spoiled.refused(shard, &["truncated"]);
    let name = b"_rebuild_tensor_v2";
    let at = good.windows(name.len()).position(|w| w == name).unwrap();
    let mut evil = good.clone();
    evil[at..at + name.len()].copy_from_slice(b"_import_dotted_nam");
    std::fs::write(spoiled.path(shard), &evil).unwrap();
    spoiled.refused(shard, &["torch._utils._import_dotted_nam", "refused"]);
    std::fs::remove_file(spoiled.path(shard)).unwrap();
    spoiled.refused(shard, &["not found"]);
}

/// What was read before and after may be of two files: that is said, and never ends the process.
#[test]
fn files_that_change_while_they_are_read() {
    type Change = fn(&Path);
    let rewrite: Change = |path| {
        let bytes = std::fs::read(path).unwrap();
        // The clock of files ticks some 100 times a second.
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::fs::write(path, bytes).unwrap();
    };
    let replace: Change = |path| {
        let other = path.with_extension("new");
        std::fs::copy(path, &other).unwrap();
        std::fs::rename(other, path).unwrap();
    };
    let shorten: Change = |path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(9000).unwrap();
    };
    let changes = [
        ("shortened", shorten, "bytes, now it has 9000"),
        ("rewritten", rewrite, "written to"),
        ("replaced", replace, "another file"),
    ];
    for (fixture, file) in [("llama", FILE), ("opt-bin", "pytorch_model.bin")] {
        for (name, change, word) in changes {
            let spoiled = Spoiled::of(fixture, &format!("{fixture}_{name}"));
            let checkpoint = Checkpoint::open(&spoiled.0).unwrap();
            checkpoint.unchanged().unwrap();
            change(&spoiled.path(file));
            let error = checkpoint.unchanged().unwrap_err();
            let text = error.message();
            let path = spoiled.path(file).display().to_string();
            assert!(text.starts_with(&path) && text.contains(word), "{text}");
            assert!(text.contains("changed while it was read"), "{text}");
        }
    }
    // A tensor that is gone is an error, not a fault.
    let spoiled = Spoiled::of("llama", "gone");
    let checkpoint = Checkpoint::open(&spoiled.0).unwrap();
    let tensor = checkpoint.tensor(DOWN, 64, 72).unwrap();
    assert_eq!(tensor.values().unwrap().len(), 64 * 72);
    shorten(&spoiled.path(FILE));
    let error = tensor.values().unwrap_err();
    assert!(error.message().contains("now it has 9000"), "{error}");
    // Who has a file open has all of it, whatever becomes of its name.
    let spoiled = Spoiled::of("llama", "removed");
    let checkpoint = Checkpoint::open(&spoiled.0).unwrap();
    std::fs::remove_file(spoiled.path(FILE)).unwrap();
    checkpoint.unchanged().unwrap();
}

#[test]
fn a_load_that_was_called_off_reads_no_more() {
    let spoiled = Spoiled::of("llama", "called_off");
    let progress = std::sync::Arc::default();
    let checkpoint = Checkpoint::open_counted(&spoiled.0, Files::Any, &progress).unwrap();
    let tensor = checkpoint.tensor(DOWN, 64, 72).unwrap();
    tensor.values().unwrap();
    progress.stop();
    assert!(matches!(tensor.values(), Err(Error::Cancelled(_))));
}
