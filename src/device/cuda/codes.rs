//! The numbers by which kernels know norms and activations. `ops` passes them; they stand in
//! kernels/norm.cu and kernels/activation.cu too.

use crate::device::{Activation, NormKind};

/// The activation kernels' code for "bias only".
pub const NO_ACTIVATION: i32 = 6;

/// The kernels' code of a norm.
pub fn norm_code(kind: NormKind) -> i32 {
    match kind {
        NormKind::Rms => 0,
        NormKind::RmsPlusOne => 1,
        NormKind::Layer => 2,
    }
}

/// The kernels' code of an activation.
pub fn activation_code(act: Activation) -> i32 {
    match act {
        Activation::Relu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::SiluGated => 4,
        Activation::GeluTanhGated => 5,
    }
}
