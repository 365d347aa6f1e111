//! What heads that draft from hidden states would move.

use super::{bytes, Trace, TraceTensor, TraceWeight};
use crate::device::{DraftOps, LoadOps};
use crate::error::Result;
use crate::internal;

/// Bytes of the number of a kept row.
const KEPT_ROW: usize = 4;

impl DraftOps for Trace {
    type Unread = TraceTensor;

    fn unread(&mut self, rows: usize, width: usize) -> Result<TraceTensor> {
        let kept = TraceTensor { rows, width: 1, most: 1, bytes: KEPT_ROW };
        self.hold_tensor(rows, &kept);
        self.tensor(rows, width)
    }

    fn begin_unread(&mut self, _: usize, _: &mut TraceTensor) -> Result<()> {
        self.launch("begin_unread", (1, 1, 1), 0, KEPT_ROW as u64, 0);
        Ok(())
    }

    fn put_unread(
        &mut self,
        x: &TraceTensor,
        first: usize,
        unread: &mut TraceTensor,
    ) -> Result<()> {
        if first + x.width > unread.width {
            return Err(internal!("columns from {first} of {}", unread.width));
        }
        self.rows_copied("put_unread", self.rows(), x);
        Ok(())
    }

    fn unread_rows<'u>(&self, unread: &'u TraceTensor) -> &'u TraceTensor {
        unread
    }

    fn keep_unread(
        &mut self,
        x: &TraceTensor,
        _unread: &TraceTensor,
        _kept: &mut TraceTensor,
    ) -> Result<()> {
        self.rows_copied("keep_unread", self.rows(), x);
        Ok(())
    }

    fn follow(&mut self, _: &Trace) -> Result<()> {
        Ok(())
    }

    fn put_columns(
        &mut self,
        x: &TraceTensor,
        first: usize,
        _blank_start: bool,
        out: &mut TraceTensor,
    ) -> Result<()> {
        if first + x.width > out.width {
            return Err(internal!("columns from {first} of {}", out.width));
        }
        self.rows_copied("put_columns", self.rows(), x);
        Ok(())
    }

    fn keep_hidden(&mut self, x: &TraceTensor, _kept: &mut TraceTensor) -> Result<()> {
        self.rows_copied("keep_hidden", self.rows(), x);
        Ok(())
    }

    fn keep_next_hidden(&mut self, x: &TraceTensor, _kept: &mut TraceTensor) -> Result<()> {
        self.rows_copied("keep_next_hidden", self.slots.logits().len(), x);
        Ok(())
    }

    fn kept_hidden(&mut self, _kept: &TraceTensor, out: &mut TraceTensor) -> Result<()> {
        self.rows_copied("kept_hidden", self.rows(), out);
        Ok(())
    }

    fn spread_logits(
        &mut self,
        places: &TraceWeight,
        x: &TraceTensor,
        logits: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.slots.logits().len();
        let read = bytes(rows, x) + places.bytes;
        self.launch("spread_logits", (rows, x.width, logits.width), read, bytes(rows, logits), 0);
        Ok(())
    }
}

impl Trace {
    fn rows_copied(&mut self, op: &'static str, rows: usize, x: &TraceTensor) {
        let moved = bytes(rows, x);
        self.launch(op, (rows, x.width, x.width), moved, moved, 0);
    }
}
