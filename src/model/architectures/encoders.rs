//! The rows of architectures that only embed or classify: every token sees every other. Part of the
//! list in [`super`], which looks them up.

use super::decoders::{LLAMA, LLAMA_KEYS, LLAMA_NAMES};
use super::defaults;
use super::family::{
    Classifier, ClassifierDense, Eps, Family, Flag, Keys, Names, Positions, Windows,
};
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

pub(super) const XLM_ROBERTA: Family =
    Family { architecture: "XLMRobertaModel", defaults: defaults::XLM_ROBERTA, ..ROBERTA };

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
