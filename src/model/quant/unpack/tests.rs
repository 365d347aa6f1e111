//! What the fixtures do not show: experts as GPT-OSS stores them, parts that do not go together,
//! and scales of other types.

use std::path::PathBuf;

use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::device::{CodeType, ScaleOver};
use crate::model::quant::{ByteCodes, Inputs};

/// Name, type, shape and bytes.
type Tensor<'a> = (&'a str, Dtype, &'a [usize], &'a [u8]);

/// A checkpoint of a few tensors; removed at the end.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, tensors: &[Tensor]) -> Written {
        let dir = std::env::temp_dir().join(format!("triton_vllm_{}_{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut views = Vec::new();
        for &(name, dtype, shape, bytes) in tensors {
            views.push((name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap()));
        }
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
        Written(dir)
    }

    fn open(&self) -> Checkpoint {
        Checkpoint::open(&self.0).unwrap()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bytes<T: Copy, const N: usize>(values: &[T], le: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| le(value)).collect()
}

/// All values, part by part, of codes or of plain tensors.
fn values(of: &Values) -> Vec<f32> {
    match (&of.source, &of.form) {
        (Source::Codes { parts, order }, Some(form)) => {
            let plain = parts.iter().map(|part| unpacked(form, part, order).unwrap());
            plain.flat_map(|tensor| tensor.values().unwrap()).collect()
        }
        (Source::Parts(parts), None) => {
            parts.iter().flat_map(|part| part.values().unwrap()).collect()
        }
        _ => panic!("neither codes nor plain"),
    }
}

/// Two experts of a gate and an up of 32 inputs: rows 0 and 2 are gates, low halves come first.
#[test]
fn experts_as_gpt_oss_stores_them() {
    // Each row has one code in all places but the first, which is 1.0 (code 2).
    let row = |code: u8| {
        let mut row = vec![code | code << 4; 16];
        row[0] = 2 | code << 4;
        row
    };
    let blocks: Vec<u8> = [1, 9, 4, 15, 2, 3, 7, 0].into_iter().flat_map(row).collect();
    let scales = [127u8, 128, 126, 127, 127, 127, 129, 0];
    let written = Written::new(
        "gpt_oss",
        &[
            ("m.experts.gate_up_proj_blocks", Dtype::U8, &[2, 4, 1, 16], &blocks),
            ("m.experts.gate_up_proj_scales", Dtype::U8, &[2, 4, 1], &scales),
        ],
    );
    let checkpoint = written.open();
    let names = ["m.experts.gate_up_proj".to_string()];
    let wanted = Wanted { names: &names, outputs: &[4], inputs: 32 };
    let loaded = stack(&checkpoint, &Format::Mxfp4Stack, &wanted, 2, true).unwrap();

    let got = values(&loaded);
    // By (number of the first input, of the others), gates before ups, expert by expert.
    let want = [(1.0, 0.5), (0.5, 1.0), (2.0, -1.0), (1.0, -6.0)];
    let second = [(1.0, 1.0), (4.0, 24.0), (1.0, 1.5), (2f32.powi(-127), 0.0)];
    for (n, (first, others)) in want.into_iter().chain(second).enumerate() {
        let line = &got[32 * n..][..32];
        assert_eq!(line[0], first, "row {n}");
        assert!(line[1..].iter().all(|&x| x == others), "row {n}: {line:?}");
    }
}

/// q and k whose inputs were ordered differently cannot be multiplied as one weight.
#[test]
fn parts_of_other_orders_are_unpacked() {
    let format = Format::Packed {
        packing: Packing::Gptq,
        bits: 4,
        group: Some(4),
        symmetric: true,
        ordered: true,
    };
    // One output each; codes 0 to 7 for inputs 0 to 7.
    let word = 0x7654_3210u32.to_le_bytes();
    let scales = bytes(&[1.0f32, 10.0], f32::to_le_bytes);
    let straight = bytes(&[0i32, 1, 0, 1, 0, 1, 0, 1], i32::to_le_bytes);
    let turned = bytes(&[1i32, 1, 1, 1, 0, 0, 0, 0], i32::to_le_bytes);
    let written = Written::new(
        "orders",
        &[
            ("q.qweight", Dtype::I32, &[1, 1], &word),
            ("q.scales", Dtype::F32, &[2, 1], &scales),
            ("q.g_idx", Dtype::I32, &[8], &straight),
            ("k.qweight", Dtype::I32, &[1, 1], &word),
            ("k.scales", Dtype::F32, &[2, 1], &scales),
            ("k.g_idx", Dtype::I32, &[8], &turned),
        ],
    );
    let checkpoint = written.open();
    let both = ["q".to_string(), "k".to_string()];
    let wanted = Wanted { names: &both, outputs: &[1, 1], inputs: 8 };
    let loaded = linear(&checkpoint, &format, &wanted).unwrap();
    assert!(loaded.form.is_none());
    assert!(form_held(&checkpoint, &format, &wanted).unwrap().is_none());
    let q = [-8.0, -70.0, -6.0, -50.0, -4.0, -30.0, -2.0, -10.0];
    let k = [-80.0, -70.0, -60.0, -50.0, -4.0, -3.0, -2.0, -1.0];
    assert_eq!(values(&loaded), [q, k].concat());

    // Each by itself, and two of one order, stay codes.
    for names in [["q", "q"], ["k", "k"]] {
        let names = names.map(str::to_string);
        let wanted = Wanted { names: &names, outputs: &[1, 1], inputs: 8 };
        let loaded = linear(&checkpoint, &format, &wanted).unwrap();
        assert!(
            loaded.form.is_some() && form_held(&checkpoint, &format, &wanted).unwrap().is_some()
        );
        let own = if names[0] == "q" { q } else { k };
        assert_eq!(values(&loaded), [own, own].concat());
    }
}

#[test]
fn scales_of_blocks_in_other_types_and_shapes() {
    let codes = vec![0x38u8; 130 * 129];
    let bf16 = bytes(&[1.0f32, 2.0, 4.0, 8.0].map(half::bf16::from_f32), half::bf16::to_le_bytes);
    let written = Written::new(
        "blocks",
        &[
            ("a.weight", Dtype::F8_E4M3, &[130, 129], &codes),
            ("a.weight_scale_inv", Dtype::BF16, &[2, 2], &bf16),
            ("b.weight", Dtype::F8_E4M3, &[130, 129], &codes),
            ("b.weight_scale_inv", Dtype::F8_E8M0, &[2, 1, 2, 1], &[127, 128, 129, 130]),
        ],
    );
    let checkpoint = written.open();
    let format = Format::Bytes {
        codes: ByteCodes::E4m3,
        scale: "weight_scale_inv",
        over: ScaleOver::Block,
        inputs: Inputs::E4m3Block,
    };

    for name in ["a", "b"] {
        let names = [name.to_string()];
        let wanted = Wanted { names: &names, outputs: &[130], inputs: 129 };
        let loaded = linear(&checkpoint, &format, &wanted).unwrap();
        let got = values(&loaded);
        for (row, line) in got.chunks_exact(129).enumerate() {
            let want = if row < 128 { [1.0, 2.0] } else { [4.0, 8.0] };
            assert!(line[..128].iter().all(|&x| x == want[0]), "{name} row {row}");
            assert_eq!(line[128], want[1], "{name} row {row}");
        }
        let form = loaded.form.unwrap();
        assert_eq!((form.codes, form.group), (CodeType::E4m3, 128));
        assert!(matches!(&loaded.source, Source::Codes { parts, .. }
            if matches!(parts[0].codes, crate::device::Bytes::Stored { .. })));
    }
}

/// Parts round their inputs to the same codes: by the widest range of all.
#[test]
fn static_steps_of_parts_are_joined() {
    let int8 = [1i8, -1, 127, -128].map(|x| x as u8);
    let one = 1f32.to_le_bytes();
    let steps = [0.5f32, 0.25].map(f32::to_le_bytes);
    let zeros = [(-128i8) as u8, 127];
    let written = Written::new(
        "steps",
        &[
            ("q.weight", Dtype::I8, &[2, 2], &int8),
            ("q.weight_scale", Dtype::F32, &[1], &one),
            ("q.input_scale", Dtype::F32, &[1], &steps[0]),
            ("q.input_zero_point", Dtype::I8, &[1], &zeros[..1]),
            ("k.weight", Dtype::I8, &[2, 2], &int8),
            ("k.weight_scale", Dtype::F32, &[], &one),
            ("k.input_scale", Dtype::F32, &[], &steps[1]),
            ("k.input_zero_point", Dtype::I8, &[1], &zeros[1..]),
        ],
    );
    let checkpoint = written.open();
    let joined = |names: &[&str], symmetric| {
        let inputs = Inputs::Int8Tensor { symmetric };
        let (codes, over) = (ByteCodes::Int8, ScaleOver::Matrix);
        let format = Format::Bytes { codes, scale: "weight_scale", over, inputs };
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let outputs = vec![2; names.len()];
        let wanted = Wanted { names: &names, outputs: &outputs, inputs: 2 };
        let loaded = linear(&checkpoint, &format, &wanted).unwrap();
        assert_eq!(values(&loaded)[..4], [1.0, -1.0, 127.0, -128.0]);
        loaded.form.unwrap().inputs.unwrap()
    };
    assert_eq!(joined(&["q", "k"], true), InputQuant::Int8Tensor { step: 0.5, zero: None });
    let zero = Some(-128);
    assert_eq!(joined(&["q"], false), InputQuant::Int8Tensor { step: 0.5, zero });
    assert_eq!(joined(&["q", "q"], false), InputQuant::Int8Tensor { step: 0.5, zero });
    // q takes 0 to 127.5, k -63.75 to 0.
    let zero = Some(-43);
    assert_eq!(joined(&["q", "k"], false), InputQuant::Int8Tensor { step: 0.75, zero });
}
