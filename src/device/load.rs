//! Loading: everything that a device holds is allocated here, once, before the first step. `model`
//! uploads weights and makes buffers, `engine` reserves pages and slots; nothing here knows a file
//! or a sequence.

use super::dtype::KvType;
use super::state::StateShape;
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
}

impl DeviceLimits {
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

/// Shape of the KV pool: `[layer][page][K|V][kv head][token][d]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvShape {
    /// Layers that keep K and V.
    pub layers: usize,
    /// Heads of K, and of V.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Of an element.
    pub dtype: KvType,
}

impl KvShape {
    /// Bytes of one page over all layers.
    pub fn page_bytes(&self, page_size: usize) -> u64 {
        let factors = [2, self.kv_heads, page_size, self.head_dim, self.dtype.bytes()];
        let all = factors.iter().chain([&self.layers]);
        all.fold(1, |product: u64, &n| product.saturating_mul(n as u64))
    }
}

/// What a device allocates. Sizes are in elements unless they say bytes.
pub trait LoadOps: DeviceTypes {
    /// Copy a weight to the device, in the layout that suits it.
    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<Self::Weight>;

    /// A buffer of activations, contents undefined.
    fn tensor(&mut self, rows: usize, width: usize) -> Result<Self::Tensor>;

    /// A buffer of f32 logits `[rows, vocab]` or pooled vectors, contents undefined.
    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<Self::Tensor>;

    /// `tensor` is what products with `weight` read: ops that write it may make at once what these
    /// make of their inputs. After uploads, before `reserve`; it changes no number.
    fn feeds(&mut self, tensor: &mut Self::Tensor, weight: &Self::Weight) -> Result<()>;

    /// KV pool, states, slot rows and step inputs for these limits. Once, before the first step.
    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()>;

    /// The first `rows` rows of a tensor in f32, for tests and logits checks. Waits.
    fn read(&mut self, tensor: &Self::Tensor, rows: usize) -> Result<Vec<f32>>;
}
