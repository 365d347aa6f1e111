//! Defaults as in [`super::defaults`], of further rows. The rows name one each.

pub const CODEGEN: &str = r#"{"vocab_size": 50400, "n_positions": 2048, "n_embd": 4096,
    "n_layer": 28, "n_head": 16, "n_inner": null, "rotary_dim": 64,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": false, "eos_token_id": 50256}"#;

/// `v_head_dim` is what heads have of the residual if it is null.
pub const MINICPM3: &str = r#"{"vocab_size": 73448, "hidden_size": 2560, "num_hidden_layers": 62,
    "num_attention_heads": 40, "intermediate_size": 6400, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "max_position_embeddings": 32768, "attention_bias": false,
    "mlp_bias": false, "q_lora_rank": 768, "kv_lora_rank": 256, "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256,
    "rope_theta": 10000.0, "tie_word_embeddings": true, "eos_token_id": 2}"#;

/// An expert is as wide as the expert that all share.
pub const HUNYUAN_MOE: &str = r#"{"vocab_size": 290943, "hidden_size": 4096,
    "intermediate_size": 11008, "expert_width": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "attention_bias": false,
    "num_experts": 1, "moe_topk": 1, "num_shared_expert": 1, "tie_word_embeddings": false,
    "eos_token_id": 2}"#;

pub const GRANITE_SWA: &str = r#"{"vocab_size": 100352, "hidden_size": 2560,
    "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 20,
    "num_key_value_heads": 4, "hidden_act": "silu", "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "attention_bias": false, "mlp_bias": false,
    "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0,
    "attention_multiplier": 1.0, "sliding_window": 128, "full_attention_interval": 4,
    "tie_word_embeddings": true, "eos_token_id": 100257}"#;

pub const GRANITE_MOE_SWA: &str = r#"{"vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "attention_bias": false, "num_local_experts": 8,
    "num_experts_per_tok": 2, "shared_intermediate_size": 0, "embedding_multiplier": 1.0,
    "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
    "sliding_window": 128, "full_attention_interval": 4, "tie_word_embeddings": false,
    "eos_token_id": 2}"#;

/// The exact gelu, as the Python backend computes it.
pub const BLOOM: &str = r#"{"vocab_size": 250880, "hidden_size": 64, "n_layer": 2, "n_head": 8,
    "n_inner": null, "activation_function": "gelu", "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 2048, "tie_word_embeddings": true, "eos_token_id": 2}"#;

pub const JAMBA: &str = r#"{"vocab_size": 65536, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 262144,
    "num_experts_per_tok": 2, "num_experts": 16, "expert_layer_period": 2,
    "expert_layer_offset": 1, "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": "auto", "mamba_conv_bias": true,
    "mamba_proj_bias": false, "tie_word_embeddings": false, "eos_token_id": 2}"#;

/// Without attention there are no heads and no longest text.
pub const MAMBA: &str = r#"{"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 32,
    "num_attention_heads": 64, "head_dim": 2, "hidden_act": "silu", "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 2048, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_dt_rank": "auto", "mamba_conv_bias": true, "mamba_proj_bias": false,
    "tie_word_embeddings": true, "eos_token_id": 0}"#;

pub const FALCON_MAMBA: &str = r#"{"vocab_size": 50280, "hidden_size": 768,
    "num_hidden_layers": 32, "num_attention_heads": 64, "head_dim": 2, "hidden_act": "silu",
    "layer_norm_epsilon": 1e-5, "mixer_rms_eps": 1e-6, "max_position_embeddings": 2048,
    "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": "auto",
    "mamba_conv_bias": true, "mamba_proj_bias": false, "tie_word_embeddings": true,
    "eos_token_id": 0}"#;

pub const MAMBA2: &str = r#"{"vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 64,
    "num_attention_heads": 64, "hidden_act": "silu", "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 2048, "mamba_n_heads": 128, "mamba_d_head": 64,
    "mamba_d_state": 128, "mamba_n_groups": 8, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_conv_bias": true, "mamba_proj_bias": false, "tie_word_embeddings": false,
    "eos_token_id": 2}"#;

/// `hidden_act` stands nowhere: experts are gated by silu.
pub const DBRX: &str = r#"{"vocab_size": 32000, "d_model": 2048, "n_layers": 24, "n_heads": 16,
    "kv_n_heads": 1, "clip_qkv": null, "rope_theta": 10000.0, "ffn_hidden_size": 3584,
    "moe_num_experts": 4, "moe_top_k": 1, "hidden_act": "silu", "max_position_embeddings": 2048,
    "tie_word_embeddings": false}"#;

pub const HELIUM: &str = r#"{"vocab_size": 48000, "hidden_size": 2560, "num_hidden_layers": 24,
    "num_attention_heads": 20, "num_key_value_heads": 20, "head_dim": 128,
    "intermediate_size": 7040, "hidden_act": "silu", "rms_norm_eps": 1e-8,
    "max_position_embeddings": 4096, "attention_bias": false, "mlp_bias": false,
    "tie_word_embeddings": false, "eos_token_id": 2, "rope_theta": 100000.0}"#;

pub const JAIS2: &str = r#"{"vocab_size": 150272, "hidden_size": 3328, "num_hidden_layers": 32,
    "num_attention_heads": 26, "intermediate_size": 26624, "hidden_act": "relu2",
    "layer_norm_eps": 1e-5, "max_position_embeddings": 8192, "attention_bias": true,
    "mlp_bias": true, "tie_word_embeddings": false, "eos_token_id": 150024,
    "rope_theta": 10000.0}"#;
