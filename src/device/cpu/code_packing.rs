//! How codes are packed at upload, panel by panel. `weight` calls it; it knows how codes lie in a
//! [`QuantPart`] and in [`Codes`], and nothing of where they come from.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::codes::{Codes, E4M3_FOLD};
use super::lanes::{Lanes, LANES};
use super::panels::{Held, Panels};
use crate::device::{CodeType, QuantForm, QuantPart};
use crate::error::{Error, Result};

/// Parts of a weight by its outputs.
pub(super) struct CodeRows<'a> {
    form: &'a QuantForm,
    parts: &'a [QuantPart<'a>],
    inputs: usize,
    order: Arc<[u32]>,
}

/// An output's codes, scales and offsets.
struct CodeRow<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    offsets: &'a [f32],
}

impl<'a> CodeRows<'a> {
    /// Parts that `judge_codes` found good.
    pub(super) fn new(
        form: &'a QuantForm,
        parts: &'a [QuantPart<'a>],
        inputs: usize,
        order: &[u32],
    ) -> CodeRows<'a> {
        CodeRows { form, parts, inputs, order: order.into() }
    }

    /// Outputs from `first` on in panels.
    ///
    /// # Errors
    /// The codes cannot be read; no memory.
    pub(super) fn panels(&self, first: usize, lanes: Lanes) -> Result<Panels> {
        let inputs = self.inputs;
        let mut codes = Codes::zeroed(self.form, lanes.count(), inputs, &self.order)?;
        let line = codes.line_bytes();
        let groups = codes.groups();
        let packed = codes.packed.chunks_mut((inputs * line).max(1));
        let scales = codes.scales.chunks_mut((groups * LANES).max(1));
        let mut offsets = codes.offsets.as_mut().map(|o| o.chunks_mut((groups * LANES).max(1)));

        let panels = packed.zip(scales).map(|(packed, scales)| {
            let offsets = offsets.as_mut().and_then(Iterator::next).unwrap_or_default();
            PanelMut { form: self.form, line, packed, scales, offsets }
        });
        let panels: Vec<PanelMut> = panels.collect();
        panels.into_par_iter().enumerate().try_for_each_init(
            Vec::new,
            |scratch, (panel, mut to)| {
                for (run, output) in lanes.runs(panel) {
                    let start = first + output;
                    self.rows(start..start + run.len(), scratch, |output, row| {
                        to.set(run.start + output - start, &row);
                    })?;
                }
                Ok::<(), Error>(())
            },
        )?;
        Ok(Panels { held: Held::Codes(Box::new(codes)), inputs, lanes })
    }

    /// Hand each of some outputs to `take`.
    fn rows(
        &self,
        outputs: Range<usize>,
        scratch: &mut Vec<u8>,
        mut take: impl FnMut(usize, CodeRow),
    ) -> Result<()> {
        let row_bytes = self.form.codes.row_bytes(self.inputs);
        let groups = self.form.groups(self.inputs);
        let mut end = 0;
        for part in self.parts {
            let start = end;
            end += part.rows;
            let of_part = outputs.start.max(start)..outputs.end.min(end);
            if of_part.is_empty() {
                continue;
            }

            let rows = of_part.start - start..of_part.end - start;
            scratch.resize(rows.len() * row_bytes, 0);
            part.codes.read(rows.start * row_bytes, scratch)?;
            for (n, (output, row)) in of_part.zip(rows).enumerate() {
                let scales = row * groups..(row + 1) * groups;
                take(
                    output,
                    CodeRow {
                        codes: &scratch[n * row_bytes..(n + 1) * row_bytes],
                        scales: &part.scales[scales.clone()],
                        offsets: part.offsets.get(scales).unwrap_or_default(),
                    },
                );
            }
        }
        Ok(())
    }
}

/// A panel of [`Codes`].
struct PanelMut<'a> {
    form: &'a QuantForm,
    /// Bytes of an input.
    line: usize,
    packed: &'a mut [u8],
    scales: &'a mut [f32],
    offsets: &'a mut [f32],
}

impl PanelMut<'_> {
    fn set(&mut self, lane: usize, row: &CodeRow) {
        let e4m3 = self.form.codes == CodeType::E4m3;
        let fold = if e4m3 { E4M3_FOLD } else { 1.0 };
        let scales = self.scales.chunks_exact_mut(LANES).zip(row.scales);
        scales.for_each(|(lanes, &scale)| lanes[lane] = scale * fold);
        let offsets = self.offsets.chunks_exact_mut(LANES).zip(row.offsets);
        offsets.for_each(|(lanes, &offset)| lanes[lane] = offset);

        let lines = self.packed.chunks_exact_mut(self.line).enumerate();
        if self.form.codes.bits() == 4 {
            let (byte, shift) = (lane % (LANES / 2), 4 * (lane / (LANES / 2)));
            for (k, line) in lines {
                line[byte] |= (row.codes[k / 2] >> (4 * (k % 2)) & 15) << shift;
            }
            return;
        }
        for (k, line) in lines {
            line[lane] = row.codes[k];
            // One of them makes every product of its output NaN, and so does its scale.
            if e4m3 && row.codes[k] & 0x7f == 0x7f {
                line[lane] = 0;
                self.scales[k / self.form.group.max(1) * LANES + lane] = f32::NAN;
            }
        }
    }
}
