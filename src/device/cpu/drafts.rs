//! What heads that draft from hidden states need, on the CPU: copies of rows, element by element.

use super::buffer::Tensor;
use super::weight::Weight;
use super::Cpu;
use crate::device::DraftOps;
use crate::error::Result;
use crate::ids::SlotId;
use crate::internal;

/// See [`DraftOps::Unread`].
pub struct Unread {
    rows: Tensor,
    /// Kept row of each.
    kept: Vec<usize>,
    /// First row of the current step.
    at: usize,
}

impl DraftOps for Cpu {
    type Unread = Unread;

    fn unread(&mut self, rows: usize, width: usize) -> Result<Unread> {
        Ok(Unread { rows: Tensor::new(rows, width)?, kept: vec![0; rows], at: 0 })
    }

    fn begin_unread(&mut self, at: usize, unread: &mut Unread) -> Result<()> {
        unread.at = at;
        Ok(())
    }

    fn put_unread(&mut self, x: &Tensor, first: usize, unread: &mut Unread) -> Result<()> {
        let Unread { rows, kept, at } = unread;
        let columns = first..first + x.width;
        let step = self.slots.token_rows.len();
        if columns.end > rows.width || *at + step > rows.rows {
            let (most, width) = (rows.rows, rows.width);
            return Err(internal!("{step} rows from {at} of {most}, {columns:?} of {width}"));
        }
        for (r, row) in self.slots.token_rows.iter().enumerate() {
            rows.row_mut(*at + r)[columns.clone()].copy_from_slice(x.row(r));
            if first == 0 {
                kept[*at + r] = self.kept_row(row.slot, row.position)?;
            }
        }
        Ok(())
    }

    fn unread_rows<'u>(&self, unread: &'u Unread) -> &'u Tensor {
        &unread.rows
    }

    fn keep_unread(&mut self, x: &Tensor, unread: &Unread, kept: &mut Tensor) -> Result<()> {
        let of = &unread.kept[..self.rows()];
        // A device that copies them in any order could leave either.
        let mut sorted = of.to_vec();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(internal!("two hidden states for row {}", twice[0]));
        }
        for (r, &to) in of.iter().enumerate() {
            kept.row_mut(to).copy_from_slice(x.row(r));
        }
        Ok(())
    }

    fn follow(&mut self, _: &Cpu) -> Result<()> {
        Ok(())
    }

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
