//! What heads need that draft from hidden states, on the GPU: copies of rows (kernels/drafts.cu).

use super::abi;
use super::context::Event;
use super::device_ptr::DevicePtr;
use super::memory::Memory;
use super::weights::Weight;
use super::{Cuda, Tensor};
use crate::device::{DraftOps, LoadOps};
use crate::error::Result;
use crate::internal;

const THREADS: u32 = abi::DRAFT_THREADS;

/// See [`DraftOps::Unread`].
pub struct Unread {
    rows: Tensor,
    /// Kept row of each, a word.
    kept: Memory,
    /// First row of the current step, a word: recorded steps read it there.
    at: Memory,
}

impl DraftOps for Cuda {
    type Unread = Unread;

    fn unread(&mut self, rows: usize, width: usize) -> Result<Unread> {
        let words = |count| Memory::new(&self.context, 4 * count, "numbers of hidden states");
        let (kept, at) = (words(rows)?, words(1)?);
        Ok(Unread { rows: self.tensor(rows, width)?, kept, at })
    }

    fn begin_unread(&mut self, at: usize, unread: &mut Unread) -> Result<()> {
        self.context.bind()?;
        let parameters = abi::BeginUnread { at: unread.at.address, row: at as u32, unused: 0 };
        self.kernels.begin_unread.launch(&self.context, [1, 1], 1, &parameters)
    }

    fn put_unread(&mut self, x: &Tensor, first: usize, unread: &mut Unread) -> Result<()> {
        let (rows, width, all) = (self.rows(), x.width, unread.rows.width);
        if first + width > all {
            return Err(internal!("columns from {first} of {all}, {width} wide"));
        }
        let reserved = self.reserved()?;
        let device = &reserved.steps.device;
        let parameters = abi::PutUnread {
            x: x.at(rows, width, "put_unread"),
            // The host sees to it that there is room for the rows that are no padding.
            rows: unread.rows.to(0, all, "put_unread"),
            kept: unread.kept.address,
            at: unread.at.address,
            position: device.position.address,
            slot_of: device.slot_of.address,
            slots: device.slot_rows(self.slots.layout()),
            width: width as u32,
            row_width: all as u32,
            first: first as u32,
            page_size: reserved.limits.page_size as u32,
        };
        self.kernels.put_unread.launch(&self.context, [rows, 1], THREADS, &parameters)
    }

    fn unread_rows<'u>(&self, unread: &'u Unread) -> &'u Tensor {
        &unread.rows
    }

    fn keep_unread(&mut self, x: &Tensor, unread: &Unread, kept: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), x.width);
        let parameters = abi::KeepUnread {
            x: x.at(rows, width, "keep_unread"),
            of: unread.kept.address,
            kept: kept.to(kept.rows, width, "keep_unread"),
            width: width as u32,
            unused: 0,
        };
        self.kernels.keep_unread.launch(&self.context, [rows, 1], THREADS, &parameters)
    }

    fn follow(&mut self, other: &Cuda) -> Result<()> {
        let passed = Event::new(&other.context, false)?;
        passed.record()?;
        passed.hold(&self.context)
    }

    fn put_columns(
        &mut self,
        x: &Tensor,
        first: usize,
        blank_start: bool,
        out: &mut Tensor,
    ) -> Result<()> {
        let (rows, width, out_width) = (self.rows(), x.width, out.width);
        if first + width > out_width {
            return Err(internal!("columns from {first} of {out_width}, {width} wide"));
        }
        let parameters = abi::PutColumns {
            x: x.at(rows, width, "put_columns"),
            position: self.reserved()?.steps.device.position.address,
            out: out.to(rows, out_width, "put_columns"),
            width: width as u32,
            out_width: out_width as u32,
            first: first as u32,
            blank_start: u32::from(blank_start),
        };
        self.kernels.put_columns.launch(&self.context, [rows, 1], THREADS, &parameters)
    }

    fn keep_hidden(&mut self, x: &Tensor, kept: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), x.width);
        let x = x.at(rows, width, "keep_hidden");
        let kept = kept.to(kept.rows, width, "keep_hidden");
        let parameters = self.hidden_rows(x, kept, width, DevicePtr::NULL, 0)?;
        self.kernels.store_hidden.launch(&self.context, [rows, 1], THREADS, &parameters)
    }

    fn keep_next_hidden(&mut self, x: &Tensor, kept: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.samples(), x.width);
        let x = x.at(rows, width, "keep_next_hidden");
        let kept = kept.to(kept.rows, width, "keep_next_hidden");
        let row = self.reserved()?.steps.device.gather_row.address;
        let parameters = self.hidden_rows(x, kept, width, row, 1)?;
        self.kernels.store_hidden.launch(&self.context, [rows, 1], THREADS, &parameters)
    }

    fn kept_hidden(&mut self, kept: &Tensor, out: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        let x = out.to(rows, width, "kept_hidden");
        let kept = kept.at(kept.rows, width, "kept_hidden");
        let parameters = self.hidden_rows(x, kept, width, DevicePtr::NULL, 0)?;
        self.kernels.load_hidden.launch(&self.context, [rows, 1], THREADS, &parameters)
    }

    fn spread_logits(&mut self, places: &Weight, x: &Tensor, logits: &mut Tensor) -> Result<()> {
        let (rows, few, vocab) = (self.samples(), x.width, logits.width);
        let parameters = abi::SpreadLogits {
            x: x.at(rows, few, "spread_logits"),
            places: places.vector(vocab),
            logits: logits.to(rows, vocab, "spread_logits"),
            few: few as u32,
            vocab: vocab as u32,
        };
        let blocks = [rows, vocab.div_ceil(THREADS as usize)];
        self.kernels.spread_logits.launch(&self.context, blocks, THREADS, &parameters)
    }
}

impl Cuda {
    /// Rows of the batch and kept ones. The kept ones may be another device's on this GPU, on which
    /// nothing runs meanwhile.
    fn hidden_rows(
        &self,
        x: DevicePtr,
        kept: DevicePtr,
        width: usize,
        row: DevicePtr,
        ahead: u32,
    ) -> Result<abi::HiddenRows> {
        let reserved = self.reserved()?;
        let device = &reserved.steps.device;
        Ok(abi::HiddenRows {
            x,
            kept,
            row,
            position: device.position.address,
            slot_of: device.slot_of.address,
            slots: device.slot_rows(self.slots.layout()),
            width: width as u32,
            page_size: reserved.limits.page_size as u32,
            ahead,
            unused: 0,
        })
    }
}
