//! A tensor of the GPU. The decoder holds them, ops are called with them.

use super::device_ptr::DevicePtr;
use super::memory::Memory;
use crate::device::DType;

/// Activations `[rows, width]` on the GPU.
pub struct Tensor {
    pub(super) memory: Memory,
    /// Rows that there is room for.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    pub(super) dtype: DType,
    /// What products make of its rows, where the op that writes them makes it too.
    pub(super) rounded: Option<Rounded>,
    /// Each rank has its share of the rows alone (row_shares).
    pub(super) parted: bool,
}

/// Rows as E4M3, for products that round their inputs row by row.
pub(super) struct Rounded {
    /// `[rows, width]` as activations, or as bytes.
    pub codes: Memory,
    /// `[rows]`
    pub steps: Memory,
    /// What of the tensor's present rows lies here.
    pub holds: Holds,
    /// That is all there is of them: the tensor itself holds others.
    pub alone: bool,
}

/// What [`Rounded`] has of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Nothing of the present rows.
    Nothing,
    /// Codes as activations.
    Activations,
    /// Codes as bytes in the order of a coded matrix.
    Bytes,
}

/// What a product reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input {
    /// The rows.
    pub x: DevicePtr,
    /// What was made of them, where and with which steps.
    pub holds: Holds,
    /// As `holds` says.
    pub codes: DevicePtr,
    /// `[rows]`
    pub steps: DevicePtr,
}

impl From<DevicePtr> for Input {
    fn from(x: DevicePtr) -> Input {
        let (codes, steps) = (DevicePtr::NULL, DevicePtr::NULL);
        Input { x, holds: Holds::Nothing, codes, steps }
    }
}

impl Tensor {
    /// A tensor of these rows in memory of its own.
    pub(super) fn new(memory: Memory, [rows, width]: [usize; 2], dtype: DType) -> Tensor {
        Tensor { memory, rows, width, dtype, rounded: None, parted: false }
    }

    /// Its rows with what was made of them, as [`Tensor::at`]; null where that is all there is.
    pub(super) fn input(&self, rows: usize, width: usize, op: &str) -> Input {
        match &self.rounded {
            Some(Rounded { codes, steps, holds, alone }) => {
                let x = if *alone { DevicePtr::NULL } else { self.at(rows, width, op) };
                Input { x, holds: *holds, codes: codes.address, steps: steps.address }
            }
            None => self.at(rows, width, op).into(),
        }
    }

    /// Where it begins, to be read.
    ///
    /// # Panics
    /// If it has fewer rows or another width, or does not hold all of its rows: a mistake in the
    /// decoder. `op` is for the message.
    pub(super) fn at(&self, rows: usize, width: usize, op: &str) -> DevicePtr {
        let alone = self.rounded.as_ref().is_some_and(|rounded| rounded.alone);
        assert!(!self.parted && !alone, "{op}: what only the next sublayer may read");
        self.share(rows, width, op)
    }

    /// The same of a tensor that may hold this rank's share of the rows alone.
    ///
    /// # Panics
    /// As [`Tensor::at`].
    pub(super) fn share(&self, rows: usize, width: usize, op: &str) -> DevicePtr {
        assert!(
            rows <= self.rows && width == self.width,
            "{op}: {rows} x {width} in a buffer of {} x {}",
            self.rows,
            self.width
        );
        self.memory.address
    }

    /// The same, to be written: what was made of the old rows is of no more use.
    pub(super) fn to(&mut self, rows: usize, width: usize, op: &str) -> DevicePtr {
        if let Some(rounded) = &mut self.rounded {
            rounded.holds = Holds::Nothing;
            rounded.alone = false;
        }
        self.at(rows, width, op)
    }
}
