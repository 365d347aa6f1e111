//! The CUDA device: speed. The ops of [`Device`] on one NVIDIA GPU, with activations in the
//! model's own type and f32 inside of norms, softmax and sums. `engine` makes it, `model::decoder`
//! calls its ops; the CPU device grades it (tests/cuda_ops.rs). It knows shapes, slots and
//! pages, never a model's name.
//!
//! | file | holds |
//! |---|---|
//! | [`context`] | driver probe, context, streams, events |
//! | [`memory`] | memory of the GPU, page-locked memory of the host |
//! | [`module`] | the kernels' binaries, chosen by compute capability |
//! | [`launch`] | one kernel, started |
//! | [`experts`] | a mixture of experts: choices, groups, products |
//! | [`gemm`] | cuBLASLt with an own plan cache |
//! | `gemm_small_m` | products of few rows |
//! | [`graphs`] | recorded decode steps |
//! | [`attention`] | attention over pages: which kernel |
//! | `worklist` | which tile of a step's attention meets which keys |
//! | `pool` | models that embed |
//! | `rope` | rotation and the store to pages |
//! | [`adapters`] | low-rank adapters behind a linear |
//! | [`table_adapters`] | tables, and low-rank adapters behind them |
//! | [`weights`] | upload |
//! | [`slots`] | slot rows, and a step's input as words |
//! | [`steps`] | steps in flight: input, token masks, results |
//! | `codes` | numbers by which kernels know norms and activations |
//! | `sampler` | the end of a step: tokens and logprobs |
//! | `sampler_row` | a slot's sampler as words |
//! | [`reports`] | logprobs: requests and answers as words |
//! | `ops` | the trait's ops: checks, arguments, launches |
//! | `kernels/` | CUDA C++ |
//!
//! One stream carries everything in order, so no op waits for another on the host. A step costs
//! one copy to the GPU and one back. Sampled ids stay on the GPU: the next step reads them from the
//! slot's row.

pub mod adapters;
pub mod table_adapters;
pub mod attention;
mod codes;
pub mod context;
pub mod experts;
pub mod gemm;
pub mod graphs;
pub mod launch;
pub mod memory;
pub mod module;
mod pool;
pub mod reports;
mod rope;
mod sampler;
mod sampler_row;
mod gemm_small_m;
pub mod slots;
pub mod steps;
mod ops;
pub mod weights;
mod worklist;

use std::sync::Arc;

use self::adapters::Adapters;
use self::attention::Attention;
use self::codes::NO_ACTIVATION;
use self::context::Context;
use self::gemm::{Gemm, Product};
use self::gemm_small_m::End;
use self::graphs::Graphs;
use self::launch::Argument;
use self::memory::Memory;
use self::module::Kernels;
use self::sampler::Sampler;
use self::slots::Slots;
use self::steps::Steps;
use self::weights::{Uploader, Weight};
use super::{DType, DeviceLimits};
use crate::error::Result;
use crate::internal;

/// Steps that may be enqueued before the first is collected.
const DEPTH: usize = 2;
const ROW_THREADS: u32 = 128;

/// Activations `[rows, width]` on the GPU.
pub struct Tensor {
    memory: Memory,
    pub rows: usize,
    pub width: usize,
    dtype: DType,
}

impl Tensor {
    fn at(&self, rows: usize, width: usize, op: &str) -> u64 {
        assert!(
            rows <= self.rows && width == self.width,
            "{op}: {rows} x {width} in a buffer of {} x {}",
            self.rows,
            self.width
        );
        self.memory.address
    }
}

/// What `reserve` makes.
struct Reserved {
    limits: DeviceLimits,
    pool: Memory,
    /// Elements of one layer of the pool.
    layer_bytes: u64,
    steps: Steps,
    attention: Attention,
    graphs: Graphs,
}

pub struct Cuda {
    dtype: DType,
    kernels: Arc<Kernels>,
    gemm: Gemm,
    uploader: Uploader,
    adapters: Adapters,
    slots: Slots,
    sampler: Sampler,
    reserved: Option<Reserved>,
    /// Steps are launched call by call.
    eager: bool,
    /// Rows of a decode step, with empty ones up to a size that returns.
    padded: Option<usize>,
    /// Gates and ups before they are multiplied.
    scratch: Option<Memory>,
    /// Widest GateUp so far.
    gate_up: usize,
    // Last, so that it outlives what was made in it even without the Arcs.
    context: Arc<Context>,
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
        Ok(Cuda {
            dtype,
            kernels,
            gemm: Gemm::new(&context, dtype)?,
            uploader: Uploader::new(&context),
            adapters: Adapters::default(),
            slots: Slots::default(),
            sampler: Sampler::new(&context),
            reserved: None,
            eager: false,
            padded: None,
            scratch: None,
            gate_up: 0,
            context,
        })
    }

    /// What this device takes beside weights, tensors and pages: cuBLASLt's workspace, slot rows
    /// with their counts, gates and ups of `gate_up` columns, copies of logits of `vocab` columns.
    /// For the arithmetic that sizes the pool.
    pub fn extra_bytes(limits: &DeviceLimits, gate_up: usize, vocab: usize) -> u64 {
        let rows = slots::RowLayout::new(limits).stride as usize * 4 * limits.slots;
        let scratch = limits.step_tokens * gate_up * limits.kv.dtype.bytes();
        let parts = attention::parts_bytes(&limits.kv);
        let sampler = sampler::bytes(limits.logits_rows, vocab);
        (gemm::WORKSPACE_BYTES + rows + scratch + parts + sampler) as u64
    }

    /// No graphs: every launch is made when its op is called. Before a model is loaded.
    pub fn launch_eagerly(&mut self) {
        self.eager = true;
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
        self.padded.unwrap_or(self.slots.batch.rows)
    }

    /// Sampling rows that the ops run over.
    fn samples(&self) -> usize {
        self.padded.unwrap_or(self.slots.batch.samples.len())
    }

    /// Scratch of at least `bytes`. Grows, which waits for the GPU, only where reserve did not
    /// know.
    fn scratch(&mut self, bytes: usize) -> Result<u64> {
        if self.scratch.as_ref().is_none_or(|s| s.bytes < bytes) {
            self.scratch = None;
            self.scratch = Some(Memory::new(&self.context, bytes, "gates and ups")?);
        }
        Ok(self.scratch.as_ref().map_or(0, |s| s.address))
    }

    /// y = end(x W^T + bias) over `rows` rows; `bias` may be 0.
    fn product(
        &mut self,
        rows: usize,
        weight: &Weight,
        bias: u64,
        end: End,
        [x, y]: [u64; 2],
    ) -> Result<()> {
        let (outputs, inputs, w) = (weight.outputs, weight.inputs, weight.matrix());
        if gemm_small_m::takes(&self.context, self.dtype, rows, inputs) {
            let call = gemm_small_m::Call { rows, outputs, inputs, x, w, bias, y, end };
            return gemm_small_m::run(&self.context, &self.kernels, &call);
        }
        let gated = matches!(end, End::Gated(_));
        let to = if gated { self.scratch(rows * outputs * self.dtype.bytes())? } else { y };
        let logits = end == End::Logits;
        self.gemm.run(&self.kernels, &Product { rows, outputs, inputs, logits, x, w, y: to })?;
        self.finish(rows, outputs, bias, end, [to, y])
    }

    /// y = end(sums + bias); only a gated end has its sums elsewhere.
    fn finish(
        &self,
        rows: usize,
        outputs: usize,
        bias: u64,
        end: End,
        [sums, y]: [u64; 2],
    ) -> Result<()> {
        match end {
            End::Act(NO_ACTIVATION) if bias == 0 => Ok(()),
            End::Act(kind) => self.bias_act(rows, outputs, y, bias, kind),
            End::Gated(kind) => self.gated_act(rows, outputs / 2, [sums, y], bias, kind),
            End::Logits => Ok(()),
        }
    }

    fn gated_act(
        &self,
        rows: usize,
        half: usize,
        [both, y]: [u64; 2],
        bias: u64,
        kind: i32,
    ) -> Result<()> {
        let arguments: [&dyn Argument; 5] = [&both, &bias, &(half as u32), &kind, &y];
        let blocks = [rows, columns(half)];
        self.kernels.gated_act.launch(&self.context, blocks, ROW_THREADS, &arguments)
    }

    fn bias_act(&self, rows: usize, width: usize, x: u64, bias: u64, kind: i32) -> Result<()> {
        let blocks = [rows, columns(width)];
        let arguments: [&dyn Argument; 4] = [&x, &bias, &(width as u32), &kind];
        self.kernels.bias_act.launch(&self.context, blocks, ROW_THREADS, &arguments)
    }
}

/// Blocks of ROW_THREADS threads across a row, eight columns a thread where the width allows.
fn columns(width: usize) -> usize {
    let per_thread = if width.is_multiple_of(8) { 8 } else { 1 };
    width.div_ceil(per_thread * ROW_THREADS as usize)
}
