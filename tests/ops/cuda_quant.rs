//! Products of weights that are held as codes on the GPU against the CPU device: every form through
//! every kernel that may get it, by the number of rows. Part of `cuda_ops`.

use super::quant_cases::{Case, Coded, CODE_TYPES, ROUNDINGS};
use super::*;
use triton_vllm::device::{CodeType, InputQuant, QuantForm, ScaleOver, Seam, Sublayer};

/// Few rows for the streaming kernel, some for tiles of 16 and 64, more than those take.
const ROWS: [usize; 8] = [1, 3, 7, 16, 33, 64, 130, 300];
/// (outputs, inputs): less than a block, odd, ragged last blocks and chunks, several chunks, more
/// tiles than blocks of the grid.
const SHAPES: [(usize, usize); 7] =
    [(48, 64), (70, 129), (200, 1000), (130, 2304), (1056, 4104), (9000, 256), (96, 8192)];

fn setup() -> Setup {
    Setup { step_tokens: 320, max_model_len: 512, ..Setup::default() }
}

/// Every type, group, and kind of offsets, order and rounding; each with some rows and shape, so
/// that all of them meet.
fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for codes in CODE_TYPES {
        for group in [16, 32, 64, 128, 0] {
            for (n, offsets) in [(0, false), (1, true)] {
                for rows in ROWS {
                    let i = cases.len();
                    let (outputs, k) = SHAPES[(i / ROWS.len() + i) % SHAPES.len()];
                    if grader::small_shapes() && outputs * k > 300_000 {
                        continue;
                    }
                    let ordered = (i / 3 + n) % 5 == 0;
                    let inputs = ROUNDINGS[i % ROUNDINGS.len()];
                    cases.push(Case { codes, group, offsets, ordered, inputs, rows, outputs, k });
                }
            }
        }
    }
    cases
}

/// Results of a case: plain, with bias and activation, and as logits.
fn run<D: grader::Graded>(b: &mut Bench<D>, case: &Case, seed: u64) -> Result<Results> {
    let Case { rows, outputs, k, .. } = *case;
    let parts = [outputs / 3, outputs - outputs / 3];
    let coded = Coded::new(case, &parts, seed);
    let weight = coded.upload(&mut b.dev, WeightKind::Linear, b.dtype);
    let x = b.input(rows, k, seed + 1);
    let bias = b.vector(9, outputs);
    let mut plain = b.tensor(rows, outputs);
    let mut active = b.tensor(rows, outputs);
    b.dev.linear(&weight, None, &x, &mut plain)?;
    b.dev.linear_act(&weight, Some(&bias), Activation::Silu, &x, &mut active)?;
    Ok(vec![("plain", b.dev.read(&plain, rows)?), ("active", b.dev.read(&active, rows)?)])
}

#[test]
fn products_of_codes() {
    each_type(|dtype| {
        for (n, case) in table().iter().enumerate() {
            compare!(dtype, &setup(), &case.name(), 1.5, |b| { run(b, case, n as u64) });
        }
    });
}

#[test]
fn gates_and_heads_of_codes() {
    each_type(|dtype| {
        for (n, (codes, rows)) in
            CODE_TYPES.iter().flat_map(|&codes| ROWS.map(|rows| (codes, rows))).enumerate()
        {
            let (half, k) = [(40, 136), (100, 1000), (1000, 2048)][n % 3];
            if grader::small_shapes() && half * k > 300_000 {
                continue;
            }
            let group = [32, 0, 128][n % 3];
            let inputs = ROUNDINGS[n % ROUNDINGS.len()];
            let outputs = 2 * half;
            let (offsets, ordered) = (n % 2 == 1 && group != 0, false);
            let case = Case { codes, group, offsets, ordered, inputs, rows, outputs, k };
            compare!(dtype, &setup(), &case.name(), 2.0, |b| {
                let coded = Coded::new(&case, &[half, half], n as u64);
                let gates = coded.upload(&mut b.dev, WeightKind::GateUp, b.dtype);
                let head = coded.upload(&mut b.dev, WeightKind::Linear, b.dtype);
                let x = b.input(rows, k, 3);
                let bias = b.vector(9, outputs);
                let mut gated = b.tensor(rows, half);
                b.dev.linear_act(&gates, Some(&bias), Activation::SiluGated, &x, &mut gated)?;

                let mut last = b.tensor(1, k);
                let mut logits = b.dev.logits_tensor(1, outputs)?;
                b.dev.gather(&x, &mut last)?;
                b.dev.logits(&head, None, &last, &mut logits)?;
                Ok(vec![("gated", b.dev.read(&gated, rows)?), ("head", b.dev.read(&logits, 1)?)])
            });
        }
    });
}

/// Plain weights that become codes on the way: the same codes on both devices.
#[test]
fn plain_weights_become_codes() {
    each_type(|dtype| {
        for over in [ScaleOver::Matrix, ScaleOver::Row, ScaleOver::Block] {
            for (rows, outputs, k) in [(1, 200, 328), (20, 384, 512), (70, 130, 264)] {
                let group = if over == ScaleOver::Block { 128 } else { k };
                let codes = CodeType::E4m3;
                let quant = QuantForm { codes, group, offsets: false, inputs: None };
                let case = format!("{over:?} {rows} x {outputs} x {k}");
                compare!(dtype, &setup(), &case, 1.5, |b| {
                    let x = b.input(rows, k, 3);
                    let parts = [outputs / 2, outputs / 2];
                    let weight = b.quantised(5, WeightKind::Linear, &parts, k, quant, over);
                    let mut out = b.tensor(rows, outputs);
                    b.dev.linear(&weight, None, &x, &mut out)?;
                    Ok(vec![("linear", b.dev.read(&out, rows)?)])
                });
            }
        }
    });
}

/// Where there is no kernel for experts of codes they become plain weights again, of the codes'
/// values.
#[test]
fn plain_experts_become_codes() {
    let (rows, hidden, ffn, experts, top_k) = (9, 264, 136, 4, 2);
    each_type(|dtype| {
        for over in [ScaleOver::Matrix, ScaleOver::Row, ScaleOver::Block] {
            let group = if over == ScaleOver::Block { 128 } else { hidden };
            let codes = CodeType::E4m3;
            let quant = QuantForm { codes, group, offsets: false, inputs: None };
            compare!(dtype, &setup(), &format!("{over:?}"), 1.5, |b| {
                let kind = WeightKind::Experts { count: experts, gated: true };
                let weight = b.quantised(5, kind, &vec![ffn; 2 * experts], hidden, quant, over);
                let routing = Routing::softmax(experts, top_k, true);
                let router = b.router(7, experts, hidden);
                let mut routes = b.dev.routes_tensor(rows, &routing)?;
                let x = b.input(rows, hidden, 8);
                let mut out = b.tensor(rows * top_k, ffn);
                b.dev.route(&router, None, None, &routing, &x, &mut routes)?;
                b.dev.experts_act(&weight, None, Activation::SiluGated, &routes, &x, &mut out)?;
                Ok(vec![("experts", b.dev.read(&out, rows * top_k)?)])
            });
        }
    });
}

/// The same product again, on the GPU alone: sums of parts are added in one order. (Of f32 the
/// library makes them, by whichever algorithm it finds faster.)
#[test]
fn sums_of_codes_repeat() {
    each_type(|dtype| {
        if dtype == DType::F32 {
            return;
        }
        let case = Case {
            codes: CodeType::Int4,
            group: 128,
            offsets: false,
            ordered: false,
            inputs: None,
            rows: 64,
            outputs: 1056,
            k: 4096,
        };
        let mut b = Bench::<Cuda>::new(dtype, &setup());
        let first = run(&mut b, &case, 3).unwrap();
        for _ in 0..5 {
            let mut b = Bench::<Cuda>::new(dtype, &setup());
            assert_eq!(run(&mut b, &case, 3).unwrap(), first, "{dtype:?}");
        }
    });
}

/// Mixtures whose experts are codes: few and many choices of each, both orders of what follows.
#[test]
fn experts_of_codes() {
    each_type(|dtype| {
        for (n, codes) in CODE_TYPES.iter().enumerate() {
            for (rows, hidden, ffn, experts, top_k) in [
                (1, 136, 72, 4, 2),
                (5, 2184, 40, 4, 2),
                (12, 264, 72, 6, 2),
                (33, 256, 200, 8, 2),
                (250, 520, 96, 3, 2),
            ] {
                let group = [0, 32, 128][n % 3];
                let inputs = [None, Some(InputQuant::E4m3Row), Some(InputQuant::Int8Row)][n % 3];
                let up = Case {
                    codes: *codes,
                    group,
                    offsets: n % 2 == 1,
                    ordered: false,
                    inputs,
                    rows,
                    outputs: 2 * ffn * experts,
                    k: hidden,
                };
                // What is between has other last bits on each device: rounded once more, it would
                // fall on other codes.
                let down = Case { outputs: hidden * experts, k: ffn, inputs: None, ..up };
                compare!(dtype, &setup(), &up.name(), 3.0, |b| {
                    let stack = |gated| WeightKind::Experts { count: experts, gated };
                    let parts = vec![ffn; 2 * experts];
                    let up = Coded::new(&up, &parts, 5).upload(&mut b.dev, stack(true), b.dtype);
                    let parts = vec![hidden; experts];
                    let down =
                        Coded::new(&down, &parts, 6).upload(&mut b.dev, stack(false), b.dtype);
                    let routing = Routing::softmax(experts, top_k, true);
                    let router = b.router(7, experts, hidden);
                    let mut routes = b.dev.routes_tensor(rows, &routing)?;
                    let x = b.input(rows, hidden, 8);
                    let mut middle = b.tensor(rows * top_k, ffn);
                    let mut parts = b.tensor(rows * top_k, hidden);
                    b.dev.route(&router, None, None, &routing, &x, &mut routes)?;
                    b.dev.experts_act(
                        &up,
                        None,
                        Activation::SiluGated,
                        &routes,
                        &x,
                        &mut middle,
                    )?;
                    b.dev.experts(&down, None, &routes, &middle, &mut parts)?;
                    Ok(vec![
                        ("middle", b.dev.read(&middle, rows * top_k)?),
                        ("parts", b.dev.read(&parts, rows * top_k)?),
                    ])
                });
            }
        }
    });
}

/// Gates and ups that a product of codes reads next are rounded as they are multiplied: to the bits
/// of the same with the activations in between.
#[test]
fn gates_are_rounded_as_they_are_made() {
    const INPUTS: usize = 264;
    const OUTPUTS: usize = 48;
    let quantised = |b: &mut Bench<Cuda>, seed, kind, parts: &[usize], inputs| {
        let rounded = Some(InputQuant::E4m3Row);
        let codes = CodeType::E4m3;
        let quant = QuantForm { codes, group: inputs, offsets: false, inputs: rounded };
        b.quantised(seed, kind, parts, inputs, quant, ScaleOver::Row)
    };
    each_type(|dtype| {
        // The widest row that a block holds, and the next.
        for half in [8, 136, 1000, 2072, 14336, 16384, 16392] {
            let mut b = Bench::<Cuda>::new(dtype, &setup());
            let up = quantised(&mut b, 5, WeightKind::GateUp, &[half, half], INPUTS);
            let down = quantised(&mut b, 6, WeightKind::Linear, &[OUTPUTS], half);
            let bias = b.vector(9, 2 * half);
            for (rows, bias, act) in [
                (5, None, Activation::SiluGated),
                (65, None, Activation::SiluGated),
                (300, None, Activation::SiluGated),
                (130, Some(&bias), Activation::SiluGated),
                (70, None, Activation::GeluTanhGated),
                (300, Some(&bias), Activation::SwigluOai),
            ] {
                let x = b.input(rows, INPUTS, 3);
                let mut gated = b.tensor(rows, half);
                let mut out = b.tensor(rows, OUTPUTS);
                let mut run = |between: bool| -> Result<Vec<f32>> {
                    b.dev.linear_act(&up, bias, act, &x, &mut gated)?;
                    if between {
                        b.dev.read(&gated, rows)?;
                    }
                    b.dev.linear(&down, None, &gated, &mut out)?;
                    b.dev.read(&out, rows)
                };
                // The first chooses ways to multiply.
                run(true).unwrap();
                let (apart, at_once) = (run(true).unwrap(), run(false).unwrap());
                assert_eq!(at_once, apart, "{dtype:?} {rows} x {half} {act:?}");
                assert!(apart.iter().any(|&x| x != 0.0), "{dtype:?} {rows} x {half}");
            }
        }
    });
}

/// Products of codes with a norm between them, of a single row: the first adds to the residual, and
/// those behind make the norm and its codes, to the bits of launches of their own.
#[test]
fn norms_between_products_of_codes() {
    let shapes = [(264, 136, 48), (4096, 1000, 200), (8192, 328, 5128), (8200, 64, 24)];
    let steps = [InputQuant::E4m3Row, InputQuant::E4m3Tensor { step: 0.03125 }];
    each_type(|dtype| {
        for (n, (width, inputs, outputs)) in shapes.into_iter().enumerate() {
            let kind = [NormKind::Rms, NormKind::RmsPlusOne][n % 2];
            for (rounding, rows) in [(steps[n % 2], 1), (steps[(n + 1) % 2], 1), (steps[0], 2)] {
                let mut b = Bench::<Cuda>::new(dtype, &setup());
                let mut quantised = |seed, kind, parts: &[usize], inputs| {
                    let (codes, inputs_of_codes) = (CodeType::E4m3, Some(rounding));
                    let quant =
                        QuantForm { codes, group: inputs, offsets: false, inputs: inputs_of_codes };
                    b.quantised(seed, kind, parts, inputs, quant, ScaleOver::Row)
                };
                let first = quantised(5, WeightKind::Linear, &[width], inputs);
                let gates = quantised(6, WeightKind::GateUp, &[outputs, outputs], width);
                let down = quantised(7, WeightKind::Linear, &[width], outputs);
                let next = quantised(8, WeightKind::Linear, &[outputs], width);
                let (weight, bias) = (b.vector(9, width), b.vector(10, width));
                let norm = Norm { kind, eps: 1e-5, weight, bias: None };
                let x = b.input(rows, inputs, 3);

                let mut run = |told: bool, between: bool| -> Result<Vec<Vec<f32>>> {
                    let mut residual = b.input(rows, width, 4);
                    let (mut delta, mut normed) = (b.tensor(rows, width), b.tensor(rows, width));
                    let (mut active, mut last) = (b.tensor(rows, outputs), b.tensor(rows, outputs));
                    let mut results = Vec::new();
                    for (weight, bias, after) in
                        [(&first, Some(&bias), &gates), (&down, None, &next)]
                    {
                        let next = told.then_some(Sublayer { first: after, last: &down });
                        let x = if bias.is_some() { &x } else { &active };
                        let (delta, residual, normed) = (&mut delta, &mut residual, &mut normed);
                        let seam = Seam { norm: &norm, delta, residual, normed, next };
                        b.dev.linear_add_norm(weight, bias, x, seam)?;
                        if between {
                            b.dev.read(normed, rows)?;
                        }
                        if bias.is_some() {
                            let act = Activation::SiluGated;
                            b.dev.linear_act(&gates, None, act, normed, &mut active)?;
                        }
                    }
                    b.dev.linear(&next, None, &normed, &mut last)?;
                    // Others may read it too.
                    results.push(b.dev.read(&last, rows)?);
                    b.dev.linear(&next, None, &normed, &mut last)?;
                    for (x, rows) in
                        [(&last, rows), (&active, rows), (&residual, rows), (&normed, rows)]
                    {
                        results.push(b.dev.read(x, rows)?);
                    }
                    Ok(results)
                };
                let case =
                    format!("{dtype:?} {rounding:?} {rows} x {inputs} to {width} to {outputs}");
                let apart = run(false, false).unwrap();
                assert_eq!(run(true, true).unwrap(), apart, "{case}, read between");
                assert_eq!(run(true, false).unwrap(), apart, "{case}");
                assert_eq!(apart[0], apart[1], "{case}");
                assert!(apart.iter().all(|part| part.iter().any(|&x| x != 0.0)), "{case}");
            }
        }
    });
}
