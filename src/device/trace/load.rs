//! What loading would take.

use super::{product, Trace, TraceTensor, TraceWeight};
use crate::device::host_slots::HostSlots;
use crate::device::{DType, DeviceLimits, LoadOps, QuantForm, WeightDesc, WeightKind};
use crate::error::Result;

/// Codes, and scales and offsets in f32.
fn code_bytes(form: &QuantForm, outputs: usize, inputs: usize) -> u64 {
    let numbers = if form.offsets { 2 } else { 1 };
    let codes = product(&[outputs, form.codes.row_bytes(inputs)]);
    codes.saturating_add(product(&[outputs, form.groups(inputs), numbers, 4]))
}

impl LoadOps for Trace {
    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<TraceWeight> {
        let element = match weight.kind {
            WeightKind::Vector => DType::F32,
            _ => weight.dtype,
        };
        let bytes = match &weight.quant {
            Some(form) => code_bytes(form, weight.outputs, weight.inputs),
            None => product(&[weight.outputs, weight.inputs, element.bytes()]),
        };
        self.held.weights = self.held.weights.saturating_add(bytes);
        let count = match weight.kind {
            WeightKind::Experts { count, .. } => count,
            _ => 1,
        };
        let (outputs, inputs) = (weight.outputs, weight.inputs);
        Ok(TraceWeight { outputs, inputs, bytes, count, adapters: None, table_adapters: None })
    }

    fn tensor(&mut self, rows: usize, width: usize) -> Result<TraceTensor> {
        let tensor = TraceTensor { rows, width, bytes: self.activation.bytes() };
        self.hold_tensor(rows, &tensor);
        Ok(tensor)
    }

    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<TraceTensor> {
        let tensor = TraceTensor { rows, width: vocab, bytes: DType::F32.bytes() };
        self.hold_tensor(rows, &tensor);
        Ok(tensor)
    }

    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()> {
        let DeviceLimits { slots, step_tokens, pages, page_size, .. } = *limits;
        self.slots = HostSlots::new(limits);
        // A page id, length, last token and sampler; a token row's id, position and slot: 4 bytes
        // each.
        let row = 4 * (limits.sequence_pages() + 16);
        self.held.slots += (slots * row + step_tokens * 12) as u64;
        self.held.adapters += (step_tokens * self.low_width * 4) as u64;
        self.held.pages = (pages as u64).saturating_mul(limits.kv.page_bytes(page_size));
        self.kv = Some(limits.kv.clone());
        Ok(())
    }

    fn read(&mut self, tensor: &TraceTensor, rows: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; rows * tensor.width])
    }
}
