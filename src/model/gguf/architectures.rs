//! Architectures of GGUF files, one row each: what Hugging Face calls the model, and what becomes
//! of its tensors. A new one is a new row. Called by `config` and `names`.

use crate::error::{Error, Result};
use crate::json::cut;

/// An architecture by its name in `general.architecture`.
#[derive(Debug)]
pub(super) struct Architecture {
    pub name: &'static str,
    /// `architectures[0]` of config.json.
    pub plain: Option<&'static str>,
    /// The same with experts.
    pub mixture: Option<&'static str>,
    /// Of config.json; tokenizers go by it.
    pub model_type: &'static str,
    /// Rows of q and k that are rotated together lie side by side.
    pub pairs: bool,
    /// Norms are stored as 1 + w.
    pub norms_plus_one: bool,
    /// Tensors of a layer: GGUF's name, and Hugging Face's behind the layer's number.
    pub names: &'static [(&'static str, &'static str)],
    /// Tensors that hold a matrix of each expert: GGUF's name, and Hugging Face's before and behind
    /// the expert's number.
    pub stacks: &'static [(&'static str, &'static str, &'static str)],
}

const LLAMA_NAMES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

const GEMMA2_NAMES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const PHI3_NAMES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const STACKS: &[(&str, &str, &str)] = &[
    ("ffn_gate_exps", "mlp.experts", "gate_proj"),
    ("ffn_up_exps", "mlp.experts", "up_proj"),
    ("ffn_down_exps", "mlp.experts", "down_proj"),
];

const QWEN2: Architecture = Architecture {
    name: "qwen2",
    plain: Some("Qwen2ForCausalLM"),
    mixture: None,
    model_type: "qwen2",
    pairs: false,
    norms_plus_one: false,
    names: LLAMA_NAMES,
    stacks: STACKS,
};

const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    plain: Some("Gemma2ForCausalLM"),
    model_type: "gemma2",
    norms_plus_one: true,
    names: GEMMA2_NAMES,
    ..QWEN2
};

/// Every architecture that is read. Mistral and Mixtral are `llama` too.
const ARCHITECTURES: [Architecture; 9] = [
    Architecture {
        name: "llama",
        plain: Some("LlamaForCausalLM"),
        mixture: Some("MixtralForCausalLM"),
        model_type: "llama",
        pairs: true,
        stacks: &[
            ("ffn_gate_exps", "mlp.experts", "w1"),
            ("ffn_up_exps", "mlp.experts", "w3"),
            ("ffn_down_exps", "mlp.experts", "w2"),
        ],
        ..QWEN2
    },
    QWEN2,
    Architecture {
        name: "qwen2moe",
        plain: None,
        mixture: Some("Qwen2MoeForCausalLM"),
        model_type: "qwen2_moe",
        ..QWEN2
    },
    Architecture { name: "qwen3", plain: Some("Qwen3ForCausalLM"), model_type: "qwen3", ..QWEN2 },
    Architecture {
        name: "qwen3moe",
        plain: None,
        mixture: Some("Qwen3MoeForCausalLM"),
        model_type: "qwen3_moe",
        ..QWEN2
    },
    Architecture {
        name: "gemma",
        plain: Some("GemmaForCausalLM"),
        model_type: "gemma",
        norms_plus_one: true,
        ..QWEN2
    },
    GEMMA2,
    Architecture {
        name: "gemma3",
        plain: Some("Gemma3ForCausalLM"),
        model_type: "gemma3_text",
        ..GEMMA2
    },
    Architecture {
        name: "phi3",
        plain: Some("Phi3ForCausalLM"),
        model_type: "phi3",
        names: PHI3_NAMES,
        ..QWEN2
    },
];

/// The row of an architecture.
///
/// # Errors
/// Unsupported: there is none; says for which there are.
pub(super) fn find(name: &str) -> Result<&'static Architecture> {
    static ROWS: &[Architecture] = &ARCHITECTURES;
    ROWS.iter().find(|row| row.name == name).ok_or_else(|| {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        Error::Unsupported(format!(
            "'general.architecture' is '{}', which is not supported as GGUF; supported: {}.",
            cut(name),
            names.join(", ")
        ))
    })
}
