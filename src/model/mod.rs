//! What a checkpoint is and how its forward pass goes. `engine` calls it, it calls `device` only.
//! It never knows requests, who holds which pages, or which device it runs on.
//!
//! | module | holds |
//! |---|---|
//! | [`folder`] | which folder a name means, and whether it holds a model |
//! | `foreign_formats` | other programs' checkpoints, by the names of their files |
//! | [`hub`] | a model's files from a Hugging Face hub or its cache |
//! | [`architectures`] | one row of data per architecture |
//! | [`config`] | config.json -> [`ModelSpec`]: shapes and rules, checked |
//! | [`checkpoint`] | checkpoint files, opened and checked |
//! | [`gguf`] | GGUF files: configuration, tokenizer and weights in one |
//! | [`mistral`] | Mistral's own format, in Hugging Face's terms |
//! | [`quant`] | quantised checkpoints: formats, and the one form they become |
//! | [`lora`] | LoRA adapters: a PEFT folder, read and checked |
//! | [`head_order`] | in which order the dimensions of heads are held |
//! | `row_ranges` | where the rows of a part lie in a tensor that holds several |
//! | [`shard`] | which part of it all one of several ranks holds |
//! | [`weights`] | the weights of a decoder on a device, as the forward pass takes them |
//! | [`load`] | a row's names and a specification's shapes -> weights on a device |
//! | `head_attention` | attention over K and V of heads in the forward pass |
//! | `latent` | attention over latent vectors in the forward pass |
//! | [`decoder`] | the one forward pass, generic over the device |
//! | `recurrent_layer` | the part of the pass that layers with a state have |
//! | `vision`, `tower_layers`, `tower_layout` | the vision tower in the forward pass |
//! | `mixture_layer` | the part that experts are |
//! | `draft_head` | the part of the pass that heads have which draft from hidden states |
//! | [`hidden`] | what a model keeps of its hidden states for them |
//! | [`head_files`] | their tensors by the names of their rows |
//! | `layer_kinds` | which layers call the same ops |
//! | `seam` | the end of a sublayer: into the residual, and its norm |
//! | `layer_input` | an input of each layer's own |
//! | [`pooled_head`] | what follows pooled rows, on the host |
//! | [`budget`] | how many KV pages fit, by arithmetic |

pub mod architectures;
pub mod budget;
pub mod checkpoint;
pub mod config;
pub mod decoder;
mod draft_head;
pub mod folder;
mod foreign_formats;
pub mod gguf;
mod head_attention;
pub mod head_files;
pub mod head_order;
pub mod hidden;
pub mod hub;
mod latent;
mod layer_input;
mod layer_kinds;
pub mod load;
pub mod lora;
pub mod mistral;
mod mixture_layer;
pub mod pooled_head;
pub mod quant;
mod recurrent_layer;
mod row_ranges;
mod seam;
pub mod shard;
mod tower_layers;
mod tower_layout;
mod vision;
pub mod weights;

pub use checkpoint::{Checkpoint, Files, WeightSource};
pub use config::{AdapterOptions, ModelSpec};
pub use decoder::Decoder;
pub use hidden::HiddenRows;
pub use lora::Adapter;
pub use pooled_head::PooledHead;
pub use shard::Shard;
