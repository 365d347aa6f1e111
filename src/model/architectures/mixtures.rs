//! The rows of architectures with experts. Part of the list in [`super`], which
//! looks them up.

use super::decoders::{LLAMA_NAMES, MISTRAL, QWEN2, QWEN3};
use super::defaults;
use super::family::{Eps, Family, Flag, Mixture, Names, SharedExpert, Windows};
use crate::device::Activation;

pub(super) const MIXTRAL: Family = Family {
    architecture: "MixtralForCausalLM",
    defaults: defaults::MIXTRAL,
    spellings: &[("num_experts", "num_local_experts")],
    mixture: Some(Mixture {
        experts: "num_local_experts",
        top_k: "num_experts_per_tok",
        ffn: "intermediate_size",
        renormalise: Flag::Always,
        sparse: false,
        modules: &["block_sparse_moe", "mlp"],
        router: "gate",
        list: "experts",
        gate_up: ["w1", "w3"],
        down: "w2",
        stacks: ["gate_up_proj", "down_proj"],
        stacks_turned: false,
        biases: false,
        activation: None,
        shared: None,
    }),
    ..MISTRAL
};

const QWEN_MIXTURE: Mixture = Mixture {
    experts: "num_experts",
    top_k: "num_experts_per_tok",
    ffn: "moe_intermediate_size",
    renormalise: Flag::Key("norm_topk_prob"),
    sparse: true,
    modules: &["mlp"],
    router: "gate",
    list: "experts",
    gate_up: ["gate_proj", "up_proj"],
    down: "down_proj",
    stacks: ["gate_up_proj", "down_proj"],
    stacks_turned: false,
    biases: false,
    activation: None,
    shared: None,
};

/// Which layers a window would hold for depends on the version of transformers, and no published
/// model has one.
pub(super) const QWEN2_MOE: Family = Family {
    architecture: "Qwen2MoeForCausalLM",
    defaults: defaults::QWEN2_MOE,
    qkv_bias: Flag::Key("qkv_bias"),
    mixture: Some(Mixture {
        shared: Some(SharedExpert {
            ffn: "shared_expert_intermediate_size",
            gate_up: ["shared_expert.gate_proj", "shared_expert.up_proj"],
            down: "shared_expert.down_proj",
            gate: "shared_expert_gate",
        }),
        ..QWEN_MIXTURE
    }),
    windows: Windows::Never,
    must_be_off: &["use_sliding_window"],
    ..QWEN2
};

pub(super) const QWEN3_MOE: Family = Family {
    architecture: "Qwen3MoeForCausalLM",
    defaults: defaults::QWEN3_MOE,
    spellings: &[("num_local_experts", "num_experts")],
    mixture: Some(QWEN_MIXTURE),
    windows: Windows::Never,
    must_be_off: &["use_sliding_window"],
    ..QWEN3
};

/// Windows, epsilon and the experts' activation are what vLLM computes, whatever config.json says
/// of them.
pub(super) const GPT_OSS: Family = Family {
    architecture: "GptOssForCausalLM",
    defaults: defaults::GPT_OSS,
    spellings: &[],
    names: Names { sinks: Some("self_attn.sinks"), ..LLAMA_NAMES },
    eps: Eps::Fixed(1e-5),
    qkv_bias: Flag::Always,
    out_bias: Flag::Always,
    mixture: Some(Mixture {
        experts: "num_local_experts",
        top_k: "num_experts_per_tok",
        ffn: "intermediate_size",
        renormalise: Flag::Always,
        modules: &["mlp"],
        router: "router",
        stacks_turned: true,
        biases: true,
        activation: Some(Activation::SwigluOai),
        sparse: false,
        ..QWEN_MIXTURE
    }),
    windows: Windows::Even,
    must_be: &[("hidden_act", "\"silu\""), ("swiglu_limit", "7.0")],
    ..MISTRAL
};
