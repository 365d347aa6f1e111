//! What ops move and compute, where that takes more than a line. `Trace` calls it.

use super::{bytes, Trace, TraceTensor, TraceWeight};
use crate::device::slots::TokenRow;
use crate::device::{AttnSpec, Pooling};
use crate::error::Result;
use crate::ids::TokenId;
use crate::internal;
use crate::plan::{Sampled, StepResult};

impl Trace {
    pub(super) fn count_hand_over(&mut self, pooled: &TraceTensor) {
        let batch = &self.slots.batch;
        let token = |slot| Sampled { slot, tokens: Ok(vec![TokenId(0)]), logprobs: Vec::new() };
        let samples: Vec<Sampled> = batch.logits.iter().map(|l| token(l.slot)).collect();
        let vectors = vec![vec![0.0; pooled.width]; samples.len()];
        let result = StepResult { step: batch.step, samples, vectors, ..StepResult::default() };
        self.results.push_back(result);
    }

    pub(super) fn count_attend(&mut self, spec: &AttnSpec, qkv: &TraceTensor, out: &TraceTensor) {
        let rows = &self.slots.batch.rows;
        let seen = |r: &TokenRow| (r.position + 1).min(spec.window.unwrap_or(usize::MAX));
        let pairs: usize = rows.iter().map(seen).sum();
        // A sequence's rows lie together, and each sees one key more to the right.
        let of_sequence = |rows: &[TokenRow]| rows.first().map_or(0, seen) + rows.len() - 1;
        let keys: usize = rows.chunk_by(|a, b| a.slot == b.slot).map(of_sequence).sum();
        let (rows, q) = (rows.len(), spec.heads * spec.head_dim);
        let kv = self.kv.as_ref().map_or(0, |kv| kv.dtype.bytes());
        let read = rows * q * qkv.bytes + keys * 2 * spec.kv_heads * spec.head_dim * kv;
        let flops = (4 * pairs * q) as u64;
        self.launch("attend", (rows, qkv.width, q), read as u64, bytes(rows, out), flops);
    }

    pub(super) fn count_attend_all(
        &mut self,
        spec: &AttnSpec,
        qkv: &TraceTensor,
        out: &TraceTensor,
    ) {
        let (rows, q) = (self.rows(), spec.heads * spec.head_dim);
        let keys: usize = self.slots.batch.sequences().map(|s| s.len() * s.len()).sum();
        let flops = (4 * keys * q) as u64;
        self.launch("attend_all", (rows, qkv.width, q), bytes(rows, qkv), bytes(rows, out), flops);
    }

    pub(super) fn count_pool(&mut self, kind: Pooling, x: &TraceTensor, out: &TraceTensor) {
        let samples = self.slots.batch.logits.len();
        let (read, flops) = match kind {
            Pooling::Mean => (self.rows(), self.rows() * x.width),
            Pooling::First | Pooling::Last => (samples, 0),
        };
        let (read, written) = (bytes(read, x), bytes(samples, out));
        self.launch("pool", (samples, x.width, out.width), read, written, flops as u64);
    }

    /// Rows of a linear: activations in and out, the weight once.
    pub(super) fn linear_launch(
        &mut self,
        op: &'static str,
        rows: usize,
        weight: &TraceWeight,
        x: &TraceTensor,
        out: &TraceTensor,
    ) -> Result<()> {
        if x.width != weight.inputs || rows > x.rows || rows > out.rows {
            return Err(internal!("{op}: {rows} rows of {} for {} inputs", x.width, weight.inputs));
        }
        let shape = (rows, weight.inputs, weight.outputs);
        let read = weight.bytes + bytes(rows, x);
        let flops = 2 * (rows * weight.inputs * weight.outputs) as u64;
        self.launch(op, shape, read, bytes(rows, out), flops);
        if let Some(adapters) = weight.adapters.filter(|_| self.slots.batch.adapters) {
            self.adapter_launches(rows, weight, adapters, x, out);
        }
        Ok(())
    }

    /// Every row meets `top_k` experts; of the stack only those are read that some row may meet.
    pub(super) fn experts_launch(
        &mut self,
        op: &'static str,
        weight: &TraceWeight,
        routes: &TraceTensor,
        (x_rows, x): (usize, &TraceTensor),
        out: &TraceTensor,
    ) -> Result<()> {
        let chosen = self.rows() * routes.width / 2;
        if x.width != weight.inputs || chosen > out.rows {
            return Err(internal!(
                "{op}: {chosen} rows of {} for {} inputs",
                x.width,
                weight.inputs
            ));
        }
        let outputs = weight.outputs / weight.count;
        let met = weight.count.min(chosen) as u64;
        let read = weight.bytes / weight.count as u64 * met + bytes(x_rows, x);
        let flops = 2 * (chosen * weight.inputs * outputs) as u64;
        let shape = (chosen, weight.inputs, outputs);
        self.launch(op, shape, read, bytes(chosen, out), flops);
        Ok(())
    }

    pub(super) fn norm_launch(
        &mut self,
        op: &'static str,
        reads: u64,
        writes: u64,
        x: &TraceTensor,
    ) {
        let rows = self.rows();
        let one = bytes(rows, x);
        let flops = (5 * rows * x.width) as u64;
        self.launch(op, (rows, x.width, x.width), reads * one, writes * one, flops);
    }
}
