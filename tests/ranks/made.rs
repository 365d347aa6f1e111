//! Checkpoints of made-up weights, for sizes that no fixture has.

use std::path::PathBuf;

use safetensors::tensor::TensorView;
use safetensors::Dtype;
use serde_json::{json, Value};

/// Of a llama; removed at the end.
pub struct Made(pub PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Sizes {
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub vocab: usize,
}

const LAYERS: usize = 2;
/// Rows and columns that share a scale.
const BLOCK: usize = 128;

struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Uniform bits from a linear congruential generator.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// In ±size.
    fn value(&mut self, size: f32) -> f32 {
        ((self.next() % 20_001) as f32 / 10_000.0 - 1.0) * size
    }
}

/// A checkpoint in f32, or with its linears in E4M3 and a scale for each block.
pub fn llama(name: &str, sizes: &Sizes, fp8_blocks: bool) -> Made {
    let dir = std::env::temp_dir().join(format!("triton_vllm_{}_{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let made = Made(dir);
    std::fs::write(made.0.join("config.json"), config(sizes, fp8_blocks).to_string()).unwrap();

    let tensors = tensors(sizes, fp8_blocks);
    let views = tensors.iter().map(|t| {
        (t.name.clone(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).expect("a view"))
    });
    let path = made.0.join("model.safetensors");
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &path).unwrap();
    made
}

fn config(sizes: &Sizes, fp8_blocks: bool) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": sizes.hidden, "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads, "head_dim": sizes.head_dim,
        "num_hidden_layers": LAYERS, "intermediate_size": sizes.ffn, "vocab_size": sizes.vocab,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": false, "torch_dtype": "float32",
    });
    if fp8_blocks {
        config["quantization_config"] = json!({"quant_method": "fp8",
            "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]});
    }
    config
}

fn tensors(sizes: &Sizes, fp8_blocks: bool) -> Vec<Tensor> {
    let Sizes { hidden, heads, kv_heads, head_dim, ffn, vocab } = *sizes;
    let mut noise = Noise(5);
    let mut tensors = vec![
        plain("model.embed_tokens", &[vocab, hidden], 1.0, &mut noise),
        plain("lm_head", &[vocab, hidden], 1.0, &mut noise),
        plain("model.norm", &[hidden], 1.0, &mut noise),
    ];

    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    for layer in 0..LAYERS {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push(plain(&at(norm), &[hidden], 1.0, &mut noise));
        }
        for (name, outputs, inputs) in [
            ("self_attn.q_proj", q, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, q),
            ("mlp.gate_proj", ffn, hidden),
            ("mlp.up_proj", ffn, hidden),
            ("mlp.down_proj", hidden, ffn),
        ] {
            let size = 2.0 / (inputs as f32).sqrt();
            if fp8_blocks {
                tensors.extend(blocks(&at(name), outputs, inputs, size, &mut noise));
            } else {
                tensors.push(plain(&at(name), &[outputs, inputs], size, &mut noise));
            }
        }
    }
    tensors
}

fn plain(name: &str, shape: &[usize], size: f32, noise: &mut Noise) -> Tensor {
    let count: usize = shape.iter().product();
    let bytes = (0..count).flat_map(|_| noise.value(size).to_le_bytes()).collect();
    Tensor { name: format!("{name}.weight"), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
}

/// Numbers of E4M3 up to 1.875, and scales that bring them to about `size`.
fn blocks(name: &str, outputs: usize, inputs: usize, size: f32, noise: &mut Noise) -> [Tensor; 2] {
    let codes = (0..outputs * inputs).map(|_| {
        let bits = noise.next();
        // Exponents 4 to 7 of a bias of 7.
        (bits & 0x80) as u8 | 0x20 | (bits & 0x1f) as u8
    });
    let weight = Tensor {
        name: format!("{name}.weight"),
        dtype: Dtype::F8_E4M3,
        shape: vec![outputs, inputs],
        bytes: codes.collect(),
    };

    let shape = vec![outputs.div_ceil(BLOCK), inputs.div_ceil(BLOCK)];
    let count = shape[0] * shape[1];
    let scales = (0..count).flat_map(|_| (noise.value(size / 2.0) + size).to_le_bytes());
    let bytes = scales.collect();
    [weight, Tensor { name: format!("{name}.weight_scale_inv"), dtype: Dtype::F32, shape, bytes }]
}
