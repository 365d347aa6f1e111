//! Attention of single tokens by a ring of boxes (kernels/attention_ring_sm90.cu and
//! attention_shared_sm90.cu): which of its kernels a step has, and their launch. `paged_attention`
//! asks it on cards that have them.
//!
//! Where every sequence of a step has one row, the kernel may do the work of `rope_store` too: a
//! launch less between two products, and keys come while the product in front still runs. Keys that
//! sequences share are read by a launch of their own, in front, which needs rotated q.

use super::abi::{self, PagedAttention, RingAttention, RingTurn, RopeStore, TensorMap};
use super::context::Context;
use super::launch::Kernel;
use super::module::Kernels;
use crate::device::{AttnSpec, DType};
use crate::error::Result;
use crate::internal;

/// Elements that are rotated and copied at once.
const EIGHT: usize = 8;
/// The architecture of the kernels.
const HOPPER: u32 = 90;

/// The kernels of a head size.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    /// q and the newest keys lie where `rope_store` left them.
    apart: &'a Kernel<RingAttention>,
    /// The kernel rotates and stores.
    turn: &'a Kernel<RingTurn>,
    /// Keys that sequences share, where there is a kernel for these heads.
    shared: Option<&'a Kernel<RingAttention>>,
    dim: usize,
}

impl<'a> Ring<'a> {
    /// For heads of `dim` elements of 16 bits, if this card has them.
    pub fn of(k: &'a Kernels, dim: usize) -> Option<Ring<'a>> {
        let (apart, turn, shared) = match dim {
            64 => (&k.ring_64, &k.ring_turn_64, Some(&k.shared_64)),
            128 => (&k.ring_128, &k.ring_turn_128, Some(&k.shared_128)),
            256 => (&k.ring_256, &k.ring_turn_256, None),
            _ => return None,
        };
        (apart.capability() == HOPPER).then_some(Ring { apart, turn, shared, dim })
    }

    /// It can read keys once that sequences share.
    pub fn shares(&self) -> bool {
        self.shared.is_some()
    }

    /// The kernels take the shared memory that they need. The blocks that the card holds at once.
    pub fn prepare(&self, context: &Context) -> Result<usize> {
        let (shared, more) = (shared_bytes(self.dim), turning_bytes(self.dim));
        self.apart.allow_shared(shared)?;
        self.turn.allow_shared(more)?;
        self.shared.map_or(Ok(()), |kernel| kernel.allow_shared(shared))?;
        let apart = self.apart.resident_blocks(context, abi::RING_THREADS, shared)?;
        let turn = self.turn.resident_blocks(context, abi::RING_THREADS, more)?;
        Ok(apart.min(turn))
    }

    /// The keys that a step's sequences share, by so many blocks of each KV head.
    ///
    /// # Errors
    /// Internal: no kernel for these heads.
    pub fn launch_shared(
        &self,
        context: &Context,
        blocks: usize,
        pool: TensorMap,
        attention: PagedAttention,
    ) -> Result<()> {
        let shared = self.shared.ok_or_else(|| internal!("shared keys of {} columns", self.dim))?;
        let blocks = [attention.kv_heads as usize, blocks];
        let (threads, bytes) = (abi::RING_THREADS, shared_bytes(self.dim));
        shared.launch_shared(context, blocks, threads, bytes, &RingAttention { pool, attention })
    }

    /// A step's single tokens, by so many blocks of each KV head. `rope`: q and k are still to be
    /// rotated, and k and v to be stored.
    pub fn launch(
        &self,
        context: &Context,
        blocks: usize,
        pool: TensorMap,
        attention: PagedAttention,
        rope: Option<&RopeStore>,
    ) -> Result<()> {
        let threads = abi::RING_THREADS;
        let blocks = [attention.kv_heads as usize, blocks];
        let Some(rope) = rope else {
            let parameters = RingAttention { pool, attention };
            let shared = shared_bytes(self.dim);
            return self.apart.launch_shared(context, blocks, threads, shared, &parameters);
        };

        let parameters = RingTurn { pool, attention, rope: *rope };
        let shared = turning_bytes(self.dim);
        self.turn.launch_shared(context, blocks, threads, shared, &parameters)
    }
}

/// Whether the kernels can rotate `half` pairs of heads of such a spec.
pub fn rotates(spec: &AttnSpec, half: usize) -> bool {
    !spec.q_only
        && spec.heads <= spec.kv_heads * abi::RING_NARROW_ROWS as usize
        && half.is_multiple_of(EIGHT)
        && 2 * half <= spec.head_dim
}

/// Slots of the ring, what aligns them, and the rows that warps merge at once.
fn shared_bytes(dim: usize) -> usize {
    let merge_bytes =
        abi::SPLIT_THREADS as usize / 32 * abi::RING_MERGED_ROWS as usize * (dim + 4 + 2) * 4;
    let slot_bytes = abi::TILE_KEYS as usize * dim * DType::BF16.bytes();
    abi::RING_ALIGNMENT as usize + slots(dim) * slot_bytes + merge_bytes
}

/// The same with what of a token is rotated (kernels/attention_ring_rope.cuh): q's heads, padded,
/// K, V, sines and cosines.
fn turning_bytes(dim: usize) -> usize {
    let elements = abi::SPLIT_ROWS as usize * (dim + EIGHT) + 2 * dim;
    shared_bytes(dim) + elements * DType::BF16.bytes() + dim * size_of::<f32>()
}

/// Of the ring, a tile of K or V each.
pub fn slots(dim: usize) -> usize {
    (if dim == 64 { abi::RING_SLOTS_OF_64 } else { abi::RING_SLOTS }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::KvScales;

    /// What is copied by eights is; other heads have a launch of their own in front.
    #[test]
    fn eights_of_few_heads_are_rotated() {
        let spec = |heads, q_only| AttnSpec {
            heads,
            kv_heads: 2,
            head_dim: 128,
            scale: 1.0,
            window: None,
            chunk: None,
            softcap: None,
            kv_scales: KvScales::ONE,
            q_only,
        };
        let halves = [0, 8, 64, 4, 20, 72].map(|half| rotates(&spec(16, false), half));
        assert_eq!(halves, [true, true, true, false, false, false]);
        assert!(!rotates(&spec(18, false), 64), "nine q heads a KV head");
        assert!(!rotates(&spec(16, true), 64), "keys of another layer");
    }
}
