//! The rows of architectures that generate, but for those with experts. Part of the list in
//! [`super`], which looks them up.

use super::family::{
    AttnScale, Classifier, ClassifierDense, Eps, Family, Fused, Keys, Multipliers, Names,
    Positions, QkNorm, RopeLayers, Windows,
};
use super::flag::Flag;
use super::layer_rows::LayerShapes;
use super::next_tokens::MIMO_NEXT;
use super::tower::Tower;
use super::{defaults, towers};
use crate::device::{NormKind, Pooling};

pub(super) const LLAMA_KEYS: Keys = Keys {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: Some("num_key_value_heads"),
    one_kv_head: false,
    ffn: "intermediate_size",
    ffn_null_4x: false,
    ffn_adjusted: false,
    activation: "hidden_act",
    activation_null: None,
    rotary_dim: None,
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
    sinks: None,
    latent: None,
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    attn_out: "self_attn.o_proj",
    mlp_norm: Some("post_attention_layernorm"),
    mlp_post: None,
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    activation: None,
    final_norm: "norm",
    head: "lm_head",
};

const LLAMA_PREFIXES: &[&str] = &["model.", "", "language_model.model.", "model.language_model."];

pub(super) const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    aliases: &[
        "LLaMAForCausalLM",
        "AquilaForCausalLM",
        "AquilaModel",
        "IQuestCoderForCausalLM",
        "TeleChat3ForCausalLM",
        "XverseForCausalLM",
    ],
    variants: &[],
    prefixes: LLAMA_PREFIXES,
    keys: LLAMA_KEYS,
    defaults: defaults::LLAMA,
    spellings: &[],
    names: LLAMA_NAMES,
    norm: NormKind::Rms,
    eps: Eps::Key("rms_norm_eps"),
    norm_bias: true,
    norm_plus_one: false,
    gated: true,
    mixture: None,
    positions: Positions::Rope,
    qkv_bias: Flag::Key("attention_bias"),
    out_bias: Flag::Key("attention_bias"),
    mlp_bias: Flag::Key("mlp_bias"),
    up_without_bias: false,
    up_before_gate: false,
    merged_adapter: None,
    norm_affine: Flag::Always,
    first_norm_of_embedding: false,
    pre_norm: Flag::Always,
    parallel: Flag::Never,
    parallel_mlp_norm: false,
    fused: Fused::Stacked,
    clip_qkv: None,
    qk_norms: Flag::Always,
    output_gate: false,
    recurrent: None,
    norms_after_rope: false,
    value_norm: false,
    shapes: LayerShapes::Same,
    layer_inputs: None,
    layer_scalar: None,
    windows: Windows::Never,
    window_inclusive: false,
    window_both_sides: false,
    layer_types: &[("full_attention", false), ("sliding_attention", true)],
    interleaved: false,
    rope_layers: RopeLayers::All,
    rotated_chunk: None,
    still_growth: None,
    local_rope: false,
    attn_scale: AttnScale::HeadDim,
    softcaps: false,
    embed_sqrt: false,
    multipliers: Multipliers::None,
    head_bias: Flag::Never,
    no_float16: false,
    transposed: false,
    encoder: false,
    next_token: None,
    towers: &[],
    pooling: Pooling::Last,
    classifier: Classifier {
        dense: ClassifierDense::None,
        output: "score",
        biased: false,
        pair_types: false,
        pooling: None,
    },
    must_be_off: &["use_bidirectional_attention"],
    must_be: &[("is_causal", "true")],
};

/// Llama with other names of its bias flags.
pub(super) const INTERNLM3: Family = Family {
    architecture: "InternLM3ForCausalLM",
    aliases: &[],
    defaults: defaults::INTERNLM3,
    qkv_bias: Flag::Key("qkv_bias"),
    out_bias: Flag::Key("bias"),
    mlp_bias: Flag::Key("bias"),
    ..LLAMA
};

/// Llama with biases in attention, if config.json does not say otherwise.
pub(super) const INTERNLM: Family = Family {
    architecture: "InternLMForCausalLM",
    defaults: defaults::INTERNLM,
    qkv_bias: Flag::Key("bias"),
    mlp_bias: Flag::Never,
    ..INTERNLM3
};

pub(super) const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    aliases: &[],
    defaults: defaults::MISTRAL,
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    windows: Windows::All,
    ..LLAMA
};

/// Mistral with q that grows with its position.
pub(super) const MINISTRAL3: Family =
    Family { architecture: "Ministral3ForCausalLM", defaults: defaults::MINISTRAL3, ..MISTRAL };

/// Text and images: Mistral Small 3.1 and later, Devstral, Ministral 3.
pub(super) const MISTRAL3: Family = Family {
    architecture: "Mistral3ForConditionalGeneration",
    towers: &[&towers::MISTRAL3],
    ..MISTRAL
};

const LLAVA_TOWERS: &[&Tower] = &[&towers::LLAVA_CLIP, &towers::LLAVA_PIXTRAL];

/// Text and images: Llama, or the text model that its config names.
pub(super) const LLAVA: Family = Family {
    architecture: "LlavaForConditionalGeneration",
    aliases: &[],
    variants: &[
        ("model_type", "\"mistral\"", &LLAVA_MISTRAL),
        ("model_type", "\"qwen2\"", &LLAVA_QWEN2),
    ],
    towers: LLAVA_TOWERS,
    ..LLAMA
};

const LLAVA_MISTRAL: Family =
    Family { architecture: "LlavaForConditionalGeneration", towers: LLAVA_TOWERS, ..MISTRAL };

const LLAVA_QWEN2: Family = Family {
    architecture: "LlavaForConditionalGeneration",
    aliases: &[],
    towers: LLAVA_TOWERS,
    ..QWEN2
};

const LLAVA_NEXT_TOWERS: &[&Tower] = &[&towers::LLAVA_NEXT_CLIP];

/// LLaVA 1.6: text and images of several sizes.
pub(super) const LLAVA_NEXT: Family = Family {
    architecture: "LlavaNextForConditionalGeneration",
    variants: &[
        ("model_type", "\"mistral\"", &LLAVA_NEXT_MISTRAL),
        ("model_type", "\"qwen2\"", &LLAVA_NEXT_QWEN2),
    ],
    towers: LLAVA_NEXT_TOWERS,
    ..LLAVA
};

const LLAVA_NEXT_MISTRAL: Family = Family {
    architecture: "LlavaNextForConditionalGeneration",
    towers: LLAVA_NEXT_TOWERS,
    ..MISTRAL
};

const LLAVA_NEXT_QWEN2: Family = Family {
    architecture: "LlavaNextForConditionalGeneration",
    towers: LLAVA_NEXT_TOWERS,
    ..LLAVA_QWEN2
};

/// The same over Qwen 2 with SigLIP.
pub(super) const LLAVA_ONEVISION: Family = Family {
    architecture: "LlavaOnevisionForConditionalGeneration",
    towers: &[&towers::LLAVA_ONEVISION_SIGLIP],
    ..LLAVA_QWEN2
};

const INTERNVL_TOWERS: &[&Tower] = &[&towers::INTERN_VIT];

/// InternVL in the form of transformers: Qwen 2, or the text model that its config names.
pub(super) const INTERNVL: Family = Family {
    architecture: "InternVLForConditionalGeneration",
    aliases: &[],
    variants: &[
        ("model_type", "\"qwen3\"", &INTERNVL_QWEN3),
        ("model_type", "\"llama\"", &INTERNVL_LLAMA),
    ],
    towers: INTERNVL_TOWERS,
    ..QWEN2
};

const INTERNVL_QWEN3: Family = Family {
    architecture: "InternVLForConditionalGeneration",
    aliases: &[],
    towers: INTERNVL_TOWERS,
    ..QWEN3
};

const INTERNVL_LLAMA: Family = Family {
    architecture: "InternVLForConditionalGeneration",
    aliases: &[],
    towers: INTERNVL_TOWERS,
    ..LLAMA
};

const QWEN_WINDOWS: Windows =
    Windows::FromLayer { switch: "use_sliding_window", first: "max_window_layers" };

pub(super) const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    aliases: &["MiMoForCausalLM"],
    defaults: defaults::QWEN2,
    qkv_bias: Flag::Always,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    windows: QWEN_WINDOWS,
    next_token: Some(MIMO_NEXT),
    ..LLAMA
};

/// Text and images, as Qwen 2.5 VL.
pub(super) const QWEN2_VL: Family = Family {
    architecture: "Qwen2VLForConditionalGeneration",
    aliases: &[],
    defaults: defaults::QWEN2_5_VL,
    towers: &[&towers::QWEN2_VL],
    ..QWEN2
};

/// Text and images; its text model has Qwen 2's names.
pub(super) const QWEN2_5_VL: Family = Family {
    architecture: "Qwen2_5_VLForConditionalGeneration",
    aliases: &[],
    defaults: defaults::QWEN2_5_VL,
    towers: &[&towers::QWEN2_5_VL],
    ..QWEN2
};

pub(super) const QWEN3: Family = Family {
    architecture: "Qwen3ForCausalLM",
    aliases: &[],
    defaults: defaults::QWEN3,
    names: Names {
        qk_norm: QkNorm::PerHead("self_attn.q_norm", "self_attn.k_norm"),
        ..LLAMA_NAMES
    },
    mlp_bias: Flag::Never,
    windows: QWEN_WINDOWS,
    ..LLAMA
};

/// Text and images.
pub(super) const QWEN3_VL: Family = Family {
    architecture: "Qwen3VLForConditionalGeneration",
    aliases: &[],
    defaults: defaults::QWEN3_VL,
    towers: &[&towers::QWEN3_VL],
    windows: Windows::Never,
    ..QWEN3
};

pub(super) const OPT: Family = Family {
    architecture: "OPTForCausalLM",
    aliases: &[],
    defaults: defaults::OPT,
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
    qkv_bias: Flag::Key("enable_bias"),
    out_bias: Flag::Key("enable_bias"),
    mlp_bias: Flag::Key("enable_bias"),
    norm_affine: Flag::Key("layer_norm_elementwise_affine"),
    pre_norm: Flag::Key("do_layer_norm_before"),
    must_be_off: &["_remove_final_layer_norm"],
    ..LLAMA
};

pub(super) const GPT2: Family = Family {
    architecture: "GPT2LMHeadModel",
    aliases: &[],
    defaults: defaults::GPT2,
    spellings: &[
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ],
    prefixes: &["transformer.", ""],
    keys: Keys {
        hidden: "n_embd",
        layers: "n_layer",
        heads: "n_head",
        kv_heads: None,
        ffn: "n_inner",
        ffn_null_4x: true,
        activation: "activation_function",
        activation_null: None,
        ..LLAMA_KEYS
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
    eps: Eps::Key("layer_norm_epsilon"),
    gated: false,
    positions: Positions::Learned { name: "wpe", offset: 0, inclusive: false },
    qkv_bias: Flag::Always,
    out_bias: Flag::Always,
    mlp_bias: Flag::Always,
    norm_affine: Flag::Always,
    pre_norm: Flag::Always,
    transposed: true,
    must_be_off: &[
        "add_cross_attention",
        "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
    ],
    ..LLAMA
};

/// The activation is the tanh form whatever the older key `hidden_act` says.
pub(super) const GEMMA: Family = Family {
    architecture: "GemmaForCausalLM",
    aliases: &[],
    keys: Keys {
        activation: "hidden_activation",
        activation_null: Some("gelu_pytorch_tanh"),
        ..LLAMA_KEYS
    },
    defaults: defaults::GEMMA,
    norm: NormKind::RmsPlusOne,
    mlp_bias: Flag::Never,
    embed_sqrt: true,
    ..LLAMA
};

const GEMMA2_NAMES: Names = Names {
    attn_post: Some("post_attention_layernorm"),
    mlp_norm: Some("pre_feedforward_layernorm"),
    mlp_post: Some("post_feedforward_layernorm"),
    ..LLAMA_NAMES
};

pub(super) const GEMMA2: Family = Family {
    architecture: "Gemma2ForCausalLM",
    defaults: defaults::GEMMA2,
    names: GEMMA2_NAMES,
    windows: Windows::ExceptEach("sliding_window_pattern"),
    attn_scale: AttnScale::RootOf("query_pre_attn_scalar"),
    softcaps: true,
    no_float16: true,
    ..GEMMA
};

/// Gemma 2 without the norms of what attention and MLP add.
pub(super) const VAULT_GEMMA: Family = Family {
    architecture: "VaultGemmaForCausalLM",
    names: Names { mlp_norm: Some("pre_feedforward_layernorm"), ..LLAMA_NAMES },
    ..GEMMA2
};

const GEMMA3_SHAPE: Family = Family {
    architecture: "Gemma3ForCausalLM",
    defaults: defaults::GEMMA3,
    names: Names {
        qk_norm: QkNorm::PerHead("self_attn.q_norm", "self_attn.k_norm"),
        ..GEMMA2_NAMES
    },
    local_rope: true,
    ..GEMMA2
};

pub(super) const GEMMA3: Family = Family {
    variants: &[("use_bidirectional_attention", "true", &EMBEDDING_GEMMA)],
    ..GEMMA3_SHAPE
};

/// The text model of an image-and-text checkpoint.
pub(super) const GEMMA3_MULTIMODAL: Family = Family {
    architecture: "Gemma3ForConditionalGeneration",
    towers: &[&towers::GEMMA3_SIGLIP],
    ..GEMMA3_SHAPE
};

/// Every token sees those behind it too.
const EMBEDDING_GEMMA: Family = Family {
    window_both_sides: true,
    encoder: true,
    must_be_off: &[],
    must_be: &[],
    ..GEMMA3_SHAPE
};

pub(super) const PHI3: Family = Family {
    architecture: "Phi3ForCausalLM",
    aliases: &[],
    defaults: defaults::PHI3,
    names: Names { qkv: &["self_attn.qkv_proj"], up: &["mlp.gate_up_proj"], ..LLAMA_NAMES },
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    windows: Windows::All,
    ..LLAMA
};

pub(super) const PHI: Family = Family {
    architecture: "PhiForCausalLM",
    aliases: &[],
    defaults: defaults::PHI,
    names: Names {
        attn_out: "self_attn.dense",
        mlp_norm: None,
        up: &["mlp.fc1"],
        down: "mlp.fc2",
        final_norm: "final_layernorm",
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_eps"),
    gated: false,
    qkv_bias: Flag::Always,
    out_bias: Flag::Always,
    mlp_bias: Flag::Always,
    parallel: Flag::Always,
    head_bias: Flag::Always,
    must_be_off: &["qk_layernorm"],
    ..LLAMA
};

pub(super) const NEOX: Family = Family {
    architecture: "GPTNeoXForCausalLM",
    aliases: &[],
    prefixes: &["gpt_neox.", ""],
    keys: Keys { kv_heads: None, ..LLAMA_KEYS },
    defaults: defaults::NEOX,
    spellings: &[("rotary_pct", "partial_rotary_factor"), ("rotary_emb_base", "rope_theta")],
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
    eps: Eps::Key("layer_norm_eps"),
    gated: false,
    qkv_bias: Flag::Key("attention_bias"),
    out_bias: Flag::Key("attention_bias"),
    mlp_bias: Flag::Always,
    parallel: Flag::Key("use_parallel_residual"),
    parallel_mlp_norm: true,
    fused: Fused::PerGroup,
    ..LLAMA
};

pub(super) const STABLELM: Family = Family {
    architecture: "StableLmForCausalLM",
    aliases: &["StableLMEpochForCausalLM"],
    defaults: defaults::STABLELM,
    spellings: &[("norm_eps", "layer_norm_eps"), ("rope_pct", "partial_rotary_factor")],
    norm: NormKind::Layer,
    eps: Eps::Key("layer_norm_eps"),
    names: Names {
        qk_norm: QkNorm::EachHead {
            q: "self_attn.q_layernorm",
            k: "self_attn.k_layernorm",
            listed: true,
        },
        ..LLAMA_NAMES
    },
    qk_norms: Flag::Key("qk_layernorm"),
    qkv_bias: Flag::Key("use_qkv_bias"),
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    parallel: Flag::Key("use_parallel_residual"),
    ..LLAMA
};

pub(super) const GRANITE: Family = Family {
    architecture: "GraniteForCausalLM",
    aliases: &[],
    defaults: defaults::GRANITE,
    attn_scale: AttnScale::Key("attention_multiplier"),
    multipliers: Multipliers::Granite,
    ..LLAMA
};

pub(super) const OLMO2: Family = Family {
    architecture: "Olmo2ForCausalLM",
    aliases: &[],
    defaults: defaults::OLMO2,
    names: Names {
        attn_norm: None,
        attn_post: Some("post_attention_layernorm"),
        qk_norm: QkNorm::Whole("self_attn.q_norm", "self_attn.k_norm"),
        mlp_norm: None,
        mlp_post: Some("post_feedforward_layernorm"),
        ..LLAMA_NAMES
    },
    mlp_bias: Flag::Never,
    ..LLAMA
};
