//! Configurations as published checkpoints have them, and which format each of their layers has.

use serde_json::{json, Value};

use super::*;
use crate::device::ScaleOver;
use crate::error::Result;
use crate::json::Object;

pub(super) const PREFIXES: &[&str] =
    &["model.", "", "language_model.model.", "model.language_model."];
pub(super) use LayerKind::{Experts, Head, Linear};

/// What config.json and the argument make of a checkpoint.
pub(super) fn said(config: &Value, argument: &str) -> Result<Option<QuantScheme>> {
    let map = config.as_object().unwrap();
    let (file, folder, nested, prefixes) = ("model.json", None, false, PREFIXES);
    scheme(&Object::new("config.json", map), Said { argument, file, folder, nested, prefixes })
}

/// The same of a `quantization_config`.
pub(super) fn of(quant: Value) -> Result<QuantScheme> {
    said(&json!({"quantization_config": quant}), "").map(Option::unwrap)
}

pub(super) fn ask(scheme: &QuantScheme, kind: LayerKind, parts: &[&str]) -> Result<Option<Format>> {
    let parts: Vec<String> = parts.iter().map(|part| part.to_string()).collect();
    scheme.format_of(kind, &parts, &|_| false)
}

/// The format of one layer; a mistake fails the test.
fn one(scheme: &QuantScheme, name: &str) -> Option<Format> {
    let kind = match name {
        name if name.ends_with("lm_head") => Head,
        name if name.contains(".experts") => Experts,
        _ => Linear,
    };
    ask(scheme, kind, &[name]).unwrap()
}

fn e4m3(scale: &'static str, over: ScaleOver, inputs: Inputs) -> Option<Format> {
    Some(Format::Bytes { codes: ByteCodes::E4m3, scale, over, inputs })
}

fn packed(packing: Packing, bits: u32, group: Option<usize>, symmetric: bool) -> Option<Format> {
    Some(Format::Packed { packing, bits, group, symmetric, ordered: false })
}

const UP: &str = "model.layers.0.mlp.up_proj";
const QKV: [&str; 3] = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.k_proj",
    "model.layers.0.self_attn.v_proj",
];

/// Arguments of a tensor as llm-compressor writes them.
pub(super) fn args(kind: &str, bits: u32, strategy: &str, dynamic: bool) -> Value {
    json!({"actorder": null, "block_structure": null, "dynamic": dynamic, "group_size": null,
        "num_bits": bits, "observer": "minmax", "observer_kwargs": {}, "strategy": strategy,
        "symmetric": true, "type": kind})
}

/// The same with some keys changed.
pub(super) fn but(mut value: Value, more: Value) -> Value {
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value
}

/// One group for every linear but the head.
pub(super) fn compressed(format: &str, weights: Value, inputs: Value) -> Value {
    json!({"config_groups": {"group_0": {"input_activations": inputs, "output_activations": null,
        "targets": ["Linear"], "weights": weights}}, "format": format,
        "global_compression_ratio": 1.5, "ignore": ["lm_head"], "kv_cache_scheme": null,
        "quant_method": "compressed-tensors", "quantization_status": "compressed"})
}

#[test]
fn fp8_of_deepseek_and_qwen3() {
    let block = json!({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128]});
    let scheme = of(block.clone()).unwrap();
    let blocks = e4m3("weight_scale_inv", ScaleOver::Block, Inputs::E4m3Block);
    assert_eq!(ask(&scheme, Linear, &QKV).unwrap(), blocks);
    assert_eq!(one(&scheme, "model.layers.0.mlp.experts.7.up_proj"), blocks);
    assert_eq!(one(&scheme, "model.layers.0.mlp.gate"), blocks, "a router is a linear");
    assert_eq!(one(&scheme, "lm_head"), None);
    assert_eq!(scheme.kv, KvScheme { fp8: false, scales: true, no_e5m2: true });
    assert_eq!((scheme.method, scheme.online), ("fp8", false));

    let listed = json!({"modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate",
        "model.layers.1.mlp.experts.0.up_proj", "mtp.layers.2.mlp.experts.0.up_proj",
        "model.layers.3.self_attn.qkv_proj"], "ignored_layers": []});
    let scheme = of(but(block, listed)).unwrap();
    assert_eq!(one(&scheme, "model.layers.0.mlp.gate"), None);
    assert_eq!(one(&scheme, "model.layers.0.mlp.gate_proj"), blocks);
    assert_eq!(one(&scheme, "model.layers.1.mlp.experts.3.down_proj"), None, "all of them");
    assert_eq!(one(&scheme, "layers.1.mlp.experts.3.down_proj"), None);
    assert_eq!(one(&scheme, "model.layers.2.mlp.experts.3.down_proj"), blocks);
    assert_eq!(one(&scheme, "model.layers.11.mlp.experts.3.down_proj"), blocks);
    let fused = QKV.map(|name| name.replace('0', "3"));
    let fused = fused.each_ref().map(String::as_str);
    assert_eq!(ask(&scheme, Linear, &fused).unwrap(), None, "by the name of all three");
}

#[test]
fn fp8_with_a_scale_for_a_matrix() {
    let of = |scheme: &str| {
        of(json!({"activation_scheme": scheme, "quant_method": "FP8", "weight_block_size": null,
            "ignored_layers": ["model.layers.0.self_attn.o_proj"]}))
        .unwrap()
    };
    let scale = |inputs| e4m3("weight_scale", ScaleOver::Matrix, inputs);
    assert_eq!(one(&of("static"), UP), scale(Inputs::E4m3Tensor));
    assert_eq!(one(&of("dynamic"), UP), scale(Inputs::E4m3Row));
    for prefix in PREFIXES {
        let name = format!("{prefix}layers.0.self_attn.o_proj");
        assert_eq!(one(&of("static"), &name), None, "{name}");
    }
}

#[test]
fn compressed_tensors_in_eight_bits() {
    let matrix = |kind, strategy| args(kind, 8, strategy, false);
    let rows = |kind| args(kind, 8, "token", true);
    let block = but(matrix("float", "block"), json!({"block_structure": [128, 128]}));
    let group = but(args("float", 8, "group", true), json!({"group_size": 128}));
    let asymmetric = |value| but(value, json!({"symmetric": false}));
    let e4m3 = |over, inputs| e4m3("weight_scale", over, inputs);
    let int8 = |over, inputs| {
        let scale = "weight_scale";
        Some(Format::Bytes { codes: ByteCodes::Int8, scale, over, inputs })
    };
    let symmetric = true;

    for (format, weights, inputs, expected) in [
        (
            "float-quantized",
            matrix("float", "tensor"),
            matrix("float", "tensor"),
            e4m3(ScaleOver::Matrix, Inputs::E4m3Tensor),
        ),
        (
            "float-quantized",
            matrix("float", "channel"),
            rows("float"),
            e4m3(ScaleOver::Row, Inputs::E4m3Row),
        ),
        (
            "float-quantized",
            but(block.clone(), json!({"block_structure": "128x128"})),
            group,
            e4m3(ScaleOver::Block, Inputs::E4m3Block),
        ),
        ("naive-quantized", block, rows("float"), e4m3(ScaleOver::Block, Inputs::E4m3Block)),
        (
            "naive-quantized",
            matrix("float", "channel"),
            Value::Null,
            e4m3(ScaleOver::Row, Inputs::Plain),
        ),
        (
            "int-quantized",
            matrix("int", "channel"),
            rows("int"),
            int8(ScaleOver::Row, Inputs::Int8Row { symmetric }),
        ),
        (
            "int-quantized",
            matrix("int", "tensor"),
            asymmetric(rows("int")),
            int8(ScaleOver::Matrix, Inputs::Int8Row { symmetric: false }),
        ),
        (
            "int-quantized",
            matrix("int", "channel"),
            asymmetric(matrix("int", "tensor")),
            int8(ScaleOver::Row, Inputs::Int8Tensor { symmetric: false }),
        ),
    ] {
        let scheme = of(compressed(format, weights.clone(), inputs.clone())).unwrap();
        assert_eq!(one(&scheme, UP), expected, "{format} {weights} {inputs}");
        assert_eq!(one(&scheme, "lm_head"), None);
    }
}

#[test]
fn compressed_tensors_in_fewer_bits() {
    use Packing::CompressedTensors;
    let group = |bits| but(args("int", bits, "group", false), json!({"group_size": 128}));
    let fours = but(args("float", 4, "tensor_group", false), json!({"group_size": 16}));
    let local = but(
        args("float", 4, "tensor_group", true),
        json!({"group_size": 16,
        "dynamic": "local"}),
    );
    let bytes = |bits| {
        but(
            args("float", bits, "group", false),
            json!({"group_size": 32,
        "scale_dtype": "torch.uint8"}),
        )
    };
    let nvfp4 = Some(Format::Nvfp4 { modelopt: false });

    for (format, weights, inputs, expected) in [
        ("pack-quantized", group(4), Value::Null, packed(CompressedTensors, 4, Some(128), true)),
        (
            "pack-quantized",
            but(group(8), json!({"symmetric": false, "actorder": "weight"})),
            Value::Null,
            packed(CompressedTensors, 8, Some(128), false),
        ),
        (
            "pack-quantized",
            args("int", 3, "channel", false),
            Value::Null,
            packed(CompressedTensors, 3, None, true),
        ),
        (
            "pack-quantized",
            but(group(4), json!({"actorder": "group"})),
            Value::Null,
            Some(Format::Packed {
                packing: CompressedTensors,
                bits: 4,
                group: Some(128),
                symmetric: true,
                ordered: true,
            }),
        ),
        (
            "pack-quantized",
            group(4),
            args("float", 8, "token", true),
            packed(CompressedTensors, 4, Some(128), true),
        ),
        ("nvfp4-pack-quantized", fours.clone(), Value::Null, nvfp4),
        ("nvfp4-pack-quantized", fours, local, nvfp4),
        ("mxfp4-pack-quantized", bytes(4), Value::Null, Some(Format::Mxfp4)),
        ("mxfp8-quantized", bytes(8), bytes(8), Some(Format::Mxfp8)),
    ] {
        let scheme = of(compressed(format, weights.clone(), inputs.clone())).unwrap();
        assert_eq!(one(&scheme, UP), expected, "{format} {weights} {inputs}");
    }
}

/// Whose name a list has, whose class, and in which order.
#[test]
fn compressed_tensors_finds_layers_by_name_then_by_class() {
    let weights = args("float", 8, "channel", false);
    let fours = but(args("int", 4, "group", false), json!({"group_size": 32}));
    let config = json!({"config_groups": {
        "attention": {"targets": ["LlamaAttention"], "weights": null},
        "rest": {"targets": ["Linear"], "weights": weights, "format": "float-quantized",
            "input_activations": args("float", 8, "token", true)},
        "packed": {"targets": ["re:.*mlp.experts.*", "model.layers.0.self_attn.q_proj",
            "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj",
            "re:.*lm_head$"], "weights": fours, "format": "pack-quantized"}},
        "format": "mixed-precision", "quant_method": "compressed_tensors",
        "ignore": ["re:.*router", "re:gate", "model.layers.3.mlp.down_proj"]});
    let scheme = of(config).unwrap();
    let rows = e4m3("weight_scale", ScaleOver::Row, Inputs::E4m3Row);
    let packed = packed(Packing::CompressedTensors, 4, Some(32), true);

    assert_eq!(ask(&scheme, Linear, &QKV).unwrap(), packed, "names go before the class");
    assert_eq!(one(&scheme, "model.layers.1.self_attn.q_proj"), rows);
    assert_eq!(one(&scheme, "model.language_model.layers.0.self_attn.q_proj"), packed);
    assert_eq!(one(&scheme, "model.layers.0.mlp.experts.1.up_proj"), packed);
    assert_eq!(one(&scheme, "model.layers.0.mlp.shared_expert.up_proj"), rows);
    assert_eq!(one(&scheme, "model.layers.0.mlp.router"), None);
    assert_eq!(one(&scheme, "model.layers.0.mlp.gate"), rows, "the start is not 'gate'");
    assert_eq!(one(&scheme, "model.layers.3.mlp.down_proj"), None);
    assert_eq!(one(&scheme, "lm_head"), packed, "by its name only");
    assert_eq!(one(&scheme, "language_model.lm_head"), packed);

    let by_class = of(compressed("pack-quantized", fours_of(32), Value::Null)).unwrap();
    assert_eq!(one(&by_class, "model.layers.0.mlp.experts.1.up_proj"), packed);
    assert_eq!(one(&by_class, "lm_head"), None);
}

fn fours_of(group: usize) -> Value {
    but(args("int", 4, "group", false), json!({"group_size": group}))
}

#[test]
fn kv_caches_that_a_checkpoint_describes() {
    let with = |kv: Value| {
        let config = compressed("pack-quantized", fours_of(128), Value::Null);
        of(but(config, json!({"kv_cache_scheme": kv}))).unwrap().kv
    };
    let fp8 = KvScheme { fp8: true, scales: true, no_e5m2: true };
    assert_eq!(with(args("float", 8, "tensor", false)), fp8);
    assert_eq!(with(args("float", 8, "attn_head", false)), fp8);
    assert_eq!(with(Value::Null), KvScheme { fp8: false, scales: true, no_e5m2: false });
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true});
    assert_eq!(of(awq).unwrap().kv, KvScheme::default());
}

#[test]
fn awq_of_qwen() {
    let config = json!({"bits": 4, "group_size": 128, "modules_to_not_convert": null,
        "quant_method": "awq", "version": "gemm", "zero_point": true});
    let scheme = of(config).unwrap();
    let awq = packed(Packing::Awq, 4, Some(128), false);
    assert_eq!((one(&scheme, UP), one(&scheme, "lm_head")), (awq, None));
    assert_eq!(scheme.method, "auto_awq");

    let older = json!({"w_bit": 4, "q_group_size": -1, "zero_point": false, "quant_method": "AWQ",
        "version": "GEMM", "lm_head": true, "modules_to_not_convert": ["self_attn", "mlp.gate."]});
    let scheme = of(older).unwrap();
    let rows = packed(Packing::Awq, 4, None, true);
    assert_eq!((one(&scheme, UP), one(&scheme, "lm_head")), (rows, rows));
    assert_eq!(ask(&scheme, Linear, &QKV).unwrap(), None, "a part of the name is enough");
}

#[test]
fn gptq_with_and_without_an_order() {
    let base = json!({"bits": 4, "block_name_to_quantize": null, "damp_percent": 0.01,
        "desc_act": false, "exllama_config": {"version": 1}, "group_size": 128,
        "modules_in_block_to_quantize": null, "quant_method": "gptq", "sym": true,
        "true_sequential": true});
    let of = |more: Value| of(but(base.clone(), more)).unwrap();
    let plain = of(json!({}));
    assert_eq!(one(&plain, UP), packed(Packing::Gptq, 4, Some(128), true));
    assert_eq!((plain.method, one(&plain, "lm_head")), ("auto_gptq", None));
    let second = of(json!({"format": "gptq_v2", "bits": 8, "sym": false, "lm_head": true}));
    let eights = packed(Packing::GptqV2, 8, Some(128), false);
    assert_eq!((one(&second, UP), one(&second, "lm_head")), (eights, eights));
    let ordered = of(json!({"desc_act": true, "checkpoint_format": "gptq"}));
    assert!(matches!(one(&ordered, UP), Some(Format::Packed { ordered: true, .. })));
    let rows = of(json!({"desc_act": true, "group_size": -1}));
    assert_eq!(one(&rows, UP), packed(Packing::Gptq, 4, None, true), "one group has no order");

    let only = of(json!({"modules_in_block_to_quantize": [["self_attn.q_proj", "self_attn.k_proj",
        "self_attn.v_proj"], ["self_attn.o_proj"]]}));
    assert_eq!(one(&only, UP), None);
    assert_eq!(ask(&only, Linear, &QKV).unwrap(), packed(Packing::Gptq, 4, Some(128), true));
    assert!(one(&only, "model.layers.0.mlp.experts.0.up_proj").is_some(), "experts are asked");
}

#[test]
fn gptq_has_other_sizes_for_some_layers() {
    let config = json!({"bits": 4, "group_size": 128, "desc_act": false, "sym": true,
        "quant_method": "gptq", "dynamic": {
            "-:.*\\.mlp\\.gate$": {},
            "+:.*\\.(?:1[0-5])\\..*": {"bits": 8},
            ".*\\.16\\..*down.*": {"group_size": 64, "sym": false},
            "+:.*\\.16\\..*": {"bits": 2, "desc_act": true}, ".*\\.17\\..*": {"bits": 5}}});
    let scheme = of(config).unwrap();
    let of = |name: &str| one(&scheme, &format!("model.layers.{name}"));
    assert_eq!(of("0.mlp.gate"), None);
    assert_eq!(of("0.mlp.up_proj"), packed(Packing::Gptq, 4, Some(128), true));
    assert_eq!(of("12.mlp.up_proj"), packed(Packing::Gptq, 8, Some(128), true));
    assert_eq!(of("16.mlp.down_proj"), packed(Packing::Gptq, 4, Some(64), false));
    let ordered = of("16.mlp.up_proj");
    assert!(matches!(ordered, Some(Format::Packed { bits: 2, ordered: true, .. })), "{ordered:?}");
    let said = ask(&scheme, Linear, &["model.layers.17.mlp.up_proj"]).unwrap_err();
    let expected = "config.json: 'quantization_config': model.layers.17.mlp.up_proj: Unsupported \
                    quantization config: bits=5, sym=True";
    assert_eq!(said.message(), expected);
}

#[test]
fn auto_round_in_the_packings_of_others() {
    let base = json!({"autoround_version": "0.5.1", "bits": 4, "data_type": "int",
        "group_size": 128, "quant_method": "auto-round", "sym": true,
        "packing_format": "auto_round:auto_gptq", "extra_config": {
            "lm_head": {"bits": 16, "data_type": "float"},
            "model.language_model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 64},
            "mlp.shared_expert.up_proj": {"bits": 16},
            ".*\\.mlp\\.gate$": {"bits": 16}}});
    let scheme = of(base.clone()).unwrap();
    let of_base = packed(Packing::Gptq, 4, Some(128), true);
    assert_eq!((scheme.method, one(&scheme, UP)), ("inc", of_base));
    assert_eq!(one(&scheme, "lm_head"), None);
    assert_eq!(one(&scheme, "model.layers.4.mlp.gate"), None);
    assert_eq!(one(&scheme, "model.layers.4.mlp.gate_proj"), of_base);
    assert_eq!(one(&scheme, "model.layers.4.mlp.shared_expert.up_proj"), None);
    let eight = packed(Packing::Gptq, 8, Some(64), true);
    assert_eq!(one(&scheme, "model.layers.0.mlp.down_proj"), eight);

    let awq = json!({"packing_format": "auto_round:auto_awq", "sym": false, "extra_config": null,
        "block_name_to_quantize": "model.language_model.layers,model.other"});
    let scheme = of(but(base.clone(), awq)).unwrap();
    assert_eq!(one(&scheme, UP), packed(Packing::Awq, 4, Some(128), false));
    assert_eq!((one(&scheme, "lm_head"), one(&scheme, "model.vision.up")), (None, None));
    let head = json!({"extra_config": {"lm_head": {"bits": 4}}});
    assert_eq!(one(&of(but(base.clone(), head)).unwrap(), "lm_head"), of_base, "it is named");

    let fp8 = json!({"bits": 8, "data_type": "fp", "group_size": [128, 128],
        "packing_format": "auto_round:fp8", "extra_config": null});
    let blocks = e4m3("weight_scale_inv", ScaleOver::Block, Inputs::E4m3Block);
    assert_eq!(one(&of(but(base.clone(), fp8)).unwrap(), UP), blocks);
    let mx = json!({"data_type": "mx_fp4e2m1", "group_size": 32, "packing_format": null,
        "extra_config": null});
    assert_eq!(one(&of(but(base, mx)).unwrap(), UP), Some(Format::Mxfp4));
}

#[test]
fn modelopt_of_nvidia() {
    let nested = |algo: &str, more: Value| {
        let quantization = but(
            json!({"quant_algo": algo, "kv_cache_quant_algo": "FP8",
            "exclude_modules": ["lm_head"]}),
            more,
        );
        of(json!({"producer": {"name": "modelopt", "version": "0.23.0"},
            "quantization": quantization}))
        .unwrap()
    };
    let scale = |over, inputs| e4m3("weight_scale", over, inputs);
    let nvfp4 = Some(Format::Nvfp4 { modelopt: true });
    for (algo, method, format) in [
        ("FP8", "modelopt", scale(ScaleOver::Matrix, Inputs::E4m3Tensor)),
        ("FP8_PER_CHANNEL_PER_TOKEN", "modelopt", scale(ScaleOver::Row, Inputs::E4m3Row)),
        ("fp8_pb_wo", "modelopt", scale(ScaleOver::Block, Inputs::E4m3Block)),
        ("NVFP4", "modelopt_fp4", nvfp4),
        ("W4A16_NVFP4", "modelopt_fp4", nvfp4),
        ("MXFP8", "modelopt_mxfp8", Some(Format::Mxfp8)),
    ] {
        let scheme = nested(algo, json!({"group_size": 16}));
        assert_eq!((scheme.method, one(&scheme, UP)), (method, format), "{algo}");
        assert_eq!(one(&scheme, "lm_head"), None);
        assert_eq!(scheme.kv, KvScheme { fp8: true, scales: true, no_e5m2: true });
    }
    let open = nested("FP8", json!({"exclude_modules": [], "kv_cache_quant_algo": null}));
    assert!(one(&open, "lm_head").is_some(), "quantised unless it is listed");
    assert!(!open.kv.fp8);

    let own = json!({"config_groups": {"group_0": {"input_activations": {"dynamic": false,
        "num_bits": 4, "type": "float", "group_size": 16}, "targets": ["Linear"]}},
        "ignore": ["lm_head", "model.layers.0.self_attn*", "*.mlp.gate", "model.layers.1.mlp"],
        "quant_algo": "NVFP4",
        "kv_cache_scheme": {"dynamic": false, "num_bits": 8, "type": "float"},
        "producer": {"name": "modelopt", "version": "0.35.0"}, "quant_method": "modelopt"});
    let scheme = of(own.clone()).unwrap();
    assert_eq!((one(&scheme, UP), scheme.kv.fp8), (nvfp4, true));
    assert_eq!(ask(&scheme, Linear, &QKV).unwrap(), None);
    assert_eq!(one(&scheme, "model.layers.9.mlp.gate"), None);
    assert_eq!(one(&scheme, "model.layers.9.mlp.gate_proj"), nvfp4);
    assert_eq!(one(&scheme, "model.layers.1.mlp.experts.0.up_proj"), None);
    let word = of(but(own, json!({"kv_cache_scheme": "FP8"}))).unwrap();
    assert!(!word.kv.fp8, "only an object says it");

    let other_name = json!({"quant_method": "mxfp8", "ignored_layers": ["lm_head", "mlp.gate"]});
    let scheme = of(other_name).unwrap();
    assert_eq!((scheme.method, one(&scheme, UP)), ("modelopt_mxfp8", Some(Format::Mxfp8)));
}

#[test]
fn modelopt_with_an_algorithm_for_each_layer() {
    let layers = json!({"model.layers.0.mlp.up_proj": {"quant_algo": "FP8"},
        "model.layers.0.mlp.down_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.0.mlp.experts": {"quant_algo": "W4A16_NVFP4"},
        "model.layers.0.self_attn.o_proj": {"quant_algo": "W4A8_AWQ"}});
    let scheme = of(json!({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
        "quantized_layers": layers, "ignore": ["model.layers.5*"]}))
    .unwrap();
    assert_eq!(scheme.method, "modelopt_mixed");
    assert_eq!(one(&scheme, UP), e4m3("weight_scale", ScaleOver::Matrix, Inputs::E4m3Tensor));
    let nvfp4 = Some(Format::Nvfp4 { modelopt: true });
    assert_eq!(one(&scheme, "model.language_model.layers.0.mlp.down_proj"), nvfp4);
    assert_eq!(one(&scheme, "model.layers.0.mlp.experts.4.up_proj"), nvfp4);
    assert_eq!(one(&scheme, "model.layers.0.mlp.gate_proj"), None, "not listed");
    let said = ask(&scheme, Linear, &["model.layers.0.self_attn.o_proj"]).unwrap_err();
    assert!(said.message().ends_with("o_proj: Unknown ModelOpt quant algo: W4A8_AWQ"), "{said}");
}

#[test]
fn gpt_oss_and_bitsandbytes() {
    let oss = json!({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}});
    let scheme = said(&oss, "mxfp4").unwrap().unwrap();
    assert_eq!(scheme.method, "gpt_oss_mxfp4");
    assert_eq!(one(&scheme, "model.layers.0.mlp.experts.gate_up_proj"), Some(Format::Mxfp4Stack));
    assert_eq!((one(&scheme, UP), one(&scheme, "lm_head")), (None, None));

    let bnb = json!({"_load_in_4bit": true, "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true,
        "llm_int8_skip_modules": ["multi_modal_projector", "model.layers.1.mlp", "o_proj"],
        "llm_int8_threshold": 6.0, "load_in_4bit": true, "load_in_8bit": false,
        "quant_method": "bitsandbytes"});
    let scheme = of(bnb).unwrap();
    assert_eq!((one(&scheme, UP), one(&scheme, "lm_head")), (Some(Format::Nf4), None));
    assert_eq!(one(&scheme, "model.layers.1.mlp.up_proj"), None);
    assert_eq!(one(&scheme, "model.layers.11.mlp.up_proj"), Some(Format::Nf4));
    assert_eq!(one(&scheme, "model.layers.0.self_attn.o_proj"), None);
}

#[test]
fn what_is_stored_plain_is_plain() {
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true});
    let scheme = of(awq).unwrap();
    let parts = QKV.map(String::from);
    let plain = |names: &'static [&'static str]| move |name: &str| names.contains(&name);
    assert_eq!(scheme.format_of(Linear, &parts, &plain(&QKV)), Ok(None));
    let some = scheme.format_of(Linear, &parts, &plain(&QKV[..1])).unwrap_err();
    let expected = "config.json: 'quantization_config': Detected some but not all shards of \
                    model.layers.0.self_attn.qkv_proj are quantized. All shards of fused layers \
                    to have the same precision.";
    assert_eq!(some.message(), expected);

    let online = said(&json!({}), "fp8_per_tensor").unwrap().unwrap();
    let format = online.format_of(Linear, &parts, &|_| true).unwrap();
    let (over, inputs) = (ScaleOver::Matrix, Inputs::E4m3Row);
    assert_eq!(format, Some(Format::Online { over, inputs }));
}
