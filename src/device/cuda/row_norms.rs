//! What products of some rows (gemm_rows) have to do with an RMS norm beside them, which then takes
//! no launch. They are told by it; `deferred_norms` makes it.

use super::abi::{self, NormKind};
use super::device_ptr::DevicePtr;

/// Sums of squares that one product leaves to the next: f32 `[ROWS_PARTS_MOST, ROWS_MOST]`.
pub const SQUARES_BYTES: usize =
    (abi::ROWS_PARTS_MOST * abi::ROWS_MOST) as usize * size_of::<f32>();

/// What becomes of a product of a half type in place of going to its `y`: it is added to a
/// residual, and `y` gets of the sum what [`Divided`] says. Addresses are of device memory.
#[derive(Debug, Clone, Copy)]
pub struct Added {
    /// `[rows, outputs]`
    pub residual: DevicePtr,
    /// Of the residual's norm, f32 `[outputs]`.
    pub weight: DevicePtr,
    pub kind: NormKind,
    /// [`SQUARES_BYTES`].
    pub squares: DevicePtr,
}

/// What x of a product is: rows times the weight of their RMS norm, still to be divided by the root
/// of their mean squares.
#[derive(Debug, Clone, Copy)]
pub struct Divided {
    /// As [`Added`] left them, of so many parts of a row.
    pub squares: DevicePtr,
    pub parts: usize,
    pub eps: f32,
}

/// A product's part in the norms beside it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Norms {
    pub x: Option<Divided>,
    pub y: Option<Added>,
}
