//! The rows of architectures with the selective scan of Mamba 2. Part of the list in [`super`],
//! which looks them up.

use super::decoders::{LLAMA, LLAMA_KEYS, LLAMA_NAMES};
use super::defaults;
use super::family::{
    Choice, Eps, Family, Keys, Mixture, MixtureLayers, Multipliers, Names, NarrowExperts,
    RopeLayers, SharedExpert, Windows,
};
use super::flag::Flag;
use super::mixtures::{GRANITE_MIXTURE, GRANITE_SHARED, GROUPED_MIXTURE};
use super::recurrent_rows::{Recurrent, ScanLayers, SelectiveScan};
use super::variants::GRANITE_HYBRID_DENSE;

/// Granite 4: attention in some layers, scans in the others, experts and a shared one in all.
pub(super) const GRANITE_HYBRID: Family = Family {
    variants: &[("num_local_experts", "0", &GRANITE_HYBRID_DENSE)],
    mixture: Some(Mixture { shared: Some(GRANITE_SHARED), ..GRANITE_MIXTURE }),
    must_be: &[("is_causal", "true")],
    ..GRANITE_HYBRID_DENSE
};

const BAMBA_NAMES: Names = Names {
    mlp_norm: Some("pre_ff_layernorm"),
    up: &["feed_forward.gate_proj", "feed_forward.up_proj"],
    down: "feed_forward.down_proj",
    final_norm: "final_layernorm",
    ..LLAMA_NAMES
};

pub(super) const BAMBA: Family = Family {
    architecture: "BambaForCausalLM",
    aliases: &[],
    defaults: defaults::BAMBA,
    names: BAMBA_NAMES,
    recurrent: Some(Recurrent::SelectiveScan(SelectiveScan {
        layers: ScanLayers::AllBut("attn_layer_indices"),
        module: "mamba",
        normed: Flag::Always,
    })),
    windows: Windows::Never,
    must_be: &[("is_causal", "true")],
    ..LLAMA
};

/// Attention and a scan read the same norm, and are added up. The Python backend has the gate in
/// front of the scan's norm whatever `mamba_norm_before_gate` says.
pub(super) const FALCON_H1: Family = Family {
    architecture: "FalconH1ForCausalLM",
    aliases: &[],
    defaults: defaults::FALCON_H1,
    names: BAMBA_NAMES,
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Never,
    recurrent: Some(Recurrent::SelectiveScan(SelectiveScan {
        layers: ScanLayers::BesideAttention,
        module: "mamba",
        normed: Flag::Key("mamba_rms_norm"),
    })),
    windows: Windows::Never,
    multipliers: Multipliers::FalconH1,
    must_be_off: &["attention_bias", "mlp_bias", "projectors_bias", "mamba_proj_bias"],
    must_be: &[("is_causal", "true")],
    ..LLAMA
};

/// Each layer is one of a scan, attention, an MLP, and experts, behind a norm.
pub(super) const NEMOTRON_H: Family = Family {
    architecture: "NemotronHForCausalLM",
    aliases: &[],
    prefixes: &["backbone.", "model."],
    keys: Keys { activation: "mlp_hidden_act", ..LLAMA_KEYS },
    defaults: defaults::NEMOTRON_H,
    spellings: &[
        ("layer_types", "layers_block_type"),
        ("attention_head_dim", "head_dim"),
        ("mamba_num_heads", "mamba_n_heads"),
        ("mamba_head_dim", "mamba_d_head"),
        ("ssm_state_size", "mamba_d_state"),
        ("n_groups", "mamba_n_groups"),
        ("conv_kernel", "mamba_d_conv"),
        ("use_conv_bias", "mamba_conv_bias"),
        ("use_bias", "mamba_proj_bias"),
    ],
    names: Names {
        embed: "embeddings",
        attn_norm: Some("norm"),
        qkv: &["mixer.q_proj", "mixer.k_proj", "mixer.v_proj"],
        attn_out: "mixer.o_proj",
        mlp_norm: None,
        up: &["mixer.up_proj"],
        down: "mixer.down_proj",
        final_norm: "norm_f",
        ..LLAMA_NAMES
    },
    eps: Eps::Key("layer_norm_epsilon"),
    gated: false,
    mixture: Some(Mixture {
        choice: Choice { method: None, ..GROUPED_MIXTURE.choice },
        layers: MixtureLayers::Single,
        modules: &["mixer"],
        gate_up: &["up_proj"],
        stacks: ["experts.up_proj", "experts.down_proj"],
        shared: Some(SharedExpert {
            ffn: "moe_shared_expert_intermediate_size",
            times: Some("n_shared_experts"),
            optional: true,
            module: None,
            gate_up: &["shared_experts.up_proj"],
            down: "shared_experts.down_proj",
            gate: None,
        }),
        narrowed: Some(NarrowExperts {
            width: "moe_latent_size",
            down: "fc1_latent_proj",
            up: "fc2_latent_proj",
        }),
        ..GROUPED_MIXTURE
    }),
    qkv_bias: Flag::Never,
    out_bias: Flag::Never,
    mlp_bias: Flag::Key("mlp_bias"),
    recurrent: Some(Recurrent::SelectiveScan(SelectiveScan {
        layers: ScanLayers::OneSublayer {
            letters: "hybrid_override_pattern",
            list: "layers_block_type",
        },
        module: "mixer",
        normed: Flag::Always,
    })),
    windows: Windows::All,
    layer_types: &[
        ("mamba", true),
        ("linear_attention", true),
        ("attention", true),
        ("full_attention", true),
        ("mlp", true),
        ("moe", true),
    ],
    rope_layers: RopeLayers::None,
    must_be_off: &["attention_bias"],
    must_be: &[("is_causal", "true"), ("mamba_hidden_act", "\"silu\"")],
    ..LLAMA
};
