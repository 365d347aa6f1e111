//! THE NET: what a checkpoint is and how its forward pass goes. `engine` calls it, it calls
//! `device` only. It never knows requests, pages' owners or which device it runs on.
//!
//! | file | holds |
//! |---|---|
//! | [`config`] | config.json -> [`ModelSpec`]: shapes and rules, checked |
//! | [`families`] | one row of data per architecture: keys, tensor names, kinds |
//! | [`hub`] | a model's files from a Hugging Face hub or its cache |
//! | [`rope`] | rotary frequencies and their scaling |
//! | [`weights`] | checkpoint files, mapped and checked |
//! | `torch` | pytorch_model.bin: a zip directory and a pickle machine that builds tensors only |
//! | [`load`] | a family's names and shapes -> weights on a device |
//! | [`decoder`] | THE forward pass, generic over the device |
//! | [`budget`] | how many KV pages fit, by arithmetic |

pub mod budget;
pub mod config;
pub mod decoder;
pub mod families;
pub mod hub;
pub mod load;
pub mod rope;
mod torch;
pub mod weights;

pub use config::ModelSpec;
pub use decoder::Decoder;
pub use weights::{Checkpoint, Files, LoadFormat};
