//! The inner loops of the CPU device, once per instruction set, and the only `unsafe` of this
//! device: calls into `#[target_feature]` functions and vector loads in them. Which set runs is
//! found at run time. All sets give the same bits: the scalar twin grades the others in tests.

mod dots;
mod isa;
mod job;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod unpack;

pub use self::dots::dots;
pub use self::isa::{with_isa, Isa};
pub use self::job::Job;
