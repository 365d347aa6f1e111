//! A model whose layers keep a state of each sequence, through the whole engine: chunks, prefix
//! hits, preemptions and siblings change no word.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde_json::{json, Value};

use crate::served::{goldens, serve, Served};
use crate::{schedules, siblings};

/// The tokenizer of this one, and what a config.json says of its made-up weights.
const TOKENIZER_OF: &str = "llama-tiny";

/// A folder with both; gone when dropped.
struct Model(PathBuf);

impl Model {
    fn new(test: &str) -> Model {
        let name = format!("triton-vllm-states-{}-{test}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let from = Path::new(&goldens()).join("models").join(TOKENIZER_OF);
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::copy(from.join(file), folder.join(file)).expect("a copy");
        }
        let config = json!({
            "architectures": ["Qwen3_5ForCausalLM"], "vocab_size": 4096, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 3, "full_attention_interval": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
            "linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 16,
            "linear_value_head_dim": 16, "max_position_embeddings": 512, "eos_token_id": 2
        });
        std::fs::write(folder.join("config.json"), config.to_string()).expect("a config.json");
        Model(folder)
    }

    fn serve(&self, extra: Value) -> Served {
        let mut all = json!({"model": self.0, "load_format": "dummy"});
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serve(TOKENIZER_OF, all)
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

#[test]
fn adapters_are_refused() {
    let model = Model::new("adapters");
    let args = json!({"model": model.0, "load_format": "dummy", "enable_lora": true});
    let refused = crate::served::refusal(TOKENIZER_OF, &args);
    assert!(refused.contains("adapters of Qwen3_5ForCausalLM are not supported"), "{refused}");
}

#[test]
fn drafts_are_refused() {
    let model = Model::new("drafts");
    let drafts = json!({"method": "ngram", "num_speculative_tokens": 3});
    let args = json!({"model": model.0, "load_format": "dummy", "speculative_config": drafts});
    let refused = crate::served::refusal(TOKENIZER_OF, &args);
    let line = "speculative_config does not go with this model: it has layers that keep a state";
    assert!(refused.contains(line), "{refused}");
}
