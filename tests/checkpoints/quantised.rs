//! Bad quantised checkpoints: each gives one line that names the tensor and what config.json says
//! of it.

use std::path::Path;

use serde_json::{json, Value};

use super::{split, Load, Spoiled, FILE};

const Q: &str = "model.layers.0.self_attn.q_proj";
const DOWN: &str = "model.layers.0.mlp.down_proj";

fn spoiled(fixture: &str, name: &str) -> Spoiled {
    Spoiled::from("quantised", fixture, &format!("{fixture}_{name}"))
}

fn key(spoiled: &Spoiled, key: &str, value: &Value) {
    let path = spoiled.path("config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut quant = config["quantization_config"].clone();
    quant[key] = value.clone();
    spoiled.config("quantization_config", quant);
}

/// What is there for others, or where nothing was ordered, or is zero.
fn optional(fixture: &str, name: &str) -> bool {
    let ends = |end: &str| name.ends_with(end);
    let unordered = ends(".g_idx") && !fixture.ends_with("ordered");
    let unread_zeros =
        ends(".qzeros") && ["gptq", "gptq-neox", "gptq-qwen3-moe"].contains(&fixture);
    let nvfp4 = ends(".input_scale") && fixture.contains("nvfp4");
    let zero_bias = ends(".bias") && fixture == "gptq";
    let nested = name.contains(".nested_quant_map") && fixture == "nf4";
    unordered || unread_zeros || nvfp4 || zero_bias || nested || ends(".weight_shape")
}

/// Each tensor of each quantised linear of the first layer, by another name or of another shape.
#[test]
fn every_tensor_of_every_format_is_missed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantised");
    let (mut missed, mut turned) = (0, 0);
    for entry in std::fs::read_dir(root).unwrap() {
        let fixture = entry.unwrap().file_name().into_string().unwrap();
        // Its tensors are plain: quantised at load.
        if fixture.starts_with("online-") {
            continue;
        }
        let spoiled = spoiled(&fixture, "each");
        spoiled.load().unwrap_or_else(|e| panic!("{fixture}: {e}"));
        let Ok(good) = std::fs::read(spoiled.path(FILE)) else { continue };
        let header: Value = serde_json::from_slice(split(&good).0).unwrap();
        let names = header.as_object().unwrap().keys().filter(|n| *n != "__metadata__");
        let layer = |name: &&String| name.contains("layers.0.") && !name.contains("norm");
        for name in names.filter(layer).filter(|name| !optional(&fixture, name)) {
            spoiled.without(name);
            // Names tell how experts are called, and what has no scale is plain.
            let module = name.rsplit_once('.').unwrap().0;
            let text = spoiled.load().expect_err(name).message().to_string();
            let mixed = text.contains("not all shards") || text.contains("schemes for the shards");
            let says = text.contains("is missing") || text.contains("has dtype") || mixed;
            assert!(says && !text.contains('\n'), "{fixture}: {name}: {text}");
            assert!(mixed || text.contains(module), "{fixture}: {name}: {text}");
            missed += 1;
            std::fs::write(spoiled.path(FILE), &good).unwrap();

            let shape = header[name]["shape"].as_array().unwrap();
            spoiled.header(|h| {
                h[name]["shape"] = match shape.len() {
                    0 => json!([1, 1, 1]),
                    _ => [shape.clone(), vec![json!(1); 3]].concat().into(),
                };
            });
            // Biases, most routers, and what scans have beside their products are plain.
            let linears = [".bias", "mlp.gate.weight", "moe.gate.weight"];
            let scans = [".A_log", ".D", ".dt_bias", "conv1d.weight"];
            let plain = linears.iter().chain(&scans).any(|end| name.ends_with(end));
            let coded = name.ends_with("_blocks") || name.ends_with("_scales");
            let plain = plain || (fixture.starts_with("mxfp4") && !coded);
            let by = if plain { "expected" } else { "quantization_config" };
            spoiled.refused(FILE, &[name, "has shape", "expected", by]);
            turned += 1;
            std::fs::write(spoiled.path(FILE), &good).unwrap();
        }
    }
    assert!(missed > 500 && turned > 500, "{missed} missed, {turned} turned");
}

/// The page budget asks for shapes only, and benches make weights up: both take what a load takes.
#[test]
fn shapes_tell_what_codes_take() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantised");
    for entry in std::fs::read_dir(root).unwrap() {
        let fixture = entry.unwrap().file_name().into_string().unwrap();
        let spoiled = spoiled(&fixture, "held");
        let whole = spoiled.held(Load::Whole).unwrap().weights;
        let own = spoiled.path("consolidated.safetensors");
        let stored = std::fs::metadata(spoiled.path(FILE)).or_else(|_| std::fs::metadata(own));
        let stored = stored.unwrap().len();
        assert!(whole < 3 * stored, "{fixture}: {whole} bytes of a file of {stored}");
        for load in [Load::Shapes, Load::Dummy] {
            let held = spoiled.held(load).unwrap().weights;
            let orders = if fixture.ends_with("ordered") { 4 * 64 * 14 } else { 0 };
            // Parts of a stack that are narrower than a block have scales of their own.
            let blocks = if fixture == "fp8-deepseek-v3" { 256 } else { 0 };
            let least = whole - orders - blocks;
            assert!((least..=whole).contains(&held), "{fixture}: {load:?} {held} {whole}");
        }
    }
}

#[test]
fn numbers_that_are_none() {
    for (name, bytes, shown) in [
        ("nan", f32::NAN.to_le_bytes(), "NaN"),
        ("inf", f32::INFINITY.to_le_bytes(), "inf"),
        ("negative", (-0.5f32).to_le_bytes(), "-0.5"),
    ] {
        let spoiled = spoiled("fp8-static", name);
        let scale = format!("{Q}.weight_scale");
        spoiled.tensor(&scale, |b| b.copy_from_slice(&bytes));
        spoiled.refused(FILE, &[&scale, shown, "expected finite numbers"]);
    }
    let spoiled_zero = spoiled("fp8-static", "zero_step");
    let step = format!("{Q}.input_scale");
    spoiled_zero.tensor(&step, |b| b.fill(0));
    spoiled_zero.refused(FILE, &[&step, "holds 0", "above 0"]);

    let scales = format!("{DOWN}.scales");
    let nan = spoiled("gptq", "nan");
    nan.tensor(&scales, |b| b[2..4].copy_from_slice(&[0, 0x7e]));
    nan.refused(FILE, &[&scales, "NaN (number 1)"]);
    let power = format!("{DOWN}.weight_scale");
    let nan = spoiled("ct-mxfp4", "nan");
    nan.tensor(&power, |b| b[5] = 255);
    nan.refused(FILE, &[&power, "NaN (number 5)"]);
    let global = format!("{DOWN}.weight_global_scale");
    let zero = spoiled("ct-nvfp4", "zero");
    zero.tensor(&global, |b| b.fill(0));
    zero.refused(FILE, &[&global, "holds 0"]);
}

#[test]
fn groups_that_do_not_fit() {
    let other = spoiled("gptq", "group");
    key(&other, "group_size", &json!(64));
    let down = format!("{Q}.scales");
    other.refused(FILE, &[&down, "[2, 64]", "expected [1, 64]", "group_size 64"]);

    let broken = spoiled("gptq", "no_groups");
    key(&broken, "group_size", &json!(48));
    let text = broken.load().unwrap_err().to_string();
    assert!(text.contains("64 inputs") && text.contains("groups of 48"), "{text}");
    assert!(text.contains(Q) && text.contains("group_size 48"), "{text}");

    let bits = spoiled("gptq", "bits");
    key(&bits, "bits", &json!(8));
    bits.refused(FILE, &[&format!("{Q}.qweight"), "expected [16, 64]", "bits 8"]);

    for (name, word, at) in [("beyond", "into group 9 of 2", 9u8), ("uneven", "31 inputs", 1)] {
        let order = spoiled("gptq-ordered", name);
        let g_idx = format!("{DOWN}.g_idx");
        order.tensor(&g_idx, |b| {
            let first = (0..b.len()).step_by(4).find(|&i| b[i] == 0).unwrap();
            b[first] = at;
        });
        order.refused(FILE, &[&g_idx, word, "group_size 32"]);
    }
}

#[test]
fn parts_and_shapes_that_disagree() {
    let plain = spoiled("fp8-static", "plain_part");
    plain.without(&format!("{Q}.weight_scale"));
    plain.header(|h| {
        h[format!("{Q}.weight")]["dtype"] = json!("BF16");
        h[format!("{Q}.weight")]["shape"] = json!([32, 64]);
    });
    let text = plain.load().unwrap_err().to_string();
    assert!(text.contains("not all shards of model.layers.0.self_attn.qkv_proj"), "{text}");

    let shape = format!("{Q}.weight_shape");
    let other = spoiled("ct-w4", "shape");
    other.tensor(&shape, |b| b[0] = 65);
    other.refused(FILE, &[&shape, "is [65, 64], expected [64, 64]"]);

    let dtype = spoiled("fp8-static", "dtype");
    dtype.header(|h| h[format!("{Q}.weight")]["dtype"] = json!("I8"));
    dtype.refused(FILE, &[Q, "dtype I8, expected F8_E4M3", "quantization_config"]);

    let bias = spoiled("gptq", "bias");
    let name = format!("{Q}.bias");
    bias.tensor(&name, |b| b[1] = 0x3c);
    bias.refused(FILE, &[&name, "is not zero", "LlamaForCausalLM has no bias"]);
}

#[test]
fn states_of_bitsandbytes() {
    let state = format!("{Q}.weight.quant_state.bitsandbytes__nf4");
    for (name, from, to, wanted) in [
        ("json", "{", "[", "no JSON text"),
        ("block", "\"blocksize\": 64", "\"blocksize\": -1", "'blocksize' must be an integer"),
        ("shape", "[64, 64]", "[64, 32]", "'shape' must be [64, 64]"),
    ] {
        let spoiled = spoiled("nf4", name);
        spoiled.tensor(&state, |b| {
            let text = String::from_utf8(b.to_vec()).unwrap();
            assert!(text.contains(from), "{text}");
            b.copy_from_slice(text.replacen(from, to, 1).as_bytes());
        });
        spoiled.refused(FILE, &[&state, wanted]);
    }
}
