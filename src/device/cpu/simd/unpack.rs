//! Codes to values with the registers of an instruction set: the bits of [`Codes::unpack`], which
//! grades them. `job` chooses between them. Safe code: elements go to registers as arrays do.

use std::arch::x86_64::*;
use std::ops::Range;

use bytemuck::cast;

use crate::device::cpu::codes::{Codes, Decode, Strip};
use crate::device::cpu::lanes::LANES;

const FOUR: u8 = 0;
const E4M3: u8 = 1;
const INT8: u8 = 2;

/// All but the second bit: a code of E4M3, its sign spread over two bits, becomes half precision.
const HALF: i16 = 0xbfff_u16.cast_signed();

/// [`Codes::unpack`] by AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub fn unpack_avx512(codes: &Codes, panel: usize, inputs: Range<usize>, to: &mut [f32]) {
    let start = inputs.start;
    for (first, strip) in codes.strips(panel, inputs) {
        let to = &mut to[(first - start) * LANES..];
        match &codes.decode {
            Decode::Four(numbers) => strip512::<FOUR>(&strip, cast(*numbers), to),
            Decode::E4m3 => strip512::<E4M3>(&strip, _mm512_setzero_ps(), to),
            Decode::Int8 => strip512::<INT8>(&strip, _mm512_setzero_ps(), to),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn strip512<const KIND: u8>(strip: &Strip, numbers: __m512, to: &mut [f32]) {
    let line = if KIND == FOUR { LANES / 2 } else { LANES };
    let lines = strip.packed.chunks_exact(line).zip(to.as_chunks_mut::<LANES>().0);
    let scales: [__m512; 4] = cast(*strip.scales);

    match strip.offsets {
        Some(offsets) => {
            let offsets: [__m512; 4] = cast(*offsets);
            for (line, to) in lines {
                let mut values = line512::<KIND>(line, numbers);
                for v in 0..4 {
                    values[v] = _mm512_add_ps(_mm512_mul_ps(scales[v], values[v]), offsets[v]);
                }
                *to = cast(values);
            }
        }
        None => {
            for (line, to) in lines {
                let mut values = line512::<KIND>(line, numbers);
                for v in 0..4 {
                    values[v] = _mm512_mul_ps(scales[v], values[v]);
                }
                *to = cast(values);
            }
        }
    }
}

/// The numbers of the lanes of an input.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn line512<const KIND: u8>(line: &[u8], numbers: __m512) -> [__m512; 4] {
    let mut values = [_mm512_setzero_ps(); 4];

    match KIND {
        FOUR => {
            for (v, two) in line.as_chunks::<16>().0.iter().take(2).enumerate() {
                // Only the low four bits of an index count.
                let two = _mm512_cvtepu8_epi32(cast(*two));
                values[v] = _mm512_permutexvar_ps(two, numbers);
                values[v + 2] = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(two), numbers);
            }
        }
        E4M3 => {
            for (v, codes) in line.as_chunks::<32>().0.iter().take(2).enumerate() {
                let high = _mm512_slli_epi16::<8>(_mm512_cvtepu8_epi16(cast(*codes)));
                let halves =
                    _mm512_and_si512(_mm512_srai_epi16::<1>(high), _mm512_set1_epi16(HALF));
                values[2 * v] = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
                values[2 * v + 1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves));
            }
        }
        _ => {
            for (value, codes) in values.iter_mut().zip(line.as_chunks::<16>().0) {
                *value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(cast(*codes)));
            }
        }
    }
    values
}

/// [`Codes::unpack`] by AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn unpack_avx2(codes: &Codes, panel: usize, inputs: Range<usize>, to: &mut [f32]) {
    let start = inputs.start;
    for (first, strip) in codes.strips(panel, inputs) {
        let to = &mut to[(first - start) * LANES..];
        match &codes.decode {
            Decode::Four(numbers) => strip256::<FOUR>(&strip, cast(*numbers), to),
            Decode::E4m3 => strip256::<E4M3>(&strip, [_mm256_setzero_ps(); 2], to),
            Decode::Int8 => strip256::<INT8>(&strip, [_mm256_setzero_ps(); 2], to),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn strip256<const KIND: u8>(strip: &Strip, numbers: [__m256; 2], to: &mut [f32]) {
    let line = if KIND == FOUR { LANES / 2 } else { LANES };
    let lines = strip.packed.chunks_exact(line).zip(to.as_chunks_mut::<LANES>().0);
    let scales: [__m256; 8] = cast(*strip.scales);

    match strip.offsets {
        Some(offsets) => {
            let offsets: [__m256; 8] = cast(*offsets);
            for (line, to) in lines {
                let mut values = line256::<KIND>(line, numbers);
                for v in 0..8 {
                    values[v] = _mm256_add_ps(_mm256_mul_ps(scales[v], values[v]), offsets[v]);
                }
                *to = cast(values);
            }
        }
        None => {
            for (line, to) in lines {
                let mut values = line256::<KIND>(line, numbers);
                for v in 0..8 {
                    values[v] = _mm256_mul_ps(scales[v], values[v]);
                }
                *to = cast(values);
            }
        }
    }
}

/// The numbers of the lanes of an input.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn line256<const KIND: u8>(line: &[u8], numbers: [__m256; 2]) -> [__m256; 8] {
    let mut values = [_mm256_setzero_ps(); 8];

    match KIND {
        FOUR => {
            for (v, two) in line.as_chunks::<8>().0.iter().take(4).enumerate() {
                let two = _mm256_cvtepu8_epi32(eight(*two));
                values[v] = number256(two, numbers);
                values[v + 4] = number256(_mm256_srli_epi32::<4>(two), numbers);
            }
        }
        E4M3 => {
            for (v, codes) in line.as_chunks::<16>().0.iter().take(4).enumerate() {
                let high = _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(cast(*codes)));
                let halves =
                    _mm256_and_si256(_mm256_srai_epi16::<1>(high), _mm256_set1_epi16(HALF));
                values[2 * v] = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
                values[2 * v + 1] = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves));
            }
        }
        _ => {
            for (value, codes) in values.iter_mut().zip(line.as_chunks::<8>().0) {
                *value = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight(*codes)));
            }
        }
    }
    values
}

/// Eight bytes in the low half of a register.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eight(bytes: [u8; 8]) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(bytes))
}

/// Entries of a table of 16 by the low four bits: three choose in each half, the fourth the half.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn number256(codes: __m256i, numbers: [__m256; 2]) -> __m256 {
    let low = _mm256_permutevar8x32_ps(numbers[0], codes);
    let high = _mm256_permutevar8x32_ps(numbers[1], codes);
    _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)))
}
