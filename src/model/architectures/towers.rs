//! Rows of vision towers.

use super::family::Tower;
use crate::image::Kind;

/// Windows of attention in most layers; two products behind squares of patches.
pub(super) const QWEN2_5_VL: Tower = Tower {
    prefixes: &["visual.", "model.visual."],
    images: Kind::Qwen,
    placeholder: "image_token_id",
    defaults: r#"{"depth": 32, "hidden_size": 3584, "hidden_act": "silu",
        "intermediate_size": 3420, "num_heads": 16, "in_channels": 3, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
        "out_hidden_size": 3584, "fullatt_block_indexes": [7, 15, 23, 31]}"#,
    patches: "patch_embed.proj",
    layers: "blocks",
    norms: ["norm1", "norm2"],
    qkv: "attn.qkv",
    out: "attn.proj",
    up: ["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    merge_norm: "merger.ln_q",
    merge: ["merger.mlp.0", "merger.mlp.2"],
};
