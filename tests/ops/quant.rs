//! Weights of codes on the CPU device: products against f64, bit for bit whatever other rows,
//! instruction set and threads there are, and plain weights that become codes at upload.

use super::quant_cases::{
    e4m3, nearest_e4m3, product, rounded as rounded_inputs, table, Case, Coded, Dice, CODE_TYPES,
    ROUNDINGS,
};
use super::*;
use triton_vllm::device::{
    AdapterCapacity, AdapterPart, CodeType, InputQuant, QuantForm, Routing, ScaleOver,
};
use triton_vllm::ids::AdapterSlotId;

/// A buffer of NaN.
fn poisoned(dev: &mut Cpu, rows: usize, width: usize) -> Tensor {
    let mut tensor = dev.tensor(rows, width).unwrap();
    tensor.data.fill(f32::NAN);
    tensor
}

fn linear(dev: &mut Cpu, weight: &Weight, x: &[f32], (rows, outputs): (usize, usize)) -> Vec<f32> {
    let xt = tensor(dev, rows, x.len() / rows, x);
    let mut out = poisoned(dev, rows, outputs);
    dev.linear(weight, None, &xt, &mut out).unwrap();
    dev.read(&out, rows).unwrap()
}

/// Inputs that are not all of one size, so that blocks of a row have other steps.
fn inputs(case: &Case, seed: u64) -> Vec<f32> {
    let mut dice = Dice(seed);
    let value =
        |i: usize| dice.signed() * if (i % case.k / 32).is_multiple_of(2) { 1.0 } else { 0.03 };
    (0..case.rows * case.k).map(value).collect()
}

#[test]
fn every_form_equals_f64() {
    for (n, case) in table().into_iter().enumerate() {
        let Case { rows, outputs, k, .. } = case;
        let mut dev = device(Isa::detect(), 2, rows, 0, no_kv());
        let parts = [outputs / 3, outputs - outputs / 3];
        let coded = Coded::new(&case, &parts, n as u64);
        let weight = coded.upload(&mut dev, WeightKind::Linear, DType::F32);
        let x = inputs(&case, 1000 + n as u64);

        let got = linear(&mut dev, &weight, &x, (rows, outputs));
        let want = coded.product(&x);
        close(&case.name(), &got, &want, 2e-6);

        // The head: the last row.
        let xt = tensor(&mut dev, rows, k, &x);
        let mut picked = dev.tensor(1, k).unwrap();
        let mut logits = dev.logits_tensor(1, outputs).unwrap();
        dev.gather(&xt, &mut picked).unwrap();
        dev.logits(&weight, None, &picked, &mut logits).unwrap();
        let last = &want[(rows - 1) * outputs..];
        close(&case.name(), &dev.read(&logits, 1).unwrap(), last, 2e-6);
    }
}

/// A form for tests of other things than forms.
fn some_case(n: usize, rows: usize, outputs: usize, k: usize) -> Case {
    Case {
        codes: CODE_TYPES[n % CODE_TYPES.len()],
        group: [32, 0, 16, 128][n % 4],
        offsets: n % 3 == 1,
        ordered: n % 2 == 1,
        inputs: ROUNDINGS[n % ROUNDINGS.len()],
        rows,
        outputs,
        k,
    }
}

#[test]
fn gates_of_codes_equal_f64() {
    for n in 0..50 {
        let (half, k) = [(1, 3), (32, 16), (33, 40), (88, 48), (176, 161)][n / 5 % 5];
        let case = some_case(n, 8, 2 * half, k);
        let mut dev = device(Isa::detect(), 2, case.rows, 0, no_kv());
        let coded = Coded::new(&case, &[half, half], n as u64);
        let weight = coded.upload(&mut dev, WeightKind::GateUp, DType::BF16);
        let x = inputs(&case, 5);
        let b = Noise(n as u64).values(2 * half);
        let bias = upload(&mut dev, WeightKind::Vector, DType::F32, (2 * half, 1), &b);

        let xt = tensor(&mut dev, case.rows, k, &x);
        let mut out = poisoned(&mut dev, case.rows, half);
        dev.linear_act(&weight, Some(&bias), Activation::SiluGated, &xt, &mut out).unwrap();

        let mut want = Vec::new();
        for sums in coded.product(&x).chunks(2 * half) {
            let with = |o: usize| sums[o] + f64::from(b[o]);
            want.extend((0..half).map(|o| act_f64(Activation::Silu, with(o)) * with(half + o)));
        }
        close(&case.name(), &dev.read(&out, case.rows).unwrap(), &want, 4e-6);
    }
}

#[test]
fn experts_of_codes_equal_f64() {
    let (rows, hidden, ffn, experts, top_k) = (9, 72, 40, 5, 2);
    let routing = Routing::softmax(experts, top_k, true);
    for n in 0..40 {
        let case = some_case(n, rows, experts * 2 * ffn, hidden);
        let below = Case { outputs: experts * hidden, k: ffn, inputs: None, ..case };
        let mut dev = device(Isa::detect(), 2, rows, 0, no_kv());
        let up = Coded::new(&case, &vec![ffn; 2 * experts], n as u64);
        let down = Coded::new(&below, &vec![hidden; experts], 99 + n as u64);
        let stack = |gated| WeightKind::Experts { count: experts, gated };
        let up_weight = up.upload(&mut dev, stack(true), DType::F32);
        let down_weight = down.upload(&mut dev, stack(false), DType::F32);
        let x = inputs(&case, 6);
        let router = Noise(7).values(experts * hidden);
        let router = upload(&mut dev, WeightKind::Linear, DType::F32, (experts, hidden), &router);

        let xt = tensor(&mut dev, rows, hidden, &x);
        let mut routes = dev.routes_tensor(rows, &routing).unwrap();
        let mut middle = poisoned(&mut dev, rows * top_k, ffn);
        let mut parts = poisoned(&mut dev, rows * top_k, hidden);
        dev.route(&router, None, None, &routing, &xt, &mut routes).unwrap();
        dev.experts_act(&up_weight, None, Activation::SiluGated, &routes, &xt, &mut middle)
            .unwrap();
        dev.experts(&down_weight, None, &routes, &middle, &mut parts).unwrap();

        let routes = dev.read(&routes, rows).unwrap();
        let middle = dev.read(&middle, rows * top_k).unwrap();
        let (all_up, all_down) = (up.values(), down.values());
        let mut want_middle = Vec::new();
        let mut want_parts = Vec::new();
        for choice in 0..rows * top_k {
            let (r, j) = (choice / top_k, choice % top_k);
            let expert = routes[r * 2 * top_k + j] as usize;
            let w = &all_up[expert * 2 * ffn * hidden..][..2 * ffn * hidden];
            let sums = product(case.inputs, &x[r * hidden..][..hidden], w, hidden);
            let gate = |o: usize| act_f64(Activation::Silu, sums[o]) * sums[ffn + o];
            want_middle.extend((0..ffn).map(gate));
            let w = &all_down[expert * hidden * ffn..][..hidden * ffn];
            want_parts.extend(product(None, &middle[choice * ffn..][..ffn], w, ffn));
        }
        close(&case.name(), &middle, &want_middle, 4e-6);
        close(&below.name(), &dev.read(&parts, rows * top_k).unwrap(), &want_parts, 4e-6);
    }
}

/// Neither company, nor instruction set, nor threads change a bit (docs/architecture.md, Laws:
/// row-invariant CPU products).
#[test]
fn products_of_codes_are_row_invariant() {
    for n in 0..50 {
        // The last one is big enough to be shared between threads.
        let (outputs, k) = [(64, 64), (70, 96), (130, 200), (33, 129), (700, 1000)][n / 5 % 5];
        let case = some_case(n, 15, outputs, k);
        let coded = Coded::new(&case, &[outputs], n as u64);
        let x = inputs(&case, 8);
        let run = |isa, threads, from: usize, rows: usize| {
            let mut dev = device(isa, threads, rows, 0, no_kv());
            let weight = coded.upload(&mut dev, WeightKind::Linear, DType::F32);
            linear(&mut dev, &weight, &x[from * k..(from + rows) * k], (rows, outputs))
        };
        let want = run(Isa::all()[0], 1, 0, case.rows);
        for isa in Isa::all() {
            for (from, rows) in [(0, 15), (0, 1), (3, 1), (14, 1), (2, 5), (1, 6), (4, 7)] {
                let got = run(isa, 1 + rows % 3, from, rows);
                let same = got == want[from * outputs..(from + rows) * outputs];
                assert!(same, "{} {}: {from} + {rows}", isa.name(), case.name());
            }
        }
    }
}

/// A row of zeros, rows of equal elements and rows beyond the largest codes.
#[test]
fn special_rows_are_rounded_as_written() {
    let k = 160;
    let mut x = vec![0.0; k];
    x.extend(vec![-0.7; k]);
    x.extend((0..k).map(|i| if i == 3 { 1e30 } else { i as f32 }));
    x.extend((0..k).map(|i| i as f32 * 1e-12));
    x.extend((0..k).map(|i| 5.0 + i as f32 * 0.01));

    for inputs in ROUNDINGS {
        let codes = CodeType::Int4;
        let case = Case {
            codes,
            group: 32,
            offsets: false,
            ordered: false,
            inputs,
            rows: 5,
            outputs: 10,
            k,
        };
        let coded = Coded::new(&case, &[10], 3);
        let mut dev = device(Isa::detect(), 1, case.rows, 0, no_kv());
        let weight = coded.upload(&mut dev, WeightKind::Linear, DType::F32);
        let got = linear(&mut dev, &weight, &x, (case.rows, case.outputs));
        let want = coded.product(&x);

        for (row, (got, want)) in got.chunks(10).zip(want.chunks(10)).enumerate() {
            let size = want.iter().fold(0f64, |most, w| most.max(w.abs()));
            for (g, w) in got.iter().zip(want) {
                let error = (f64::from(*g) - w).abs();
                assert!(error <= 1e-5 * size, "{inputs:?} row {row}: {g}, want {w} of {size}");
            }
        }
    }
}

/// Inputs between two codes, where a product with an inverse and a quotient part: by the identity,
/// which shows them, each is the very number.
#[test]
fn inputs_between_codes_are_rounded_to_the_bit() {
    let (rows, k) = (64, 128);
    let case = Case {
        codes: CodeType::Int8,
        group: 0,
        offsets: false,
        ordered: false,
        inputs: None,
        rows,
        outputs: k,
        k,
    };
    for inputs in ROUNDINGS.into_iter().flatten() {
        let mut coded = Coded::new(&Case { inputs: Some(inputs), ..case }, &[k], 1);
        coded.scales.fill(1.0);
        coded.codes = (0..k * k).map(|i| u8::from(i % (k + 1) == 0)).collect();

        let mut dice = Dice(17);
        let mut x = Vec::new();
        for _ in 0..rows {
            let most = 1.5 + 0.5 * dice.signed();
            let step = match inputs {
                InputQuant::E4m3Tensor { step } | InputQuant::Int8Tensor { step, .. } => step,
                InputQuant::E4m3Row | InputQuant::E4m3Block => most / 448.0,
                InputQuant::Int8Row => most / 127.0,
                InputQuant::Int8RowWithZero => (most + 0.5) / 255.0,
            };
            let e4m3_codes = matches!(
                inputs,
                InputQuant::E4m3Tensor { .. } | InputQuant::E4m3Row | InputQuant::E4m3Block
            );
            x.extend([most, -0.5]);
            x.extend((2..k).map(|i| {
                let between = if e4m3_codes {
                    let code = (i % 0x7e) as u8;
                    (e4m3(code) + e4m3(code + 1)) / 2.0
                } else {
                    i as f64 + 0.5
                };
                let x = (between * f64::from(step)) as f32;
                [x.next_down(), x, x.next_up()][dice.next() as usize % 3].min(most)
            }));
        }

        let mut dev = device(Isa::detect(), 1, rows, 0, no_kv());
        let weight = coded.upload(&mut dev, WeightKind::Linear, DType::F32);
        let got = linear(&mut dev, &weight, &x, (rows, k));
        for (row, (got, x)) in got.chunks(k).zip(x.chunks(k)).enumerate() {
            let want: Vec<f32> =
                rounded_inputs(Some(inputs), x).iter().map(|&x| x as f32).collect();
            assert_eq!(got, want, "{inputs:?} row {row}");
        }
    }
}

/// A code that is no number makes its output NaN, and no other.
#[test]
fn codes_that_are_no_numbers_stay_in_their_output() {
    let case = Case {
        codes: CodeType::E4m3,
        group: 16,
        offsets: false,
        ordered: false,
        inputs: None,
        rows: 2,
        outputs: 70,
        k: 40,
    };
    for isa in Isa::all() {
        let mut coded = Coded::new(&case, &[70], 3);
        coded.codes[5 * 40 + 17] = 0x7f;
        coded.codes[66 * 40] = 0xff;
        let mut dev = device(isa, 1, case.rows, 0, no_kv());
        let weight = coded.upload(&mut dev, WeightKind::Linear, DType::F32);
        let got = linear(&mut dev, &weight, &inputs(&case, 1), (2, 70));
        for (i, x) in got.iter().enumerate() {
            assert_eq!(x.is_nan(), [5, 66].contains(&(i % 70)), "output {i} is {x}");
        }
    }
}

/// The delta of an adapter is of the row as it was before it was rounded.
#[test]
fn adapters_stand_behind_codes() {
    let case = some_case(6, 4, 70, 96);
    assert!(case.inputs.is_some());
    let coded = Coded::new(&case, &[70], 3);
    let mut dev = device(Isa::detect(), 1, case.rows, 0, no_kv());
    let mut weight = coded.upload(&mut dev, WeightKind::Linear, DType::F32);
    let x = inputs(&case, 2);
    let base = coded.product(&x);
    dev.adapt(&mut weight, &[70], AdapterCapacity { slots: 1, rank: 3 }).unwrap();
    let mut noise = Noise(9);
    let (a, b) = (noise.values(3 * 96), noise.values(3 * 70));
    let (a_bytes, b_bytes) = (bytes_of(&a), bytes_of(&b));
    let host = |rows, cols, bytes| HostTensor { dtype: DType::F32, rows, cols, bytes };
    let part = AdapterPart { a: host(3, 96, (&a_bytes).into()), b: host(3, 70, (&b_bytes).into()) };
    dev.install(&mut weight, AdapterSlotId(0), &[Some(part)]).unwrap();

    let mut next = plan(case.rows, 0, 1);
    next.step = 2;
    if let SlotChange::Open(open) = &mut next.changes[0] {
        open.adapter = AdapterId(1);
    }
    let held = SlotChange::Adapter { adapter_slot: AdapterSlotId(0), adapter: AdapterId(1) };
    next.changes.splice(0..0, [SlotChange::Close { slot: SlotId(1) }, held]);
    dev.begin(&next).unwrap();
    let got = linear(&mut dev, &weight, &x, (case.rows, 70));
    let mut want = base;
    for (x, sums) in x.chunks(96).zip(want.chunks_mut(70)) {
        for (a, b) in a.chunks(96).zip(b.chunks(70)) {
            let low: f64 = a.iter().zip(x).map(|(a, x)| f64::from(*a) * f64::from(*x)).sum();
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += low * f64::from(*b));
        }
    }
    close("with an adapter", &got, &want, 2e-6);
}

/// What a plain matrix becomes by the rules of [`ScaleOver`].
fn quantised(over: ScaleOver, w: &[f32], k: usize) -> Vec<f64> {
    let rows = w.len() / k;
    let (tall, wide) = match over {
        ScaleOver::Matrix => (rows, k),
        ScaleOver::Row => (1, k),
        ScaleOver::Block => (128, 128),
    };
    let mut values = vec![0.0; w.len()];
    for top in (0..rows).step_by(tall) {
        for left in (0..k).step_by(wide) {
            let columns = left..k.min(left + wide);
            let of = |n: usize| n * k + columns.start..n * k + columns.end;
            let of_block: Vec<usize> = (top..rows.min(top + tall)).flat_map(of).collect();
            let most = of_block.iter().fold(0f32, |most, &at| most.max(w[at].abs()));

            let scale = match over {
                ScaleOver::Matrix => most / 448.0,
                ScaleOver::Row => (most / 448.0).max(1.0 / (448.0 * 512.0)),
                ScaleOver::Block => most.max(1e-4) / 448.0,
            };
            for at in of_block {
                let scaled = match over {
                    ScaleOver::Row => w[at] / scale,
                    ScaleOver::Matrix | ScaleOver::Block => w[at] * (1.0 / scale),
                };
                values[at] = f64::from(scale) * e4m3(nearest_e4m3(scaled));
            }
        }
    }
    values
}

#[test]
fn plain_weights_become_codes_as_written() {
    let mut noise = Noise(21);
    for (over, group) in [(ScaleOver::Matrix, 0), (ScaleOver::Row, 0), (ScaleOver::Block, 128)] {
        for (kind, parts, k) in [
            (WeightKind::Linear, vec![70, 30, 60], 96),
            (WeightKind::GateUp, vec![100, 100], 200),
            (WeightKind::Linear, vec![5], 129),
        ] {
            let group = if group == 0 { k } else { group };
            let form = QuantForm { codes: CodeType::E4m3, group, offsets: false, inputs: None };
            let outputs: usize = parts.iter().sum();
            // Parts of other sizes: one matrix all the same.
            let sizes = parts.iter().zip([1.0, 0.1, 3.0]);
            let stored: Vec<f32> = sizes
                .flat_map(|(&rows, size)| noise.values(rows * k).into_iter().map(move |x| x * size))
                .collect();
            for dtype in [DType::F32, DType::BF16] {
                let bytes: Vec<Vec<u8>> = split(&stored, &parts, k).map(bytes_of).collect();
                let hosts = parts.iter().zip(&bytes).map(|(&rows, bytes)| {
                    let bytes = bytes.into();
                    HostTensor { dtype: DType::F32, rows, cols: k, bytes }
                });
                let desc = WeightDesc {
                    name: "w",
                    kind,
                    outputs,
                    inputs: k,
                    dtype,
                    quant: Some(form),
                    transposed: false,
                    join: Join::None,
                    source: Source::Quantise { parts: hosts.collect(), over },
                };
                let rows = 3;
                let mut dev = device(Isa::detect(), 2, rows, 0, no_kv());
                let weight = dev.upload(desc).unwrap();
                let x = noise.values(rows * k);
                let w = quantised(over, &rounded(dtype, &stored), k);
                let sums = product(None, &x, &w, k);
                let what = format!("{over:?} {kind:?} {dtype:?}");
                if kind == WeightKind::Linear {
                    let got = linear(&mut dev, &weight, &x, (rows, outputs));
                    close(&what, &got, &sums, 2e-6);
                    continue;
                }
                let xt = tensor(&mut dev, rows, k, &x);
                let half = outputs / 2;
                let mut out = poisoned(&mut dev, rows, half);
                dev.linear_act(&weight, None, Activation::SiluGated, &xt, &mut out).unwrap();
                let gated = |sums: &[f64]| -> Vec<f64> {
                    (0..half).map(|o| act_f64(Activation::Silu, sums[o]) * sums[half + o]).collect()
                };
                let want: Vec<f64> = sums.chunks(outputs).flat_map(gated).collect();
                close(&what, &dev.read(&out, rows).unwrap(), &want, 4e-6);
            }
        }
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Values by parts.
fn split<'a>(
    values: &'a [f32],
    parts: &'a [usize],
    k: usize,
) -> impl Iterator<Item = &'a [f32]> + 'a {
    let mut first = 0;
    parts.iter().map(move |rows| {
        first += rows * k;
        &values[first - rows * k..first]
    })
}

/// Each expert is a matrix of its own.
#[test]
fn experts_become_codes_one_by_one() {
    let (experts, rows_each, k) = (3, 20, 50);
    let mut noise = Noise(22);
    let stored: Vec<f32> = (0..experts)
        .flat_map(|e| noise.values(rows_each * k).into_iter().map(move |x| x * 10f32.powi(e)))
        .collect();
    let form = QuantForm { codes: CodeType::E4m3, group: k, offsets: false, inputs: None };
    let bytes = bytes_of(&stored);
    let outputs = experts as usize * rows_each;
    let part = HostTensor { dtype: DType::F32, rows: outputs, cols: k, bytes: (&bytes).into() };
    let desc = WeightDesc {
        name: "w",
        kind: WeightKind::Experts { count: experts as usize, gated: false },
        outputs,
        inputs: k,
        dtype: DType::F32,
        quant: Some(form),
        transposed: false,
        join: Join::None,
        source: Source::Quantise { parts: vec![part], over: ScaleOver::Matrix },
    };
    let mut dev = device(Isa::detect(), 1, 1, 0, no_kv());
    let weight = dev.upload(desc).unwrap();
    let x = noise.values(experts as usize * k);

    // One row that chooses all of them.
    let routing = Routing::softmax(experts as usize, experts as usize, true);
    let router = upload(&mut dev, WeightKind::Linear, DType::F32, (3, 1), &[3.0, 2.0, 1.0]);
    let one = tensor(&mut dev, 1, 1, &[1.0]);
    let mut routes = dev.routes_tensor(1, &routing).unwrap();
    dev.route(&router, None, None, &routing, &one, &mut routes).unwrap();
    let mut xt = dev.tensor(3, k).unwrap();
    xt.data.copy_from_slice(&x);
    let mut out = poisoned(&mut dev, 3, rows_each);
    dev.experts(&weight, None, &routes, &xt, &mut out).unwrap();

    let got = dev.read(&out, 3).unwrap();
    for e in 0..3 {
        let w = quantised(ScaleOver::Matrix, &stored[e * rows_each * k..][..rows_each * k], k);
        let want = product(None, &x[e * k..][..k], &w, k);
        close(&format!("expert {e}"), &got[e * rows_each..][..rows_each], &want, 2e-6);
    }
}

#[test]
fn dummy_codes_make_values_of_about_the_size() {
    for codes in CODE_TYPES {
        for offsets in [false, true] {
            let form = QuantForm { codes, group: 32, offsets, inputs: None };
            let (outputs, k) = (70, 64);
            let desc = WeightDesc {
                name: "w",
                kind: WeightKind::Linear,
                outputs,
                inputs: k,
                dtype: DType::F32,
                quant: Some(form),
                transposed: false,
                join: Join::None,
                source: Source::Dummy { seed: 3, scale: 0.25 },
            };
            let mut dev = device(Isa::detect(), 1, k, 0, no_kv());
            let weight = dev.upload(desc).unwrap();
            // The identity shows the values.
            let x: Vec<f32> = (0..k * k).map(|i| f32::from(i % (k + 1) == 0)).collect();
            let values = linear(&mut dev, &weight, &x, (k, outputs));
            let most = values.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(most > 0.2 && most <= 0.2501, "{codes:?}: {most}");
            let mean = values.iter().map(|x| x.abs()).sum::<f32>() / values.len() as f32;
            assert!(mean > 0.01, "{codes:?}: {mean}");
        }
    }
}

/// What the loader should not have asked for is an error with the weight's name, not a crash.
#[test]
fn what_does_not_fit_is_refused() {
    let case = some_case(4, 1, 6, 40);
    let fits = || {
        let coded = Coded::new(&case, &[6], 1);
        WeightDesc {
            name: "the.weight",
            kind: WeightKind::Linear,
            outputs: 6,
            inputs: 40,
            dtype: DType::F32,
            quant: Some(case.form()),
            transposed: false,
            join: Join::None,
            source: coded.source(),
        }
    };
    let mut dev = device(Isa::detect(), 1, 1, 0, no_kv());
    dev.upload(fits()).unwrap();

    let plain =
        || vec![HostTensor { dtype: DType::F32, rows: 6, cols: 40, bytes: (&[][..]).into() }];
    let form = case.form();
    let bad = [
        WeightDesc { outputs: 7, ..fits() },
        WeightDesc { inputs: 41, ..fits() },
        WeightDesc { kind: WeightKind::TableAndLinear, ..fits() },
        WeightDesc { quant: None, ..fits() },
        WeightDesc { quant: Some(QuantForm { offsets: !form.offsets, ..form }), ..fits() },
        WeightDesc { quant: Some(QuantForm { group: 16, ..form }), ..fits() },
        WeightDesc { quant: Some(QuantForm { codes: CodeType::E4m3, ..form }), ..fits() },
        WeightDesc { source: Source::Constant(1.0), ..fits() },
        WeightDesc { source: Source::Parts(plain()), ..fits() },
        WeightDesc { source: Source::Quantise { parts: plain(), over: ScaleOver::Row }, ..fits() },
    ];

    for (n, desc) in bad.into_iter().enumerate() {
        let error = dev.upload(desc).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("the.weight"), "{n}: {error}");
    }
}
