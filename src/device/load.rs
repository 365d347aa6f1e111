//! Loading: everything that a device holds is allocated here, once, before the first step. `model`
//! uploads weights and makes buffers, `engine` reserves pages and slots; nothing here knows a file
//! or a sequence.

use super::dtype::KvType;
use super::state::{StatePlace, StateShape};
use super::types::DeviceTypes;
use super::WeightDesc;
use crate::error::Result;

/// Everything a device must hold beside weights; allocated once, by `reserve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Token rows of one step (`max_num_batched_tokens`).
    pub step_tokens: usize,
    /// Slots, hence sampled tokens of one step (`max_num_seqs`).
    pub slots: usize,
    /// Logits rows of one step, of all purposes; at least as many as sequences may be sampled from.
    pub logits_rows: usize,
    /// Pages in the pool, the null page included.
    pub pages: usize,
    /// Tokens of a page; any multiple of 16.
    pub page_size: usize,
    /// Positions of one sequence at most.
    pub max_model_len: usize,
    /// Shape of the pool.
    pub kv: KvShape,
    /// What layers keep of a sequence beside pages; one for each slot.
    pub state: StateShape,
    /// Copies of states that can be kept; 0 where no layer has one.
    pub snapshots: usize,
    /// States that are kept of each slot's newest chunk beside the one behind it: those behind its
    /// first rows, so many. A sequence can go back to them. 0 where it never has to; at most
    /// [`SPARES_MAX`](super::SPARES_MAX).
    pub spares: usize,
}

impl DeviceLimits {
    /// Where a state lies among all, each as long as the next: a slot's own and its spares behind
    /// each other, then the snapshots.
    pub fn state_place(&self, place: StatePlace) -> usize {
        let each = 1 + self.spares;
        match place {
            StatePlace::Slot(slot) => slot.index() * each,
            StatePlace::Spare(slot, row) => slot.index() * each + 1 + row,
            StatePlace::Snapshot(snapshot) => self.slots * each + snapshot.index(),
        }
    }

    /// How many states there are of all kinds.
    pub fn states(&self) -> usize {
        let of_slots = self.slots.saturating_mul(1 + self.spares);
        of_slots.saturating_add(self.snapshots)
    }

    /// Pages that hold a sequence at its longest.
    pub fn sequence_pages(&self) -> usize {
        self.max_model_len.div_ceil(self.page_size)
    }

    /// Tokens of a sequence at most, prompt and outputs: those that were sampled ahead of a stop
    /// that the host had not seen included.
    pub fn sequence_tokens(&self) -> usize {
        self.max_model_len + 2
    }
}

/// What a layer keeps of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvRow {
    /// K and V of each head: a page is `[K|V][kv head][token][d]`.
    Heads {
        /// Heads of K, and of V.
        kv_heads: usize,
        /// Elements of a head.
        head_dim: usize,
    },
    /// One vector of all heads, which is K and in front V: a page is `[token][width]`.
    Latent {
        /// Elements of the vector.
        width: usize,
    },
}

impl KvRow {
    /// Elements of a token in a layer.
    pub fn elements(&self) -> usize {
        match *self {
            KvRow::Heads { kv_heads, head_dim } => {
                kv_heads.saturating_mul(head_dim).saturating_mul(2)
            }
            KvRow::Latent { width } => width,
        }
    }
}

/// Shape of the KV pool: layer behind layer its pages, and a page as the layer's rows say. Layers
/// may keep rows of different width; a page of all of them has one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvShape {
    /// What each layer keeps of a token, of those that keep something.
    pub rows: Vec<KvRow>,
    /// Of an element.
    pub dtype: KvType,
}

impl KvShape {
    /// Of K and V in heads, alike in all layers.
    pub fn heads(layers: usize, kv_heads: usize, head_dim: usize, dtype: KvType) -> KvShape {
        KvShape { rows: vec![KvRow::Heads { kv_heads, head_dim }; layers], dtype }
    }

    /// Layers that keep something.
    pub fn layers(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of one page over all layers.
    pub fn page_bytes(&self, page_size: usize) -> u64 {
        let bytes = self.rows.iter().map(|row| self.bytes_of(row, page_size));
        bytes.fold(0, u64::saturating_add)
    }

    /// Bytes of one page in a layer of such rows.
    pub fn bytes_of(&self, row: &KvRow, page_size: usize) -> u64 {
        let factors = [row.elements(), page_size, self.dtype.bytes()];
        factors.iter().fold(1, |product: u64, &n| product.saturating_mul(n as u64))
    }

    /// The kinds of rows, each once, in the order of the first layers that have them.
    pub fn kinds(&self) -> Vec<KvRow> {
        let mut kinds = Vec::new();
        for row in &self.rows {
            if !kinds.contains(row) {
                kinds.push(*row);
            }
        }
        kinds
    }
}

/// What a device allocates. Sizes are in elements unless they say bytes.
pub trait LoadOps: DeviceTypes {
    /// Copy a weight to the device, in the layout that suits it.
    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<Self::Weight>;

    /// A buffer of activations, contents undefined.
    fn tensor(&mut self, rows: usize, width: usize) -> Result<Self::Tensor>;

    /// From here on a row of `tensor` has so many elements, at most as many as it was made with;
    /// contents undefined. Layers of different width share their buffers so.
    fn reshape(&mut self, tensor: &mut Self::Tensor, width: usize) -> Result<()>;

    /// A buffer of f32 logits `[rows, vocab]` or pooled vectors, contents undefined.
    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<Self::Tensor>;

    /// `tensor` is what products with `weight` read: ops that write it may make at once what these
    /// make of their inputs. After uploads, before `reserve`; it changes no number.
    fn feeds(&mut self, tensor: &mut Self::Tensor, weight: &Self::Weight) -> Result<()>;

    /// KV pool, states, slot rows and step inputs for these limits. Once, before the first step.
    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()>;

    /// Token rows of steps, ascending, up to so many, at the first of which a device takes longer
    /// than at later ones: it chooses ways to multiply, or loads code. None: all take as long.
    fn sizes_to_rehearse(&self, step_tokens: usize) -> Vec<usize>;

    /// Those sizes were rehearsed: what the device chose for them may be kept for the next start.
    /// Nothing depends on that.
    fn keep_choices(&mut self);

    /// The first `rows` rows of a tensor in f32, for tests and logits checks. Waits.
    fn read(&mut self, tensor: &Self::Tensor, rows: usize) -> Result<Vec<f32>>;
}
