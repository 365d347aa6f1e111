//! What checkpoints call the layers behind a model's own that predict further tokens. Rows of
//! models name one.

use super::family::{NextToken, NextTokenPlace};

/// DeepSeek's, and of those who took them over: one more number behind the model's layers.
pub(super) const DEEPSEEK_NEXT: NextToken = NextToken {
    place: NextTokenPlace::BehindLast,
    token_norm: "enorm",
    hidden_norm: "hnorm",
    project: "eh_proj",
    final_norm: "shared_head.norm",
    token_first: true,
    blank_start: true,
};

/// MiMo's.
pub(super) const MIMO_NEXT: NextToken = NextToken {
    place: NextTokenPlace::Within("mtp_layers.0"),
    token_norm: "token_layernorm",
    hidden_norm: "hidden_layernorm",
    project: "input_proj",
    final_norm: "final_layernorm",
    token_first: false,
    blank_start: true,
};

/// That of Qwen's models of which most layers keep a state: a layer with attention, and experts
/// where the model has some.
pub(super) const QWEN_NEXT: NextToken = NextToken {
    place: NextTokenPlace::Beside("mtp", "layers.0"),
    token_norm: "pre_fc_norm_embedding",
    hidden_norm: "pre_fc_norm_hidden",
    project: "fc",
    final_norm: "norm",
    token_first: true,
    blank_start: false,
};
