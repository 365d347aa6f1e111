//! Token rows to vectors on the CPU.

use super::buffer::Tensor;
use super::Cpu;
use crate::device::{Pooling, PoolingOps};
use crate::error::Result;
use crate::plan::StepResult;

impl PoolingOps for Cpu {
    fn pool(&mut self, kind: Pooling, x: &Tensor, out: &mut Tensor) -> Result<()> {
        if kind != Pooling::Last {
            self.slots.batch().whole_sequences("pool")?;
        }
        for (s, logits) in self.slots.logits().iter().enumerate() {
            let rows = self.slots.chunk_of(logits).rows();
            let out = out.row_mut(s);
            match kind {
                Pooling::Last => out.copy_from_slice(x.row(logits.row)),
                Pooling::First => out.copy_from_slice(x.row(rows.start)),
                Pooling::Mean => {
                    let count = rows.len() as f32;
                    out.fill(0.0);
                    for row in rows {
                        out.iter_mut().zip(x.row(row)).for_each(|(o, x)| *o += x);
                    }
                    out.iter_mut().for_each(|o| *o /= count);
                }
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, pooled: &Tensor) -> Result<()> {
        let mut result = StepResult { step: self.slots.batch().step, ..StepResult::default() };
        for (s, logits) in self.slots.logits().iter().enumerate() {
            result.push_vector(logits.slot, pooled.row(s).to_vec());
        }
        self.results.push_back(result);
        Ok(())
    }
}
