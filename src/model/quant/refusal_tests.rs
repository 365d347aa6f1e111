//! What is refused and in which words: methods, values of their keys, and arguments that contradict
//! a checkpoint. The exact texts are those of vLLM 0.33.

use serde_json::{json, Value};

use super::tests::{args, ask, but, compressed, of, said, Linear, PREFIXES};
use super::*;
use crate::device::ScaleOver;
use crate::json::Object;

const AT: &str = "config.json: 'quantization_config";

/// The one line that a configuration gets.
fn refused(quant: Value) -> String {
    let line = of(quant.clone()).map(|_| quant).unwrap_err().to_string();
    assert!(!line.contains('\n') && line.chars().count() < 800, "{line}");
    line
}

fn gptq() -> Value {
    json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true, "desc_act": false})
}

fn awq() -> Value {
    json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true})
}

fn fp8() -> Value {
    json!({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]})
}

fn auto_round() -> Value {
    json!({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": true})
}

fn modelopt() -> Value {
    json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": []})
}

fn bitsandbytes() -> Value {
    json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"})
}

fn w4a16() -> Value {
    let weights = but(args("int", 4, "group", false), json!({"group_size": 128}));
    compressed("pack-quantized", weights, Value::Null)
}

/// Texts that users of vLLM know, with the place in front.
#[test]
fn values_that_vllm_refuses_too() {
    let marlin = "weights are packed for one kernel; convert the checkpoint to";
    let group = json!({"group_size": 16});

    for (quant, key, text) in [
        (
            but(gptq(), json!({"bits": 5, "sym": false})),
            ".bits",
            "Unsupported quantization config: bits=5, sym=False",
        ),
        (
            but(gptq(), json!({"checkpoint_format": "marlin"})),
            ".checkpoint_format",
            &format!("'marlin' {marlin} gptq."),
        ),
        (
            but(gptq(), json!({"is_marlin_format": true})),
            ".is_marlin_format",
            &format!("'marlin' {marlin} gptq."),
        ),
        (
            json!({"quant_method": "marlin", "group_size": 128}),
            ".quant_method",
            &format!("'marlin' {marlin} gptq."),
        ),
        (but(awq(), json!({"version": "gemv"})), ".version", &format!("'gemv' {marlin} gemm.")),
        (but(awq(), json!({"bits": 8})), ".bits", "Unsupported num_bits = 8. Supported: 4."),
        (
            but(fp8(), json!({"activation_scheme": "token"})),
            ".activation_scheme",
            "Unsupported activation scheme token",
        ),
        (
            but(fp8(), json!({"activation_scheme": "static"})),
            ".activation_scheme",
            "The block-wise quantization only supports dynamic activation scheme for now, but got \
             static activation scheme.",
        ),
        (
            but(bitsandbytes(), json!({"load_in_8bit": true})),
            ".load_in_8bit",
            "LLM.int8 is not supported; use load_in_4bit or an fp8 checkpoint.",
        ),
        (
            json!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "INT4_AWQ"}}),
            ".quantization.quant_algo",
            "Unknown ModelOpt quant algo: INT4_AWQ",
        ),
        (
            but(but(modelopt(), json!({"quant_algo": "W4A8_AWQ"})), group),
            ".quant_algo",
            "ModelOpt currently only supports: ['FP8', 'FP8_PER_CHANNEL_PER_TOKEN', 'FP8_PB_WO', \
             'NVFP4', 'W4A16_NVFP4', 'MXFP8', 'MIXED_PRECISION'] quantizations in vLLM. Please \
             check the `hf_quant_config.json` file for your model's quant configuration.",
        ),
        (
            but(
                w4a16(),
                json!({"sparsity_config": {"format": "sparse-24-bitmask",
                "targets": ["Linear"]}}),
            ),
            ".sparsity_config",
            "Sparsity support has been removed from compressed-tensors. Please use a model \
             without sparsity configuration.",
        ),
        (
            but(w4a16(), json!({"kv_cache_scheme": {"num_bits": 4, "type": "int"}})),
            ".kv_cache_scheme",
            "Currently supported kv cache quantization is num_bits=8, type=float, however \
             received num_bits=4, type=int",
        ),
        (
            but(w4a16(), json!({"transform_config": {"config_groups": {"R1": {}}}})),
            ".transform_config",
            "transforms are not supported; use a checkpoint that was made without them.",
        ),
    ] {
        assert_eq!(refused(quant), format!("{AT}{key}': {text}"));
    }
}

#[test]
fn methods_that_are_not_read() {
    for name in ["quark", "torchao", "humming", "deepseek_v4_fp8", "mxfp4"] {
        let line = refused(json!({"quant_method": name}));
        let text = format!("quantization '{name}' is not supported. Supported: fp8_per_tensor, ");
        let start = format!("{AT}.quant_method': {text}");
        assert!(line.starts_with(&start), "{line}");
    }
    for name in ["fbgemm_fp8", "fp_quant"] {
        let text = format!(
            "{AT}.quant_method': The quantization method {name} is deprecated and will be removed \
             in future versions of vLLM. To bypass, set `--allow-deprecated-quantization`."
        );
        assert!(refused(json!({"quant_method": name})).starts_with(&text));
    }
    let line = refused(json!({"quant_method": "hqq\n"}));
    let start =
        format!("{AT}.quant_method': Unknown quantization method: hqq\\n. Must be one of ['");
    assert!(line.starts_with(&start), "{line}");
    for none in [json!({}), json!({"bits": 4}), json!({"quant_method": ""})] {
        let line = refused(none);
        let start = format!("{AT}': 'quant_method' is missing; it must be one of fp8, ");
        assert!(line.starts_with(&start), "{line}");
    }
}

/// Each key of each method with values that are none: the line names the key.
#[test]
fn attack_13_keys_of_methods_are_judged() {
    const NO_LIST: &str = r#"["x", 3, [1], {"a": 1}]"#;
    const NO_FLAG: &str = r#"["true", 1, []]"#;
    const NO_BITS: &str = r#"["4", 0, -1, 4.5, 33, null, true]"#;
    const NO_GROUP: &str = r#"["128", 0, -2, 4.5, 99999999, null, true]"#;
    const NO_TEXT: &str = "[1, true, [], {}]";

    let mut tried = 0;
    for (base, keys, values) in [
        (gptq(), &["bits"][..], NO_BITS),
        (gptq(), &["group_size"], NO_GROUP),
        (gptq(), &["sym", "desc_act"], r#"["true", 1, [], null]"#),
        (gptq(), &["lm_head", "is_marlin_format"], NO_FLAG),
        (gptq(), &["checkpoint_format", "format"], NO_TEXT),
        (gptq(), &["modules_in_block_to_quantize"], r#"["x", [1], [["a", 2]], {}]"#),
        (gptq(), &["dynamic"], r#"["x", [], {"+:(": {}}, {"+:a": 3}, {"a": {"bits": "x"}}]"#),
        (awq(), &["bits"], NO_BITS),
        (awq(), &["group_size"], NO_GROUP),
        (awq(), &["modules_to_not_convert"], NO_LIST),
        (awq(), &["lm_head"], NO_FLAG),
        (awq(), &["zero_point"], r#"["true", 1, [], null]"#),
        (fp8(), &["activation_scheme"], r#"["", 1, null, []]"#),
        (fp8(), &["weight_block_size"], r#"[[64, 128], [128], 128, "x", [1, 2, 3], [128, 0]]"#),
        (fp8(), &["ignored_layers", "modules_to_not_convert"], NO_LIST),
        (fp8(), &["fmt"], r#"["e5m2", 3]"#),
        (fp8(), &["store_dtype"], r#"["mxfp4"]"#),
        (auto_round(), &["bits"], r#"["4", 0, null, 5]"#),
        (auto_round(), &["group_size"], r#"[[128, 128], "x", null]"#),
        (auto_round(), &["packing_format"], r#"["marlin", 3]"#),
        (auto_round(), &["extra_config"], r#"["x", {"a": 3}, {"(": {}}, {"a": {"bits": "4"}}]"#),
        (auto_round(), &["block_name_to_quantize"], r#"[3, [3], {}]"#),
        (modelopt(), &["quant_algo"], r#"[null, 3]"#),
        (modelopt(), &["group_size"], r#"[32, "16", -1]"#),
        (modelopt(), &["ignore"], NO_LIST),
        (bitsandbytes(), &["load_in_4bit"], r#"[false, "yes", null]"#),
        (bitsandbytes(), &["bnb_4bit_quant_type"], r#"["fp4", 3]"#),
        (bitsandbytes(), &["bnb_4bit_quant_storage"], r#"["bfloat16"]"#),
        (bitsandbytes(), &["llm_int8_skip_modules"], NO_LIST),
        (w4a16(), &["ignore"], r#"["x", [1], {}, ["re:("]]"#),
        (w4a16(), &["config_groups"], r#"[null, [], {"g": 3}, {"g": {"targets": ["Linear"]}}]"#),
        (w4a16(), &["format"], "[null, 3]"),
        (w4a16(), &["kv_cache_scheme"], r#"["FP8", {"num_bits": 8, "type": "float"}]"#),
    ] {
        let values: Vec<Value> = serde_json::from_str(values).unwrap();
        for (key, value) in keys.iter().flat_map(|key| values.iter().map(move |v| (*key, v))) {
            let line = refused(but(base.clone(), json!({key: value})));
            assert!(line.starts_with(AT) && line.contains(key), "{key}: {value}: {line}");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn attack_13_arguments_of_compressed_tensors_are_judged() {
    let group = || but(args("int", 4, "group", false), json!({"group_size": 128}));
    for (key, values) in [
        ("num_bits", r#"["4", 0, 64]"#),
        ("type", r#"["bfloat", 3]"#),
        ("strategy", r#"["row", 3]"#),
        ("group_size", r#"[0, -1, "x", null]"#),
        ("dynamic", r#"["yes", 3]"#),
        ("symmetric", "[1]"),
        ("actorder", r#"["x", 3]"#),
    ] {
        for value in serde_json::from_str::<Vec<Value>>(values).unwrap() {
            let weights = but(group(), json!({key: value}));
            let line = refused(compressed("pack-quantized", weights, Value::Null));
            let start = format!("{AT}.config_groups.group_0.weights.{key}' must be ");
            assert!(line.starts_with(&start), "{key}: {value}: {line}");
        }
    }
    let block = but(args("float", 8, "block", false), json!({"block_structure": [64, 64]}));
    let line = refused(compressed("float-quantized", block, Value::Null));
    assert!(line.contains(".weights.block_structure' must be [128, 128], got [64,64]"), "{line}");
}

/// What no product has is refused where a layer has it, and not before.
#[test]
fn schemes_of_compressed_tensors_that_do_not_exist() {
    let ints = args("int", 8, "channel", false);
    let rows = args("int", 8, "token", true);
    let fours = but(args("int", 4, "group", false), json!({"group_size": 128}));
    let nvfp4 = but(args("float", 4, "tensor_group", false), json!({"group_size": 16}));
    let output = {
        let mut quant = compressed("int-quantized", ints.clone(), rows.clone());
        quant["config_groups"]["group_0"]["output_activations"] = args("int", 8, "tensor", false);
        quant
    };

    for quant in [
        output,
        compressed("int-quantized", ints.clone(), Value::Null),
        compressed("dense", ints.clone(), rows.clone()),
        compressed("int-quantized", but(ints.clone(), json!({"symmetric": false})), rows.clone()),
        compressed("int-quantized", ints, args("int", 4, "token", true)),
        compressed("pack-quantized", fours.clone(), rows.clone()),
        compressed("pack-quantized", but(fours, json!({"num_bits": 9})), Value::Null),
        compressed("nvfp4-pack-quantized", nvfp4, rows),
        compressed("float-quantized", args("float", 8, "token", true), Value::Null),
    ] {
        let scheme = of(quant).unwrap();
        let said = ask(&scheme, Linear, &["model.layers.0.mlp.up_proj"]).unwrap_err();
        let start = format!(
            "{AT}': No compressed-tensors compatible scheme was found for \
             layer_name='model.layers.0.mlp.up_proj', weight_quant=QuantizationArgs(num_bits="
        );
        assert!(said.message().starts_with(&start), "{said}");
        assert!(said.message().contains(", output_quant="), "{said}");
        assert_eq!(ask(&scheme, LayerKind::Head, &["lm_head"]), Ok(None));
    }
    let marlin = of(compressed("marlin-24", args("int", 4, "channel", false), Value::Null));
    let said = ask(&marlin.unwrap(), Linear, &["x"]).unwrap_err();
    assert!(said.message().contains("'marlin-24' weights are packed for one kernel"), "{said}");
}

#[test]
fn parts_of_a_weight_have_one_format() {
    let mut quant = w4a16();
    quant["ignore"] = json!(["model.layers.0.mlp.up_proj"]);
    let parts = ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"];
    let said = ask(&of(quant).unwrap(), Linear, &parts).unwrap_err();
    let text = "Found different quantization schemes for the shards of \
                model.layers.0.mlp.gate_up_proj. vLLM requires all to use the same scheme.";
    assert_eq!(said.message(), format!("{AT}': {text}"));

    let experts = ["model.layers.0.mlp.experts.0.w1", "model.layers.0.mlp.experts.1.w1"];
    let awq = but(awq(), json!({"modules_to_not_convert": ["experts.1."]}));
    let said = ask(&of(awq).unwrap(), LayerKind::Experts, &experts).unwrap_err();
    let text = "Detected some but not all shards of model.layers.0.mlp.experts are quantized.";
    assert!(said.message().contains(text), "{said}");
}

/// A file of a stranger costs bounded time.
#[test]
fn lists_and_patterns_are_bounded() {
    let many =
        |n: usize, start: &str| -> Vec<String> { (0..n).map(|i| format!("{start}{i}")).collect() };
    let line = refused(but(awq(), json!({"modules_to_not_convert": many(4097, "x")})));
    assert_eq!(line, format!("{AT}.modules_to_not_convert' has 4097 entries, at most 4096."));
    let line = refused(but(w4a16(), json!({"ignore": many(257, "re:x")})));
    assert!(line.starts_with(&format!("{AT}.ignore' has more than 256 regular expressions")));
    let names = of(but(w4a16(), json!({"ignore": many(100_000, "model.layers.")}))).unwrap();
    assert_eq!(ask(&names, Linear, &["model.layers.99999"]), Ok(None), "names are looked up");

    let slow = of(but(w4a16(), json!({"ignore": [r"re:(?=(a+)+$)\1b"]}))).unwrap();
    let name = "a".repeat(99);
    let said = ask(&slow, Linear, &[&name]).unwrap_err();
    assert!(said.message().starts_with(&format!("{AT}': the regular expression '")), "{said}");
}

/// What the user says, what the checkpoint says, and whose word counts.
#[test]
fn an_argument_agrees_or_is_refused() {
    let scheme = |quant: &Value, argument: &str| {
        said(&json!({"quantization_config": quant}), argument).map(|scheme| scheme.unwrap().method)
    };
    let oss = json!({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}});
    assert_eq!(said(&oss, "fp8").unwrap().unwrap().method, "gpt_oss_mxfp4");
    for argument in ["", "gptq", "gptq_marlin", "auto_gptq", "marlin"] {
        assert_eq!(scheme(&gptq(), argument), Ok("auto_gptq"));
    }
    for argument in ["", "awq", "awq_marlin", "auto_awq", "marlin"] {
        assert_eq!(scheme(&awq(), argument), Ok("auto_awq"));
    }
    for argument in ["", "awq", "fp8", "inc"] {
        assert_eq!(scheme(&auto_round(), argument), Ok("inc"), "the checkpoint wins");
        assert_eq!(scheme(&modelopt(), argument), Ok("modelopt_fp4"), "the checkpoint wins");
    }
    assert_eq!(scheme(&fp8(), "fp8"), Ok("fp8"));

    for (quant, own, argument) in [
        (gptq(), "gptq", "awq"),
        (awq(), "awq", "gptq"),
        (fp8(), "fp8", "fp8_per_tensor"),
        (w4a16(), "compressed-tensors", "fp8"),
        (w4a16(), "compressed-tensors", "nonsense"),
        (json!({"quant_method": "quark"}), "quark", "awq"),
    ] {
        let said = scheme(&quant, argument).unwrap_err();
        let text = format!(
            "model.json: 'quantization': Quantization method specified in the model config ({own}) \
             does not match the quantization method specified in the `quantization` argument \
             ({argument})."
        );
        assert_eq!(said.message(), text);
    }
    let said = scheme(&awq(), "moe_wna16").unwrap_err();
    assert!(said.message().contains("quantization 'moe_wna16' is not supported. Supported: "));
}

/// A checkpoint that says nothing.
#[test]
fn an_argument_alone_quantises_or_is_refused() {
    let plain = json!({"quantization_config": null});
    assert!(said(&plain, "").unwrap().is_none());
    for (argument, over, inputs) in [
        ("fp8", ScaleOver::Matrix, Inputs::E4m3Row),
        ("fp8_per_tensor", ScaleOver::Matrix, Inputs::E4m3Row),
        ("fp8_per_channel", ScaleOver::Row, Inputs::E4m3Row),
        ("fp8_per_block", ScaleOver::Block, Inputs::E4m3Block),
    ] {
        let scheme = said(&plain, argument).unwrap().unwrap();
        assert_eq!((scheme.method, scheme.online, scheme.kv), ("online", true, Default::default()));
        let format = ask(&scheme, Linear, &["model.layers.0.mlp.gate"]).unwrap();
        assert_eq!(format, Some(Format::Online { over, inputs }), "routers too");
        assert_eq!(ask(&scheme, LayerKind::Head, &["lm_head"]), Ok(None));
    }

    for (argument, text) in [
        ("gptq", "Cannot find the config file for gptq"),
        ("compressed-tensors", "Cannot find the config file for compressed-tensors"),
        ("modelopt", "Cannot find the config file for modelopt"),
        ("marlin", "Unknown quantization method: marlin. Must be one of ['fp8_per_tensor', "),
        ("gguf", "Unknown quantization method: gguf. Must be one of ['fp8_per_tensor', "),
        ("experts_int8", "quantization 'experts_int8' is not supported. Supported: "),
        ("mxfp8", "quantization 'mxfp8' is not supported. Supported: "),
        ("online", "quantization 'online' is not supported. Supported: "),
        ("fp_quant", "The quantization method fp_quant is deprecated and will be removed in "),
    ] {
        let said = said(&plain, argument).unwrap_err();
        let start = format!("model.json: 'quantization': {text}");
        assert!(said.message().starts_with(&start), "{said}");
    }
}

#[test]
fn files_beside_config_json_count_when_it_is_silent() {
    let folder = std::env::temp_dir().join(format!("triton_vllm_quant_{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, value: &Value| {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    };
    let scheme = |config: &Value, argument: &str, nested: bool| {
        let map = config.as_object().unwrap();
        let (folder, prefixes) = (Some(folder.as_path()), PREFIXES);
        let said = Said { argument, file: "model.json", folder, nested, prefixes };
        super::scheme(&Object::new("config.json", map), said)
    };
    let method = |config: &Value, argument: &str, nested: bool| {
        scheme(config, argument, nested).map(|scheme| scheme.map(|scheme| scheme.method))
    };
    let plain = json!({});

    let mut file = gptq();
    file.as_object_mut().unwrap().remove("quant_method");
    write("quantize_config.json", &file);
    assert_eq!(method(&plain, "", false), Ok(None), "only if it is asked for");
    assert_eq!(method(&plain, "gptq_marlin", false), Ok(Some("auto_gptq")));
    let said = scheme(&plain, "awq", false).unwrap_err();
    assert!(
        said.message().ends_with(
            "quantize_config.json: 'zero_point' is missing; it must be \
        true or false."
        ),
        "{said}"
    );
    write("my_quant_config.json", &awq());
    let said = scheme(&plain, "awq", false).unwrap_err();
    assert!(said.message().contains("Found multiple config files for awq: ['"), "{said}");

    let hf = json!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8",
        "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}});
    write("hf_quant_config.json", &hf);
    assert_eq!(method(&plain, "", false), Ok(Some("modelopt")), "asked for or not");
    let own = json!({"quantization_config": awq()});
    assert_eq!(method(&own, "", false), Ok(Some("auto_awq")), "config.json goes before it");
    assert_eq!(method(&own, "", true), Ok(Some("modelopt")), "but not its text model");
    let old = json!({"compression_config": w4a16()});
    assert_eq!(method(&old, "", false), Ok(Some("modelopt")));

    let mixed = json!({"producer": {"name": "modelopt"}, "quantization": {
        "quant_algo": "MIXED_PRECISION", "quantized_layers": {"a.b": {"quant_algo": "FP8"}}}});
    write("hf_quant_config.json", &mixed);
    let own = json!({"quantization_config": {"quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION"}});
    assert_eq!(method(&own, "", false), Ok(Some("modelopt_mixed")), "layers out of the file");
    std::fs::write(folder.join("hf_quant_config.json"), "{").unwrap();
    let said = scheme(&plain, "", false).unwrap_err();
    assert!(said.message().contains("hf_quant_config.json: is not valid JSON"), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(method(&old, "", false), Ok(Some("compressed-tensors")));
}
