//! What attention over latent vectors would move and compute.

use super::{bytes, Trace, TraceTensor, TraceWeight};
use crate::device::host_slots::TokenRow;
use crate::device::{LatentOps, LatentSpec, Norm, Rope};
use crate::error::Result;
use crate::internal;

impl LatentOps for Trace {
    fn multiply_heads(
        &mut self,
        weight: &TraceWeight,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let (rows, heads) = (self.rows(), weight.count);
        let outputs = weight.outputs / heads;
        if heads * weight.inputs > x.width || heads * outputs > out.width {
            return Err(internal!("multiply_heads: {} to {} wide", x.width, out.width));
        }
        let products = rows * heads;
        let read = weight.bytes + (products * weight.inputs * x.bytes) as u64;
        let written = (products * outputs * out.bytes) as u64;
        let flops = 2 * (products * weight.inputs * outputs) as u64;
        self.launch("multiply_heads", (rows, weight.inputs, outputs), read, written, flops);
        Ok(())
    }

    fn store_latent(
        &mut self,
        _layer: usize,
        spec: &LatentSpec,
        _norm: &Norm<TraceWeight>,
        _rope: &Rope,
        _q: &TraceTensor,
        latent: &TraceTensor,
        _queries: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        let kv = self.kv.as_ref().map_or(0, |kv| kv.dtype.bytes());
        let turned = rows * spec.heads * spec.rotary;
        let read = bytes(rows, latent) + (turned * latent.bytes) as u64;
        let written = (turned * latent.bytes + rows * spec.width() * kv) as u64;
        let flops = (5 * rows * spec.rank + 3 * (turned + rows * spec.rotary)) as u64;
        self.launch("store_latent", (rows, spec.width(), spec.width()), read, written, flops);
        Ok(())
    }

    fn attend_latent(
        &mut self,
        _layer: usize,
        spec: &LatentSpec,
        queries: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = &self.slots.token_rows;
        let pairs: usize = rows.iter().map(|r| r.position + 1).sum();
        // The last row of a sequence sees all that the others see.
        let of_sequence = |rows: &[TokenRow]| rows.last().map_or(0, |r| r.position + 1);
        let keys: usize = rows.chunk_by(|a, b| a.slot == b.slot).map(of_sequence).sum();
        let rows = rows.len();
        let kv = self.kv.as_ref().map_or(0, |kv| kv.dtype.bytes());
        let read = bytes(rows, queries) + (keys * spec.width() * kv) as u64;
        let flops = (2 * pairs * spec.heads * (spec.width() + spec.rank)) as u64;
        let shape = (rows, queries.width, out.width);
        self.launch("attend_latent", shape, read, bytes(rows, out), flops);
        Ok(())
    }
}
