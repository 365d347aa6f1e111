//! The rows of architectures whose attention is over latent vectors. Part of the list in [`super`],
//! which looks them up.

use super::decoders::{LLAMA, LLAMA_NAMES};
use super::defaults;
use super::family::{Choice, Family, LatentNames, Mixture, Multipliers, Names};
use super::flag::Flag;
use super::further_defaults;
use super::mixtures::GROUPED_MIXTURE;
use super::next_tokens::DEEPSEEK_NEXT;
use crate::device::RouteScore;

const LATENT_NAMES: LatentNames = LatentNames {
    q: "self_attn.q_proj",
    q_low_rank: ["self_attn.q_a_proj", "self_attn.q_a_layernorm", "self_attn.q_b_proj"],
    latent: "self_attn.kv_a_proj_with_mqa",
    latent_norm: "self_attn.kv_a_layernorm",
    heads: "self_attn.kv_b_proj",
    neighbours: true,
};

const NAMES: Names = Names { latent: Some(LATENT_NAMES), ..LLAMA_NAMES };

/// All norms have the epsilon of config.json, as in the Python backend; in transformers those of
/// low ranks have 1e-6.
pub(super) const DEEPSEEK_V3: Family = Family {
    architecture: "DeepseekV3ForCausalLM",
    aliases: &[],
    defaults: defaults::DEEPSEEK_V3,
    names: NAMES,
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    mixture: Some(GROUPED_MIXTURE),
    no_float16: true,
    next_token: Some(DEEPSEEK_NEXT),
    must_be_off: &["attention_bias", "mlp_bias", "use_bidirectional_attention"],
    must_be: &[("is_causal", "true"), ("rope_interleave", "true"), ("scoring_func", "\"sigmoid\"")],
    ..LLAMA
};

/// Experts by softmax and without a bias.
pub(super) const DEEPSEEK_V2: Family = Family {
    architecture: "DeepseekV2ForCausalLM",
    defaults: defaults::DEEPSEEK_V2,
    mixture: Some(Mixture {
        choice: Choice {
            score: RouteScore::Softmax,
            method: Some(("topk_method", &["greedy", "group_limited_greedy"])),
            ..GROUPED_MIXTURE.choice
        },
        choice_bias: None,
        ..GROUPED_MIXTURE
    }),
    must_be: &[("is_causal", "true"), ("rope_interleave", "true"), ("scoring_func", "\"softmax\"")],
    ..DEEPSEEK_V3
};

pub(super) const GLM4_MOE_LITE: Family = Family {
    architecture: "Glm4MoeLiteForCausalLM",
    defaults: defaults::GLM4_MOE_LITE,
    ..DEEPSEEK_V3
};

/// MiniCPM over latent vectors, without experts.
pub(super) const MINICPM3: Family = Family {
    architecture: "MiniCPM3ForCausalLM",
    defaults: further_defaults::MINICPM3,
    names: Names { latent: Some(LatentNames { neighbours: false, ..LATENT_NAMES }), ..LLAMA_NAMES },
    mixture: None,
    next_token: None,
    multipliers: Multipliers::MiniCpm,
    no_float16: false,
    must_be: &[("is_causal", "true")],
    ..DEEPSEEK_V3
};
