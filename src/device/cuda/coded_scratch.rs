//! Memory beside weights that products of codes need: made once, for the widest. `load` notes what
//! is loaded, the products ask for it; it knows no kernel.

use std::sync::Arc;

use super::abi;
use super::coded::Coded;
use super::context::Context;
use super::memory::Memory;
use crate::device::DType;
use crate::error::Result;

/// Rows of x up to which coded_wgmma is faster than plain weights in between.
pub const WGMMA_ROWS: usize = 256;
/// Plain weights that stand between codes and cuBLASLt at a time: they are to stay in L2.
const SLICE_BYTES: usize = 128 << 20;

/// What products of codes need beside them; made by `reserve`, for the widest.
#[derive(Default)]
pub struct CodedScratch {
    /// Widest inputs so far; whether inputs of some are rounded.
    inputs: usize,
    rounded: bool,
    /// Bytes of the largest matrix as plain weights.
    plain_bytes: usize,
    /// Experts of a row.
    pub top_k: usize,
    /// None before the first weight.
    pub buffers: Option<Buffers>,
}

/// What [`CodedScratch`] makes.
pub struct Buffers {
    /// `[step_tokens, inputs]`, activations or bytes, and the step of each.
    pub codes: Memory,
    pub steps: Memory,
    /// Weights that are unpacked for a product.
    pub plain: Memory,
}

impl CodedScratch {
    /// A weight was loaded that is not held as codes, and whose inputs are rounded.
    pub fn note_rounded(&mut self, inputs: usize) {
        self.inputs = self.inputs.max(inputs);
        self.rounded = true;
    }

    /// A weight was loaded.
    pub fn note(&mut self, coded: &Coded, act: DType) {
        let m = &coded.matrix;
        self.inputs = self.inputs.max(m.inputs as usize);
        self.rounded |= coded.inputs.is_some() || coded.order.is_some();
        let plain = m.outputs as usize * m.inputs as usize * act.bytes();
        self.plain_bytes = self.plain_bytes.max(plain);
    }

    /// Bytes of the largest matrix, or of the largest slice of it, as plain weights.
    pub fn plain_slice(&self) -> usize {
        self.plain_bytes.min(SLICE_BYTES)
    }

    /// The experts of a row are so many.
    pub fn note_choices(&mut self, top_k: usize) {
        self.top_k = self.top_k.max(top_k);
    }

    /// Room for steps of so many rows. Nothing where no weight is held as codes. Grows only where
    /// weights were loaded since, which waits for the GPU.
    pub fn reserve(&mut self, context: &Arc<Context>, act: DType, rows: usize) -> Result<()> {
        if self.inputs == 0 {
            return Ok(());
        }
        let sizes = self.sizes(act, rows);
        let old = self.buffers.as_ref();
        let enough = |b: &Buffers| {
            let held = [&b.codes, &b.steps, &b.plain];
            held.iter().zip(sizes).all(|(memory, bytes)| memory.bytes >= bytes)
        };
        if old.is_some_and(enough) {
            return Ok(());
        }

        self.buffers = None;
        let [codes, steps, plain] = sizes;
        let memory = |bytes, what| Memory::new(context, bytes, what);
        self.buffers = Some(Buffers {
            codes: memory(codes, "rounded inputs")?,
            steps: memory(steps, "steps of rounded inputs")?,
            plain: memory(plain, "weights unpacked for a product")?,
        });
        Ok(())
    }

    /// Bytes of the buffers, in their order.
    fn sizes(&self, act: DType, rows: usize) -> [usize; 3] {
        let row_bytes = (self.inputs * act.bytes()).max(padded_inputs(self.inputs));
        let rounded = if self.rounded { rows * self.top_k.max(1) } else { 0 };
        [rounded * row_bytes, rounded * 4, self.plain_slice()]
    }
}

/// What products of codes whose inputs are so wide take beside weights, at most: rounded inputs of
/// a step, those that norms make, and a slice of plain weights.
pub fn extra_bytes(step_tokens: usize, act: DType, inputs: usize) -> usize {
    if inputs == 0 {
        return 0;
    }
    2 * step_tokens * (inputs * act.bytes() + 4) + SLICE_BYTES
}

/// Bytes of a row of E4M3 codes in the order of a coded matrix.
pub(super) fn padded_inputs(inputs: usize) -> usize {
    inputs.next_multiple_of(abi::CODE_BLOCK_BYTES as usize)
}
