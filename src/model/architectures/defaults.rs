//! What keys of config.json are that a file leaves out: the defaults of transformers' config
//! classes (4.57 and 5.24 agree, but for the base of OLMo 3 and Cohere), one object per class. Keys
//! that are not read are left out, as are those whose default is null. The rows name one each; a
//! test holds them to what the classes say (`tests/fixtures/config_defaults.json`).

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

pub const MINISTRAL3: &str = r#"{"vocab_size": 131072, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 34, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 262144, "rope_theta": 1000000.0, "tie_word_embeddings": false,
    "eos_token_id": 2}"#;

pub const FALCON: &str = r#"{"vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32,
    "num_attention_heads": 71, "activation": "gelu", "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "bias": false, "alibi": false,
    "multi_query": true, "parallel_attn": true, "new_decoder_architecture": false,
    "tie_word_embeddings": true, "eos_token_id": 11}"#;

/// Of ChatGLM's own code.
pub const CHATGLM: &str = r#"{"vocab_size": 65024, "hidden_size": 4096, "ffn_hidden_size": 13696,
    "num_layers": 28, "num_attention_heads": 32, "head_dim": 128, "multi_query_attention": false,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "add_qkv_bias": false,
    "tie_word_embeddings": false, "eos_token_id": 2}"#;

/// Of Orion's own code.
pub const ORION: &str = r#"{"vocab_size": 84608, "hidden_size": 5120, "intermediate_size": 15360,
    "num_hidden_layers": 40, "num_attention_heads": 40, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "rope_theta": 10000.0,
    "tie_word_embeddings": false, "eos_token_id": 2}"#;

/// Of DeciLM's own code.
pub const DECILM: &str = r#"{"vocab_size": 128256, "hidden_size": 8192, "num_hidden_layers": 80,
    "num_attention_heads": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "rope_theta": 500000.0, "attention_bias": false,
    "mlp_bias": false, "tie_word_embeddings": false}"#;

/// Of HyperCLOVA X's own code.
pub const HYPERCLOVAX: &str = r#"{"vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "attention_bias": false, "mlp_bias": false,
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

pub const QWEN2_5_VL: &str = r#"{"vocab_size": 152064, "hidden_size": 8192,
    "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768, "rope_theta": 1000000.0, "use_sliding_window": false,
    "sliding_window": 4096, "max_window_layers": 80, "eos_token_id": 151645,
    "tie_word_embeddings": false}"#;

pub const QWEN3: &str = r#"{"vocab_size": 151936, "hidden_size": 4096,
    "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 10000.0, "use_sliding_window": false,
    "sliding_window": 4096, "max_window_layers": 28, "attention_bias": false,
    "tie_word_embeddings": false}"#;

pub const QWEN3_VL: &str = r#"{"vocab_size": 151936, "hidden_size": 4096,
    "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128000, "rope_theta": 500000.0, "attention_bias": false,
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

pub const QWEN3_VL_MOE: &str = r#"{"vocab_size": 151936, "hidden_size": 2048,
    "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 16, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128000, "rope_theta": 500000.0, "attention_bias": false,
    "decoder_sparse_step": 1, "moe_intermediate_size": 1408, "num_experts_per_tok": 4,
    "num_experts": 60, "tie_word_embeddings": true}"#;

pub const QWEN3_5: &str = r#"{"vocab_size": 248320, "hidden_size": 4096,
    "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 256, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
    "attention_bias": false, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "tie_word_embeddings": false}"#;

pub const QWEN3_5_MOE: &str = r#"{"vocab_size": 248320, "hidden_size": 2048,
    "num_hidden_layers": 40, "num_attention_heads": 16, "num_key_value_heads": 2,
    "head_dim": 256, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
    "attention_bias": false, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512, "num_experts_per_tok": 8, "num_experts": 256,
    "tie_word_embeddings": false}"#;

pub const QWEN3_NEXT: &str = r#"{"vocab_size": 151936, "hidden_size": 2048,
    "intermediate_size": 5632, "num_hidden_layers": 48, "num_attention_heads": 16,
    "num_key_value_heads": 2, "head_dim": 256, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
    "attention_bias": false, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "decoder_sparse_step": 1, "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10, "num_experts": 512,
    "norm_topk_prob": true, "tie_word_embeddings": false}"#;

pub const LFM2: &str = r#"{"vocab_size": 65536, "hidden_size": 2560,
    "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 128000, "norm_eps": 1e-5,
    "rope_theta": 1000000.0, "conv_bias": false, "conv_L_cache": 3, "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": true,
    "tie_word_embeddings": true, "eos_token_id": 2}"#;

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

pub const LLAMA4: &str = r#"{"vocab_size": 202048, "hidden_size": 5120,
    "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_hidden_layers": 48,
    "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "rope_theta": 500000.0,
    "attention_bias": false, "num_experts_per_tok": 1, "num_local_experts": 16,
    "interleave_moe_layer_step": 1, "use_qk_norm": true, "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192, "attn_temperature_tuning": true, "floor_scale": 8192,
    "attn_scale": 0.1, "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const GEMMA4: &str = r#"{"vocab_size": 262144, "hidden_size": 2304,
    "intermediate_size": 9216, "num_hidden_layers": 30, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "global_head_dim": 512,
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072, "attention_bias": false, "sliding_window": 512,
    "sliding_window_pattern": 6, "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256, "attention_k_eq_v": false, "num_kv_shared_layers": 0,
    "enable_moe_block": false, "use_double_wide_mlp": false, "tie_word_embeddings": true,
    "eos_token_id": 1, "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0}}}"#;

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
    "use_qkv_bias": false, "use_parallel_residual": false, "qk_layernorm": false,
    "tie_word_embeddings": false, "eos_token_id": 0}"#;

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

pub const OLMO3: &str = r#"{"vocab_size": 50304, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 2048,
    "rope_theta": 500000.0, "attention_bias": false, "sliding_window": 4096,
    "sliding_window_pattern": 4, "tie_word_embeddings": false, "eos_token_id": 50279}"#;

pub const EXAONE4: &str = r#"{"vocab_size": 102400, "hidden_size": 4096,
    "intermediate_size": 16384, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "sliding_window": 4096,
    "sliding_window_pattern": 4, "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const GLM: &str = r#"{"vocab_size": 151552, "hidden_size": 4096,
    "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32,
    "num_key_value_heads": 2, "head_dim": 128, "hidden_act": "silu",
    "rms_norm_eps": 1.5625e-7, "max_position_embeddings": 131072, "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5, "attention_bias": true, "tie_word_embeddings": false,
    "eos_token_id": [151329, 151336, 151338]}"#;

pub const SMOLLM3: &str = r#"{"vocab_size": 128256, "hidden_size": 2048,
    "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 2000000.0, "no_rope_layer_interval": 4,
    "use_sliding_window": false, "attention_bias": false, "mlp_bias": false,
    "tie_word_embeddings": true, "eos_token_id": 128001}"#;

pub const SEED_OSS: &str = r#"{"vocab_size": 155136, "hidden_size": 4096,
    "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 80,
    "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 524288, "rope_theta": 10000.0, "attention_bias": true,
    "attention_out_bias": false, "mlp_bias": false, "tie_word_embeddings": false,
    "eos_token_id": 2}"#;

pub const ERNIE4_5: &str = r#"{"vocab_size": 103424, "hidden_size": 1024,
    "intermediate_size": 3072, "num_hidden_layers": 18, "num_attention_heads": 16,
    "num_key_value_heads": 2, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "rope_theta": 500000.0, "use_bias": false,
    "tie_word_embeddings": true, "eos_token_id": 2}"#;

pub const GRANITE_HYBRID: &str = r#"{"vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "shared_intermediate_size": 1024, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "attention_bias": false,
    "num_local_experts": 8, "num_experts_per_tok": 2, "embedding_multiplier": 1.0,
    "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
    "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_head": "auto",
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": true, "mamba_proj_bias": false,
    "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const FALCON_H1: &str = r#"{"vocab_size": 128000, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192, "rope_theta": 10000.0, "attention_bias": false,
    "mlp_bias": false, "projectors_bias": false, "mamba_d_ssm": 1024, "mamba_n_heads": 128,
    "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_head": "auto", "mamba_d_conv": 4,
    "mamba_expand": 2, "mamba_conv_bias": true, "mamba_proj_bias": false, "mamba_rms_norm": false,
    "lm_head_multiplier": 1.0, "embedding_multiplier": 1.0, "key_multiplier": 1.0,
    "attention_out_multiplier": 1.0, "attention_in_multiplier": 1.0, "ssm_in_multiplier": 1.0,
    "ssm_out_multiplier": 1.0, "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const NEMOTRON_H: &str = r#"{"vocab_size": 131072, "hidden_size": 4096,
    "intermediate_size": 21504, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "mlp_hidden_act": "relu2", "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 4096, "attention_bias": false, "mlp_bias": false,
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
    "mamba_n_heads": 128, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 8,
    "mamba_d_conv": 4, "mamba_conv_bias": true, "mamba_proj_bias": false, "n_routed_experts": 8,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688, "routed_scaling_factor": 1.0, "n_group": 1,
    "topk_group": 1, "norm_topk_prob": true, "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const LFM2_MOE: &str = r#"{"vocab_size": 65536, "hidden_size": 2048,
    "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 128000,
    "norm_eps": 1e-5, "rope_theta": 1000000.0, "conv_bias": false, "conv_L_cache": 3,
    "num_dense_layers": 2, "moe_layer_freq": 1, "num_experts": 32, "num_experts_per_tok": 4,
    "use_expert_bias": true, "routed_scaling_factor": 1.0, "norm_topk_prob": true,
    "tie_word_embeddings": true, "eos_token_id": 2}"#;

/// By its code half of a head rotates.
pub const BAMBA: &str = r#"{"vocab_size": 128000, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 262144, "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
    "attention_bias": false, "mlp_bias": false, "mamba_n_heads": 128, "mamba_n_groups": 1,
    "mamba_d_state": 256, "mamba_d_head": "auto", "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_conv_bias": true, "mamba_proj_bias": false, "tie_word_embeddings": false,
    "eos_token_id": 2}"#;

pub const STARCODER2: &str = r#"{"vocab_size": 49152, "hidden_size": 3072,
    "intermediate_size": 12288, "num_hidden_layers": 30, "num_attention_heads": 24,
    "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5,
    "max_position_embeddings": 4096, "rope_theta": 10000.0, "use_bias": true,
    "tie_word_embeddings": true, "eos_token_id": 50256}"#;

pub const HUNYUAN_DENSE: &str = r#"{"vocab_size": 290943, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "attention_bias": false, "tie_word_embeddings": false,
    "eos_token_id": 2}"#;

pub const COHERE: &str = r#"{"vocab_size": 256000, "hidden_size": 8192,
    "intermediate_size": 22528, "num_hidden_layers": 40, "num_attention_heads": 64,
    "hidden_act": "silu", "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
    "max_position_embeddings": 8192, "rope_theta": 500000.0, "use_qk_norm": false,
    "attention_bias": false, "tie_word_embeddings": true, "eos_token_id": 255001}"#;

pub const COHERE2: &str = r#"{"vocab_size": 256000, "hidden_size": 8192,
    "intermediate_size": 22528, "num_hidden_layers": 40, "num_attention_heads": 64,
    "hidden_act": "silu", "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
    "max_position_embeddings": 8192, "rope_theta": 10000.0, "sliding_window": 4096,
    "sliding_window_pattern": 4, "attention_bias": false, "tie_word_embeddings": true,
    "eos_token_id": 255001}"#;

pub const ARCEE: &str = r#"{"vocab_size": 32000, "hidden_size": 2560,
    "intermediate_size": 18432, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "relu2", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
    "rope_theta": 10000.0, "attention_bias": false, "mlp_bias": false,
    "tie_word_embeddings": false, "eos_token_id": 128001}"#;

pub const NEMOTRON: &str = r#"{"vocab_size": 256000, "hidden_size": 6144,
    "intermediate_size": 24576, "num_hidden_layers": 32, "num_attention_heads": 48,
    "hidden_act": "relu2", "norm_eps": 1e-5, "max_position_embeddings": 4096,
    "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "attention_bias": false,
    "mlp_bias": false, "tie_word_embeddings": false, "eos_token_id": 3}"#;

pub const OLMO: &str = r#"{"vocab_size": 50304, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "max_position_embeddings": 2048, "rope_theta": 10000.0,
    "attention_bias": false, "tie_word_embeddings": false, "eos_token_id": 50279}"#;

/// Of MiniCPM's own code: transformers has no such class.
pub const MINICPM: &str = r#"{"vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "scale_emb": 1, "dim_model_base": 1, "scale_depth": 1,
    "tie_word_embeddings": true, "eos_token_id": 2}"#;

pub const EXAONE: &str = r#"{"vocab_size": 102400, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096, "rope_theta": 500000.0, "attention_bias": false,
    "mlp_bias": false, "tie_word_embeddings": false, "eos_token_id": 361}"#;

/// Of InternLM 2's own code.
pub const INTERNLM2: &str = r#"{"vocab_size": 103168, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "bias": true, "tie_word_embeddings": false, "eos_token_id": 2}"#;

/// `multi_query` means one KV head.
pub const GPT_BIG_CODE: &str = r#"{"vocab_size": 50257, "n_positions": 1024, "n_embd": 768,
    "n_layer": 12, "n_head": 12, "num_key_value_heads": 1, "n_inner": null,
    "activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-5, "multi_query": true,
    "scale_attn_weights": true, "tie_word_embeddings": true, "eos_token_id": 50256}"#;

pub const GPTJ: &str = r#"{"vocab_size": 50400, "n_positions": 2048, "n_embd": 4096,
    "n_layer": 28, "n_head": 16, "n_inner": null, "rotary_dim": 64,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": false, "eos_token_id": 50256}"#;

pub const OLMOE: &str = r#"{"vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 2048,
    "num_hidden_layers": 16, "num_attention_heads": 16, "hidden_act": "silu",
    "max_position_embeddings": 4096, "rope_theta": 10000.0, "attention_bias": false,
    "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": false,
    "tie_word_embeddings": false, "eos_token_id": 50279}"#;

pub const GRANITE_MOE: &str = r#"{"vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "attention_bias": false, "num_local_experts": 8,
    "num_experts_per_tok": 2, "embedding_multiplier": 1.0, "logits_scaling": 1.0,
    "residual_multiplier": 1.0, "attention_multiplier": 1.0, "tie_word_embeddings": false,
    "eos_token_id": 2}"#;

pub const GRANITE_MOE_SHARED: &str = r#"{"vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
    "rope_theta": 10000.0, "attention_bias": false, "num_local_experts": 8,
    "num_experts_per_tok": 2, "shared_intermediate_size": 0, "embedding_multiplier": 1.0,
    "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
    "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const ERNIE4_5_MOE: &str = r#"{"vocab_size": 103424, "hidden_size": 2560,
    "intermediate_size": 12288, "num_hidden_layers": 28, "num_attention_heads": 20,
    "num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "rope_theta": 500000.0, "use_bias": false,
    "moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 1536,
    "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_end_index": -1,
    "moe_layer_interval": 1, "tie_word_embeddings": true, "eos_token_id": 2}"#;

pub const GLM4_MOE: &str = r#"{"vocab_size": 151552, "hidden_size": 4096, "num_hidden_layers":
    46, "num_attention_heads": 96, "num_key_value_heads": 8, "intermediate_size": 10944,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
    "attention_bias": false, "num_experts_per_tok": 8, "moe_intermediate_size": 1408,
    "norm_topk_prob": true, "n_routed_experts": 128, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "routed_scaling_factor": 1.0, "first_k_dense_replace": 1, "use_qk_norm":
    false, "tie_word_embeddings": false, "moe_layer_freq": 1, "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5}"#;

pub const DOTS1: &str = r#"{"vocab_size": 152064, "hidden_size": 4608, "num_hidden_layers": 62,
    "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 10944,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
    "sliding_window": 4096, "max_window_layers": 62, "attention_bias": false,
    "moe_intermediate_size": 1408, "norm_topk_prob": false, "n_group": 1, "topk_group": 1,
    "routed_scaling_factor": 1.0, "first_k_dense_replace": 0, "tie_word_embeddings": false,
    "moe_layer_freq": 1, "use_sliding_window": true, "rope_theta": 10000.0}"#;

pub const DEEPSEEK_V2: &str = r#"{"vocab_size": 102400, "hidden_size": 4096, "num_hidden_layers":
    32, "num_attention_heads": 32, "intermediate_size": 11008, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "attention_bias": false, "mlp_bias":
    false, "moe_intermediate_size": 1407, "norm_topk_prob": false, "n_routed_experts": 64,
    "n_shared_experts": 2, "topk_method": "greedy", "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim":
    128, "qk_rope_head_dim": 64, "v_head_dim": 128, "tie_word_embeddings": false, "eos_token_id":
    2, "moe_layer_freq": 1, "rope_theta": 10000.0}"#;

pub const DEEPSEEK_V3: &str = r#"{"vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers":
    61, "num_attention_heads": 128, "intermediate_size": 18432, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "attention_bias": false,
    "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "norm_topk_prob": true,
    "n_routed_experts": 256, "n_shared_experts": 1, "n_group": 8, "topk_group": 4,
    "routed_scaling_factor": 2.5, "first_k_dense_replace": 3, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "tie_word_embeddings": false, "eos_token_id": 1, "moe_layer_freq": 1, "rope_theta":
    10000.0}"#;

pub const GLM4_MOE_LITE: &str = r#"{"vocab_size": 154880, "hidden_size": 2048,
    "num_hidden_layers": 47, "num_attention_heads": 20, "intermediate_size": 10240, "hidden_act":
    "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 202752, "attention_bias": false,
    "num_experts_per_tok": 4, "moe_intermediate_size": 1536, "norm_topk_prob": true,
    "n_routed_experts": 64, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "routed_scaling_factor": 1.8, "q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim":
    192, "qk_rope_head_dim": 64, "v_head_dim": 256, "tie_word_embeddings": false, "eos_token_id":
    1, "moe_layer_freq": 1, "first_k_dense_replace": 1, "rope_theta": 10000.0}"#;

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

pub const MODERN_BERT: &str = r#"{"vocab_size": 50368, "hidden_size": 768,
    "intermediate_size": 1152, "num_hidden_layers": 22, "num_attention_heads": 12,
    "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-5,
    "rope_theta": 160000.0, "rope_local_base_freq": 10000.0, "sliding_window": 128,
    "global_attn_every_n_layers": 3, "attention_bias": false, "mlp_bias": false,
    "eos_token_id": 50282}"#;

pub const NOMIC_BERT: &str = r#"{"vocab_size": 30528, "hidden_size": 768,
    "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "silu", "layer_norm_eps": 1e-12, "max_position_embeddings": 2048,
    "rope_theta": 1000.0, "type_vocab_size": 2}"#;

pub const GTE: &str = r#"{"vocab_size": 250048, "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "max_position_embeddings": 8192, "rope_theta": 160000.0,
    "type_vocab_size": 1}"#;

pub const APERTUS: &str = r#"{"vocab_size": 131072, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "hidden_act": "xielu", "rms_norm_eps": 1e-5, "max_position_embeddings": 65536,
    "rope_theta": 12000000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
    "original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "attention_bias": false, "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const PHIMOE: &str = r#"{"vocab_size": 32064, "hidden_size": 4096,
    "intermediate_size": 6400, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "rope_theta": 1000000.0, "num_experts_per_tok": 2,
    "num_local_experts": 16, "attention_bias": false, "lm_head_bias": false,
    "tie_word_embeddings": false, "eos_token_id": 2}"#;

pub const MINIMAX_M2: &str = r#"{"vocab_size": 200064, "hidden_size": 3072,
    "intermediate_size": 1536, "num_hidden_layers": 62, "num_attention_heads": 48,
    "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 196608, "rope_theta": 5000000.0,
    "num_experts_per_tok": 8, "num_local_experts": 256, "tie_word_embeddings": false,
    "eos_token_id": 200020}"#;

/// Of Bailing's own code.
pub const BAILING: &str = r#"{"vocab_size": 126464, "hidden_size": 2048,
    "intermediate_size": 5632, "num_hidden_layers": 28, "num_attention_heads": 16,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 16384,
    "rope_theta": 600000.0, "use_bias": false, "use_qkv_bias": false, "norm_topk_prob": true,
    "first_k_dense_replace": 0, "moe_layer_freq": 1, "num_shared_experts": 0,
    "tie_word_embeddings": false, "eos_token_id": 126081}"#;

/// The same of its second version.
pub const BAILING_V2: &str = r#"{"vocab_size": 157184, "hidden_size": 2048,
    "intermediate_size": 5120, "num_hidden_layers": 20, "num_attention_heads": 16,
    "num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_theta": 600000.0, "partial_rotary_factor": 0.5,
    "use_bias": false, "use_qkv_bias": false, "use_qk_norm": true, "num_experts": 256,
    "num_experts_per_tok": 8, "moe_intermediate_size": 512, "num_shared_experts": 1,
    "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "norm_topk_prob": true,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "tie_word_embeddings": false,
    "eos_token_id": 156892}"#;
