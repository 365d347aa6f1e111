//! What heads that draft from hidden states need, on the CPU: copies of rows, element by element.

use super::buffer::Tensor;
use super::weight::Weight;
use super::Cpu;
use crate::device::DraftOps;
use crate::error::Result;
use crate::ids::SlotId;
use crate::internal;

impl DraftOps for Cpu {
    fn put_columns(
        &mut self,
        x: &Tensor,
        first: usize,
        blank_start: bool,
        out: &mut Tensor,
    ) -> Result<()> {
        let columns = first..first + x.width;
        if columns.end > out.width {
            return Err(internal!("columns {columns:?} of {}", out.width));
        }
        for (r, row) in self.slots.token_rows.iter().enumerate() {
            let out = &mut out.row_mut(r)[columns.clone()];
            if blank_start && row.position == 0 {
                out.fill(0.0);
            } else {
                out.copy_from_slice(x.row(r));
            }
        }
        Ok(())
    }

    fn keep_hidden(&mut self, x: &Tensor, kept: &mut Tensor) -> Result<()> {
        for (r, row) in self.slots.token_rows.iter().enumerate() {
            let at = self.kept_row(row.slot, row.position)?;
            kept.row_mut(at).copy_from_slice(x.row(r));
        }
        Ok(())
    }

    fn keep_next_hidden(&mut self, x: &Tensor, kept: &mut Tensor) -> Result<()> {
        for (s, logits) in self.slots.logits().iter().enumerate() {
            let position = self.slots.token_rows[logits.row].position + 1;
            let at = self.kept_row(logits.slot, position)?;
            kept.row_mut(at).copy_from_slice(x.row(s));
        }
        Ok(())
    }

    fn kept_hidden(&mut self, kept: &Tensor, out: &mut Tensor) -> Result<()> {
        for (r, row) in self.slots.token_rows.iter().enumerate() {
            let at = self.kept_row(row.slot, row.position)?;
            out.row_mut(r).copy_from_slice(kept.row(at));
        }
        Ok(())
    }

    fn spread_logits(&mut self, places: &Weight, x: &Tensor, logits: &mut Tensor) -> Result<()> {
        let places = places.vector();
        for s in 0..self.slots.logits().len() {
            let (few, row) = (x.row(s), logits.row_mut(s));
            for (logit, &place) in row.iter_mut().zip(places) {
                *logit = if place < 0.0 { f32::NEG_INFINITY } else { few[place as usize] };
            }
        }
        Ok(())
    }
}

impl Cpu {
    /// The kept row of a slot's position.
    fn kept_row(&self, slot: SlotId, position: usize) -> Result<usize> {
        let pool = self.pool.as_ref().ok_or_else(|| internal!("no pages were reserved"))?;
        let size = pool.page_size;
        let page = self.slots.row(slot)?.pages.get(position / size);
        let page = page.ok_or_else(|| internal!("slot {slot} has no page for {position}"))?;
        Ok(page.index() * size + position % size)
    }
}
