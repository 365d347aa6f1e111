//! Attention of the CPU device over pages of eight bits against loops in f64 that round K and V by
//! search among all numbers of the type. Part of `ops`.

use super::*;

/// All finite numbers of a type that are not negative, by code: fraction bits, bias, and how many.
fn numbers(kv: KvType) -> Vec<f64> {
    let (fraction, bias, count) = match kv {
        KvType::E4m3 => (3, 7, 0x7f),
        KvType::E5m2 => (2, 15, 0x7c),
        other => panic!("{other:?} has more than eight bits"),
    };
    let number = |code: u32| {
        let exponent = (code >> fraction) as i32;
        let part = f64::from(code & ((1 << fraction) - 1)) / f64::from(1 << fraction);
        if exponent == 0 {
            part * 2f64.powi(1 - bias)
        } else {
            (1.0 + part) * 2f64.powi(exponent - bias)
        }
    };
    (0..count).map(number).collect()
}

/// The nearest of them with the sign of x, ties to the even code.
fn nearest(numbers: &[f64], x: f64) -> f64 {
    let distance = |code: usize| (numbers[code] - x.abs()).abs();
    let better = |best: usize, code: usize| {
        let (a, b) = (distance(best), distance(code));
        if b < a || (b == a && code.is_multiple_of(2)) {
            code
        } else {
            best
        }
    };
    numbers[(0..numbers.len()).fold(0, better)].copysign(x)
}

fn specs() -> Vec<(AttnSpec, Option<Rope>)> {
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
    vec![
        (plain.clone(), None),
        (AttnSpec { kv_scales: KvScales { k: 0.037, v: 2.5 }, ..plain.clone() }, Some(rope)),
        // K and V beyond the largest E4M3.
        (AttnSpec { kv_scales: KvScales { k: 0.0015, v: 0.002 }, ..plain.clone() }, None),
        // Most of K among the least numbers of E4M3.
        (AttnSpec { kv_scales: KvScales { k: 90.0, v: 1.0 }, ..plain.clone() }, None),
        (AttnSpec { heads: 6, window: Some(19), softcap: Some(1.5), ..plain }, None),
    ]
}

#[test]
fn attention_over_pages_of_eight_bits_equals_f64() {
    for kv in [KvType::E4m3, KvType::E5m2] {
        let numbers = numbers(kv);
        let stored = |x: f64, scale: f32| {
            // Divided in f32, as is the rule.
            let divided = f64::from(x as f32 / scale);
            nearest(&numbers, divided) * f64::from(scale)
        };
        for (n, (spec, rope)) in specs().iter().enumerate() {
            let rows = 53;
            let (kv_heads, head_dim) = (spec.kv_heads, spec.head_dim);
            let shape = KvShape::heads(2, kv_heads, head_dim, kv);
            let mut dev = device(Isa::detect(), 2, rows, 0, shape);
            let q = spec.heads * head_dim;
            let width = q + 2 * kv_heads * head_dim;
            let x = Noise(15).values(rows * width);
            let mut qkv = tensor(&mut dev, rows, width, &x);
            let mut out = dev.tensor(rows, q).unwrap();

            dev.rope_store(1, spec, rope.as_ref(), &mut qkv).unwrap();
            dev.attend(1, spec, None, &qkv, &mut out).unwrap();

            let want = attention_f64(spec, rope.as_ref(), width, &x, None, &stored);
            close(&format!("case {n} {kv:?}"), &dev.read(&out, rows).unwrap(), &want, 3e-6);
        }
    }
}
