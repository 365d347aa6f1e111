//! Rows of vision towers.

use super::tower::{DeepNames, MergerNames, Tower, TowerFfn};
use crate::device::NormKind;
use crate::image::Kind;

/// Every layer sees the whole image; turned by row and column alone.
pub(super) const QWEN2_VL: Tower = Tower {
    prefixes: &["visual.", "model.visual."],
    images: Kind::Qwen,
    placeholder: "image_token_id",
    defaults: r#"{"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "hidden_act": "quick_gelu",
        "mlp_ratio": 4, "num_heads": 16, "in_channels": 3, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2}"#,
    widths: ["embed_dim", "hidden_size"],
    ffn: TowerFfn::Times("mlp_ratio"),
    norm: NormKind::Layer,
    patches: "patch_embed.proj",
    patch_bias: false,
    places: None,
    layers: "blocks",
    norms: ["norm1", "norm2"],
    qkv: "attn.qkv",
    out: "attn.proj",
    up: &["mlp.fc1"],
    down: "mlp.fc2",
    merger: MergerNames { norm: "merger.ln_q", products: ["merger.mlp.0", "merger.mlp.2"] },
    deep: None,
};

/// Windows of attention in most layers.
pub(super) const QWEN2_5_VL: Tower = Tower {
    defaults: r#"{"depth": 32, "hidden_size": 3584, "hidden_act": "silu",
        "intermediate_size": 3420, "num_heads": 16, "in_channels": 3, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
        "out_hidden_size": 3584, "fullatt_block_indexes": [7, 15, 23, 31]}"#,
    widths: ["hidden_size", "out_hidden_size"],
    ffn: TowerFfn::Width("intermediate_size"),
    norm: NormKind::Rms,
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    ..QWEN2_VL
};

/// Learned places too, and vectors of some layers for the decoder's first ones.
pub(super) const QWEN3_VL: Tower = Tower {
    defaults: r#"{"depth": 27, "hidden_size": 1152, "hidden_act": "gelu_pytorch_tanh",
        "intermediate_size": 4304, "num_heads": 16, "in_channels": 3, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 3584,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]}"#,
    widths: ["hidden_size", "out_hidden_size"],
    ffn: TowerFfn::Width("intermediate_size"),
    patch_bias: true,
    places: Some("pos_embed"),
    up: &["mlp.linear_fc1"],
    down: "mlp.linear_fc2",
    merger: MergerNames {
        norm: "merger.norm",
        products: ["merger.linear_fc1", "merger.linear_fc2"],
    },
    deep: Some(DeepNames {
        layers: "deepstack_visual_indexes",
        mergers: "deepstack_merger_list",
        names: MergerNames { norm: "norm", products: ["linear_fc1", "linear_fc2"] },
    }),
    ..QWEN2_VL
};
