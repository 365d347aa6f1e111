//! A product for cuBLASLt: sizes, addresses and what its operands are. `gemm` runs it, the products
//! describe it.

use super::device_ptr::DevicePtr;

/// One product. Addresses are of device memory: x `[rows, inputs]`, w `[outputs, inputs]`, both in
/// the device's element type or in E4M3, y `[rows, stride]` in the device's type, or f32 for
/// `logits`.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    pub rows: usize,
    pub outputs: usize,
    pub inputs: usize,
    /// Elements from row to row of y, at least `outputs`.
    pub stride: usize,
    pub logits: bool,
    pub operands: Operands,
    pub x: DevicePtr,
    pub w: DevicePtr,
    pub y: DevicePtr,
    /// As y, of whole rows: the product is added to what is here, rounded once, and y may hold
    /// anything afterwards.
    pub added_to: Option<DevicePtr>,
}

/// What x and w of a product are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operands {
    /// Of the device's element type.
    Activations,
    /// E4M3, with sums as the tensor cores make them (about 14 bits; vLLM's kernels do the same).
    /// Rows of both at multiples of 16 bytes, outputs a multiple of 16; no logits.
    E4m3,
    /// The same, sums times a factor of each output and one of each row.
    ScaledE4m3,
}
