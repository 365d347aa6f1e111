//! THE MUSCLE: the contract of a device, one page of fused ops. `model::decoder` is written
//! against this trait once and runs on every device: `cpu` (truth), `trace` (counts), `cuda`
//! (speed). `engine` starts and ends steps. A device imports no other room; of a model it sees only
//! shapes.
//!
//! # A step
//! `begin(plan)` applies the slot changes and makes the plan the *current batch*: a flat list of
//! token rows (each with token id, position, slot), in the plan's order. The ops then run over
//! the current batch; `R` in their docs is its number of token rows, `S` its number of rows of
//! logits: of each row of the plan the scored positions, then the one to sample from. `sample` ends
//! the enqueueing, `collect` waits for the oldest step that was not yet collected. Ops are
//! asynchronous: an error may surface at any later call. After an error the device is lost.
//!
//! # Slot rows
//! Each slot has a row that lives on the device between steps: page table per group, length
//! (positions whose K and V are in pages), last sampled token, the adapter slot of its adapter,
//! sampler, and as far as the sampler needs them sparse counts of prompt and output tokens and the
//! newest outputs. Only `begin` and `sample` change it.
//!
//! # Numbers
//! Activations have the device's own precision (f32 on cpu). Logits, norms' sums and softmax are
//! f32. Out of a linear's accumulation order nothing may depend on R: batch mix must not change CPU
//! tokens.

pub mod adapters;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod slots;
pub mod trace;
pub mod weights;

pub use adapters::{AdapterCapacity, AdapterPart, TablePart};
pub use weights::{Bytes, HostTensor, Source, Storage, WeightDesc, WeightKind};

use crate::error::{Error, Result};
use crate::ids::AdapterSlotId;
use crate::plan::{StepPlan, StepResult, TokenMasks};

/// Element type of weights in a checkpoint, and of pages in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F32,
    F16,
    BF16,
}

impl DType {
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
}

/// Logits rows that an engine gives even few slots ([`DeviceLimits::logits_rows`]): a prompt that
/// is scored takes one per token, so this bounds how slowly it goes.
pub const LEAST_LOGITS_ROWS: usize = 64;

/// What a device is.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// For logs, e.g. "cpu (AVX-512, 2 threads)".
    pub name: String,
    /// Memory that may be shared out in total. `gpu_memory_utilization` is a share of this.
    pub total_bytes: u64,
    /// Not taken by others right now.
    pub free_bytes: u64,
    /// Steps that may be enqueued before the first is collected: 1 on cpu, 2 on cuda.
    pub depth: usize,
}

/// Everything a device must hold beside weights; allocated once, by `reserve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Token rows of one step (`max_num_batched_tokens`).
    pub step_tokens: usize,
    /// Slots, hence sampled tokens of one step (`max_num_seqs`).
    pub slots: usize,
    /// Logits rows of one step, sampled from or scored; at least `slots`.
    pub logits_rows: usize,
    /// Pages in the pool, the null page included.
    pub pages: usize,
    /// Tokens of a page; any multiple of 16.
    pub page_size: usize,
    /// Positions of one sequence at most.
    pub max_model_len: usize,
    pub kv: KvShape,
}

/// Shape of the KV pool: `[layer][page][K|V][kv head][token][d]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub dtype: DType,
}

impl KvShape {
    /// Bytes of one page over all layers.
    pub fn page_bytes(&self, page_size: usize) -> u64 {
        let factors = [2, self.kv_heads, page_size, self.head_dim, self.dtype.bytes()];
        let all = factors.iter().chain([&self.layers]);
        all.fold(1, |product: u64, &n| product.saturating_mul(n as u64))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormKind {
    /// x / sqrt(mean(x^2) + eps) * w
    Rms,
    /// x / sqrt(mean(x^2) + eps) * (1 + w)
    RmsPlusOne,
    /// (x - mean) / sqrt(var + eps) * w + b
    Layer,
}

/// A norm: its weights and rule.
pub struct Norm<W> {
    pub kind: NormKind,
    pub eps: f32,
    pub weight: W,
    pub bias: Option<W>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Relu,
    Gelu,
    GeluTanh,
    Silu,
    /// silu(gate) * up over a `GateUp` weight.
    SiluGated,
    GeluTanhGated,
}

impl Activation {
    pub fn is_gated(self) -> bool {
        matches!(self, Activation::SiluGated | Activation::GeluTanhGated)
    }
}

/// Rotation of q and k ("neox": element i pairs with i + rotary_dim / 2).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Rotated dimensions of a head, from the front; the rest pass through.
    pub rotary_dim: usize,
    /// `rotary_dim / 2` inverse frequencies, scaling already applied.
    pub inv_freq: Vec<f32>,
    /// Multiplies cos and sin (yarn, longrope); else 1.
    pub magnitude: f32,
}

/// How the rows of a mixture of experts choose theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// At most [`MAX_EXPERTS`].
    pub experts: usize,
    /// Experts of one row, at most `experts`.
    pub top_k: usize,
    /// The chosen weights are divided by their sum; else they are shares of all experts' sum.
    pub renormalise: bool,
}

/// What one block of threads can sort.
pub const MAX_EXPERTS: usize = 1024;

/// Shape and rule of one layer's attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttnSpec {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Multiplies q.k, e.g. head_dim^-0.5.
    pub scale: f32,
    /// Key j is visible to query i if i - j < window (and j <= i).
    pub window: Option<usize>,
    /// cap * tanh(s / cap) on scores, before the mask.
    pub softcap: Option<f32>,
}

/// How the token rows of a sequence become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first row (BERT's `[CLS]`).
    First,
    Last,
    /// The mean of all rows.
    Mean,
}

/// The ops. `Tensor` is a buffer of `[rows, width]` activations on the device, made once at load
/// so that its address never changes; an op touches only the first R (or S) rows.
pub trait Device: Send + 'static {
    type Tensor: Send;
    type Weight: Send;

    fn info(&self) -> DeviceInfo;

    // ---- load: everything is allocated here -------------------------------------------------

    /// Copy a weight to the device, in the layout that suits it.
    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<Self::Weight>;
    /// A buffer of activations, contents undefined.
    fn tensor(&mut self, rows: usize, width: usize) -> Result<Self::Tensor>;
    /// A buffer of f32 logits `[rows, vocab]` or pooled vectors, contents undefined.
    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<Self::Tensor>;
    /// Which experts `rows` rows chose: f32 `[rows, 2 top_k]`, the experts' numbers and then their
    /// weights, largest first; and behind them whatever the device groups rows by.
    fn routes_tensor(&mut self, _rows: usize, _routing: &Routing) -> Result<Self::Tensor> {
        Err(self.lacks("routes_tensor"))
    }
    /// Make room behind a weight that rows are multiplied with: from now on `linear`, `linear_act`
    /// and `logits` add, before bias, activation and cap, what the adapter slot of a row's adapter
    /// holds for it. Rows without an adapter, and all weights without room, cost what they did.
    /// `parts` are the outputs that an adapter treats on their own; they add up to the weight's.
    fn adapt(
        &mut self,
        weight: &mut Self::Weight,
        parts: &[usize],
        room: AdapterCapacity,
    ) -> Result<()>;
    /// The same behind a weight that rows are looked up in: from now on `embed` adds, before the
    /// scale, what the adapter slot holds for the token. A tied head has both rooms, each for
    /// itself.
    fn adapt_table(&mut self, table: &mut Self::Weight, room: AdapterCapacity) -> Result<()>;
    /// KV pool, slot rows and step inputs for these limits. Once, before the first step.
    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()>;

    /// A promise for the rest of the device's life: from here on every step calls the same ops,
    /// with the same tensors, weights and numbers, between `begin` and `sample`. So a device may
    /// remember what a step of a size comes to. Without it nothing is remembered.
    fn steady(&mut self) {}

    // ---- step ---------------------------------------------------------------------------------

    /// Fill an adapter slot of one weight between two steps, one entry per part; None: this adapter
    /// leaves the part alone. Steps that run already still see what was there.
    fn install(
        &mut self,
        weight: &mut Self::Weight,
        adapter_slot: AdapterSlotId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()>;
    /// The same for a table.
    fn install_table(
        &mut self,
        table: &mut Self::Weight,
        adapter_slot: AdapterSlotId,
        part: Option<TablePart<'_>>,
    ) -> Result<()>;
    /// Apply `plan.changes`, then make its rows the current batch.
    fn begin(&mut self, plan: &StepPlan) -> Result<()>;
    /// All of a step up to `sample` or `hand_over` was asked for: what a device holds back starts
    /// now, so that it runs while the host does something else before it asks for the rest.
    fn forwarded(&mut self) -> Result<()> {
        Ok(())
    }
    /// From logits `[S, vocab]` choose one token per sampling row by the slots' samplers (order of
    /// steps: `SamplerSpec`); it becomes the slot's last token and is counted. Logprobs of sampled
    /// and scored rows are taken before the samplers change the logits.
    fn sample(&mut self, logits: &mut Self::Tensor, masks: &TokenMasks) -> Result<()>;
    /// The other end of a step, of models that pool: the S rows of `pooled` are the result's
    /// vectors.
    fn hand_over(&mut self, pooled: &Self::Tensor) -> Result<()>;
    /// For tests of what lies above: break as this device breaks. An error at once, or, on a GPU, a
    /// kernel that reads outside its memory, which a later call reports.
    fn break_down(&mut self) -> Result<()> {
        Err(crate::internal!("the device was broken on purpose"))
    }
    /// Wait for the oldest step that was sampled or handed over and not collected.
    fn collect(&mut self) -> Result<StepResult>;

    // ---- ops over the current batch ---------------------------------------------------------

    /// out[r] = table[token(r)] * scale; `[R, inputs of table]`.
    fn embed(&mut self, table: &Self::Weight, scale: f32, out: &mut Self::Tensor) -> Result<()>;
    /// x[r] += table[position(r) + offset].
    fn add_positions(
        &mut self,
        table: &Self::Weight,
        offset: usize,
        x: &mut Self::Tensor,
    ) -> Result<()>;
    /// out = norm(x), row by row.
    fn norm(
        &mut self,
        norm: &Norm<Self::Weight>,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// residual += delta; out = norm(residual). The fused form of every layer's seam.
    fn add_norm(
        &mut self,
        norm: &Norm<Self::Weight>,
        delta: &Self::Tensor,
        residual: &mut Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// residual += delta. The seam of blocks that read the residual without a norm.
    fn add(&mut self, _delta: &Self::Tensor, _residual: &mut Self::Tensor) -> Result<()> {
        Err(self.lacks("add"))
    }
    /// out = x W^T + b; `[R, inputs]` -> `[R, outputs]`.
    fn linear(
        &mut self,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// out = act(x W^T + b); a gated activation halves the width: `[R, outputs / 2]`.
    fn linear_act(
        &mut self,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        act: Activation,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// routes[r] = the `top_k` largest of softmax(x[r] W^T), W `[experts, inputs]`, all in f32; of
    /// equals the one with the smaller number. The ops below read them; row `r * top_k + j` of
    /// their tensors belongs to choice j of row r.
    fn route(
        &mut self,
        _gate: &Self::Weight,
        _routing: &Routing,
        _x: &Self::Tensor,
        _routes: &mut Self::Tensor,
    ) -> Result<()> {
        Err(self.lacks("route"))
    }
    /// out[r, j] = act(x[r] W^T), a gated act, W of choice j's expert; `[R * top_k, outputs / 2]`.
    fn experts_act(
        &mut self,
        _weight: &Self::Weight,
        _act: Activation,
        _routes: &Self::Tensor,
        _x: &Self::Tensor,
        _out: &mut Self::Tensor,
    ) -> Result<()> {
        Err(self.lacks("experts_act"))
    }
    /// out[r, j] = x[r, j] W^T, W of choice j's expert; `[R * top_k, inputs]` -> `[_, outputs]`.
    fn experts(
        &mut self,
        _weight: &Self::Weight,
        _routes: &Self::Tensor,
        _x: &Self::Tensor,
        _out: &mut Self::Tensor,
    ) -> Result<()> {
        Err(self.lacks("experts"))
    }
    /// out[r] = sum over j of weight(r, j) * parts[r, j], in the order of j.
    fn combine(
        &mut self,
        _routes: &Self::Tensor,
        _parts: &Self::Tensor,
        _out: &mut Self::Tensor,
    ) -> Result<()> {
        Err(self.lacks("combine"))
    }
    /// out[r] += sigmoid(x[r] . gate) * delta[r]; `gate` is a vector as wide as x. The expert that
    /// all rows share.
    fn add_gated(
        &mut self,
        _gate: &Self::Weight,
        _x: &Self::Tensor,
        _delta: &Self::Tensor,
        _out: &mut Self::Tensor,
    ) -> Result<()> {
        Err(self.lacks("add_gated"))
    }
    /// In `[R, (heads + 2 kv_heads) * head_dim]` q|k|v, before `rope_store`: norm q and k in place.
    /// Norm weights of `head_dim` elements work on each head alone, those of `heads * head_dim` (k:
    /// `kv_heads * head_dim`) over all heads together. RMS kinds only.
    fn norm_heads(
        &mut self,
        _spec: &AttnSpec,
        _q: &Norm<Self::Weight>,
        _k: &Norm<Self::Weight>,
        _qkv: &mut Self::Tensor,
    ) -> Result<()> {
        Err(self.lacks("norm_heads"))
    }
    /// In `[R, (heads + 2 kv_heads) * head_dim]` q|k|v: rotate q and k by their positions (no rope:
    /// leave them), then write k and v of `layer` to the slots' pages of group 0.
    fn rope_store(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut Self::Tensor,
    ) -> Result<()>;
    /// out[r] = causal attention of q in `qkv` over the slot's pages, positions 0..=position(r);
    /// `[R, heads * head_dim]`. Any mix of chunks and single rows.
    fn attend(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        qkv: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// out[r] = attention of q in `qkv` over k and v in `qkv` of all rows of its sequence, behind
    /// it too; `[R, heads * head_dim]`. No pages: the step feeds its sequences as a whole. No
    /// window.
    fn attend_all(
        &mut self,
        spec: &AttnSpec,
        qkv: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// out[s] = the token rows of the sequence of row s of logits, pooled; f32 `[S, width]` (of
    /// `logits_tensor`). All but `Pooling::Last` need the step to feed the sequence as a whole.
    fn pool(&mut self, kind: Pooling, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// out[s] = x[token row of row s of logits]; `[S, width]`.
    fn gather(&mut self, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// `linear` over the S gathered rows (project_out before a head).
    fn linear_gathered(
        &mut self,
        weight: &Self::Weight,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// logits = x W^T, with an optional cap * tanh(l / cap); `[S, inputs]` -> f32 `[S, vocab]`.
    fn logits(
        &mut self,
        head: &Self::Weight,
        softcap: Option<f32>,
        x: &Self::Tensor,
        logits: &mut Self::Tensor,
    ) -> Result<()>;
    /// logits[s] += bias, after `logits`; the few models whose head has one.
    fn bias_logits(&mut self, _bias: &Self::Weight, _logits: &mut Self::Tensor) -> Result<()> {
        Err(self.lacks("bias_logits"))
    }
    /// The first `rows` rows of a tensor in f32, for tests and logits checks. Waits.
    fn read(&mut self, tensor: &Self::Tensor, rows: usize) -> Result<Vec<f32>>;

    /// The refusal of a device without one of the ops that only some families need.
    fn lacks(&self, op: &str) -> Error {
        let device = self.info().name;
        Error::Unsupported(format!("This model needs '{op}', which {device} does not have."))
    }
}
