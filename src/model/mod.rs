//! THE NET: what a checkpoint is and how its forward pass goes. `engine` calls it, it calls
//! `device` only. It never knows requests, pages' owners or which device it runs on.
//!
//! | file | holds |
//! |---|---|
//! | [`config`] | config.json -> [`ModelSpec`]: shapes and rules, checked |
//! | `source` | config.json with what the user overrides, generation_config.json |
//! | `keys` | keys of config.json as sizes, flags, element types, ids |
//! | [`length`] | how long a request may get |
//! | [`layers`] | what differs from layer to layer: windows, caps, scales, ropes |
//! | [`mixture`] | experts: how many, how wide, in which layers |
//! | [`families`] | what a family is, as data: keys, tensor names, kinds |
//! | [`architectures`] | one row of it per architecture |
//! | `mixtures` | those of architectures with experts |
//! | `encoders` | those of architectures that only embed |
//! | `defaults` | what keys are that config.json leaves out |
//! | [`folder`] | which folder a name means, and whether it holds a model |
//! | [`hub`] | a model's files from a Hugging Face hub or its cache |
//! | [`rope`] | rotary frequencies and their scaling |
//! | [`pooling`] | what becomes of the hidden states of a model that embeds |
//! | [`weights`] | checkpoint files, opened and checked |
//! | `shard` | one of them: reads at any place, and whether it changed |
//! | `torch` | pytorch_model.bin: a zip directory and a pickle machine that builds tensors only |
//! | [`load`] | a family's names and shapes -> weights on a device |
//! | [`lora`] | LoRA adapters: a PEFT folder, read and checked |
//! | [`decoder`] | THE forward pass, generic over the device |
//! | [`budget`] | how many KV pages fit, by arithmetic |

pub mod layers;
pub mod budget;
pub mod config;
pub mod decoder;
mod defaults;
mod encoders;
pub mod families;
pub mod folder;
pub mod hub;
mod keys;
pub mod length;
pub mod load;
pub mod lora;
pub mod mixture;
mod mixtures;
pub mod pooling;
pub mod rope;
pub mod architectures;
mod shard;
mod source;
mod torch;
pub mod weights;

pub use config::ModelSpec;
pub use decoder::Decoder;
pub use lora::{Adapter, AdapterOptions};
pub use weights::{Checkpoint, Files, WeightSource};
