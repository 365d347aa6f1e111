//! adapter_config.json, as PEFT writes it: rank and scale, and what makes an adapter one that
//! cannot be served. Called by the reader of adapters.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::Kind;
use crate::invalid;
use crate::json::{self, Object};

/// What is needed of the file.
pub(super) struct PeftConfig {
    pub rank: usize,
    /// Of B A x.
    pub scale: f32,
}

/// A rank above all that devices take.
const RANK_MAX: usize = 1 << 16;
/// Key, the value that changes nothing, and why others cannot be served.
const FIXED: &[(&str, &str, &str)] = &[
    ("peft_type", "LORA", "only LoRA adapters can be served"),
    ("bias", "none", "biases of an adapter are not supported"),
];
/// Keys that must be absent, null, false or empty.
const OFF: &[(&str, &str)] = &[
    ("use_dora", "DoRA is not supported: merge the adapter into the model"),
    ("modules_to_save", "whole modules cannot be replaced: merge the adapter into the model"),
    ("rank_pattern", "all modules of an adapter must have one rank"),
    ("alpha_pattern", "all modules of an adapter must have one lora_alpha"),
    ("lora_bias", "biases of an adapter are not supported"),
    ("trainable_token_indices", "changed tokens are not supported"),
    ("layer_replication", "repeated layers are not supported"),
    ("ensure_weight_tying", "table and head are adapted each for itself"),
    ("alora_invocation_tokens", "activated LoRA is not supported"),
    ("target_parameters", "adapters of parameters that are no linears are not supported"),
    ("use_qalora", "QALoRA is not supported"),
    ("arrow_config", "routed adapters are not supported"),
];

/// Read and check the file.
///
/// # Errors
/// It is missing or broken; a rank above `max_rank`; a kind of adapter that is not built.
pub(super) fn read(dir: &Path, max_rank: usize) -> Result<PeftConfig> {
    let path = dir.join("adapter_config.json");
    let config = json::read_object(&path, Kind::Config)?;
    let shown = path.display().to_string();
    let config = Object::new(&shown, &config);

    let rank = config.needed("r", "a positive integer", config.count("r", RANK_MAX)?)?;
    if rank > max_rank {
        return Err(invalid!("LoRA rank {rank} is greater than max_lora_rank {max_rank}."));
    }
    let scale = scale(&config, rank)?;
    refuse_unsupported(&config)?;
    Ok(PeftConfig { rank, scale })
}

/// lora_alpha / r (or / sqrt(r)); a factor below zero is one too.
fn scale(config: &Object, rank: usize) -> Result<f32> {
    const KEY: &str = "lora_alpha";
    let alpha = config.given(KEY).and_then(Value::as_f64).filter(|&a| (a as f32).is_finite());
    let alpha = alpha.ok_or_else(|| config.wrong(KEY, "a number"))?;
    let rslora = config.flag("use_rslora")?.unwrap_or(false);
    let size = if rslora { (rank as f64).sqrt() } else { rank as f64 };
    Ok((alpha / size) as f32)
}

fn refuse_unsupported(config: &Object) -> Result<()> {
    let lacks = |key: &str, value: &Value, why: &str| {
        let value = json::shown(value);
        Err(Error::Unsupported(format!("{} is {value}: {why}.", config.name(key))))
    };
    for &(key, only, why) in FIXED {
        match config.given(key) {
            Some(value) if value != only => return lacks(key, value, why),
            _ => {}
        }
    }
    for &(key, why) in OFF {
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        match config.value(key) {
            Some(value) if !off(value) => return lacks(key, value, why),
            _ => {}
        }
    }
    Ok(())
}
