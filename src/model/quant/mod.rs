//! Quantised checkpoints: which format config.json and its companions say, which layers have it,
//! and how a format's tensors become the one form that devices take (`device::quant`).
//!
//! | file | holds |
//! |---|---|
//! | `format` | how one linear's weight lies in a checkpoint |
//! | `recognise` | config.json, files beside it, the argument `quantization` -> a scheme |
//! | `methods` | a row per `quant_method`, with the reader of its keys |
//! | `files` | files beside config.json |
//! | `scheme` | which format each linear has |
//! | `names`, `pattern` | layers as lists of names and patterns mean them |
//! | [`unpack`] | a weight's tensors -> the form that devices take |

mod files;
mod format;
mod methods;
mod names;
mod pattern;
mod recognise;
mod scheme;
pub mod unpack;

pub use format::{ByteCodes, Format, Inputs, Packing};
pub use names::LayerKind;
pub use recognise::{scheme, Said};
pub use scheme::{KvScheme, QuantScheme};

#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
