//! Deployed checkpoints by their config.json (`ci/shapes/deployed.json`: keys and numbers, and the
//! parameters as published): each makes a model with made-up weights on the trace device, of its
//! published size, and runs a step there; or it is refused in one line, and named here.

use serde_json::{Map, Value};
use triton_vllm::device::{DType, DeviceLimits, Rank};
use triton_vllm::error::Result;
use triton_vllm::model::budget;
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::{ModelSpec, Shard, WeightSource};

/// What has no row yet. One that has got one may be taken off.
const REFUSED: [&str; 1] = ["meta-llama/Llama-3.2-11B-Vision-Instruct"];

/// A model of this config.json, and the bytes of its weights as bfloat16.
fn load(config: &Map<String, Value>) -> Result<(ModelSpec, u64)> {
    let supported = &[DType::BF16, DType::F16, DType::F32];
    let options = SpecOptions { supported, dtype: "bfloat16", ..SpecOptions::default() };
    let spec = ModelSpec::from_config(config, None, &options)?;
    let limits = DeviceLimits {
        step_tokens: 40,
        slots: 8,
        logits_rows: 8,
        pages: 100,
        page_size: 16,
        max_model_len: spec.max_model_len.min(512),
        kv: spec.kv_shape(None)?,
        state: Shard::new(&spec, Rank::ALONE)?.state_shape(&spec),
        snapshots: 0,
        spares: 0,
    };
    let (held, launches) = budget::footprint(&spec, &WeightSource::Dummy, &limits, DType::BF16)?;
    // Layers of a single sublayer have fewer ops.
    assert!(launches.len() > 4 * spec.layers, "{} launches", launches.len());
    Ok((spec, held.weights))
}

#[test]
fn deployed_checkpoints_load() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(root.join("ci/shapes/deployed.json")).unwrap();
    let all: Map<String, Value> = serde_json::from_slice(&text).unwrap();
    assert!(all.len() >= 60, "only {} checkpoints", all.len());

    let mut loaded = 0;
    let mut wrong = Vec::new();
    for (name, entry) in &all {
        let refused = REFUSED.contains(&name.as_str());
        match load(entry["config"].as_object().unwrap()) {
            Ok((spec, bytes)) => {
                loaded += 1;
                // Norms and biases take four bytes each. Codes take less.
                let parameters = entry["parameters"].as_u64().unwrap_or(bytes / 2);
                let ratio = bytes as f64 / (2 * parameters) as f64;
                let fits = match spec.quant {
                    None => (1.0..1.003).contains(&ratio),
                    Some(_) => ratio < 0.5,
                };
                if !fits {
                    wrong.push(format!("{name}: {bytes} bytes of {parameters} parameters"));
                }
            }
            Err(error) => {
                let line = error.message();
                println!("{name}: {line}");
                let told = refused && !line.contains('\n');
                if !told {
                    wrong.push(format!("{name}: {line}"));
                }
            }
        }
    }
    println!("{loaded} of {} load, {} may be refused", all.len(), REFUSED.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
