//! The scales of K and V in pages of eight bits, by layer: what a checkpoint says under any of the
//! names that such scales have had, else 1. Part of `load`; `decoder` asks for them and gives them
//! to attention. It knows no device.

use super::loader::prefix_of;
use crate::device::{KvScales, KvType};
use crate::error::Result;
use crate::model::checkpoint::{Checkpoint, StoredType, WeightSource};
use crate::model::config::ModelSpec;

/// The method whose checkpoints may have scales of the outputs of k_proj and v_proj instead.
const OUTPUT_SCALES: &str = "fp8";
const TYPES: [StoredType; 3] = [StoredType::F32, StoredType::F16, StoredType::BF16];

/// Of each layer. Pages of other types have no scales: then none are read.
///
/// # Errors
/// InvalidArgument: a scale is no finite number above 0, or not one number or one for each KV head.
pub fn kv_scales(spec: &ModelSpec, source: &WeightSource, kv: KvType) -> Result<Vec<KvScales>> {
    let ones = vec![KvScales::ONE; spec.layers];
    if kv.plain().is_some() || spec.family.encoder {
        return Ok(ones);
    }
    let WeightSource::Files(checkpoint) = source else { return Ok(ones) };

    let mut search = Search { spec, checkpoint, by_head: false };
    let mut all = ones;
    let stored = (0..spec.layers).filter(|&layer| spec.keys_of(layer) == Some(layer)).count();
    let mut without = stored;
    if let Some(quant) = spec.quant.as_ref().filter(|quant| quant.kv.scales) {
        let prefix = prefix_of(spec, source);
        for layer in 0..spec.layers {
            // Layers that use what another one stored come behind it.
            let Some(source) = spec.keys_of(layer) else { continue };
            if source != layer {
                all[layer] = all[source];
                continue;
            }
            if let Some(found) = search.layer(prefix, layer, quant.method == OUTPUT_SCALES)? {
                all[layer] = found;
                without -= 1;
            }
        }
    }

    if without > 0 {
        tracing::warn!(
            "kv_cache_dtype {}: {without} of {stored} layers have no scales of K and V (k_scale, \
             v_scale) that count: they are stored with scale 1, which may cost accuracy",
            kv.name()
        );
    }
    if search.by_head {
        tracing::info!(
            "kv_cache_dtype {}: of scales by head the largest serves all heads of a layer",
            kv.name()
        );
    }
    Ok(all)
}

struct Search<'a> {
    spec: &'a ModelSpec,
    checkpoint: &'a Checkpoint,
    /// Some layer has scales by head.
    by_head: bool,
}

impl Search<'_> {
    /// One of both serves K and V; None: there is neither.
    fn layer(&mut self, prefix: &str, layer: usize, outputs: bool) -> Result<Option<KvScales>> {
        let names = &self.spec.family.names;
        let linears: Vec<String> = names
            .qkv
            .iter()
            .map(|name| format!("{prefix}{}.{layer}.{name}", names.layers))
            .collect();
        let Some(first) = linears.first() else { return Ok(None) };
        let module = first.rsplit_once('.').map_or("", |(module, _)| module);
        // Of three linears that of K is the second and that of V the third.
        let linear = |which: usize| linears.get(which).unwrap_or(first);

        let heads = self.spec.attention[layer].attn.kv_heads;
        let mut found = [None; 2];
        for (which, half) in ["k", "v"].into_iter().enumerate() {
            let own = linear(which + 1);
            let mut places = vec![
                format!("{module}.{half}_scale"),
                format!("{module}.attn.{half}_scale"),
                format!("{own}.{half}_scale"),
                format!("{module}.qkv_proj.{half}_scale"),
            ];
            if outputs && linears.len() == 3 {
                places.push(format!("{own}.output_scale"));
            }
            places.push(format!("{module}.kv_scale"));
            found[which] = self.first_of(&places, heads)?;
        }
        Ok(match found {
            [None, None] => None,
            [k, v] => {
                let (k, v) = (k.or(v), v.or(k));
                k.zip(v).map(|(k, v)| KvScales { k, v })
            }
        })
    }

    fn first_of(&mut self, names: &[String], heads: usize) -> Result<Option<f32>> {
        let Some(name) = names.iter().find(|name| self.checkpoint.contains(name)) else {
            return Ok(None);
        };
        let shapes: [&[usize]; 5] = [&[], &[1], &[1, 1, 1], &[heads], &[heads, 1, 1]];
        let tensor = self.checkpoint.raw(name, &TYPES, &shapes)?;

        let scales = tensor.floats()?;
        self.by_head |= scales.len() > 1;
        if let Some(scale) = scales.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
            return Err(tensor.wrong(format_args!(
                "holds {scale}: a scale of the KV cache must be a finite number above 0"
            )));
        }
        // In numbers with an exponent a scale that is too large costs nothing until a head's are
        // some hundred times smaller than another's; one that is too small cuts them off.
        Ok(scales.into_iter().reduce(f32::max))
    }
}

#[cfg(test)]
#[path = "kv_scales_tests.rs"]
mod tests;
