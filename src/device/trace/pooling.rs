//! What pooling would move and compute.

use super::{bytes, Trace, TraceTensor};
use crate::device::{Pooling, PoolingOps};
use crate::error::Result;
use crate::ids::TokenId;
use crate::plan::{Sampled, StepResult};

impl PoolingOps for Trace {
    fn pool(&mut self, kind: Pooling, x: &TraceTensor, out: &mut TraceTensor) -> Result<()> {
        let samples = self.slots.logits().len();
        let (read, flops) = match kind {
            Pooling::Mean => (self.rows(), self.rows() * x.width),
            Pooling::First | Pooling::Last => (samples, 0),
        };
        let (read, written) = (bytes(read, x), bytes(samples, out));
        self.launch("pool", (samples, x.width, out.width), read, written, flops as u64);
        Ok(())
    }

    fn hand_over(&mut self, pooled: &TraceTensor) -> Result<()> {
        let batch = self.slots.batch();
        let token = |slot| Sampled { slot, tokens: Ok(vec![TokenId(0)]), logprobs: Vec::new() };
        let samples: Vec<Sampled> = batch.logits.iter().map(|l| token(l.slot)).collect();
        let vectors = vec![vec![0.0; pooled.width]; samples.len()];
        let result = StepResult { step: batch.step, samples, vectors, ..StepResult::default() };
        self.results.push_back(result);
        Ok(())
    }
}
