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
        let plain = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE;
        self.boxes(kind, columns, rows, plain, AHEAD)
    }

    /// Boxes of 128 bytes of `rows` rows of a half type, or of bytes without one, 16-byte pieces
    /// swizzled by the row's number (kernels/warpgroup.cuh).
    pub fn panels(&self, act: Option<DType>, rows: usize) -> Result<TensorMap> {
        let (kind, columns) = panel_of(act)?;
        self.boxes(kind, columns, rows, SWIZZLED, AHEAD)
    }

    /// The same where the panels of a box's rows are copied one right after the other. L2 then
    /// fetches 128 bytes at a time: with 256 attention over 64 x 2048 keys takes 8 % longer.
    pub fn whole_rows(&self, act: Option<DType>, rows: usize) -> Result<TensorMap> {
        let (kind, columns) = panel_of(act)?;
        let at_once = sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
        self.boxes(kind, columns, rows, SWIZZLED, at_once)
    }

    /// The same of the two halves of the rows: eights of both take turns, `rows` in all. The rows
    /// are a multiple of 16.
    pub fn eights(&self, act: Option<DType>, rows: usize) -> Result<TensorMap> {
        let (kind, columns) = panel_of(act)?;
        let (half, row_bytes) = (self.rows / 2, self.row_bytes as u64);
        encode(
            kind,
            self.first,
            [self.columns as u64, 8, 2, half as u64 / 8],
            [row_bytes, half as u64 * row_bytes, 8 * row_bytes],
            [columns as u32, 8, 2, rows as u32 / 16],
            SWIZZLED,
            AHEAD,
        )
    }

    /// Boxes of `rows` rows of a half type, a multiple of 8, with all their columns, which are a
    /// multiple of 64: eights of rows, of each its panels one after the other.
    pub fn eights_of_panels(&self, act: DType, rows: usize) -> Result<TensorMap> {
        let (kind, columns) = panel_of(Some(act))?;
        let (panels, row_bytes) = (self.columns / columns, self.row_bytes as u64);
        encode(
            kind,
            self.first,
            [columns as u64, 8, panels as u64, self.rows as u64 / 8],
            [row_bytes, PANEL_ROW_BYTES, 8 * row_bytes],
            [columns as u32, 8, panels as u32, rows as u32 / 8],
            SWIZZLED,
            AHEAD,
        )
    }

    fn boxes(
        &self,
        kind: sys::CUtensorMapDataType,
        columns: usize,
        rows: usize,
        swizzle: sys::CUtensorMapSwizzle,
        at_once: sys::CUtensorMapL2promotion,
    ) -> Result<TensorMap> {
        let sizes = [self.columns as u64, self.rows as u64];
        let extent = [columns as u32, rows as u32];
        encode(kind, self.first, sizes, [self.row_bytes as u64], extent, swizzle, at_once)
    }
}

/// What L2 fetches at once: what the next box has of the same rows, too.
const AHEAD: sys::CUtensorMapL2promotion =
    sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
/// Of a panel.
const PANEL_ROW_BYTES: u64 = 128;
const SWIZZLED: sys::CUtensorMapSwizzle = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;

/// What a panel's elements are, and how many a row of it has.
fn panel_of(act: Option<DType>) -> Result<(sys::CUtensorMapDataType, usize)> {
    match act {
        None => Ok((sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8, 128)),
        Some(DType::BF16) => Ok((sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 64)),
        Some(DType::F16) => Ok((sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 64)),
        Some(DType::F32) => Err(internal!("panels of f32")),
    }
}

/// Boxes of `extent` elements of a tensor of N dimensions, the first one without gaps and `strides`
/// bytes from one to the next of each other.
fn encode<const N: usize, const STRIDES: usize>(
    kind: sys::CUtensorMapDataType,
    first: DevicePtr,
    sizes: [u64; N],
    strides: [u64; STRIDES],
    extent: [u32; N],
    swizzle: sys::CUtensorMapSwizzle,
    at_once: sys::CUtensorMapL2promotion,
) -> Result<TensorMap> {
    const { assert!(STRIDES + 1 == N) };
    // SAFETY: a plain C struct of integers, for which zero is a value.
    let mut map: sys::CUtensorMap = unsafe { std::mem::zeroed() };
    let every = [1u32; N];
    // SAFETY: all arrays are as long as so many dimensions need and live through the call, which
    // writes nothing but `map`. The tensor's address is only noted.
    let code = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            kind,
            N as u32,
            first.as_ptr(),
            sizes.as_ptr(),
            strides.as_ptr(),
            extent.as_ptr(),
            every.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            at_once,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check(code, "cuTensorMapEncodeTiled")?;
    Ok(TensorMap { opaque: map.opaque })
}
