//! Memory of the CPU device: zeroed, lazily backed, aligned to a cache line. Everything else in
//! this device builds on it; it knows no shapes.

use bytemuck::Zeroable;

use crate::error::{Error, Result};

/// A fixed number of elements whose first one starts a cache line. Zeroed memory comes from the
/// operating system page by page as it is touched, so a big pool costs nothing until it is used.
pub struct Buffer<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

const CACHE_LINE_BYTES: usize = 64;

impl<T: Zeroable> Buffer<T> {
    /// # Errors
    /// Unavailable: the operating system does not give so much.
    pub fn zeroed(len: usize) -> Result<Buffer<T>> {
        let size = std::mem::size_of::<T>();
        let whole = len.checked_add(CACHE_LINE_BYTES / size);
        let memory = whole.and_then(|whole| bytemuck::allocation::try_zeroed_vec(whole).ok());
        let memory: Vec<T> = memory.ok_or_else(|| {
            let mib = (len as u128 * size as u128) >> 20;
            Error::Unavailable(format!(
                "no memory for {mib} MiB: lower max_model_len, max_num_seqs or \
                 kv_cache_memory_bytes, or use a smaller model."
            ))
        })?;
        let start = memory.as_ptr().align_offset(CACHE_LINE_BYTES);
        Ok(Buffer { memory, start, len })
    }
}

impl<T> std::ops::Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl<T> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Activations: `rows` x `width` in f32, row-major.
pub struct Tensor {
    /// Row after row.
    pub data: Buffer<f32>,
    /// Rows that fit.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
}

impl Tensor {
    /// # Errors
    /// As `Buffer::zeroed`.
    pub fn new(rows: usize, width: usize) -> Result<Tensor> {
        Ok(Tensor { data: Buffer::zeroed(rows.saturating_mul(width))?, rows, width })
    }

    /// Rows of another width, if there is room for them.
    pub fn reshape(&mut self, width: usize) -> bool {
        let fits = self.rows.saturating_mul(width) <= self.data.len();
        if fits {
            self.width = width;
        }
        fits
    }

    /// The r-th row.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.width..(r + 1) * self.width]
    }

    /// The r-th row, to write.
    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        &mut self.data[r * self.width..(r + 1) * self.width]
    }
}
