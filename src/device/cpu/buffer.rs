//! Memory of the CPU device: zeroed, lazily backed, aligned to a cache line. Everything else in
//! this room builds on it; it knows no shapes.

/// A fixed number of elements whose first one starts a cache line. Zeroed memory comes from the
/// operating system page by page as it is touched, so a big pool costs nothing until it is used.
pub struct Buffer<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

const CACHE_LINE_BYTES: usize = 64;

impl<T: Copy + Default> Buffer<T> {
    /// `zero` must be the all-zero value, else the memory is touched.
    pub fn zeroed(len: usize, zero: T) -> Buffer<T> {
        let memory = vec![zero; len + CACHE_LINE_BYTES / std::mem::size_of::<T>()];
        let start = memory.as_ptr().align_offset(CACHE_LINE_BYTES);
        Buffer { memory, start, len }
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
    pub data: Buffer<f32>,
    pub rows: usize,
    pub width: usize,
}

impl Tensor {
    pub fn new(rows: usize, width: usize) -> Tensor {
        Tensor { data: Buffer::zeroed(rows * width, 0.0), rows, width }
    }

    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.width..(r + 1) * self.width]
    }

    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        &mut self.data[r * self.width..(r + 1) * self.width]
    }
}
