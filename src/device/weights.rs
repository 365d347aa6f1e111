//! Weights as every device gets them: tensors of a checkpoint on the host, and what is to become of
//! them. `model` makes them, devices take them apart; they know no file.

use super::DType;
use crate::error::Result;
use crate::invalid;

/// One 2-D (or 1-D: `rows` = 1) tensor of a checkpoint on the host, row-major, not aligned.
#[derive(Clone)]
pub struct HostTensor<'a> {
    pub dtype: DType,
    pub rows: usize,
    pub cols: usize,
    /// `rows * cols * dtype.bytes()` bytes.
    pub bytes: &'a [u8],
}

impl HostTensor<'_> {
    /// Its elements, row by row.
    pub fn values(&self) -> impl Iterator<Item = f32> + '_ {
        let dtype = self.dtype;
        self.bytes.chunks_exact(dtype.bytes()).map(move |b| match (dtype, b) {
            (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (DType::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
            (DType::BF16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
            _ => unreachable!("chunks are as long as an element"),
        })
    }
}

/// How the device gets a weight's values.
pub enum Source<'a> {
    /// Stacked along the output dimension: q|k|v, gate|up. All have the same number of inputs.
    Parts(Vec<HostTensor<'a>>),
    /// `load_format: dummy`: uniform in ±scale from this seed, generated on the device.
    Dummy { seed: u64, scale: f32 },
    /// Every element the same: biases of 0, norms of 1.
    Constant(f32),
}

/// A weight to load. `outputs` x `inputs`, as in y = W x.
pub struct WeightDesc<'a> {
    /// For messages: the checkpoint's name of the first part.
    pub name: &'a str,
    pub kind: WeightKind,
    pub outputs: usize,
    pub inputs: usize,
    /// Element type on the device, for matrices; vectors are held in f32.
    pub dtype: DType,
    /// The parts are stored `[inputs, outputs]` (GPT-2's Conv1D).
    pub transposed: bool,
    pub source: Source<'a>,
}

impl WeightDesc<'_> {
    /// Outputs that `part` of this weight's source holds.
    ///
    /// # Errors
    /// InvalidArgument: it has other inputs than the weight, or not the bytes of its shape.
    pub fn part_outputs(&self, part: &HostTensor<'_>) -> Result<usize> {
        let (outputs, inputs) = match self.transposed {
            true => (part.cols, part.rows),
            false => (part.rows, part.cols),
        };
        let bytes = part.rows * part.cols * part.dtype.bytes();
        if inputs != self.inputs || part.bytes.len() != bytes {
            return Err(invalid!(
                "{}: part of {} x {} in {} bytes does not fit {} inputs.",
                self.name,
                part.rows,
                part.cols,
                part.bytes.len(),
                self.inputs
            ));
        }
        Ok(outputs)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightKind {
    /// For `linear*` and `logits`: the device may repack it as it likes.
    Linear,
    /// For `linear_act` with a gated activation: parts are gate, up (equal halves of `outputs`).
    GateUp,
    /// For `embed` and `add_positions`: rows are looked up.
    Table,
    /// A tied head: looked up by `embed` and multiplied by `logits`.
    TableAndLinear,
    /// Norm weights and biases: `outputs` values, `inputs` = 1.
    Vector,
    /// For `experts*`: `count` matrices of `outputs / count` rows each, one below the other. Gated:
    /// each is a gate and the up that belongs to it, as in `GateUp`.
    Experts { count: usize, gated: bool },
}
