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

    /// Clusters of so many blocks that the card holds at once; blocks as in
    /// [`Kernel::resident_blocks`].
    pub fn resident_clusters(
        &self,
        cluster: usize,
        threads: u32,
        shared_bytes: usize,
    ) -> Result<usize> {
        let mut attributes = [clusters_of(cluster)];
        let config = sys::CUlaunchConfig {
            attrs: attributes.as_mut_ptr(),
            numAttrs: 1,
            ..configuration([cluster, 1], threads, shared_bytes)
        };
        let mut clusters = 0;
        // SAFETY: a live place to write to, a function of a loaded module, and a configuration
        // whose attributes live through the call.
        let code =
            unsafe { sys::cuOccupancyMaxActiveClusters(&mut clusters, self.function, &config) };
        check(code, self.name)?;
        Ok(clusters as usize)
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
        self.launch_clusters(context, blocks, 1, threads, shared_bytes, parameters)
    }

    /// The same of clusters: so many neighbours of the grid's first dimension, whose extent is a
    /// multiple, are one. More than 1 on compute capability 9.0 and later only.
    pub fn launch_clusters(
        &self,
        context: &Context,
        blocks: [usize; 2],
        cluster: usize,
        threads: u32,
        shared_bytes: usize,
        parameters: &P,
    ) -> Result<()> {
        let [x, y] = blocks;
        if x == 0 || y == 0 {
            return Ok(());
        }
        let mut place = ptr::from_ref(parameters).cast_mut().cast();
        // The second one counts only where there are clusters.
        let mut attributes = [serialization(), clusters_of(cluster)];
        let overlaps = self.capability >= OVERLAPS_FROM;
        let mut config = sys::CUlaunchConfig {
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::from(overlaps) + u32::from(overlaps && cluster > 1),
            ..configuration(blocks, threads, shared_bytes)
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

/// Without attributes or a stream.
fn configuration(blocks: [usize; 2], threads: u32, shared_bytes: usize) -> sys::CUlaunchConfig {
    sys::CUlaunchConfig {
        gridDimX: blocks[0] as u32,
        gridDimY: blocks[1] as u32,
        gridDimZ: 1,
        blockDimX: threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shared_bytes as u32,
        hStream: ptr::null_mut(),
        attrs: ptr::null_mut(),
        numAttrs: 0,
    }
}

/// Clusters of so many blocks.
fn clusters_of(blocks: usize) -> sys::CUlaunchAttribute {
    // SAFETY: as in `serialization`.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim =
        sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: blocks as u32, y: 1, z: 1 };
    attribute
}

/// Leave to start before the kernel before is done; the kernel itself waits.
fn serialization() -> sys::CUlaunchAttribute {
    // SAFETY: a plain C struct of integers, for which zero is a value.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    attribute
}
