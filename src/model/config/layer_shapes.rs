//! Shapes of layers by config.json, where layers of a model differ: heads of K and V, where K and V
//! come from, width of the MLP. Called by `config` alone. It knows no tensor.

use serde_json::Value;

use super::keys::{flag, needed_width, width, MAX_WIDTH};
use crate::error::Result;
use crate::invalid;
use crate::json::Object;
use crate::model::architectures::{Family, Flag, LayerShapes};

/// The dimensions that all layers share, if none has its own.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub layers: usize,
}

/// Where a layer's K and V come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysFrom {
    /// From products of its own.
    Own,
    /// From a product of its own, which makes K and V at once.
    OneProduct,
    /// From an earlier layer, which stored them.
    Layer(usize),
}

/// What a layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerShape {
    /// Heads of k and v.
    pub kv_heads: usize,
    /// Elements of a head of q, k and v.
    pub head_dim: usize,
    /// Where k and v come from.
    pub keys: KeysFrom,
    /// Width of a plain MLP; 0: it has none.
    pub ffn: usize,
}

/// The shape of each layer. `windowed` says which layers see a window, `ffn` is the model's width.
///
/// # Errors
/// A number that is none, or that does not fit the others; a layer whose K and V nobody stores.
pub fn of(
    config: &Object,
    family: &Family,
    shape: &Shape,
    windowed: &[bool],
    ffn: usize,
) -> Result<Vec<LayerShape>> {
    let same =
        LayerShape { kv_heads: shape.kv_heads, head_dim: shape.head_dim, keys: KeysFrom::Own, ffn };
    let layers = match family.shapes {
        LayerShapes::Same => vec![same; windowed.len()],
        LayerShapes::ByWindow => by_window(config, same, windowed)?,
    };
    for (i, layer) in layers.iter().enumerate() {
        judge(config, family, shape.heads, i, layer)?;
    }
    Ok(layers)
}

fn judge(
    config: &Object,
    family: &Family,
    heads: usize,
    i: usize,
    layer: &LayerShape,
) -> Result<()> {
    let name = config.name(family.keys.heads);
    if !heads.is_multiple_of(layer.kv_heads) {
        return Err(invalid!(
            "{name} is {heads}, which is not a multiple of the {} KV heads of layer {i}.",
            layer.kv_heads
        ));
    }
    let all = heads.saturating_mul(layer.head_dim);
    if all > MAX_WIDTH || layer.ffn > MAX_WIDTH {
        return Err(invalid!(
            "{name} is {heads} and a head of layer {i} {} wide, its MLP {}: at most {MAX_WIDTH} \
             together.",
            layer.head_dim,
            layer.ffn
        ));
    }
    Ok(())
}

/// Gemma 4: layers that see all have heads of their own, by `per_layer_config` or by two keys. The
/// last layers use K and V of the last one before them that sees as much, and may have an MLP of
/// twice the width.
fn by_window(config: &Object, same: LayerShape, windowed: &[bool]) -> Result<Vec<LayerShape>> {
    const SHARED: &str = "num_kv_shared_layers";
    let one_product = flag(config, Flag::Key("attention_k_eq_v"))?;
    let own = config.object("per_layer_config")?;
    let global = global_shape(config, same, one_product)?;
    let mut layers = Vec::with_capacity(windowed.len());
    for (i, &windowed) in windowed.iter().enumerate() {
        let shape = match &own {
            Some(own) => overridden(own, i, same)?,
            None if windowed => same,
            None => global,
        };
        let keys = if one_product && !windowed { KeysFrom::OneProduct } else { KeysFrom::Own };
        layers.push(LayerShape { keys, ..shape });
    }

    let shared = config.given(SHARED).and_then(Value::as_u64).unwrap_or(0);
    let fits = usize::try_from(shared).ok().filter(|&n| n <= layers.len());
    let shared = fits.ok_or_else(|| {
        config.wrong(SHARED, &format!("a number of the {} layers", windowed.len()))
    })?;
    let first = layers.len() - shared;
    let double = flag(config, Flag::Key("use_double_wide_mlp"))?;
    for i in first..layers.len() {
        let source = (0..first).rev().find(|&j| windowed[j] == windowed[i]).ok_or_else(|| {
            invalid!(
                "{} is {shared}: no layer before layer {i} has K and V for it.",
                config.name(SHARED)
            )
        })?;
        let LayerShape { kv_heads, head_dim, .. } = layers[source];
        let ffn = if double { 2 * same.ffn } else { same.ffn };
        layers[i] = LayerShape { kv_heads, head_dim, keys: KeysFrom::Layer(source), ffn };
    }
    Ok(layers)
}

/// Layers that see all, where config.json says of them all alike.
fn global_shape(config: &Object, same: LayerShape, one_product: bool) -> Result<LayerShape> {
    let head_dim = needed_width(config, "global_head_dim")?;
    let kv_heads = match width(config, "num_global_key_value_heads")? {
        Some(heads) if one_product => heads,
        _ => same.kv_heads,
    };
    Ok(LayerShape { kv_heads, head_dim, ..same })
}

/// What an object says under a layer's number.
fn overridden(own: &Object, i: usize, same: LayerShape) -> Result<LayerShape> {
    let Some(layer) = own.object(&i.to_string())? else { return Ok(same) };
    Ok(LayerShape {
        kv_heads: width(&layer, "num_key_value_heads")?.unwrap_or(same.kv_heads),
        head_dim: width(&layer, "head_dim")?.unwrap_or(same.head_dim),
        ..same
    })
}
