//! What checkpoints call the layers behind a model's own that predict further tokens. Rows of
//! models name one.

use super::family::NextToken;

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
