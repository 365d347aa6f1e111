//! Scales of K and V out of checkpoints of nothing else, under every name that they have had.

use std::path::PathBuf;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{json, Value};

use super::*;
use crate::device::DType;
use crate::error::Error;
use crate::model::config::SpecOptions;

const LAYER: &str = "model.layers.0.self_attn";

fn fp8() -> Value {
    json!({"quant_method": "fp8", "activation_scheme": "dynamic"})
}

/// Two layers, of two KV heads.
fn spec(quant: Value) -> ModelSpec {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 64, "vocab_size": 100, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16",
        "quantization_config": quant,
    });
    let options = SpecOptions { supported: &[DType::BF16], ..SpecOptions::default() };
    ModelSpec::from_config(config.as_object().unwrap(), None, &options).unwrap()
}

/// A checkpoint with these scales; removed at the end.
struct Written(PathBuf);

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn scales_of(
    case: &str,
    spec: &ModelSpec,
    kv: KvType,
    tensors: &[(&str, &[f32], &[usize])],
) -> Result<Vec<KvScales>> {
    let dir = std::env::temp_dir().join(format!("triton_vllm_{}_kv_{case}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let written = Written(dir);

    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, values, _)| values.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, _, shape), bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(written.0.join("model.safetensors"), file).unwrap();

    let source = WeightSource::Files(Checkpoint::open(&written.0)?);
    kv_scales(spec, &source, kv)
}

/// Of the first layer, which alone has some.
fn first(case: &str, tensors: &[(&str, f32)]) -> KvScales {
    let named: Vec<(String, [f32; 1])> =
        tensors.iter().map(|(name, x)| (format!("{LAYER}.{name}"), [*x])).collect();
    let tensors: Vec<(&str, &[f32], &[usize])> =
        named.iter().map(|(name, x)| (&name[..], &x[..], &[][..])).collect();
    let scales = scales_of(case, &spec(fp8()), KvType::E4m3, &tensors).unwrap();
    assert_eq!(scales[1], KvScales::ONE);
    scales[0]
}

#[test]
fn scales_have_many_names() {
    let both = KvScales { k: 0.5, v: 0.25 };
    for (n, [k, v]) in [
        ["k_scale", "v_scale"],
        ["attn.k_scale", "attn.v_scale"],
        ["k_proj.k_scale", "v_proj.v_scale"],
        ["qkv_proj.k_scale", "qkv_proj.v_scale"],
        ["k_proj.output_scale", "v_proj.output_scale"],
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(first(&format!("names{n}"), &[(k, 0.5), (v, 0.25)]), both, "{k}");
    }
    assert_eq!(first("one_of_both", &[("kv_scale", 0.5)]), KvScales { k: 0.5, v: 0.5 });
    assert_eq!(first("k_alone", &[("k_scale", 0.5)]), KvScales { k: 0.5, v: 0.5 });
    assert_eq!(first("v_alone", &[("v_scale", 0.5)]), KvScales { k: 0.5, v: 0.5 });
    // Their own names go before the old one.
    let three = [("kv_scale", 3.0), ("k_scale", 0.5), ("v_scale", 0.25)];
    assert_eq!(first("own_first", &three), both);
    assert_eq!(first("none", &[("q_scale", 3.0)]), KvScales::ONE);
}

#[test]
fn scales_by_head_become_their_largest() {
    let spec = spec(fp8());
    let k = format!("{LAYER}.k_scale");
    let scales = scales_of("heads", &spec, KvType::E4m3, &[(&k, &[0.5, 2.0], &[2, 1, 1])]).unwrap();
    assert_eq!(scales[0], KvScales { k: 2.0, v: 2.0 });
}

#[test]
fn scales_that_do_not_count_are_not_read() {
    let k = format!("{LAYER}.k_scale");
    let bad: &[(&str, &[f32], &[usize])] = &[(&k, &[f32::NAN], &[1])];
    let plain = spec(json!(null));
    assert_eq!(scales_of("plain", &plain, KvType::E4m3, bad).unwrap()[0], KvScales::ONE);
    let awq = spec(json!({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true}));
    assert_eq!(scales_of("awq", &awq, KvType::E5m2, bad).unwrap()[0], KvScales::ONE);
    let other_pages = scales_of("other_pages", &spec(fp8()), KvType::BF16, bad).unwrap();
    assert_eq!(other_pages, [KvScales::ONE; 2]);
}

#[test]
fn scales_that_are_none_are_refused_by_name() {
    let spec = spec(fp8());
    let k = format!("{LAYER}.k_scale");
    for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let said = scales_of("bad", &spec, KvType::E4m3, &[(&k, &[bad], &[1])]).unwrap_err();
        assert!(matches!(said, Error::InvalidArgument(_)), "{said:?}");
        let end = format!(
            "model.safetensors: tensor '{k}' holds {bad}: a scale of the KV cache must be a finite \
             number above 0."
        );
        assert!(said.message().ends_with(&end), "{said}");
    }
    let three = scales_of("shape", &spec, KvType::E4m3, &[(&k, &[1.0; 3], &[3])]).unwrap_err();
    assert!(three.message().contains("has shape [3], expected"), "{three}");
}

#[test]
fn the_checkpoint_decides_what_auto_is() {
    let of = |quant, kv| spec(quant).kv_shape(kv).map(|shape| shape.dtype);
    let scheme = json!({
        "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {},
        "kv_cache_scheme": {
            "num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": true,
            "dynamic": false
        }
    });
    assert_eq!(of(json!(null), None).unwrap(), KvType::BF16);
    assert_eq!(of(fp8(), None).unwrap(), KvType::BF16);
    assert_eq!(of(scheme.clone(), None).unwrap(), KvType::E4m3);
    assert_eq!(of(scheme.clone(), Some(KvType::BF16)).unwrap(), KvType::BF16);
    assert_eq!(of(json!(null), Some(KvType::E5m2)).unwrap(), KvType::E5m2);
    for quant in [fp8(), scheme] {
        let said = of(quant, Some(KvType::E5m2)).unwrap_err();
        let text = "fp8_e5m2 kv-cache is not supported with fp8 checkpoints.";
        assert_eq!(said.message(), text);
    }
}
