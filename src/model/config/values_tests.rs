//! Values of config.json: which are refused and in which words, which are taken, and what absent
//! keys are.

use serde_json::json;

use super::tests::{llama, spec_of, with, ALL};
use super::*;
use crate::device::{Activation, KvType};
use crate::ids::TokenId;
use crate::model::architectures::FAMILIES;

/// Attack 13: each key that is read, with values that are none. Every message names file, key and
/// value, is one short line, and says what was expected.
#[test]
fn attack_13_a_value_of_the_wrong_type_is_refused() {
    let options = SpecOptions { supported: ALL, ..Default::default() };
    let mut tried = 0;
    for &(family, keys, values) in WRONG {
        let values: Vec<Value> = serde_json::from_str(values).unwrap();
        for (key, value) in keys.iter().flat_map(|key| values.iter().map(move |v| (*key, v))) {
            let mut config = llama();
            config["architectures"] = json!([family]);
            if family == GRANITE_HYBRID {
                config["num_local_experts"] = json!(0);
                config["layer_types"] = json!(["attention", "attention"]);
            }
            config[key] = value.clone();
            let said = match spec_of(config, &options) {
                Ok(_) => panic!("{family}: {key}: {value} loads"),
                Err(e) => e.to_string(),
            };
            let named = said.contains("config.json: '") && said.contains(key);
            assert!(named, "{family}: {key}: {value}: {said}");
            assert!(said.chars().count() < 800 && !said.contains('\n'), "{said}");
            tried += 1;
        }
    }
    assert!(tried > 300, "{tried}");
}

/// Values that are no size, no number, no flag, no text.
const NO_SIZE: &str = r#"["64", 0, -1, 64.5, 64.0, true, [64], {}, 99999999999999999999, "NaN"]"#;
const NO_SIZE_BUT_0: &str = r#"["64", -1, 64.5, 64.0, true, [64], {}, 99999999999999999999]"#;
const NO_NUMBER: &str = r#"["x", "500000", -1e-5, 0, true, [1], {}, "NaN", 1e300]"#;
const NO_LENGTH: &str = r#"["512", -1, 0, 0.5, true, [1], {}, "Infinity"]"#;
const NO_FLAG: &str = r#"["true", "false", "no", 0, 1, [], null]"#;
const NO_TEXT: &str = r#"[1, true, ["x"], {"a": 1}, "mish\nx"]"#;
const NULL: &str = "[null]";
const LLAMA: &str = "LlamaForCausalLM";
const QWEN_MOE: &str = "Qwen3MoeForCausalLM";
const GEMMA2: &str = "Gemma2ForCausalLM";
const ERNIE_MOE: &str = "Ernie4_5_MoeForCausalLM";
const DEEPSEEK: &str = "DeepseekV3ForCausalLM";
const SMOLLM3: &str = "SmolLM3ForCausalLM";
const GRANITE_HYBRID: &str = "GraniteMoeHybridForCausalLM";
const NEMOTRON_H: &str = "NemotronHForCausalLM";
const HUNYUAN_MOE: &str = "HunYuanMoEV1ForCausalLM";

const WRONG: &[(&str, &[&str], &str)] = &[
    (LLAMA, &["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"], NO_SIZE),
    (LLAMA, &["num_key_value_heads", "intermediate_size", "head_dim"], NO_SIZE),
    (LLAMA, &["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"], NULL),
    (LLAMA, &["intermediate_size", "rms_norm_eps", "rope_theta", "hidden_act"], NULL),
    (LLAMA, &["rms_norm_eps", "rope_theta"], NO_NUMBER),
    (LLAMA, &["rms_norm_eps"], "[2]"),
    (LLAMA, &["max_position_embeddings", "max_seq_len", "seq_length"], NO_LENGTH),
    (LLAMA, &["model_max_length", "n_positions", "max_sequence_length"], NO_LENGTH),
    (LLAMA, &["attention_bias", "mlp_bias", "tie_word_embeddings"], NO_FLAG),
    (LLAMA, &["hidden_act", "torch_dtype", "dtype"], NO_TEXT),
    (LLAMA, &["rope_scaling", "rope_parameters"], r#"["x", 1, []]"#),
    (LLAMA, &["eos_token_id"], r#"["2", -1, 2.0, [1, "x"], {}, true, [null], 4294967296]"#),
    (LLAMA, &["is_causal", "use_bidirectional_attention"], r#"["false", 7, []]"#),
    (LLAMA, &["architectures"], r#"["LlamaForCausalLM", [1], {}, [], 3]"#),
    (LLAMA, &["quantization_config"], r#"["awq", {"quant_method": 4}, 1, true]"#),
    ("Qwen3ForCausalLM", &["use_sliding_window"], NO_FLAG),
    (QWEN_MOE, &["num_experts", "num_experts_per_tok"], NO_SIZE),
    (QWEN_MOE, &["moe_intermediate_size", "decoder_sparse_step"], NO_SIZE),
    (QWEN_MOE, &["norm_topk_prob"], NO_FLAG),
    (QWEN_MOE, &["mlp_only_layers"], r#"["0", [-1], ["0"], [2], {}, 1]"#),
    (GEMMA2, &["query_pre_attn_scalar"], NO_NUMBER),
    (GEMMA2, &["attn_logit_softcapping", "final_logit_softcapping"], NO_NUMBER),
    (GEMMA2, &["sliding_window"], NO_SIZE_BUT_0),
    (GEMMA2, &["sliding_window_pattern"], NO_SIZE),
    (GEMMA2, &["layer_types"], r#"["full_attention", [1, 2], {}, ["full_attention"], []]"#),
    ("Gemma3ForCausalLM", &["rope_local_base_freq"], NO_NUMBER),
    ("GraniteForCausalLM", &["embedding_multiplier", "residual_multiplier"], NO_NUMBER),
    ("GraniteForCausalLM", &["logits_scaling", "attention_multiplier"], NO_NUMBER),
    ("GPTNeoXForCausalLM", &["rotary_pct", "rotary_emb_base", "layer_norm_eps"], NO_NUMBER),
    ("GPTNeoXForCausalLM", &["use_parallel_residual", "attention_bias"], NO_FLAG),
    ("OPTForCausalLM", &["do_layer_norm_before", "enable_bias"], NO_FLAG),
    ("OPTForCausalLM", &["ffn_dim", "word_embed_proj_dim"], NO_SIZE),
    ("GPT2LMHeadModel", &["n_inner", "n_embd", "n_layer", "n_head"], NO_SIZE),
    (SMOLLM3, &["no_rope_layers"], r#"["1", [1], [1, 2], [1, true], [1, 1, 1], {}, 1]"#),
    (SMOLLM3, &["no_rope_layer_interval"], NO_SIZE),
    ("SeedOssForCausalLM", &["attention_out_bias"], NO_FLAG),
    ("GlmForCausalLM", &["partial_rotary_factor"], NO_NUMBER),
    ("GlmForCausalLM", &["partial_rotary_factor"], "[0.06, 0.2, 1.5]"),
    ("Ernie4_5ForCausalLM", &["use_bias"], "[true]"),
    ("Starcoder2ForCausalLM", &["use_bias"], NO_FLAG),
    ("Starcoder2ForCausalLM", &["norm_epsilon"], NO_NUMBER),
    (GRANITE_HYBRID, &["num_local_experts"], r#"[-1, "0", 0.5]"#),
    (GRANITE_HYBRID, &["layer_types"], r#"[null, ["attention", "conv"], ["attention"], "x"]"#),
    ("BambaForCausalLM", &["attn_layer_indices"], r#"[null, [5], ["x"], 1]"#),
    (NEMOTRON_H, &["hybrid_override_pattern"], r#"["MX", "MM", 3, ["M", "*"]]"#),
    (NEMOTRON_H, &["layers_block_type"], r#"[["mamba", "conv"], ["mamba", 1], "M*"]"#),
    ("FalconH1ForCausalLM", &["mlp_multipliers"], r#"[[1.0], [1.0, -1.0], [1.0, "1"], 1.0]"#),
    ("FalconH1ForCausalLM", &["ssm_in_multiplier", "key_multiplier"], NO_NUMBER),
    ("HunYuanDenseV1ForCausalLM", &["use_qk_norm"], "[false, 1]"),
    ("CohereForCausalLM", &["logit_scale", "layer_norm_eps"], NO_NUMBER),
    ("CohereForCausalLM", &["attention_bias"], "[true]"),
    ("CohereForCausalLM", &["use_qk_norm"], NO_FLAG),
    ("StableLmForCausalLM", &["qk_layernorm"], NO_FLAG),
    ("CohereForCausalLM", &["rms_norm_eps"], "[1e-5, true]"),
    ("Cohere2ForCausalLM", &["sliding_window_pattern"], NO_SIZE),
    ("ArceeForCausalLM", &["hidden_act"], r#"["swiglu", null, 2]"#),
    ("NemotronForCausalLM", &["norm_eps", "partial_rotary_factor"], NO_NUMBER),
    ("OlmoForCausalLM", &["clip_qkv"], NO_NUMBER),
    ("MiniCPMForCausalLM", &["scale_emb", "scale_depth", "dim_model_base"], NO_NUMBER),
    ("MiniCPMForCausalLM", &["num_experts"], "[8, true]"),
    ("InternLM2ForCausalLM", &["bias"], "[true]"),
    ("ExaoneForCausalLM", &["layer_norm_epsilon"], NO_NUMBER),
    ("GPTBigCodeForCausalLM", &["scale_attn_weights"], "[false]"),
    (HUNYUAN_MOE, &["num_experts", "moe_topk"], r#"[[1], [1, 2], [0, 0], "1", [true, true], {}]"#),
    (HUNYUAN_MOE, &["use_cla", "moe_layer_num_skipped", "use_mixed_mlp_moe"], "[2]"),
    ("GraniteSWAForCausalLM", &["layer_rope_theta"], r#"[[1.0], [1.0, -1.0], ["1", "2"], {}, 3]"#),
    ("JambaForCausalLM", &["attn_layer_offset"], r#"["1", -1, 8, 1.5, true]"#),
    ("JambaForCausalLM", &["attn_layer_period"], NO_SIZE),
    ("BloomForCausalLM", &["apply_residual_connection_post_layernorm"], "[true, 1]"),
    ("FalconForCausalLM", &["alibi"], "[1]"),
    ("GPTJForCausalLM", &["rotary_dim"], r#"[null, 0, 3, 1000000, -2, "64", 2.0, true]"#),
    (ERNIE_MOE, &["moe_num_experts", "moe_k", "moe_intermediate_size"], NO_SIZE),
    (ERNIE_MOE, &["moe_layer_start_index", "moe_layer_end_index"], r#"["0", -2, 2, 0.5, true]"#),
    (ERNIE_MOE, &["moe_layer_interval"], NO_SIZE),
    (ERNIE_MOE, &["moe_num_shared_experts"], r#"["0", -1, 1.5, true, null]"#),
    (DEEPSEEK, &["kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"], NO_SIZE),
    (DEEPSEEK, &["q_lora_rank"], r#"["64", 0, -1, 1.5, true, 99999999]"#),
    (DEEPSEEK, &["n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"], NO_SIZE),
    (DEEPSEEK, &["first_k_dense_replace"], r#"["1", -1, 1.5, true, null]"#),
    (DEEPSEEK, &["moe_layer_freq"], NO_SIZE),
    (DEEPSEEK, &["routed_scaling_factor"], NO_NUMBER),
    (DEEPSEEK, &["n_group"], r#"["8", 0, -1, 3, 65, 1.5]"#),
    (DEEPSEEK, &["topk_group"], r#"["4", 0, -1, 9, 1.5, null]"#),
    (DEEPSEEK, &["norm_topk_prob"], r#"[null, 1, "true"]"#),
    (DEEPSEEK, &["topk_method"], r#"["greedy", 1]"#),
    (DEEPSEEK, &["scoring_func"], r#"["softmax", 1]"#),
    (DEEPSEEK, &["mlp_layer_types"], r#"[["dense"], "dense", [1, 2]]"#),
    (DEEPSEEK, &["attention_bias"], "[true, 1]"),
    (DEEPSEEK, &["rope_interleave"], "[false]"),
    ("DeepseekV2ForCausalLM", &["topk_method"], r#"["noaux_tc"]"#),
    ("Glm4MoeForCausalLM", &["use_qk_norm"], r#"[null, 1, "true"]"#),
    ("OlmoeForCausalLM", &["clip_qkv", "norm_topk_prob"], "[true, 8.0]"),
    ("GraniteMoeForCausalLM", &["num_local_experts", "num_experts_per_tok"], NO_SIZE),
    ("GraniteMoeSharedForCausalLM", &["shared_intermediate_size"], r#"[-1, "0", 1.5, true]"#),
    ("BertModel", &["type_vocab_size"], NO_SIZE),
    ("BertModel", &["matryoshka_dimensions"], r#"[[], "x", [0], [1.5], 3]"#),
    ("BertModel", &["is_matryoshka"], r#"["true", 0, 1, []]"#),
];

/// The same inside of objects, named by their path.
#[test]
fn attack_13_numbers_of_a_rope_are_judged() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 256});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 64, "attention_factor": 1.0, "mscale": 1.0,
        "mscale_all_dim": 1.0});
    let options = SpecOptions { supported: ALL, ..Default::default() };
    for good in [llama3, yarn] {
        assert!(spec_of(with("rope_scaling", good.clone()), &options).is_ok());
        for key in good.as_object().unwrap().keys() {
            for value in [json!("8"), json!(-1), json!([8]), json!(true), json!("NaN")] {
                let mut scaling = good.clone();
                scaling[key] = value.clone();
                if key.starts_with("mscale") {
                    scaling["attention_factor"] = json!(null);
                }
                let said = spec_of(with("rope_scaling", scaling), &options).unwrap_err();
                let named = said.message().contains(&format!("config.json: 'rope_scaling.{key}'"));
                assert!(named, "{key}: {value}: {said}");
            }
        }
    }

    for (scaling, word) in [
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.5,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 256}),
            "at least low_freq_factor",
        ),
        (json!({"rope_type": "default", "llama_4_scaling_beta": 0.1}), "original_max_position"),
        (json!({"rope_type": "yarn", "factor": 4.0, "truncate": "no"}), "truncate"),
        (json!({"rope_type": "linear", "factor": 1e-44}), "no number"),
    ] {
        let said = spec_of(with("rope_scaling", scaling), &options).unwrap_err();
        assert!(said.message().contains(word), "{said}");
    }
}

/// Sizes that are each possible, and together no model.
#[test]
fn attack_13_absurd_sizes_are_refused_together() {
    let options = SpecOptions { supported: ALL, ..Default::default() };
    let of = |pairs: &[(&str, usize)]| {
        let mut config = llama();
        pairs.iter().for_each(|&(key, value)| config[key] = json!(value));
        spec_of(config, &options).map(|_| ()).unwrap_err().to_string()
    };
    let wide = of(&[("num_attention_heads", 1 << 20), ("head_dim", 1 << 20)]);
    assert!(wide.contains("'num_attention_heads' is 1048576 and head_dim 1048576"), "{wide}");
    let all = [
        ("hidden_size", 1 << 20),
        ("intermediate_size", 1 << 20),
        ("head_dim", 64),
        ("num_hidden_layers", 4000),
    ];
    assert!(of(&all).contains("parameters, at most 1e14"), "{}", of(&all));
    assert!(of(&[("num_hidden_layers", 5000)]).contains("an integer in 1..=4096"));
}

/// Numbers and spellings that published files have and transformers takes.
#[test]
fn what_transformers_takes_is_taken() {
    let options = SpecOptions { supported: ALL, ..Default::default() };
    let mut config = llama();
    let more = json!({"rms_norm_eps": 1, "rope_theta": 10000, "rope_scaling": null,
        "head_dim": null, "num_key_value_heads": null, "sliding_window": null,
        "attention_bias": false, "eos_token_id": [2, 3], "pad_token_id": -1, "use_cache": "yes",
        "model_max_length": 1e30, "dtype": null, "quantization_config": null,
        "text_config": null, "initializer_range": "x", "use_bidirectional_attention": null});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let spec = spec_of(config, &options).unwrap();
    assert_eq!((spec.kv_heads, spec.head_dim, spec.norm_eps), (4, 16, 1.0));
    let ids = with("eos_token_id", json!([2, 100, 7]));
    let ids = spec_of(ids, &options).unwrap().eos_token_ids;
    assert_eq!(ids, [TokenId(2), TokenId(7)], "100 is not in a vocabulary of 100");
    let none = json!({"architectures": ["MistralForCausalLM"], "sliding_window": 0});
    let zero = spec_of(none, &options).unwrap();
    assert_eq!(zero.attention[0].attn.window, None);
}

#[test]
fn case_16_other_names_of_rows() {
    let options = SpecOptions { supported: ALL, ..Default::default() };
    for (name, row) in [
        ("LLaMAForCausalLM", "LlamaForCausalLM"),
        ("XverseForCausalLM", "LlamaForCausalLM"),
        ("AquilaForCausalLM", "LlamaForCausalLM"),
        ("AquilaModel", "LlamaForCausalLM"),
        ("StableLMEpochForCausalLM", "StableLmForCausalLM"),
        ("Qwen2Model", "Qwen2ForCausalLM"),
        ("Gemma3TextModel", "Gemma3ForCausalLM"),
    ] {
        let spec = spec_of(with("architectures", json!([name])), &options).unwrap();
        assert_eq!(spec.family.architecture, row, "{name}");
        let headless = matches!(name, "Qwen2Model" | "Gemma3TextModel");
        assert_eq!(spec.pooling.is_some(), headless, "{name}");
    }

    let mut stable = with("architectures", json!(["StableLMEpochForCausalLM"]));
    (stable["norm_eps"], stable["rope_pct"]) = (json!(0.125), json!(0.5));
    let spec = spec_of(stable.clone(), &options).unwrap();
    assert_eq!((spec.norm_eps, spec.ropes[0].rotary_dim), (0.125, 8));
    stable["norm_eps"] = json!("x");
    let said = spec_of(stable, &options).unwrap_err();
    assert!(said.message().contains("'norm_eps'"), "by the name in the file: {said}");
    let internlm =
        spec_of(with("architectures", json!(["InternLMForCausalLM"])), &options).unwrap();
    assert!(internlm.qkv_bias && internlm.out_bias && !internlm.mlp_bias);
}

/// A file that names its architecture alone is what transformers' class makes of it.
#[test]
fn case_17_absent_keys_are_as_in_transformers() {
    let text = include_str!("../../../tests/fixtures/config_defaults.json");
    let classes: Map<String, Value> = serde_json::from_str(text).unwrap();
    let mut seen = 0;
    for family in FAMILIES {
        let defaults: Map<String, Value> = serde_json::from_str(family.defaults).unwrap();
        let Some(class) = classes.get(family.architecture).and_then(Value::as_object) else {
            let own = [
                "InternLM",
                "InternVLChat",
                "MiniCPM",
                "ChatGLM",
                "Orion",
                "HyperCLOVAX",
                "Bailing",
                "DeciLM",
            ];
            let own = own.iter().any(|name| family.architecture.starts_with(name));
            assert!(own, "{}", family.architecture);
            continue;
        };
        seen += 1;
        let same = |key: &str| match (class.get(key), defaults.get(key)) {
            (Some(class), Some(ours)) => class == ours || class.as_f64() == ours.as_f64(),
            (None, ours) => ours.is_some_and(Value::is_null),
            (_, None) => false,
        };
        let mut keys = class.keys().chain(defaults.keys());
        let other = keys.find(|key| !same(key));
        assert_eq!(other, None, "{}", family.architecture);
        let options = SpecOptions { supported: ALL, ..Default::default() };
        let mut config = json!({"architectures": [family.architecture]});
        // By default these have no layer with attention.
        if family.architecture == GRANITE_HYBRID {
            config["num_local_experts"] = json!(0);
            config["layer_types"] = json!(vec!["attention"; 32]);
        }
        if family.architecture == "BambaForCausalLM" {
            config["attn_layer_indices"] = json!([9]);
        }
        // And these leave out how many experts there are, or how many a token meets.
        if ["DeepseekV2", "Dots1"].iter().any(|name| family.architecture.starts_with(name)) {
            config["num_experts_per_tok"] = json!(6);
            config["n_routed_experts"] = json!(64);
        }
        // Its heads do not divide its width.
        if family.architecture == "Glm4MoeForCausalLM" {
            config["head_dim"] = json!(128);
        }
        let spec = spec_of(config, &options).unwrap();
        assert_eq!(json!(spec.vocab_size), class["vocab_size"], "{}", family.architecture);
    }
    assert!(seen > 20);
}

#[test]
fn case_17_absent_keys_of_a_file() {
    let spec = |config| spec_of(config, &SpecOptions { supported: ALL, ..Default::default() });
    let mut bare = llama();
    bare.as_object_mut().unwrap().remove("hidden_act");
    bare.as_object_mut().unwrap().remove("num_key_value_heads");
    let spec_of_bare = spec(bare.clone()).unwrap();
    assert_eq!((spec_of_bare.activation, spec_of_bare.kv_heads), (Activation::SiluGated, 4));
    bare["architectures"] = json!(["MistralForCausalLM"]);
    bare["num_attention_heads"] = json!(8);
    let mistral = spec(bare).unwrap();
    assert_eq!((mistral.kv_heads, mistral.attention[0].attn.window), (8, Some(4096)));
}

/// In float16 they leave its range, and there are no pages of eight bits for them.
#[test]
fn latent_vectors_have_sixteen_bits_and_more() {
    let config = json!({"architectures": ["DeepseekV3ForCausalLM"], "num_hidden_layers": 2,
        "model_type": "kimi_k2"});
    let options = SpecOptions { supported: ALL, ..Default::default() };
    let spec = spec_of(config.clone(), &options).unwrap();
    assert!(spec.kv_shape(None).is_ok() && spec.kv_shape(Some(KvType::BF16)).is_ok());
    let said = spec.kv_shape(Some(KvType::E4m3)).unwrap_err().to_string();
    assert!(said.contains("kv_cache_dtype fp8") && said.contains("latent"), "{said}");

    let half = SpecOptions { dtype: "half", ..options };
    let said = spec_of(config, &half).unwrap_err().to_string();
    assert!(said.contains("'kimi_k2' does not support float16"), "{said}");
}

/// Rows of q and k are put in order as rows of matrices `[outputs, inputs]`.
#[test]
fn matrices_whose_rows_are_ordered_are_not_transposed() {
    let both = FAMILIES.iter().find(|family| family.interleaved && family.transposed);
    assert_eq!(both.map(|family| family.architecture), None);
    assert!(FAMILIES.iter().any(|family| family.interleaved));
}

#[test]
fn every_row_has_its_own_names() {
    let names = FAMILIES.iter().flat_map(|f| f.aliases.iter().chain([&f.architecture]));
    let mut names: Vec<&str> = names.copied().collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}
