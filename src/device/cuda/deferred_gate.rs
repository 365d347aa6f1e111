//! Gates and ups of many rows that a product of codes reads next: rounded as they are multiplied,
//! without the activations in between (kernels/codes.cu). The gated end of a product waits to see
//! whether the next launch is such a reader. `products` and `coded_inputs` call it; it knows no
//! layer.

use super::abi;
use super::coded_scratch::padded_inputs;
use super::deferred::Deferred;
use super::device_ptr::DevicePtr;
use super::products::columns;
use super::{Cuda, ROW_THREADS};
use crate::error::Result;

/// Outputs of a thread of the one launch, at most.
const THREAD_OUTPUTS: usize = 8 * abi::GATED_EIGHTS as usize;
const _: () = assert!(abi::ROUND_THREADS as usize * THREAD_OUTPUTS == MOST_OUTPUTS);
/// Outputs that the one launch takes, at most.
const MOST_OUTPUTS: usize = 16384;

/// Threads that hold a row of so many outputs: whole warps.
fn threads(half: usize) -> u32 {
    half.div_ceil(THREAD_OUTPUTS).next_multiple_of(32) as u32
}

impl Cuda {
    /// out = act(gates) ups over so many rows, now or, where what reads it may round it on the way,
    /// before the next launch.
    pub(super) fn end_gated(&mut self, rows: usize, end: abi::GatedAct) -> Result<()> {
        let half = end.half as usize;
        let waits = self.coded.buffers.is_some()
            && self.rounds_to_bytes(rows)
            && half.is_multiple_of(8)
            && half <= MOST_OUTPUTS;
        let blocks = [rows, columns(half)];
        if !waits {
            return self.kernels.gated_act.launch(&self.context, blocks, ROW_THREADS, &end);
        }

        let kernels = self.kernels.clone();
        self.context.defer(end.out, move |context| {
            kernels.gated_act.launch(context, blocks, ROW_THREADS, &end)
        });
        self.deferred = Some(Deferred::Gate(rows, end));
        Ok(())
    }

    /// Round so many rows of `x` to `bytes` and `steps` as they are made, where they are still to
    /// be. False: they are not, and nothing was enqueued.
    pub(super) fn round_gated(
        &self,
        rows: usize,
        x: DevicePtr,
        bytes: DevicePtr,
        steps: DevicePtr,
    ) -> Result<bool> {
        let Some(Deferred::Gate(of, end)) = self.deferred else { return Ok(false) };
        if of != rows || end.out != x || !self.context.take_deferred(x) {
            return Ok(false);
        }

        let half = end.half as usize;
        let parameters = abi::GatedRound {
            x: end.x,
            bias: end.bias,
            bytes,
            steps,
            half: end.half,
            padded_half: padded_inputs(half) as u32,
            kind: end.kind,
            unused: 0,
        };
        let kernel = &self.kernels.gated_round;
        kernel.launch(&self.context, [rows, 1], threads(half), &parameters)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_hold_a_row() {
        for half in (8..=MOST_OUTPUTS).step_by(8) {
            let threads = threads(half);
            assert!(
                threads <= abi::ROUND_THREADS && threads.is_multiple_of(32),
                "{half}: {threads}"
            );
            assert!(threads as usize * THREAD_OUTPUTS >= padded_inputs(half), "{half}");
        }
        assert_eq!((threads(14336), threads(8)), (448, 32));
    }
}
