//! What loading would take.

use super::{product, Trace, TraceTensor, TraceWeight};
use crate::device::host_slots::HostSlots;
use crate::device::{DType, DeviceLimits, LoadOps, QuantForm, Source, WeightDesc, WeightKind};
use crate::error::Result;
use crate::internal;

/// Of codes, their scales and offsets, and the order of inputs.
fn code_bytes(weight: &WeightDesc, form: &QuantForm) -> u64 {
    let per_group = DType::F32.bytes() * if form.offsets { 2 } else { 1 };
    let groups = product(&[weight.outputs, form.groups(weight.inputs), per_group]);
    let row = product(&[weight.inputs, form.codes.bits()]).div_ceil(8);
    let codes = row.saturating_mul(weight.outputs as u64);
    let order = match &weight.source {
        Source::Codes { order, .. } => 4 * order.len() as u64,
        _ => 0,
    };
    codes.saturating_add(groups).saturating_add(order)
}

impl LoadOps for Trace {
    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<TraceWeight> {
        let bytes = match (&weight.quant, weight.kind) {
            (Some(form), _) => code_bytes(&weight, form),
            (None, WeightKind::Vector) => product(&[weight.outputs, weight.inputs, 4]),
            (None, _) => product(&[weight.outputs, weight.inputs, weight.dtype.bytes()]),
        };
        self.held.weights = self.held.weights.saturating_add(bytes);
        self.held.codes |= weight.quant.is_some();
        let count = match weight.kind {
            WeightKind::Experts { count, .. } | WeightKind::Heads { count } => count,
            _ => 1,
        };
        if weight.quant.is_some() && matches!(weight.kind, WeightKind::Experts { .. }) {
            let plain = product(&[weight.outputs, weight.inputs, weight.dtype.bytes()]);
            self.held.plain_experts += plain.saturating_sub(bytes);
        }

        let (outputs, inputs) = (weight.outputs, weight.inputs);
        Ok(TraceWeight {
            outputs,
            inputs,
            bytes,
            count,
            join: weight.join,
            adapters: None,
            table_adapters: None,
        })
    }

    fn tensor(&mut self, rows: usize, width: usize) -> Result<TraceTensor> {
        let tensor = TraceTensor { rows, width, most: width, bytes: self.activation.bytes() };
        self.hold_tensor(rows, &tensor);
        Ok(tensor)
    }

    fn reshape(&mut self, tensor: &mut TraceTensor, width: usize) -> Result<()> {
        if width > tensor.most {
            return Err(internal!("rows of {width} in those of {}", tensor.most));
        }
        tensor.width = width;
        Ok(())
    }

    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<TraceTensor> {
        let tensor = TraceTensor { rows, width: vocab, most: vocab, bytes: DType::F32.bytes() };
        self.hold_tensor(rows, &tensor);
        if self.rank.of > 1 {
            // The rank's own columns, before all are side by side.
            let part = TraceTensor { width: vocab.div_ceil(self.rank.of), ..tensor };
            self.hold_tensor(rows, &part);
        }
        Ok(tensor)
    }

    fn feeds(&mut self, _: &mut Self::Tensor, _: &Self::Weight) -> Result<()> {
        Ok(())
    }

    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()> {
        let DeviceLimits { slots, step_tokens, pages, page_size, .. } = *limits;
        self.slots = HostSlots::new(limits);
        // A page id, length, last token and sampler; a token row's id, position and slot: 4 bytes
        // each.
        let row = 4 * (limits.sequence_pages() + 16);
        self.held.slots += (slots * row + step_tokens * 12) as u64;
        self.held.adapters += (step_tokens * self.low_width * 4) as u64;
        self.held.state = limits.state.bytes(self.activation.bytes());
        self.held.pages = (pages as u64).saturating_mul(limits.kv.page_bytes(page_size));
        self.kv = Some(limits.kv.clone());
        Ok(())
    }

    fn sizes_to_rehearse(&self, _: usize) -> Vec<usize> {
        Vec::new()
    }

    fn keep_choices(&mut self) {}

    fn read(&mut self, tensor: &TraceTensor, rows: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; rows * tensor.width])
    }
}

#[cfg(test)]
mod tests {
    use super::super::Held;
    use super::*;
    use crate::device::{CodeType, Join};

    fn held(quant: Option<QuantForm>, source: Source<'static>) -> u64 {
        held_of(WeightKind::Linear, quant, source).weights
    }

    fn held_of(kind: WeightKind, quant: Option<QuantForm>, source: Source<'static>) -> Held {
        let mut trace = Trace::new(DType::BF16);
        let desc = WeightDesc {
            name: "w",
            kind,
            outputs: 10,
            inputs: 67,
            dtype: DType::BF16,
            quant,
            transposed: false,
            join: Join::None,
            source,
        };
        trace.upload(desc).unwrap();
        trace.held()
    }

    #[test]
    fn plain_experts_are_counted_beside() {
        let dummy = || Source::Dummy { seed: 1, scale: 1.0 };
        let form = QuantForm { codes: CodeType::Int4, group: 67, offsets: false, inputs: None };
        let experts = WeightKind::Experts { count: 5, gated: false };
        let (coded, plain) = (10 * (34 + 4), 10 * 67 * 2);
        let held = held_of(experts, Some(form), dummy());
        assert_eq!((held.weights, held.plain_experts, held.codes), (coded, plain - coded, true));
        let held = held_of(experts, None, dummy());
        assert_eq!((held.weights, held.plain_experts, held.codes), (plain, 0, false));
        assert_eq!(held_of(WeightKind::Linear, Some(form), dummy()).plain_experts, 0);
    }

    #[test]
    fn codes_count_with_scales_offsets_and_order() {
        let dummy = || Source::Dummy { seed: 1, scale: 1.0 };
        let form = QuantForm { codes: CodeType::Int4, group: 32, offsets: false, inputs: None };
        assert_eq!(held(None, dummy()), 10 * 67 * 2);
        assert_eq!(held(Some(form), dummy()), 10 * 34 + 10 * 3 * 4);
        assert_eq!(held(Some(QuantForm { offsets: true, ..form }), dummy()), 10 * (34 + 24));
        let ordered = Source::Codes { parts: Vec::new(), order: (0..67).collect() };
        let wide = QuantForm { codes: CodeType::E4m3, group: 67, ..form };
        assert_eq!(held(Some(wide), ordered), 10 * (67 + 4) + 67 * 4);
    }
}
