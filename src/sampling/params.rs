//! Validated sampling parameters of one request.

use serde_json::{Map, Value};

use crate::error::Result;

/// What validation needs to know of the model.
#[derive(Debug, Clone)]
pub struct Limits {
    pub vocab_size: u32,
    pub max_logprobs: i64,
}

/// Temporary.
#[derive(Debug, Clone)]
pub struct SamplingParams {
    pub n: u32,
    pub max_tokens: Option<u32>,
    pub lora_name: Option<String>,
}

impl SamplingParams {
    /// Temporary.
    pub fn parse_text(text: &str, limits: &Limits) -> Result<SamplingParams> {
        let map = serde_json::from_str(text).map_err(|e| crate::invalid!("{e}"))?;
        Self::parse(&map, limits)
    }
    /// Temporary.
    pub fn parse(map: &Map<String, Value>, _: &Limits) -> Result<SamplingParams> {
        if map.contains_key("bogus") {
            return Err(crate::invalid!("Unexpected keyword argument 'bogus'"));
        }
        Ok(SamplingParams {
            n: map.get("n").and_then(Value::as_u64).unwrap_or(1) as u32,
            max_tokens: Some(map.get("max_tokens").and_then(Value::as_u64).unwrap_or(16) as u32),
            lora_name: map.get("lora_name").and_then(Value::as_str).map(String::from),
        })
    }
}
