//! One row of data per architecture that can be served; what the fields mean is said in
//! [`super::families`]. `config` looks rows up. `docs/models.md` lists the check that
//! proves each row.

use super::encoders;
use super::families::{
    AttnScale, Eps, Family, Flag, Fused, Keys, Mixture, Names, Positions, QkNorm, SharedExpert,
    Windows,
};
use crate::device::NormKind;

pub(super) const LLAMA_KEYS: Keys = Keys {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: Some("num_key_value_heads"),
    ffn: "intermediate_size",
    ffn_default_4x: false,
    activation: "hidden_act",
    activation_default: None,
    embed_width: None,
};

pub(super) const LLAMA_NAMES: Names = Names {
    embed: "embed_tokens",
    token_types: None,
    embed_norm: None,
    project: None,
    layers: "layers",
    attn_norm: Some("input_layernorm"),
    attn_post: None,
    qk_norm: QkNorm::None,
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    attn_out: "self_attn.o_proj",
    mlp_norm: Some("post_attention_layernorm"),
    mlp_post: None,
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    final_norm: "norm",
    head: "lm_head",
};

const LLAMA_PREFIXES: &[&str] = &["model.", "", "language_model.model.", "model.language_model."];

pub(super) const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    prefixes: LLAMA_PREFIXES,
    keys: LLAMA_KEYS,
    defaults: "{}",
    names: LLAMA_NAMES,
    norm: NormKind::Rms,
    eps: Eps::Key("rms_norm_eps", 1e-6),
    gated: true,
    mixture: None,
    positions: Positions::Rope,
    qkv_bias: Flag::Key("attention_bias", false),
    out_bias: Flag::Key("attention_bias", false),
    mlp_bias: Flag::Key("mlp_bias", false),
    norm_affine: Flag::Always,
    pre_norm: Flag::Always,
    parallel: Flag::Never,
    parallel_mlp_norm: false,
    fused: Fused::Stacked,
    windows: Windows::Never,
    local_rope: false,
    attn_scale: AttnScale::HeadDim,
    softcaps: false,
    embed_sqrt: false,
    multipliers: false,
    head_bias: false,
    no_float16: false,
    tied: false,
    transposed: false,
    encoder: false,
    must_be_off: &["use_bidirectional_attention"],
    must_be: &[("is_causal", "true")],
};

/// Llama with other names of its bias flags.
const INTERNLM3: Family = Family {
    architecture: "InternLM3ForCausalLM",
    qkv_bias: Flag::Key("qkv_bias", false),
    out_bias: Flag::Key("bias", false),
    mlp_bias: Flag::Key("bias", false),
    ..LLAMA
};

const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    windows: Windows::All,
    ..LLAMA
};

const QWEN_WINDOWS: Windows =
    Windows::FromLayer { switch: "use_sliding_window", first: "max_window_layers" };

const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    qkv_bias: Flag::Always,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    windows: QWEN_WINDOWS,
    ..LLAMA
};

const QWEN3: Family = Family {
    architecture: "Qwen3ForCausalLM",
    names: Names {
        qk_norm: QkNorm::PerHead("self_attn.q_norm", "self_attn.k_norm"),
        ..LLAMA_NAMES
    },
    mlp_bias: Flag::Never,
    windows: QWEN_WINDOWS,
    ..LLAMA
};

const MIXTRAL: Family = Family {
    architecture: "MixtralForCausalLM",
    defaults: r#"{"num_local_experts": 8, "num_experts_per_tok": 2}"#,
    eps: Eps::Key("rms_norm_eps", 1e-5),
    mixture: Some(Mixture {
        experts: "num_local_experts",
        top_k: "num_experts_per_tok",
        ffn: "intermediate_size",
        renormalise: Flag::Always,
        sparse: false,
        blocks: &["block_sparse_moe", "mlp"],
        router: "gate",
        list: "experts",
        gate_up: ["w1", "w3"],
        down: "w2",
        stacks: ["gate_up_proj", "down_proj"],
        shared: None,
    }),
    ..MISTRAL
};

const QWEN_MIXTURE: Mixture = Mixture {
    experts: "num_experts",
    top_k: "num_experts_per_tok",
    ffn: "moe_intermediate_size",
    renormalise: Flag::Key("norm_topk_prob", false),
    sparse: true,
    blocks: &["mlp"],
    router: "gate",
    list: "experts",
    gate_up: ["gate_proj", "up_proj"],
    down: "down_proj",
    stacks: ["gate_up_proj", "down_proj"],
    shared: None,
};

/// Which layers a window would hold for depends on the version of transformers, and no published
/// model has one.
const QWEN2_MOE: Family = Family {
    architecture: "Qwen2MoeForCausalLM",
    qkv_bias: Flag::Key("qkv_bias", true),
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

const QWEN3_MOE: Family = Family {
    architecture: "Qwen3MoeForCausalLM",
    mixture: Some(QWEN_MIXTURE),
    windows: Windows::Never,
    must_be_off: &["use_sliding_window"],
    ..QWEN3
};

const OPT: Family = Family {
    architecture: "OPTForCausalLM",
    prefixes: &["model.decoder.", "decoder.", ""],
    keys: Keys {
        kv_heads: None,
        ffn: "ffn_dim",
        activation: "activation_function",
        embed_width: Some("word_embed_proj_dim"),
        ..LLAMA_KEYS
    },
    names: Names {
        project: Some(("project_in", "project_out")),
        attn_norm: Some("self_attn_layer_norm"),
        attn_out: "self_attn.out_proj",
        mlp_norm: Some("final_layer_norm"),
        up: &["fc1"],
        down: "fc2",
        final_norm: "final_layer_norm",
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    eps: Eps::Fixed(1e-5),
    gated: false,
    positions: Positions::Learned { name: "embed_positions", offset: 2, inclusive: false },
    qkv_bias: Flag::Key("enable_bias", true),
    out_bias: Flag::Key("enable_bias", true),
    mlp_bias: Flag::Key("enable_bias", true),
    norm_affine: Flag::Key("layer_norm_elementwise_affine", true),
    pre_norm: Flag::Key("do_layer_norm_before", true),
    tied: true,
    must_be_off: &["_remove_final_layer_norm"],
    ..LLAMA
};

const GPT2: Family = Family {
    architecture: "GPT2LMHeadModel",
    prefixes: &["transformer.", ""],
    keys: Keys {
        hidden: "n_embd",
        layers: "n_layer",
        heads: "n_head",
        kv_heads: None,
        ffn: "n_inner",
        ffn_default_4x: true,
        activation: "activation_function",
        activation_default: None,
        embed_width: None,
    },
    names: Names {
        embed: "wte",
        layers: "h",
        attn_norm: Some("ln_1"),
        qkv: &["attn.c_attn"],
        attn_out: "attn.c_proj",
        mlp_norm: Some("ln_2"),
        up: &["mlp.c_fc"],
        down: "mlp.c_proj",
        final_norm: "ln_f",
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_epsilon", 1e-5),
    gated: false,
    positions: Positions::Learned { name: "wpe", offset: 0, inclusive: false },
    qkv_bias: Flag::Always,
    out_bias: Flag::Always,
    mlp_bias: Flag::Always,
    norm_affine: Flag::Always,
    pre_norm: Flag::Always,
    tied: true,
    transposed: true,
    must_be_off: &[
        "add_cross_attention",
        "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
    ],
    ..LLAMA
};

/// The activation is the tanh form whatever the older key `hidden_act` says.
const GEMMA: Family = Family {
    architecture: "GemmaForCausalLM",
    keys: Keys {
        activation: "hidden_activation",
        activation_default: Some("gelu_pytorch_tanh"),
        ..LLAMA_KEYS
    },
    defaults: r#"{"head_dim": 256}"#,
    norm: NormKind::RmsPlusOne,
    mlp_bias: Flag::Never,
    embed_sqrt: true,
    tied: true,
    ..LLAMA
};

const GEMMA2_NAMES: Names = Names {
    attn_post: Some("post_attention_layernorm"),
    mlp_norm: Some("pre_feedforward_layernorm"),
    mlp_post: Some("post_feedforward_layernorm"),
    ..LLAMA_NAMES
};

const GEMMA2: Family = Family {
    architecture: "Gemma2ForCausalLM",
    defaults: r#"{"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "sliding_window_pattern": 2, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0}"#,
    names: GEMMA2_NAMES,
    windows: Windows::ExceptEach("sliding_window_pattern"),
    attn_scale: AttnScale::RootOf("query_pre_attn_scalar"),
    softcaps: true,
    no_float16: true,
    ..GEMMA
};

const GEMMA3: Family = Family {
    architecture: "Gemma3ForCausalLM",
    defaults: r#"{"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "max_position_embeddings": 131072, "query_pre_attn_scalar": 256,
        "sliding_window": 4096, "sliding_window_pattern": 6, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0}"#,
    names: Names {
        qk_norm: QkNorm::PerHead("self_attn.q_norm", "self_attn.k_norm"),
        ..GEMMA2_NAMES
    },
    local_rope: true,
    ..GEMMA2
};

/// The text model of an image-and-text checkpoint.
const GEMMA3_MULTIMODAL: Family =
    Family { architecture: "Gemma3ForConditionalGeneration", ..GEMMA3 };

const PHI3: Family = Family {
    architecture: "Phi3ForCausalLM",
    names: Names { qkv: &["self_attn.qkv_proj"], up: &["mlp.gate_up_proj"], ..LLAMA_NAMES },
    eps: Eps::Key("rms_norm_eps", 1e-5),
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    windows: Windows::All,
    ..LLAMA
};

const PHI: Family = Family {
    architecture: "PhiForCausalLM",
    defaults: r#"{"partial_rotary_factor": 0.5}"#,
    names: Names {
        attn_out: "self_attn.dense",
        mlp_norm: None,
        up: &["mlp.fc1"],
        down: "mlp.fc2",
        final_norm: "final_layernorm",
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_eps", 1e-5),
    gated: false,
    qkv_bias: Flag::Always,
    out_bias: Flag::Always,
    mlp_bias: Flag::Always,
    parallel: Flag::Always,
    head_bias: true,
    must_be_off: &["qk_layernorm"],
    ..LLAMA
};

const NEOX: Family = Family {
    architecture: "GPTNeoXForCausalLM",
    prefixes: &["gpt_neox.", ""],
    keys: Keys { kv_heads: None, activation_default: Some("gelu"), ..LLAMA_KEYS },
    defaults: r#"{"rotary_pct": 0.25}"#,
    names: Names {
        embed: "embed_in",
        qkv: &["attention.query_key_value"],
        attn_out: "attention.dense",
        up: &["mlp.dense_h_to_4h"],
        down: "mlp.dense_4h_to_h",
        final_norm: "final_layer_norm",
        head: "embed_out",
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_eps", 1e-5),
    gated: false,
    qkv_bias: Flag::Key("attention_bias", true),
    out_bias: Flag::Key("attention_bias", true),
    mlp_bias: Flag::Always,
    parallel: Flag::Key("use_parallel_residual", true),
    parallel_mlp_norm: true,
    fused: Fused::PerHead,
    ..LLAMA
};

const STABLELM: Family = Family {
    architecture: "StableLmForCausalLM",
    defaults: r#"{"partial_rotary_factor": 0.25}"#,
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_eps", 1e-5),
    qkv_bias: Flag::Key("use_qkv_bias", false),
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    parallel: Flag::Key("use_parallel_residual", false),
    must_be_off: &["qk_layernorm"],
    ..LLAMA
};

const GRANITE: Family = Family {
    architecture: "GraniteForCausalLM",
    defaults: r#"{"attention_multiplier": 1.0}"#,
    attn_scale: AttnScale::Key("attention_multiplier"),
    multipliers: true,
    ..LLAMA
};

const OLMO2: Family = Family {
    architecture: "Olmo2ForCausalLM",
    names: Names {
        attn_norm: None,
        attn_post: Some("post_attention_layernorm"),
        qk_norm: QkNorm::Whole("self_attn.q_norm", "self_attn.k_norm"),
        mlp_norm: None,
        mlp_post: Some("post_feedforward_layernorm"),
        ..LLAMA_NAMES
    },
    eps: Eps::Key("rms_norm_eps", 1e-5),
    mlp_bias: Flag::Never,
    ..LLAMA
};

/// Every architecture that can be served.
pub const FAMILIES: &[Family] = &[
    LLAMA,
    INTERNLM3,
    MISTRAL,
    QWEN2,
    QWEN3,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GEMMA3_MULTIMODAL,
    PHI3,
    PHI,
    STABLELM,
    GRANITE,
    OLMO2,
    OPT,
    GPT2,
    NEOX,
    encoders::BERT,
    encoders::ROBERTA,
    encoders::ROBERTA_MASKED,
    encoders::XLM_ROBERTA,
];

/// The row of an architecture, if there is one. A decoder that was saved without its head, to
/// embed, goes by `<name>Model`.
pub fn find(architecture: &str) -> Option<&'static Family> {
    let named = |name: &str| FAMILIES.iter().find(|f| f.architecture == name);
    let headless = || {
        let base = architecture.strip_suffix("Model")?;
        named(&format!("{base}ForCausalLM")).or_else(|| named(&format!("{base}LMHeadModel")))
    };
    named(architecture).or_else(headless)
}
