//! What every chapter of a device builds on: the types of its buffers and weights, and what the
//! device is itself.

use super::collective::Rank;
use crate::error::Result;

/// What a device's buffers and weights are, and what it is itself. A tensor is a buffer of
/// `[rows, width]` activations on the device, made once at load so that its address never changes;
/// an op touches only its first R (or S) rows.
pub trait DeviceTypes: Send + 'static {
    /// A buffer on the device.
    type Tensor: Send;
    /// A weight in the device's own layout; opaque once it is uploaded. Devices of one place may
    /// read the same one.
    type Weight: Send + Sync;

    /// What the device is, and its memory as it is now.
    fn info(&self) -> DeviceInfo;

    /// Which of the devices that share a model.
    fn rank(&self) -> Rank;
}

/// For tests of what lies above a device; the engine calls it where faults are injected, and never
/// otherwise.
pub trait BreakOnPurpose: DeviceTypes {
    /// Break as this device breaks: an error at once, or, on a GPU, a kernel that reads outside its
    /// memory, which a later call reports.
    fn break_on_purpose(&mut self) -> Result<()>;
}

/// Which of the devices it is, for what depends on that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceKind {
    /// The host's processors.
    Cpu,
    /// An NVIDIA GPU.
    Gpu {
        /// The product's name as the driver has it, e.g. "NVIDIA H200".
        product: String,
    },
    /// It computes nothing.
    Trace,
}

/// What a device is.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// Which of the devices.
    pub kind: DeviceKind,
    /// For logs alone, e.g. "cpu (AVX-512, 2 threads)".
    pub name: String,
    /// Memory that may be shared out in total. `gpu_memory_utilization` is a share of this.
    pub total_bytes: u64,
    /// Not taken by others right now.
    pub free_bytes: u64,
    /// Steps that may be enqueued before the first is collected: 1 on cpu, 2 on cuda.
    pub depth: usize,
    /// Experts of codes stay codes; else they are plain weights after load.
    pub experts_of_codes: bool,
}
