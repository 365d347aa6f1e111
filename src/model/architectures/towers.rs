//! Rows of vision towers.

use super::tower::{
    AnyResolutionKeys, DeepNames, Frame, Joined, MergerEps, MergerNames, MergerNorm, MergerProduct,
    MergerWidth, Places, Squares, Tower, TowerEps, TowerFfn, TowerKeys, Turns,
};
use crate::device::{Activation, NormKind};
use crate::image::Kind;
use crate::plan::BothWays;

/// A product with a bias.
pub(super) const fn biased(
    name: &'static str,
    outputs: MergerWidth,
    activation: Option<Activation>,
) -> MergerProduct {
    MergerProduct { name, outputs, bias: true, transposed: false, activation }
}

/// A product without one.
pub(super) const fn plain(
    name: &'static str,
    outputs: MergerWidth,
    activation: Option<Activation>,
) -> MergerProduct {
    MergerProduct { bias: false, ..biased(name, outputs, activation) }
}

/// The tower's own norm.
const fn norm(name: &'static str, joined: bool) -> Option<MergerNorm> {
    Some(MergerNorm { name, kind: None, eps: MergerEps::Tower, joined, unit: false })
}

const QWEN2_VL_KEYS: TowerKeys = TowerKeys {
    depth: "depth",
    picked: None,
    width: "embed_dim",
    heads: "num_heads",
    ffn: TowerFfn::Times("mlp_ratio"),
    out: Some("hidden_size"),
    squares: Squares::Side("spatial_merge_size"),
};

const QWEN2_5_VL_KEYS: TowerKeys = TowerKeys {
    width: "hidden_size",
    ffn: TowerFfn::Width("intermediate_size"),
    out: Some("out_hidden_size"),
    ..QWEN2_VL_KEYS
};

const IMAGE_TOKEN: [&[&str]; 2] = [&["image_token_id"], &["image_token_id"]];

/// Every layer sees the whole image; turned by row and column alone.
pub(super) const QWEN2_VL: Tower = Tower {
    model_types: &[],
    only_with: &[],
    prefixes: &[["visual.", "visual."], ["model.visual.", "model.visual."]],
    images: Kind::Qwen,
    placeholders: IMAGE_TOKEN,
    written: None,
    marks: None,
    row_ends: None,
    defaults: r#"{"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "hidden_act": "quick_gelu",
        "mlp_ratio": 4, "num_heads": 16, "in_channels": 3, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2}"#,
    must_be: &[],
    own_must_be: &[],
    axes: true,
    both_ways: BothWays::Never,
    only_if: &[],
    frame: None,
    any_resolution: None,
    keys: QWEN2_VL_KEYS,
    norm: NormKind::Layer,
    eps: TowerEps::Fixed(1e-6),
    patches: "patch_embed.proj",
    by_pixel: false,
    patch_bias: false,
    places: Places::None,
    turns: Turns::SameOfBoth(10000.0),
    first: None,
    layers: "blocks",
    norms: ["norm1", "norm2"],
    post_norms: None,
    head_norms: None,
    unscaled: false,
    qkv: &["attn.qkv"],
    qkv_bias: true,
    qkv_bias_key: None,
    qk_norms: None,
    out: "attn.proj",
    out_bias: true,
    up: &["mlp.fc1"],
    down: "mlp.fc2",
    mlp_bias: true,
    layer_scales: None,
    last: None,
    merger: MergerNames {
        norm: norm("merger.ln_q", false),
        joined: Joined::SideBySide,
        standard: None,
        products: &[
            biased("merger.mlp.0", MergerWidth::Square, Some(Activation::Gelu)),
            biased("merger.mlp.2", MergerWidth::Decoder, None),
        ],
    },
    deep: None,
};

/// Windows of attention in most layers.
pub(super) const QWEN2_5_VL: Tower = Tower {
    defaults: r#"{"depth": 32, "hidden_size": 3584, "hidden_act": "silu",
        "intermediate_size": 3420, "num_heads": 16, "in_channels": 3, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
        "out_hidden_size": 3584, "fullatt_block_indexes": [7, 15, 23, 31]}"#,
    keys: QWEN2_5_VL_KEYS,
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
    keys: QWEN2_5_VL_KEYS,
    patch_bias: true,
    places: Places::Stretched { table: "pos_embed.weight", count: "num_position_embeddings" },
    up: &["mlp.linear_fc1"],
    down: "mlp.linear_fc2",
    merger: MergerNames {
        norm: norm("merger.norm", false),
        joined: Joined::SideBySide,
        standard: None,
        products: &[
            biased("merger.linear_fc1", MergerWidth::Square, Some(Activation::Gelu)),
            biased("merger.linear_fc2", MergerWidth::Decoder, None),
        ],
    },
    deep: Some(DeepNames {
        layers: "deepstack_visual_indexes",
        mergers: "deepstack_merger_list",
        names: MergerNames {
            norm: norm("norm", true),
            joined: Joined::SideBySide,
            standard: None,
            products: &[
                biased("linear_fc1", MergerWidth::Square, Some(Activation::Gelu)),
                biased("linear_fc2", MergerWidth::Decoder, None),
            ],
        },
    }),
    ..QWEN2_VL
};

/// The same with vectors of its last layer alone.
pub(super) const QWEN3_5: Tower = Tower {
    defaults: r#"{"depth": 27, "hidden_size": 1152, "hidden_act": "gelu_pytorch_tanh",
        "intermediate_size": 4304, "num_heads": 16, "in_channels": 3, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 3584,
        "num_position_embeddings": 2304}"#,
    deep: None,
    ..QWEN3_VL
};

pub(super) const SIGLIP_KEYS: TowerKeys = TowerKeys {
    depth: "num_hidden_layers",
    picked: None,
    width: "hidden_size",
    heads: "num_attention_heads",
    ffn: TowerFfn::Width("intermediate_size"),
    out: None,
    squares: Squares::One,
};

/// CLIP under LLaVA: a class row, a norm in front, and the layers' output before the last one.
pub(super) const LLAVA_CLIP: Tower = Tower {
    model_types: &["clip_vision_model"],
    prefixes: &[
        ["vision_tower.vision_model.", "multi_modal_projector."],
        ["model.vision_tower.vision_model.", "model.multi_modal_projector."],
        ["model.vision_tower.", "model.multi_modal_projector."],
    ],
    images: Kind::CentreCrop,
    placeholders: [
        &["image_token_index", "image_token_id"],
        &["image_token_index", "image_token_id"],
    ],
    defaults: r#"{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "image_size": 224, "patch_size": 32, "num_channels": 3,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}"#,
    must_be: &[
        ("projector_hidden_act", "\"gelu\""),
        ("multimodal_projector_bias", "true"),
        ("vision_feature_select_strategy", "\"default\""),
    ],
    axes: false,
    keys: TowerKeys { picked: Some(("vision_feature_layer", -2)), ..SIGLIP_KEYS },
    eps: TowerEps::Key("layer_norm_eps"),
    patches: "embeddings.patch_embedding",
    patch_bias: false,
    places: Places::Each {
        table: "embeddings.position_embedding.weight",
        class: Some("embeddings.class_embedding"),
    },
    turns: Turns::None,
    // So written in the checkpoints.
    first: Some("pre_layrnorm"),
    layers: "encoder.layers",
    norms: ["layer_norm1", "layer_norm2"],
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    out: "self_attn.out_proj",
    merger: MergerNames {
        norm: None,
        joined: Joined::SideBySide,
        standard: None,
        products: &[
            biased("linear_1", MergerWidth::Decoder, Some(Activation::Gelu)),
            biased("linear_2", MergerWidth::Decoder, None),
        ],
    },
    ..QWEN2_VL
};

/// CLIP under LLaVA-NeXT.
pub(super) const LLAVA_NEXT_CLIP: Tower = Tower {
    images: Kind::AnyResolution,
    any_resolution: Some(AnyResolutionKeys {
        row_end: "image_newline",
        defaults: r#"{"image_grid_pinpoints":
            [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]}"#,
    }),
    ..LLAVA_CLIP
};

/// SigLIP under LLaVA-OneVision: the last layer's output, without the norm behind it.
pub(super) const LLAVA_ONEVISION_SIGLIP: Tower = Tower {
    model_types: &["siglip_vision_model"],
    images: Kind::AnyResolution,
    any_resolution: Some(AnyResolutionKeys {
        row_end: "image_newline",
        defaults: r#"{"vision_aspect_ratio": "anyres_max_9", "image_grid_pinpoints": [
            [384, 384], [384, 768], [384, 1152], [384, 1536], [384, 1920], [384, 2304],
            [768, 384], [768, 768], [768, 1152], [768, 1536], [768, 1920], [768, 2304],
            [1152, 384], [1152, 768], [1152, 1152], [1152, 1536], [1152, 1920], [1152, 2304],
            [1536, 384], [1536, 768], [1536, 1152], [1536, 1536], [1536, 1920], [1536, 2304],
            [1920, 384], [1920, 768], [1920, 1152], [1920, 1536], [1920, 1920], [1920, 2304],
            [2304, 384], [2304, 768], [2304, 1152], [2304, 1536], [2304, 1920], [2304, 2304]]}"#,
    }),
    defaults: GEMMA3_SIGLIP.defaults,
    must_be: &[
        ("projector_hidden_act", "\"gelu\""),
        ("multimodal_projector_bias", "true"),
        ("vision_feature_select_strategy", "\"full\""),
    ],
    keys: TowerKeys { picked: Some(("vision_feature_layer", -1)), ..SIGLIP_KEYS },
    patch_bias: true,
    places: Places::Each { table: "embeddings.position_embedding.weight", class: None },
    first: None,
    ..LLAVA_CLIP
};

/// SigLIP under Gemma 3: the mean of squares of patches, a norm, and one product.
pub(super) const GEMMA3_SIGLIP: Tower = Tower {
    model_types: &["siglip_vision_model"],
    images: Kind::Square,
    placeholders: [&["boi_token_index"], &["image_token_index", "image_token_id"]],
    defaults: r#"{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "image_size": 224, "patch_size": 16, "num_channels": 3,
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}"#,
    must_be: &[],
    both_ways: BothWays::Always,
    frame: Some(Frame {
        text: "\n\n",
        open: "boi_token_index",
        close: "eoi_token_index",
        parts: [
            "Here is the original image ",
            " and here are some crops to help you see better ",
            " ",
        ],
    }),
    keys: TowerKeys { squares: Squares::Tokens("mm_tokens_per_image"), ..SIGLIP_KEYS },
    patch_bias: true,
    places: Places::Each { table: "embeddings.position_embedding.weight", class: None },
    first: None,
    last: Some("post_layernorm"),
    merger: MergerNames {
        norm: Some(MergerNorm {
            name: "mm_soft_emb_norm",
            kind: Some(NormKind::RmsPlusOne),
            eps: MergerEps::Tower,
            joined: true,
            unit: false,
        }),
        joined: Joined::Mean,
        standard: None,
        products: &[MergerProduct {
            name: "mm_input_projection_weight",
            outputs: MergerWidth::Decoder,
            bias: false,
            transposed: true,
            activation: None,
        }],
    },
    ..LLAVA_CLIP
};

/// InternViT in the form of transformers.
pub(super) const INTERN_VIT: Tower = Tower {
    model_types: &["internvl_vision"],
    prefixes: &[
        ["vision_tower.", "multi_modal_projector."],
        ["model.vision_tower.", "model.multi_modal_projector."],
    ],
    images: Kind::Tiles,
    placeholders: [
        &["image_token_id", "image_token_index"],
        &["image_token_id", "image_token_index"],
    ],
    defaults: r#"{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": [448, 448], "patch_size": [14, 14],
        "num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
        "attention_bias": false}"#,
    keys: TowerKeys {
        picked: Some(("vision_feature_layer", -1)),
        squares: Squares::Ratio("downsample_ratio"),
        ..SIGLIP_KEYS
    },
    must_be: &[
        ("projector_hidden_act", "\"gelu\""),
        ("vision_feature_layer", "-1"),
        ("vision_feature_select_strategy", "\"default\""),
    ],
    own_must_be: &[
        ("use_qk_norm", "false"),
        ("use_mean_pooling", "true"),
        ("norm_type", "\"layer_norm\""),
        ("use_absolute_position_embeddings", "true"),
    ],
    patches: "embeddings.patch_embeddings.projection",
    patch_bias: true,
    places: Places::Each {
        table: "embeddings.position_embeddings",
        class: Some("embeddings.cls_token"),
    },
    first: None,
    layers: "encoder.layer",
    norms: ["layernorm_before", "layernorm_after"],
    qkv: &["attention.q_proj", "attention.k_proj", "attention.v_proj"],
    qkv_bias: false,
    qkv_bias_key: Some("attention_bias"),
    out: "attention.projection_layer",
    layer_scales: Some(["lambda_1", "lambda_2"]),
    merger: MergerNames {
        norm: Some(MergerNorm {
            name: "layer_norm",
            kind: None,
            eps: MergerEps::Fixed(1e-5),
            joined: true,
            unit: false,
        }),
        joined: Joined::SideBySide,
        standard: None,
        products: &[
            biased("linear_1", MergerWidth::Decoder, Some(Activation::Gelu)),
            biased("linear_2", MergerWidth::Decoder, None),
        ],
    },
    ..LLAVA_CLIP
};

/// Pixtral: images of any shape, a norm in front, and no biases.
const PIXTRAL: Tower = Tower {
    model_types: &["pixtral"],
    prefixes: &[
        ["vision_tower.", "multi_modal_projector."],
        ["model.vision_tower.", "model.multi_modal_projector."],
    ],
    images: Kind::Pixtral,
    row_ends: Some(["[IMG_BREAK]", "[IMG_END]"]),
    defaults: r#"{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 1024, "patch_size": 16, "num_channels": 3,
        "hidden_act": "gelu", "rope_theta": 10000.0}"#,
    norm: NormKind::Rms,
    eps: TowerEps::Fixed(1e-5),
    patches: "patch_conv",
    places: Places::None,
    turns: Turns::EvenAndOdd("rope_theta"),
    first: Some("ln_pre"),
    layers: "transformer.layers",
    norms: ["attention_norm", "ffn_norm"],
    qkv: &["attention.q_proj", "attention.k_proj", "attention.v_proj"],
    qkv_bias: false,
    out_bias: false,
    out: "attention.o_proj",
    up: &["feed_forward.gate_proj", "feed_forward.up_proj"],
    down: "feed_forward.down_proj",
    mlp_bias: false,
    ..LLAVA_CLIP
};

/// Pixtral 12B: a token for each patch.
pub(super) const LLAVA_PIXTRAL: Tower = Tower {
    must_be: &[
        ("projector_hidden_act", "\"gelu\""),
        ("multimodal_projector_bias", "true"),
        ("vision_feature_select_strategy", "\"full\""),
    ],
    keys: TowerKeys { picked: Some(("vision_feature_layer", -1)), ..SIGLIP_KEYS },
    ..PIXTRAL
};

/// Mistral 3: squares of patches become one by a norm and a product without bias.
pub(super) const MISTRAL3: Tower = Tower {
    must_be: &[("projector_hidden_act", "\"gelu\""), ("multimodal_projector_bias", "false")],
    keys: TowerKeys {
        picked: Some(("vision_feature_layer", -1)),
        squares: Squares::Factor("spatial_merge_size"),
        ..SIGLIP_KEYS
    },
    merger: MergerNames {
        norm: Some(MergerNorm {
            name: "norm",
            kind: None,
            eps: MergerEps::Decoder,
            joined: false,
            unit: false,
        }),
        joined: Joined::ChannelsFirst,
        standard: None,
        products: &[
            plain("patch_merger.merging_layer", MergerWidth::Patch, None),
            plain("linear_1", MergerWidth::Decoder, Some(Activation::Gelu)),
            plain("linear_2", MergerWidth::Decoder, None),
        ],
    },
    ..PIXTRAL
};

/// Gemma 4's own, in the checkpoints whose soft tokens are standardised: blocks as of its text
/// model, and means of 3 x 3 patches. Those with limits around each product take text.
pub(super) const GEMMA4: Tower = Tower {
    model_types: &["gemma4_vision"],
    prefixes: &[["model.vision_tower.", "model.embed_vision."]],
    images: Kind::Gemma4,
    placeholders: IMAGE_TOKEN,
    defaults: r#"{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16,
        "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64,
        "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "pooling_kernel_size": 3,
        "patch_size": 16, "position_embedding_size": 10240, "use_clipped_linears": false,
        "standardize": false, "attention_bias": false, "rope_theta": 100.0}"#,
    must_be: &[],
    own_must_be: &[("attention_bias", "false")],
    only_if: &[
        ("standardize", "true"),
        ("use_clipped_linears", "false"),
        ("use_bidirectional_attention", "\"vision\""),
        ("hidden_size_per_layer_input", "0"),
    ],
    axes: false,
    both_ways: BothWays::InWindows,
    frame: Some(Frame {
        text: "",
        open: "boi_token_id",
        close: "eoi_token_id",
        parts: ["", "", ""],
    }),
    keys: TowerKeys { squares: Squares::Side("pooling_kernel_size"), ..SIGLIP_KEYS },
    norm: NormKind::Rms,
    eps: TowerEps::Key("rms_norm_eps"),
    patches: "patch_embedder.input_proj",
    by_pixel: true,
    places: Places::OfColumnAndRow {
        table: "patch_embedder.position_embedding_table",
        count: "position_embedding_size",
    },
    turns: Turns::HalfEach("rope_theta"),
    layers: "encoder.layers",
    norms: ["input_layernorm", "pre_feedforward_layernorm"],
    post_norms: Some(["post_attention_layernorm", "post_feedforward_layernorm"]),
    head_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
    unscaled: true,
    qkv: &["self_attn.q_proj.linear", "self_attn.k_proj.linear", "self_attn.v_proj.linear"],
    qkv_bias: false,
    out: "self_attn.o_proj.linear",
    out_bias: false,
    up: &["mlp.gate_proj.linear", "mlp.up_proj.linear"],
    down: "mlp.down_proj.linear",
    mlp_bias: false,
    merger: MergerNames {
        norm: Some(MergerNorm {
            name: "embedding_pre_projection_norm",
            kind: None,
            eps: MergerEps::Tower,
            joined: true,
            unit: true,
        }),
        joined: Joined::Mean,
        standard: Some(["std_bias", "std_scale"]),
        products: &[plain("embedding_projection", MergerWidth::Decoder, None)],
    },
    ..QWEN2_VL
};
