//! The rows of architectures of which some layers keep a state of fixed size in place of K and V.
//! Part of the list in [`super`], which looks them up.

use super::decoders::{LLAMA, LLAMA_KEYS, LLAMA_NAMES, QWEN3};
use super::family::{Choice, Eps, Family, Keys, Mixture, MixtureLayers, Names, QkNorm, Windows};
use super::flag::Flag;
use super::mixtures::{QWEN_MIXTURE, QWEN_SHARED};
use super::next_tokens::QWEN_NEXT;
use super::recurrent_rows::{DeltaProjections, GatedDelta, Recurrent, ShortConv};
use super::{defaults, towers};
use crate::device::{NormKind, RouteScore};

const GATED_DELTA: GatedDelta = GatedDelta {
    projections: DeltaProjections::Apart {
        mixed: "linear_attn.in_proj_qkv",
        gate: "linear_attn.in_proj_z",
        rates: ["linear_attn.in_proj_b", "linear_attn.in_proj_a"],
    },
    convolution: "linear_attn.conv1d",
    log_decay: "linear_attn.A_log",
    rate_bias: "linear_attn.dt_bias",
    norm: "linear_attn.norm",
    out: "linear_attn.out_proj",
};

/// Image-and-text checkpoints and those of text alone, of Qwen 3.5 and those that followed.
pub(super) const QWEN3_5: Family = Family {
    architecture: "Qwen3_5ForCausalLM",
    aliases: &["Qwen3_5ForConditionalGeneration"],
    defaults: defaults::QWEN3_5,
    norm: NormKind::RmsPlusOne,
    output_gate: true,
    recurrent: Some(Recurrent::GatedDelta(GATED_DELTA)),
    windows: Windows::Never,
    must_be: &[("attn_output_gate", "true"), ("mamba_ssm_dtype", "\"float32\"")],
    towers: &[&towers::QWEN3_5],
    next_token: Some(QWEN_NEXT),
    ..QWEN3
};

pub(super) const QWEN3_5_MOE: Family = Family {
    architecture: "Qwen3_5MoeForCausalLM",
    aliases: &["Qwen3_5MoeForConditionalGeneration"],
    keys: Keys { ffn: "moe_intermediate_size", ..LLAMA_KEYS },
    defaults: defaults::QWEN3_5_MOE,
    mixture: Some(Mixture {
        renormalise: Flag::Always,
        layers: MixtureLayers::All,
        shared: Some(QWEN_SHARED),
        ..QWEN_MIXTURE
    }),
    ..QWEN3_5
};

pub(super) const QWEN3_NEXT: Family = Family {
    architecture: "Qwen3NextForCausalLM",
    aliases: &[],
    defaults: defaults::QWEN3_NEXT,
    towers: &[],
    mixture: Some(Mixture { shared: Some(QWEN_SHARED), ..QWEN_MIXTURE }),
    recurrent: Some(Recurrent::GatedDelta(GatedDelta {
        projections: DeltaProjections::ByKeyHead {
            mixed_and_gate: "linear_attn.in_proj_qkvz",
            rates: "linear_attn.in_proj_ba",
        },
        ..GATED_DELTA
    })),
    ..QWEN3_5
};

pub(super) const LFM2: Family = Family {
    architecture: "Lfm2ForCausalLM",
    aliases: &[],
    keys: Keys { activation_null: Some("silu"), ffn_adjusted: true, ..LLAMA_KEYS },
    defaults: defaults::LFM2,
    spellings: &[("block_ff_dim", "intermediate_size"), ("tie_embedding", "tie_word_embeddings")],
    names: Names {
        attn_norm: Some("operator_norm"),
        qk_norm: QkNorm::PerHead("self_attn.q_layernorm", "self_attn.k_layernorm"),
        attn_out: "self_attn.out_proj",
        mlp_norm: Some("ffn_norm"),
        up: &["feed_forward.w1", "feed_forward.w3"],
        down: "feed_forward.w2",
        final_norm: "embedding_norm",
        ..LLAMA_NAMES
    },
    eps: Eps::Key("norm_eps"),
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    recurrent: Some(Recurrent::ShortConv(ShortConv {
        input: "conv.in_proj",
        convolution: "conv.conv",
        out: "conv.out_proj",
    })),
    must_be_off: &["conv_bias", "use_bidirectional_attention"],
    ..LLAMA
};

/// Experts in all but the first layers. transformers adds 1e-6 to the sum of the weights, the
/// Python backend does not.
pub(super) const LFM2_MOE: Family = Family {
    architecture: "Lfm2MoeForCausalLM",
    keys: Keys { activation_null: Some("silu"), ..LLAMA_KEYS },
    defaults: defaults::LFM2_MOE,
    spellings: &[("tie_embedding", "tie_word_embeddings")],
    mixture: Some(Mixture {
        choice: Choice {
            score: RouteScore::Sigmoid,
            groups: None,
            scale: Some("routed_scaling_factor"),
            method: None,
        },
        layers: MixtureLayers::From {
            kinds: "mlp_layer_types",
            first: "num_dense_layers",
            each: "moe_layer_freq",
        },
        modules: &["feed_forward"],
        choice_bias: Some("expert_bias"),
        gate_up: &["w1", "w3"],
        down: "w2",
        ..QWEN_MIXTURE
    }),
    must_be: &[("use_expert_bias", "true")],
    ..LFM2
};
