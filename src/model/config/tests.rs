//! Unit tests of `config`: what is read, what is refused and in which words.

use super::*;
use crate::device::DType;
use crate::ids::TokenId;
use serde_json::json;

pub(super) const ALL: &[DType] = &[DType::F32, DType::BF16, DType::F16];

pub(super) fn llama() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 72,
        "hidden_act": "silu", "max_position_embeddings": 512, "vocab_size": 100,
        "torch_dtype": "bfloat16", "eos_token_id": 2})
}

pub(super) fn spec_of(config: Value, options: &SpecOptions) -> Result<ModelSpec> {
    ModelSpec::from_config(config.as_object().unwrap(), None, options)
}

pub(super) fn with(key: &str, value: Value) -> Value {
    let mut config = llama();
    config[key] = value;
    config
}

#[test]
fn dtype_rule() {
    let spec = |config: Value, dtype, supported| {
        let options = SpecOptions { dtype, supported, ..Default::default() };
        spec_of(config, &options).map(|s| s.dtype)
    };
    assert_eq!(spec(llama(), "auto", ALL), Ok(DType::BF16));
    assert_eq!(spec(llama(), "half", ALL), Ok(DType::F16));
    let f32_config = with("torch_dtype", json!("float32"));
    assert_eq!(spec(f32_config.clone(), "", ALL), Ok(DType::F32));
    assert_eq!(spec(f32_config, "auto", &[DType::BF16, DType::F16, DType::F32]), Ok(DType::BF16));
    assert_eq!(spec(with("dtype", json!("float16")), "auto", ALL), Ok(DType::F16));
    assert_eq!(spec(llama(), "auto", &[DType::F16, DType::F32]), Ok(DType::F16));
    assert!(spec(llama(), "int8", ALL).unwrap_err().message().contains("'int8'"));
}

#[test]
fn length_rule_and_its_words() {
    let len = |config: Value, user| {
        let options = SpecOptions { max_model_len: user, supported: ALL, ..Default::default() };
        spec_of(config, &options).map(|s| s.max_model_len)
    };
    assert_eq!(len(llama(), None), Ok(512));
    assert_eq!(len(llama(), Some(-1)), Ok(512));
    assert_eq!(len(llama(), Some(100)), Ok(100));
    assert_eq!(len(with("max_seq_len", json!(128)), None), Ok(128));
    let linear = with("rope_scaling", json!({"type": "linear", "factor": 4.0}));
    assert_eq!(len(linear, None), Ok(2048));
    assert_eq!(len(with("model_max_length", json!(4096)), Some(4096)), Ok(4096));
    let e = len(llama(), Some(4096)).unwrap_err();
    assert!(
        e.message().starts_with(
            "User-specified max_model_len (4096) is greater than the derived max_model_len \
             (max_position_embeddings=512.0 or model_max_length=None in model's config.json). To \
             allow overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1."
        ),
        "{e}"
    );
    assert!(len(llama(), Some(0)).is_err());
    assert_eq!(len(with("max_position_embeddings", json!(null)), None), Ok(2048));
}

#[test]
fn windows_can_be_switched_off() {
    let mut config = with("sliding_window", json!(40));
    config["architectures"] = json!(["MistralForCausalLM"]);
    let spec = |config: &Value, user| {
        let options = SpecOptions {
            supported: ALL,
            disable_sliding_window: true,
            max_model_len: user,
            ..Default::default()
        };
        spec_of(config.clone(), &options)
    };
    let off = spec(&config, None).unwrap();
    assert_eq!((off.max_model_len, off.attention[0].attn.window), (40, None));
    let error = spec(&config, Some(41)).unwrap_err();
    assert!(error.message().contains("sliding_window=40"), "{error}");
    assert_eq!(spec(&config, Some(30)).unwrap().max_model_len, 30);
    config["sliding_window"] = json!(5000);
    assert_eq!(spec(&config, None).unwrap().max_model_len, 512);
}

#[test]
fn generation_configs_may_lie_elsewhere() {
    let folder = std::env::temp_dir().join(format!("triton_vllm_eos_{}", std::process::id()));
    let (model, other) = (folder.join("model"), folder.join("other"));
    for (place, id) in [(&model, 7), (&other, 9)] {
        std::fs::create_dir_all(place).unwrap();
        let text = json!({"eos_token_id": id}).to_string();
        std::fs::write(place.join("generation_config.json"), text).unwrap();
    }
    std::fs::write(model.join("config.json"), llama().to_string()).unwrap();
    let ids = |place: Option<&Path>| {
        let options =
            SpecOptions { supported: ALL, generation_config: place, ..Default::default() };
        ModelSpec::read(&model, &options).map(|spec| spec.eos_token_ids)
    };
    assert_eq!(ids(None), Ok(vec![TokenId(7)]));
    assert_eq!(ids(Some(&other)), Ok(vec![TokenId(9)]));
    let missing = ids(Some(&folder)).unwrap_err();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(missing.message().ends_with("generation_config.json not found."), "{missing}");
}

#[test]
fn refusals_name_the_key() {
    let options = SpecOptions { supported: ALL, ..Default::default() };
    let refused = |config: Value| spec_of(config, &options).unwrap_err().message().to_string();
    let cases = [
        (with("architectures", json!(["RwkvForCausalLM"])), "'RwkvForCausalLM'"),
        (with("architectures", json!([])), "'architectures'"),
        (with("hidden_size", json!(-1)), "'hidden_size'"),
        (with("hidden_size", json!(1e30)), "'hidden_size'"),
        (with("hidden_size", json!(66)), "'head_dim'"),
        (with("num_key_value_heads", json!(3)), "num_key_value_heads 3"),
        (with("intermediate_size", json!(null)), "'intermediate_size'"),
        (with("hidden_act", json!("mish")), "'mish'"),
        (with("quantization_config", json!({"quant_method": "quark"})), "'quark'"),
        (with("eos_token_id", json!("x")), "'eos_token_id'"),
    ];

    for (config, want) in cases {
        let text = refused(config);
        assert!(text.contains(want) && !text.contains('\n'), "{text}");
    }
    let unknown = refused(with("architectures", json!(["LamaForCausalLM"])));
    assert!(
        unknown.contains("nearest that is: LlamaForCausalLM. All that are: docs/"),
        "{unknown}"
    );
    let gone = refused(with("architectures", json!(["MPTForCausalLM"])));
    assert!(gone.contains("MPTForCausalLM was supported in vLLM until v0.28.0, and is"), "{gone}");
    let mut own_code = with("architectures", json!(["X"]));
    own_code["auto_map"] = json!({"AutoModelForCausalLM": "modeling_x.X"});
    assert!(refused(own_code).contains("'auto_map', is never run"));
    let mut phi = with("qk_layernorm", json!(true));
    phi["architectures"] = json!(["PhiForCausalLM"]);
    assert!(refused(phi).contains("'qk_layernorm'"));
    let mut gemma = with("layer_types", json!(["full_attention", "linear_attention"]));
    gemma["architectures"] = json!(["Gemma3ForCausalLM"]);
    assert!(refused(gemma.clone()).contains("linear_attention"));
    gemma["layer_types"] = json!(["full_attention"]);
    assert!(refused(gemma).contains("1 entries for 2 layers"));
}

#[test]
fn eos_ids_prefer_the_generation_config() {
    let options = SpecOptions { supported: ALL, ..Default::default() };
    let generation = json!({"eos_token_id": [7, 9]});
    let config = llama();
    let config = config.as_object().unwrap();
    let ids = |generation| ModelSpec::from_config(config, generation, &options).unwrap();
    assert_eq!(ids(generation.as_object()).eos_token_ids, [TokenId(7), TokenId(9)]);
    assert_eq!(ids(None).eos_token_ids, [TokenId(2)]);
}

/// Attention of a model with these keys beside a Llama's.
fn of_four_layers(architecture: &str, more: Value) -> Vec<LayerAttention> {
    let mut config = llama();
    config["architectures"] = json!([architecture]);
    config["num_hidden_layers"] = json!(4);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let options = SpecOptions { supported: ALL, ..Default::default() };
    spec_of(config, &options).unwrap().attention
}

#[test]
fn what_each_layer_sees() {
    let windows = |architecture: &str, more: Value| -> Vec<Option<usize>> {
        of_four_layers(architecture, more).iter().map(|layer| layer.attn.window).collect()
    };

    let w = Some(7);
    let sliding = json!({"sliding_window": 7});
    assert_eq!(windows("LlamaForCausalLM", sliding.clone()), [None; 4]);
    assert_eq!(windows("MistralForCausalLM", sliding.clone()), [w; 4]);
    assert_eq!(windows("MistralForCausalLM", json!({"sliding_window": null})), [None; 4]);
    assert_eq!(windows("Qwen2ForCausalLM", sliding.clone()), [None; 4]);
    let on = json!({"sliding_window": 7, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(windows("Qwen2ForCausalLM", on), [None, None, None, w]);
    assert_eq!(windows("Gemma2ForCausalLM", sliding.clone()), [w, None, w, None]);
    let third = json!({"sliding_window": 7, "sliding_window_pattern": 3});
    assert_eq!(windows("Gemma3ForCausalLM", third), [w, w, None, w]);
    assert_eq!(windows("Olmo3ForCausalLM", sliding.clone()), [w, w, w, None]);
    assert_eq!(windows("Starcoder2ForCausalLM", sliding.clone()), [w; 4]);
    let further = Some(8);
    assert_eq!(windows("Cohere2ForCausalLM", sliding.clone()), [further, further, further, None]);
    assert_eq!(windows("SmolLM3ForCausalLM", sliding), [None; 4]);
}

#[test]
fn which_layers_rotate_and_by_which_rope() {
    let ropes = |architecture: &str, more: Value| -> Vec<Option<usize>> {
        of_four_layers(architecture, more).iter().map(|layer| layer.rope).collect()
    };
    let (some, none) = (Some(0), None);
    assert_eq!(ropes("LlamaForCausalLM", json!({})), [some; 4]);
    assert_eq!(ropes("OPTForCausalLM", json!({"ffn_dim": 8})), [none; 4]);
    assert_eq!(ropes("SmolLM3ForCausalLM", json!({})), [some, some, some, none]);
    let listed = json!({"no_rope_layers": [0, 1, 1, 0]});
    assert_eq!(ropes("SmolLM3ForCausalLM", listed), [none, some, some, none]);
    let third = json!({"no_rope_layers": null, "no_rope_layer_interval": 3});
    assert_eq!(ropes("SmolLM3ForCausalLM", third), [some, some, none, some]);

    let local = Some(1);
    assert_eq!(ropes("Olmo3ForCausalLM", json!({})), [local, local, local, some]);
    assert_eq!(ropes("Exaone4ForCausalLM", json!({})), [some, some, some, none]);
    let full = json!({"layer_types": vec!["full_attention"; 4]});
    assert_eq!(ropes("Exaone4ForCausalLM", full.clone()), [some; 4]);
    assert_eq!(ropes("Cohere2ForCausalLM", json!({})), [some, some, some, none]);
    assert_eq!(ropes("Cohere2ForCausalLM", full), [none; 4]);

    let granite = |kind: Value| {
        let more = json!({"position_embedding_type": kind, "num_local_experts": 0,
            "layer_types": ["attention", "full_attention", "attention", "attention"]});
        ropes("GraniteMoeHybridForCausalLM", more)
    };
    assert_eq!(granite(json!("rope")), [some; 4]);
    assert_eq!((granite(json!("nope")), granite(json!(null))), (vec![none; 4], vec![none; 4]));
}

/// Its windowed layers rotate unscaled, whichever version of transformers wrote the file.
#[test]
fn olmo3_scales_the_rope_of_full_layers_alone() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let mut of_each = yarn.clone();
    of_each["rope_theta"] = json!(81.0);
    let plain = json!({"rope_type": "default", "rope_theta": 81.0});
    for (key, value) in [
        ("rope_scaling", yarn),
        ("rope_parameters", json!({"full_attention": of_each, "sliding_attention": plain})),
    ] {
        let mut config = with(key, value);
        config["architectures"] = json!(["Olmo3ForCausalLM"]);
        config["rope_theta"] = json!(81.0);
        let options = SpecOptions { supported: ALL, ..Default::default() };
        let spec = spec_of(config, &options).unwrap();
        let last = |n: usize| spec.ropes[n].inv_freq[7];
        let base = 81f32.powf(-14.0 / 16.0);
        assert!((last(1) / base - 1.0).abs() < 1e-6 && spec.ropes[1].magnitude == 1.0);
        assert!((last(0) / base - 0.25).abs() < 1e-6 && spec.ropes[0].magnitude > 1.0);
        assert_eq!(spec.max_model_len, 256, "{key}");
    }
}

#[test]
fn gemma_stretches_and_caps() {
    let mut config = llama();
    config["architectures"] = json!(["Gemma2ForCausalLM"]);
    config["hidden_size"] = json!(2048);
    config["model_type"] = json!("gemma2");
    let with = |dtype| SpecOptions { dtype, supported: ALL, ..Default::default() };
    let spec = spec_of(config.clone(), &with("auto")).unwrap();
    // sqrt(2048) = 45.2548..., in bfloat16 45.25.
    assert_eq!((spec.embed_scale, spec.head_dim), (45.25, 256));
    assert_eq!((spec.attention[0].attn.softcap, spec.logit_softcap), (Some(50.0), Some(30.0)));
    assert_eq!(spec.attention[0].attn.scale, 1.0 / 16.0);
    config["attn_logit_softcapping"] = json!(null);
    let spec = spec_of(config.clone(), &with("float32")).unwrap();
    assert_eq!((spec.embed_scale, spec.attention[0].attn.softcap), (2048f32.sqrt(), None));
    let e = spec_of(config.clone(), &with("half")).unwrap_err();
    assert!(e.message().starts_with("The model type 'gemma2' does not support float16."), "{e}");
    config["torch_dtype"] = json!("float16");
    assert_eq!(spec_of(config, &with("auto")).unwrap().dtype, DType::F32);
}

/// An override as the user writes it, over a folder's config.json.
fn overridden(config: Value, overrides: Value) -> Result<ModelSpec> {
    let overrides = overrides.as_object().unwrap();
    let options =
        SpecOptions { supported: ALL, hf_overrides: Some(overrides), ..Default::default() };
    spec_of(config, &options)
}

#[test]
fn overrides_merge_deeply_and_go_before_the_text_model() {
    let linear = with("rope_scaling", json!({"type": "linear", "factor": 4.0}));
    let more = overridden(linear, json!({"rope_scaling": {"factor": 2.0}})).unwrap();
    assert_eq!(more.max_model_len, 1024, "the type stays");
    let text = with(
        "text_config",
        json!({"max_position_embeddings": 64, "vocab_size": 50,
        "architectures": ["X"]}),
    );
    let of = |overrides| overridden(text.clone(), overrides).unwrap();
    let spec = of(json!({}));
    assert_eq!((spec.max_model_len, spec.vocab_size), (64, 50));
    assert_eq!(of(json!({"vocab_size": 70})).vocab_size, 70);
    assert_eq!(of(json!({"text_config": {"vocab_size": 80}})).vocab_size, 80);
    let error = overridden(with("text_config", json!([1])), json!({})).unwrap_err();
    assert!(error.message().contains("config.json: 'text_config' must be an object"), "{error}");
}

#[test]
fn case_08_rope_scaling_as_text_has_its_effect() {
    let text = json!({"rope_scaling": "{\"type\":\"dynamic\",\"factor\":2.0}"});
    assert_eq!(overridden(llama(), text).unwrap().max_model_len, 1024);
    let broken = overridden(llama(), json!({"rope_scaling": "{\"type\""})).unwrap_err();
    let said = "model.json: 'hf_overrides.rope_scaling' must be an object, got ";
    assert!(broken.message().starts_with(said), "{broken}");
}

/// Whichever way the checkpoint spells its rope, what the user writes wins.
#[test]
fn case_08_rope_overrides_reach_both_spellings() {
    let old = with("rope_theta", json!(100.0));
    let new = with("rope_parameters", json!({"rope_type": "default", "rope_theta": 100.0}));
    let mut layers = with(
        "rope_parameters",
        json!({
        "full_attention": {"rope_type": "default", "rope_theta": 100.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 9.0}}),
    );
    layers["architectures"] = json!(["Gemma3ForCausalLM"]);
    for config in [old, new, layers] {
        let spec = overridden(config.clone(), json!({"rope_theta": 64.0, "head_dim": 4})).unwrap();
        assert_eq!(spec.ropes[0].inv_freq, [1.0, 0.125], "{config}");
        let scaled = json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "head_dim": 4});
        assert_eq!(overridden(config, scaled).unwrap().ropes[0].inv_freq, [0.5, 0.05]);
    }
    let broken = overridden(with("rope_parameters", json!({})), json!({"rope_scaling": 3}));
    assert!(broken
        .unwrap_err()
        .message()
        .contains("'hf_overrides.rope_scaling' must be an object"));
}

#[test]
fn keys_of_parts_count_as_the_wholes() {
    let config = json!({
        "architectures": ["DbrxForCausalLM"], "model_type": "dbrx", "d_model": 32, "n_layers": 2,
        "n_heads": 4, "max_seq_len": 128, "vocab_size": 97,
        "attn_config": {"model_type": "", "kv_n_heads": 2, "clip_qkv": 1.5, "rope_theta": 500.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 5, "moe_top_k": 2},
    });
    let spec = overridden(config.clone(), json!({})).unwrap();
    assert_eq!((spec.kv_heads, spec.clip_qkv, spec.max_model_len), (2, Some(1.5), 128));
    let mixture = spec.mixture.as_ref().unwrap();
    assert_eq!((mixture.ffn, mixture.routing.experts, mixture.routing.top_k), (16, 5, 2));
    let unlimited = json!({"attn_config": {"clip_qkv": null}});
    assert_eq!(overridden(config.clone(), unlimited).unwrap().clip_qkv, None);

    let said =
        |config: Value, overrides| overridden(config, overrides).unwrap_err().message().to_string();
    let text = said(config.clone(), json!({"attn_config": {"kv_n_heads": "x"}}));
    assert!(text.contains("'hf_overrides.attn_config.kv_n_heads' must be an integer"), "{text}");
    let mut many = config;
    many["ffn_config"]["moe_top_k"] = json!(9);
    let text = said(many, json!({}));
    assert!(text.contains("config.json: 'ffn_config.moe_top_k' is 9, more than the 5"), "{text}");
}

#[test]
fn overrides_that_nobody_reads_are_known() {
    let overrides = json!({"rope_scalling": {}, "vocab_size": 9, "text_config": {"x": 1},
        "ffn_config": {"vocab_size": 9, "y": 1},
        "rope_scaling": {"type": "linear", "factor": 2.0, "beta": 1}});
    let options =
        SpecOptions { supported: ALL, hf_overrides: overrides.as_object(), ..Default::default() };
    let config = llama();
    let source = Source::of("c".into(), config.as_object().unwrap().clone(), &options).unwrap();
    let keys_read = KeysRead::default();
    let object = source.config(&keys_read);
    let family = family_of(&object).unwrap();
    let defaults = serde_json::from_str(family.defaults).unwrap();
    ModelSpec::build(&object.with(&[], &defaults), None, family, None, &options).unwrap();
    assert_eq!(
        source.unread(&keys_read),
        ["rope_scalling", "text_config.x", "ffn_config.y", "rope_scaling.beta"]
    );
}
