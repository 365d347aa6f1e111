//! Weights as every device gets them: tensors of a checkpoint, and what is to become of them.
//! `model` makes them, devices take them apart; they know no file.

use std::borrow::Cow;
use std::ops::Range;

use super::DType;
use crate::error::{Error, Result};
use crate::invalid;

/// Where bytes lie that are fetched as they are needed: a file. Several threads may ask at once.
pub trait Storage: Sync {
    /// Fill `to` with the bytes from `at` on.
    ///
    /// # Errors
    /// They cannot be read, or are no longer there.
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()>;
}

/// The bytes of a tensor.
#[derive(Clone)]
pub enum Bytes<'a> {
    /// They are here.
    InMemory(&'a [u8]),
    /// So many from `at` on.
    Stored {
        /// Where they lie.
        storage: &'a dyn Storage,
        /// The first.
        at: u64,
        /// How many.
        length: usize,
    },
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Bytes<'a> {
        Bytes::InMemory(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Bytes<'a> {
    fn from(bytes: &'a Vec<u8>) -> Bytes<'a> {
        Bytes::InMemory(bytes)
    }
}

impl<'a> Bytes<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Bytes::InMemory(bytes) => bytes.len(),
            Bytes::Stored { length, .. } => *length,
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of a range.
    ///
    /// # Panics
    /// If it reaches beyond the end: a mistake of the caller.
    pub fn slice(&self, range: Range<usize>) -> Bytes<'a> {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {}", self.len());
        match self {
            Bytes::InMemory(bytes) => Bytes::InMemory(&bytes[range]),
            Bytes::Stored { storage, at, .. } => {
                let at = at + range.start as u64;
                Bytes::Stored { storage: *storage, at, length: range.len() }
            }
        }
    }

    /// Fill `to` with those from `at` on.
    ///
    /// # Errors
    /// They cannot be read, or are no longer there.
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        match self.slice(at..at + to.len()) {
            Bytes::InMemory(bytes) => to.copy_from_slice(bytes),
            Bytes::Stored { storage, at, .. } => storage.read(at, to)?,
        }
        Ok(())
    }

    /// All of them.
    ///
    /// # Errors
    /// As `read`; Unavailable: no memory for them.
    pub fn load(&self) -> Result<Cow<'a, [u8]>> {
        match self {
            Bytes::InMemory(bytes) => Ok(Cow::Borrowed(bytes)),
            Bytes::Stored { .. } => {
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(self.len()).map_err(|_| no_memory(self.len()))?;
                bytes.resize(self.len(), 0);
                self.read(0, &mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

fn no_memory(bytes: usize) -> Error {
    Error::Unavailable(format!("no memory for {bytes} bytes of a tensor: use a smaller model."))
}

/// One 2-D (or 1-D: `rows` = 1) tensor of a checkpoint, row-major, not aligned.
#[derive(Clone)]
pub struct HostTensor<'a> {
    /// Of an element.
    pub dtype: DType,
    /// Of the matrix; of a vector its length.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// `rows * cols * dtype.bytes()` bytes.
    pub bytes: Bytes<'a>,
}

impl HostTensor<'_> {
    /// Its elements, row by row.
    ///
    /// # Errors
    /// Those of [`Bytes::load`].
    pub fn values(&self) -> Result<Vec<f32>> {
        let dtype = self.dtype;
        let bytes = self.bytes.load()?;
        let elements = bytes.chunks_exact(dtype.bytes());
        let mut values = Vec::new();
        values.try_reserve_exact(elements.len()).map_err(|_| no_memory(4 * elements.len()))?;
        values.extend(elements.map(|b| match (dtype, b) {
            (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (DType::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
            (DType::BF16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
            _ => unreachable!("chunks are as long as an element"),
        }));
        Ok(values)
    }
}

/// How the device gets a weight's values.
pub enum Source<'a> {
    /// Stacked along the output dimension: q|k|v, gate|up. All have the same number of inputs.
    Parts(Vec<HostTensor<'a>>),
    /// `load_format: dummy`: uniform in ±scale from this seed, generated on the device.
    Dummy {
        /// Of the values.
        seed: u64,
        /// The largest.
        scale: f32,
    },
    /// Every element the same: biases of 0, norms of 1.
    Constant(f32),
}

/// A weight to load. `outputs` x `inputs`, as in y = W x.
pub struct WeightDesc<'a> {
    /// For messages: the checkpoint's name of the first part.
    pub name: &'a str,
    /// What ops do with it.
    pub kind: WeightKind,
    /// Rows of the matrix.
    pub outputs: usize,
    /// Elements of a row.
    pub inputs: usize,
    /// Element type on the device, for matrices; vectors are held in f32.
    pub dtype: DType,
    /// The parts are stored `[inputs, outputs]` (GPT-2's Conv1D).
    pub transposed: bool,
    /// Where the values come from.
    pub source: Source<'a>,
}

impl WeightDesc<'_> {
    /// Outputs that `part` of this weight's source holds.
    ///
    /// # Errors
    /// InvalidArgument: it has other inputs than the weight, or not the bytes of its shape.
    pub fn part_outputs(&self, part: &HostTensor<'_>) -> Result<usize> {
        let (outputs, inputs) =
            if self.transposed { (part.cols, part.rows) } else { (part.rows, part.cols) };
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

/// What ops do with a weight.
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
    Experts {
        /// Experts.
        count: usize,
        /// Each is two matrices.
        gated: bool,
    },
}
