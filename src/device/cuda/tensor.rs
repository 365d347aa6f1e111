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
}

impl Tensor {
    /// Where it begins.
    ///
    /// # Panics
    /// If it has fewer rows or another width: a mistake in the decoder. `op` is for the message.
    pub(super) fn at(&self, rows: usize, width: usize, op: &str) -> DevicePtr {
        assert!(
            rows <= self.rows && width == self.width,
            "{op}: {rows} x {width} in a buffer of {} x {}",
            self.rows,
            self.width
        );
        self.memory.address
    }
}
