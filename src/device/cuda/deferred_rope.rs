//! Rotation and store of single tokens as part of attention (kernels/attention_ring_rope.cuh): the
//! launch of rope_store waits to see whether the next one is attention that does it on its way.
//! `attention` calls it; it knows no kernel's choice.

use super::abi::RopeStore;
use super::device_ptr::DevicePtr;
use super::{Cuda, ROW_THREADS};
use crate::device::AttnSpec;
use crate::error::Result;

impl Cuda {
    /// rope_store of elements of the activations' type over `blocks`, before the next launch,
    /// unless that is attention that takes it over.
    pub(super) fn defer_rope(&mut self, blocks: [usize; 2], parameters: RopeStore) {
        let kernels = self.kernels.clone();
        let held = Box::new(parameters);
        self.deferred_rope = Some(held.clone());
        self.context.defer(held.qkv, move |context| {
            kernels.rope_store.launch(context, blocks, ROW_THREADS, &held)
        });
    }

    /// The rotation of `qkv` and the store to the layer's pages at `pool`, if they are still to be
    /// made and attention over `spec` can make them: it does from here on.
    pub(super) fn take_rope(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        qkv: DevicePtr,
        pool: DevicePtr,
    ) -> Result<Option<Box<RopeStore>>> {
        let Some(rope) = self.deferred_rope.take() else { return Ok(None) };
        let heads = [rope.heads, rope.kv_heads, rope.dim].map(|n| n as usize);
        let same = rope.qkv == qkv
            && rope.pool == pool
            && heads == [spec.heads, spec.kv_heads, spec.head_dim];
        let takes = same && self.rotates_on_the_way(layer, spec, rope.half as usize)?;
        Ok(Some(rope).filter(|_| takes && self.context.take_deferred(qkv)))
    }

    /// Whether attention of this step can rotate and store by itself, `half` pairs of a head: every
    /// sequence has one row, of which no other reads what is stored.
    pub(super) fn rotates_on_the_way(
        &self,
        layer: usize,
        spec: &AttnSpec,
        half: usize,
    ) -> Result<bool> {
        let one_each = !self.slots.batch().several_rows();
        Ok(one_each && self.reserved()?.attention.rotates(layer, spec, half))
    }
}
