//! One kernel and how to start it. `module` makes [`Kernel`]s, ops launch them; it knows no op.
//! Launch attributes (programmatic dependent launch) are set here and nowhere else.

use std::marker::PhantomData;
use std::ptr;

use cudarc::driver::sys;

use super::context::{check, Context};
use crate::error::Result;

/// Machine code of this compute capability and later begins with the wait of `begin()` in
/// kernels/common.cuh: its launch may overlap the kernel before.
const OVERLAPS_FROM: u32 = 90;

/// A function of a loaded module that takes one `P`, a struct of [`super::abi`].
pub struct Kernel<P> {
    function: sys::CUfunction,
    name: &'static str,
    capability: u32,
    parameters: PhantomData<fn(P)>,
}

// SAFETY: the driver's handle may be used from any thread.
unsafe impl<P> Send for Kernel<P> {}
unsafe impl<P> Sync for Kernel<P> {}

impl<P: Copy> Kernel<P> {
    /// `capability`: what its machine code was compiled for, e.g. 90; 0 for PTX.
    ///
    /// # Safety
    /// `function` belongs to a module that outlives the kernel, and its one parameter is the struct
    /// whose Rust side is `P`.
    pub(super) unsafe fn new(
        function: sys::CUfunction,
        name: &'static str,
        capability: u32,
    ) -> Kernel<P> {
        Kernel { function, name, capability, parameters: PhantomData }
    }

    /// What its machine code was compiled for, e.g. 90; 0 for PTX.
    pub fn capability(&self) -> u32 {
        self.capability
    }

    /// Let a block take this much dynamic shared memory, beyond the 48 KiB that need no leave.
    pub fn allow_shared(&self, bytes: usize) -> Result<()> {
        let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to a loaded module.
        check(unsafe { sys::cuFuncSetAttribute(self.function, which, bytes as i32) }, self.name)
    }

    /// Blocks of `threads` with this much dynamic shared memory that the card holds at once.
    pub fn resident_blocks(
        &self,
        context: &Context,
        threads: u32,
        shared_bytes: usize,
    ) -> Result<usize> {
        let mut blocks = 0;
        // SAFETY: a live place to write to, and a function of a loaded module.
        let code = unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut blocks,
                self.function,
                threads as i32,
                shared_bytes,
            )
        };
        check(code, self.name)?;
        Ok(blocks as usize * context.multiprocessors as usize)
    }

    /// Start on the context's stream. `blocks` is the grid, `threads` those of a block. Nothing is
    /// started where the grid is empty.
    pub fn launch(
        &self,
        context: &Context,
        blocks: [usize; 2],
        threads: u32,
        parameters: &P,
    ) -> Result<()> {
        self.launch_shared(context, blocks, threads, 0, parameters)
    }

    /// The same with dynamic shared memory for each block.
    pub fn launch_shared(
        &self,
        context: &Context,
        blocks: [usize; 2],
        threads: u32,
        shared_bytes: usize,
        parameters: &P,
    ) -> Result<()> {
        let [x, y] = blocks;
        if x == 0 || y == 0 {
            return Ok(());
        }
        let mut place = ptr::from_ref(parameters).cast_mut().cast();
        let mut attribute = serialization();
        let mut config = sys::CUlaunchConfig {
            gridDimX: x as u32,
            gridDimY: y as u32,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes as u32,
            hStream: context.stream(),
            attrs: &mut attribute,
            numAttrs: u32::from(self.capability >= OVERLAPS_FROM),
        };
        context.launch(self.function as u64, (x as u64) << 32 | y as u64, |stream| {
            config.hStream = stream;
            // SAFETY: the function belongs to a module that outlives it and takes one struct of P's
            // layout, both by the contract of `new`; the driver copies it from the live value in
            // `parameters` before it returns. What its pointers point to the ops answer for
            // (tests/cuda_ops.rs runs every kernel under compute-sanitizer).
            let code = unsafe {
                sys::cuLaunchKernelEx(&config, self.function, &mut place, ptr::null_mut())
            };
            check(code, self.name)
        })
    }
}

/// Leave to start before the kernel before is done; the kernel itself waits.
fn serialization() -> sys::CUlaunchAttribute {
    // SAFETY: a plain C struct of integers, for which zero is a value.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    attribute
}
