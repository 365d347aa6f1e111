//! Fixtures with images (tests/fixtures/vision): prompts, images, what transformers made of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use triton_vllm::image::{self, Processor};
use triton_vllm::model::config::ImageTokens;
use triton_vllm::model::ModelSpec;
use triton_vllm::plan::{ImageSpan, PromptImages};

pub const ROWS: [&str; 18] = [
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "pixtral",
    "mistral3",
    "llava",
    "gemma3",
    "internvl",
    "llava_next",
    "llava_onevision",
    "gemma3_crops",
    "internvl_own",
    "internvl_6b",
    "smolvlm",
    "gemma4",
];

/// Beside the models.
pub fn fixtures() -> PathBuf {
    std::env::var_os("TRITON_VLLM_FIXTURES")
        .and_then(|models| Some(Path::new(&models).parent()?.to_path_buf()))
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"))
}

pub struct Case {
    pub ids: Vec<u32>,
    pub images: Option<Arc<PromptImages>>,
    pub logits: Vec<f32>,
    pub greedy: Vec<u32>,
}

fn numbers(list: &Value) -> Vec<u32> {
    list.as_array().into_iter().flatten().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// A token of the row's tokenizer.
fn token_of(row: &str, name: &str) -> u32 {
    let path = fixtures().join("vision").join(row).join("tokenizer.json");
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let token = added.iter().find(|token| token["content"] == name).unwrap();
    token["id"].as_u64().unwrap() as u32
}

/// Files to the first placeholders, in order.
fn images(row: &str, spec: &ModelSpec, ids: &[u32], files: &Value) -> Option<Arc<PromptImages>> {
    let vision = spec.vision.as_ref().expect("a tower");
    let settings = &vision.settings;
    let processor = Processor { settings: settings.clone() };
    let token = match vision.tokens {
        ImageTokens::Ids { part, .. } => part.0,
        ImageTokens::Written(written) => token_of(row, written.part),
    };
    let mut spans: Vec<ImageSpan> = Vec::new();
    let mut from = 0;
    for file in files.as_array().unwrap() {
        let path = fixtures().join("images").join(file.as_str().unwrap());
        let picture = image::decode(&std::fs::read(path).unwrap()).unwrap();
        for part in processor.parts(&picture).unwrap() {
            // Text may stand in front of each.
            from += ids[from..].iter().position(|&id| id == token).unwrap();
            let (rows, columns) = part.token_rows(settings);
            let patches = Arc::new(part.patches(settings).unwrap());
            let span = ImageSpan { start: from, rows, columns, first: 0, patches };
            if vision.tower.row_ends.is_none() {
                from = span.end();
                spans.push(span);
                continue;
            }
            // A token of text behind each row.
            for row in 0..rows {
                let first = row * columns;
                spans.push(ImageSpan { start: from, rows: 1, first, ..span.clone() });
                from += columns + 1;
            }
        }
    }
    (!spans.is_empty()).then(|| {
        let both_ways = vision.tower.both_ways;
        Arc::new(PromptImages { spans, both_ways })
    })
}

pub fn cases(row: &str, spec: &ModelSpec) -> Vec<Case> {
    let path = fixtures().join("vision").join(row).join("expected.json");
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let case = |p: &Value| {
        let ids = numbers(&p["ids"]);
        let logits = p["logits"].as_array().unwrap().iter();
        Case {
            images: images(row, spec, &ids, &p["images"]),
            ids,
            logits: logits.map(|x| x.as_f64().unwrap() as f32).collect(),
            greedy: numbers(&p["greedy"]),
        }
    };
    json["prompts"].as_array().unwrap().iter().map(case).collect()
}
