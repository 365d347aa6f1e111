//! How products round their inputs, row by row: the rules of [`InputQuant`] in f32. What a row
//! becomes is codes times a step, as numbers. Products call it. It knows no weight.

use super::fp8::{decode, encode, E4M3};
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
    decode::<E4M3>(encode::<E4M3>(x))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::quant::e4m3_to_f32;

    /// The bits of the least f32 that becomes each code from 1 to 126, as ml_dtypes 0.5.4 casts:
    /// by bisection over `np.float32(x).clip(-448, 448).astype(ml_dtypes.float8_e4m3fn)`.
    #[rustfmt::skip]
    const LEAST: [u32; 126] = [
        0x3a80_0001, 0x3b40_0000, 0x3ba0_0001, 0x3be0_0000, 0x3c10_0001, 0x3c30_0000, 0x3c50_0001,
        0x3c70_0000, 0x3c88_0001, 0x3c98_0000, 0x3ca8_0001, 0x3cb8_0000, 0x3cc8_0001, 0x3cd8_0000,
        0x3ce8_0001, 0x3cf8_0000, 0x3d08_0001, 0x3d18_0000, 0x3d28_0001, 0x3d38_0000, 0x3d48_0001,
        0x3d58_0000, 0x3d68_0001, 0x3d78_0000, 0x3d88_0001, 0x3d98_0000, 0x3da8_0001, 0x3db8_0000,
        0x3dc8_0001, 0x3dd8_0000, 0x3de8_0001, 0x3df8_0000, 0x3e08_0001, 0x3e18_0000, 0x3e28_0001,
        0x3e38_0000, 0x3e48_0001, 0x3e58_0000, 0x3e68_0001, 0x3e78_0000, 0x3e88_0001, 0x3e98_0000,
        0x3ea8_0001, 0x3eb8_0000, 0x3ec8_0001, 0x3ed8_0000, 0x3ee8_0001, 0x3ef8_0000, 0x3f08_0001,
        0x3f18_0000, 0x3f28_0001, 0x3f38_0000, 0x3f48_0001, 0x3f58_0000, 0x3f68_0001, 0x3f78_0000,
        0x3f88_0001, 0x3f98_0000, 0x3fa8_0001, 0x3fb8_0000, 0x3fc8_0001, 0x3fd8_0000, 0x3fe8_0001,
        0x3ff8_0000, 0x4008_0001, 0x4018_0000, 0x4028_0001, 0x4038_0000, 0x4048_0001, 0x4058_0000,
        0x4068_0001, 0x4078_0000, 0x4088_0001, 0x4098_0000, 0x40a8_0001, 0x40b8_0000, 0x40c8_0001,
        0x40d8_0000, 0x40e8_0001, 0x40f8_0000, 0x4108_0001, 0x4118_0000, 0x4128_0001, 0x4138_0000,
        0x4148_0001, 0x4158_0000, 0x4168_0001, 0x4178_0000, 0x4188_0001, 0x4198_0000, 0x41a8_0001,
        0x41b8_0000, 0x41c8_0001, 0x41d8_0000, 0x41e8_0001, 0x41f8_0000, 0x4208_0001, 0x4218_0000,
        0x4228_0001, 0x4238_0000, 0x4248_0001, 0x4258_0000, 0x4268_0001, 0x4278_0000, 0x4288_0001,
        0x4298_0000, 0x42a8_0001, 0x42b8_0000, 0x42c8_0001, 0x42d8_0000, 0x42e8_0001, 0x42f8_0000,
        0x4308_0001, 0x4318_0000, 0x4328_0001, 0x4338_0000, 0x4348_0001, 0x4358_0000, 0x4368_0001,
        0x4378_0000, 0x4388_0001, 0x4398_0000, 0x43a8_0001, 0x43b8_0000, 0x43c8_0001, 0x43d8_0000,
    ];

    #[test]
    fn casts_to_e4m3_are_those_of_ml_dtypes() {
        for (code, &least) in (1u8..).zip(&LEAST) {
            for (bits, want) in [(least, code), (least - 1, code - 1)] {
                let x = f32::from_bits(bits);
                assert_eq!(encode::<E4M3>(x), want, "{x:e}");
                assert_eq!(encode::<E4M3>(-x), want | 0x80, "-{x:e}");
                assert_eq!(to_e4m3(x), e4m3_to_f32(want), "{x:e}");
                assert_eq!(to_e4m3(-x), -e4m3_to_f32(want), "-{x:e}");
            }
        }

        // Between those it rises: all that have the upper 20 bits, which hold every threshold.
        let all = (0..0x7f80_0000u32).step_by(1 << 12).map(f32::from_bits);
        let rounded: Vec<f32> = all.map(to_e4m3).collect();
        assert!(rounded.is_sorted());
        assert_eq!(rounded.last(), Some(&448.0));
        assert_eq!(encode::<E4M3>(f32::INFINITY), 0x7e);
        assert_eq!(encode::<E4M3>(f32::NEG_INFINITY), 0xfe);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for bits in [0x7fc0_0000, 0x7fff_ffff, 0x7f80_0001, 0xffff_ffff] {
            let x = f32::from_bits(bits);
            assert!(to_e4m3(x).is_nan(), "{bits:#x}");
            assert_eq!(encode::<E4M3>(x) & 0x7f, 0x7f, "{bits:#x}");
        }
    }

    #[test]
    fn numbers_of_e4m3_are_their_own_codes() {
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(encode::<E4M3>(e4m3_to_f32(code)), code);
        }
    }

    #[test]
    fn whole_numbers_take_ties_to_even_and_saturate() {
        let cases = [(0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2), (2.5, 2), (126.5, 126)];
        let more = [(127.5, 127), (1e30, 127), (-1e30, -128), (f32::NAN, 0), (-128.5, -128)];
        for (x, want) in cases.into_iter().chain(more) {
            assert_eq!(to_int8(x, 0), want, "{x}");
        }
        assert_eq!(to_int8(3.5, -130), -126);
        assert_eq!(to_int8(f32::MIN, i32::MIN), -128);
    }

    /// (rule, row, what it becomes), by hand from the written rules.
    #[test]
    fn rows_are_rounded_as_written() {
        let cases: [(InputQuant, &[f32], &[f32]); 9] = [
            (InputQuant::E4m3Tensor { step: 0.5 }, &[0.26, 300.0, -9.4], &[0.25, 224.0, -9.0]),
            (InputQuant::E4m3Row, &[448.0, 17.0, -1.0625], &[448.0, 16.0, -1.0]),
            (InputQuant::E4m3Row, &[0.0, 0.0, 0.0], &[0.0, 0.0, 0.0]),
            (InputQuant::E4m3Block, &[448.0, 19.0, -1.1875], &[448.0, 20.0, -1.25]),
            (InputQuant::Int8Tensor { step: 0.5, zero: None }, &[0.75, -80.0], &[1.0, -64.0]),
            (
                InputQuant::Int8Tensor { step: 0.5, zero: Some(100) },
                &[0.75, 80.0, -200.0],
                &[1.0, 13.5, -114.0],
            ),
            (InputQuant::Int8Row, &[127.0, 2.5, -3.5], &[127.0, 2.0, -4.0]),
            (InputQuant::Int8Row, &[0.0, 0.0], &[0.0, 0.0]),
            (InputQuant::Int8RowWithZero, &[10.0, 265.0, 12.5], &[10.0, 265.0, 12.0]),
        ];
        for (quant, row, want) in cases {
            let mut got = row.to_vec();
            round_row(quant, &mut got);
            assert_eq!(got, want, "{quant:?} {row:?}");
        }
        // Equal ones stay.
        let mut row = [-0.7; 5];
        round_row(InputQuant::Int8RowWithZero, &mut row);
        assert_eq!(row, [-0.7; 5]);
    }

    /// Each block has a step of its own, the last one too.
    #[test]
    fn blocks_have_their_own_steps() {
        let mut row = vec![1.0; 130];
        row[0] = 448.0;
        row[127] = 1.0625;
        row[128] = 0.001;
        row[129] = 0.000_3;
        round_row(InputQuant::E4m3Block, &mut row);
        assert_eq!((row[0], row[127]), (448.0, 1.0));
        let step = 0.001f32 / 448.0;
        assert_eq!(row[128], 448.0 * step);
        // 134.4 steps: between 128 and 144.
        assert_eq!(row[129], 128.0 * step);
    }
}
