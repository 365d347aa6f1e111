//! Quantised checkpoints: which format config.json and its companions say, which layers have it, and
//! how a format's tensors become the one form that devices take (`device::quant`).
//!
//! | file | holds |
//! |---|---|
//! | `format` | how one linear's weight lies in a checkpoint |

mod format;

pub use format::{ByteCodes, Format, Inputs, Packing};
