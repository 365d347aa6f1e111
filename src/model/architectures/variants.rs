//! The rows of architectures that generate and are near to one of [`super::decoders`]: Llama with
//! other biases, other norms, or layers that do not rotate. Part of the list in [`super`], which
//! looks them up.

use super::decoders::{GRANITE, LLAMA, LLAMA_KEYS, LLAMA_NAMES, MISTRAL, OLMO2};
use super::defaults;
use super::family::{Eps, Family, Flag, Keys, Names, QkNorm, RopeLayers, Windows};
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

/// Granite 4 without state space layers and without experts: its MLP is what these models call the
/// shared one.
pub(super) const GRANITE_HYBRID: Family = Family {
    architecture: "GraniteMoeHybridForCausalLM",
    keys: Keys { ffn: "shared_intermediate_size", ..LLAMA_KEYS },
    defaults: defaults::GRANITE_HYBRID,
    names: Names {
        up: &["shared_mlp.input_linear"],
        down: "shared_mlp.output_linear",
        ..LLAMA_NAMES
    },
    mlp_bias: Flag::Never,
    windows: Windows::Listed,
    layer_types: &[("attention", false), ("full_attention", false)],
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
