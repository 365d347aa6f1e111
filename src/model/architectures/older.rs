//! Rows of older deployments, and of single houses. Part of the list in [`super`], which looks them
//! up.

use super::decoders::{LLAMA, LLAMA_KEYS, LLAMA_NAMES};
use super::defaults;
use super::family::{AttnScale, Eps, Family, Fused, Keys, Multipliers, Names, Positions};
use super::flag::Flag;
use super::further_defaults;
use crate::device::NormKind;

/// What Falcon's shapes have in common: attention and MLP in parallel, heads of q before the k and
/// the v that they share.
const FALCON_SHAPE: Family = Family {
    architecture: "FalconForCausalLM",
    aliases: &[],
    prefixes: &["transformer.", ""],
    keys: Keys {
        kv_heads: Some("num_kv_heads"),
        ffn: "ffn_hidden_size",
        ffn_null_4x: true,
        activation: "activation",
        ..LLAMA_KEYS
    },
    defaults: defaults::FALCON,
    names: Names {
        embed: "word_embeddings",
        layers: "h",
        qkv: &["self_attention.query_key_value"],
        attn_out: "self_attention.dense",
        mlp_norm: None,
        up: &["mlp.dense_h_to_4h"],
        down: "mlp.dense_4h_to_h",
        final_norm: "ln_f",
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_epsilon"),
    gated: false,
    qkv_bias: Flag::Key("bias"),
    out_bias: Flag::Key("bias"),
    mlp_bias: Flag::Key("bias"),
    parallel: Flag::Always,
    fused: Fused::PerGroup,
    must_be_off: &["alibi"],
    must_be: &[],
    ..LLAMA
};

/// As Falcon 7B: one KV head, one norm.
pub(super) const FALCON: Family = Family {
    variants: &[
        ("alibi", "true", &FALCON_ALIBI),
        ("num_ln_in_parallel_attn", "1", &FALCON_ONE_NORM),
        ("new_decoder_architecture", "true", &FALCON_TWO_NORMS),
    ],
    keys: Keys { one_kv_head: true, ..FALCON_SHAPE.keys },
    must_be: &[("multi_query", "true"), ("parallel_attn", "true")],
    ..FALCON_SHAPE
};

/// As Falcon 40B and 180B: several KV heads, a norm for attention and one for the MLP.
const FALCON_TWO_NORMS: Family = Family {
    names: Names { attn_norm: Some("ln_attn"), mlp_norm: Some("ln_mlp"), ..FALCON_SHAPE.names },
    parallel_mlp_norm: true,
    ..FALCON_SHAPE
};

/// As Falcon 2 11B: several KV heads, one norm.
const FALCON_ONE_NORM: Family =
    Family { must_be: &[("new_decoder_architecture", "true")], ..FALCON_SHAPE };

/// As Falcon RW: ALiBi, whose slopes are scaled as scores are, as many KV heads as heads, attention
/// in front of the MLP.
const FALCON_ALIBI: Family = Family {
    names: Names { mlp_norm: Some("post_attention_layernorm"), ..FALCON_SHAPE.names },
    positions: Positions::Alibi { scaled: true },
    parallel: Flag::Never,
    must_be_off: &["multi_query", "parallel_attn", "new_decoder_architecture"],
    ..FALCON_SHAPE
};

/// ALiBi; a norm over the embedding. gelu is the exact one, as in the Python backend.
pub(super) const BLOOM: Family = Family {
    architecture: "BloomForCausalLM",
    aliases: &[],
    keys: Keys {
        layers: "n_layer",
        heads: "n_head",
        kv_heads: None,
        ffn: "n_inner",
        activation: "activation_function",
        ..FALCON_SHAPE.keys
    },
    defaults: further_defaults::BLOOM,
    spellings: &[
        ("n_embed", "hidden_size"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("seq_length", "max_position_embeddings"),
    ],
    names: Names {
        embed_norm: Some("word_embeddings_layernorm"),
        mlp_norm: Some("post_attention_layernorm"),
        ..FALCON_SHAPE.names
    },
    positions: Positions::Alibi { scaled: false },
    qkv_bias: Flag::Always,
    out_bias: Flag::Always,
    mlp_bias: Flag::Always,
    parallel: Flag::Never,
    must_be_off: &["apply_residual_connection_post_layernorm"],
    ..FALCON_SHAPE
};

/// GLM-4 and ChatGLM 3 as their own code writes them.
pub(super) const CHATGLM: Family = Family {
    architecture: "ChatGLMModel",
    aliases: &["ChatGLMForConditionalGeneration"],
    prefixes: &["transformer.", ""],
    keys: Keys {
        layers: "num_layers",
        kv_heads: Some("multi_query_group_num"),
        ffn: "ffn_hidden_size",
        ..LLAMA_KEYS
    },
    defaults: defaults::CHATGLM,
    spellings: &[
        ("padded_vocab_size", "vocab_size"),
        ("layernorm_epsilon", "rms_norm_eps"),
        ("seq_length", "max_position_embeddings"),
        ("kv_channels", "head_dim"),
    ],
    names: Names {
        embed: "embedding.word_embeddings",
        layers: "encoder.layers",
        qkv: &["self_attention.query_key_value"],
        attn_out: "self_attention.dense",
        up: &["mlp.dense_h_to_4h"],
        down: "mlp.dense_4h_to_h",
        final_norm: "encoder.final_layernorm",
        head: "transformer.output_layer",
        ..LLAMA_NAMES
    },
    qkv_bias: Flag::Key("add_qkv_bias"),
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    interleaved: true,
    must_be_off: &["add_bias_linear", "apply_residual_connection_post_layernorm"],
    must_be: &[
        ("multi_query_attention", "true"),
        ("original_rope", "true"),
        ("post_layer_norm", "true"),
        ("rmsnorm", "true"),
    ],
    ..LLAMA
};

/// Llama with layer norms.
pub(super) const ORION: Family = Family {
    architecture: "OrionForCausalLM",
    aliases: &[],
    defaults: defaults::ORION,
    norm: NormKind::Layer,
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    ..LLAMA
};

/// Granite's multipliers, of which that of logits multiplies.
const HYPERCLOVAX_SHAPE: Family = Family {
    architecture: "HyperCLOVAXForCausalLM",
    aliases: &[],
    defaults: defaults::HYPERCLOVAX,
    attn_scale: AttnScale::KeyOrHeadDim("attention_multiplier"),
    multipliers: Multipliers::HyperClovaX,
    ..LLAMA
};

pub(super) const HYPERCLOVAX: Family =
    Family { variants: &[("use_post_norm", "true", &HYPERCLOVAX_POST)], ..HYPERCLOVAX_SHAPE };

/// With norms of what attention and MLP add.
const HYPERCLOVAX_POST: Family = Family {
    names: Names { attn_post: Some("post_norm1"), mlp_post: Some("post_norm2"), ..LLAMA_NAMES },
    ..HYPERCLOVAX_SHAPE
};
