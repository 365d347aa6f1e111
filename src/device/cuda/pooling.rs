//! Models that embed on the GPU: token rows to vectors, and the vectors' way back. Where a sequence
//! begins and ends the kernels read from the step's rows on the device, so launches depend on R and
//! S alone.

use super::launch::Argument;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{DType, Pooling, PoolingOps};
use crate::error::Result;
use crate::internal;

/// As in kernels/gather.cu.
fn code(kind: Pooling) -> u32 {
    match kind {
        Pooling::First => 0,
        Pooling::Last => 1,
        Pooling::Mean => 2,
    }
}

impl PoolingOps for Cuda {
    fn pool(&mut self, kind: Pooling, x: &Tensor, out: &mut Tensor) -> Result<()> {
        if kind != Pooling::Last {
            self.slots.batch().whole_sequences("pool")?;
        }
        assert!(out.dtype == DType::F32, "vectors into activations");
        let (samples, width) = (self.samples(), x.width);
        let device = &self.reserved()?.steps.device;
        let arguments: [&dyn Argument; 6] = [
            &device.gather_row.address,
            &device.position.address,
            &x.at(self.rows(), width, "pool"),
            &code(kind),
            &(width as u32),
            &out.at(samples, width, "pool"),
        ];
        let blocks = [samples, width.div_ceil(ROW_THREADS as usize)];
        self.kernels.pool.launch(&self.context, blocks, ROW_THREADS, &arguments)
    }

    fn hand_over(&mut self, pooled: &Tensor) -> Result<()> {
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };
        reserved.graphs.end()?;
        let batch = self.slots.batch();
        pooled.at(batch.logits.len(), pooled.width, "hand_over");
        reserved.steps.finish_vectors(batch, &pooled.memory, pooled.width)
    }
}
