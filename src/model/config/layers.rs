//! What may differ from layer to layer: attention's window, scale, cap and rope; and the few
//! numbers by which families stretch their residual. Called by `config` alone. It knows no tensor.

use serde_json::Value;

use super::keys::{flag, positive, MAX_DIMENSION};
use super::layer_shapes::{KeysFrom, LayerShape, Shape};
use super::rope;
use crate::device::{AttnSpec, DType, KvScales, QueryGrowth, Rope};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};
use crate::model::architectures::{
    AttnScale, Family, Flag, LayerShapes, Multipliers, Positions, RopeLayers, Windows,
};

/// One layer's attention.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerAttention {
    /// Heads, scale, window and cap.
    pub attn: AttnSpec,
    /// Index into `ModelSpec::ropes`; none where q and k are not rotated.
    pub rope: Option<usize>,
    /// Where k and v come from.
    pub keys: KeysFrom,
}

/// Factors of a whole model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    pub embed: f32,
    pub eps: f32,
    pub logits: f32,
}

/// Attention of each layer. `windowed` says which of them see a window.
///
/// # Errors
/// A window, scale or cap that is no positive number.
pub fn attention(
    config: &Object,
    family: &Family,
    heads: usize,
    windowed: &[bool],
    shapes: &[LayerShape],
) -> Result<Vec<LayerAttention>> {
    let scale = match family.attn_scale {
        AttnScale::HeadDim => None,
        AttnScale::One => Some(1.0),
        AttnScale::RootOf(key) => Some(positive(config, key)?.powf(-0.5) as f32),
        AttnScale::Key(key) => Some(positive(config, key)? as f32),
        AttnScale::KeyOrHeadDim(key) => config.positive(key)?.map(|scale| scale as f32),
    };
    let softcap = softcap(config, family, "attn_logit_softcapping")?;
    let window = if windowed.contains(&true) { window(config, family)? } else { None };

    let rotated = rotated(config, family, windowed)?;
    let chunk = match family.rotated_chunk {
        Some(key) => config.count(key, MAX_DIMENSION)?,
        None => None,
    };
    // Behind the others.
    let still = still_growth(config, family)?.map(|_| 1 + usize::from(family.local_rope));
    let layer = |((&windowed, rotated), shape): ((&bool, bool), &LayerShape)| LayerAttention {
        attn: AttnSpec {
            heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            scale: scale.unwrap_or_else(|| (shape.head_dim as f32).powf(-0.5)),
            window: window.filter(|_| windowed),
            chunk: chunk.filter(|_| rotated),
            softcap,
            kv_scales: KvScales::ONE,
            q_only: matches!(shape.keys, KeysFrom::Layer(_)),
        },
        rope: if rotated { Some(usize::from(windowed && family.local_rope)) } else { still },
        keys: shape.keys,
    };
    Ok(windowed.iter().zip(rotated).zip(shapes).map(layer).collect())
}

/// Every layer sees all. Returns the shortest window that there was.
pub fn without_windows(layers: &mut [LayerAttention]) -> Option<usize> {
    layers.iter_mut().filter_map(|layer| layer.attn.window.take()).min()
}

/// How q of layers grows that do not rotate, if it does.
fn still_growth(config: &Object, family: &Family) -> Result<Option<QueryGrowth>> {
    let Some(row) = &family.still_growth else { return Ok(None) };
    if !flag(config, Flag::Key(row.switch))? {
        return Ok(None);
    }
    let beta = positive(config, row.beta)? as f32;
    let length =
        config.needed(row.length, "an integer", config.count(row.length, MAX_DIMENSION)?)?;
    Ok(Some(QueryGrowth { beta, ahead: 1, length: length as u32 }))
}

/// Tokens of a window; null and 0 mean none.
fn window(config: &Object, family: &Family) -> Result<Option<usize>> {
    const KEY: &str = "sliding_window";
    let more = usize::from(family.window_inclusive);
    match config.given(KEY) {
        Some(zero) if zero == 0 => Ok(None),
        _ => {
            let tokens = config.count(KEY, MAX_DIMENSION)?;
            let reach =
                |tokens: usize| if family.window_both_sides { tokens / 2 + 1 } else { tokens };
            Ok(tokens.map(|tokens| reach(tokens) + more))
        }
    }
}

/// The model's rope; behind it the one of windowed layers, if they have their own, and what makes q
/// of layers grow that do not rotate. A head is as wide as in the first layer that turns by the
/// rope, else `head_dim`.
///
/// # Errors
/// Those of [`rope::from_config`].
pub fn ropes(
    config: &Object,
    family: &Family,
    head_dim: usize,
    attention: &[LayerAttention],
    max_model_len: usize,
) -> Result<Vec<Rope>> {
    if family.positions != Positions::Rope || family.rope_layers == RopeLayers::None {
        return Ok(Vec::new());
    }
    let width_of = |rope: usize| {
        let layer = attention.iter().find(|layer| layer.rope == Some(rope));
        layer.map_or(head_dim, |layer| layer.attn.head_dim)
    };
    let key = family.keys.rotary_dim;
    let mut ropes = vec![rope::from_config(config, key, width_of(0), max_model_len)?];
    if family.local_rope {
        ropes.push(rope::local(config, width_of(1), max_model_len)?);
    }
    let still =
        |growth| Rope { rotary_dim: 0, inv_freq: vec![], magnitude: 1.0, growth, axes: None };
    let growth = still_growth(config, family)?;
    ropes.extend(growth.is_some().then(|| still(growth)));
    Ok(ropes)
}

/// A cap of scores or logits; null means none.
///
/// # Errors
/// It is no positive number.
pub fn softcap(config: &Object, family: &Family, key: &str) -> Result<Option<f32>> {
    if !family.softcaps {
        return Ok(None);
    }
    Ok(config.positive(key)?.map(|cap| cap as f32))
}

/// What q, k and v are limited to; null means nothing.
///
/// # Errors
/// It is no positive number.
pub fn clip_qkv(config: &Object, family: &Family) -> Result<Option<f32>> {
    let Some(key) = family.clip_qkv else { return Ok(None) };
    Ok(config.positive(key)?.map(|limit| limit as f32))
}

/// Granite and MiniCPM add each sublayer's output times m. The residual divided by m gives the same
/// model: the embedding is divided, outputs are added as they are, and norms, which forget the size
/// of their input, need eps / m^2.
///
/// # Errors
/// A multiplier that is no positive number.
pub fn scales(config: &Object, family: &Family, shape: &Shape, dtype: DType) -> Result<Scales> {
    let mut scales = Scales { embed: 1.0, eps: 1.0, logits: 1.0 };
    if family.embed_sqrt {
        scales.embed = dtype.round((shape.hidden as f32).sqrt());
    }

    let (key, embed, residual, logits) = match family.multipliers {
        Multipliers::None => return Ok(scales),
        Multipliers::FalconH1 => (
            "lm_head_multiplier",
            positive(config, "embedding_multiplier")?,
            1.0,
            positive(config, "lm_head_multiplier")?,
        ),
        Multipliers::Logits(key) => (key, f64::from(scales.embed), 1.0, positive(config, key)?),
        Multipliers::Granite => (
            "residual_multiplier",
            positive(config, "embedding_multiplier")?,
            positive(config, "residual_multiplier")?,
            1.0 / positive(config, "logits_scaling")?,
        ),
        Multipliers::HyperClovaX => {
            let or_one = |key: &str| -> Result<f64> { Ok(config.positive(key)?.unwrap_or(1.0)) };
            (
                "residual_multiplier",
                or_one("embedding_multiplier")?,
                or_one("residual_multiplier")?,
                or_one("logits_scaling")?,
            )
        }
        Multipliers::MiniCpm => (
            "scale_depth",
            positive(config, "scale_emb")?,
            positive(config, "scale_depth")? / (shape.layers as f64).sqrt(),
            positive(config, "dim_model_base")? / shape.hidden as f64,
        ),
    };
    scales.embed = (embed / residual) as f32;
    scales.eps = (1.0 / (residual * residual)) as f32;
    scales.logits = logits as f32;
    if ![scales.embed, scales.eps, scales.logits].iter().all(|x| x.is_normal()) {
        return Err(invalid!(
            "{} and the other multipliers leave the range of numbers.",
            config.name(key)
        ));
    }
    Ok(scales)
}

/// For each layer, whether it sees a window only.
///
/// # Errors
/// Keys that say it badly; a layer type that we lack.
pub fn windowed(config: &Object, family: &Family, layers: usize) -> Result<Vec<bool>> {
    let mut windowed = windowed_by_keys(config, family, layers)?;
    if let (LayerShapes::ByWindow, Some(last)) = (family.shapes, windowed.last_mut()) {
        *last = false;
    }
    Ok(windowed)
}

fn windowed_by_keys(config: &Object, family: &Family, layers: usize) -> Result<Vec<bool>> {
    let each = |f: &dyn Fn(usize) -> bool| Ok((0..layers).map(f).collect());
    match family.windows {
        Windows::Never => return each(&|_| false),
        Windows::Even => return each(&|i| i % 2 == 0),
        Windows::FromLayer { switch, .. } if !flag(config, Flag::Key(switch))? => {
            return each(&|_| false)
        }
        _ => {}
    }
    if let Some(types) = config.list("layer_types")? {
        return listed(config, family, types, layers);
    }

    match family.windows {
        Windows::Never => each(&|_| false),
        Windows::Even => each(&|i| i % 2 == 0),
        Windows::All => each(&|_| true),
        Windows::Listed => Err(config.wrong("layer_types", "a list of the layers' types")),
        Windows::FromLayer { first, .. } => {
            let from = config.given(first).and_then(Value::as_u64);
            let from = from.ok_or_else(|| config.wrong(first, "a number of layers"))?;
            each(&|i| i as u64 >= from)
        }
        Windows::ExceptEach(key) => {
            let n = config.needed(key, "an integer", config.count(key, MAX_DIMENSION)?)?;
            each(&|i| (i + 1) % n != 0)
        }
        Windows::ExceptFirstOfEach(key) => {
            let n = config.needed(key, "an integer", config.count(key, MAX_DIMENSION)?)?;
            each(&|i| i % n != 0)
        }
    }
}

fn listed(config: &Object, family: &Family, types: &[Value], layers: usize) -> Result<Vec<bool>> {
    let name = config.name("layer_types");
    if types.len() != layers {
        return Err(invalid!("{name} has {} entries for {layers} layers.", types.len()));
    }
    let windowed = |kind: &Value| {
        let known = family.layer_types.iter().find(|(known, _)| kind.as_str() == Some(known));
        known.map(|&(_, windowed)| windowed).ok_or_else(|| {
            let known: Vec<&str> = family.layer_types.iter().map(|&(known, _)| known).collect();
            Error::Unsupported(format!(
                "{name}: layer type {} is not supported; supported: {}.",
                json::shown(kind),
                known.join(", ")
            ))
        })
    };
    types.iter().map(windowed).collect()
}

/// For each layer, whether it rotates q and k.
fn rotated(config: &Object, family: &Family, windowed: &[bool]) -> Result<Vec<bool>> {
    let layers = windowed.len();
    if family.positions != Positions::Rope {
        return Ok(vec![false; layers]);
    }
    match family.rope_layers {
        RopeLayers::All => Ok(vec![true; layers]),
        RopeLayers::None => Ok(vec![false; layers]),
        RopeLayers::WindowedIfAny if !windowed.contains(&true) => Ok(vec![true; layers]),
        RopeLayers::Windowed | RopeLayers::WindowedIfAny => Ok(windowed.to_vec()),
        RopeLayers::If(key, value) => Ok(vec![config.text(key)? == Some(value); layers]),
        RopeLayers::Listed { list, except_each } => match config.list(list)? {
            Some(flags) => ones(config, list, flags, layers),
            None => {
                let n = config.count(except_each, MAX_DIMENSION)?;
                let n = config.needed(except_each, "an integer", n)?;
                Ok((1..=layers).map(|layer| !layer.is_multiple_of(n)).collect())
            }
        },
    }
}

/// A list of zeros and ones, one for each layer.
fn ones(config: &Object, key: &str, flags: &[Value], layers: usize) -> Result<Vec<bool>> {
    let expected = format!("a list of {layers} zeros and ones");
    let flag = |flag: &Value| match flag.as_u64() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(config.wrong(key, &expected)),
    };
    if flags.len() != layers {
        return Err(config.wrong(key, &expected));
    }
    flags.iter().map(flag).collect()
}
