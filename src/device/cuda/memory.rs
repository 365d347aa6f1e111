//! Memory of the GPU and page-locked memory of the host, as owned pieces. Everything in this folder
//! that holds data takes it from here; it knows no layout.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use super::context::{check, Context};
use super::device_ptr::DevicePtr;
use crate::error::{Error, Result};

/// A piece of device memory, freed when dropped.
pub struct Memory {
    context: Arc<Context>,
    /// Where it begins.
    pub address: DevicePtr,
    /// Its size.
    pub bytes: usize,
}

impl Memory {
    /// `bytes` of device memory (at least 16, aligned to 256), contents undefined.
    ///
    /// # Errors
    /// Unavailable: the GPU has no room; the message says how much there is and what to lower.
    pub fn new(context: &Arc<Context>, bytes: usize, what: &str) -> Result<Memory> {
        context.bind()?;
        let bytes = bytes.max(16);
        let mut address = 0;
        // SAFETY: a live address to write to; the context is current.
        let code = unsafe { sys::cuMemAlloc_v2(&mut address, bytes) };
        if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let (total, free) = context.memory()?;
            return Err(Error::Unavailable(format!(
                "{}: no room for {what}: {} MiB wanted, {} of {} MiB free, {} taken by this model. \
                 Lower gpu_memory_utilization or max_model_len, or stop what else uses the GPU.",
                context.name,
                bytes >> 20,
                free >> 20,
                total >> 20,
                context.taken.load(Ordering::Relaxed) >> 20
            )));
        }
        check(code, "cuMemAlloc")?;
        context.taken.fetch_add(bytes as u64, Ordering::Relaxed);
        let address = DevicePtr::new(address);
        Ok(Memory { context: context.clone(), address, bytes })
    }

    /// Copy from pinned memory on the stream: `words` u32 from its start to ours. The source must
    /// not change before an event recorded after this has passed.
    pub fn write(&self, from: &Pinned, words: usize) -> Result<()> {
        self.write_at(0, from, 4 * words)
    }

    /// The same for bytes, to `offset`.
    pub fn write_at(&self, offset: usize, from: &Pinned, bytes: usize) -> Result<()> {
        assert!(offset + bytes <= self.bytes && bytes <= from.bytes, "copy beyond a buffer");
        // SAFETY: both ranges are inside live allocations.
        let code = unsafe {
            sys::cuMemcpyHtoDAsync_v2(
                self.address.offset_bytes(offset).address(),
                from.pointer,
                bytes,
                self.context.stream(),
            )
        };
        check(code, "a copy to the GPU")
    }

    /// Copy `bytes` from offset `from` to offset `at` of pinned memory on the stream; readable once
    /// an event recorded after this has passed.
    pub fn read(&self, from: usize, to: &mut Pinned, at: usize, bytes: usize) -> Result<()> {
        assert!(from + bytes <= self.bytes && at + bytes <= to.bytes, "copy beyond a buffer");
        // SAFETY: both ranges are inside live allocations.
        let code = unsafe {
            let to = to.pointer.byte_add(at);
            let from = self.address.offset_bytes(from).address();
            sys::cuMemcpyDtoHAsync_v2(to, from, bytes, self.context.stream())
        };
        check(code, "a copy from the GPU")
    }

    /// Copy `bytes` from offset `from` to offset `to`, on the stream. The ranges do not overlap.
    pub fn copy_within(&self, from: usize, to: usize, bytes: usize) -> Result<()> {
        assert!(from + bytes <= self.bytes && to + bytes <= self.bytes, "copy beyond a buffer");
        let address = |offset| self.address.offset_bytes(offset).address();
        // SAFETY: both ranges are inside of our allocation.
        let code = unsafe {
            sys::cuMemcpyDtoDAsync_v2(address(to), address(from), bytes, self.context.stream())
        };
        check(code, "a copy on the GPU")
    }

    /// Copy the first `bytes` of another piece to our start, on the stream.
    pub fn copy_from(&self, from: &Memory, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes && bytes <= from.bytes, "copy beyond a buffer");
        let (to, from) = (self.address.address(), from.address.address());
        // SAFETY: both ranges are inside live allocations.
        let code = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.context.stream()) };
        check(code, "a copy on the GPU")
    }

    /// The first `bytes`, after all work enqueued so far. Waits.
    pub fn read_now(&self, bytes: usize) -> Result<Vec<u8>> {
        assert!(bytes <= self.bytes, "read beyond a buffer");
        self.context.bind()?;
        let mut out = vec![0u8; bytes];
        // SAFETY: `out` has `bytes` bytes and lives until the stream has been waited for.
        unsafe {
            let (to, from) = (out.as_mut_ptr().cast(), self.address.address());
            check(
                sys::cuMemcpyDtoHAsync_v2(to, from, bytes, self.context.stream()),
                "a copy from the GPU",
            )?;
        }
        self.context.synchronise()?;
        Ok(out)
    }

    /// Set every byte, on the stream.
    pub fn fill(&self, byte: u8) -> Result<()> {
        self.context.bind()?;
        let stream = self.context.stream();
        // SAFETY: the range is our allocation.
        let code =
            unsafe { sys::cuMemsetD8Async(self.address.address(), byte, self.bytes, stream) };
        check(code, "cuMemsetD8Async")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // What is deferred may read or write this.
        self.context.stream();
        // SAFETY: allocated in `new`, freed once. cuMemFree waits for the work that may still use
        // it.
        unsafe {
            sys::cuCtxSetCurrent(self.context.context);
            sys::cuMemFree_v2(self.address.address());
        }
        self.context.taken.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

/// Page-locked host memory, which the GPU's copy engines reach without the host.
pub struct Pinned {
    context: Arc<Context>,
    pointer: *mut c_void,
    pub bytes: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Pinned> {
        context.bind()?;
        const PORTABLE: u32 = 1;
        let bytes = bytes.max(16);
        let mut pointer = ptr::null_mut();
        // SAFETY: a live pointer to write to; zeroed at once, so that slices see initialised
        // memory.
        unsafe {
            check(sys::cuMemHostAlloc(&mut pointer, bytes, PORTABLE), "pinning host memory")?;
            ptr::write_bytes(pointer.cast::<u8>(), 0, bytes);
        }
        Ok(Pinned { context: context.clone(), pointer, bytes })
    }

    pub fn words(&mut self) -> &mut [u32] {
        // SAFETY: our allocation, page-aligned, initialised in `new`, borrowed for as long as the
        // slice.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes / 4) }
    }

    /// Where GPUs find it: with unified addresses, where the host does.
    pub fn device_address(&self) -> DevicePtr {
        DevicePtr::new(self.pointer as u64)
    }

    /// Its first word, which GPUs may write too.
    pub fn atomic(&self) -> &AtomicU32 {
        // SAFETY: our allocation, page-aligned, of 16 bytes at least, initialised in `new`.
        unsafe { AtomicU32::from_ptr(self.pointer.cast()) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `words`.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once, after the stream that may copy it has been waited
        // for.
        unsafe {
            sys::cuCtxSetCurrent(self.context.context);
            sys::cuStreamSynchronize(self.context.stream());
            sys::cuMemFreeHost(self.pointer);
        }
    }
}
