//! Rotary position embedding: base frequencies and how a checkpoint stretches them. Called by
//! `config` alone. It never knows positions; the device multiplies.

use serde_json::{Map, Value};

use crate::device::Rope;
use crate::error::{Error, Result};
use crate::invalid;

/// What config.json says of rope, in any of its spellings.
struct Raw<'a> {
    theta: f64,
    kind: &'a str,
    scaling: Option<&'a Map<String, Value>>,
}

/// The rope of a model with heads of `head_dim`: `rope_parameters` (transformers 5), else
/// `rope_theta` and `rope_scaling` (4).
///
/// # Errors
/// A scaling that is not default, linear or llama3; a factor that is not a positive number.
pub fn from_config(config: &Map<String, Value>, head_dim: usize) -> Result<Rope> {
    let raw = raw(config)?;
    let partial = raw
        .scaling
        .and_then(|s| s.get("partial_rotary_factor"))
        .or_else(|| config.get("partial_rotary_factor"))
        .and_then(Value::as_f64)
        .unwrap_or(1.0);
    let rotary_dim = (head_dim as f64 * partial) as usize;
    if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
        return Err(invalid!(
            "config.json: rotary dimensions must be even and at most head_dim {head_dim}, got \
             {rotary_dim} (partial_rotary_factor {partial})."
        ));
    }
    let mut inv_freq: Vec<f64> = (0..rotary_dim / 2)
        .map(|i| raw.theta.powf(-((2 * i) as f64) / rotary_dim as f64))
        .collect();
    match (raw.kind, raw.scaling) {
        ("linear", Some(s)) => {
            let factor = number(s, "factor")?;
            inv_freq.iter_mut().for_each(|f| *f /= factor);
        }
        ("llama3", Some(s)) => stretch_llama3(&mut inv_freq, s)?,
        _ => {}
    }
    let inv_freq = inv_freq.into_iter().map(|f| f as f32).collect();
    Ok(Rope { rotary_dim, inv_freq, magnitude: 1.0 })
}

/// By how much `max_position_embeddings` grows: the factor, except for llama3, which counts it
/// already.
pub fn length_factor(config: &Map<String, Value>) -> Result<f64> {
    let raw = raw(config)?;
    match (raw.kind, raw.scaling) {
        ("linear", Some(s)) => number(s, "factor"),
        _ => Ok(1.0),
    }
}

fn raw(config: &Map<String, Value>) -> Result<Raw<'_>> {
    let parameters = config.get("rope_parameters").and_then(Value::as_object);
    let scaling = parameters.or_else(|| config.get("rope_scaling").and_then(Value::as_object));
    let theta = scaling
        .and_then(|s| s.get("rope_theta"))
        .or_else(|| config.get("rope_theta"))
        .and_then(Value::as_f64)
        .unwrap_or(10000.0);
    if !(theta.is_finite() && theta > 0.0) {
        return Err(invalid!("config.json: rope_theta must be a positive number, got {theta}."));
    }
    let kind = scaling
        .and_then(|s| s.get("rope_type").or_else(|| s.get("type")))
        .and_then(Value::as_str)
        .unwrap_or("default");
    if !matches!(kind, "default" | "linear" | "llama3") {
        return Err(Error::Unsupported(format!(
            "config.json: rope_scaling of type '{kind}' is not supported; supported: default, \
             linear, llama3."
        )));
    }
    Ok(Raw { theta, kind, scaling })
}

/// Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended. A wave's
/// length is 2 pi / f positions, the borders are the original length over the two frequency
/// factors.
fn stretch_llama3(inv_freq: &mut [f64], s: &Map<String, Value>) -> Result<()> {
    let factor = number(s, "factor")?;
    let (low, high) = (number(s, "low_freq_factor")?, number(s, "high_freq_factor")?);
    let original = number(s, "original_max_position_embeddings")?;
    for f in inv_freq {
        let wave = 2.0 * std::f64::consts::PI / *f;
        if wave > original / low {
            *f /= factor;
        } else if wave >= original / high {
            let keep = (original / wave - low) / (high - low);
            *f = (1.0 - keep) * *f / factor + keep * *f;
        }
    }
    Ok(())
}

fn number(s: &Map<String, Value>, key: &str) -> Result<f64> {
    match s.get(key).and_then(Value::as_f64) {
        Some(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err(invalid!(
            "config.json: rope scaling needs a positive number '{key}', got {}.",
            s.get(key).unwrap_or(&Value::Null)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rope(config: Value, head_dim: usize) -> Result<Rope> {
        from_config(config.as_object().unwrap(), head_dim)
    }

    #[test]
    fn both_spellings_agree() {
        let scaling = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"});
        let old = json!({"rope_theta": 500000.0, "rope_scaling": scaling});
        let mut new = scaling.clone();
        new["rope_theta"] = json!(500000.0);
        let new = json!({"rope_parameters": new});
        let (old, new) = (rope(old, 128).unwrap(), rope(new, 128).unwrap());
        assert_eq!(old, new);
        assert_eq!(old.inv_freq[0], 1.0, "short waves are kept");
        let slowest = 500000f64.powf(-126.0 / 128.0) / 8.0;
        assert!((old.inv_freq[63] as f64 / slowest - 1.0).abs() < 1e-6, "long waves are slowed");
    }

    #[test]
    fn type_is_an_old_name_of_rope_type() {
        let config = json!({"rope_scaling": {"type": "linear", "factor": 4.0}});
        assert_eq!(rope(config.clone(), 8).unwrap().inv_freq[0], 0.25);
        assert_eq!(length_factor(config.as_object().unwrap()).unwrap(), 4.0);
    }

    #[test]
    fn unknown_scaling_names_itself() {
        let e = rope(json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}), 8).unwrap_err();
        assert!(e.message().contains("'yarn'") && e.message().contains("llama3"), "{e}");
        let e = rope(json!({"rope_scaling": {"type": "linear", "factor": 0}}), 8).unwrap_err();
        assert!(e.message().contains("'factor'"), "{e}");
    }
}
