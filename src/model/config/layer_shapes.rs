//! Shapes of layers by config.json, where layers of a model differ: heads of K and V, where K and V
//! come from, width of the MLP. Called by `config` alone. It knows no tensor.

use serde_json::{Map, Value};

use super::keys::{flag, is_on, needed_width, width, MAX_WIDTH};
use crate::error::{Error, Result};
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
    /// From nowhere: the layer has no attention.
    Nowhere,
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
        LayerShapes::ByBlock => by_block(config, shape, same, windowed.len())?,
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

/// DeciLM: each layer by an object of its own.
fn by_block(
    config: &Object,
    shape: &Shape,
    same: LayerShape,
    layers: usize,
) -> Result<Vec<LayerShape>> {
    const KEY: &str = "block_configs";
    let expected = format!("a list of {layers} objects");
    let blocks = config.needed(KEY, &expected, config.list(KEY)?)?;
    if blocks.len() != layers {
        return Err(config.wrong(KEY, &expected));
    }
    let block = |(i, block): (usize, &Value)| {
        let wrong = |what: &str| invalid!("{}: layer {i} {what}.", config.name(KEY));
        let part = |name: &str| {
            let part = block.get(name).and_then(Value::as_object);
            part.ok_or_else(|| wrong(&format!("has no object '{name}'")))
        };
        let (attention, ffn) = (part("attention")?, part("ffn")?);
        for key in ["replace_with_linear", "sparsify", "window_length", "num_sink_tokens"] {
            if is_on(attention.get(key)) || is_on(ffn.get(key)) {
                let at = config.name(KEY);
                return Err(Error::Unsupported(format!(
                    "{at}: layer {i} has '{key}', which is not supported."
                )));
            }
        }

        let keys = if is_on(attention.get("no_op")) { KeysFrom::Nowhere } else { KeysFrom::Own };
        let kv_heads = match keys {
            KeysFrom::Nowhere => 1,
            _ => {
                let group = attention.get("n_heads_in_group").and_then(Value::as_u64);
                let group = group.and_then(|n| usize::try_from(n).ok());
                let fits = group.filter(|&n| n > 0 && shape.heads.is_multiple_of(n));
                shape.heads
                    / fits.ok_or_else(|| {
                        wrong(&format!(
                            "must have an 'n_heads_in_group' that divides the {} heads",
                            shape.heads
                        ))
                    })?
            }
        };
        let ffn = if is_on(ffn.get("no_op")) { Some(0) } else { block_width(ffn, shape.hidden) };
        let ffn = ffn.ok_or_else(|| {
            wrong(&format!("must have an 'ffn_mult' or 'intermediate_size' of at most {MAX_WIDTH}"))
        })?;
        Ok(LayerShape { kv_heads, keys, ffn, ..same })
    };
    blocks.iter().enumerate().map(block).collect()
}

/// The width of an MLP: as it stands, or two thirds of hidden times a factor, up to a multiple of
/// 256.
fn block_width(ffn: &Map<String, Value>, hidden: usize) -> Option<usize> {
    const STEP: usize = 256;
    let width = match ffn.get("intermediate_size").and_then(Value::as_u64) {
        Some(width) => usize::try_from(width).ok()?,
        None => {
            let factor = ffn.get("ffn_mult").and_then(Value::as_f64)?;
            let width = 2.0 * factor * hidden as f64 / 3.0;
            let width = (1.0..MAX_WIDTH as f64).contains(&width).then_some(width as usize)?;
            width.next_multiple_of(STEP)
        }
    };
    (1..=MAX_WIDTH).contains(&width).then_some(width)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architectures;
    use serde_json::json;

    fn of_family(architecture: &str, config: Value, windowed: &[bool]) -> Result<Vec<LayerShape>> {
        let family = architectures::find(architecture).unwrap();
        let defaults = serde_json::from_str(family.defaults).unwrap();
        let config = Object::new("config.json", config.as_object().unwrap());
        let config = config.with(family.spellings, &defaults);
        let layers = windowed.len();
        let shape = Shape { hidden: 24, heads: 8, kv_heads: 2, head_dim: 4, layers };
        of(&config, family, &shape, windowed, 10)
    }

    fn gemma(more: Value) -> Result<Vec<LayerShape>> {
        of_family("Gemma4ForCausalLM", more, &[true, false, true, false])
    }

    #[test]
    fn full_layers_have_heads_of_their_own() {
        let of = |more| -> Vec<_> {
            let layers = gemma(more).unwrap();
            layers.iter().map(|l| (l.kv_heads, l.head_dim, l.keys, l.ffn)).collect()
        };
        let (own, once) = (KeysFrom::Own, KeysFrom::OneProduct);
        let slide = (2, 4, own, 10);
        let (a, b) = ((2, 512, own, 10), (1, 16, once, 10));
        assert_eq!(of(json!({"num_global_key_value_heads": 1})), [slide, a, slide, a]);
        let keys = json!({"num_global_key_value_heads": 1, "attention_k_eq_v": true,
            "global_head_dim": 16});
        assert_eq!(of(keys), [slide, b, slide, b]);
        let by_layer = json!({"attention_k_eq_v": true,
            "per_layer_config": {"1": {"head_dim": 16, "num_key_value_heads": 1}}});
        assert_eq!(of(by_layer), [slide, b, slide, (2, 4, once, 10)]);
        let shared = json!({"num_kv_shared_layers": 2, "use_double_wide_mlp": true});
        let (c, d) = ((2, 4, KeysFrom::Layer(0), 20), (2, 512, KeysFrom::Layer(1), 20));
        assert_eq!(of(shared), [slide, a, c, d]);
    }

    #[test]
    fn blocks_say_what_a_layer_has() {
        let block = |group: Value, ffn: Value| {
            json!({"attention": {"no_op": group.is_null(), "n_heads_in_group": group},
                "ffn": ffn})
        };
        let blocks = json!({"block_configs": [
            block(json!(8), json!({"ffn_mult": 5.25})),
            block(json!(null), json!({"intermediate_size": 7})),
            block(json!(2), json!({"no_op": true})),
        ]});
        let layers = of_family("DeciLMForCausalLM", blocks, &[false; 3]).unwrap();
        let got: Vec<_> = layers.iter().map(|l| (l.kv_heads, l.keys, l.ffn)).collect();
        let want = [(1, KeysFrom::Own, 256), (1, KeysFrom::Nowhere, 7), (4, KeysFrom::Own, 0)];
        assert_eq!(got, want);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let said = |architecture: &str, more: Value| {
            of_family(architecture, more, &[true]).unwrap_err().to_string()
        };
        let ffn = json!({"ffn_mult": 1.0});

        for (architecture, more, word) in [
            ("Gemma4ForCausalLM", json!({"num_kv_shared_layers": 1}), "has K and V for it"),
            ("Gemma4ForCausalLM", json!({"num_kv_shared_layers": 2}), "num_kv_shared_layers"),
            ("Gemma4ForCausalLM", json!({"per_layer_config": {"0": {"head_dim": 0}}}), "head_dim"),
            (
                "Gemma4ForCausalLM",
                json!({"per_layer_config": {"0": {"num_key_value_heads": 3}}}),
                "3 KV heads of layer 0",
            ),
            ("DeciLMForCausalLM", json!({}), "block_configs"),
            ("DeciLMForCausalLM", json!({"block_configs": []}), "a list of 1 objects"),
            ("DeciLMForCausalLM", json!({"block_configs": [{"ffn": {}}]}), "'attention'"),
            (
                "DeciLMForCausalLM",
                json!({"block_configs": [{"attention": {"n_heads_in_group": 3}, "ffn": ffn}]}),
                "divides the 8 heads",
            ),
            (
                "DeciLMForCausalLM",
                json!({"block_configs": [{"attention": {"replace_with_linear": true}, "ffn": {}}]}),
                "replace_with_linear",
            ),
            (
                "DeciLMForCausalLM",
                json!({"block_configs": [
                    {"attention": {"no_op": true}, "ffn": {"ffn_mult": 1e9}}
                ]}),
                "ffn_mult",
            ),
        ] {
            let text = said(architecture, more);
            assert!(text.contains(word), "{text}");
        }
    }
}
