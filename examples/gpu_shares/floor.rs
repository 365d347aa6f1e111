//! The least time that work takes on an H200. Other GPUs are held to the same figures.

use triton_vllm::device::DType;

/// Bytes a second, in TB: what the best product of a long matrix reads there; 4.8 are published.
pub const STREAM: f64 = 4.45;
/// TFLOP/s of the tensor cores, published, dense: bf16 and f16.
pub const TENSOR: f64 = 989.0;
/// TFLOP/s in f32, published.
const PLAIN: f64 = 67.0;

/// Microseconds that the bytes and the FLOPs take, each alone.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    bytes_us: f64,
    flops_us: f64,
}

impl Floor {
    pub fn new(bytes: u64, flops: u64, dtype: DType) -> Floor {
        let rate = if dtype == DType::F32 { PLAIN } else { TENSOR };
        Floor { bytes_us: bytes as f64 / STREAM / 1e6, flops_us: flops as f64 / rate / 1e6 }
    }

    pub fn us(&self) -> f64 {
        self.bytes_us.max(self.flops_us)
    }

    /// What it is made of.
    pub fn bound(&self) -> &'static str {
        if self.bytes_us >= self.flops_us {
            "bytes"
        } else {
            "FLOPs"
        }
    }

    /// How near `us` is to it, in percent; 100 is at the floor.
    pub fn percent(&self, us: f64) -> f64 {
        100.0 * self.us() / us
    }
}
