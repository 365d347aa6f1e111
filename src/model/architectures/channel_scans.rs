//! The rows of architectures with the selective scan of Mamba 1, and those that have nothing but a
//! scan. Part of the list in [`super`], which looks them up.

use super::decoders::{LLAMA, LLAMA_KEYS, LLAMA_NAMES};
use super::family::{Eps, Family, Keys, Mixture, MixtureLayers, Names, RopeLayers, Windows};
use super::flag::Flag;
use super::further_defaults;
use super::mixtures::QWEN_MIXTURE;
use super::recurrent_rows::{ChannelNorms, ChannelScan, Recurrent, ScanLayers, SelectiveScan};

/// Attention in few layers, experts in some; nothing rotates.
pub(super) const JAMBA: Family = Family {
    architecture: "JambaForCausalLM",
    aliases: &[],
    defaults: further_defaults::JAMBA,
    names: Names {
        mlp_norm: Some("pre_ff_layernorm"),
        up: &["feed_forward.gate_proj", "feed_forward.up_proj"],
        down: "feed_forward.down_proj",
        final_norm: "final_layernorm",
        ..LLAMA_NAMES
    },
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    mixture: Some(Mixture {
        ffn: "intermediate_size",
        renormalise: Flag::Never,
        layers: MixtureLayers::EachFrom {
            period: "expert_layer_period",
            offset: "expert_layer_offset",
        },
        modules: &["feed_forward"],
        router: "router",
        ..QWEN_MIXTURE
    }),
    recurrent: Some(Recurrent::ChannelScan(ChannelScan {
        layers: ScanLayers::AllButEach { period: "attn_layer_period", offset: "attn_layer_offset" },
        module: "mamba",
        width: None,
        norms: ChannelNorms::Weighted(["dt_layernorm", "b_layernorm", "c_layernorm"]),
    })),
    windows: Windows::Never,
    rope_layers: RopeLayers::None,
    must_be: &[("is_causal", "true")],
    ..LLAMA
};

const PURE_NAMES: Names = Names {
    embed: "embeddings",
    attn_norm: Some("norm"),
    mlp_norm: None,
    final_norm: "norm_f",
    ..LLAMA_NAMES
};

/// A scan in each layer and nothing else. There are no heads of attention: their number is one that
/// ranks divide.
pub(super) const MAMBA: Family = Family {
    architecture: "MambaForCausalLM",
    prefixes: &["backbone.", "model."],
    keys: Keys { ffn: "hidden_size", ..LLAMA_KEYS },
    defaults: further_defaults::MAMBA,
    spellings: &[
        ("state_size", "mamba_d_state"),
        ("conv_kernel", "mamba_d_conv"),
        ("expand", "mamba_expand"),
        ("time_step_rank", "mamba_dt_rank"),
        ("use_conv_bias", "mamba_conv_bias"),
        ("use_bias", "mamba_proj_bias"),
    ],
    names: PURE_NAMES,
    eps: Eps::Key("layer_norm_epsilon"),
    mixture: None,
    recurrent: Some(Recurrent::ChannelScan(ChannelScan {
        layers: ScanLayers::Alone,
        module: "mixer",
        width: Some("intermediate_size"),
        norms: ChannelNorms::None,
    })),
    ..JAMBA
};

/// Norms without weights over rates, B and C.
pub(super) const FALCON_MAMBA: Family = Family {
    architecture: "FalconMambaForCausalLM",
    defaults: further_defaults::FALCON_MAMBA,
    recurrent: Some(Recurrent::ChannelScan(ChannelScan {
        layers: ScanLayers::Alone,
        module: "mixer",
        width: Some("intermediate_size"),
        norms: ChannelNorms::Unweighted("mixer_rms_eps"),
    })),
    ..MAMBA
};

/// The same by the scan of Mamba 2.
pub(super) const MAMBA2: Family = Family {
    architecture: "Mamba2ForCausalLM",
    defaults: further_defaults::MAMBA2,
    spellings: &[
        ("num_heads", "mamba_n_heads"),
        ("head_dim", "mamba_d_head"),
        ("state_size", "mamba_d_state"),
        ("n_groups", "mamba_n_groups"),
        ("conv_kernel", "mamba_d_conv"),
        ("expand", "mamba_expand"),
        ("use_conv_bias", "mamba_conv_bias"),
        ("use_bias", "mamba_proj_bias"),
    ],
    recurrent: Some(Recurrent::SelectiveScan(SelectiveScan {
        layers: ScanLayers::Alone,
        module: "mixer",
        normed: Flag::Always,
    })),
    ..MAMBA
};
