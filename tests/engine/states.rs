//! A model whose layers keep a state of each sequence, through the whole engine: chunks, prefix
//! hits, preemptions and siblings change no word.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{json, Value};
use triton_vllm::engine::EngineOptions;

use crate::served::{goldens, options, serve_with, Served};
use crate::{schedules, siblings};

/// The tokenizer of this one, and what a config.json says of its made-up weights.
const TOKENIZER_OF: &str = "llama-tiny";

/// The config.json of most tests here.
pub fn qwen() -> Value {
    json!({
        "architectures": ["Qwen3_5ForCausalLM"], "vocab_size": 4096, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 3, "full_attention_interval": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
        "linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "max_position_embeddings": 512, "eos_token_id": 2
    })
}

/// A folder with both; gone when dropped.
pub struct Model(pub PathBuf);

impl Model {
    fn new(test: &str) -> Model {
        Model::of(test, &qwen())
    }

    /// With this config.json.
    pub fn of(test: &str, config: &Value) -> Model {
        let name = format!("triton-vllm-states-{}-{test}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let from = Path::new(&goldens()).join("models").join(TOKENIZER_OF);
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::copy(from.join(file), folder.join(file)).expect("a copy");
        }
        std::fs::write(folder.join("config.json"), config.to_string()).expect("a config.json");
        Model(folder)
    }

    pub fn serve(&self, extra: Value) -> Served {
        self.serve_with(&extra, options(TOKENIZER_OF))
    }

    pub fn serve_with(&self, extra: &Value, options: EngineOptions) -> Served {
        let mut all = json!({"model": self.0, "load_format": "dummy"});
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serve_with(TOKENIZER_OF, &all, options)
    }

    /// A folder of an adapter of what the layers multiply by, beside multi_lora.json.
    fn write_adapter(&self, name: &str, seed: u64) {
        const RANK: usize = 4;
        let modules = [
            ("0.linear_attn.in_proj_qkv", 64, 64),
            ("0.linear_attn.in_proj_a", 64, 2),
            ("0.linear_attn.out_proj", 32, 64),
            ("1.self_attn.q_proj", 64, 128),
            ("2.linear_attn.in_proj_z", 64, 32),
            ("2.linear_attn.in_proj_b", 64, 2),
        ];
        let mut state = seed;
        let mut noise = |count: usize| -> Vec<u8> {
            let next = |_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0).to_le_bytes()
            };
            (0..count).flat_map(next).collect()
        };
        let mut tensors = Vec::new();
        for (module, inputs, outputs) in modules {
            let name = format!("base_model.model.model.layers.{module}");
            let a = (format!("{name}.lora_A.weight"), vec![RANK, inputs], noise(RANK * inputs));
            let b = (format!("{name}.lora_B.weight"), vec![outputs, RANK], noise(outputs * RANK));
            tensors.extend([a, b]);
        }
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor"))
        });

        let folder = self.0.join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        safetensors::serialize_to_file(views, None, &folder.join("adapter_model.safetensors"))
            .expect("a file");
        let config = json!({"r": RANK, "lora_alpha": 4 * RANK}).to_string();
        std::fs::write(folder.join("adapter_config.json"), config).expect("a file");
        let list = json!({"a": "a", "b": "b"}).to_string();
        std::fs::write(self.0.join("multi_lora.json"), list).expect("a file");
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Chunks of 16 tokens, pages for about two sequences, few copies of states.
#[test]
fn schedules_do_not_change_words_behind_states() {
    let model = Model::new("schedules");
    let plain = model.serve(json!({"enable_prefix_caching": false}));
    let tight = model.serve(json!({
        "max_num_seqs": 16, "max_num_batched_tokens": 16, "num_gpu_blocks_override": 22
    }));
    schedules(&plain, &tight);
    assert!(tight.counter.prefix_hits.load(Ordering::Acquire) > 0, "nothing was found");
    assert_eq!(plain.counter.prefix_hits.load(Ordering::Acquire), 0);
}

#[test]
fn sequences_of_one_request_are_those_of_neighbouring_seeds_behind_states() {
    let model = Model::new("siblings");
    siblings(&|extra| model.serve(extra));
}

/// Behind the last copy of a state that lies in front of where prompts part, not page by page.
#[test]
fn prompts_are_found_up_to_the_last_copy_of_a_state() {
    let model = Model::new("hits");
    let served = model.serve(json!({}));
    let sampling = || json!({"temperature": 0, "max_tokens": 12, "ignore_eos": true});
    let prompt = "one two three four five six seven ".repeat(12);
    let first = served.text(&prompt, sampling());
    let hits = || served.counter.prefix_hits.load(Ordering::Acquire);
    assert_eq!(hits(), 0);
    assert_eq!(served.text(&prompt, sampling()), first);
    let found = hits();
    assert!(found > 0 && found.is_multiple_of(16), "{found} tokens were found");

    let uncached = model.serve(json!({"enable_chunked_prefill": false}));
    assert_eq!(uncached.text(&prompt, sampling()), first);
    assert_eq!(uncached.text(&prompt, sampling()), first);
    assert_eq!(uncached.counter.prefix_hits.load(Ordering::Acquire), 0, "no chunks, no copies");
}

/// Two adapters and none take turns, a place for one on the device: no state and no copy of one
/// that belongs to one adapter is found by another, whatever the schedule.
#[test]
fn schedules_do_not_change_words_of_adapters_behind_states() {
    let model = Model::new("adapters");
    for (name, seed) in [("a", 1), ("b", 2)] {
        model.write_adapter(name, seed);
    }
    let serve = |extra: Value| {
        let mut all = json!({"model": model.0, "load_format": "dummy", "enable_lora": true,
            "max_lora_rank": 8});
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let options = EngineOptions { version_dir: model.0.clone(), ..options(TOKENIZER_OF) };
        serve_with(TOKENIZER_OF, &all, options)
    };
    let plain = serve(json!({"enable_prefix_caching": false, "max_loras": 2}));
    let tight = json!({"max_num_seqs": 16, "max_num_batched_tokens": 16, "max_loras": 1,
        "num_gpu_blocks_override": 22});
    let tight = serve(tight);

    let sampling = |i: usize| {
        let mut all = json!({"temperature": 0, "max_tokens": 24, "ignore_eos": true});
        if let Some(name) = [None, Some("a"), Some("b")][i % 3] {
            all["lora_name"] = json!(name);
        }
        all
    };
    // The same beginning, so that pages and copies would be found if adapters did not part them.
    let prompt = |i: usize| format!("{} and {}", "one two three four five ".repeat(8), i / 3 % 2);
    let expected: Vec<_> = (0..6).map(|i| plain.text(&prompt(i), sampling(i))).collect();
    for other in [1, 2] {
        assert_ne!(expected[0], expected[other], "adapter {other} does next to nothing");
    }
    assert_ne!(expected[1], expected[2]);

    let told: Vec<_> = (0..24).map(|i| tight.ask(&prompt(i), sampling(i), i % 2 == 0)).collect();
    for (i, told) in told.into_iter().enumerate() {
        assert_eq!(told.answer().outputs[0].text, expected[i % 6], "request {i}");
    }
    assert!(tight.counter.prefix_hits.load(Ordering::Acquire) > 0, "nothing was found");
}

#[test]
fn adapters_of_nothing_but_scans_are_refused() {
    let model = Model::new("scans");
    let config = json!({"architectures": ["MambaForCausalLM"], "vocab_size": 4096,
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "state_size": 16,
        "time_step_rank": 4, "eos_token_id": 2});
    std::fs::write(model.0.join("config.json"), config.to_string()).expect("a config.json");
    let args = json!({"model": model.0, "load_format": "dummy", "enable_lora": true});
    let refused = crate::served::refusal(TOKENIZER_OF, &args);
    assert!(refused.contains("adapters of MambaForCausalLM are not supported"), "{refused}");
}
