//! GGUF: files that hold a model with its configuration and its tokenizer, mostly in blocks of a
//! few bits. What is in them is brought into the forms that other checkpoints have, so that nothing
//! behind this module knows that a model came as GGUF. Called by `engine` at load.
//!
//! | file | holds |
//! |---|---|
//! | `value`, `header` | the beginning of a file: keys, names and places of tensors |
//! | `block_types`, `blocks` | types of tensors, and blocks taken apart |
//! | `choose` | which file is meant |
//! | `files` | a model's files, opened |
//! | `architectures`, `names`, `sizes` | what Hugging Face calls a model and its tensors |
//! | `config` | keys -> config.json |
//! | `tokenizer`, `splits`, `pieces` | keys -> tokenizer files |
//! | `tensor`, `tensors` | tensors as floats or as codes |

mod architectures;
mod block_types;
mod blocks;
mod choose;
mod config;
mod files;
mod header;
mod names;
mod pieces;
mod sizes;
mod splits;
mod tensor;
mod tensors;
mod tokenizer;
mod value;

pub use choose::{choose, is_gguf, with_type, GgufName};
pub use files::Gguf;
pub use tensors::Tensors;
pub use tokenizer::{TokenizerParts, Vocabulary};
