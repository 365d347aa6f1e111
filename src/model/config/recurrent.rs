//! Layers that keep a state of fixed size, by config.json: which they are, and
//! what they keep. Called by `config` alone. It knows no tensor.

use serde_json::Value;

use super::channel_scan::{self, ChannelScanShape};
use super::keys::{needed_width, MAX_DIMENSION, MAX_WIDTH};
use super::layer_shapes::Shape;
use super::scan::{self, ScanShape};
use super::sublayers::{self, Sublayers};
use crate::device::{DeltaSpec, Gate, StateShape};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};
use crate::model::architectures::{ChannelScan, Family, Recurrent, SelectiveScan};

/// Taps of a convolution at most: what devices are made for.
const MAX_TAPS: usize = 8;

/// The layers of a model that keep a state; all have the same shape.
#[derive(Debug, Clone, PartialEq)]
pub struct RecurrentSpec {
    /// For each layer: a state, or attention over K and V.
    pub layers: Vec<bool>,
    /// Rows that the convolution sees.
    pub taps: usize,
    /// What the layers are, of all heads and channels.
    pub kind: RecurrentKind,
}

/// What a layer with a state is: of a whole model, or of what one rank holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RecurrentKind {
    /// A convolution and the gated delta rule.
    GatedDelta {
        /// Its heads.
        delta: DeltaSpec,
        /// What the output is multiplied by.
        gate: Gate,
    },
    /// A convolution between two gates.
    ShortConv {
        /// Its channels.
        width: usize,
    },
    /// A convolution and a selective scan.
    SelectiveScan(ScanShape),
    /// A convolution and a selective scan of Mamba 1.
    ChannelScan(ChannelScanShape),
}

impl RecurrentKind {
    /// Channels of the convolution.
    pub fn channels(&self) -> usize {
        match self {
            RecurrentKind::GatedDelta { delta, .. } => delta.mixed_width(),
            RecurrentKind::ShortConv { width } => *width,
            RecurrentKind::SelectiveScan(shape) => shape.scan.mixed_width(),
            RecurrentKind::ChannelScan(shape) => shape.scan.width,
        }
    }

    /// What the output product reads.
    pub fn out_width(&self) -> usize {
        match self {
            RecurrentKind::GatedDelta { delta, .. } => delta.value_width(),
            RecurrentKind::ShortConv { width } => *width,
            RecurrentKind::SelectiveScan(shape) => shape.scan.inner_width(),
            RecurrentKind::ChannelScan(shape) => shape.scan.width,
        }
    }
}

impl RecurrentSpec {
    /// Layers that keep a state.
    pub fn count(&self) -> usize {
        self.layers.iter().filter(|&&keeps| keeps).count()
    }

    /// What these keep of a sequence where a device has so much of them.
    pub fn state(&self, kind: &RecurrentKind) -> StateShape {
        let shape = StateShape {
            layers: self.count(),
            tail_rows: self.taps - 1,
            tail_width: kind.channels(),
            ..StateShape::default()
        };
        match kind {
            RecurrentKind::GatedDelta { delta, .. } => StateShape {
                heads: delta.value_heads,
                rows: delta.value_dim,
                columns: delta.key_dim,
                ..shape
            },
            RecurrentKind::ShortConv { .. } => shape,
            RecurrentKind::SelectiveScan(ScanShape { scan, .. }) => {
                StateShape { heads: scan.heads, rows: scan.head_dim, columns: scan.state, ..shape }
            }
            RecurrentKind::ChannelScan(ChannelScanShape { scan, .. }) => {
                StateShape { heads: 1, rows: scan.width, columns: scan.state, ..shape }
            }
        }
    }
}

/// The family's layers with a state, if it has any, and what each layer has.
///
/// # Errors
/// A size that is no such thing; value heads that are no multiple of the key heads; a kind of layer
/// or of gate that we lack; no layer with attention.
pub fn recurrent(
    config: &Object,
    family: &Family,
    shape: &Shape,
) -> Result<(Option<RecurrentSpec>, Vec<Sublayers>)> {
    let recurrent = with_state(config, family, shape)?;
    let states = recurrent.as_ref().map(|recurrent| &recurrent.layers[..]);
    let sublayers = sublayers::of(config, family, states, shape.layers)?;
    Ok((recurrent, sublayers))
}

fn with_state(config: &Object, family: &Family, shape: &Shape) -> Result<Option<RecurrentSpec>> {
    let Some(row) = &family.recurrent else { return Ok(None) };
    let layers = match row {
        Recurrent::SelectiveScan(row) => return scans(config, family, row, shape),
        Recurrent::ChannelScan(row) => return channel_scans(config, family, row, shape),
        Recurrent::GatedDelta(_) => kinds(config, "linear_attention", shape.layers)?,
        Recurrent::ShortConv(_) => kinds(config, "conv", shape.layers)?,
    };
    if !layers.contains(&false) {
        return Err(config.wrong(TYPES, "a list with a layer of full attention"));
    }
    if !layers.contains(&true) {
        return Ok(None);
    }

    let (kind, taps) = match row {
        Recurrent::GatedDelta(_) => {
            let kind = RecurrentKind::GatedDelta { delta: delta(config)?, gate: gate(config)? };
            (kind, taps(config, "linear_conv_kernel_dim")?)
        }
        Recurrent::ShortConv(_) => {
            (RecurrentKind::ShortConv { width: shape.hidden }, taps(config, "conv_L_cache")?)
        }
        Recurrent::SelectiveScan(row) => return scans(config, family, row, shape),
        Recurrent::ChannelScan(row) => return channel_scans(config, family, row, shape),
    };
    Ok(Some(RecurrentSpec { layers, taps, kind }))
}

/// The same of a family whose layers have a selective scan.
fn scans(
    config: &Object,
    family: &Family,
    row: &SelectiveScan,
    shape: &Shape,
) -> Result<Option<RecurrentSpec>> {
    let layers = sublayers::scans(config, family, row.layers, shape.layers)?;
    if !layers.contains(&true) {
        return Ok(None);
    }
    let scan = scan::shape(config, row, shape.hidden)?;
    let kind = RecurrentKind::SelectiveScan(scan);
    Ok(Some(RecurrentSpec { layers, taps: taps(config, "mamba_d_conv")?, kind }))
}

/// The same of the selective scan of Mamba 1.
fn channel_scans(
    config: &Object,
    family: &Family,
    row: &ChannelScan,
    shape: &Shape,
) -> Result<Option<RecurrentSpec>> {
    let layers = sublayers::scans(config, family, row.layers, shape.layers)?;
    if !layers.contains(&true) {
        return Ok(None);
    }
    let scan = channel_scan::shape(config, row, shape.hidden)?;
    let kind = RecurrentKind::ChannelScan(scan);
    Ok(Some(RecurrentSpec { layers, taps: taps(config, "mamba_d_conv")?, kind }))
}

fn delta(config: &Object) -> Result<DeltaSpec> {
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
    Ok(delta)
}

fn taps(config: &Object, key: &str) -> Result<usize> {
    let expected = format!("an integer from 2 to {MAX_TAPS}");
    let taps = config.needed(key, &expected, config.count(key, MAX_TAPS)?)?;
    if taps < 2 {
        return Err(config.wrong(key, &expected));
    }
    Ok(taps)
}

const TYPES: &str = "layer_types";
const VALUE_HEADS: &str = "linear_num_value_heads";

/// For each layer, whether it keeps a state: by `layer_types`, where such a one goes by `name`;
/// else by the numbers of the others, or all but each n-th, or none.
fn kinds(config: &Object, name: &str, layers: usize) -> Result<Vec<bool>> {
    const EACH: &str = "full_attention_interval";
    const OTHERS: &str = "full_attn_idxs";
    if let Some(types) = config.list(TYPES)? {
        return listed(config, types, name, layers);
    }
    if let Some(n) = config.count(EACH, MAX_DIMENSION)? {
        return Ok((1..=layers).map(|layer| !layer.is_multiple_of(n)).collect());
    }

    let Some(others) = config.list(OTHERS)? else { return Ok(vec![false; layers]) };
    let mut keeps = vec![true; layers];
    for other in others {
        let layer = other.as_u64().and_then(|n| usize::try_from(n).ok());
        match layer.and_then(|n| keeps.get_mut(n)) {
            Some(keeps) => *keeps = false,
            None => return Err(config.wrong(OTHERS, "a list of layers' numbers")),
        }
    }
    Ok(keeps)
}

fn listed(config: &Object, types: &[Value], name: &str, layers: usize) -> Result<Vec<bool>> {
    if types.len() != layers {
        let key = config.name(TYPES);
        return Err(invalid!("{key} has {} entries for {layers} layers.", types.len()));
    }
    let keeps = |kind: &Value| match kind.as_str() {
        Some(kind) if kind == name => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(Error::Unsupported(format!(
            "{}: layer type {} is not supported; supported: {name}, full_attention.",
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
        of_family("Qwen3_5ForCausalLM", more)
    }

    fn of_family(name: &str, more: Value) -> Result<Option<RecurrentSpec>> {
        let family = architectures::find(name).unwrap();
        let defaults = serde_json::from_str(family.defaults).unwrap();
        let config = Object::new("config.json", more.as_object().unwrap());
        let shape = Shape { hidden: 48, heads: 4, kv_heads: 2, head_dim: 12, layers: 4 };
        with_state(&config.with(family.spellings, &defaults), family, &shape)
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
        let RecurrentKind::GatedDelta { gate, .. } = spec.kind else { panic!("{spec:?}") };
        assert_eq!((spec.taps, gate), (4, Gate::Silu));
        let shape = spec.state(&spec.kind);
        let (heads, rows, columns) = (shape.heads, shape.rows, shape.columns);
        assert_eq!((shape.layers, shape.tail_rows, shape.tail_width), (3, 3, 8192));
        assert_eq!((heads, rows, columns), (32, 128, 128));
    }

    #[test]
    fn convolutions_go_by_list_or_by_the_others_numbers() {
        let lfm2 = |more| of_family("Lfm2ForCausalLM", more).unwrap();
        assert_eq!(lfm2(json!({})), None);
        let types = ["conv", "conv", "full_attention", "conv"];
        let want = Some(RecurrentSpec {
            layers: vec![true, true, false, true],
            taps: 3,
            kind: RecurrentKind::ShortConv { width: 48 },
        });
        assert_eq!(lfm2(json!({"layer_types": types})), want);
        assert_eq!(lfm2(json!({"full_attn_idxs": [2]})), want);
        let error = of_family("Lfm2ForCausalLM", json!({"full_attn_idxs": [4]})).unwrap_err();
        assert!(error.to_string().contains("full_attn_idxs"), "{error}");
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
