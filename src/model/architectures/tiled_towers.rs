//! Rows of vision towers whose images are squares with texts around them.

use super::tower::{
    Joined, MergerEps, MergerNames, MergerNorm, MergerWidth, Places, SquareMarks, Squares, Tower,
    TowerKeys, Written,
};
use super::towers::{biased, plain, GEMMA3_SIGLIP, INTERN_VIT, SIGLIP_KEYS};
use crate::device::{Activation, NormKind};
use crate::image::Kind;
use crate::plan::BothWays;

/// InternViT of 300M in InternVL's own format.
pub(super) const INTERN_VIT_OWN: Tower = Tower {
    model_types: &[],
    only_with: &[("qk_normalization", "false")],
    prefixes: &[["vision_model.", "mlp1."]],
    images: Kind::OwnTiles,
    placeholders: [&[], &[]],
    written: Some(Written {
        text: "<image>",
        open: "<img>",
        part: "<IMG_CONTEXT>",
        close: "</img>",
    }),
    // Of InternViT-6B's code: checkpoints with the small tower say all.
    defaults: r#"{"hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 48,
        "num_attention_heads": 25, "image_size": 224, "patch_size": 14, "num_channels": 3,
        "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": false,
        "qk_normalization": true, "norm_type": "rms_norm"}"#,
    keys: TowerKeys { picked: Some(("select_layer", -1)), ..INTERN_VIT.keys },
    must_be: &[("select_layer", "-1")],
    own_must_be: &[("norm_type", "\"layer_norm\"")],
    patches: "embeddings.patch_embedding",
    places: Places::Each {
        table: "embeddings.position_embedding",
        class: Some("embeddings.class_embedding"),
    },
    layers: "encoder.layers",
    norms: ["norm1", "norm2"],
    qkv: &["attn.qkv"],
    qkv_bias_key: Some("qkv_bias"),
    out: "attn.proj",
    up: &["mlp.fc1"],
    down: "mlp.fc2",
    layer_scales: Some(["ls1", "ls2"]),
    merger: MergerNames {
        norm: Some(MergerNorm {
            name: "0",
            kind: None,
            eps: MergerEps::Fixed(1e-5),
            joined: true,
            unit: false,
        }),
        joined: Joined::SideBySide,
        standard: None,
        products: &[
            biased("1", MergerWidth::Decoder, Some(Activation::Gelu)),
            biased("3", MergerWidth::Decoder, None),
        ],
    },
    ..INTERN_VIT
};

/// InternViT-6B in the same format: norms without biases, and norms of q and k.
pub(super) const INTERN_VIT_6B_OWN: Tower = Tower {
    only_with: &[],
    own_must_be: &[("norm_type", "\"rms_norm\"")],
    norm: NormKind::Rms,
    qk_norms: Some(["attn.q_norm", "attn.k_norm"]),
    merger: MergerNames {
        norm: Some(MergerNorm {
            name: "0",
            kind: Some(NormKind::Layer),
            eps: MergerEps::Fixed(1e-5),
            joined: true,
            unit: false,
        }),
        ..INTERN_VIT_OWN.merger
    },
    ..INTERN_VIT_OWN
};

/// SigLIP under Idefics3 and SmolVLM: squares of patches by one product.
pub(super) const IDEFICS3_SIGLIP: Tower = Tower {
    model_types: &[],
    prefixes: &[["model.vision_model.", "model.connector."]],
    images: Kind::Squares,
    placeholders: [&["image_token_id"], &["image_token_id"]],
    marks: Some(SquareMarks { around: "<fake_token_around_image>", whole: "<global-img>" }),
    defaults: r#"{"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 16, "image_size": 224, "patch_size": 32, "num_channels": 3,
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}"#,
    both_ways: BothWays::Never,
    frame: None,
    keys: TowerKeys { squares: Squares::Factor("scale_factor"), ..SIGLIP_KEYS },
    merger: MergerNames {
        norm: None,
        joined: Joined::SideBySide,
        standard: None,
        products: &[plain("modality_projection.proj", MergerWidth::Decoder, None)],
    },
    ..GEMMA3_SIGLIP
};
