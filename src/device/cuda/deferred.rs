//! The launch that the context holds back, as the op that may take it over knows it.
//! `deferred_norm`, `deferred_norms` and `deferred_gate` defer one and take it.

use super::abi::GatedAct;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::NormOfRow;
use super::row_norms::Divided;

/// What was deferred last: one launch at a time.
#[derive(Clone, Copy)]
pub enum Deferred {
    /// A norm of the row that begins here.
    Norm(DevicePtr, NormOfRow),
    /// The norms of so many rows, for the place that is to hold them: what lies there is divided.
    Norms(usize, DevicePtr, Divided),
    /// A gated end of so many rows.
    Gate(usize, GatedAct),
}
