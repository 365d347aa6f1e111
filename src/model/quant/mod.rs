//! Quantised checkpoints: which format config.json and its companions say, which layers have it, and
//! how a format's tensors become the one form that devices take (`device::quant`).
//!
//! | file | holds |
//! |---|---|
//! | `format` | how one linear's weight lies in a checkpoint |
//! | `recognise` | configuration files -> a scheme |
//! | `scheme` | which format each linear has |
//! | `names` | layers as lists of names mean them |

mod format;
mod names;
mod recognise;
mod scheme;

pub use format::{ByteCodes, Format, Inputs, Packing};
pub use names::LayerKind;
pub use recognise::scheme;
pub use scheme::{KvScheme, QuantScheme};
