//! A product, panel by panel: what threads share out, and what follows the sums.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::isa::{Isa, Level};
use super::tiles::{add_scalar, Inputs, Tile, Weights, BLOCK};
#[cfg(target_arch = "x86_64")]
use super::{tiles, unpack};
use crate::device::cpu::codes::Codes;
use crate::device::cpu::lanes::LANES;
use crate::device::cpu::low_rank::Delta;
use crate::device::cpu::numbers;
use crate::device::cpu::panels::{Elements, Held, Panels};
use crate::device::Activation;

/// Inputs of codes that are unpacked at a time: 16 KiB of values, which the first cache holds.
const UNPACKED: usize = 64;

/// What a thread computes a panel in.
#[derive(Default)]
struct Scratch {
    /// Unpacked codes, `[input][lane]`.
    values: Vec<f32>,
    /// Of all rows.
    tiles: Vec<Tile>,
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
            match self.isa.level() {
                Level::Scalar => self.panel(panel, &mut scratch, Codes::unpack, add_scalar),
                // SAFETY: an `Isa` exists only if `Isa::all` found the features.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { panel_avx2(self, panel, &mut scratch) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { panel_avx512(self, panel, &mut scratch) },
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn panel_avx512(job: &Job, panel: usize, scratch: &mut Scratch) {
    job.panel(
        panel,
        scratch,
        |codes, panel, inputs, to| unpack::unpack_avx512(codes, panel, inputs, to),
        |weights, inputs, tile| tiles::add_avx512(weights, inputs, tile),
    );
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn panel_avx2(job: &Job, panel: usize, scratch: &mut Scratch) {
    job.panel(
        panel,
        scratch,
        |codes, panel, inputs, to| unpack::unpack_avx2(codes, panel, inputs, to),
        |weights, inputs, tile| tiles::add_avx2(weights, inputs, tile),
    );
}
