//! GEMM algorithms chosen before a step waits for them: `Cuda`'s linear verbs tell of each product,
//! and while the engine has nothing to do, `Device::idle` has the algorithms of all numbers of rows
//! chosen, one at a time. Requests that come meanwhile choose what they need themselves, as ever.
//! It knows no weight's name and no step.
//!
//! After the first request of an 8B model that is some 60 choices, 0.3 s.

use super::gemm::{self, Product};
use super::weights::Weight;
use super::{skinny, Cuda, Tensor};
use crate::error::Result;

/// A product of every step.
#[derive(Debug, Clone, Copy)]
struct Met {
    outputs: usize,
    inputs: usize,
    w: u64,
    x: u64,
    /// None: gates and ups, into the scratch.
    y: Option<u64>,
    /// What `x` and `y` have room for.
    rows: usize,
}

#[derive(Default)]
pub struct Ahead {
    met: Vec<Met>,
}

impl Ahead {
    /// A step multiplies `x` by `weight` into `out`, or into the scratch.
    pub fn meet(&mut self, weight: &Weight, x: &Tensor, out: &Tensor, scratch: bool) {
        let (outputs, inputs) = (weight.outputs, weight.inputs);
        if self.met.iter().any(|met| (met.outputs, met.inputs) == (outputs, inputs)) {
            return;
        }
        let y = (!scratch).then_some(out.memory.address);
        let (w, rows) = (weight.matrix(), x.rows.min(out.rows));
        self.met.push(Met { outputs, inputs, w, x: x.memory.address, y, rows });
    }
}

impl Cuda {
    /// Choose one algorithm; few rows first, for they are quick. False: all are chosen.
    pub(super) fn choose_ahead(&mut self) -> Result<bool> {
        self.context.bind()?;
        let most = self.reserved.as_ref().map_or(0, |reserved| reserved.limits.step_tokens);
        for rows in gemm::buckets(most) {
            for n in 0..self.ahead.met.len() {
                let Met { outputs, inputs, w, x, y, rows: room } = self.ahead.met[n];
                let ours = skinny::takes(&self.context, self.dtype, rows, inputs);
                if ours || rows > room {
                    continue;
                }
                let y = match y {
                    Some(y) => y,
                    None => self.scratch(rows * outputs * self.dtype.bytes())?,
                };
                let product = Product { rows, outputs, inputs, logits: false, x, w, y };
                if self.gemm.prepare(&self.kernels, &product)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
