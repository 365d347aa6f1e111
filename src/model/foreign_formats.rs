//! Checkpoints in formats other than Hugging Face's, by the names of their files, and what to
//! take instead. Called by `folder`, `hub` and `checkpoint` for the text of a refusal.

use crate::json::cut;

/// How a format is recognised: a file's name, or its beginning and end, and what to say of it.
const FORMATS: &[(&str, &str, &str)] = &[
    ("tekken", ".json", MISTRAL),
    ("consolidated", ".safetensors", MISTRAL),
    (
        "consolidated",
        ".pth",
        "it is in Meta's own format (consolidated.*.pth, params.json); take the model in Hugging \
         Face's format (its name ends in -hf, or has none of these files)",
    ),
    (
        "adapter_config",
        ".json",
        "it is a LoRA adapter; name its base model as 'model', set enable_lora, and list the \
         adapter in multi_lora.json",
    ),
    (
        "model_index",
        ".json",
        "it is a model of diffusers, which makes images; language models are served here",
    ),
    (
        "",
        ".gguf",
        "it holds GGUF, which is read where 'model' names it and 'load_format' allows it",
    ),
    ("ggml", ".bin", "it holds ggml, which is not read; take the same model in safetensors"),
    (
        "",
        ".onnx",
        "it holds ONNX; take the same model in safetensors, or serve it by Triton's \
         onnxruntime backend",
    ),
    ("", ".engine", "it holds engines of TensorRT-LLM; take the model that they were built from"),
    ("", ".nemo", "it is in NeMo's format; convert it to Hugging Face's"),
    ("", ".h5", "it holds TensorFlow's weights; take the same model in safetensors"),
    ("", ".msgpack", "it holds Flax's weights; take the same model in safetensors"),
];

const MISTRAL: &str = "it is a part of a model in Mistral's own format, which needs params.json, \
    consolidated.safetensors and tekken.json";

/// Whose format these files are, if not Hugging Face's, by which file, and what to take instead.
pub fn other_format<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    FORMATS.iter().find_map(|(start, end, what)| {
        let is_named = |name: &&&str| name.starts_with(start) && name.ends_with(end);
        names.iter().find(is_named).map(|name| format!("{what} (by '{}')", cut(name)))
    })
}
