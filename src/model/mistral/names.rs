//! Names of tensors in `consolidated*.safetensors` -> those of Hugging Face's checkpoints. Called
//! by `checkpoint`; it knows no shape.

/// Modules and tensors outside of layers.
const WHOLE: [(&str, &str); 3] =
    [("tok_embeddings", "model.embed_tokens"), ("norm", "model.norm"), ("output", "lm_head")];
/// Those of a layer.
const OF_LAYER: [(&str, &str); 10] = [
    ("attention_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attention.wq", "self_attn.q_proj"),
    ("attention.wk", "self_attn.k_proj"),
    ("attention.wv", "self_attn.v_proj"),
    ("attention.wo", "self_attn.o_proj"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
    ("feed_forward.gate", "block_sparse_moe.gate"),
];
/// Of a layer with experts, in front of an expert's number; behind it both have w1, w2 and w3.
const EXPERTS: (&str, &str) = ("feed_forward.experts.", "block_sparse_moe.experts.");
/// What stands behind a module: scales of codes in eight bits.
const ENDS: [(&str, &str); 2] = [("qscale_weight", "weight_scale"), ("qscale_act", "input_scale")];
/// Scales of the KV cache, in a layer.
const KV_SCALES: [(&str, &str); 3] = [
    ("attention.k_fake_quantizer.qscale_act", "self_attn.k_scale"),
    ("attention.v_fake_quantizer.qscale_act", "self_attn.v_scale"),
    ("attention.kv_fake_quantizer.qscale_act", "self_attn.kv_scale"),
];

/// The name that a tensor has elsewhere; its own, if it is none of a language model's.
pub fn name_of(own: &str) -> String {
    renamed(own).unwrap_or_else(|| own.to_string())
}

fn renamed(own: &str) -> Option<String> {
    let (layer, rest) = match own.strip_prefix("layers.") {
        Some(rest) => {
            let (layer, rest) = rest.split_once('.')?;
            (Some(layer.parse::<u32>().ok()?), rest)
        }
        None => (None, own),
    };
    let found = |table: &[(&str, &'static str)], name: &str| {
        table.iter().find(|(known, _)| *known == name).map(|&(_, new)| new)
    };

    let (module, end) = rest.rsplit_once('.')?;
    let end = found(&ENDS, end).unwrap_or(end);
    match layer {
        None => Some(format!("{}.{end}", found(&WHOLE, module)?)),
        Some(layer) => Some(match found(&KV_SCALES, rest) {
            Some(scale) => format!("model.layers.{layer}.{scale}"),
            None => match module.strip_prefix(EXPERTS.0) {
                Some(expert) => format!("model.layers.{layer}.{}{expert}.{end}", EXPERTS.1),
                None => format!("model.layers.{layer}.{}.{end}", found(&OF_LAYER, module)?),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_language_model() {
        for (own, name) in [
            ("tok_embeddings.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("norm.weight", "model.norm.weight"),
            ("layers.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("layers.31.attention.wq.weight", "model.layers.31.self_attn.q_proj.weight"),
            ("layers.2.feed_forward.w2.qscale_act", "model.layers.2.mlp.down_proj.input_scale"),
            ("layers.2.attention.wk.qscale_weight", "model.layers.2.self_attn.k_proj.weight_scale"),
            ("layers.3.feed_forward.gate.weight", "model.layers.3.block_sparse_moe.gate.weight"),
            (
                "layers.3.feed_forward.experts.7.w2.qscale_weight",
                "model.layers.3.block_sparse_moe.experts.7.w2.weight_scale",
            ),
            ("layers.1.attention.k_fake_quantizer.qscale_act", "model.layers.1.self_attn.k_scale"),
        ] {
            assert_eq!(name_of(own), name);
        }

        for own in [
            "vision_encoder.transformer.layers.0.attention.wq.weight",
            "layers.x.attention.wq.weight",
            "layers.0.odd.weight",
            "layers.0",
            "norm",
            "",
        ] {
            assert_eq!(name_of(own), own);
        }
    }
}
