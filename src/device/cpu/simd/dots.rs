//! Dot products of one vector with many, for attention.

use super::isa::{Isa, Level};
use crate::device::cpu::numbers;

/// `out[n]` = q . key n; `keys` is `[n, d]` with the d of `q`. In the order of [`numbers::dot`].
#[inline(always)]
pub fn dots(isa: Isa, q: &[f32], keys: &[f32], out: &mut [f32]) {
    match isa.level() {
        // SAFETY: an `Isa` exists only if `all` found every feature that is enabled there.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if q.len().is_multiple_of(16) => unsafe { x86::dots_avx512(q, keys, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 if q.len().is_multiple_of(16) => unsafe { x86::dots_avx2(q, keys, out) },
        _ => {
            for (k, o) in keys.chunks_exact(q.len()).zip(out) {
                *o = numbers::dot(q, k);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Lanes 0..8 and 8..16 of a sum of 16, folded as `numbers` does: i with i + 8, + 4, + 2, + 1.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn fold(low: __m256, high: __m256) -> f32 {
        let eight = _mm256_add_ps(low, high);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    /// The length of `q` must be a multiple of 16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub fn dots_avx512(q: &[f32], keys: &[f32], out: &mut [f32]) {
        for (k, o) in keys.chunks_exact(q.len()).zip(out) {
            let mut sum = _mm512_setzero_ps();
            for (a, b) in q.chunks_exact(16).zip(k.chunks_exact(16)) {
                // SAFETY: both chunks hold 16 elements.
                let (a, b) = unsafe { (_mm512_loadu_ps(a.as_ptr()), _mm512_loadu_ps(b.as_ptr())) };
                sum = _mm512_add_ps(sum, _mm512_mul_ps(a, b));
            }
            *o = fold(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps::<1>(sum));
        }
    }

    /// The length of `q` must be a multiple of 16.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dots_avx2(q: &[f32], keys: &[f32], out: &mut [f32]) {
        for (k, o) in keys.chunks_exact(q.len()).zip(out) {
            let mut sums = [_mm256_setzero_ps(); 2];
            for (a, b) in q.chunks_exact(16).zip(k.chunks_exact(16)) {
                for (sum, at) in sums.iter_mut().zip([0, 8]) {
                    let (a, b) = (a[at..].as_ptr(), b[at..].as_ptr());
                    // SAFETY: both chunks hold 16 elements, so 8 from `at` on.
                    let (a, b) = unsafe { (_mm256_loadu_ps(a), _mm256_loadu_ps(b)) };
                    *sum = _mm256_add_ps(*sum, _mm256_mul_ps(a, b));
                }
            }
            *o = fold(sums[0], sums[1]);
        }
    }
}
