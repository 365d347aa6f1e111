//! One row of data per architecture: which config keys, which tensor names, which norm, positions
//! and biases. `config` reads the keys, `decoder` the names. A new family of the plain kind is a
//! new row here and no new code. It never touches a file or a device.

use crate::device::{Activation, NormKind};

/// A `config.json` flag that switches a feature, or a fixed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    Always,
    Never,
    /// The key, and what its absence means.
    Key(&'static str, bool),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Eps {
    Fixed(f32),
    /// The key, and what its absence means.
    Key(&'static str, f32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    Rope,
    /// A table of learned vectors; position p uses row p + offset.
    Learned {
        name: &'static str,
        offset: usize,
    },
}

/// Names of `config.json` keys.
#[derive(Debug)]
pub struct Keys {
    pub hidden: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    /// Absent key, or null: as many as heads.
    pub kv_heads: Option<&'static str>,
    pub ffn: &'static str,
    /// Null or absent: four times hidden.
    pub ffn_default_4x: bool,
    pub activation: &'static str,
    /// Width of the token table where it may differ from hidden.
    pub embed_width: Option<&'static str>,
}

/// Tensor names without prefix. Those of a layer stand behind `<layers>.<i>.`; `.weight` or `.bias`
/// follows. Two or three names are stacked along the outputs.
#[derive(Debug)]
pub struct Names {
    pub embed: &'static str,
    /// Before and after the layers, where the token table has another width than hidden.
    pub project: Option<(&'static str, &'static str)>,
    pub layers: &'static str,
    pub attn_norm: &'static str,
    pub qkv: &'static [&'static str],
    pub attn_out: &'static str,
    pub mlp_norm: &'static str,
    /// `[gate, up]` if gated.
    pub up: &'static [&'static str],
    pub down: &'static str,
    pub final_norm: &'static str,
}

#[derive(Debug)]
pub struct Family {
    /// `architectures[0]` of config.json.
    pub architecture: &'static str,
    /// In front of every name but the head's; the first one under which the token table exists.
    pub prefixes: &'static [&'static str],
    pub keys: Keys,
    pub names: Names,
    pub norm: NormKind,
    pub eps: Eps,
    pub gated: bool,
    pub positions: Positions,
    pub qkv_bias: Flag,
    pub out_bias: Flag,
    pub mlp_bias: Flag,
    /// Norms have learned weights (and biases, if `norm` is `Layer`).
    pub norm_affine: Flag,
    /// Norm before a block (and at the end) or after its residual.
    pub pre_norm: Flag,
    /// The head is the token table, if config.json does not say.
    pub tied: bool,
    /// Linear weights are stored `[inputs, outputs]`.
    pub transposed: bool,
    /// Keys that must be absent, false or null, because the forward pass lacks them.
    pub must_be_off: &'static [&'static str],
}

const LLAMA_KEYS: Keys = Keys {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: Some("num_key_value_heads"),
    ffn: "intermediate_size",
    ffn_default_4x: false,
    activation: "hidden_act",
    embed_width: None,
};

const LLAMA_NAMES: Names = Names {
    embed: "embed_tokens",
    project: None,
    layers: "layers",
    attn_norm: "input_layernorm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    attn_out: "self_attn.o_proj",
    mlp_norm: "post_attention_layernorm",
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    final_norm: "norm",
};

const LLAMA_PREFIXES: &[&str] = &["model.", "", "language_model.model.", "model.language_model."];

const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    prefixes: LLAMA_PREFIXES,
    keys: LLAMA_KEYS,
    names: LLAMA_NAMES,
    norm: NormKind::Rms,
    eps: Eps::Key("rms_norm_eps", 1e-6),
    gated: true,
    positions: Positions::Rope,
    qkv_bias: Flag::Key("attention_bias", false),
    out_bias: Flag::Key("attention_bias", false),
    mlp_bias: Flag::Key("mlp_bias", false),
    norm_affine: Flag::Always,
    pre_norm: Flag::Always,
    tied: false,
    transposed: false,
    must_be_off: &[],
};

/// `use_sliding_window` would need page groups with windows; released models leave it off.
const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    qkv_bias: Flag::Always,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    must_be_off: &["use_sliding_window"],
    ..LLAMA
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
        embed: "embed_tokens",
        project: Some(("project_in", "project_out")),
        layers: "layers",
        attn_norm: "self_attn_layer_norm",
        qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        attn_out: "self_attn.out_proj",
        mlp_norm: "final_layer_norm",
        up: &["fc1"],
        down: "fc2",
        final_norm: "final_layer_norm",
    },
    norm: NormKind::Layer,
    eps: Eps::Fixed(1e-5),
    gated: false,
    positions: Positions::Learned { name: "embed_positions", offset: 2 },
    qkv_bias: Flag::Key("enable_bias", true),
    out_bias: Flag::Key("enable_bias", true),
    mlp_bias: Flag::Key("enable_bias", true),
    norm_affine: Flag::Key("layer_norm_elementwise_affine", true),
    pre_norm: Flag::Key("do_layer_norm_before", true),
    tied: true,
    transposed: false,
    must_be_off: &["_remove_final_layer_norm"],
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
        embed_width: None,
    },
    names: Names {
        embed: "wte",
        project: None,
        layers: "h",
        attn_norm: "ln_1",
        qkv: &["attn.c_attn"],
        attn_out: "attn.c_proj",
        mlp_norm: "ln_2",
        up: &["mlp.c_fc"],
        down: "mlp.c_proj",
        final_norm: "ln_f",
    },
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_epsilon", 1e-5),
    gated: false,
    positions: Positions::Learned { name: "wpe", offset: 0 },
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
};

/// Every architecture that can be served.
pub const FAMILIES: &[Family] = &[LLAMA, QWEN2, OPT, GPT2];

/// The row of an architecture, if there is one.
pub fn find(architecture: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.architecture == architecture)
}

/// An activation by its name in config.json.
pub fn activation(name: &str, gated: bool) -> Option<Activation> {
    Some(match (name, gated) {
        ("silu" | "swish", true) => Activation::SiluGated,
        ("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast", true) => Activation::GeluTanhGated,
        ("relu", false) => Activation::Relu,
        ("gelu", false) => Activation::Gelu,
        ("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast", false) => Activation::GeluTanh,
        ("silu" | "swish", false) => Activation::Silu,
        _ => return None,
    })
}
