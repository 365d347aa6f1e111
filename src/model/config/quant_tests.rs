//! Quantised checkpoints in `config`: where config.json may say so, and the element type that a
//! quantised model computes in. What the methods' keys mean is tested beside their readers.

use serde_json::json;

use super::tests::{llama, spec_of, with, ALL};
use super::*;
use crate::device::DType;

fn awq() -> Value {
    json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true})
}

fn method(config: Value) -> Option<&'static str> {
    let options = SpecOptions { supported: ALL, ..Default::default() };
    spec_of(config, &options).unwrap().quant.map(|quant| quant.method)
}

#[test]
fn it_is_said_of_the_whole_or_of_the_text_model() {
    let fp8 = json!({"quant_method": "fp8", "activation_scheme": "dynamic"});
    assert_eq!(method(llama()), None);
    assert_eq!(method(with("quantization_config", json!(null))), None);
    assert_eq!(method(with("quantization_config", awq())), Some("auto_awq"));
    assert_eq!(method(with("compression_config", fp8.clone())), Some("fp8"));
    assert_eq!(
        method(with("text_config", json!({"quantization_config": awq()}))),
        Some("auto_awq")
    );
    assert_eq!(method(with("text_config", json!({"compression_config": fp8}))), Some("fp8"));

    // The whole's word goes before its text model's.
    let mut both = with("quantization_config", awq());
    for text in [json!(null), json!({"quant_method": "fp8", "activation_scheme": "dynamic"})] {
        both["text_config"] = json!({"quantization_config": text});
        assert_eq!(method(both.clone()), Some("auto_awq"));
    }
}

#[test]
fn an_override_is_named_by_its_file() {
    let overrides = json!({"quantization_config": {"bits": 3}});
    let options =
        SpecOptions { supported: ALL, hf_overrides: overrides.as_object(), ..Default::default() };
    let said = spec_of(with("quantization_config", awq()), &options).unwrap_err();
    let start = "model.json: 'hf_overrides.quantization_config.bits': Unsupported num_bits = 3.";
    assert!(said.message().starts_with(start), "{said}");

    let whole = json!({"quantization_config": awq().to_string()});
    let options =
        SpecOptions { supported: ALL, hf_overrides: whole.as_object(), ..Default::default() };
    assert!(spec_of(llama(), &options).unwrap().quant.is_some(), "an object as its text");
}

#[test]
fn the_argument_reaches_the_scheme() {
    let with = |config: Value, quantization| {
        let options = SpecOptions { supported: ALL, quantization, ..Default::default() };
        spec_of(config, &options).map(|spec| spec.quant.map(|quant| quant.online))
    };
    assert_eq!(with(llama(), ""), Ok(None));
    assert_eq!(with(llama(), "fp8_per_block"), Ok(Some(true)));
    let mut quantised = llama();
    quantised["quantization_config"] = awq();
    assert_eq!(with(quantised.clone(), "awq_marlin"), Ok(Some(false)));
    let said = with(quantised, "fp8_per_tensor").unwrap_err();
    assert!(said.message().contains("does not match the quantization method"), "{said}");
}

/// The largest tensor of a quantised checkpoint holds codes, or is a table in some type or other.
#[test]
fn a_quantised_checkpoint_says_its_type_in_config_json() {
    let spec = |config: Value, dtype, supported, quantization| {
        let stored_dtype = Some(DType::F16);
        let options =
            SpecOptions { dtype, supported, stored_dtype, quantization, ..Default::default() };
        spec_of(config, &options).map(|spec| spec.dtype)
    };
    let mut silent = with("quantization_config", awq());
    silent.as_object_mut().unwrap().remove("torch_dtype");
    assert_eq!(spec(silent.clone(), "auto", ALL, ""), Ok(DType::BF16), "not that of a tensor");
    assert_eq!(spec(silent.clone(), "auto", &[DType::F16, DType::F32], ""), Ok(DType::F16));
    silent["torch_dtype"] = json!("float16");
    assert_eq!(spec(silent.clone(), "auto", ALL, ""), Ok(DType::F16));
    for (dtype, expected) in
        [("half", DType::F16), ("bfloat16", DType::BF16), ("float32", DType::F32)]
    {
        assert_eq!(spec(silent.clone(), dtype, ALL, ""), Ok(expected));
    }

    let mut plain = llama();
    plain.as_object_mut().unwrap().remove("torch_dtype");
    assert_eq!(spec(plain, "auto", ALL, "fp8_per_tensor"), Ok(DType::F16), "its tensors are plain");

    let mut oss = with("quantization_config", json!({"quant_method": "mxfp4"}));
    oss["model_type"] = json!("gpt_oss");
    oss["torch_dtype"] = json!("float16");
    assert_eq!(spec(oss.clone(), "auto", &[DType::F16, DType::BF16], ""), Ok(DType::BF16));
    let said = spec(oss, "half", ALL, "").unwrap_err();
    assert_eq!(
        said.message(),
        "torch.float16 is not supported for quantization method gpt_oss_mxfp4. Supported dtypes: \
         [torch.bfloat16, torch.float32]"
    );
}

#[test]
fn files_beside_config_json_are_found() {
    let folder = std::env::temp_dir().join(format!("triton_vllm_beside_{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), llama().to_string()).unwrap();
    let file = json!({"quantization": {"quant_algo": "FP8"}, "producer": {"name": "modelopt"}});
    std::fs::write(folder.join("hf_quant_config.json"), file.to_string()).unwrap();
    let options = SpecOptions { supported: ALL, ..Default::default() };
    let spec = ModelSpec::read(&folder, &options);
    std::fs::write(folder.join("hf_quant_config.json"), "[]").unwrap();
    let broken = ModelSpec::read(&folder, &options).map(|_| ()).unwrap_err();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(spec.unwrap().quant.unwrap().method, "modelopt");
    let named = "hf_quant_config.json: must hold one JSON object, got [].";
    assert!(broken.message().ends_with(named), "{broken}");
}
