//! Recurrences of prompts, some tokens at a time (kernels/chunks.cu): which sequences of a step go
//! there, and the launch. `state` asks it; it knows no op.

use super::abi;
use super::context::Context;
use super::launch::Kernel;
use super::module::Kernels;
use crate::device::batch::Batch;
use crate::device::DType;
use crate::error::Result;

/// Tokens of a step from which on a sequence is cut into chunks.
const TOKENS: usize = abi::RULE_TOKENS as usize;
const SHARED: usize = abi::RULE_SHARED_BYTES as usize;
/// Rows of a matrix that a warp holds: left operands of a product.
const WARP_ROWS: usize = 16;

/// Let the kernels have their shared memory. Once, at load.
pub(super) fn prepare(k: &Kernels) -> Result<()> {
    for kernel in [&k.delta_chunks_64, &k.delta_chunks_128] {
        kernel.allow_shared(SHARED)?;
    }
    for kernel in [&k.scan_chunks_64, &k.scan_chunks_128] {
        kernel.allow_shared(SHARED)?;
    }
    Ok(())
}

/// The kernel for matrices of so many columns.
pub(super) fn delta_kernel(k: &Kernels, columns: usize) -> Option<&Kernel<abi::DeltaRule>> {
    match columns {
        64 => Some(&k.delta_chunks_64),
        128 => Some(&k.delta_chunks_128),
        _ => None,
    }
}

/// As [`delta_kernel`].
pub(super) fn scan_kernel(k: &Kernels, columns: usize) -> Option<&Kernel<abi::SelectiveScan>> {
    match columns {
        64 => Some(&k.scan_chunks_64),
        128 => Some(&k.scan_chunks_128),
        _ => None,
    }
}

/// Whether some sequence of a step is cut into chunks; matrices have so many rows.
pub(super) fn some(act: DType, batch: &Batch, state_rows: usize) -> bool {
    act != DType::F32
        && state_rows.is_multiple_of(WARP_ROWS)
        && batch.chunks.iter().any(|chunk| chunk.tokens >= TOKENS)
}

/// Whether all of them are.
pub(super) fn all(batch: &Batch) -> bool {
    batch.chunks.iter().all(|chunk| chunk.tokens >= TOKENS)
}

/// The sequences that are cut into chunks; `blocks` of [`abi::RULE_ROWS`] rows each.
pub(super) fn launch<P: Copy>(
    context: &Context,
    kernel: &Kernel<P>,
    blocks: [usize; 2],
    parameters: &P,
) -> Result<()> {
    kernel.launch_shared(context, blocks, abi::RULE_THREADS, SHARED, parameters)
}
