//! The launch that the context holds back, as the op that may take it over knows it.
//! `deferred_norm` and `deferred_gate` defer one and take it.

use super::abi::GatedAct;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::NormOfRow;

/// What was deferred last: one launch at a time.
#[derive(Clone, Copy)]
pub enum Deferred {
    /// A norm of the row that begins here.
    Norm(DevicePtr, NormOfRow),
    /// A gated end of so many rows.
    Gate(usize, GatedAct),
}
