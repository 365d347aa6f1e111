//! The rows of architectures whose layers differ in shape. Part of the list in [`super`], which
//! looks them up.

use super::decoders::{GEMMA3, LLAMA, LLAMA_KEYS, LLAMA_NAMES};
use super::defaults;
use super::family::{
    AttnScale, Choice, Family, Keys, Mixture, MixtureLayers, Names, QkNorm, RopeLayers,
    SharedExpert,
};
use super::flag::Flag;
use super::layer_rows::{BesideMlp, LayerInputs, LayerShapes, StillGrowth};
use super::mixtures::{QWEN_MIXTURE, QWEN_SHARED};
use super::towers;
use crate::device::{NormKind, RouteScore};

/// Text is causal whatever images may see of each other.
pub(super) const GEMMA4: Family = Family {
    architecture: "Gemma4ForCausalLM",
    defaults: defaults::GEMMA4,
    norm: NormKind::Rms,
    attn_scale: AttnScale::One,
    value_norm: true,
    shapes: LayerShapes::ByWindow,
    layer_inputs: Some(LayerInputs {
        width: "hidden_size_per_layer_input",
        rows: "vocab_size_per_layer_input",
        table: "embed_tokens_per_layer",
        projection: "per_layer_model_projection",
        norm: "per_layer_projection_norm",
        gate: "per_layer_input_gate",
        out: "per_layer_projection",
        post: "post_per_layer_input_norm",
    }),
    layer_scalar: Some("layer_scalar"),
    mixture: Some(Mixture {
        top_k: "top_k_experts",
        renormalise: Flag::Always,
        layers: MixtureLayers::If("enable_moe_block"),
        modules: &[],
        router: "router.proj",
        expert_scale: Some("router.per_expert_scale"),
        beside: Some(BesideMlp {
            router_scale: "router.scale",
            norm: "pre_feedforward_layernorm_2",
            post: ["post_feedforward_layernorm_1", "post_feedforward_layernorm_2"],
        }),
        ..QWEN_MIXTURE
    }),
    must_be_off: &[],
    must_be: &[("use_bidirectional_attention", "\"vision\"")],
    ..GEMMA3
};

/// Llama whose layers were thinned out. The Python backend has no layers that are a linear.
pub(super) const DECILM: Family = Family {
    architecture: "DeciLMForCausalLM",
    aliases: &["NemotronNASForCausalLM"],
    defaults: defaults::DECILM,
    shapes: LayerShapes::ByBlock,
    ..LLAMA
};

/// Names and rope are those of the hub's files. Which layers see runs of positions and which have
/// experts is as in the Python backend, by keys and not by lists of kinds.
pub(super) const LLAMA4: Family = Family {
    architecture: "Llama4ForCausalLM",
    aliases: &["Llama4ForConditionalGeneration"],
    keys: Keys { ffn: "intermediate_size_mlp", ..LLAMA_KEYS },
    defaults: defaults::LLAMA4,
    names: Names {
        qk_norm: QkNorm::Unweighted,
        up: &["feed_forward.gate_proj", "feed_forward.up_proj"],
        down: "feed_forward.down_proj",
        ..LLAMA_NAMES
    },
    mlp_bias: Flag::Never,
    qk_norms: Flag::Key("use_qk_norm"),
    norms_after_rope: true,
    interleaved: true,
    rope_layers: RopeLayers::Listed {
        list: "no_rope_layers",
        except_each: "no_rope_layer_interval",
    },
    rotated_chunk: Some("attention_chunk_size"),
    still_growth: Some(StillGrowth {
        switch: "attn_temperature_tuning",
        beta: "attn_scale",
        length: "floor_scale",
    }),
    mixture: Some(Mixture {
        experts: "num_local_experts",
        ffn: "intermediate_size",
        choice: Choice { score: RouteScore::SigmoidOfChosen, ..QWEN_MIXTURE.choice },
        renormalise: Flag::Never,
        layers: MixtureLayers::Each("interleave_moe_layer_step"),
        modules: &["feed_forward"],
        router: "router",
        stacks_turned: true,
        weighs_inputs: true,
        shared: Some(SharedExpert { ffn: "intermediate_size", gate: None, ..QWEN_SHARED }),
        ..QWEN_MIXTURE
    }),
    ..LLAMA
};

/// The text model of a checkpoint that also sees images and hears.
pub(super) const GEMMA4_WHOLE: Family =
    Family { architecture: "Gemma4ForConditionalGeneration", towers: &[&towers::GEMMA4], ..GEMMA4 };
