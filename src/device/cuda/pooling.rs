//! Models that embed on the GPU: token rows to vectors, and the vectors' way back. Where a sequence
//! begins and ends the kernels read from the step's rows on the device, so launches depend on R and
//! S alone.

use super::abi;
use super::ranks::Member;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{DType, Pooling, PoolingOps};
use crate::error::Result;
use crate::internal;

impl From<Pooling> for abi::Pooling {
    fn from(kind: Pooling) -> abi::Pooling {
        match kind {
            Pooling::First => abi::Pooling::First,
            Pooling::Last => abi::Pooling::Last,
            Pooling::Mean => abi::Pooling::Mean,
        }
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
        let parameters = abi::Pool {
            row: device.gather_row.address,
            position: device.position.address,
            x: x.at(self.rows(), width, "pool"),
            out: out.to(samples, width, "pool"),
            kind: kind.into(),
            width: width as u32,
        };
        let blocks = [samples, width.div_ceil(ROW_THREADS as usize)];
        self.kernels.pool.launch(&self.context, blocks, ROW_THREADS, &parameters)
    }

    fn hand_over(&mut self, pooled: &Tensor) -> Result<()> {
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };
        reserved.graphs.end()?;
        let batch = self.slots.batch();
        pooled.at(batch.logits.len(), pooled.width, "hand_over");
        reserved.steps.finish_vectors(batch, &pooled.memory, pooled.width)?;
        self.member.iter().for_each(Member::end_step);
        Ok(())
    }
}
