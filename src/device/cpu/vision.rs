//! Vision towers on the CPU: each row alone, so what is encoded beside an image changes no bit.

use parking_lot::Mutex;

use super::attention::{attend_whole_row, Turned};
use super::buffer::Tensor;
use super::simd::with_isa;
use super::weight::Weight;
use super::{Cpu, SHARED_FROM_ATTENTION_MACS};
use crate::device::{AttnSpec, RowBlend, RowCopy, Span, TowerLimits, TowerRows, VisionOps};
use crate::error::Result;
use crate::internal;

impl VisionOps for Cpu {
    fn reserve_tower(&mut self, _: &TowerLimits) -> Result<()> {
        Ok(())
    }

    fn begin_tower(&mut self, rows: TowerRows) -> Result<()> {
        self.tower_rows = Some(rows.patches.len());
        self.tower = rows;
        Ok(())
    }

    fn begin_rows(&mut self, rows: usize) -> Result<()> {
        self.tower_rows = Some(rows);
        Ok(())
    }

    fn end_rows(&mut self) {
        self.tower = TowerRows::default();
        self.tower_rows = None;
    }

    fn put_patches(&mut self, out: &mut Tensor) -> Result<()> {
        let TowerRows { images, patches, .. } = &self.tower;
        for (r, of) in patches.iter().enumerate() {
            images[of.image].write(of.patch, out.row_mut(r));
        }
        Ok(())
    }

    fn add_places(&mut self, table: &Weight, x: &mut Tensor) -> Result<()> {
        for (r, corners) in self.tower.corners.iter().enumerate() {
            let x = x.row_mut(r);
            let mut sum = vec![0.0; x.len()];
            for &(row, share) in corners {
                if row >= table.outputs {
                    return Err(internal!("place {row} of {}", table.outputs));
                }
                table.table_row(row, |i, p| sum[i] += share * p);
            }
            x.iter_mut().zip(&sum).for_each(|(x, p)| *x += p);
        }
        Ok(())
    }

    fn turn_rows(
        &mut self,
        spec: &AttnSpec,
        bias: Option<&Weight>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        if let Some(bias) = bias.map(Weight::vector) {
            for r in 0..self.rows() {
                qkv.row_mut(r).iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
        let half = spec.head_dim / 2;
        let turned = (spec.heads + spec.kv_heads) * spec.head_dim;
        for (r, angles) in self.tower.angles.chunks_exact(half).enumerate() {
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
        span: Span,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let ends = self.tower.ends(span);
        if ends.last() != Some(&rows) {
            return Err(internal!("spans up to {:?} of {rows} rows", ends.last()));
        }
        let turned = Turned::new(spec, qkv, rows);
        let spans = self.tower.spans(span);

        let q = spec.heads * spec.head_dim;
        let keys: usize = spans.clone().map(|span| span.len() * span.len()).sum();
        let worth_it = rows > 1 && 2 * keys * q >= SHARED_FROM_ATTENTION_MACS;
        let of_rows = spans.flat_map(|span| span.clone().map(move |r| (r, span.clone())));
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

    fn mean_rows(&mut self, count: usize, x: &Tensor, out: &mut Tensor) -> Result<()> {
        if out.width != x.width || count == 0 {
            return Err(internal!("means of {count} rows of {} as {}", x.width, out.width));
        }
        let share = 1.0 / count as f32;
        for r in 0..self.rows() / count {
            let sum = out.row_mut(r);
            sum.fill(0.0);
            for row in count * r..count * (r + 1) {
                sum.iter_mut().zip(x.row(row)).for_each(|(sum, x)| *sum += x);
            }
            sum.iter_mut().for_each(|sum| *sum *= share);
        }
        Ok(())
    }

    fn standardise(
        &mut self,
        factor: f32,
        bias: &Weight,
        scale: &Weight,
        x: &mut Tensor,
    ) -> Result<()> {
        for r in 0..self.rows() {
            let columns = bias.vector().iter().zip(scale.vector());
            let row = x.row_mut(r).iter_mut().zip(columns);
            row.for_each(|(x, (bias, scale))| *x = (*x * factor - bias) * scale);
        }
        Ok(())
    }

    fn copy_rows(&mut self, x: &Tensor, copies: &[RowCopy], out: &mut Tensor) -> Result<()> {
        for &RowCopy { from, to } in copies {
            out.row_mut(to).copy_from_slice(x.row(from));
        }
        Ok(())
    }

    fn blend_rows(
        &mut self,
        x: &Tensor,
        rows: usize,
        table: &Weight,
        blends: &[RowBlend],
        out: &mut Tensor,
    ) -> Result<()> {
        for RowBlend { of, to } in blends {
            let out = out.row_mut(*to);
            out.fill(0.0);
            for &(row, share) in of.iter().filter(|(_, share)| *share != 0.0) {
                match row.checked_sub(rows) {
                    None => out.iter_mut().zip(x.row(row)).for_each(|(o, x)| *o += share * x),
                    Some(row) if row < table.outputs => {
                        table.table_row(row, |i, x| out[i] += share * x);
                    }
                    Some(row) => return Err(internal!("row {row} of {}", table.outputs)),
                }
            }
        }
        Ok(())
    }

    fn add_rows(&mut self, x: &Tensor, copies: &[RowCopy], out: &mut Tensor) -> Result<()> {
        for &RowCopy { from, to } in copies {
            out.row_mut(to).iter_mut().zip(x.row(from)).for_each(|(o, x)| *o += x);
        }
        Ok(())
    }
}
