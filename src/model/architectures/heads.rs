//! The rows of heads that draft from a model's hidden states: one layer of Llama's, whose input
//! `model::draft_head` makes. They are no architectures that can be served, so they stand in no
//! list; `config::draft_head` chooses one by the method. And what checkpoints call the layers that
//! predict further tokens.

use super::decoders::LLAMA;
use super::family::{Family, NextToken};

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

/// DeepSeek's, and of those who took them over: one more number behind the model's layers.
pub(super) const DEEPSEEK_NEXT: NextToken = NextToken {
    module: None,
    token_norm: "enorm",
    hidden_norm: "hnorm",
    project: "eh_proj",
    final_norm: "shared_head.norm",
    token_first: true,
};

/// MiMo's.
pub(super) const MIMO_NEXT: NextToken = NextToken {
    module: Some("mtp_layers.0"),
    token_norm: "token_layernorm",
    hidden_norm: "hidden_layernorm",
    project: "input_proj",
    final_norm: "final_layernorm",
    token_first: false,
};
