//! Drafts of models whose layers keep a state, through the whole engine: what is rejected leaves
//! nothing in a state. Random requests are answered as without drafts, in crowds that are batched,
//! chunked, preempted and served from the prefix cache, whoever drafts; and who goes on from an
//! answer finds copies of states behind drafts.

use std::sync::atomic::Ordering;

use serde_json::{json, Value};
use triton_vllm::engine::{Answer, EngineOptions};
use triton_vllm::text::Tokenizer;

use crate::requests::{requests, Request, MODEL};
use crate::served::{device, goldens, refusal, Served, Told};
use crate::speculation::{ask, check, drafting, stats, Quality, Seen};
use crate::states::{qwen, Model};

/// At once; of each way to draft a crowd, 518 requests of all models together.
const CROWD: usize = 14;

/// One of each kind of state: the gated delta rule with experts, Mamba 2 without attention and
/// beside it, convolutions alone, Mamba 1.
fn models() -> [(&'static str, Value); 5] {
    let usual = json!({
        "vocab_size": 4096, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": 2,
        "num_hidden_layers": 3
    });
    let with = |more: Value| {
        let mut all = usual.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };

    [
        (
            "next",
            with(json!({
                "architectures": ["Qwen3NextForCausalLM"], "head_dim": 16,
                "full_attention_interval": 2, "num_experts": 4, "num_experts_per_tok": 2,
                "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
                "decoder_sparse_step": 1, "mlp_only_layers": [], "linear_num_key_heads": 2,
                "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 12
            })),
        ),
        (
            "mamba2",
            json!({
                "architectures": ["Mamba2ForCausalLM"], "vocab_size": 4096, "hidden_size": 64,
                "num_hidden_layers": 2, "state_size": 16, "num_heads": 8, "head_dim": 16,
                "expand": 2, "n_groups": 2, "conv_kernel": 4, "eos_token_id": 2
            }),
        ),
        (
            "granite",
            with(json!({
                "architectures": ["GraniteMoeHybridForCausalLM"],
                "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 0,
                "shared_intermediate_size": 96, "mamba_d_state": 16, "mamba_n_heads": 8,
                "mamba_d_head": 16, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_d_conv": 4,
                "position_embedding_type": "rope"
            })),
        ),
        (
            "lfm2",
            with(json!({
                "architectures": ["Lfm2ForCausalLM"], "conv_L_cache": 3, "conv_bias": false,
                "layer_types": ["conv", "full_attention", "conv"],
                "block_auto_adjust_ff_dim": false
            })),
        ),
        (
            "jamba",
            with(json!({
                "architectures": ["JambaForCausalLM"], "attn_layer_offset": 1,
                "attn_layer_period": 4,
                "expert_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2,
                "num_experts_per_tok": 1, "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2,
                "mamba_dt_rank": 8
            })),
        ),
    ]
}

/// An engine of which each sequence asks a proposer of this quality.
fn served(model: &Model, quality: Quality, seen: &Seen, drafts: usize, more: &Value) -> Served {
    let mut args = json!({"max_model_len": 512, "speculative_config": {
        "method": "ngram", "num_speculative_tokens": drafts, "prompt_lookup_max": 3}});
    args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let options = EngineOptions { version_dir: model.0.clone(), ..drafting(quality, seen) };
    model.serve_with(&args, options)
}

/// An engine with this `speculative_config`.
fn by(model: &Model, config: Value) -> Served {
    model.serve(json!({"max_model_len": 512, "speculative_config": config}))
}

#[test]
fn answers_of_models_with_states_are_those_without_drafts() {
    let tight = json!({"max_num_seqs": 16, "max_num_batched_tokens": 24,
                       "num_gpu_blocks_override": 40});
    let whole = json!({"max_num_seqs": 3, "enable_chunked_prefill": false});
    for (nth, (name, config)) in models().into_iter().enumerate() {
        let model = Model::of(&format!("drafts-{name}"), &config);
        let seen = Seen::default();
        let plain = json!({"enable_prefix_caching": false});
        let alone = served(&model, Quality::Spy, &seen, 1, &plain);
        let mut ways = vec![
            ("perfect drafts", served(&model, Quality::Perfect, &seen, 4, &json!({}))),
            ("spoilt drafts", served(&model, Quality::Spoilt, &seen, 5, &json!({}))),
            ("spoilt drafts, few pages", served(&model, Quality::Spoilt, &seen, 3, &tight)),
            ("spoilt drafts, whole prompts", served(&model, Quality::Spoilt, &seen, 20, &whole)),
            ("random drafts", served(&model, Quality::Random, &seen, 3, &json!({}))),
            (
                "n-grams",
                by(
                    &model,
                    json!({"method": "ngram", "num_speculative_tokens": 4,
                "prompt_lookup_min": 1, "prompt_lookup_max": 3}),
                ),
            ),
            ("suffixes", by(&model, json!({"method": "suffix"}))),
        ];
        if nth == 0 {
            let draft = format!("{}/models/{MODEL}", goldens());
            ways.push((
                "a draft model",
                by(
                    &model,
                    json!({"method": "draft_model",
                "num_speculative_tokens": 3, "model": draft}),
                ),
            ));
            ways.push((
                "its own layer",
                by(
                    &model,
                    json!({"method": "qwen3_next_mtp",
                "num_speculative_tokens": 2}),
                ),
            ));
        }

        for (seed, (what, served)) in ways.iter().enumerate() {
            seen.lock().clear();
            let (mut rng, requests) = requests(3000 + 100 * nth as u64 + seed as u64, CROWD);
            let expected: Vec<Answer> =
                requests.iter().map(|request| ask(&alone, request, false).answer()).collect();
            let told: Vec<Told> =
                requests.iter().map(|request| ask(served, request, rng.percent(50))).collect();
            for (request, (told, right)) in requests.iter().zip(told.into_iter().zip(&expected)) {
                check(&format!("{name}, {what}"), request, right, &told.answer());
            }
            let told = stats(served);
            println!("{name}, {what}: {told:?}");
            // Nothing above was for want of drafts, nor of such as were rejected.
            let found = ["n-grams", "suffixes"].contains(what);
            assert!(found || told.drafts > 20, "{name}, {what}");
            let right = found || *what == "perfect drafts";
            assert!(right || told.accepted_tokens < told.draft_tokens, "{name}, {what}");
        }
    }
}

/// Who goes on from an answer that came by drafts finds a state behind it, and one that is right.
#[test]
fn states_behind_drafts_are_gone_on_from() {
    let model = Model::of("behind-drafts", &qwen());
    // Words that are a token each: the answer's text has its tokens.
    let folder = format!("{}/models/{MODEL}", goldens());
    let tokenizer = Tokenizer::load(folder.as_ref()).expect("a tokenizer");
    let words = ["one", "two", "three", "four", "five", "six", "the", "cat", "and", "answer"];
    let words = words.map(|word| tokenizer.encode_part(&format!(" {word}")).expect("tokens"));
    let words: Vec<u32> = words.iter().filter(|w| w.len() == 1).map(|w| w[0].0).collect();
    assert!(words.len() > 3, "{words:?}");
    let sampling = json!({"temperature": 0.9, "seed": 2, "max_tokens": 150, "ignore_eos": true,
                          "allowed_token_ids": words});
    let prompt = "one two three four five six ".repeat(4);
    for quality in [Quality::Spoilt, Quality::Random, Quality::Perfect] {
        let seen = Seen::default();
        let plain = json!({"enable_prefix_caching": false});
        let plain = served(&model, Quality::Spy, &seen, 1, &plain);
        let text = plain.text(&prompt, sampling.clone());
        let next = Request { prompt: format!("{prompt}{text}"), sampling: sampling.clone() };
        let right = ask(&plain, &next, false).answer();

        let served = served(&model, quality, &seen, 5, &json!({}));
        assert_eq!(served.text(&prompt, sampling.clone()), text, "{quality:?}");
        let before = served.counter.prefix_hits.load(Ordering::Acquire);
        let got = ask(&served, &next, false).answer();
        check("a prompt that was an output", &next, &right, &got);
        let hits = served.counter.prefix_hits.load(Ordering::Acquire) - before;
        // Where steps overlap, a page's last token is not known yet when the state behind it is
        // there: of such steps none is kept.
        let least = if device() == "cpu" { 128 } else { 16 };
        assert!(hits >= least, "{quality:?}: {hits} tokens were found");
        assert!(device() != "cpu" || stats(&served).drafts > 10, "{quality:?}");
    }
}

#[test]
fn ranks_go_back_behind_drafts() {
    let model = Model::of("ranks-of-drafts", &models()[0].1);
    let seen = Seen::default();
    let ranks = json!({"tensor_parallel_size": 2, "device": "cpu"});
    let plain = served(&model, Quality::Spy, &seen, 1, &ranks);
    let (_, requests) = requests(3900, CROWD);
    let right: Vec<Answer> =
        requests.iter().map(|request| ask(&plain, request, false).answer()).collect();
    let served = served(&model, Quality::Spoilt, &seen, 3, &ranks);
    let told: Vec<Told> = requests.iter().map(|request| ask(&served, request, false)).collect();
    for ((request, told), right) in requests.iter().zip(told).zip(&right) {
        check("ranks", request, right, &told.answer());
    }
    let told = stats(&served);
    assert!(told.drafts > 20 && told.accepted_tokens < told.draft_tokens, "{told:?}");
}

/// What a sequence can go back behind has a limit.
#[test]
fn drafts_of_states_are_at_most_62() {
    let model = Model::of("many-drafts", &qwen());
    let args = |drafts: usize| {
        json!({"model": model.0, "load_format": "dummy", "max_num_seqs": 2, "speculative_config":
            {"method": "ngram", "num_speculative_tokens": drafts}})
    };
    let refused = refusal(MODEL, &args(63));
    let line = "a model with layers that keep a state has at most 62. Lower num_speculative_tokens";
    assert!(refused.contains(line), "{refused}");
    let seen = Seen::default();
    let sampling = json!({"temperature": 0, "max_tokens": 130, "ignore_eos": true});
    let plain = served(&model, Quality::Spy, &seen, 1, &json!({}));
    let right = plain.text("one two three", sampling.clone());
    let most =
        served(&model, Quality::Perfect, &seen, 62, &json!({"enable_prefix_caching": false}));
    assert_eq!(most.text("one two three", sampling), right);
    let told = stats(&most);
    assert!(told.accepted_by_place.get(61).is_some_and(|&times| times > 0), "{told:?}");
}
