//! Which products go to the kernels of kernels/gemm_small_m.cu, and their launch: few rows of a
//! half type, where streaming the weights is all there is to do. `Cuda`'s linear ops ask it first;
//! it knows no weight's name.

use super::codes::NO_ACTIVATION;
use super::context::Context;
use super::launch::Argument;
use super::module::Kernels;
use crate::device::DType;
use crate::error::Result;

/// Rows that the kernels take.
const MOST_ROWS: usize = 8;
/// Compute capability that has bulk copies.
const OLDEST_CAPABILITY: u32 = 90;
/// As in kernels/gemm_small_m.cu: eight warps that multiply, one that copies.
const THREADS: u32 = 288;
const STAGES: usize = 5;
const STAGE_BYTES: usize = 16 * (1024 + 64);
/// Sums of the warps, the ring, two barriers a stage.
const SHARED_BYTES: usize = 4096 + STAGES * (STAGE_BYTES + 16);
/// As many as fit.
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;

/// What a product ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Activations `[rows, outputs]`, with the code of an activation.
    Act(i32),
    /// Activations `[rows, outputs / 2]`: act(gate) * up.
    Gated(i32),
    /// f32 `[rows, outputs]`.
    Logits,
}

/// One product. Addresses are of device memory; `bias` is f32, 0 = none.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub rows: usize,
    pub outputs: usize,
    pub inputs: usize,
    pub x: u64,
    pub w: u64,
    pub bias: u64,
    pub y: u64,
    pub end: End,
}

/// Whether a product of this size is ours.
pub fn takes(context: &Context, dtype: DType, rows: usize, inputs: usize) -> bool {
    context.capability >= OLDEST_CAPABILITY
        && dtype != DType::F32
        && (1..=MOST_ROWS).contains(&rows)
        && inputs.is_multiple_of(8)
}

/// The kernels take the shared memory that they need.
pub fn prepare(context: &Context, k: &Kernels) -> Result<()> {
    if context.capability < OLDEST_CAPABILITY {
        return Ok(());
    }
    let kernels = [&k.gemm_small_m, &k.gemm_small_m_gated, &k.gemm_small_m_logits];
    kernels.iter().try_for_each(|kernel| kernel.allow_shared(SHARED_BYTES))
}

/// Enqueue a product that [`takes`] accepts.
pub fn run(context: &Context, kernels: &Kernels, call: &Call) -> Result<()> {
    let (kernel, tiles, kind) = match call.end {
        End::Act(kind) => (&kernels.gemm_small_m, call.outputs.div_ceil(16), kind),
        End::Gated(kind) => (&kernels.gemm_small_m_gated, (call.outputs / 2).div_ceil(8), kind),
        End::Logits => (&kernels.gemm_small_m_logits, call.outputs.div_ceil(16), NO_ACTIVATION),
    };
    let most = BLOCKS_PER_MULTIPROCESSOR * context.multiprocessors as usize;
    let blocks = [tiles.min(most), 1];
    let sizes = [call.rows, call.outputs, call.inputs].map(|n| n as u32);
    let arguments: [&dyn Argument; 8] =
        [&call.x, &call.w, &call.bias, &sizes[0], &sizes[1], &sizes[2], &kind, &call.y];
    kernel.launch_shared(context, blocks, THREADS, SHARED_BYTES, &arguments)
}
