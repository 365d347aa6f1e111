//! Attention over latent vectors by config.json: widths, scale and rope. Called by `config` alone.
//! It knows no tensor.

use super::keys::{needed_width, width};
use super::layers::LayerAttention;
use super::rope;
use crate::device::Rope;
use crate::error::Result;
use crate::invalid;
use crate::json::Object;
use crate::model::architectures::Family;

/// Widths of attention over latent vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentShape {
    /// Of what q is made of, where two products make it.
    pub q_rank: Option<usize>,
    /// Of the latent's front, of which K and V are made.
    pub rank: usize,
    /// Of a head of q and k without its rotated end.
    pub nope: usize,
    /// Of the rotated end of a head; the latent has one for all. An even number.
    pub rotary: usize,
    /// Of a head of v.
    pub value: usize,
}

impl LatentShape {
    /// Of a latent vector.
    pub fn width(&self) -> usize {
        self.rank + self.rotary
    }

    /// Of a head of q.
    pub fn q_dim(&self) -> usize {
        self.nope + self.rotary
    }
}

/// The family's widths, if its attention is over latent vectors.
///
/// # Errors
/// A width that is none; an odd number of rotated dimensions.
pub fn shape(config: &Object, family: &Family) -> Result<Option<LatentShape>> {
    const ROTARY: &str = "qk_rope_head_dim";
    if family.names.latent.is_none() {
        return Ok(None);
    }
    let shape = LatentShape {
        q_rank: width(config, "q_lora_rank")?,
        rank: needed_width(config, "kv_lora_rank")?,
        nope: needed_width(config, "qk_nope_head_dim")?,
        rotary: needed_width(config, ROTARY)?,
        value: value_width(config, family)?,
    };
    if !shape.rotary.is_multiple_of(2) {
        return Err(invalid!("{} is {}, which is odd.", config.name(ROTARY), shape.rotary));
    }
    Ok(Some(shape))
}

/// Width of a head of v; without a key what it has of the residual.
fn value_width(config: &Object, family: &Family) -> Result<usize> {
    const KEY: &str = "v_head_dim";
    if let Some(width) = width(config, KEY)? {
        return Ok(width);
    }
    let hidden = needed_width(config, family.keys.hidden)?;
    let heads = needed_width(config, family.keys.heads)?;
    let shared = (hidden / heads).max(1);
    Ok(if hidden.is_multiple_of(heads) { shared } else { needed_width(config, KEY)? })
}

/// The rope; all layers get what multiplies their q.k. Yarn multiplies scores by the square of its
/// magnitude for `mscale_all_dim`, and cos and sin by that for `mscale` over it.
///
/// # Errors
/// Those of [`rope::of_latent`].
pub fn rope(
    config: &Object,
    shape: &LatentShape,
    layers: &mut [LayerAttention],
    max_model_len: usize,
) -> Result<Rope> {
    let (rope, magnitude) = rope::of_latent(config, shape.rotary, max_model_len)?;
    let scale = (shape.q_dim() as f64).powf(-0.5) * magnitude * magnitude;
    layers.iter_mut().for_each(|layer| layer.attn.scale = scale as f32);
    Ok(rope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architectures;
    use crate::model::config::layer_shapes::{self, Shape};
    use crate::model::config::layers;
    use serde_json::{json, Value};

    fn of(config: Value) -> Result<(LatentShape, f32, Rope)> {
        let family = architectures::find("DeepseekV3ForCausalLM").unwrap();
        let defaults = serde_json::from_str(family.defaults).unwrap();
        let config = Object::new("config.json", config.as_object().unwrap());
        let config = config.with(family.spellings, &defaults);
        let shape = shape(&config, family)?.unwrap();
        let one = Shape { hidden: 8, heads: 1, kv_heads: 1, head_dim: 576, layers: 1 };
        let shapes = layer_shapes::of(&config, family, &one, &[false], 1)?;
        let mut attention = layers::attention(&config, family, one.heads, &[false], &shapes)?;
        let rope = rope(&config, &shape, &mut attention, 4096)?;
        Ok((shape, attention[0].attn.scale, rope))
    }

    #[test]
    fn yarn_scales_scores_and_rotation_apart() {
        let (shape, scale, rope) = of(json!({})).unwrap();
        assert_eq!((shape.width(), shape.q_dim(), shape.q_rank), (576, 192, Some(1536)));
        assert!((scale * 192f32.sqrt() - 1.0).abs() < 1e-6);
        assert_eq!((rope.rotary_dim, rope.magnitude), (64, 1.0));

        let yarn = |more: Value| {
            let mut scaling = json!({"type": "yarn", "factor": 40,
                "original_max_position_embeddings": 4096});
            scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let (_, scale, rope) = of(json!({ "rope_scaling": scaling })).unwrap();
            (f64::from(scale) * 192f64.sqrt(), f64::from(rope.magnitude))
        };
        let ms = |a: f64| 1.0 + 0.1 * a * 40f64.ln();
        for (more, all, turned) in [
            (json!({"mscale": 1.0, "mscale_all_dim": 1.0}), ms(1.0), 1.0),
            (json!({"mscale": 0.7, "mscale_all_dim": 0.5}), ms(0.5), ms(0.7) / ms(0.5)),
            (json!({"mscale": 0.7}), 1.0, ms(0.7)),
            (json!({"mscale_all_dim": 0.0}), 1.0, ms(1.0)),
            (json!({}), 1.0, ms(1.0)),
        ] {
            let (scale, magnitude) = yarn(more.clone());
            assert!((scale - all * all).abs() < 1e-5, "{more}: {scale}");
            assert!((magnitude - turned).abs() < 1e-5, "{more}: {magnitude}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (config, word) in [
            (json!({"qk_rope_head_dim": 63}), "qk_rope_head_dim"),
            (json!({"kv_lora_rank": 0}), "kv_lora_rank"),
            (json!({"v_head_dim": "x"}), "v_head_dim"),
            (json!({"rope_scaling": {"type": "linear", "factor": 2}}), "yarn"),
        ] {
            let text = of(config).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
