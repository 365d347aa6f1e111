//! What attention would move and compute.

use super::{bytes, Trace, TraceTensor, TraceWeight};
use crate::device::host_slots::TokenRow;
use crate::device::{AttentionOps, AttnSpec, Norm, Rope};
use crate::error::Result;
use crate::internal;

impl AttentionOps for Trace {
    fn norm_heads(
        &mut self,
        spec: &AttnSpec,
        _q: &Norm<TraceWeight>,
        _k: &Norm<TraceWeight>,
        qkv: &mut TraceTensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), (spec.heads + spec.kv_heads) * spec.head_dim);
        let moved = (rows * width * qkv.bytes) as u64;
        self.launch("norm_heads", (rows, width, width), moved, moved, (5 * rows * width) as u64);
        Ok(())
    }

    fn values_of_keys(
        &mut self,
        spec: &AttnSpec,
        qk: &TraceTensor,
        qkv: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        if qkv.width != spec.row_width() {
            return Err(internal!("q, k and v of {} columns in {}", spec.row_width(), qkv.width));
        }
        let shape = (rows, qk.width, qkv.width);
        self.launch("values_of_keys", shape, bytes(rows, qk), bytes(rows, qkv), 0);
        Ok(())
    }

    fn rope_store(
        &mut self,
        _layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        let kv = self.kv.as_ref().map_or(0, |kv| kv.dtype.bytes());
        let kv_heads = spec.own_kv_heads();
        let stored = (rows * 2 * kv_heads * spec.head_dim * kv) as u64;
        let turned = rope.map_or(0, |r| (spec.heads + kv_heads) * r.rotary_dim * rows);
        let written = stored + (turned * qkv.bytes) as u64;
        let flops = 3 * turned as u64;
        self.launch("rope_store", (rows, qkv.width, qkv.width), bytes(rows, qkv), written, flops);
        Ok(())
    }

    fn rotate(&mut self, spec: &AttnSpec, rope: &Rope, qkv: &mut TraceTensor) -> Result<()> {
        let rows = self.rows();
        let turned = (spec.heads + spec.kv_heads) * rope.rotary_dim * rows;
        let moved = (turned * qkv.bytes) as u64;
        self.launch("rotate", (rows, qkv.width, qkv.width), moved, moved, 3 * turned as u64);
        Ok(())
    }

    fn attend(
        &mut self,
        _layer: usize,
        spec: &AttnSpec,
        _sinks: Option<&TraceWeight>,
        qkv: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = &self.slots.token_rows;
        let seen = |r: &TokenRow| r.position + 1 - spec.first_key(r.position);
        let pairs: usize = rows.iter().map(seen).sum();
        // A sequence's rows lie together, and each sees one key more to the right.
        let of_sequence = |rows: &[TokenRow]| {
            let first = rows.first().map_or(0, |row| spec.first_key(row.position));
            rows.last().map_or(0, |row| row.position + 1 - first)
        };
        let keys: usize = rows.chunk_by(|a, b| a.slot == b.slot).map(of_sequence).sum();
        let rows = rows.len();
        let q = spec.heads * spec.head_dim;
        let kv = self.kv.as_ref().map_or(0, |kv| kv.dtype.bytes());
        let read = rows * q * qkv.bytes + keys * 2 * spec.kv_heads * spec.head_dim * kv;
        let flops = (4 * pairs * q) as u64;
        self.launch("attend", (rows, qkv.width, q), read as u64, bytes(rows, out), flops);
        Ok(())
    }

    fn attend_alibi(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        _slopes: &TraceWeight,
        qkv: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        self.attend(layer, spec, None, qkv, out)
    }

    fn gate_output(&mut self, gate: &TraceTensor, out: &mut TraceTensor) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        let read = bytes(rows, gate) + bytes(rows, out);
        let flops = (5 * rows * width) as u64;
        self.launch("gate_output", (rows, width, width), read, bytes(rows, out), flops);
        Ok(())
    }

    fn attend_all(
        &mut self,
        spec: &AttnSpec,
        qkv: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        let q = spec.heads * spec.head_dim;
        let seen = |tokens: usize| match spec.window {
            Some(window) => tokens.min(2 * window - 1),
            None => tokens,
        };
        let chunks = self.slots.batch().chunks.iter();
        let keys: usize = chunks.map(|c| c.tokens * seen(c.tokens)).sum();
        let flops = (4 * keys * q) as u64;
        self.launch("attend_all", (rows, qkv.width, q), bytes(rows, qkv), bytes(rows, out), flops);
        Ok(())
    }
}
