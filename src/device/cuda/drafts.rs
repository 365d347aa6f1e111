//! What heads need that draft from hidden states, on the GPU: copies of rows (kernels/drafts.cu).

use super::abi;
use super::device_ptr::DevicePtr;
use super::weights::Weight;
use super::{Cuda, Tensor};
use crate::device::DraftOps;
use crate::error::Result;
use crate::internal;

const THREADS: u32 = abi::DRAFT_THREADS;

impl DraftOps for Cuda {
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
