//! Names of a GGUF file's tensors -> names of a checkpoint of Hugging Face's. Called by `tensors`;
//! it knows no shape.

use super::architectures::Architecture;

/// What a tensor is called in a checkpoint of Hugging Face's.
#[derive(Debug, PartialEq)]
pub(super) enum Name {
    One(String),
    /// Each expert's rows are a tensor of their own: what stands before and behind its number.
    OfEachExpert {
        before: String,
        after: String,
    },
}

/// None: the model has no such tensor.
pub(super) fn name_of(architecture: &Architecture, gguf: &str) -> Option<Name> {
    let whole = match gguf {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => return in_layer(architecture, gguf),
    };
    Some(Name::One(whole.into()))
}

/// `blk.0.attn_q.weight`
fn in_layer(architecture: &Architecture, gguf: &str) -> Option<Name> {
    let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (own, kind) = rest.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    if let Some((_, name)) = architecture.names.iter().find(|(known, _)| *known == own) {
        return Some(Name::One(format!("model.layers.{layer}.{name}.{kind}")));
    }
    let stack = |own: &str| architecture.stacks.iter().find(|(known, ..)| *known == own);
    // Older files hold each expert's matrix by itself: `ffn_up.3`.
    if let Some((own, expert)) = own.split_once('.') {
        let expert: u32 = expert.parse().ok()?;
        let (_, list, name) = stack(&format!("{own}_exps"))?;
        return Some(Name::One(format!("model.layers.{layer}.{list}.{expert}.{name}.{kind}")));
    }
    let (_, list, name) = stack(own)?;
    Some(Name::OfEachExpert {
        before: format!("model.layers.{layer}.{list}."),
        after: format!(".{name}.{kind}"),
    })
}

/// Whether the rows of q and k in this tensor may lie in pairs, and whose heads they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Heads {
    OfQ,
    OfK,
}

/// Whose heads a tensor's rows are, if it is rotated and the architecture stores such in pairs.
pub(super) fn heads_in_pairs(architecture: &Architecture, gguf: &str) -> Option<Heads> {
    let own = gguf.rsplit_once('.')?.0.rsplit_once('.')?.1;
    match own {
        "attn_q" if architecture.pairs => Some(Heads::OfQ),
        "attn_k" if architecture.pairs => Some(Heads::OfK),
        _ => None,
    }
}

/// Whether a tensor is the weight of a norm that is stored as 1 + w.
pub(super) fn is_norm_plus_one(architecture: &Architecture, gguf: &str) -> bool {
    architecture.norms_plus_one && gguf.ends_with("norm.weight")
}

#[cfg(test)]
mod tests {
    use super::super::architectures::find;
    use super::*;

    #[test]
    fn names_of_a_layer() {
        let one = |name: &str| Some(Name::One(name.into()));
        let llama = find("llama").unwrap();
        assert_eq!(name_of(llama, "output.weight"), one("lm_head.weight"));
        let norm = "model.layers.7.post_attention_layernorm.weight";
        assert_eq!(name_of(llama, "blk.7.ffn_norm.weight"), one(norm));
        let norm = "model.layers.7.pre_feedforward_layernorm.weight";
        let gemma = find("gemma3").unwrap();
        assert_eq!(name_of(gemma, "blk.7.ffn_norm.weight"), one(norm));
        let experts = Name::OfEachExpert {
            before: "model.layers.11.mlp.experts.".into(),
            after: ".w3.weight".into(),
        };
        assert_eq!(name_of(llama, "blk.11.ffn_up_exps.weight"), Some(experts));
        let one_expert = one("model.layers.2.mlp.experts.5.w2.weight");
        assert_eq!(name_of(llama, "blk.2.ffn_down.5.weight"), one_expert);
        for none in ["rope_freqs.weight", "blk.x.attn_q.weight", "blk.0.attn_q", "blk.0.odd.bias"] {
            assert_eq!(name_of(llama, none), None, "{none}");
        }
        assert_eq!(heads_in_pairs(llama, "blk.0.attn_k.bias"), Some(Heads::OfK));
        assert_eq!(heads_in_pairs(llama, "blk.0.attn_v.weight"), None);
        assert_eq!(heads_in_pairs(gemma, "blk.0.attn_q.weight"), None);
        assert!(is_norm_plus_one(gemma, "blk.0.attn_q_norm.weight"));
        assert!(is_norm_plus_one(gemma, "output_norm.weight") && !gemma.pairs);
    }
}
