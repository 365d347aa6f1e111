//! Unit tests of `vision`: towers whose images are squares with texts around them.

use super::tests::{spec_of, ALL};
use super::*;
use serde_json::json;

fn read(config: Value, sizes: Value) -> Result<ModelSpec> {
    let sizes = sizes.as_object();
    spec_of(config, &SpecOptions { supported: ALL, image_sizes: sizes, ..Default::default() })
}

fn text(model_type: &str) -> Value {
    json!({"model_type": model_type, "hidden_size": 64, "num_hidden_layers": 2, "bias": false,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 72,
        "hidden_act": "silu", "max_position_embeddings": 512, "vocab_size": 100})
}

fn internvl(model_type: &str) -> Value {
    json!({"architectures": ["InternVLChatModel"], "model_type": "internvl_chat",
        "downsample_ratio": 0.5, "dynamic_image_size": true, "force_image_size": 448,
        "ps_version": "v2", "select_layer": -1, "llm_config": text(model_type),
        "vision_config": {"model_type": "intern_vit_6b", "hidden_size": 32, "qkv_bias": true,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 448, "qk_normalization": false, "norm_type": "layer_norm"}})
}

fn idefics3() -> Value {
    json!({"architectures": ["SmolVLMForConditionalGeneration"], "model_type": "smolvlm",
        "image_token_id": 7, "scale_factor": 4, "text_config": text("llama"),
        "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 512, "patch_size": 16}})
}

#[test]
fn internvl_by_its_own_keys() {
    for (model_type, fused) in [("internlm2", true), ("llama", false), ("qwen2", false)] {
        let spec = read(internvl(model_type), json!({})).unwrap();
        assert_eq!(spec.family.names.qkv.len() == 1, fused, "{model_type}");
        let vision = spec.vision.unwrap();
        assert!(
            matches!(vision.tokens, ImageTokens::Written(written) if written.text == "<image>")
        );
        let settings = &vision.settings;
        assert_eq!((vision.max_tokens, settings.side, settings.tiles), (256, 448, (1, 6)));
        assert!(!settings.whole && vision.qkv_bias);
    }
    let spec = read(internvl("qwen3"), json!({"max_dynamic_patch": 3})).unwrap();
    assert_eq!(spec.vision.unwrap().settings.tiles, (1, 3));

    let mut config = internvl("qwen2");
    config["vision_config"]["qk_normalization"] = json!(true);
    config["vision_config"]["norm_type"] = json!("rms_norm");
    assert!(read(config, json!({})).unwrap().vision.unwrap().tower.qk_norms.is_some());

    let mut config = internvl("qwen2");
    config["dynamic_image_size"] = json!(false);
    config["use_thumbnail"] = json!(true);
    let vision = read(config, json!({})).unwrap().vision.unwrap();
    assert_eq!((vision.settings.tiles, vision.settings.whole), ((1, 1), true));
}

#[test]
fn internvl_that_is_another_is_refused_by_name() {
    let cases = [
        ("", "ps_version", json!("v1"), "config.json: 'ps_version' must be \"v2\", got \"v1\""),
        ("", "ps_version", json!(null), "'ps_version' must be \"v2\""),
        ("", "force_image_size", json!(224), "'force_image_size' is 224, and config.json: "),
        ("", "select_layer", json!(-4), "'select_layer' must be -1"),
        ("", "min_dynamic_patch", json!(9), "'min_dynamic_patch' must be at most 6"),
        // InternViT-6B has other norms.
        ("vision_config", "qk_normalization", json!(true), "norm_type' must be \"rms_norm\""),
        ("vision_config", "norm_type", json!("rms_norm"), "norm_type' must be \"layer_norm\""),
        ("llm_config", "model_type", json!("gpt_oss"), "supported: \"internlm2\", \"llama\""),
        ("llm_config", "hidden_size", json!("x"), "config.json: 'llm_config.hidden_size' must be"),
        ("", "llm_config", json!([1]), "config.json: 'llm_config' must be an object"),
    ];
    for (part, key, value, message) in cases {
        let mut config = internvl("qwen2");
        let place = if part.is_empty() { &mut config } else { &mut config[part] };
        place[key] = value;
        let error = read(config, json!({})).unwrap_err();
        assert!(error.message().contains(message), "{message}: {error}");
    }
}

#[test]
fn overrides_reach_the_text_model_by_either_name() {
    for name in ["llm_config", "text_config"] {
        let overrides = json!({name: {"num_hidden_layers": 1}});
        let options = SpecOptions {
            supported: ALL,
            hf_overrides: overrides.as_object(),
            ..Default::default()
        };
        assert_eq!(spec_of(internvl("qwen2"), &options).unwrap().layers, 1, "{name}");
    }
}

#[test]
fn idefics3_and_what_does_not_fit_it() {
    let vision = read(idefics3(), json!({})).unwrap().vision.unwrap();
    let settings = &vision.settings;
    assert_eq!((vision.max_tokens, settings.side, settings.longest), (64, 512, 1456));
    assert_eq!((settings.whole, settings.most_a_side()), (true, 3));

    let sizes = json!({"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 16}});
    let error = read(idefics3(), sizes).unwrap_err();
    assert!(error.message().contains("at most 256 squares are served"), "{error}");
    let mut config = idefics3();
    config["scale_factor"] = json!(3);
    let error = read(config, json!({})).unwrap_err();
    assert!(error.message().contains("makes 32 patches a side"), "{error}");
}
