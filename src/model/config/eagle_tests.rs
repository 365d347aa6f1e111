//! What is read of a head's config.json, as published heads spell it, and what is refused.

use serde_json::json;

use super::*;
use crate::device::DType;

fn options() -> SpecOptions<'static> {
    SpecOptions { supported: &[DType::F32], ..SpecOptions::default() }
}

fn target() -> ModelSpec {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 500, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 12, "num_attention_heads": 4,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    });
    ModelSpec::from_config(config.as_object().unwrap(), None, &options()).unwrap()
}

fn head_of(version: EagleVersion, more: Value) -> Result<ModelSpec> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 32,
        "num_attention_heads": 8, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048, "hidden_act": "silu",
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let Value::Object(config) = config else { unreachable!() };
    ModelSpec::eagle("config.json", config, version, &options(), &target())
}

fn three(more: Value) -> ModelSpec {
    head_of(EagleVersion::Three, more).unwrap()
}

fn refusal(version: EagleVersion, more: Value) -> String {
    head_of(version, more).unwrap_err().to_string()
}

#[test]
fn published_spellings_of_eagle3_are_read() {
    let usual = three(json!({"draft_vocab_size": 120}));
    let head = usual.draft_head.clone().unwrap();
    assert_eq!((&head.taps[..], head.few, head.target_hidden), (&[2, 6, 9][..], Some(120), 64));
    let kind = HeadKind::Eagle3 { norm_before_residual: false, norm_output: false };
    assert_eq!(head.kind, kind);
    assert_eq!((usual.layers, usual.vocab_size, usual.kv_heads), (1, 500, 2));
    assert_eq!((usual.attention_inputs(0), usual.hidden), (128, 64));
    // Its rope allows all of the model's positions.
    assert_eq!(usual.max_model_len, 4096);
    let yarn =
        json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024});
    assert_eq!(three(json!({ "rope_scaling": yarn })).max_model_len, 2048);

    for keys in [
        json!({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 5, 12]}}),
        json!({"eagle_aux_hidden_state_layer_ids": [1, 5, 12], "eagle_config": {}}),
    ] {
        assert_eq!(three(keys).draft_head.unwrap().taps, [1, 5, 12]);
    }
    // All of the model's tokens are no list of some.
    assert_eq!(three(json!({"draft_vocab_size": 500})).draft_head.unwrap().few, None);
    for name in ["LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM"] {
        three(json!({ "architectures": [name] }));
    }

    let layer = json!({"hidden_size": 64, "intermediate_size": 48, "num_attention_heads": 4,
                       "rms_norm_eps": 1e-6, "max_position_embeddings": 128});
    let of_library = three(json!({"architectures": ["Eagle3Speculator"], "norm_output": true,
                                  "transformer_layer_config": layer, "draft_vocab_size": 90}));
    let kind = HeadKind::Eagle3 { norm_before_residual: true, norm_output: true };
    assert_eq!(of_library.draft_head.unwrap().kind, kind);
}

#[test]
fn heads_of_other_models_and_kinds_are_refused() {
    let (one, three) = (EagleVersion::One, EagleVersion::Three);
    for (version, keys, why) in [
        (three, json!({"target_hidden_size": 32}), "this head is another model's"),
        (three, json!({"draft_vocab_size": 501}), "more than the 500 of the model"),
        (three, json!({"norm_before_fc": true}), "'norm_before_fc' is not supported"),
        (three, json!({"architectures": ["Eagle3Other"]}), "heads of this kind are"),
        (three, json!({"eagle_aux_hidden_state_layer_ids": [13]}), "the model's 12 layers"),
        (three, json!({"eagle_aux_hidden_state_layer_ids": []}), "the model's 12 layers"),
        (three, json!({"eagle_aux_hidden_state_layer_ids": 3}), "a list"),
        (three, json!({"transformer_layer_config": 3}), "transformer_layer_config"),
        (one, json!({"architectures": ["EagleDeepSeekMTPModel"]}), "heads of this kind are"),
        (one, json!({"hidden_size": 32}), "has that of its model, 64"),
    ] {
        let said = refusal(version, keys);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_layer_for_further_tokens_is_of_families_that_have_some() {
    let said = target().next_token_layer().unwrap_err().to_string();
    assert!(said.contains("layers of LlamaForCausalLM that predict further tokens"), "{said}");
}
