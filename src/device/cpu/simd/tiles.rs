//! Sums of a panel's outputs over some rows: the inner loops of products. All instruction sets give
//! the same bits; [`add_scalar`] is the definition.

use crate::device::cpu::lanes::LANES;
use crate::device::cpu::numbers;

#[cfg(target_arch = "x86_64")]
pub(super) use self::x86::{add_avx2, add_avx512};

/// Token rows that share one pass over a panel. 6 rows x 4 AVX-512 registers of sums, 4 of weights
/// and one of input fill the 32 registers best.
pub(super) const BLOCK: usize = 6;

pub(super) type Tile = [[f32; LANES]; BLOCK];

/// Weights of some inputs of a panel, `[input][lane]`.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    BF16(&'a [u16]),
}

impl Weights<'_> {
    /// Inputs.
    fn inputs(self) -> usize {
        match self {
            Weights::F32(w) => w.len() / LANES,
            Weights::F16(w) | Weights::BF16(w) => w.len() / LANES,
        }
    }
}

/// The same inputs of some rows.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    /// From the first row's first one on.
    pub(super) x: &'a [f32],
    /// Elements from row to row.
    pub(super) stride: usize,
    pub(super) rows: usize,
}

/// tile[r][lane] += sum over i of x[r][i] * w[i][lane], fused, in the order of i. The definition.
pub(super) fn add_scalar(weights: Weights, inputs: Inputs, tile: &mut Tile) {
    for (r, sums) in tile.iter_mut().enumerate().take(inputs.rows) {
        let x = &inputs.x[r * inputs.stride..][..weights.inputs()];
        let mut add = |i: usize, w: f32| sums[i % LANES] = x[i / LANES].mul_add(w, sums[i % LANES]);
        match weights {
            Weights::F32(w) => w.iter().enumerate().for_each(|(i, &w)| add(i, w)),
            Weights::F16(w) => {
                w.iter().enumerate().for_each(|(i, &w)| add(i, numbers::f16_to_f32(w)));
            }
            Weights::BF16(w) => {
                w.iter().enumerate().for_each(|(i, &w)| add(i, numbers::bf16_to_f32(w)));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Inputs, Tile, Weights, BLOCK, LANES};

    const F32: u8 = 0;
    const F16: u8 = 1;
    const BF16: u8 = 2;

    /// Weights as bytes behind a pointer, with the check that makes reads in range.
    fn pointer(weights: Weights, inputs: Inputs) -> (*const u8, u8) {
        let Inputs { x, stride, rows } = inputs;
        assert!(rows > 0 && rows <= BLOCK);
        assert!(x.len() >= (rows - 1) * stride + weights.inputs());
        match weights {
            Weights::F32(w) => (w.as_ptr().cast(), F32),
            Weights::F16(w) => (w.as_ptr().cast(), F16),
            Weights::BF16(w) => (w.as_ptr().cast(), BF16),
        }
    }

    /// Expands to calls of `$tile::<R, ..>` for the number of rows at hand.
    macro_rules! by_rows {
        ($rows:expr, $tile:ident, $dtype:ident, [$($r:literal $(, $v:literal)?);+], $args:tt) => {
            match $rows {
                $($r => $tile::<$r, $($v,)? $dtype> $args,)+
                _ => {}
            }
        };
    }

    /// [`super::add_scalar`], the same bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub fn add_avx512(weights: Weights, inputs: Inputs, tile: &mut Tile) {
        let (w, dtype) = pointer(weights, inputs);
        let k = weights.inputs();
        let Inputs { stride, rows, .. } = inputs;
        let x = inputs.x.as_ptr();
        // SAFETY: the features are enabled on the caller; `pointer` checked that `rows` rows of `k`
        // inputs lie behind `x`, and behind `w` are `k` x LANES weights.
        unsafe {
            macro_rules! run {
                ($dtype:ident) => {
                    by_rows!(rows, tile512, $dtype, [1; 2; 3; 4; 5; 6], (x, stride, k, w, tile))
                };
            }
            match dtype {
                F32 => run!(F32),
                F16 => run!(F16),
                _ => run!(BF16),
            }
        }
    }

    /// SAFETY: 16 elements of type `DTYPE` from `index` on must lie behind `w`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn load512<const DTYPE: u8>(w: *const u8, index: usize) -> __m512 {
        match DTYPE {
            F32 => _mm512_loadu_ps(w.cast::<f32>().add(index)),
            F16 => _mm512_cvtph_ps(_mm256_loadu_si256(w.cast::<u16>().add(index).cast())),
            _ => {
                let half = _mm256_loadu_si256(w.cast::<u16>().add(index).cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
            }
        }
    }

    /// SAFETY: `R` rows of `k` inputs must lie behind `x`, `stride` elements from each other, `k` x
    /// LANES weights behind `w`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn tile512<const R: usize, const DTYPE: u8>(
        x: *const f32,
        stride: usize,
        k: usize,
        w: *const u8,
        tile: &mut Tile,
    ) {
        let mut sums = [[_mm512_setzero_ps(); 4]; R];
        for (sums, from) in sums.iter_mut().zip(tile.iter()) {
            for (sum, from) in sums.iter_mut().zip(from.chunks_exact(16)) {
                *sum = _mm512_loadu_ps(from.as_ptr());
            }
        }
        for i in 0..k {
            let ws: [__m512; 4] = [
                load512::<DTYPE>(w, i * LANES),
                load512::<DTYPE>(w, i * LANES + 16),
                load512::<DTYPE>(w, i * LANES + 32),
                load512::<DTYPE>(w, i * LANES + 48),
            ];

            for (r, sums) in sums.iter_mut().enumerate() {
                let xv = _mm512_set1_ps(*x.add(r * stride + i));
                for (sum, &w) in sums.iter_mut().zip(&ws) {
                    *sum = _mm512_fmadd_ps(xv, w, *sum);
                }
            }
        }

        for (sums, out) in sums.iter().zip(tile.iter_mut()) {
            for (sum, out) in sums.iter().zip(out.chunks_exact_mut(16)) {
                _mm512_storeu_ps(out.as_mut_ptr(), *sum);
            }
        }
    }

    /// [`super::add_scalar`], the same bits.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn add_avx2(weights: Weights, inputs: Inputs, tile: &mut Tile) {
        let (w, dtype) = pointer(weights, inputs);
        let k = weights.inputs();
        let Inputs { stride, rows, .. } = inputs;
        let x = inputs.x.as_ptr();
        // SAFETY: the features are enabled on the caller; `pointer` checked that `rows` rows of `k`
        // inputs lie behind `x`, and behind `w` are `k` x LANES weights.
        unsafe {
            macro_rules! run {
                ($dtype:ident) => {
                    by_rows!(
                        rows,
                        tile256,
                        $dtype,
                        [1, 8; 2, 4; 3, 2; 4, 2; 5, 2; 6, 2],
                        (x, stride, k, w, tile)
                    )
                };
            }
            match dtype {
                F32 => run!(F32),
                F16 => run!(F16),
                _ => run!(BF16),
            }
        }
    }

    /// SAFETY: 8 elements of type `DTYPE` from `index` on must lie behind `w`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load256<const DTYPE: u8>(w: *const u8, index: usize) -> __m256 {
        match DTYPE {
            F32 => _mm256_loadu_ps(w.cast::<f32>().add(index)),
            F16 => _mm256_cvtph_ps(_mm_loadu_si128(w.cast::<u16>().add(index).cast())),
            _ => {
                let half = _mm_loadu_si128(w.cast::<u16>().add(index).cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
            }
        }
    }

    /// SAFETY: as for `tile512`.
    ///
    /// `V` registers of 8 lanes at a time: with 16 registers only, a block of rows takes a panel in
    /// strips.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile256<const R: usize, const V: usize, const DTYPE: u8>(
        x: *const f32,
        stride: usize,
        k: usize,
        w: *const u8,
        tile: &mut Tile,
    ) {
        for strip in 0..LANES / (8 * V) {
            let first = strip * 8 * V;
            let mut sums = [[_mm256_setzero_ps(); V]; R];
            for (sums, from) in sums.iter_mut().zip(tile.iter()) {
                for (sum, from) in sums.iter_mut().zip(from[first..].chunks_exact(8)) {
                    *sum = _mm256_loadu_ps(from.as_ptr());
                }
            }
            for i in 0..k {
                let mut ws = [_mm256_setzero_ps(); V];
                for (v, w_v) in ws.iter_mut().enumerate() {
                    *w_v = load256::<DTYPE>(w, i * LANES + first + 8 * v);
                }

                for (r, sums) in sums.iter_mut().enumerate() {
                    let xv = _mm256_set1_ps(*x.add(r * stride + i));
                    for (sum, &w) in sums.iter_mut().zip(&ws) {
                        *sum = _mm256_fmadd_ps(xv, w, *sum);
                    }
                }
            }

            for (sums, out) in sums.iter().zip(tile.iter_mut()) {
                for (sum, out) in sums.iter().zip(out[first..].chunks_exact_mut(8)) {
                    _mm256_storeu_ps(out.as_mut_ptr(), *sum);
                }
            }
        }
    }
}
