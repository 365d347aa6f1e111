//! One kernel and how to start it. `module` makes [`Kernel`]s, ops launch them; it knows no op.
//! Launch attributes (programmatic dependent launch) are set here and nowhere else.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys;

use super::context::{check, Context};
use crate::error::Result;

/// A value that a kernel takes as it lies in memory.
///
/// # Safety
/// The type has the layout of the parameter in the kernel's signature.
pub unsafe trait Argument {
    fn place(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}

// SAFETY: the same in Rust and in CUDA C++; an address is a u64.
unsafe impl Argument for u32 {}
unsafe impl Argument for i32 {}
unsafe impl Argument for u64 {}
unsafe impl Argument for f32 {}
unsafe impl<const N: usize> Argument for [f32; N] {}

const OVERLAPS_FROM: u32 = 90;

/// A function of a loaded module.
pub struct Kernel {
    pub(super) function: sys::CUfunction,
    pub(super) name: &'static str,
    /// What its machine code was compiled for, e.g. 90; 0 for PTX. From 90 on it begins with the
    /// wait of `begin()` in kernels/common.cuh: its launch may overlap the kernel before.
    pub(super) capability: u32,
}

// SAFETY: the driver's handle may be used from any thread.
unsafe impl Send for Kernel {}
unsafe impl Sync for Kernel {}

impl Kernel {
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
    /// started where the grid is empty. Arguments are in the order of the kernel's signature.
    pub fn launch(
        &self,
        context: &Context,
        blocks: [usize; 2],
        threads: u32,
        arguments: &[&dyn Argument],
    ) -> Result<()> {
        self.launch_shared(context, blocks, threads, 0, arguments)
    }

    /// The same with dynamic shared memory for each block.
    pub fn launch_shared(
        &self,
        context: &Context,
        blocks: [usize; 2],
        threads: u32,
        shared_bytes: usize,
        arguments: &[&dyn Argument],
    ) -> Result<()> {
        let [x, y] = blocks;
        if x == 0 || y == 0 {
            return Ok(());
        }
        let mut places = [ptr::null_mut(); 24];
        assert!(arguments.len() <= places.len(), "{}: too many arguments", self.name);
        for (place, argument) in places.iter_mut().zip(arguments) {
            *place = argument.place();
        }
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
            // SAFETY: the function belongs to a module that lives as long as the device, the places
            // point to live values, and ops pass them in the order and with the types of the
            // kernel's signature (held by tests/cuda_ops.rs, which runs every kernel under
            // compute-sanitizer).
            let code = unsafe {
                let places = places.as_mut_ptr();
                sys::cuLaunchKernelEx(&config, self.function, places, ptr::null_mut())
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
