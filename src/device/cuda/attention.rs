//! Attention on the GPU: norms of heads, rotation and the store to pages, attention over pages or
//! over the sequences of a step. Which kernel runs over pages `paged_attention` decides.

use super::codes::norm_code;
use super::dense::norm_threads;
use super::launch::Argument;
use super::paged_attention::{Call, MAX_HEAD_DIM, THREADS};
use super::weights::Weight;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{AttentionOps, AttnSpec, Norm, Rope};
use crate::error::{Error, Result};
use crate::internal;

/// Pairs that rope_store takes at most (its parameter space and shared memory).
const MAX_ROPE_PAIRS: usize = 256;
/// Heads of a block of rope_store.
const ROPE_HEADS: usize = 16;

impl AttentionOps for Cuda {
    fn norm_heads(
        &mut self,
        spec: &AttnSpec,
        q: &Norm<Weight>,
        k: &Norm<Weight>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let (q_width, k_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let stride = q_width + 2 * k_width;
        let x = qkv.at(rows, stride, "norm_heads");
        for (norm, first, total) in [(q, 0, q_width), (k, q_width, k_width)] {
            let width = norm.weight.outputs;
            assert!(width > 0 && total % width == 0, "norm of {width} over heads of {total}");
            self.kernels.norm_parts.launch(
                &self.context,
                [rows, total / width],
                norm_threads(width),
                &[
                    &x,
                    &(stride as u32),
                    &(first as u32),
                    &norm.weight.vector(width),
                    &(width as u32),
                    &norm.eps,
                    &norm_code(norm.kind),
                ],
            )?;
        }
        Ok(())
    }

    fn rope_store(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut Tensor,
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

    fn attend(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };
        let call = Call {
            rows,
            spec,
            page_size: reserved.limits.page_size,
            layout: self.slots.layout(),
            device: &reserved.steps.device,
            qkv: qkv.at(rows, width, "attend"),
            pool: reserved.pool.address + layer as u64 * reserved.layer_bytes,
            out: out.at(rows, spec.heads * spec.head_dim, "attend"),
        };
        reserved.attention.run(&self.context, &self.kernels, &call)
    }

    fn attend_all(&mut self, spec: &AttnSpec, qkv: &Tensor, out: &mut Tensor) -> Result<()> {
        self.slots.batch().whole_sequences("attend_all")?;
        if spec.head_dim > MAX_HEAD_DIM {
            return Err(Error::Unsupported(format!(
                "head_dim {}: attention on GPUs goes up to {MAX_HEAD_DIM}.",
                spec.head_dim
            )));
        }
        let (rows, width) = (self.rows(), (spec.heads + 2 * spec.kv_heads) * spec.head_dim);
        let device = &self.reserved()?.steps.device;
        let arguments: [&dyn Argument; 11] = [
            &qkv.at(rows, width, "attend_all"),
            &device.position.address,
            &device.slot_of.address,
            &device.rows.address,
            &self.slots.layout().stride,
            &(spec.heads as u32),
            &(spec.kv_heads as u32),
            &(spec.head_dim as u32),
            &spec.scale,
            &spec.softcap.unwrap_or(0.0),
            &out.at(rows, spec.heads * spec.head_dim, "attend_all"),
        ];
        self.kernels.attend_all.launch(&self.context, [rows, spec.heads], THREADS, &arguments)
    }
}
