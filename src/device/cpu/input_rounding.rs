//! How products round their inputs, row by row: the rules of [`InputQuant`] in f32. What a row
//! becomes is codes times a step, as numbers. Products call it; online quantisation shares the cast.

use super::numbers;
use crate::device::quant::INPUT_BLOCK;
use crate::device::InputQuant;

/// Largest number of E4M3.
const E4M3_MAX: f32 = 448.0;
/// Least step of a row of E4M3.
const E4M3_ROW_FLOOR: f32 = 1.0 / (448.0 * 512.0);
/// Least of the largest of a block of E4M3.
const E4M3_BLOCK_FLOOR: f32 = 1e-10;

/// The nearest number of E4M3, ties to even, saturating; NaN stays NaN.
#[inline(always)]
pub(crate) fn to_e4m3(x: f32) -> f32 {
    // Adding it to a number below 2^-6 rounds to a multiple of 2^-9.
    const MAGIC: f32 = 16384.0;
    let size = x.abs();
    // NaN is not below.
    let size = if size > E4M3_MAX { E4M3_MAX } else { size };
    let bits = size.to_bits();
    // Half of the last bit that stays, less one, and that bit: ties go to even.
    let rounded = bits.wrapping_add(0x7_ffff + (bits >> 20 & 1)) & !0xf_ffff;
    let normal = if size.is_nan() { size } else { f32::from_bits(rounded) };
    let subnormal = (size + MAGIC) - MAGIC;
    (if size < 1.0 / 64.0 { subnormal } else { normal }).copysign(x)
}

/// The code of [`to_e4m3`].
pub(crate) fn e4m3_code(x: f32) -> u8 {
    let rounded = to_e4m3(x);
    let size = rounded.abs();
    let code = if size.is_nan() {
        0x7f
    } else if size < 1.0 / 64.0 {
        (size * 512.0) as u8
    } else {
        // The exponent's bias is less by 120.
        ((size.to_bits() >> 20) - (120 << 3)) as u8
    };
    code | if rounded.is_sign_negative() { 0x80 } else { 0 }
}

/// Nearest whole number, ties to even, at most a byte's with `zero` added; NaN gives `zero`.
#[inline(always)]
pub(crate) fn to_int8(x: f32, zero: i32) -> i32 {
    (x.round_ties_even() as i32).saturating_add(zero).clamp(-128, 127)
}

/// Round a row as a product wants it.
#[inline(always)]
pub(crate) fn round_row(quant: InputQuant, row: &mut [f32]) {
    match quant {
        InputQuant::E4m3Tensor { step } => {
            let inverse = 1.0 / step;
            row.iter_mut().for_each(|x| *x = to_e4m3(*x * inverse) * step);
        }
        InputQuant::E4m3Row => {
            let step = (numbers::max_by(row, f32::abs) / E4M3_MAX).max(E4M3_ROW_FLOOR);
            row.iter_mut().for_each(|x| *x = to_e4m3(*x / step) * step);
        }
        InputQuant::E4m3Block => {
            for block in row.chunks_mut(INPUT_BLOCK) {
                let step = numbers::max_by(block, f32::abs).max(E4M3_BLOCK_FLOOR) / E4M3_MAX;
                block.iter_mut().for_each(|x| *x = to_e4m3(*x / step) * step);
            }
        }
        InputQuant::Int8Tensor { step, zero: None } => {
            row.iter_mut().for_each(|x| *x = to_int8(*x / step, 0) as f32 * step);
        }
        InputQuant::Int8Tensor { step, zero: Some(zero) } => {
            let zero = i32::from(zero);
            let inverse = 1.0 / step;
            row.iter_mut().for_each(|x| *x = (to_int8(*x * inverse, zero) - zero) as f32 * step);
        }
        InputQuant::Int8Row => {
            let most = numbers::max_by(row, f32::abs);
            let (step, inverse) = (most / 127.0, 127.0 / most);
            if most > 0.0 {
                row.iter_mut().for_each(|x| *x = to_int8(*x * inverse, 0) as f32 * step);
            }
        }
        InputQuant::Int8RowWithZero => {
            let most = numbers::max(row);
            let least = -numbers::max_by(row, |x| -x);
            let step = (most - least) / 255.0;
            // Of equal ones each is its own step, and the code 1.
            if step > 0.0 {
                let zero = (-128.0 - least / step).round_ties_even() as i32;
                let inverse = 1.0 / step;
                let code = |x: f32| to_int8(x * inverse, zero).saturating_sub(zero);
                row.iter_mut().for_each(|x| *x = code(*x) as f32 * step);
            }
        }
    }
}
