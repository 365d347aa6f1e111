//! The rows of architectures that generate and are near to one of [`super::decoders`]: Llama with
//! other biases, other norms, or layers that do not rotate. Part of the list in [`super`], which
//! looks them up.

use super::decoders::{GPT2, GRANITE, LLAMA, LLAMA_KEYS, LLAMA_NAMES, MISTRAL, OLMO2};
use super::defaults;
use super::family::{
    Eps, Family, Fused, Keys, Multipliers, Names, Positions, QkNorm, RopeLayers, Windows,
};
use super::flag::Flag;
use super::further_defaults;
use super::recurrent_rows::{Recurrent, ScanLayers, SelectiveScan};
use crate::device::NormKind;

const GLM_NAMES: Names = Names { up: &["mlp.gate_up_proj"], ..LLAMA_NAMES };

pub(super) const GLM: Family = Family {
    architecture: "GlmForCausalLM",
    aliases: &[],
    defaults: defaults::GLM,
    names: GLM_NAMES,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    interleaved: true,
    ..LLAMA
};

pub(super) const GLM4: Family = Family {
    architecture: "Glm4ForCausalLM",
    names: Names {
        attn_post: Some("post_self_attn_layernorm"),
        mlp_post: Some("post_mlp_layernorm"),
        ..GLM_NAMES
    },
    ..GLM
};

/// Each fourth layer does not rotate. No published model has windows.
pub(super) const SMOLLM3: Family = Family {
    architecture: "SmolLM3ForCausalLM",
    aliases: &[],
    defaults: defaults::SMOLLM3,
    rope_layers: RopeLayers::Listed {
        list: "no_rope_layers",
        except_each: "no_rope_layer_interval",
    },
    must_be_off: &["use_sliding_window", "use_bidirectional_attention"],
    ..LLAMA
};

pub(super) const SEED_OSS: Family = Family {
    architecture: "SeedOssForCausalLM",
    aliases: &[],
    defaults: defaults::SEED_OSS,
    out_bias: Flag::Key("attention_out_bias"),
    ..LLAMA
};

/// transformers and the Python backend differ in which biases `use_bias` means, and no published
/// model has it.
pub(super) const ERNIE4_5: Family = Family {
    architecture: "Ernie4_5ForCausalLM",
    aliases: &[],
    defaults: defaults::ERNIE4_5,
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    interleaved: true,
    must_be_off: &["use_bias", "use_bidirectional_attention"],
    ..LLAMA
};

/// Granite 4 without experts: its MLP is what these models call the shared one. Layers with a
/// selective scan are some, or none.
pub(super) const GRANITE_HYBRID_DENSE: Family = Family {
    architecture: "GraniteMoeHybridForCausalLM",
    keys: Keys { ffn: "shared_intermediate_size", ..LLAMA_KEYS },
    defaults: defaults::GRANITE_HYBRID,
    names: Names {
        up: &["shared_mlp.input_linear"],
        down: "shared_mlp.output_linear",
        ..LLAMA_NAMES
    },
    mlp_bias: Flag::Never,
    recurrent: Some(Recurrent::SelectiveScan(SelectiveScan {
        layers: ScanLayers::Listed,
        module: "mamba",
        normed: Flag::Always,
    })),
    windows: Windows::Never,
    rope_layers: RopeLayers::If("position_embedding_type", "rope"),
    must_be: &[("num_local_experts", "0"), ("is_causal", "true")],
    ..GRANITE
};

/// Windows on three of four layers, which rotate without scaling.
pub(super) const OLMO3: Family = Family {
    architecture: "Olmo3ForCausalLM",
    defaults: defaults::OLMO3,
    windows: Windows::ExceptEach("sliding_window_pattern"),
    local_rope: true,
    ..OLMO2
};

pub(super) const EXAONE4: Family = Family {
    architecture: "Exaone4ForCausalLM",
    defaults: defaults::EXAONE4,
    names: Names {
        qk_norm: QkNorm::PerHead("self_attn.q_norm", "self_attn.k_norm"),
        ..OLMO2.names
    },
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    windows: Windows::ExceptEach("sliding_window_pattern"),
    rope_layers: RopeLayers::WindowedIfAny,
    ..OLMO2
};

pub(super) const STARCODER2: Family = Family {
    architecture: "Starcoder2ForCausalLM",
    defaults: defaults::STARCODER2,
    names: Names { up: &["mlp.c_fc"], down: "mlp.c_proj", ..LLAMA_NAMES },
    norm: NormKind::Layer,
    eps: Eps::Key("norm_epsilon"),
    gated: false,
    qkv_bias: Flag::Key("use_bias"),
    out_bias: Flag::Key("use_bias"),
    mlp_bias: Flag::Key("use_bias"),
    ..MISTRAL
};

/// q and k are normed behind their rotation.
pub(super) const HUNYUAN_DENSE: Family = Family {
    architecture: "HunYuanDenseV1ForCausalLM",
    aliases: &[],
    defaults: defaults::HUNYUAN_DENSE,
    names: Names {
        qk_norm: QkNorm::PerHead("self_attn.query_layernorm", "self_attn.key_layernorm"),
        ..LLAMA_NAMES
    },
    mlp_bias: Flag::Never,
    norms_after_rope: true,
    must_be_off: &["use_cla", "use_bidirectional_attention"],
    must_be: &[("use_qk_norm", "true"), ("is_causal", "true")],
    ..LLAMA
};

/// The larger models norm q and k by weights of each head.
pub(super) const COHERE: Family = Family {
    architecture: "CohereForCausalLM",
    aliases: &[],
    defaults: defaults::COHERE,
    names: Names {
        mlp_norm: None,
        qk_norm: QkNorm::EachHead { q: "self_attn.q_norm", k: "self_attn.k_norm", listed: false },
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_eps"),
    norm_bias: false,
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    parallel: Flag::Always,
    interleaved: true,
    qk_norms: Flag::Key("use_qk_norm"),
    multipliers: Multipliers::Logits("logit_scale"),
    must_be_off: &["attention_bias", "use_bidirectional_attention"],
    must_be: &[("rms_norm_eps", "null"), ("is_causal", "true")],
    ..LLAMA
};

/// Windows on three of four layers, and these alone rotate. In the Python backend a window reaches
/// one token further than in transformers.
pub(super) const COHERE2: Family = Family {
    architecture: "Cohere2ForCausalLM",
    defaults: defaults::COHERE2,
    names: Names { qk_norm: QkNorm::None, ..COHERE.names },
    qk_norms: Flag::Always,
    windows: Windows::ExceptEach("sliding_window_pattern"),
    window_inclusive: true,
    rope_layers: RopeLayers::Windowed,
    must_be_off: &["use_qk_norm", "attention_bias", "use_bidirectional_attention"],
    ..COHERE
};

const UNGATED_NAMES: Names = Names { up: &["mlp.up_proj"], ..LLAMA_NAMES };

pub(super) const ARCEE: Family = Family {
    architecture: "ArceeForCausalLM",
    aliases: &[],
    defaults: defaults::ARCEE,
    names: UNGATED_NAMES,
    gated: false,
    ..LLAMA
};

/// The same with layer norms.
pub(super) const JAIS2: Family = Family {
    architecture: "Jais2ForCausalLM",
    defaults: further_defaults::JAIS2,
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_eps"),
    ..ARCEE
};

/// Llama whose rope turns neighbours; biases of q, k and v alone.
pub(super) const HELIUM: Family = Family {
    architecture: "HeliumForCausalLM",
    aliases: &[],
    defaults: further_defaults::HELIUM,
    out_bias: Flag::Never,
    interleaved: true,
    ..LLAMA
};

/// An activation with numbers of each layer, norms of q and k per head.
pub(super) const APERTUS: Family = Family {
    architecture: "ApertusForCausalLM",
    aliases: &[],
    defaults: defaults::APERTUS,
    names: Names {
        attn_norm: Some("attention_layernorm"),
        mlp_norm: Some("feedforward_layernorm"),
        qk_norm: QkNorm::PerHead("self_attn.q_norm", "self_attn.k_norm"),
        activation: Some("mlp.act_fn"),
        ..UNGATED_NAMES
    },
    gated: false,
    mlp_bias: Flag::Never,
    must_be_off: &["mlp_bias", "post_norm", "use_bidirectional_attention"],
    must_be: &[("hidden_act", "\"xielu\""), ("is_causal", "true"), ("qk_norm", "true")],
    ..LLAMA
};

pub(super) const NEMOTRON: Family = Family {
    architecture: "NemotronForCausalLM",
    aliases: &[],
    defaults: defaults::NEMOTRON,
    names: UNGATED_NAMES,
    norm: NormKind::Layer,
    eps: Eps::Key("norm_eps"),
    norm_plus_one: true,
    gated: false,
    ..LLAMA
};

/// Norms without weights.
pub(super) const OLMO: Family = Family {
    architecture: "OlmoForCausalLM",
    aliases: &[],
    defaults: defaults::OLMO,
    norm: NormKind::Layer,
    eps: Eps::Fixed(1e-5),
    norm_affine: Flag::Never,
    mlp_bias: Flag::Never,
    clip_qkv: Some("clip_qkv"),
    ..LLAMA
};

/// Granite's multipliers by other names. Models with experts have the same name.
pub(super) const MINICPM: Family = Family {
    architecture: "MiniCPMForCausalLM",
    aliases: &[],
    defaults: defaults::MINICPM,
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    multipliers: Multipliers::MiniCpm,
    must_be: &[("num_experts", "0"), ("is_causal", "true")],
    ..LLAMA
};

/// GPT-2 with one KV head and weights as they usually lie.
pub(super) const GPT_BIG_CODE: Family =
    Family { variants: &[("multi_query", "false", &GPT_BIG_CODE_HEADS)], ..GPT_BIG_CODE_SHAPE };

/// With as many KV heads as heads, k and v of each behind its q.
const GPT_BIG_CODE_HEADS: Family = Family {
    keys: GPT2.keys,
    fused: Fused::PerGroup,
    must_be: &[("scale_attn_weights", "true"), ("is_causal", "true")],
    ..GPT_BIG_CODE_SHAPE
};

const GPT_BIG_CODE_SHAPE: Family = Family {
    architecture: "GPTBigCodeForCausalLM",
    defaults: defaults::GPT_BIG_CODE,
    keys: Keys { kv_heads: Some("num_key_value_heads"), ..GPT2.keys },
    transposed: false,
    must_be_off: &["add_cross_attention"],
    must_be: &[("multi_query", "true"), ("scale_attn_weights", "true"), ("is_causal", "true")],
    ..GPT2
};

pub(super) const GPTJ: Family = Family {
    architecture: "GPTJForCausalLM",
    defaults: defaults::GPTJ,
    keys: Keys { rotary_dim: Some("rotary_dim"), ..GPT2.keys },
    names: Names {
        qkv: &["attn.q_proj", "attn.k_proj", "attn.v_proj"],
        attn_out: "attn.out_proj",
        mlp_norm: None,
        up: &["mlp.fc_in"],
        down: "mlp.fc_out",
        ..GPT2.names
    },
    positions: Positions::Rope,
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    parallel: Flag::Always,
    interleaved: true,
    head_bias: Flag::Always,
    transposed: false,
    must_be_off: &["add_cross_attention"],
    ..GPT2
};

/// GPT-J with q, v and k in one tensor, by quarters of the heads.
pub(super) const CODEGEN: Family = Family {
    architecture: "CodeGenForCausalLM",
    defaults: further_defaults::CODEGEN,
    names: Names { qkv: &["attn.qkv_proj"], ..GPTJ.names },
    fused: Fused::Quarters,
    ..GPTJ
};

/// Llama by other names, q, k and v in one tensor.
pub(super) const INTERNLM2: Family = Family {
    architecture: "InternLM2ForCausalLM",
    aliases: &[],
    defaults: defaults::INTERNLM2,
    names: Names {
        embed: "tok_embeddings",
        attn_norm: Some("attention_norm"),
        qkv: &["attention.wqkv"],
        attn_out: "attention.wo",
        mlp_norm: Some("ffn_norm"),
        up: &["feed_forward.w1", "feed_forward.w3"],
        down: "feed_forward.w2",
        head: "output",
        ..LLAMA_NAMES
    },
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    fused: Fused::PerGroup,
    must_be_off: &["bias", "use_bidirectional_attention"],
    ..LLAMA
};

/// Llama by names like GPT-2's.
pub(super) const EXAONE: Family = Family {
    architecture: "ExaoneForCausalLM",
    aliases: &[],
    defaults: defaults::EXAONE,
    spellings: &[
        ("num_layers", "num_hidden_layers"),
        ("activation_function", "hidden_act"),
        ("layer_norm_epsilon", "rms_norm_eps"),
    ],
    prefixes: GPT2.prefixes,
    names: Names {
        qkv: &["attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"],
        attn_out: "attn.attention.out_proj",
        up: &["mlp.c_fc_0", "mlp.c_fc_1"],
        ..GPT2.names
    },
    ..LLAMA
};
