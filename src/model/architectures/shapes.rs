//! The rows of architectures whose layers differ in shape. Part of the list in [`super`], which
//! looks them up.

use super::decoders::{GEMMA3, LLAMA};
use super::defaults;
use super::family::{
    AttnScale, BesideMlp, Family, Flag, LayerInputs, LayerShapes, Mixture, MixtureLayers,
};
use super::mixtures::QWEN_MIXTURE;
use crate::device::NormKind;

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

/// The text model of a checkpoint that also sees images and hears.
pub(super) const GEMMA4_WHOLE: Family =
    Family { architecture: "Gemma4ForConditionalGeneration", ..GEMMA4 };
