//! The CUDA device: speed. The ops of [`Device`](super::Device) on one NVIDIA GPU, with activations
//! in the model's own type and f32 inside of norms, softmax and sums. `engine` makes it,
//! `model::decoder` calls its ops; the CPU device grades it (tests/cuda_ops.rs). It knows shapes,
//! slots and pages, never a model's name.
//!
//! | file | holds |
//! |---|---|
//! | `load`, `step`, `dense`, `attention` | chapters of [`super::Device`] |
//! | `latent`, `state`, `experts`, `adapters`, `pooling`, `vision` | chapters of [`super::Device`] |
//! | `drafts` | what heads need that draft from hidden states |
//! | `context` | driver probe, context, streams, events |
//! | `device_ptr`, `memory` | addresses and memory of the GPU, page-locked memory of the host |
//! | `abi` | what host and kernels share, made from kernels/abi*.h |
//! | `module` | the kernels' binaries, chosen by compute capability |
//! | `launch` | one kernel, started |
//! | `gemm`, `gemm_product` | cuBLASLt, one algorithm for each shape; what it multiplies |
//! | `gemm_choices` | which algorithm, kept across starts |
//! | `gemm_small_m`, `deferred_norm` | products of few rows; a norm between two of one row |
//! | `gemm_tiles`, `gemm_rows` | products of some rows on Hopper |
//! | `deferred_norms`, `row_norms` | a norm between two of those; what it asks of them |
//! | `gemm_rows_more`, `shares` | the same of more rows; how blocks share a tile |
//! | `products` | which of the two, and what a product ends with |
//! | `coded` | weights held as codes, and their upload |
//! | `coded_products`, `coded_kernels` | products of them; which kernel |
//! | `coded_row` | those of a few rows, and what they do besides of a single one |
//! | `row_product` | a single row, plain or by codes, whose outputs go to no tensor of their own |
//! | `deferred_gate`, `deferred` | gates and ups, rounded as they are multiplied; what waits so |
//! | `coded_inputs`, `coded_scratch` | their inputs, rounded; memory that they need |
//! | `graphs` | recorded decode steps |
//! | `paged_attention`, `prompt_attention` | attention over pages: which kernel; that of prompts |
//! | `attention_kernels` | the kernels of a head size, and what they take |
//! | `ring_attention`, `deferred_rope` | that of single tokens on Hopper; rotation as part of it |
//! | `latent_attention` | the same over latent vectors |
//! | `page_attention` | which of the two, by what pages hold |
//! | `worklist` | which tile of a step's attention meets which keys |
//! | `shared_keys` | which sequences of a step begin with the same pages |
//! | `low_rank` | what adapters hold behind a weight |
//! | [`weights`], `staging` | weights; the way of their bytes to the GPU |
//! | `joins`, `joined_norm` | what ranks do together behind an op, and with a norm behind that |
//! | `row_push` | the same of a single row, which products push to all ranks as they make it |
//! | `row_shares` | the same of many rows, of which each rank makes a share |
//! | `span_attention` | attention of vision towers: which kernel |
//! | `tower_inputs` | what a vision tower reads beside activations |
//! | `state_memory` | states of slots, and copies of them |
//! | `tensor` | activations |
//! | `slots` | a step's input as the GPU reads it |
//! | `steps` | steps in flight: input, token masks, results |
//! | `sampler` | the end of a step: tokens and logprobs |
//! | `sampler_row` | a slot's sampler as it lies in its row |
//! | `logits_best` | whose logits a product left the best of, for the sampler |
//! | `reports` | logprobs: requests and answers |
//! | `kernels/` | CUDA C++ |
//!
//! One stream carries everything in order, so no op waits for another on the host. A step's input
//! is one piece that a kernel fetches, and its ids go to the host by the kernel that draws them.
//! They stay on the GPU, too: the next step reads them from the slot's row.

// Some are for the kernels alone.
#[allow(dead_code)]
mod abi;
mod adapters;
mod attention;
mod attention_kernels;
mod coded;
mod coded_inputs;
mod coded_kernels;
mod coded_products;
mod coded_row;
mod coded_scratch;
mod context;
mod deferred;
mod deferred_gate;
mod deferred_norm;
mod deferred_norms;
mod deferred_rope;
mod dense;
mod drafts;
mod device_ptr;
mod experts;
mod experts_few;
mod experts_small;
mod gemm;
mod gemm_choices;
mod gemm_product;
mod gemm_rows;
mod gemm_rows_more;
mod gemm_small_m;
mod gemm_tiles;
mod graphs;
mod joined_norm;
mod joins;
mod latent;
mod latent_attention;
mod launch;
mod load;
mod logits_best;
mod low_rank;
mod memory;
mod module;
mod page_attention;
mod paged_attention;
mod pooling;
mod products;
mod prompt_attention;
pub mod ranks;
mod reports;
mod ring_attention;
mod row_norms;
mod row_product;
mod row_push;
mod row_shares;
mod sampler;
mod sampler_row;
mod shared_keys;
mod shares;
mod slots;
mod span_attention;
mod staging;
mod state;
mod state_chunks;
mod state_memory;
mod step;
mod steps;
mod tensor;
mod tensor_map;
mod tower_inputs;
mod turns;
mod vision;
pub mod weights;
mod worklist;

use std::path::Path;
use std::sync::Arc;

use self::coded_scratch::CodedScratch;
use self::context::Context;
use self::deferred::Deferred;
use self::device_ptr::DevicePtr;
use self::gemm::Gemm;
use self::graphs::Graphs;
pub use self::joined_norm::SeamWay;
use self::logits_best::LogitsBest;
use self::low_rank::Adapters;
use self::memory::Memory;
use self::module::Kernels;
use self::page_attention::PageAttention;
use self::ranks::Member;
use self::sampler::Sampler;
use self::shares::Shares;
use self::slots::Slots;
use self::state_memory::States;
use self::steps::{Steps, DEPTH};
pub use self::tensor::Tensor;
use self::tower_inputs::TowerInputs;
use self::weights::Uploader;
use super::{
    BreakOnPurpose, DType, DeviceInfo, DeviceKind, DeviceLimits, DeviceTypes, Rank, RankGroup,
};
use crate::error::Result;
use crate::internal;

/// Threads of a block of most kernels over rows.
const ROW_THREADS: u32 = 128;

/// What `reserve` makes.
struct Reserved {
    limits: DeviceLimits,
    pool: Memory,
    /// Where each layer's part of it begins, in bytes.
    layer_starts: Vec<usize>,
    states: States,
    steps: Steps,
    attention: PageAttention,
    graphs: Graphs,
}

impl Reserved {
    /// A layer's share of the pool.
    fn layer(&self, layer: usize) -> DevicePtr {
        self.pool.address.offset_bytes(self.layer_starts[layer])
    }
}

/// One GPU, for a model of one element type. Its ops are those of [`super::Device`], each enqueued
/// on the one stream; what goes wrong on the GPU shows when a step is collected.
pub struct Cuda {
    dtype: DType,
    kernels: Arc<Kernels>,
    gemm: Gemm,
    uploader: Uploader,
    adapters: Adapters,
    coded: CodedScratch,
    /// Of the products of codes by tiles, and of those of gemm_tiles, gemm_rows and its like.
    shares: Shares,
    tile_shares: Shares,
    rows_held: Shares,
    slots: Slots,
    sampler: Sampler,
    logits_best: LogitsBest,
    /// See [`Cuda::share_keys_from`].
    least_shared_bytes: usize,
    sharing_steps: u64,
    reserved: Option<Reserved>,
    /// Of a vision tower; its rows while one runs.
    tower: Option<TowerInputs>,
    tower_rows: Option<usize>,
    /// Steps are launched call by call.
    eager: bool,
    /// Rows of a decode step, with empty ones up to a size that returns.
    padded: Option<usize>,
    /// Gates and ups before they are multiplied.
    scratch: Option<Memory>,
    deferred: Option<Deferred>,
    /// Choices of the router before, which nobody has brought together by expert yet.
    ungrouped: Option<abi::GroupRows>,
    /// The rotation that attention may take over.
    deferred_rope: Option<Box<abi::RopeStore>>,
    /// Between products of some rows (deferred_norms).
    squares: Memory,
    /// Widest GateUp so far.
    gate_up: usize,
    /// Rows of the largest table or head that ranks share out.
    shared_rows: usize,
    /// None: it shares its model with none.
    member: Option<Member>,
    // Last, so that it outlives what was made in it even without the Arcs.
    context: Arc<Context>,
}

impl Drop for Cuda {
    fn drop(&mut self) {
        self.context.forget_deferred();
    }
}

impl Cuda {
    /// GPUs that the driver shows; 0 without a driver.
    ///
    /// # Errors
    /// A driver that is broken or too old.
    pub fn count() -> Result<usize> {
        context::count()
    }

    /// GPU `ordinal` for a model of this element type: weights, activations and pages have it.
    ///
    /// # Errors
    /// One line each: no such GPU, capability below 8.0, no cuBLASLt, no memory.
    pub fn open(ordinal: usize, dtype: DType) -> Result<Cuda> {
        let context = Context::open(ordinal)?;
        let kernels = Kernels::of(&context, dtype)?;

        gemm_small_m::prepare(&context, &kernels)?;
        let shares = coded_kernels::prepare(&context, &kernels)?;
        let tile_shares = gemm_tiles::prepare(&context, &kernels)?;
        let rows_held = gemm_rows::prepare(&context, &kernels)?;
        gemm_rows_more::prepare(&context, &kernels)?;
        state_chunks::prepare(&kernels)?;
        span_attention::prepare(&kernels)?;

        Ok(Cuda {
            dtype,
            gemm: Gemm::new(&context, dtype)?,
            uploader: Uploader::new(&context),
            adapters: Adapters::default(),
            coded: CodedScratch::default(),
            shares,
            tile_shares,
            rows_held,
            slots: Slots::default(),
            sampler: Sampler::new(&context),
            logits_best: LogitsBest::default(),
            least_shared_bytes: page_attention::LEAST_SHARED_BYTES,
            sharing_steps: 0,
            reserved: None,
            tower: None,
            tower_rows: None,
            eager: false,
            padded: None,
            scratch: None,
            deferred: None,
            ungrouped: None,
            deferred_rope: None,
            squares: Memory::new(&context, row_norms::SQUARES_BYTES, "squares of rows")?,
            gate_up: 0,
            shared_rows: 0,
            member: None,
            kernels,
            context,
        })
    }

    /// GPUs that share a model of this element type, in the order of ranks; one may be named
    /// several times. `name` is the model's, for the log.
    ///
    /// # Errors
    /// As `open`; more ranks than there may be.
    pub fn open_ranks(
        ordinals: &[usize],
        dtype: DType,
        name: &str,
    ) -> Result<(Vec<Cuda>, Arc<dyn RankGroup>)> {
        let open = |&ordinal: &usize| Cuda::open(ordinal, dtype);
        let mut devices = ordinals.iter().map(open).collect::<Result<Vec<_>>>()?;
        let contexts: Vec<Arc<Context>> = devices.iter().map(|d| d.context.clone()).collect();
        let (members, group) = ranks::members(&contexts, name)?;
        for (device, member) in devices.iter_mut().zip(members) {
            device.context.bind()?;
            device.load_exchanges()?;
            device.member = Some(member);
        }
        Ok((devices, group))
    }

    /// What this device takes beside weights, tensors and pages: cuBLASLt's workspace, slot rows
    /// with their counts, gates and ups of `gate_up` columns of the model's type, in their place
    /// this rank's `share` of the logits' columns (0: alone), copies of logits of `vocab` columns.
    /// For the arithmetic that sizes the pool.
    /// `coded` is how wide the inputs of products of codes are, of a token's experts all together;
    /// 0 without such products.
    pub fn extra_bytes(
        limits: &DeviceLimits,
        dtype: DType,
        gate_up: usize,
        vocab: usize,
        share: usize,
        coded: usize,
    ) -> u64 {
        let rows = slots::RowLayout::new(limits).stride as usize * 4 * limits.slots;
        let logits = limits.logits_rows * share * DType::F32.bytes();
        let scratch = logits.max(limits.step_tokens * gate_up * dtype.bytes());
        let parts = page_attention::parts_bytes(&limits.kv);
        let sampler = sampler::bytes(limits.logits_rows, vocab);
        let coded = coded_scratch::extra_bytes(limits.step_tokens, dtype, coded);
        let fixed = gemm::WORKSPACE_BYTES + row_norms::SQUARES_BYTES;
        (fixed + rows + scratch + parts + sampler + coded) as u64
    }

    /// No graphs: every launch is made when its op is called. Before a model is loaded.
    pub fn launch_eagerly(&mut self) {
        self.eager = true;
    }

    /// Take ways to multiply from this folder that an earlier start chose on such a card, and keep
    /// new ones there. Before a model is loaded.
    pub fn remember_choices(&mut self, folder: &Path) {
        self.gemm.remember(folder);
    }

    /// Set every byte of a tensor: for tests, which poison outputs.
    pub fn fill(&mut self, tensor: &Tensor, byte: u8) -> Result<()> {
        tensor.memory.fill(byte)
    }

    /// From here on steps call other ops than before, again the same ones in each: for
    /// measurements.
    pub fn forget_steps(&mut self) {
        if let Some(reserved) = &mut self.reserved {
            reserved.graphs.forget();
        }
    }

    /// Steps that recorded graphs did so far, instead of launches call by call: for tests.
    pub fn replayed_steps(&self) -> u64 {
        self.reserved.as_ref().map_or(0, |reserved| reserved.graphs.replayed)
    }

    /// Keys that sequences of a step share are read once where a layer reads so many bytes less by
    /// it: for tests and measurements.
    pub fn share_keys_from(&mut self, bytes: usize) {
        self.least_shared_bytes = bytes;
    }

    /// Steps so far in which they were: for tests.
    pub fn sharing_steps(&self) -> u64 {
        self.sharing_steps
    }

    /// Wait for everything that was enqueued: for measurements.
    pub fn wait(&self) -> Result<()> {
        self.context.bind()?;
        self.context.synchronise()
    }

    fn reserved(&self) -> Result<&Reserved> {
        self.reserved.as_ref().ok_or_else(|| internal!("a step before reserve"))
    }

    /// Token rows that the ops run over.
    fn rows(&self) -> usize {
        self.tower_rows.or(self.padded).unwrap_or(self.slots.batch().rows)
    }

    /// Sampling rows that the ops run over.
    fn samples(&self) -> usize {
        self.padded.unwrap_or(self.slots.batch().logits.len())
    }
}

impl DeviceTypes for Cuda {
    type Tensor = Tensor;
    type Weight = weights::Weight;

    fn info(&self) -> DeviceInfo {
        let (total_bytes, free_bytes) = self.context.memory().unwrap_or((0, 0));
        let Context { name: product, capability, multiprocessors, .. } = &*self.context;
        let (major, minor) = (capability / 10, capability % 10);
        let name = format!("{product} (sm_{major}{minor}, {multiprocessors} multiprocessors)");
        DeviceInfo {
            kind: DeviceKind::Gpu { product: product.clone() },
            name,
            total_bytes,
            free_bytes,
            depth: DEPTH,
            experts_of_codes: coded_kernels::has_experts(self.dtype),
        }
    }

    fn rank(&self) -> Rank {
        self.member.as_ref().map_or(Rank::ALONE, Member::rank)
    }
}

impl BreakOnPurpose for Cuda {
    fn break_on_purpose(&mut self) -> Result<()> {
        // No allocation lies at address 0: reading the row's number there ends the context.
        const NOWHERE: DevicePtr = DevicePtr::NULL;
        let parameters = abi::Gather { row: NOWHERE, x: NOWHERE, out: NOWHERE, width: 8 };
        self.kernels.gather.launch(&self.context, [1, 1], ROW_THREADS, &parameters)
    }
}
