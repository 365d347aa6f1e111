//! Blocks of GGUF tensors taken apart: integers, and for each group of them a scale and an offset,
//! value = scale * integer + offset in f32, the same bits as the `gguf` package computes. Called
//! through the rows of `block_types`; it knows no tensor. What lies where is said in ggml's
//! ggml-quants.h; in comments d and m are a block's half-precision scale and minimum. All lengths
//! are those of the type: a whole block, its elements, its groups.

use half::f16;

/// The integers of a block.
pub(super) type Integers = fn(block: &[u8], integers: &mut [i8]);
/// The scales of a block's groups, and their offsets where the type has them.
pub(super) type Scales = fn(block: &[u8], scales: &mut [f32], offsets: &mut [f32]);

/// What the codes of IQ4_NL stand for.
pub(super) const IQ4_NL: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The half that begins at a byte.
fn half_at(block: &[u8], at: usize) -> f32 {
    match block.get(at..at + 2) {
        Some(&[low, high]) => f16::from_le_bytes([low, high]).to_f32(),
        _ => 0.0,
    }
}

/// d in front.
pub(super) fn d_first(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
    scales[0] = half_at(block, 0);
}

/// d and m in front.
pub(super) fn d_and_m_first(block: &[u8], scales: &mut [f32], offsets: &mut [f32]) {
    scales[0] = half_at(block, 0);
    offsets[0] = half_at(block, 2);
}

/// Fours: the low halves of so many bytes, then the high ones.
fn fours(codes: &[u8], integers: &mut [i8], of: impl Fn(u8) -> i8) {
    let (low, high) = integers.split_at_mut(codes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(codes) {
        *low = of(byte & 15);
        *high = of(byte >> 4);
    }
}

/// d, 16 bytes of fours: d * (q - 8).
pub(super) fn q4_0(block: &[u8], integers: &mut [i8]) {
    fours(&block[2..], integers, |q| q as i8 - 8);
}

/// d, m, 16 bytes of fours: d * q + m.
pub(super) fn q4_1(block: &[u8], integers: &mut [i8]) {
    fours(&block[4..], integers, |q| q as i8);
}

/// d, 16 bytes of fours: d * the entry of the table.
pub(super) fn iq4_nl(block: &[u8], integers: &mut [i8]) {
    fours(&block[2..], integers, |q| IQ4_NL[usize::from(q)]);
}

/// Fours, and a fifth bit of each element in 32 bits.
fn fives(bits: &[u8], codes: &[u8], integers: &mut [i8], less: i8) {
    fours(codes, integers, |q| q as i8);
    for (integers, bits) in integers.chunks_exact_mut(8).zip(bits) {
        for (n, integer) in integers.iter_mut().enumerate() {
            *integer = (*integer | ((bits >> n & 1) << 4) as i8) - less;
        }
    }
}

/// d, 32 fifth bits, 16 bytes of fours: d * (q - 16).
pub(super) fn q5_0(block: &[u8], integers: &mut [i8]) {
    fives(&block[2..6], &block[6..], integers, 16);
}

/// d, m, 32 fifth bits, 16 bytes of fours: d * q + m.
pub(super) fn q5_1(block: &[u8], integers: &mut [i8]) {
    fives(&block[4..8], &block[8..], integers, 0);
}

/// d, 32 bytes: d * q.
pub(super) fn q8_0(block: &[u8], integers: &mut [i8]) {
    for (integer, byte) in integers.iter_mut().zip(&block[2..]) {
        *integer = byte.cast_signed();
    }
}

/// Twos: of each 128 elements 32 bytes, whose lowest pairs of bits come first.
fn twos(codes: &[u8], integers: &mut [i8]) {
    for (codes, integers) in codes.chunks_exact(32).zip(integers.chunks_exact_mut(128)) {
        for (n, integers) in integers.chunks_exact_mut(32).enumerate() {
            for (integer, byte) in integers.iter_mut().zip(codes) {
                *integer = (byte >> (2 * n) & 3) as i8;
            }
        }
    }
}

/// 16 bytes with a scale and a minimum of four bits each, 64 bytes of twos, d, m:
/// d * scale * q - m * minimum.
pub(super) fn q2_k(block: &[u8], integers: &mut [i8]) {
    twos(&block[16..80], integers);
}

/// See [`q2_k`].
pub(super) fn q2_k_scales(block: &[u8], scales: &mut [f32], offsets: &mut [f32]) {
    let d = half_at(block, 80);
    let m = half_at(block, 82);
    for ((scale, offset), both) in scales.iter_mut().zip(offsets).zip(&block[..16]) {
        *scale = d * f32::from(both & 15);
        *offset = -(m * f32::from(both >> 4));
    }
}

/// 32 bytes of third bits, 64 of twos, 12 of scales of six bits less 32, d:
/// d * scale * (q - 4).
pub(super) fn q3_k(block: &[u8], integers: &mut [i8]) {
    twos(&block[32..96], integers);
    for (n, integers) in integers.chunks_exact_mut(32).enumerate() {
        for (integer, third) in integers.iter_mut().zip(&block[..32]) {
            *integer += 4 * (third >> n & 1) as i8 - 4;
        }
    }
}

/// See [`q3_k`].
pub(super) fn q3_k_scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
    let sixes = &block[96..108];
    let d = half_at(block, 108);
    for (j, scale) in scales.iter_mut().enumerate() {
        let low = if j < 8 { sixes[j] & 15 } else { sixes[j - 8] >> 4 };
        let high = sixes[8 + j % 4] >> (2 * (j / 4)) & 3;
        *scale = d * f32::from((low | high << 4) as i8 - 32);
    }
}

/// d, m, and 12 bytes with eight scales and eight minima of six bits: the first four of each are
/// the low bits of a byte, the others four bits of one and the high bits of the first four.
pub(super) fn eight_scales(block: &[u8], scales: &mut [f32], offsets: &mut [f32]) {
    let d = half_at(block, 0);
    let m = half_at(block, 2);
    let b = &block[4..16];
    for j in 0..8 {
        let (scale, minimum) = if j < 4 {
            (b[j] & 63, b[j + 4] & 63)
        } else {
            let scale = (b[j + 4] & 15) | (b[j - 4] >> 6 << 4);
            (scale, (b[j + 4] >> 4) | (b[j] >> 6 << 4))
        };
        scales[j] = d * f32::from(scale);
        offsets[j] = -(m * f32::from(minimum));
    }
}

/// Of each 64 elements 32 bytes of fours.
fn fours_of_64(codes: &[u8], integers: &mut [i8]) {
    for (codes, integers) in codes.chunks_exact(32).zip(integers.chunks_exact_mut(64)) {
        fours(codes, integers, |q| q as i8);
    }
}

/// [`eight_scales`], 128 bytes of fours: d * scale * q - m * minimum.
pub(super) fn q4_k(block: &[u8], integers: &mut [i8]) {
    fours_of_64(&block[16..], integers);
}

/// The same with 32 bytes of fifth bits in front of the fours.
pub(super) fn q5_k(block: &[u8], integers: &mut [i8]) {
    fours_of_64(&block[48..], integers);
    for (n, integers) in integers.chunks_exact_mut(32).enumerate() {
        for (integer, fifth) in integers.iter_mut().zip(&block[16..48]) {
            *integer |= ((fifth >> n & 1) << 4) as i8;
        }
    }
}

/// 128 bytes of fours, 64 of two higher bits, 16 scales, d: d * scale * (q - 32).
pub(super) fn q6_k(block: &[u8], integers: &mut [i8]) {
    let (low, high) = (&block[..128], &block[128..192]);
    let both = low.chunks_exact(64).zip(high.chunks_exact(32));
    for (integers, (low, high)) in integers.chunks_exact_mut(128).zip(both) {
        fours(low, integers, |q| q as i8);
        for (n, integers) in integers.chunks_exact_mut(32).enumerate() {
            for (integer, high) in integers.iter_mut().zip(high) {
                *integer = (*integer | ((high >> (2 * n) & 3) << 4) as i8) - 32;
            }
        }
    }
}

/// See [`q6_k`].
pub(super) fn q6_k_scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
    let d = half_at(block, 208);
    for (scale, byte) in scales.iter_mut().zip(&block[192..208]) {
        *scale = d * f32::from(byte.cast_signed());
    }
}
