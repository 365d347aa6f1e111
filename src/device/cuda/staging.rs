//! The way to the GPU at load: two pinned buffers that take turns, so that the host fills one, by
//! several threads, while the other is copied. Weights of all kinds go through it; it knows none.

use std::sync::Arc;

use rayon::prelude::*;

use super::context::{Context, Event};
use super::device_ptr::DevicePtr;
use super::memory::{Memory, Pinned};
use crate::device::cpu::workers::Workers;
use crate::device::Bytes;
use crate::error::Result;
use crate::internal;

/// Bytes of one pinned buffer.
pub const CHUNK_BYTES: usize = 16 << 20;
/// What one thread reads into it at a time.
const SLICE_BYTES: usize = 1 << 20;
/// Threads that read; more gain nothing, one buffer has 16 slices.
const READERS_MAX: usize = 16;
/// Threads of a block of the kernels that take what arrived.
pub const THREADS: u32 = 256;

/// A pinned buffer with its place on the device.
pub struct StagingBuffers {
    /// On the host.
    pub pinned: Pinned,
    /// Its place on the device.
    pub on_device: Memory,
    /// The GPU has read both.
    free: Event,
}

/// The buffers, made when the first bytes come.
pub struct Staging {
    /// Where they are.
    pub context: Arc<Context>,
    ring: Vec<StagingBuffers>,
    next: usize,
    /// They read. Its own: a file that hangs must not hold up another model's load. None with no
    /// ring.
    readers: Option<Workers>,
}

impl Staging {
    pub fn new(context: &Arc<Context>) -> Staging {
        Staging { context: context.clone(), ring: Vec::new(), next: 0, readers: None }
    }

    /// Give the buffers back. A later upload makes new ones.
    pub fn release(&mut self) {
        self.ring.clear();
        self.readers = None;
    }

    /// The next staging, free and filled with `bytes`. After an error the staging is free as
    /// before: nothing that reads it was enqueued.
    pub fn fill(&mut self, bytes: &Bytes<'_>) -> Result<&StagingBuffers> {
        if self.ring.is_empty() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            self.readers = Some(Workers::new(cores.min(READERS_MAX), "upload")?);
            for _ in 0..2 {
                self.ring.push(StagingBuffers {
                    pinned: Pinned::new(&self.context, CHUNK_BYTES)?,
                    on_device: Memory::new(&self.context, CHUNK_BYTES, "staging weights")?,
                    free: Event::new(&self.context, false)?,
                });
            }
        }
        let staging = &mut self.ring[self.next];
        staging.free.wait()?;
        let to = &mut staging.pinned.bytes_mut()[..bytes.len()];
        let slices = to.par_chunks_mut(SLICE_BYTES).enumerate();
        let read = || slices.try_for_each(|(n, to)| bytes.read(n * SLICE_BYTES, to));
        match &self.readers {
            Some(readers) => readers.install(read)?,
            None => read()?,
        }
        Ok(&self.ring[self.next])
    }

    /// Everything that reads the current staging is enqueued: go on with the other.
    pub fn turn(&mut self) -> Result<()> {
        self.ring[self.next].free.record()?;
        self.next = (self.next + 1) % self.ring.len();
        Ok(())
    }

    /// Bytes as they are, to `offset` of `to`.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn copy(&mut self, bytes: &Bytes<'_>, to: &Memory, offset: usize) -> Result<()> {
        let mut at = offset;
        for chunk in chunks(bytes, CHUNK_BYTES) {
            let staging = self.fill(&chunk)?;
            to.write_at(at, &staging.pinned, chunk.len())?;
            self.turn()?;
            at += chunk.len();
        }
        Ok(())
    }

    /// Rows of `row_bytes` bytes, so many at a time as a buffer holds: each time they are on the
    /// device `take` is called with where, the first row and how many.
    ///
    /// # Errors
    /// They cannot be read; those of `take`; Internal: a row is longer than a buffer.
    pub fn rows(
        &mut self,
        bytes: &Bytes<'_>,
        row_bytes: usize,
        mut take: impl FnMut(&Context, DevicePtr, usize, usize) -> Result<()>,
    ) -> Result<()> {
        if row_bytes == 0 || row_bytes > CHUNK_BYTES {
            return Err(internal!("a row of {row_bytes} bytes in a staging buffer"));
        }
        let rows_per_chunk = CHUNK_BYTES / row_bytes;
        for (n, chunk) in chunks(bytes, rows_per_chunk * row_bytes).enumerate() {
            let staging = self.fill(&chunk)?;
            staging.on_device.write_at(0, &staging.pinned, chunk.len())?;
            let place = staging.on_device.address;
            take(&self.context, place, n * rows_per_chunk, chunk.len() / row_bytes)?;
            self.turn()?;
        }
        Ok(())
    }
}

/// What follows one another in pieces of `length` bytes; the last may be shorter.
pub fn chunks<'a>(bytes: &Bytes<'a>, length: usize) -> impl Iterator<Item = Bytes<'a>> {
    let (bytes, total) = (bytes.clone(), bytes.len());
    let starts = (0..total).step_by(length.max(1));
    starts.map(move |at| bytes.slice(at..total.min(at + length)))
}

/// Blocks for a loop over `count` elements.
pub fn blocks(count: usize) -> usize {
    count.div_ceil(THREADS as usize).min(4096)
}
