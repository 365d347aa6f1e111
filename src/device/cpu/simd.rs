//! The inner loops of the CPU device, once per instruction set, and the only `unsafe` of this
//! device: calls into `#[target_feature]` functions and vector loads in them. Which set runs is
//! found at run time. All sets give the same bits: the scalar twin grades the others in tests.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::codes::Codes;
use super::lanes::LANES;
use super::low_rank::Delta;
use super::numbers;
use super::panels::{Elements, Held, Panels};
use crate::device::Activation;

/// Token rows that share one pass over a panel. 6 rows x 4 AVX-512 registers of sums, 4 of weights
/// and one of input fill the 32 registers best.
const BLOCK: usize = 6;

/// Inputs of codes that are unpacked at a time: 16 KiB of values, which the first cache holds.
const UNPACKED: usize = 64;

type Tile = [[f32; LANES]; BLOCK];

/// Weights of some inputs of a panel, `[input][lane]`.
#[derive(Clone, Copy)]
enum Weights<'a> {
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
struct Inputs<'a> {
    /// From the first row's first one on.
    x: &'a [f32],
    /// Elements from row to row.
    stride: usize,
    rows: usize,
}

/// What a thread computes a panel in.
#[derive(Default)]
struct Scratch {
    /// Unpacked codes, `[input][lane]`.
    values: Vec<f32>,
    /// Of all rows.
    tiles: Vec<Tile>,
}

/// An instruction set that this machine has: only [`Isa::detect`] and [`Isa::all`] make one, which
/// is what the calls into `#[target_feature]` functions rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The widest set of this machine.
    pub fn detect() -> Isa {
        let all = Isa::all();
        all[all.len() - 1]
    }

    /// All sets of this machine, the scalar twin first.
    pub fn all() -> Vec<Isa> {
        let mut all = vec![Isa(Level::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 {
                all.push(Isa(Level::Avx2));
            }
            if avx2 && avx512 {
                all.push(Isa(Level::Avx512));
            }
        }
        all
    }

    /// For logs.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
        }
    }
}

/// Run a piece of plain code compiled for the instruction set: loops in `f` (and what is inlined
/// into it) use its registers. `f` must be `#[inline(always)]` all the way down to gain.
#[inline(always)]
pub fn with_isa<T>(isa: Isa, f: impl FnOnce() -> T) -> T {
    match isa.0 {
        Level::Scalar => f(),
        // SAFETY: an `Isa` exists only if `all` found every feature that is enabled there.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::call_avx2(f) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::call_avx512(f) },
    }
}

/// `out[n]` = q . key n; `keys` is `[n, d]` with the d of `q`. In the order of [`numbers::dot`].
#[inline(always)]
pub fn dots(isa: Isa, q: &[f32], keys: &[f32], out: &mut [f32]) {
    match isa.0 {
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

/// out = epilogue(x W^T + b) over `rows` rows, shared out panel by panel: any number of threads
/// call [`Job::work`] and each panel is computed by the one that claims it.
pub struct Job<'a> {
    isa: Isa,
    x: &'a [f32],
    rows: usize,
    panels: &'a Panels,
    bias: Option<&'a [f32]>,
    act: Option<Activation>,
    delta: Option<&'a Delta<'a>>,
    out: *mut f32,
    out_width: usize,
    next: AtomicUsize,
    _out: PhantomData<&'a mut [f32]>,
}

// SAFETY: `out` is the only field that is not Sync. It is the exclusive borrow of a slice for 'a,
// and threads write disjoint columns of it: a panel's number is handed out once, by `next`.
unsafe impl Sync for Job<'_> {}

impl<'a> Job<'a> {
    /// `x` is `[rows, inputs]`, `out` `[rows, outputs]` (half of that if gated), `bias` as
    /// `outputs`.
    ///
    /// # Panics
    /// If a slice is too short for these shapes: a mistake in the decoder.
    pub fn new(
        isa: Isa,
        panels: &'a Panels,
        bias: Option<&'a [f32]>,
        act: Option<Activation>,
        rows: usize,
        x: &'a [f32],
        out: &'a mut [f32],
    ) -> Job<'a> {
        let gated = act.is_some_and(Activation::is_gated);
        assert_eq!(gated, panels.lanes.gated, "a gated activation needs a gate|up weight");
        let outputs = panels.lanes.outputs;
        let out_width = if gated { outputs / 2 } else { outputs };
        assert!(x.len() >= rows * panels.inputs, "x is too short");
        assert!(out.len() >= rows * out_width, "out is too short");
        assert!(bias.is_none_or(|b| b.len() == outputs), "bias has another length");

        Job {
            isa,
            x,
            rows,
            panels,
            bias,
            act,
            delta: None,
            out: out.as_mut_ptr(),
            out_width,
            next: AtomicUsize::new(0),
            _out: PhantomData,
        }
    }

    /// Add what the rows' adapters give, before bias and activation.
    pub fn plus(self, delta: Option<&'a Delta<'a>>) -> Job<'a> {
        Job { delta, ..self }
    }

    /// Compute panels until none is left.
    pub fn work(&self) {
        let mut scratch = Scratch::default();
        loop {
            let panel = self.next.fetch_add(1, Ordering::Relaxed);
            if panel >= self.panels.lanes.count() {
                return;
            }
            match self.isa.0 {
                Level::Scalar => self.panel(panel, &mut scratch, Codes::unpack, scalar_tile),
                // SAFETY: an `Isa` exists only if `Isa::all` found the features.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { x86::panel_avx2(self, panel, &mut scratch) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { x86::panel_avx512(self, panel, &mut scratch) },
            }
        }
    }

    /// One panel over all rows, block by block: as many rows as `BLOCK`, the last block what is
    /// left. Codes are unpacked some inputs at a time, and all rows go over those.
    #[inline(always)]
    fn panel(
        &self,
        panel: usize,
        scratch: &mut Scratch,
        unpack: impl Fn(&Codes, usize, Range<usize>, &mut [f32]),
        add_to: impl Fn(Weights, Inputs, &mut Tile),
    ) {
        let k = self.panels.inputs;
        let of_panel = panel * k * LANES..(panel + 1) * k * LANES;
        let blocks = (0..self.rows).step_by(BLOCK);
        let inputs = |row: usize, first: usize| Inputs {
            x: &self.x[row * k + first..],
            stride: k,
            rows: BLOCK.min(self.rows - row),
        };
        let weights = match &self.panels.held {
            Held::Plain(Elements::F32(w)) => Weights::F32(&w[of_panel]),
            Held::Plain(Elements::F16(w)) => Weights::F16(&w[of_panel]),
            Held::Plain(Elements::BF16(w)) => Weights::BF16(&w[of_panel]),
            Held::Codes(codes) => {
                let Scratch { values, tiles } = scratch;
                tiles.clear();
                tiles.resize(self.rows.div_ceil(BLOCK), [[0.0; LANES]; BLOCK]);
                values.resize(UNPACKED * LANES, 0.0);

                for first in (0..k).step_by(UNPACKED) {
                    let some = first..k.min(first + UNPACKED);
                    let values = &mut values[..some.len() * LANES];
                    unpack(codes, panel, some, values);
                    for (row, tile) in blocks.clone().zip(tiles.iter_mut()) {
                        add_to(Weights::F32(values), inputs(row, first), tile);
                    }
                }

                for (row, tile) in blocks.zip(tiles) {
                    self.finish(panel, row, tile);
                }
                return;
            }
        };
        for row in blocks {
            let mut tile = [[0.0; LANES]; BLOCK];
            add_to(weights, inputs(row, 0), &mut tile);
            self.finish(panel, row, &mut tile);
        }
    }

    /// Sums of the rows from `row` on to what goes out.
    #[inline(always)]
    fn finish(&self, panel: usize, row: usize, tile: &mut Tile) {
        let lanes = self.panels.lanes;
        let lane_bias: Option<[f32; LANES]> = self.bias.map(|bias| {
            std::array::from_fn(|lane| lanes.output_of(panel, lane).map_or(0.0, |o| bias[o]))
        });
        let columns = if lanes.gated { LANES / 2 } else { LANES };
        let first = panel * columns;
        let columns = columns.min(self.out_width - first);

        for (row, sums) in (row..self.rows).zip(tile) {
            if let Some(delta) = self.delta {
                for (lanes, output) in lanes.runs(panel) {
                    delta.add(row, output, &mut sums[lanes]);
                }
            }
            self.epilogue(lane_bias.as_ref(), sums);
            let at = row * self.out_width + first;
            // SAFETY: row < rows and first + columns <= out_width, so the range lies in `out`; no
            // other thread has this panel, hence these columns.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(at), columns) };
            if columns == LANES {
                out.copy_from_slice(sums);
            } else {
                out.copy_from_slice(&sums[..columns]);
            }
        }
    }

    #[inline(always)]
    fn epilogue(&self, bias: Option<&[f32; LANES]>, sums: &mut [f32; LANES]) {
        if let Some(bias) = bias {
            sums.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
        }
        match self.act {
            None => {}
            Some(act) if act.is_gated() => {
                let (gate, up) = sums.split_at_mut(LANES / 2);
                numbers::gate(act, gate, up);
            }
            Some(act) => numbers::activate(act, sums),
        }
    }
}

/// tile[r][lane] += sum over i of x[r][i] * w[i][lane], fused, in the order of i. The definition.
fn scalar_tile(weights: Weights, inputs: Inputs, tile: &mut Tile) {
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

    use super::super::codes::Codes;
    use super::super::lanes::LANES;
    use super::super::unpack::{unpack_avx2, unpack_avx512};
    use super::{Inputs, Job, Scratch, Tile, Weights, BLOCK};

    const F32: u8 = 0;
    const F16: u8 = 1;
    const BF16: u8 = 2;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn call_avx2<T>(f: impl FnOnce() -> T) -> T {
        f()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub fn call_avx512<T>(f: impl FnOnce() -> T) -> T {
        f()
    }

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

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub fn panel_avx512(job: &Job, panel: usize, scratch: &mut Scratch) {
        let unpack = |codes: &Codes, panel, inputs, to: &mut [f32]| {
            unpack_avx512(codes, panel, inputs, to);
        };
        job.panel(panel, scratch, unpack, |weights, inputs, tile| {
            let (w, dtype) = pointer(weights, inputs);
            let k = weights.inputs();
            let Inputs { stride, rows, .. } = inputs;
            let x = inputs.x.as_ptr();
            // SAFETY: the features are enabled on the caller; `pointer` checked that `rows` rows of
            // `k` inputs lie behind `x`, and behind `w` are `k` x LANES weights.
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
        });
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

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn panel_avx2(job: &Job, panel: usize, scratch: &mut Scratch) {
        let unpack = |codes: &Codes, panel, inputs, to: &mut [f32]| {
            unpack_avx2(codes, panel, inputs, to);
        };
        job.panel(panel, scratch, unpack, |weights, inputs, tile| {
            let (w, dtype) = pointer(weights, inputs);
            let k = weights.inputs();
            let Inputs { stride, rows, .. } = inputs;
            let x = inputs.x.as_ptr();
            // SAFETY: as in `panel_avx512`.
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
        });
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
