//! The fixtures of models that embed (fixtures/models/*/embeddings.json), for the tests of each
//! device.

use std::path::{Path, PathBuf};

use serde_json::Value;
use triton_vllm::device::ops::*;
use triton_vllm::device::Pooling;
use triton_vllm::model::config::SpecOptions;
use triton_vllm::model::config::{PoolerOptions, RunnerKind};
use triton_vllm::model::{Checkpoint, ModelSpec, WeightSource};

use super::{Rig, RigOptions, SUPPORTED};

pub const ROWS: [&str; 9] = [
    "bert",
    "embeddinggemma",
    "gemma2",
    "gte",
    "jina-v3",
    "modernbert",
    "nomic",
    "qwen3",
    "xlm-roberta",
];
pub const KINDS: [(Pooling, &str); 3] =
    [(Pooling::First, "first"), (Pooling::Last, "last"), (Pooling::Mean, "mean")];

pub fn folder(row: &str) -> PathBuf {
    let root = std::env::var_os("TRITON_VLLM_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models"),
        PathBuf::from,
    );
    root.join(row)
}

pub fn cases(row: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder(row).join("embeddings.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    json["cases"].as_array().unwrap().clone()
}

pub fn ids(case: &Value) -> Vec<u32> {
    case["ids"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

pub fn floats(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// A row computed in `dtype` on a device that is made for it.
pub fn rig_of<D: Device>(
    row: &str,
    kind: Pooling,
    dtype: &'static str,
    make: impl FnOnce(&ModelSpec) -> D,
) -> Rig<D> {
    let (spec, checkpoint) = model(row, kind, dtype);
    let dev = make(&spec);
    let options = RigOptions { kv: None, ..RigOptions::default() };
    Rig::on(dev, spec, &WeightSource::Files(checkpoint), &options)
}

/// A row computed in f32 by so many CPU devices together.
pub fn rig_of_ranks(row: &str, kind: Pooling, ranks: usize) -> Rig {
    let (spec, checkpoint) = model(row, kind, "float32");
    let options = RigOptions { kv: None, ranks, ..RigOptions::default() };
    Rig::new(spec, &WeightSource::Files(checkpoint), &options)
}

fn model(row: &str, kind: Pooling, dtype: &'static str) -> (ModelSpec, Checkpoint) {
    let dir = folder(row);
    let runner = RunnerKind::Pooling;
    let options = SpecOptions {
        supported: SUPPORTED,
        dtype,
        pooler: PoolerOptions { runner, kind: Some(kind), ..PoolerOptions::default() },
        ..SpecOptions::default()
    };
    (ModelSpec::read(&dir, &options).unwrap(), Checkpoint::open(&dir).unwrap())
}

/// The worst element within `tolerance` of the largest.
#[track_caller]
pub fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs();
        assert!(error <= tolerance * size, "{what}: element {i} is {g}, want {w} (of {size})");
    }
}
