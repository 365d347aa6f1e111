//! Pages of eight bits through the whole engine: they hold more tokens, and neither chunks, prefix
//! hits, preemptions nor other requests change a word.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::served::serve;

#[test]
fn pages_of_fewer_bits_hold_more_tokens() {
    let tokens = |kv: &str| {
        let served =
            serve("llama-tiny", json!({"kv_cache_memory_bytes": 4 << 20, "kv_cache_dtype": kv}));
        let facts = served.engine.facts();
        (facts.kv_dtype.clone(), facts.kv_tokens as f64)
    };
    let (name, plain) = tokens("auto");
    assert_eq!(name, "float32");
    for (kv, name) in [("fp8", "fp8_e4m3"), ("fp8_e4m3", "fp8_e4m3"), ("fp8_e5m2", "fp8_e5m2")] {
        let (told, more) = tokens(kv);
        assert_eq!(told, name);
        // Not quite four times on the CPU, where what the cache manager knows of a page counts too,
        // and on a GPU a page more where so many do not use up the bytes.
        let times = more / plain;
        assert!((3.5..4.01).contains(&times), "{kv}: {times} times {plain}");
    }
}

#[test]
fn schedules_do_not_change_words_over_pages_of_eight_bits() {
    for kv in ["fp8_e4m3", "fp8_e5m2"] {
        let with = |more: serde_json::Value| {
            let mut all = json!({"kv_cache_dtype": kv});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serve("llama-tiny", all)
        };
        let sampling = |seed: usize| match seed % 2 {
            0 => json!({"temperature": 0, "max_tokens": 40, "ignore_eos": true}),
            _ => json!({"temperature": 0.9, "seed": seed, "max_tokens": 40, "ignore_eos": true}),
        };
        let prompt =
            |i: usize| format!("{} and {i}", "one two three four five six ".repeat(1 + i % 5));

        let plain = with(json!({"enable_prefix_caching": false}));
        let expected: Vec<_> = (0..16).map(|i| plain.text(&prompt(i), sampling(i))).collect();
        drop(plain);
        // Chunks of 16 tokens, pages for about two sequences.
        let tight = with(json!({
            "max_num_seqs": 16, "max_num_batched_tokens": 16, "num_gpu_blocks_override": 22
        }));
        let told: Vec<_> =
            (0..16).map(|i| tight.ask(&prompt(i), sampling(i), i % 2 == 0)).collect();
        for (i, told) in told.into_iter().enumerate() {
            assert_eq!(told.answer().outputs[0].text, expected[i], "{kv}, request {i}");
        }
        assert_eq!(tight.counter.generated.load(Ordering::Acquire), 16 * 40);
    }
}
