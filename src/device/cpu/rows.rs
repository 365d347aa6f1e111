//! Ops of the CPU device that look token rows up or norm parts of them. `Cpu` calls it; it knows
//! no linear and no page.

use super::buffer::Tensor;
use super::numbers;
use super::weight::Weight;
use crate::device::slots::Batch;
use crate::device::{AttnSpec, Norm};
use crate::error::Result;
use crate::internal;

/// `Device::embed`.
pub(super) fn embed(batch: &Batch, table: &Weight, scale: f32, out: &mut Tensor) -> Result<()> {
    let adapters = table.table_adapters.as_ref().filter(|_| batch.adapters);
    for (r, row) in batch.rows.iter().enumerate() {
        let token = row.token.index();
        if token >= table.outputs {
            return Err(internal!("token {} of {}", row.token, table.outputs));
        }
        let out = &mut out.row_mut(r)[..table.inputs];
        table.table_row(token, |i, x| out[i] = x);
        if let Some((adapters, adapter_slot)) =
            adapters.and_then(|a| Some((a, batch.adapter_slots[r]?)))
        {
            adapters.add(adapter_slot, token, out);
        }
        out.iter_mut().for_each(|x| *x *= scale);
    }
    Ok(())
}

/// `Device::add_positions`.
pub(super) fn add_positions(
    batch: &Batch,
    table: &Weight,
    offset: usize,
    x: &mut Tensor,
) -> Result<()> {
    for (r, row) in batch.rows.iter().enumerate() {
        let position = row.position + offset;
        if position >= table.outputs {
            return Err(internal!("position {position} of {}", table.outputs));
        }
        let x = x.row_mut(r);
        table.table_row(position, |i, p| x[i] += p);
    }
    Ok(())
}

/// `Device::norm_heads`.
pub(super) fn norm_heads(
    rows: usize,
    spec: &AttnSpec,
    q: &Norm<Weight>,
    k: &Norm<Weight>,
    qkv: &mut Tensor,
) {
    let q_width = spec.heads * spec.head_dim;
    let width = q_width + spec.kv_heads * spec.head_dim;
    for r in 0..rows {
        let (q_row, k_row) = qkv.row_mut(r)[..width].split_at_mut(q_width);
        for (norm, row) in [(q, q_row), (k, k_row)] {
            let w = norm.weight.vector();
            for head in row.chunks_exact_mut(w.len()) {
                let x = head.to_vec();
                numbers::norm(norm.kind, norm.eps, w, None, &x, head);
            }
        }
    }
}
