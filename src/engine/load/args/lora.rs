//! The keys of model.json that speak of LoRA. Read only where `enable_lora` is on: without it they
//! say nothing.

use serde_json::{Map, Value};

use super::values::{self, Reader};
use crate::device::{AdapterCapacity, DType};
use crate::error::Result;
use crate::invalid;
use crate::model::AdapterOptions;

/// `enable_lora` and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraArgs {
    /// Adapters on the device at the same time.
    pub max_loras: usize,
    /// Adapters that are kept in host memory; at least `max_loras`.
    pub max_cpu_loras: usize,
    /// Rank of an adapter at most.
    pub max_lora_rank: usize,
    /// `None` = auto: the model's.
    pub lora_dtype: Option<DType>,
    /// Last parts of module names; `None` = all.
    pub lora_target_modules: Option<Vec<String>>,
}

/// Ranks that the Python backend's kernels are built for.
const RANKS: [i64; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];
const ADAPTER_SLOTS_MAX: u64 = 1024;

/// # Errors
/// InvalidArgument with the key, the value and what is allowed.
pub(super) fn read(map: &Map<String, Value>, read: &mut Reader) -> Result<Option<LoraArgs>> {
    if !read.boolean("enable_lora")?.unwrap_or(false) {
        return Ok(None);
    }
    let max_loras: u64 = read.at_least("max_loras", 1)?.unwrap_or(1);
    if max_loras > ADAPTER_SLOTS_MAX {
        return Err(invalid!("max_loras must be in [1, {ADAPTER_SLOTS_MAX}], got {max_loras}"));
    }

    let max_cpu_loras: u64 = read.at_least("max_cpu_loras", 1)?.unwrap_or(max_loras);
    if max_cpu_loras < max_loras {
        return Err(invalid!(
            "max_cpu_loras ({max_cpu_loras}) must be >= max_loras ({max_loras})."
        ));
    }

    let rank = read.int("max_lora_rank")?.unwrap_or(16);
    if !RANKS.contains(&rank) {
        let ranks = RANKS.map(|r| r.to_string()).join(", ");
        return Err(invalid!("max_lora_rank must be one of {ranks}, got {rank}"));
    }

    Ok(Some(LoraArgs {
        max_loras: max_loras as usize,
        max_cpu_loras: max_cpu_loras as usize,
        max_lora_rank: rank as usize,
        lora_dtype: super::choices::dtype(read, "lora_dtype")?,
        lora_target_modules: target_modules(map)?,
    }))
}

fn target_modules(map: &Map<String, Value>) -> Result<Option<Vec<String>>> {
    let wrong = |v: &Value| values::wrong("lora_target_modules", "a list of strings", v);
    match map.get("lora_target_modules") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => {
            let text = |v: &Value| v.as_str().map(str::to_string).ok_or_else(|| wrong(v));
            list.iter().map(text).collect::<Result<_>>().map(Some)
        }
        Some(other) => Err(wrong(other)),
    }
}

impl LoraArgs {
    /// What the model is told of it.
    pub fn options(&self) -> AdapterOptions {
        AdapterOptions {
            capacity: AdapterCapacity { slots: self.max_loras, rank: self.max_lora_rank },
            modules: self.lora_target_modules.clone(),
        }
    }
}
