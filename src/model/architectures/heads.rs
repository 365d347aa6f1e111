//! The rows of heads that draft from a model's hidden states: one layer of Llama's, whose input
//! `model::draft_head` makes. They are no architectures that can be served, so they stand in no
//! list; `config::draft_head` chooses one by the method.

use super::decoders::LLAMA;
use super::family::Family;

/// EAGLE. Tensors are given the names of a Llama of one layer, without a prefix.
pub const EAGLE: Family = Family {
    architecture: "EagleLlamaForCausalLM",
    aliases: &[],
    prefixes: &[""],
    first_norm_of_embedding: true,
    ..LLAMA
};

/// EAGLE-3. The norm in front of its layer is over the embedding alone.
pub const EAGLE3: Family = Family { architecture: "LlamaForCausalLMEagle3", ..EAGLE };
