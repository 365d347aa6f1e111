//! Vision towers on the CPU: each row alone, so what is encoded beside an image changes no bit.

use parking_lot::Mutex;

use super::attention::{attend_whole_row, Turned};
use super::buffer::Tensor;
use super::simd::with_isa;
use super::{Cpu, SHARED_FROM_ATTENTION_MACS};
use crate::device::{AttnSpec, RowCopy, VisionOps};
use crate::error::Result;
use crate::internal;
use crate::plan::PatchRows;

impl VisionOps for Cpu {
    fn begin_rows(&mut self, rows: usize) -> Result<()> {
        self.tower_rows = Some(rows);
        Ok(())
    }

    fn end_rows(&mut self) {
        self.tower_rows = None;
    }

    fn put_patches(
        &mut self,
        patches: &PatchRows,
        order: &[usize],
        out: &mut Tensor,
    ) -> Result<()> {
        for (r, &n) in order.iter().enumerate() {
            patches.write(n, out.row_mut(r));
        }
        Ok(())
    }

    fn turn_rows(&mut self, spec: &AttnSpec, angles: &[f32], qkv: &mut Tensor) -> Result<()> {
        let half = spec.head_dim / 2;
        let turned = (spec.heads + spec.kv_heads) * spec.head_dim;
        for (r, angles) in angles.chunks_exact(half).enumerate().take(self.rows()) {
            let turns: Vec<(f32, f32)> = angles.iter().map(|a| (a.cos(), a.sin())).collect();
            for head in qkv.row_mut(r)[..turned].chunks_exact_mut(spec.head_dim) {
                let (low, high) = head.split_at_mut(half);
                for ((a, b), &(c, s)) in low.iter_mut().zip(high).zip(&turns) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
        }
        Ok(())
    }

    fn attend_spans(
        &mut self,
        spec: &AttnSpec,
        ends: &[usize],
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        if ends.last() != Some(&rows) {
            return Err(internal!("spans up to {:?} of {rows} rows", ends.last()));
        }
        let turned = Turned::new(spec, qkv, rows);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let spans: Vec<_> = starts.zip(ends).map(|(start, &end)| start..end).collect();

        let q = spec.heads * spec.head_dim;
        let keys: usize = spans.iter().map(|span| span.len() * span.len()).sum();
        let worth_it = rows > 1 && 2 * keys * q >= SHARED_FROM_ATTENTION_MACS;
        let of_rows = spans.iter().flat_map(|span| span.clone().map(move |r| (r, span.clone())));
        let width = out.width;
        let todo = Mutex::new(out.data.chunks_exact_mut(width).zip(of_rows));
        self.workers.share(worth_it, &|| {
            let mut scores = Vec::new();
            loop {
                let Some((out, (r, span))) = todo.lock().next() else { return };
                let q = &qkv.row(r)[..q];
                with_isa(
                    self.isa,
                    #[inline(always)]
                    || attend_whole_row(self.isa, &turned, spec, span, q, out, &mut scores),
                );
            }
        });
        Ok(())
    }

    fn join_rows(&mut self, count: usize, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let elements = self.rows() * x.width;
        if out.width != count * x.width || elements > out.data.len() {
            return Err(internal!("{count} rows of {} into rows of {}", x.width, out.width));
        }
        out.data[..elements].copy_from_slice(&x.data[..elements]);
        Ok(())
    }

    fn copy_rows(&mut self, x: &Tensor, copies: &[RowCopy], out: &mut Tensor) -> Result<()> {
        for &RowCopy { from, to } in copies {
            out.row_mut(to).copy_from_slice(x.row(from));
        }
        Ok(())
    }
}
