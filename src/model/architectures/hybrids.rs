//! The rows of architectures of which some layers keep a state of fixed size in place of K and V.
//! Part of the list in [`super`], which looks them up.

use super::decoders::{LLAMA_KEYS, QWEN3};
use super::defaults;
use super::family::{
    DeltaProjections, Family, Flag, GatedDelta, Keys, Mixture, MixtureLayers, Windows,
};
use super::mixtures::{QWEN_MIXTURE, QWEN_SHARED};
use crate::device::NormKind;

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
    gated_delta: Some(GATED_DELTA),
    windows: Windows::Never,
    must_be: &[("attn_output_gate", "true"), ("mamba_ssm_dtype", "\"float32\"")],
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
    mixture: Some(Mixture { shared: Some(QWEN_SHARED), ..QWEN_MIXTURE }),
    gated_delta: Some(GatedDelta {
        projections: DeltaProjections::ByKeyHead {
            mixed_and_gate: "linear_attn.in_proj_qkvz",
            rates: "linear_attn.in_proj_ba",
        },
        ..GATED_DELTA
    }),
    ..QWEN3_5
};
