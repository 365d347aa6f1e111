//! Rotation of q and k, and k and v into their pages: the arguments of one launch. `ops` calls
//! it; the kernel is in kernels/rope.cu.

use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{AttnSpec, Rope};
use crate::error::Result;
use crate::internal;

/// Pairs that rope_store takes at most (its parameter space and shared memory).
const MAX_ROPE_PAIRS: usize = 256;
/// Heads of a block of rope_store.
const ROPE_HEADS: usize = 16;

impl Cuda {
    pub(super) fn rotate_and_store(
        &self,
        layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
        let mut inverse = [0f32; MAX_ROPE_PAIRS];
        let (mut half, mut magnitude) = (0, 1.0);
        if let Some(rope) = rope {
            half = rope.rotary_dim / 2;
            magnitude = rope.magnitude;
            let room = inverse.get_mut(..half).filter(|room| room.len() == rope.inv_freq.len());
            let room = room.ok_or_else(|| {
                internal!(
                    "rope over {} dimensions, at most {}",
                    rope.rotary_dim,
                    2 * MAX_ROPE_PAIRS
                )
            })?;
            room.copy_from_slice(&rope.inv_freq);
        }
        let reserved = self.reserved()?;
        let device = &reserved.steps.device;
        let layout = self.slots.layout();
        self.kernels.rope_store.launch(
            &self.context,
            [rows, (spec.heads + 2 * spec.kv_heads).div_ceil(ROPE_HEADS)],
            ROW_THREADS,
            &[
                &qkv.at(rows, width, "rope_store"),
                &device.position.address,
                &device.slot_of.address,
                &device.rows.address,
                &layout.stride,
                &layout.pages,
                &(spec.heads as u32),
                &(spec.kv_heads as u32),
                &(spec.head_dim as u32),
                &(reserved.limits.page_size as u32),
                &(half as u32),
                &magnitude,
                &(reserved.pool.address + layer as u64 * reserved.layer_bytes),
                &inverse,
            ],
        )
    }
}
