//! Layers that keep a state of fixed size in place of K and V, by config.json: which they are, and
//! the shape of their gated delta rule. Called by `config` alone. It knows no tensor.

use serde_json::Value;

use super::keys::{needed_width, MAX_DIMENSION, MAX_WIDTH};
use crate::device::{DeltaSpec, Gate, StateShape};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};
use crate::model::architectures::Family;

/// Taps of a convolution at most: what devices are made for.
const MAX_TAPS: usize = 8;

/// The layers of a model that keep a state; all have the same shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecurrentSpec {
    /// For each layer: a state, or attention over K and V.
    pub layers: Vec<bool>,
    /// Of all heads.
    pub delta: DeltaSpec,
    /// Rows that the convolution in front of it sees.
    pub taps: usize,
    /// What its output is multiplied by.
    pub gate: Gate,
}

impl RecurrentSpec {
    /// Layers that keep a state.
    pub fn count(&self) -> usize {
        self.layers.iter().filter(|&&keeps| keeps).count()
    }

    /// What these keep of a sequence where a device has so many of the heads.
    pub fn state(&self, delta: &DeltaSpec) -> StateShape {
        StateShape {
            layers: self.count(),
            tail_rows: self.taps - 1,
            tail_width: delta.mixed_width(),
            heads: delta.value_heads,
            rows: delta.value_dim,
            columns: delta.key_dim,
        }
    }
}

/// The family's layers with a state, if it has any.
///
/// # Errors
/// A size that is no such thing; value heads that are no multiple of the key heads; a kind of layer
/// or of gate that we lack; no layer with attention.
pub fn recurrent(config: &Object, family: &Family, layers: usize) -> Result<Option<RecurrentSpec>> {
    if family.gated_delta.is_none() {
        return Ok(None);
    }
    let layers = kinds(config, layers)?;
    if !layers.contains(&false) {
        return Err(config.wrong(TYPES, "a list with a layer of full attention"));
    }
    if !layers.contains(&true) {
        return Ok(None);
    }

    let delta = DeltaSpec {
        key_heads: needed_width(config, "linear_num_key_heads")?,
        value_heads: needed_width(config, VALUE_HEADS)?,
        key_dim: needed_width(config, "linear_key_head_dim")?,
        value_dim: needed_width(config, "linear_value_head_dim")?,
    };
    let DeltaSpec { key_heads, value_heads, key_dim, value_dim } = delta;
    if !value_heads.is_multiple_of(key_heads) {
        return Err(invalid!(
            "{} is {value_heads}, which is not a multiple of linear_num_key_heads {key_heads}.",
            config.name(VALUE_HEADS)
        ));
    }
    // Each is small, so these products are numbers.
    if key_heads * key_dim > MAX_WIDTH || value_heads * value_dim > MAX_WIDTH {
        return Err(invalid!(
            "{} is {value_heads}, and its heads' widths make more than {MAX_WIDTH} columns.",
            config.name(VALUE_HEADS)
        ));
    }

    const TAPS: &str = "linear_conv_kernel_dim";
    let expected = format!("an integer from 2 to {MAX_TAPS}");
    let taps = config.needed(TAPS, &expected, config.count(TAPS, MAX_TAPS)?)?;
    if taps < 2 {
        return Err(config.wrong(TAPS, &expected));
    }
    Ok(Some(RecurrentSpec { layers, delta, taps, gate: gate(config)? }))
}

const TYPES: &str = "layer_types";
const VALUE_HEADS: &str = "linear_num_value_heads";

/// For each layer, whether it keeps a state: by `layer_types`, else all but each n-th.
fn kinds(config: &Object, layers: usize) -> Result<Vec<bool>> {
    let Some(types) = config.list(TYPES)? else {
        const EACH: &str = "full_attention_interval";
        let n = config.needed(EACH, "an integer", config.count(EACH, MAX_DIMENSION)?)?;
        return Ok((1..=layers).map(|layer| !layer.is_multiple_of(n)).collect());
    };

    if types.len() != layers {
        let name = config.name(TYPES);
        return Err(invalid!("{name} has {} entries for {layers} layers.", types.len()));
    }
    let keeps = |kind: &Value| match kind.as_str() {
        Some("linear_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(Error::Unsupported(format!(
            "{}: layer type {} is not supported; supported: linear_attention, full_attention.",
            config.name(TYPES),
            json::shown(kind)
        ))),
    };
    types.iter().map(keeps).collect()
}

fn gate(config: &Object) -> Result<Gate> {
    const KEY: &str = "output_gate_type";
    match config.text(KEY)? {
        None | Some("silu" | "swish") => Ok(Gate::Silu),
        Some("sigmoid") => Ok(Gate::Sigmoid),
        Some(_) => Err(config.wrong(KEY, "swish, silu or sigmoid")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architectures;
    use serde_json::json;

    fn of(more: Value) -> Result<Option<RecurrentSpec>> {
        let family = architectures::find("Qwen3_5ForCausalLM").unwrap();
        let defaults = serde_json::from_str(family.defaults).unwrap();
        let config = Object::new("config.json", more.as_object().unwrap());
        recurrent(&config.with(family.spellings, &defaults), family, 4)
    }

    #[test]
    fn layers_go_by_list_or_interval() {
        let layers = |more| of(more).unwrap().unwrap().layers;
        assert_eq!(layers(json!({})), [true, true, true, false]);
        assert_eq!(layers(json!({"full_attention_interval": 2})), [true, false, true, false]);
        let all = ["full_attention"; 4];
        assert_eq!(of(json!({"layer_types": all})).unwrap(), None);
        let mut types = all;
        types[2] = "linear_attention";
        assert_eq!(layers(json!({"layer_types": types})), [false, false, true, false]);
    }

    #[test]
    fn states_have_the_shape_of_the_heads() {
        let spec = of(json!({})).unwrap().unwrap();
        assert_eq!((spec.taps, spec.gate), (4, Gate::Silu));
        let shape = spec.state(&spec.delta);
        let (heads, rows, columns) = (shape.heads, shape.rows, shape.columns);
        assert_eq!((shape.layers, shape.tail_rows, shape.tail_width), (3, 3, 8192));
        assert_eq!((heads, rows, columns), (32, 128, 128));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (more, word) in [
            (json!({"linear_num_value_heads": 24}), "linear_num_value_heads"),
            (json!({"linear_num_key_heads": 0}), "linear_num_key_heads"),
            (json!({"linear_key_head_dim": 1 << 20}), "linear_num_value_heads"),
            (json!({"linear_conv_kernel_dim": 1}), "linear_conv_kernel_dim"),
            (json!({"linear_conv_kernel_dim": 9}), "linear_conv_kernel_dim"),
            (json!({"output_gate_type": "tanh"}), "output_gate_type"),
            (json!({"layer_types": ["linear_attention"]}), "layer_types"),
            (json!({"layer_types": ["linear_attention", "x", "x", "x"]}), "layer_types"),
            (json!({"full_attention_interval": 9}), "layer_types"),
        ] {
            let text = of(more).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
