//! The ops of the CPU device over tables of shapes and types: against naive loops in f64, and bit
//! for bit between instruction sets, numbers of rows and numbers of threads.

#[path = "ops/drafts.rs"]
mod drafts;
#[path = "ops/experts.rs"]
mod experts;
#[path = "ops/layers.rs"]
mod layers;
#[path = "ops/latent.rs"]
mod latent;
#[path = "ops/quant.rs"]
mod quant;
#[path = "ops/quant_cases.rs"]
mod quant_cases;
#[path = "ops/kv_types.rs"]
mod kv_types;
#[path = "ops/scans.rs"]
mod scans;
#[path = "ops/states.rs"]
mod states;

use std::sync::Arc;

use triton_vllm::device::cpu::buffer::Tensor;
use triton_vllm::device::cpu::simd::Isa;
use triton_vllm::device::cpu::weight::Weight;
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::ops::*;
use triton_vllm::device::{
    Activation, AttnSpec, DType, DeviceLimits, HostTensor, Join, KvScales, KvShape, KvType, Norm,
    NormKind, QueryGrowth, Rope, Source, WeightDesc, WeightKind, XIelu,
};
use triton_vllm::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use triton_vllm::plan::{Feed, SlotChange, SlotOpen, StepPlan};

/// Uniform in [-1, 1) from a linear congruential generator.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

fn desc<'a>(
    kind: WeightKind,
    dtype: DType,
    (outputs, inputs): (usize, usize),
    bytes: &'a [u8],
) -> WeightDesc<'a> {
    let part = HostTensor { dtype: DType::F32, rows: outputs, cols: inputs, bytes: bytes.into() };
    let source = Source::Parts(vec![part]);
    WeightDesc {
        name: "w",
        kind,
        outputs,
        inputs,
        dtype,
        quant: None,
        transposed: false,
        join: Join::None,
        source,
    }
}

fn upload(
    dev: &mut Cpu,
    kind: WeightKind,
    dtype: DType,
    shape: (usize, usize),
    w: &[f32],
) -> Weight {
    let bytes: Vec<u8> = w.iter().flat_map(|x| x.to_le_bytes()).collect();
    dev.upload(desc(kind, dtype, shape, &bytes)).unwrap()
}

fn rounded(dtype: DType, w: &[f32]) -> Vec<f32> {
    w.iter()
        .map(|&x| match dtype {
            DType::F32 => x,
            DType::F16 => half::f16::from_f32(x).to_f32(),
            DType::BF16 => half::bf16::from_f32(x).to_f32(),
        })
        .collect()
}

/// A device whose current batch is one sequence of `rows` tokens 0, 1, 2, …, the first at
/// `position`.
fn device(isa: Isa, threads: usize, rows: usize, position: usize, kv: KvShape) -> Cpu {
    let mut dev = Cpu::with_isa(threads, isa).unwrap();
    let pages = (position + rows).div_ceil(16);
    let limits = DeviceLimits {
        step_tokens: rows.max(1),
        slots: 2,
        logits_rows: 2,
        pages: pages + 1,
        page_size: 16,
        max_model_len: position + rows,
        kv,
        state: Default::default(),
        snapshots: 0,
        spares: 0,
    };
    dev.reserve(&limits).unwrap();
    dev.begin(&plan(rows, position, pages)).unwrap();
    dev
}

fn plan(rows: usize, position: usize, pages: usize) -> StepPlan {
    let slot = SlotId(1);
    let open = SlotOpen {
        slot,
        adapter: AdapterId(0),
        tokens: Arc::from([]),
        prompt_tokens: 0,
        cached_tokens: position as u32,
        sampler: Arc::default(),
    };
    // Backwards, so that positions must go through the table.
    let pages = (1..=pages as u32).rev().map(PageId).collect();
    let mut plan = StepPlan {
        step: 1,
        changes: vec![
            SlotChange::Open(Box::new(open)),
            SlotChange::Pages { slot, group: GroupId(0), pages },
        ],
        chunk_tokens: (0..rows as u32).map(TokenId).collect(),
        ..StepPlan::default()
    };
    plan.push(slot, Feed::Known(0..rows), true);
    plan
}

fn no_kv() -> KvShape {
    KvShape::heads(1, 1, 1, KvType::F32)
}

/// A tensor with these values, put there by looking up a table.
fn tensor(dev: &mut Cpu, rows: usize, width: usize, values: &[f32]) -> Tensor {
    let table = upload(dev, WeightKind::Table, DType::F32, (rows, width), values);
    let mut out = dev.tensor(rows, width).unwrap();
    dev.embed(&table, 1.0, &mut out).unwrap();
    out
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(error <= tolerance * size, "{what}: element {i} is {g}, want {w} (largest {size})");
    }
}

fn act_f64(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Silu | Activation::SiluGated => x / (1.0 + (-x).exp()),
        Activation::GeluTanh | Activation::GeluTanhGated => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::XIelu(of) => {
            let [positive, negative, linear, limit] =
                [of.positive, of.negative, of.linear, of.limit].map(f64::from);
            if x > 0.0 {
                positive * x * x + linear * x
            } else {
                negative * (x.min(limit).exp_m1() - x) + linear * x
            }
        }
        Activation::SwigluOai => x.min(7.0) / (1.0 + (-1.702 * x.min(7.0)).exp()),
        Activation::Gelu | Activation::GeluGated => unreachable!("graded beside the code"),
    }
}

fn gated_f64(act: Activation, gate: f64, up: f64) -> f64 {
    let up = if act == Activation::SwigluOai { up.clamp(-7.0, 7.0) + 1.0 } else { up };
    act_f64(act, gate) * up
}

const SHAPES: &[(usize, usize)] =
    &[(1, 1), (3, 5), (64, 64), (65, 31), (128, 72), (200, 130), (313, 40)];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn linear_equals_f64() {
    let mut noise = Noise(1);
    for dtype in DTYPES {
        for &(n, k) in SHAPES {
            let rows = 7;
            let mut dev = device(Isa::detect(), 2, rows, 0, no_kv());
            let (x, w, b) = (noise.values(rows * k), noise.values(n * k), noise.values(n));
            let xt = tensor(&mut dev, rows, k, &x);
            let weight = upload(&mut dev, WeightKind::Linear, dtype, (n, k), &w);
            let bias = upload(&mut dev, WeightKind::Vector, DType::F32, (n, 1), &b);
            let w = rounded(dtype, &w);
            let sum = |r: usize, o: usize| -> f64 {
                (0..k).map(|i| f64::from(x[r * k + i]) * f64::from(w[o * k + i])).sum()
            };
            let cells = (0..rows).flat_map(|r| (0..n).map(move |o| (r, o)));
            let plain: Vec<f64> = cells.clone().map(|(r, o)| sum(r, o)).collect();
            let mut out = dev.tensor(rows, n).unwrap();
            dev.linear(&weight, None, &xt, &mut out).unwrap();
            let what = format!("{dtype:?} {n}x{k}");
            close(&what, &dev.read(&out, rows).unwrap(), &plain, 1e-6);
            let xielu = XIelu { positive: 0.7, negative: 1.2, linear: 0.5, limit: -1e-6 };
            for act in [
                Activation::Relu,
                Activation::ReluSquared,
                Activation::Silu,
                Activation::GeluTanh,
                Activation::QuickGelu,
                Activation::XIelu(xielu),
            ] {
                let want: Vec<f64> =
                    cells.clone().map(|(r, o)| act_f64(act, sum(r, o) + f64::from(b[o]))).collect();
                dev.linear_act(&weight, Some(&bias), act, &xt, &mut out).unwrap();
                close(&format!("{what} {act:?}"), &dev.read(&out, rows).unwrap(), &want, 1e-6);
            }
            // The head: one sampling row, which is the last one.
            let mut picked = dev.tensor(1, k).unwrap();
            let mut logits = dev.logits_tensor(1, n).unwrap();
            dev.gather(&xt, &mut picked).unwrap();
            dev.logits(&weight, Some(2.0), &picked, &mut logits).unwrap();
            let want: Vec<f64> = (0..n).map(|o| 2.0 * (sum(rows - 1, o) / 2.0).tanh()).collect();
            close(&format!("{what} head"), &dev.read(&logits, 1).unwrap(), &want, 1e-6);
        }
    }
}

#[test]
fn gated_linear_equals_f64() {
    let mut noise = Noise(2);
    for &(half, k) in &[(1, 3), (32, 16), (33, 40), (88, 48), (176, 64)] {
        let rows = 8;
        let n = 2 * half;
        let mut dev = device(Isa::detect(), 1, rows, 0, no_kv());
        // Large enough for clamps.
        let x: Vec<f32> = noise.values(rows * k).iter().map(|x| 6.0 * x).collect();
        let (w, b) = (noise.values(n * k), noise.values(n));
        let xt = tensor(&mut dev, rows, k, &x);
        let weight = upload(&mut dev, WeightKind::GateUp, DType::F32, (n, k), &w);
        let bias = upload(&mut dev, WeightKind::Vector, DType::F32, (n, 1), &b);
        let sum = |r: usize, o: usize| -> f64 {
            let products = (0..k).map(|i| f64::from(x[r * k + i]) * f64::from(w[o * k + i]));
            products.sum::<f64>() + f64::from(b[o])
        };
        for act in [Activation::SiluGated, Activation::GeluTanhGated, Activation::SwigluOai] {
            let mut want = Vec::new();
            for r in 0..rows {
                want.extend((0..half).map(|o| gated_f64(act, sum(r, o), sum(r, half + o))));
            }
            let mut out = dev.tensor(rows, half).unwrap();
            dev.linear_act(&weight, Some(&bias), act, &xt, &mut out).unwrap();
            close(&format!("{act:?} {half}x{k}"), &dev.read(&out, rows).unwrap(), &want, 1e-6);
        }
    }
}

/// Attention, too, has the same bits with every instruction set and number of threads.
#[test]
fn attention_is_the_same_everywhere() {
    let types = [
        (24, KvType::F32),
        (32, KvType::BF16),
        (64, KvType::F32),
        (40, KvType::E4m3),
        (64, KvType::E5m2),
    ];

    for (head_dim, dtype) in types {
        let heads = 4;
        let rows = 70;
        let spec = AttnSpec {
            heads,
            kv_heads: 2,
            head_dim,
            scale: 0.3,
            window: None,
            chunk: None,
            softcap: None,
            kv_scales: KvScales::ONE,
            q_only: false,
        };
        let width = (heads + 4) * head_dim;
        let x = Noise(6).values(rows * width);
        let run = |isa, threads| {
            let kv = KvShape::heads(1, 2, head_dim, dtype);
            let mut dev = device(isa, threads, rows, 0, kv);
            let mut qkv = tensor(&mut dev, rows, width, &x);
            let mut out = dev.tensor(rows, heads * head_dim).unwrap();
            dev.rope_store(0, &spec, None, &mut qkv).unwrap();
            dev.attend(0, &spec, None, &qkv, &mut out).unwrap();
            dev.read(&out, rows).unwrap()
        };
        let want = run(Isa::all()[0], 1);
        for isa in Isa::all() {
            assert!(run(isa, 2) == want, "{} head_dim {head_dim} {dtype:?}", isa.name());
        }
    }
}

/// Neither company, nor instruction set, nor threads change a bit (docs/architecture.md, Laws:
/// row-invariant CPU products).
#[test]
fn linear_is_row_invariant() {
    // The last one is big enough to be shared between threads.
    let shapes = [(64, 64), (65, 31), (130, 200), (1100, 600)];
    for (dtype, (n, k)) in DTYPES.into_iter().flat_map(|d| shapes.map(|s| (d, s))) {
        let mut noise = Noise(3);
        let most = if n > 1000 { 48 } else { 14 };
        let (x, w) = (noise.values(most * k), noise.values(n * k));
        let run = |isa, threads, from: usize, rows: usize| {
            let mut dev = device(isa, threads, rows, 0, no_kv());
            let xt = tensor(&mut dev, rows, k, &x[from * k..(from + rows) * k]);
            let weight = upload(&mut dev, WeightKind::Linear, dtype, (n, k), &w);
            let mut out = dev.tensor(rows, n).unwrap();
            dev.linear(&weight, None, &xt, &mut out).unwrap();
            dev.read(&out, rows).unwrap()
        };
        let scalar = Isa::all()[0];
        let want = run(scalar, 1, 0, most);
        for isa in Isa::all() {
            let what = format!("{} {dtype:?} {n}x{k}", isa.name());
            let counts = if n > 1000 { vec![1, 6, 11, most] } else { (1..=most).collect() };
            for rows in counts {
                let got = run(isa, 1 + rows % 3, 0, rows);
                assert!(got == want[..rows * n], "{what}: {rows} rows");
            }
            let row = most / 2;
            assert!(run(isa, 2, row, 1) == want[row * n..(row + 1) * n], "{what}: row {row} alone");
        }
    }
}

#[test]
fn norms_equal_f64() {
    let mut noise = Noise(4);
    for width in [1, 5, 16, 33, 768] {
        let rows = 3;
        let mut dev = device(Isa::detect(), 1, rows, 0, no_kv());
        let (x, d) = (noise.values(rows * width), noise.values(rows * width));
        let (w, b) = (noise.values(width), noise.values(width));
        let delta = tensor(&mut dev, rows, width, &d);

        for kind in [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer] {
            let vector = |dev: &mut Cpu, v: &[f32]| {
                upload(dev, WeightKind::Vector, DType::F32, (width, 1), v)
            };
            let weight = vector(&mut dev, &w);
            let bias = (kind == NormKind::Layer).then(|| vector(&mut dev, &b));
            let norm = Norm { kind, eps: 1e-5, weight, bias };
            let mut residual = tensor(&mut dev, rows, width, &x);
            let mut out = dev.tensor(rows, width).unwrap();

            let plain: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            dev.norm(&norm, &residual, &mut out).unwrap();
            let want = norm_f64(kind, width, &plain, &w, &b);
            close(&format!("{kind:?} {width}"), &dev.read(&out, rows).unwrap(), &want, 2e-6);

            let added: Vec<f64> = x.iter().zip(&d).map(|(x, d)| f64::from(x + d)).collect();
            dev.add_norm(&norm, &delta, &mut residual, &mut out).unwrap();
            let want = norm_f64(kind, width, &added, &w, &b);
            close(&format!("add {kind:?} {width}"), &dev.read(&out, rows).unwrap(), &want, 2e-6);
            close("residual", &dev.read(&residual, rows).unwrap(), &added, 1e-7);
        }
    }
}

#[test]
fn norms_of_heads_and_plain_sums_equal_f64() {
    let mut noise = Noise(11);
    let (rows, heads, kv_heads, d) = (3, 4, 2, 5);
    let spec = AttnSpec {
        heads,
        kv_heads,
        head_dim: d,
        scale: 1.0,
        window: None,
        chunk: None,
        softcap: None,
        kv_scales: KvScales::ONE,
        q_only: false,
    };
    let width = (heads + 2 * kv_heads) * d;
    let mut dev = device(Isa::detect(), 1, rows, 0, no_kv());

    for (kind, q_width, k_width) in
        [(NormKind::RmsPlusOne, d, d), (NormKind::Rms, heads * d, kv_heads * d)]
    {
        let (x, q, k) = (noise.values(rows * width), noise.values(q_width), noise.values(k_width));
        let norm = |dev: &mut Cpu, w: &[f32]| {
            let weight = upload(dev, WeightKind::Vector, DType::F32, (w.len(), 1), w);
            Norm { kind, eps: 1e-5, weight, bias: None }
        };
        let (q_norm, k_norm) = (norm(&mut dev, &q), norm(&mut dev, &k));
        let mut qkv = tensor(&mut dev, rows, width, &x);
        dev.norm_heads(&spec, &q_norm, &k_norm, &mut qkv).unwrap();

        let mut want = Vec::new();
        for row in x.chunks_exact(width) {
            let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
            want.extend(norm_f64(kind, q_width, &row[..heads * d], &q, &[]));
            want.extend(norm_f64(kind, k_width, &row[heads * d..][..kv_heads * d], &k, &[]));
            want.extend(&row[(heads + kv_heads) * d..]);
        }
        close(&format!("{kind:?}"), &dev.read(&qkv, rows).unwrap(), &want, 2e-6);
    }

    let (x, b) = (noise.values(rows * width), noise.values(width));
    let delta = tensor(&mut dev, rows, width, &x);
    let mut residual = tensor(&mut dev, rows, width, &x);
    dev.add(&delta, &mut residual).unwrap();
    let want: Vec<f64> = x.iter().map(|&x| 2.0 * f64::from(x)).collect();
    close("add", &dev.read(&residual, rows).unwrap(), &want, 1e-7);

    let mut clamped = tensor(&mut dev, rows, width, &x);
    dev.clamp(0.25, &mut clamped).unwrap();
    let limited: Vec<f64> = x.iter().map(|&x| f64::from(x).clamp(-0.25, 0.25)).collect();
    assert!(limited.contains(&0.25) && limited.contains(&-0.25));
    close("clamp", &dev.read(&clamped, rows).unwrap(), &limited, 1e-7);

    let bias = upload(&mut dev, WeightKind::Vector, DType::F32, (width, 1), &b);
    dev.bias_logits(&bias, &mut residual).unwrap();
    let want: Vec<f64> = want[..width].iter().zip(&b).map(|(x, &b)| x + f64::from(b)).collect();
    close("bias", &dev.read(&residual, 1).unwrap(), &want, 1e-6);
}

fn norm_f64(kind: NormKind, width: usize, x: &[f64], w: &[f32], b: &[f32]) -> Vec<f64> {
    let n = width as f64;
    let row = |row: &[f64]| -> Vec<f64> {
        let mean = if kind == NormKind::Layer { row.iter().sum::<f64>() / n } else { 0.0 };
        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let one = if kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
        let bias = |i: usize| if kind == NormKind::Layer { f64::from(b[i]) } else { 0.0 };
        let scaled = |(i, x): (usize, &f64)| {
            (x - mean) / (var + 1e-5).sqrt() * (f64::from(w[i]) + one) + bias(i)
        };
        row.iter().enumerate().map(scaled).collect()
    };
    x.chunks(width).flat_map(row).collect()
}

#[test]
fn attention_equals_f64() {
    let plain = AttnSpec {
        heads: 4,
        kv_heads: 2,
        head_dim: 24,
        scale: 0.3,
        window: None,
        chunk: None,
        softcap: None,
        kv_scales: KvScales::ONE,
        q_only: false,
    };
    let rope =
        Rope { rotary_dim: 24, inv_freq: inverse(24), magnitude: 1.0, growth: None, axes: None };
    let partial =
        Rope { rotary_dim: 8, inv_freq: inverse(8), magnitude: 1.25, growth: None, axes: None };
    let grown = QueryGrowth { beta: 0.7, ahead: 0, length: 16 };
    let growing = Rope { growth: Some(grown), ..partial.clone() };
    let wide = AttnSpec { heads: 2, kv_heads: 2, head_dim: 80, ..plain.clone() };
    let cases = [
        (plain.clone(), None),
        (plain.clone(), Some(rope)),
        (AttnSpec { window: Some(19), softcap: Some(1.5), ..plain.clone() }, Some(partial)),
        (plain.clone(), Some(growing)),
        (AttnSpec { chunk: Some(20), ..plain.clone() }, None),
        (AttnSpec { heads: 3, kv_heads: 1, head_dim: 32, ..plain }, None),
        (wide, None),
    ];

    for (n, (spec, rope)) in cases.iter().enumerate() {
        for dtype in DTYPES {
            let rows = 53;
            let kv = KvShape::heads(2, spec.kv_heads, spec.head_dim, dtype.into());
            let mut dev = device(Isa::detect(), 2, rows, 0, kv);
            let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
            let width = q + 2 * kv;
            let x = Noise(5).values(rows * width);
            let mut qkv = tensor(&mut dev, rows, width, &x);
            let mut out = dev.tensor(rows, q).unwrap();

            dev.rope_store(1, spec, rope.as_ref(), &mut qkv).unwrap();
            // Far below all scores, among them and far above, by turns.
            let sinks: Vec<f32> = (0..spec.heads).map(|h| [-3.0, 0.5, 9.0][h % 3]).collect();
            let shape = (spec.heads, 1);
            let weight = upload(&mut dev, WeightKind::Vector, DType::F32, shape, &sinks);
            let tolerance = match dtype {
                DType::F32 => 3e-6,
                DType::F16 => 2e-3,
                DType::BF16 => 2e-2,
            };
            for (sinks, weight) in [(None, None), (Some(&sinks[..]), Some(&weight))] {
                dev.attend(1, spec, weight, &qkv, &mut out).unwrap();
                let want = attention_f64(spec, rope.as_ref(), width, &x, sinks, &|x, _| x);
                let what = format!("case {n} {dtype:?}, sinks {sinks:?}");
                close(&what, &dev.read(&out, rows).unwrap(), &want, tolerance);
            }
        }
    }
}

fn inverse(rotary: usize) -> Vec<f32> {
    (0..rotary / 2).map(|i| 10000f32.powf(-((2 * i) as f32) / rotary as f32)).collect()
}

/// `stored` is what becomes of an element of K or V in a page, with its scale.
fn attention_f64(
    spec: &AttnSpec,
    rope: Option<&Rope>,
    width: usize,
    x: &[f32],
    sinks: Option<&[f32]>,
    stored: &dyn Fn(f64, f32) -> f64,
) -> Vec<f64> {
    let d = spec.head_dim;
    let rows = x.len() / width;
    let head = |row: usize, head: usize| -> Vec<f64> {
        let start = row * width + head * d;
        let mut v: Vec<f64> = x[start..start + d].iter().map(|&x| f64::from(x)).collect();
        if let Some(rope) = rope.filter(|_| head < spec.heads + spec.kv_heads) {
            let half = rope.rotary_dim / 2;
            for i in 0..half {
                let (sin, cos) = (row as f64 * f64::from(rope.inv_freq[i])).sin_cos();
                let (a, b, m) = (v[i], v[i + half], f64::from(rope.magnitude));
                (v[i], v[i + half]) = ((a * cos - b * sin) * m, (b * cos + a * sin) * m);
            }
        }
        if let Some(growth) = rope.and_then(|rope| rope.growth).filter(|_| head < spec.heads) {
            let steps = f64::from(row as u32 / growth.length);
            let by = 1.0 + f64::from(growth.beta) * (1.0 + steps).ln();
            v.iter_mut().for_each(|x| *x *= by);
        }
        if head >= spec.heads {
            let KvScales { k, v: v_scale } = spec.kv_scales;
            let scale = if head < spec.heads + spec.kv_heads { k } else { v_scale };
            v.iter_mut().for_each(|x| *x = stored(*x, scale));
        }
        v
    };

    let mut want = Vec::new();
    for row in 0..rows {
        for h in 0..spec.heads {
            let kv = h / (spec.heads / spec.kv_heads);
            let q = head(row, h);
            let in_run = |j: &usize| spec.chunk.is_none_or(|c| row / c == j / c);
            let in_window = |j: &usize| spec.window.is_none_or(|w| row - j < w);
            let visible: Vec<usize> = (0..=row).filter(in_run).filter(in_window).collect();

            let weight = |j: usize| {
                let k = head(j, spec.heads + kv);
                let s = q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(spec.scale);
                let cap = spec.softcap.map(f64::from);
                cap.map_or(s, |cap| cap * (s / cap).tanh()).exp()
            };
            let weights: Vec<f64> = visible.iter().map(|&j| weight(j)).collect();
            let sink = sinks.map_or(0.0, |sinks| f64::from(sinks[h]).exp());
            let total = weights.iter().sum::<f64>() + sink;

            let mut out = vec![0.0; d];
            for (&j, p) in visible.iter().zip(weights) {
                let v = head(j, spec.heads + spec.kv_heads + kv);
                out.iter_mut().zip(v).for_each(|(o, v)| *o += p / total * v);
            }
            want.extend(out);
        }
    }
    want
}

/// Positions come from the slot's length, ids from the chunk; out of range is an error, not a
/// crash.
#[test]
fn lookups_and_their_limits() {
    let mut dev = device(Isa::detect(), 1, 3, 5, no_kv());
    let mut out = dev.tensor(3, 2).unwrap();
    let table: Vec<f32> = (0..20).map(|x| x as f32).collect();
    let tied = upload(&mut dev, WeightKind::TableAndLinear, DType::BF16, (10, 2), &table);
    dev.embed(&tied, 2.0, &mut out).unwrap();
    assert_eq!(dev.read(&out, 3).unwrap(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    dev.add_positions(&tied, 2, &mut out).unwrap();
    assert_eq!(dev.read(&out, 3).unwrap(), [14.0, 17.0, 20.0, 23.0, 26.0, 29.0]);
    assert!(dev.add_positions(&tied, 3, &mut out).is_err(), "position 7 + 3 of 10");
    let short = upload(&mut dev, WeightKind::Table, DType::F32, (2, 2), &table[..4]);
    assert!(dev.embed(&short, 1.0, &mut out).is_err(), "token 2 of 2");
    assert!(dev.begin(&plan(4, 0, 1)).is_err(), "4 tokens of 3");
}
