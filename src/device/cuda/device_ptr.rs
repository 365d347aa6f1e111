//! An address of device memory, as [`super::memory`] hands it out and [`super::abi`] passes it on.
//! Null stands where a kernel takes an array or none. The host never follows one.

use std::ffi::c_void;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

/// An address of device memory, or null. What lies there the field that holds it says.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct DevicePtr(CUdeviceptr);

impl DevicePtr {
    /// No array. No allocation lies there.
    pub const NULL: DevicePtr = DevicePtr(0);

    /// What the driver allocated.
    pub fn new(address: CUdeviceptr) -> DevicePtr {
        DevicePtr(address)
    }

    /// For the driver.
    pub fn address(self) -> CUdeviceptr {
        self.0
    }

    /// For cuBLASLt.
    pub fn as_ptr(self) -> *mut c_void {
        self.0 as *mut c_void
    }

    /// No array.
    pub fn is_null(self) -> bool {
        self == DevicePtr::NULL
    }

    /// `bytes` further on.
    pub fn offset_bytes(self, bytes: usize) -> DevicePtr {
        DevicePtr(self.0 + bytes as u64)
    }

    /// `words` u32 or f32 further on.
    pub fn offset_words(self, words: usize) -> DevicePtr {
        self.offset_bytes(4 * words)
    }
}
