//! The rows of architectures that only embed or classify: every token sees every other. Part of the
//! list in [`super`], which looks them up.

use super::decoders::{LLAMA, LLAMA_KEYS, LLAMA_NAMES};
use super::defaults;
use super::family::{Classifier, ClassifierDense, Eps, Family, Keys, Names, Positions, Windows};
use super::flag::Flag;
use crate::device::{NormKind, Pooling};

/// Sentence embeddings and classifiers; an embedder's pooler and other heads are left out.
pub(super) const BERT: Family = Family {
    architecture: "BertModel",
    aliases: &[],
    prefixes: &["", "bert."],
    keys: Keys { kv_heads: None, ..LLAMA_KEYS },
    defaults: defaults::BERT,
    names: Names {
        embed: "embeddings.word_embeddings",
        token_types: Some("embeddings.token_type_embeddings"),
        embed_norm: Some("embeddings.LayerNorm"),
        layers: "encoder.layer",
        attn_norm: Some("attention.output.LayerNorm"),
        qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
        attn_out: "attention.output.dense",
        mlp_norm: Some("output.LayerNorm"),
        up: &["intermediate.dense"],
        down: "output.dense",
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_eps"),
    gated: false,
    positions: Positions::Learned {
        name: "embeddings.position_embeddings",
        offset: 0,
        inclusive: false,
    },
    qkv_bias: Flag::Always,
    out_bias: Flag::Always,
    mlp_bias: Flag::Always,
    pre_norm: Flag::Never,
    encoder: true,
    pooling: Pooling::First,
    classifier: Classifier {
        dense: ClassifierDense::OfBody("pooler.dense"),
        output: "classifier",
        biased: true,
        pair_types: true,
        pooling: None,
    },
    must_be_off: &["is_decoder", "add_cross_attention"],
    must_be: &[("position_embedding_type", "\"absolute\"")],
    ..LLAMA
};

/// BERT whose first two positions stand for padding.
pub(super) const ROBERTA: Family = Family {
    architecture: "RobertaModel",
    defaults: defaults::ROBERTA,
    prefixes: &["", "roberta."],
    positions: Positions::Learned {
        name: "embeddings.position_embeddings",
        offset: 2,
        inclusive: true,
    },
    classifier: Classifier {
        dense: ClassifierDense::OfHead("classifier.dense"),
        output: "classifier.out_proj",
        biased: true,
        pair_types: false,
        pooling: None,
    },
    must_be: &[("position_embedding_type", "\"absolute\""), ("pad_token_id", "1")],
    ..BERT
};

pub(super) const ROBERTA_MASKED: Family = Family { architecture: "RobertaForMaskedLM", ..ROBERTA };

pub(super) const XLM_ROBERTA: Family = Family {
    variants: &[
        ("position_embedding_type", "\"rotary\"", &JINA),
        ("use_flash_attn", "true", &XLM_ROBERTA_OTHER_NAMES),
    ],
    ..XLM_ROBERTA_SHAPE
};

const XLM_ROBERTA_SHAPE: Family =
    Family { architecture: "XLMRobertaModel", defaults: defaults::XLM_ROBERTA, ..ROBERTA };

/// As Jina's code names its tensors: their reranker of 2024.
const XLM_ROBERTA_OTHER_NAMES: Family = Family {
    names: Names {
        embed_norm: Some("emb_ln"),
        layers: "encoder.layers",
        attn_norm: Some("norm1"),
        qkv: &["mixer.Wqkv"],
        attn_out: "mixer.out_proj",
        mlp_norm: Some("norm2"),
        up: &["mlp.fc1"],
        down: "mlp.fc2",
        ..ROBERTA.names
    },
    ..XLM_ROBERTA_SHAPE
};

/// Jina v3: rotated, with adapters of several tasks.
const JINA: Family = Family {
    spellings: &[("rotary_emb_base", "rope_theta")],
    positions: Positions::Rope,
    merged_adapter: Some(["lora_alpha", "lora_rank"]),
    must_be: &[],
    ..XLM_ROBERTA_OTHER_NAMES
};

/// Norms behind the residual, rope, a gated MLP.
pub(super) const NOMIC_BERT: Family = Family {
    architecture: "NomicBertModel",
    defaults: defaults::NOMIC_BERT,
    spellings: &[
        ("n_embd", "hidden_size"),
        ("n_layer", "num_hidden_layers"),
        ("n_head", "num_attention_heads"),
        ("n_inner", "intermediate_size"),
        ("activation_function", "hidden_act"),
        ("layer_norm_epsilon", "layer_norm_eps"),
        ("max_trained_positions", "max_position_embeddings"),
        ("rotary_emb_base", "rope_theta"),
        ("rotary_emb_fraction", "partial_rotary_factor"),
    ],
    names: Names {
        embed_norm: Some("emb_ln"),
        layers: "encoder.layers",
        attn_norm: Some("norm1"),
        qkv: &["attn.Wqkv"],
        attn_out: "attn.out_proj",
        mlp_norm: Some("norm2"),
        up: &["mlp.fc12", "mlp.fc11"],
        down: "mlp.fc2",
        ..BERT.names
    },
    gated: true,
    positions: Positions::Rope,
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    must_be_off: &[
        "causal",
        "mlp_fc1_bias",
        "mlp_fc2_bias",
        "num_experts",
        "parallel_block",
        "prenorm",
        "qkv_proj_bias",
        "rotary_emb_interleaved",
        "rotary_emb_scale_base",
        "rotary_scaling_factor",
        "use_rms_norm",
    ],
    must_be: &[],
    ..BERT
};

/// The same by other names, with biases.
pub(super) const GTE: Family = Family {
    architecture: "GteModel",
    aliases: &["NewModel", "GteNewModel"],
    prefixes: &["", "new."],
    defaults: defaults::GTE,
    names: Names {
        attn_norm: Some("attn_ln"),
        qkv: &["attention.qkv_proj"],
        attn_out: "attention.o_proj",
        mlp_norm: Some("mlp_ln"),
        up: &["mlp.up_gate_proj"],
        down: "mlp.down_proj",
        ..BERT.names
    },
    gated: true,
    positions: Positions::Rope,
    up_without_bias: true,
    up_before_gate: true,
    must_be_off: &["is_decoder", "logn_attention_scale"],
    must_be: &[
        ("layer_norm_type", "\"layer_norm\""),
        ("pack_qkv", "true"),
        ("position_embedding_type", "\"rope\""),
    ],
    ..BERT
};

/// Windows to both sides on two of three layers, which rotate by a base of their own.
pub(super) const MODERN_BERT: Family = Family {
    architecture: "ModernBertModel",
    aliases: &[],
    prefixes: &["", "model."],
    keys: Keys { kv_heads: None, activation: "hidden_activation", ..LLAMA_KEYS },
    defaults: defaults::MODERN_BERT,
    spellings: &[
        ("local_attention", "sliding_window"),
        ("global_rope_theta", "rope_theta"),
        ("local_rope_theta", "rope_local_base_freq"),
    ],
    names: Names {
        embed: "embeddings.tok_embeddings",
        embed_norm: Some("embeddings.norm"),
        attn_norm: Some("attn_norm"),
        qkv: &["attn.Wqkv"],
        attn_out: "attn.Wo",
        mlp_norm: Some("mlp_norm"),
        up: &["mlp.Wi"],
        down: "mlp.Wo",
        final_norm: "final_norm",
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    eps: Eps::Key("norm_eps"),
    norm_bias: false,
    first_norm_of_embedding: true,
    windows: Windows::ExceptFirstOfEach("global_attn_every_n_layers"),
    window_both_sides: true,
    local_rope: true,
    encoder: true,
    pooling: Pooling::First,
    classifier: Classifier {
        dense: ClassifierDense::Normed { dense: "head.dense", norm: "head.norm" },
        output: "classifier",
        biased: true,
        pair_types: false,
        pooling: Some("classifier_pooling"),
    },
    must_be_off: &["norm_bias", "classifier_bias"],
    must_be: &[("classifier_activation", "\"gelu\"")],
    ..LLAMA
};
