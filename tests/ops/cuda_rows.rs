//! Products of 9 rows and more on the GPU against the CPU device: half types and E4M3 by E4M3,
//! plain and gated, with bias and activation; sizes that fill tiles and sizes that do not, inputs
//! that clusters share, more tiles than the card holds at once. Part of `cuda_ops`.

use super::quant_cases::{Case, Coded};
use super::*;
use triton_vllm::device::{CodeType, InputQuant, Seam, Sublayer};

/// (rows, outputs, inputs)
const SHAPES: [(usize, usize, usize); 24] = [
    (9, 48, 64),
    (11, 1040, 3000),
    (16, 4096, 1024),
    (16, 34_000, 72),
    (17, 48, 64),
    (18, 136, 72),
    (31, 70, 136),
    (33, 264, 520),
    (48, 1000, 1032),
    (63, 520, 4096),
    (64, 2056, 1040),
    (64, 72, 14_336),
    (40, 8208, 256),
    (64, 34_000, 64),
    // Gates and ups that fill the card once and twice, and blocks below each other: two to eight.
    (65, 8208, 72),
    (100, 12_544, 64),
    (128, 33_776, 64),
    (227, 14_720, 72),
    (256, 29_296, 64),
    (500, 14_700, 64),
    (1009, 3500, 72),
    // Long inputs in two shares; the library's.
    (71, 4160, 8256),
    (128, 4078, 8192),
    (200, 8208, 64),
];

fn setup() -> Setup {
    Setup { step_tokens: 1024, max_model_len: 1024, ..Setup::default() }
}

/// Plain weights where `codes` is none, else codes with inputs rounded row by row.
#[derive(Debug, Clone, Copy)]
struct Product {
    codes: bool,
    rows: usize,
    outputs: usize,
    k: usize,
}

impl Product {
    fn weight<D: grader::Graded>(&self, b: &mut Bench<D>, kind: WeightKind) -> D::Weight {
        let Product { codes, rows, outputs, k } = *self;
        let gated = matches!(kind, WeightKind::GateUp);
        if !codes {
            return if gated { b.gate_up(5, outputs / 2, k) } else { b.linear(5, outputs, k) };
        }
        let case = Case {
            codes: CodeType::E4m3,
            group: 0,
            offsets: false,
            ordered: false,
            inputs: Some(InputQuant::E4m3Row),
            rows,
            outputs,
            k,
        };
        let parts = [outputs / 2, outputs - outputs / 2];
        Coded::new(&case, &parts, 5).upload(&mut b.dev, kind, b.dtype)
    }

    fn run<D: grader::Graded>(&self, b: &mut Bench<D>) -> Result<Results> {
        let Product { rows, outputs, k, .. } = *self;
        let x = b.input(rows, k, 3);
        let bias = b.vector(9, outputs);
        let weight = self.weight(b, WeightKind::Linear);
        let mut plain = b.tensor(rows, outputs);
        let mut active = b.tensor(rows, outputs);
        b.dev.linear(&weight, None, &x, &mut plain)?;
        b.dev.linear_act(&weight, Some(&bias), Activation::GeluTanh, &x, &mut active)?;
        let mut results =
            vec![("plain", b.dev.read(&plain, rows)?), ("active", b.dev.read(&active, rows)?)];

        if outputs.is_multiple_of(2) {
            let gates = self.weight(b, WeightKind::GateUp);
            let mut gated = b.tensor(rows, outputs / 2);
            for (name, bias) in [("gated", None), ("gated with bias", Some(&bias))] {
                b.dev.linear_act(&gates, bias, Activation::SiluGated, &x, &mut gated)?;
                results.push((name, b.dev.read(&gated, rows)?));
            }
        }
        Ok(results)
    }
}

#[test]
fn products_of_some_rows() {
    each_type(|dtype| {
        // Of f32 products of any rows are the library's.
        if dtype == DType::F32 {
            return;
        }
        for (rows, outputs, k) in SHAPES {
            for codes in [false, true] {
                let product = Product { codes, rows, outputs, k };
                if grader::small_shapes() && outputs * k > 300_000 {
                    continue;
                }
                let case = format!("{product:?}");
                compare!(dtype, &setup(), &case, 2.0, |b| { product.run(b) });
            }
        }
    });
}

/// What a row's products are depends on no other row, and comes again.
#[test]
fn a_row_is_the_same_among_others() {
    each_type(|dtype| {
        if dtype == DType::F32 {
            return;
        }
        for codes in [false, true] {
            for (outputs, k) in [(5120, 2048), (1056, 4096)] {
                let of = |rows| {
                    let product = Product { codes, rows, outputs, k };
                    product.run(&mut Bench::<Cuda>::new(dtype, &setup())).unwrap()
                };
                // From some thresholds on sums are added in another order.
                for sizes in [[64, 47, 33], [16, 12, 9]] {
                    let case = format!("{dtype:?} {codes} {outputs}");
                    same_among_others(&of, &sizes, &case);
                }
            }
        }
        // Of these many rows gates and ups are ours, and products of long inputs.
        for (outputs, k, sizes) in [
            (29_296, 128, [256, 231]),
            (14_700, 128, [500, 460]),
            (8208, 128, [128, 67]),
            (4160, 8256, [128, 67]),
        ] {
            let of = |rows| {
                let product = Product { codes: false, rows, outputs, k };
                let results = product.run(&mut Bench::<Cuda>::new(dtype, &setup())).unwrap();
                let ours = |name: &str| {
                    if k > 8192 {
                        name == "plain"
                    } else {
                        name.starts_with("gated")
                    }
                };
                results.into_iter().filter(|(name, _)| ours(name)).collect::<Results>()
            };
            same_among_others(&of, &sizes, &format!("{dtype:?} {outputs} x {k}"));
        }
    });
}

/// Two products, the residual and its norm between them, then two more: what reads a norm is a
/// product, or something else comes before it.
#[derive(Debug, Clone, Copy)]
struct Between {
    rows: usize,
    /// Of the residual, of what comes in, of gates, of what goes out.
    width: usize,
    inputs: usize,
    gates: usize,
    outputs: usize,
    kind: NormKind,
}

impl Between {
    fn run<D: grader::Graded>(&self, b: &mut Bench<D>) -> Result<Results> {
        let Between { rows, width, inputs, gates, outputs, kind } = *self;
        let x = b.input(rows, inputs, 3);
        let mut residual = b.input(rows, width, 4);
        let (mut delta, mut normed) = (b.tensor(rows, width), b.tensor(rows, width));
        let norm = Norm { kind, eps: 1e-5, weight: b.vector(5, width), bias: None };
        let (o, bias) = (b.linear(6, width, inputs), b.vector(7, width));
        let (up, down) = (b.gate_up(8, gates, width), b.linear(9, width, gates));
        let (qkv, qkv_bias) = (b.linear(10, outputs, width), b.vector(11, outputs));
        let (mlp, attention) =
            (Sublayer { first: &up, last: &down }, Sublayer { first: &qkv, last: &o });
        let mut results = Vec::new();

        for bias in [None, Some(&bias)] {
            let (delta, residual, normed) = (&mut delta, &mut residual, &mut normed);
            let mut gated = b.tensor(rows, gates);
            let mut out = b.tensor(rows, outputs);
            let seam = Seam { norm: &norm, delta, residual, normed, next: Some(mlp) };
            b.dev.linear_add_norm(&o, bias, &x, seam)?;
            b.dev.linear_act(&up, None, Activation::SiluGated, normed, &mut gated)?;
            results.push(("gated", b.dev.read(&gated, rows)?));
            results.push(("residual", b.dev.read(residual, rows)?));

            let seam = Seam { norm: &norm, delta, residual, normed, next: Some(attention) };
            b.dev.linear_add_norm(&down, bias, &gated, seam)?;
            if bias.is_some() {
                // Another product stands between.
                b.dev.linear(&o, None, &x, delta)?;
                results.push(("between", b.dev.read(delta, rows)?));
            }
            b.dev.linear(&qkv, Some(&qkv_bias), normed, &mut out)?;
            results.push(("out", b.dev.read(&out, rows)?));
            results.push(("residual behind", b.dev.read(residual, rows)?));
        }
        Ok(results)
    }
}

/// (width, inputs, gates, outputs): tiles that turns, shares and both add up, and tiles that are
/// not full.
const BETWEEN: [(usize, usize, usize, usize); 5] = [
    (896, 200, 48, 136),
    (4096, 136, 72, 264),
    (264, 1032, 520, 48),
    (8192, 64, 136, 40),
    (70, 136, 64, 72),
];

#[test]
fn norms_between_products_of_few_and_some_rows() {
    each_type(|dtype| {
        for (width, inputs, gates, outputs) in BETWEEN {
            let (rms, plus_one) = (NormKind::Rms, NormKind::RmsPlusOne);
            for (rows, kind) in
                [(1, rms), (3, plus_one), (8, rms), (9, rms), (33, plus_one), (64, rms)]
            {
                let case = Between { rows, width, inputs, gates, outputs, kind };
                compare!(dtype, &setup(), &format!("{case:?}"), 4.0, |b| { case.run(b) });
            }
        }
    });
}

#[test]
fn a_norm_of_a_row_is_the_same_among_others() {
    each_type(|dtype| {
        if dtype == DType::F32 {
            return;
        }
        for (width, inputs, gates, outputs) in BETWEEN {
            let kind = NormKind::Rms;
            let of = |rows| {
                let case = Between { rows, width, inputs, gates, outputs, kind };
                case.run(&mut Bench::<Cuda>::new(dtype, &setup())).unwrap()
            };
            let sizes: [&[usize]; 3] = [&[64, 47, 33, 16, 9], &[8, 7, 5], &[4, 3, 2, 1]];
            for sizes in sizes {
                same_among_others(&of, sizes, &format!("{dtype:?} {width}"));
            }
        }
    });
}

/// The rows of the largest number are those of fewer, and of the same number again.
fn same_among_others(of: &dyn Fn(usize) -> Results, sizes: &[usize], case: &str) {
    let all = of(sizes[0]);
    assert!(!all.is_empty(), "{case}");
    for &rows in sizes {
        for ((name, some), (_, all)) in of(rows).iter().zip(&all) {
            assert_eq!(some, &all[..some.len()], "{case} {rows} {name}");
        }
    }
}
