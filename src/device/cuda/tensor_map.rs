//! How the GPU copies boxes of a matrix to shared memory by itself: tensor maps, which the driver
//! writes. The products of codes make them for each launch; it knows no kernel.

use cudarc::driver::sys;

use super::abi::TensorMap;
use super::context::check;
use super::device_ptr::DevicePtr;
use crate::device::DType;
use crate::error::Result;
use crate::internal;

/// A matrix in device memory: rows a multiple of 16 bytes apart, from a multiple of 16 bytes on.
pub struct Matrix {
    /// Its first element.
    pub first: DevicePtr,
    /// Elements of a row.
    pub columns: usize,
    pub rows: usize,
    /// From row to row.
    pub row_bytes: usize,
}

impl Matrix {
    /// Boxes of `columns` bytes of `rows` rows, one row behind the other.
    pub fn boxes_of_bytes(&self, columns: usize, rows: usize) -> Result<TensorMap> {
        let kind = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8;
        self.boxes(kind, columns, rows, sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE)
    }

    /// Boxes of 128 bytes of `rows` rows of a half type, 16-byte pieces swizzled by the row's
    /// number (kernels/warpgroup.cuh).
    pub fn panels(&self, act: DType, rows: usize) -> Result<TensorMap> {
        let kind = match act {
            DType::BF16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::F32 => return Err(internal!("panels of f32")),
        };
        self.boxes(kind, 64, rows, sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B)
    }

    fn boxes(
        &self,
        kind: sys::CUtensorMapDataType,
        columns: usize,
        rows: usize,
        swizzle: sys::CUtensorMapSwizzle,
    ) -> Result<TensorMap> {
        // SAFETY: a plain C struct of integers, for which zero is a value.
        let mut map: sys::CUtensorMap = unsafe { std::mem::zeroed() };
        let sizes = [self.columns as u64, self.rows as u64];
        let strides = [self.row_bytes as u64];
        let extent = [columns as u32, rows as u32];
        let every = [1u32, 1];
        // SAFETY: all arrays are as long as two dimensions need and live through the call, which
        // writes nothing but `map`. The matrix's address is only noted.
        let code = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                kind,
                2,
                self.first.as_ptr(),
                sizes.as_ptr(),
                strides.as_ptr(),
                extent.as_ptr(),
                every.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check(code, "cuTensorMapEncodeTiled")?;
        Ok(TensorMap { opaque: map.opaque })
    }
}
