//! Arithmetic of one vector: conversions, exp, activations, norms, dot products. Plain loops in a
//! fixed order, without fused multiply-adds, so that every instruction set gives the same bits.
//! Functions are inlined into the wrappers of `simd`, where the compiler may use wide registers.

use crate::device::{Activation, NormKind, XIelu};

/// Exact.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Exact for all values, subnormals, infinities and NaN included.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff);
    // Exponent and fraction moved into place are too small by 2^112 (the difference of the biases).
    let finite = f32::from_bits(magnitude << 13) * f32::from_bits((112 + 127) << 23);
    let special = f32::from_bits(0x7f80_0000 | (magnitude << 13));
    let value = if magnitude >= 0x7c00 { special } else { finite };
    f32::from_bits(value.to_bits() | (u32::from(bits & 0x8000) << 16))
}

/// e^x, relative error below 2e-7 where the result is normal; 0 below -87.3, e^88.3 above 88.3.
/// x = n ln 2 + r with |r| <= ln 2 / 2, Taylor to r^7 (the next term is below 6e-9), times 2^n by
/// bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few bits, so that n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 {
        0.0
    } else {
        p * scale
    }
}

/// By [`exp`], so with the same bits on every instruction set.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

/// x/2 (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3).
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * u))
}

/// x/2 (1 + erf(x / sqrt 2)). erf by its series up to 3, beyond by the asymptotic expansion of
/// erfc; in f64, error below 1e-9.
fn gelu_erf(x: f32) -> f32 {
    let t = f64::from(x).abs() * std::f64::consts::FRAC_1_SQRT_2;
    let two_over_sqrt_pi = std::f64::consts::FRAC_2_SQRT_PI;
    let erfc = if t < 3.0 {
        let (mut term, mut sum) = (t, t);
        for n in 1..64 {
            term *= -t * t / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        1.0 - two_over_sqrt_pi * sum
    } else {
        // Continued fraction of erfc, evaluated from its tail.
        let mut tail = t;
        for n in (1..=24).rev() {
            tail = t + f64::from(n) / 2.0 / tail;
        }
        (-t * t).exp() * two_over_sqrt_pi / 2.0 / tail
    };
    let upper = if x >= 0.0 { 1.0 - erfc / 2.0 } else { erfc / 2.0 };
    (f64::from(x) * upper) as f32
}

/// What gates and ups of [`Activation::SwigluOai`] are clamped to.
const OAI_LIMIT: f32 = 7.0;

/// The gate of [`Activation::SwigluOai`].
#[inline(always)]
fn silu_oai(x: f32) -> f32 {
    let x = x.min(OAI_LIMIT);
    x / (1.0 + exp(-1.702 * x))
}

fn xielu(of: &XIelu, x: f32) -> f32 {
    if x > 0.0 {
        (of.positive * x + of.linear) * x
    } else {
        of.negative * (x.min(of.limit).exp_m1() - x) + of.linear * x
    }
}

/// One activation over a slice; gated ones are the business of the caller ([`gate`]).
#[inline(always)]
pub fn activate(act: Activation, x: &mut [f32]) {
    match act {
        Activation::Relu => x.iter_mut().for_each(|v| *v = v.max(0.0)),
        Activation::ReluSquared => x.iter_mut().for_each(|v| *v = v.max(0.0) * v.max(0.0)),
        Activation::Gelu | Activation::GeluGated => x.iter_mut().for_each(|v| *v = gelu_erf(*v)),
        Activation::GeluTanh | Activation::GeluTanhGated => {
            x.iter_mut().for_each(|v| *v = gelu_tanh(*v));
        }
        Activation::QuickGelu => x.iter_mut().for_each(|v| *v = quick_gelu(*v)),
        Activation::Silu | Activation::SiluGated => x.iter_mut().for_each(|v| *v = silu(*v)),
        Activation::XIelu(of) => x.iter_mut().for_each(|v| *v = xielu(&of, *v)),
        Activation::SwigluOai => x.iter_mut().for_each(|v| *v = silu_oai(*v)),
    }
}

/// gate = act(gate) * up, as the activation has it.
#[inline(always)]
pub fn gate(act: Activation, gate: &mut [f32], up: &[f32]) {
    activate(act, gate);
    if act == Activation::SwigluOai {
        let up = up.iter().map(|u| u.clamp(-OAI_LIMIT, OAI_LIMIT) + 1.0);
        gate.iter_mut().zip(up).for_each(|(g, u)| *g *= u);
        return;
    }
    gate.iter_mut().zip(up).for_each(|(g, u)| *g *= u);
}

/// Partial sums of a reduction.
const WIDE: usize = 16;

/// Sum of 16 partial sums, pairwise. Spelt out, because the compiler makes few instructions of
/// this.
#[inline(always)]
fn fold(l: [f32; WIDE]) -> f32 {
    let a: [f32; 8] = std::array::from_fn(|i| l[i] + l[i + 8]);
    let b: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
    (b[0] + b[2]) + (b[1] + b[3])
}

/// ln(1 + e^x); x itself from 20 on, where that is the same.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 {
        x
    } else {
        exp(x).ln_1p()
    }
}

/// Sum of `f` over a slice, in 16 interleaved partial sums.
#[inline(always)]
pub fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; WIDE];
    let chunks = x.chunks_exact(WIDE);
    let rest = chunks.remainder();
    for c in chunks {
        for i in 0..WIDE {
            lanes[i] += f(c[i]);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane += f(v);
    }
    fold(lanes)
}

/// The largest element; NaN loses, -inf if there is none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    max_by(x, |v| v)
}

/// The same of `f` over a slice.
#[inline(always)]
pub fn max_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; WIDE];
    let chunks = x.chunks_exact(WIDE);
    let rest = chunks.remainder();
    for c in chunks {
        for i in 0..WIDE {
            lanes[i] = larger(lanes[i], f(c[i]));
        }
    }
    let most = lanes.into_iter().fold(f32::NEG_INFINITY, larger);
    rest.iter().fold(most, |a, &b| larger(a, f(b)))
}

/// a . b in 16 interleaved partial sums.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; WIDE];
    let (ca, cb) = (a.chunks_exact(WIDE), b.chunks_exact(WIDE));
    let (ra, rb) = (ca.remainder(), cb.remainder());
    for (x, y) in ca.zip(cb) {
        for i in 0..WIDE {
            lanes[i] += x[i] * y[i];
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(ra.iter().zip(rb)) {
        *lane += x * y;
    }
    fold(lanes)
}

/// out = norm(x) of an RMS kind, by a mean square that may be of more than x.
#[inline(always)]
pub fn rms_norm(kind: NormKind, eps: f32, w: &[f32], mean_square: f32, x: &[f32], out: &mut [f32]) {
    let plus = if kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
    let inv = 1.0 / (mean_square + eps).sqrt();
    for ((o, &v), &w) in out.iter_mut().zip(x).zip(w) {
        *o = v * inv * (w + plus);
    }
}

/// out = norm(x); the rules are those of [`NormKind`].
#[inline(always)]
pub fn norm(kind: NormKind, eps: f32, w: &[f32], b: Option<&[f32]>, x: &[f32], out: &mut [f32]) {
    let n = x.len() as f32;
    match kind {
        NormKind::Rms | NormKind::RmsPlusOne => {
            let mean_square = sum_by(x, |v| v * v) / n;
            rms_norm(kind, eps, w, mean_square, x, out);
        }
        NormKind::Layer => {
            let mean = sum_by(x, |v| v) / n;
            let var = sum_by(x, |v| (v - mean) * (v - mean)) / n;
            let inv = 1.0 / (var + eps).sqrt();
            for ((o, &v), &w) in out.iter_mut().zip(x).zip(w) {
                *o = (v - mean) * inv * w;
            }
            if let Some(b) = b {
                out.iter_mut().zip(b).for_each(|(o, &b)| *o += b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_conversions_are_exact() {
        for bits in 0..=u16::MAX {
            let (want, got) = (half::f16::from_bits(bits).to_f32(), f16_to_f32(bits));
            assert!(
                want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan()),
                "{bits:#x}"
            );
            let (want, got) = (half::bf16::from_bits(bits).to_f32(), bf16_to_f32(bits));
            assert!(
                want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan()),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn exp_is_accurate() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) / want - 1.0).abs();
            assert!(error < 2e-7, "exp({x}): relative error {error:e}");
            x += 0.001_37;
        }
        assert_eq!((exp(-1e9), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
    }

    #[test]
    fn activations_match_their_formulas() {
        // erf by Simpson's rule.
        let erf = |x: f64| {
            let n = 2000;
            let h = x / f64::from(n);
            let f = |i: i32| (-(f64::from(i) * h).powi(2)).exp();
            let inner: f64 = (1..n).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
            (f(0) + f(n) + inner) * h / 3.0 * std::f64::consts::FRAC_2_SQRT_PI
        };
        for i in -120..120 {
            let x = i as f32 / 20.0;
            let d = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
            let cases = [
                (Activation::Relu, d.max(0.0)),
                (Activation::ReluSquared, d.max(0.0).powi(2)),
                (Activation::QuickGelu, d / (1.0 + (-1.702 * d).exp())),
                (Activation::Silu, d / (1.0 + (-d).exp())),
                (Activation::GeluTanh, 0.5 * d * (1.0 + inner.tanh())),
                (Activation::Gelu, 0.5 * d * (1.0 + erf(d * 0.5f64.sqrt()))),
            ];
            for (act, want) in cases {
                let mut v = [x];
                activate(act, &mut v);
                let error = (f64::from(v[0]) - want).abs();
                assert!(error < 1e-6 * (1.0 + d.abs()), "{act:?}({x}) = {}, want {want}", v[0]);
            }
            assert!((f64::from(tanh(x)) - d.tanh()).abs() < 3e-7, "tanh({x})");
        }
    }
}
