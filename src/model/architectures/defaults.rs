//! What keys of config.json are that a file leaves out: the defaults of transformers' config
//! classes (4.57 and 5.24 agree), one object per class. Keys that are not read are left out, as are
//! those whose default is null. The rows name one each; a test holds them to what the
//! classes say (`tests/fixtures/config_defaults.json`).

pub const LLAMA: &str = r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "rope_theta": 10000.0,
    "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": false,
    "eos_token_id": 2}"#;

/// Of InternLM's own code: transformers has no such class.
pub const INTERNLM: &str = r#"{"vocab_size": 103168, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "bias": true, "tie_word_embeddings": false, "eos_token_id": 2}"#;

/// Of InternLM 3's own code.
pub const INTERNLM3: &str = r#"{"vocab_size": 128512, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 10000.0, "bias": false, "qkv_bias": false,
    "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const MISTRAL: &str = r#"{"vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072, "sliding_window": 4096, "rope_theta": 10000.0,
    "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const MIXTRAL: &str = r#"{"vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "rope_theta": 1000000.0, "num_local_experts": 8,
    "num_experts_per_tok": 2, "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const GPT_OSS: &str = r#"{"vocab_size": 201088, "hidden_size": 2880,
    "intermediate_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "hidden_act": "silu", "sliding_window": 128,
    "max_position_embeddings": 131072, "num_local_experts": 128, "num_experts_per_tok": 4,
    "rope_theta": 150000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}"#;

pub const QWEN2: &str = r#"{"vocab_size": 151936, "hidden_size": 4096,
    "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 10000.0, "use_sliding_window": false,
    "sliding_window": 4096, "max_window_layers": 28, "tie_word_embeddings": false}"#;

pub const QWEN3: &str = r#"{"vocab_size": 151936, "hidden_size": 4096,
    "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 10000.0, "use_sliding_window": false,
    "sliding_window": 4096, "max_window_layers": 28, "attention_bias": false,
    "tie_word_embeddings": false}"#;

pub const QWEN2_MOE: &str = r#"{"vocab_size": 151936, "hidden_size": 2048,
    "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 16, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 10000.0, "use_sliding_window": false,
    "qkv_bias": true, "decoder_sparse_step": 1, "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632, "num_experts_per_tok": 4, "num_experts": 60,
    "norm_topk_prob": false, "tie_word_embeddings": false}"#;

pub const QWEN3_MOE: &str = r#"{"vocab_size": 151936, "hidden_size": 2048,
    "intermediate_size": 6144, "num_hidden_layers": 24, "num_attention_heads": 32,
    "num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 10000.0, "use_sliding_window": false,
    "attention_bias": false, "decoder_sparse_step": 1, "moe_intermediate_size": 768,
    "num_experts_per_tok": 8, "num_experts": 128, "norm_topk_prob": false,
    "tie_word_embeddings": false}"#;

pub const GEMMA: &str = r#"{"vocab_size": 256000, "hidden_size": 3072,
    "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 16, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "rope_theta": 10000.0,
    "attention_bias": false, "tie_word_embeddings": true, "eos_token_id": 1}"#;

pub const GEMMA2: &str = r#"{"vocab_size": 256000, "hidden_size": 2304,
    "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "rope_theta": 10000.0,
    "attention_bias": false, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "sliding_window_pattern": 2, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "tie_word_embeddings": true, "eos_token_id": 1}"#;

pub const GEMMA3: &str = r#"{"vocab_size": 262208, "hidden_size": 2304,
    "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0, "attention_bias": false, "query_pre_attn_scalar": 256,
    "sliding_window": 4096, "sliding_window_pattern": 6, "tie_word_embeddings": true,
    "eos_token_id": 1}"#;

pub const PHI3: &str = r#"{"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192,
    "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096, "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0, "tie_word_embeddings": false, "eos_token_id": 32000}"#;

pub const PHI: &str = r#"{"vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 24, "num_attention_heads": 32, "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5, "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const STABLELM: &str = r#"{"vocab_size": 50304, "hidden_size": 2560,
    "intermediate_size": 6912, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "hidden_act": "silu", "layer_norm_eps": 1e-5,
    "max_position_embeddings": 4096, "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
    "use_qkv_bias": false, "use_parallel_residual": false, "tie_word_embeddings": false,
    "eos_token_id": 0}"#;

pub const GRANITE: &str = r#"{"vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "attention_bias": false, "mlp_bias": false,
    "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0,
    "attention_multiplier": 1.0, "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const OLMO2: &str = r#"{"vocab_size": 50304, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "attention_bias": false, "tie_word_embeddings": false,
    "eos_token_id": 50279}"#;

pub const OPT: &str = r#"{"vocab_size": 50272, "hidden_size": 768, "ffn_dim": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 12, "activation_function": "relu",
    "max_position_embeddings": 2048, "do_layer_norm_before": true, "enable_bias": true,
    "layer_norm_elementwise_affine": true, "tie_word_embeddings": true, "eos_token_id": 2}"#;

pub const GPT2: &str = r#"{"vocab_size": 50257, "n_positions": 1024, "n_embd": 768,
    "n_layer": 12, "n_head": 12, "n_inner": null, "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true, "eos_token_id": 50256}"#;

pub const NEOX: &str = r#"{"vocab_size": 50432, "hidden_size": 6144,
    "intermediate_size": 24576, "num_hidden_layers": 44, "num_attention_heads": 64,
    "hidden_act": "gelu", "layer_norm_eps": 1e-5, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "attention_bias": true,
    "use_parallel_residual": true, "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const BERT: &str = r#"{"vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2}"#;

pub const ROBERTA: &str = r#"{"vocab_size": 50265, "hidden_size": 768,
    "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
    "type_vocab_size": 2, "eos_token_id": 2}"#;

pub const XLM_ROBERTA: &str = r#"{"vocab_size": 30522, "hidden_size": 768,
    "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
    "type_vocab_size": 2, "eos_token_id": 2}"#;
