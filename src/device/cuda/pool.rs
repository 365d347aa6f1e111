//! Models that embed on the GPU: attention over a whole sequence without pages, token rows to
//! vectors, and the vectors' way back. `ops` calls it. Where a sequence begins and ends the
//! kernels read from the step's rows on the device, so launches depend on R and S alone.

use super::launch::Argument;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{AttnSpec, DType, Pooling};
use crate::error::{Error, Result};
use crate::internal;

use super::attention::{MAX_HEAD_DIM, THREADS};

/// As in kernels/gather.cu.
fn code(kind: Pooling) -> u32 {
    match kind {
        Pooling::First => 0,
        Pooling::Last => 1,
        Pooling::Mean => 2,
    }
}

impl Cuda {
    /// Every sequence of the step begins in it.
    fn whole(&self, op: &str) -> Result<()> {
        match self.slots.batch.chunks.iter().find(|chunk| chunk.tokens != chunk.length) {
            None => Ok(()),
            Some(chunk) => {
                let (slot, fed, length) = (chunk.slot, chunk.tokens, chunk.length);
                Err(internal!("{op}: slot {slot} feeds {fed} of its {length} tokens"))
            }
        }
    }

    /// `Device::attend_all`.
    pub(super) fn attend_whole(
        &mut self,
        spec: &AttnSpec,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.whole("attend_all")?;
        if spec.head_dim > MAX_HEAD_DIM {
            return Err(Error::Unsupported(format!(
                "head_dim {}: attention on GPUs goes up to {MAX_HEAD_DIM}.",
                spec.head_dim
            )));
        }
        let (rows, width) = (self.rows(), (spec.heads + 2 * spec.kv_heads) * spec.head_dim);
        let device = &self.reserved()?.steps.device;
        let arguments: [&dyn Argument; 11] = [
            &qkv.at(rows, width, "attend_all"),
            &device.position.address,
            &device.slot_of.address,
            &device.rows.address,
            &self.slots.layout().stride,
            &(spec.heads as u32),
            &(spec.kv_heads as u32),
            &(spec.head_dim as u32),
            &spec.scale,
            &spec.softcap.unwrap_or(0.0),
            &out.at(rows, spec.heads * spec.head_dim, "attend_all"),
        ];
        self.kernels.attend_all.launch(&self.context, [rows, spec.heads], THREADS, &arguments)
    }

    /// `Device::pool`.
    pub(super) fn pool_rows(&mut self, kind: Pooling, x: &Tensor, out: &mut Tensor) -> Result<()> {
        if kind != Pooling::Last {
            self.whole("pool")?;
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

    /// `Device::hand_over`.
    pub(super) fn hand_vectors_over(&mut self, pooled: &Tensor) -> Result<()> {
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };
        reserved.graphs.end()?;
        let batch = &self.slots.batch;
        pooled.at(batch.samples.len(), pooled.width, "hand_over");
        reserved.steps.finish_vectors(batch, &pooled.memory, pooled.width)
    }
}
