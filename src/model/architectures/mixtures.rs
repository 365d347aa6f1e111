//! The rows of architectures with experts. Part of the list in [`super`], which
//! looks them up.

use super::decoders::{GRANITE, LLAMA, LLAMA_KEYS, LLAMA_NAMES, MISTRAL, QWEN2, QWEN3};
use super::family::{
    Choice, Eps, Family, Keys, Mixture, MixtureLayers, Names, QkNorm, RopeLayers, SharedExpert,
    Windows,
};
use super::flag::Flag;
use super::next_tokens::DEEPSEEK_NEXT;
use super::variants::{ERNIE4_5, HUNYUAN_DENSE};
use super::{defaults, further_defaults, towers};
use crate::device::{Activation, NormKind, RouteScore};

/// As transformers 5 holds all experts.
const STACKS: [&str; 2] = ["experts.gate_up_proj", "experts.down_proj"];

const SOFTMAX: Choice =
    Choice { score: RouteScore::Softmax, groups: None, scale: None, method: None };

pub(super) const MIXTRAL: Family = Family {
    architecture: "MixtralForCausalLM",
    defaults: defaults::MIXTRAL,
    spellings: &[("num_experts", "num_local_experts")],
    mixture: Some(MIXTRAL_MIXTURE),
    ..MISTRAL
};

const MIXTRAL_MIXTURE: Mixture = Mixture {
    experts: "num_local_experts",
    top_k: "num_experts_per_tok",
    ffn: "intermediate_size",
    choice: SOFTMAX,
    renormalise: Flag::Always,
    layers: MixtureLayers::All,
    modules: &["block_sparse_moe", "mlp"],
    router: "gate",
    choice_bias: None,
    expert_scale: None,
    beside: None,
    narrowed: None,
    list: Some("experts"),
    gate_up: &["w1", "w3"],
    down: "w2",
    stacks: STACKS,
    stacks_turned: false,
    gates_in_turn: false,
    flat_ups: None,
    weighs_inputs: false,
    biases: false,
    activation: None,
    shared: None,
};

pub(super) const QWEN_MIXTURE: Mixture = Mixture {
    experts: "num_experts",
    top_k: "num_experts_per_tok",
    ffn: "moe_intermediate_size",
    choice: SOFTMAX,
    renormalise: Flag::Key("norm_topk_prob"),
    layers: MixtureLayers::Stepped,
    modules: &["mlp"],
    router: "gate",
    choice_bias: None,
    expert_scale: None,
    beside: None,
    narrowed: None,
    list: Some("experts"),
    gate_up: &["gate_proj", "up_proj"],
    down: "down_proj",
    stacks: STACKS,
    stacks_turned: false,
    gates_in_turn: false,
    flat_ups: None,
    weighs_inputs: false,
    biases: false,
    activation: None,
    shared: None,
};

pub(super) const QWEN_SHARED: SharedExpert = SharedExpert {
    ffn: "shared_expert_intermediate_size",
    times: None,
    optional: false,
    module: None,
    gate_up: &["shared_expert.gate_proj", "shared_expert.up_proj"],
    down: "shared_expert.down_proj",
    gate: Some("shared_expert_gate"),
};

/// Which layers a window would hold for depends on the version of transformers, and no published
/// model has one.
pub(super) const QWEN2_MOE: Family = Family {
    architecture: "Qwen2MoeForCausalLM",
    aliases: &[],
    defaults: defaults::QWEN2_MOE,
    qkv_bias: Flag::Key("qkv_bias"),
    mixture: Some(Mixture { shared: Some(QWEN_SHARED), ..QWEN_MIXTURE }),
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

/// Text and images. Its experts lie in stacks, the other way than those of others.
pub(super) const QWEN3_VL_MOE: Family = Family {
    architecture: "Qwen3VLMoeForConditionalGeneration",
    defaults: defaults::QWEN3_VL_MOE,
    mixture: Some(Mixture { renormalise: Flag::Always, stacks_turned: true, ..QWEN_MIXTURE }),
    towers: &[&towers::QWEN3_VL],
    ..QWEN3_MOE
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
        gates_in_turn: true,
        biases: true,
        activation: Some(Activation::SwigluOai),
        layers: MixtureLayers::All,
        ..QWEN_MIXTURE
    }),
    windows: Windows::Even,
    must_be: &[("hidden_act", "\"silu\""), ("swiglu_limit", "7.0")],
    ..MISTRAL
};

/// The Python backend clips nothing, divides by no sum and has an epsilon of its own: configs that
/// ask for the first two are refused.
pub(super) const OLMOE: Family = Family {
    architecture: "OlmoeForCausalLM",
    aliases: &[],
    defaults: defaults::OLMOE,
    names: Names { qk_norm: QkNorm::Whole("self_attn.q_norm", "self_attn.k_norm"), ..LLAMA_NAMES },
    eps: Eps::Fixed(1e-5),
    mixture: Some(Mixture {
        ffn: "intermediate_size",
        renormalise: Flag::Never,
        layers: MixtureLayers::All,
        ..QWEN_MIXTURE
    }),
    mlp_bias: Flag::Never,
    must_be_off: &["clip_qkv", "norm_topk_prob", "use_bidirectional_attention"],
    ..LLAMA
};

pub(super) const GRANITE_SHARED: SharedExpert = SharedExpert {
    ffn: "shared_intermediate_size",
    times: None,
    optional: false,
    module: Some("shared_mlp"),
    gate_up: &["input_linear"],
    down: "output_linear",
    gate: None,
};

pub(super) const GRANITE_MIXTURE: Mixture = Mixture {
    experts: "num_local_experts",
    top_k: "num_experts_per_tok",
    ffn: "intermediate_size",
    choice: SOFTMAX,
    renormalise: Flag::Always,
    layers: MixtureLayers::All,
    modules: &["block_sparse_moe"],
    router: "router.layer",
    choice_bias: None,
    expert_scale: None,
    beside: None,
    narrowed: None,
    list: None,
    gate_up: &["gate_proj", "up_proj"],
    down: "down_proj",
    stacks: ["input_linear.weight", "output_linear.weight"],
    stacks_turned: false,
    gates_in_turn: false,
    flat_ups: None,
    weighs_inputs: false,
    biases: false,
    activation: None,
    shared: None,
};

/// Its weights are a softmax over the chosen logits, which is that over all of them divided by its
/// sum.
pub(super) const GRANITE_MOE: Family = Family {
    architecture: "GraniteMoeForCausalLM",
    defaults: defaults::GRANITE_MOE,
    mixture: Some(GRANITE_MIXTURE),
    mlp_bias: Flag::Never,
    ..GRANITE
};

pub(super) const GRANITE_MOE_SHARED: Family = Family {
    architecture: "GraniteMoeSharedForCausalLM",
    defaults: defaults::GRANITE_MOE_SHARED,
    mixture: Some(Mixture { shared: Some(GRANITE_SHARED), ..GRANITE_MIXTURE }),
    ..GRANITE_MOE
};

pub(super) const ERNIE4_5_MOE: Family = Family {
    architecture: "Ernie4_5_MoeForCausalLM",
    defaults: defaults::ERNIE4_5_MOE,
    mixture: Some(Mixture {
        experts: "moe_num_experts",
        top_k: "moe_k",
        renormalise: Flag::Always,
        layers: MixtureLayers::Between {
            first: "moe_layer_start_index",
            last: "moe_layer_end_index",
            each: "moe_layer_interval",
        },
        choice_bias: Some("moe_statics.e_score_correction_bias"),
        shared: Some(SharedExpert {
            ffn: "moe_intermediate_size",
            times: Some("moe_num_shared_experts"),
            optional: false,
            module: None,
            gate_up: &["shared_experts.gate_proj", "shared_experts.up_proj"],
            down: "shared_experts.down_proj",
            gate: None,
        }),
        ..QWEN_MIXTURE
    }),
    ..ERNIE4_5
};

const SHARED_EXPERTS: SharedExpert = SharedExpert {
    ffn: "moe_intermediate_size",
    times: Some("n_shared_experts"),
    optional: true,
    module: None,
    gate_up: &["shared_experts.gate_proj", "shared_experts.up_proj"],
    down: "shared_experts.down_proj",
    gate: None,
};

/// By sigmoid, with a bias, out of the best groups. transformers gives experts outside of them a
/// worth of 0, the Python backend none; it adds 1e-20 to the sum of the weights.
pub(super) const GROUPED_MIXTURE: Mixture = Mixture {
    experts: "n_routed_experts",
    choice: Choice {
        score: RouteScore::Sigmoid,
        groups: Some(["n_group", "topk_group"]),
        scale: Some("routed_scaling_factor"),
        method: Some(("topk_method", &["noaux_tc"])),
    },
    layers: MixtureLayers::From {
        kinds: "mlp_layer_types",
        first: "first_k_dense_replace",
        each: "moe_layer_freq",
    },
    choice_bias: Some("gate.e_score_correction_bias"),
    shared: Some(SHARED_EXPERTS),
    ..QWEN_MIXTURE
};

pub(super) const GLM4_MOE: Family = Family {
    architecture: "Glm4MoeForCausalLM",
    aliases: &[],
    defaults: defaults::GLM4_MOE,
    names: Names {
        qk_norm: QkNorm::PerHead("self_attn.q_norm", "self_attn.k_norm"),
        ..LLAMA_NAMES
    },
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    qk_norms: Flag::Key("use_qk_norm"),
    mixture: Some(GROUPED_MIXTURE),
    next_token: Some(DEEPSEEK_NEXT),
    must_be: &[("is_causal", "true"), ("scoring_func", "\"sigmoid\"")],
    ..LLAMA
};

pub(super) const DOTS1: Family = Family {
    architecture: "Dots1ForCausalLM",
    aliases: &[],
    defaults: defaults::DOTS1,
    mlp_bias: Flag::Never,
    windows: Windows::FromLayer { switch: "use_sliding_window", first: "max_window_layers" },
    mixture: Some(GROUPED_MIXTURE),
    must_be: &[("is_causal", "true"), ("scoring_func", "\"sigmoid\"")],
    ..QWEN3
};

/// Layer norms, biases, and weights that are each a share of what comes near.
pub(super) const PHIMOE: Family = Family {
    architecture: "PhimoeForCausalLM",
    aliases: &["PhiMoEForCausalLM"],
    defaults: defaults::PHIMOE,
    norm: NormKind::Layer,
    qkv_bias: Flag::Key("attention_bias"),
    out_bias: Flag::Key("attention_bias"),
    mixture: Some(Mixture {
        choice: Choice { score: RouteScore::SparseMixer, ..SOFTMAX },
        renormalise: Flag::Never,
        ..MIXTRAL_MIXTURE
    }),
    head_bias: Flag::Key("lm_head_bias"),
    ..MIXTRAL
};

/// Mixtral's names, chosen by sigmoid and a bias, norms over all heads of q and k.
pub(super) const MINIMAX_M2: Family = Family {
    architecture: "MiniMaxM2ForCausalLM",
    aliases: &[],
    keys: Keys { rotary_dim: Some("rotary_dim"), ..LLAMA_KEYS },
    defaults: defaults::MINIMAX_M2,
    names: Names { qk_norm: QkNorm::Whole("self_attn.q_norm", "self_attn.k_norm"), ..LLAMA_NAMES },
    mixture: Some(Mixture {
        choice: Choice { score: RouteScore::Sigmoid, ..SOFTMAX },
        choice_bias: Some("e_score_correction_bias"),
        ..MIXTRAL_MIXTURE
    }),
    windows: Windows::Never,
    must_be: &[("use_qk_norm", "true"), ("use_routing_bias", "true")],
    ..MIXTRAL
};

const BAILING_NAMES: Names = Names {
    embed: "word_embeddings",
    qkv: &["attention.query_key_value"],
    attn_out: "attention.dense",
    ..LLAMA_NAMES
};

/// Ling 1.
pub(super) const BAILING: Family = Family {
    architecture: "BailingMoeForCausalLM",
    aliases: &[],
    defaults: defaults::BAILING,
    names: BAILING_NAMES,
    qkv_bias: Flag::Key("use_qkv_bias"),
    out_bias: Flag::Key("use_bias"),
    mlp_bias: Flag::Never,
    mixture: Some(Mixture {
        layers: MixtureLayers::From {
            kinds: "mlp_layer_types",
            first: "first_k_dense_replace",
            each: "moe_layer_freq",
        },
        shared: Some(SharedExpert { times: Some("num_shared_experts"), ..SHARED_EXPERTS }),
        ..QWEN_MIXTURE
    }),
    must_be_off: &["norm_head", "norm_softmax", "use_qk_norm"],
    must_be: &[("is_causal", "true"), ("score_function", "\"softmax\"")],
    ..LLAMA
};

/// Ling 2: norms of q and k, experts by sigmoid and a bias out of the best groups.
pub(super) const BAILING_V2: Family = Family {
    architecture: "BailingMoeV2ForCausalLM",
    defaults: defaults::BAILING_V2,
    names: Names {
        qk_norm: QkNorm::PerHead("attention.query_layernorm", "attention.key_layernorm"),
        ..BAILING_NAMES
    },
    qk_norms: Flag::Key("use_qk_norm"),
    mixture: Some(Mixture {
        experts: "num_experts",
        choice: Choice { method: None, ..GROUPED_MIXTURE.choice },
        choice_bias: Some("gate.expert_bias"),
        shared: Some(SharedExpert { times: Some("num_shared_experts"), ..SHARED_EXPERTS }),
        ..GROUPED_MIXTURE
    }),
    must_be_off: &["norm_head", "norm_softmax"],
    must_be: &[
        ("is_causal", "true"),
        ("moe_router_enable_expert_bias", "true"),
        ("score_function", "\"sigmoid\""),
    ],
    ..BAILING
};

/// Numbers of experts may be lists with one for each layer, all the same.
pub(super) const HUNYUAN_MOE: Family = Family {
    architecture: "HunYuanMoEV1ForCausalLM",
    defaults: further_defaults::HUNYUAN_MOE,
    spellings: &[
        ("attention_head_dim", "head_dim"),
        ("moe_intermediate_size", "expert_width"),
        ("intermediate_size", "expert_width"),
    ],
    mixture: Some(Mixture {
        top_k: "moe_topk",
        ffn: "expert_width",
        renormalise: Flag::Always,
        layers: MixtureLayers::All,
        router: "gate.wg",
        shared: Some(SharedExpert {
            ffn: "intermediate_size",
            times: Some("num_shared_expert"),
            optional: false,
            module: None,
            gate_up: &["shared_mlp.gate_proj", "shared_mlp.up_proj"],
            down: "shared_mlp.down_proj",
            gate: None,
        }),
        ..QWEN_MIXTURE
    }),
    must_be: &[
        ("is_causal", "true"),
        ("moe_layer_num_skipped", "0"),
        ("use_mixed_mlp_moe", "true"),
        ("use_qk_norm", "true"),
    ],
    ..HUNYUAN_DENSE
};

/// Layer norms without biases, q, k and v limited. Its sizes are called as its own code does, those
/// of attention and experts in objects of their own. Weights are divided by their sum, whatever
/// config.json says, as in vLLM.
pub(super) const DBRX: Family = Family {
    architecture: "DbrxForCausalLM",
    aliases: &[],
    prefixes: &["transformer.", ""],
    keys: Keys {
        hidden: "d_model",
        layers: "n_layers",
        heads: "n_heads",
        kv_heads: Some("kv_n_heads"),
        ffn: "ffn_hidden_size",
        ..LLAMA_KEYS
    },
    defaults: further_defaults::DBRX,
    spellings: &[("max_seq_len", "max_position_embeddings")],
    names: Names {
        embed: "wte",
        layers: "blocks",
        attn_norm: Some("norm_attn_norm.norm_1"),
        qkv: &["norm_attn_norm.attn.Wqkv"],
        attn_out: "norm_attn_norm.attn.out_proj",
        mlp_norm: Some("norm_attn_norm.norm_2"),
        final_norm: "norm_f",
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    norm_bias: false,
    eps: Eps::Fixed(1e-5),
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    clip_qkv: Some("clip_qkv"),
    mixture: Some(Mixture {
        experts: "moe_num_experts",
        top_k: "moe_top_k",
        ffn: "ffn_hidden_size",
        renormalise: Flag::Always,
        layers: MixtureLayers::All,
        modules: &["ffn"],
        router: "router.layer",
        list: None,
        stacks: ["experts.mlp.w1", "experts.mlp.w2"],
        flat_ups: Some("experts.mlp.v1"),
        ..QWEN_MIXTURE
    }),
    ..LLAMA
};

/// Granite with windows, sinks, and a base of rope in each layer.
pub(super) const GRANITE_SWA: Family = Family {
    architecture: "GraniteSWAForCausalLM",
    defaults: further_defaults::GRANITE_SWA,
    names: Names { sinks: Some("self_attn.sinks"), ..LLAMA_NAMES },
    windows: Windows::ExceptFirstOfEach("full_attention_interval"),
    rope_layers: RopeLayers::Bases("layer_rope_theta"),
    ..GRANITE
};

pub(super) const GRANITE_MOE_SWA: Family = Family {
    architecture: "GraniteMoeSWAForCausalLM",
    defaults: further_defaults::GRANITE_MOE_SWA,
    names: GRANITE_SWA.names,
    mixture: Some(Mixture {
        router: "router",
        stacks: STACKS,
        shared: Some(GRANITE_SHARED),
        ..GRANITE_MIXTURE
    }),
    windows: GRANITE_SWA.windows,
    rope_layers: GRANITE_SWA.rope_layers,
    ..GRANITE_MOE_SHARED
};
