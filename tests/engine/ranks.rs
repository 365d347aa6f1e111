//! A model that two CPU devices share, behind the whole engine: the recorded texts, the words of
//! one device under every schedule, masks of grammars, and one error where a rank is lost.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use triton_vllm::engine::{EngineArgs, EngineOptions, Engines};

use crate::served::{
    goldens, options, recorded_adapters, serve, serve_args, serve_with, RecordedAdapter, Served,
    PATIENCE,
};
use crate::speculation::{drafting, Quality, Seen};
use crate::{recorded, schedules};

/// On the CPU, whichever device other tests use.
fn by_two(model: &str, more: Value) -> Served {
    let mut extra = json!({"device": "cpu", "tensor_parallel_size": 2});
    extra.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serve(model, extra)
}

#[test]
fn two_ranks_say_what_the_python_backend_says() {
    for model in ["gpt2-tiny", "llama-tiny"] {
        let served = by_two(model, json!({}));
        let device = &served.engine.facts().device;
        assert!(device.starts_with("2 ranks of cpu ("), "{device}");
        let records = recorded(model);
        for (prompt, params, text) in &records {
            assert_eq!(&served.text(prompt, params.clone()), text, "{model}: {prompt:?}");
        }
        assert_eq!(served.counter.finished.load(Ordering::Acquire), records.len());
    }
}

#[test]
fn schedules_of_two_ranks_do_not_change_words() {
    let one = serve("llama-tiny", json!({"device": "cpu"}));
    let tight = json!({"max_num_seqs": 16, "max_num_batched_tokens": 16,
        "num_gpu_blocks_override": 22});
    let two = by_two("llama-tiny", tight);
    schedules(&one, &two);
}

#[test]
fn grammars_hold_on_all_ranks() {
    let one = serve("llama-tiny", json!({"device": "cpu"}));
    let two = by_two("llama-tiny", json!({}));
    for seed in 0..4 {
        let sampling = json!({"temperature": 0.9, "seed": seed, "max_tokens": 24,
            "structured_outputs": {"regex": "[a-z]{3,8} [0-9]{2,4}\\."}});
        let text = two.text("A word and a number:", sampling.clone());
        assert_eq!(text, one.text("A word and a number:", sampling));
        assert!(text.ends_with('.'), "{text}");
    }
}

#[test]
fn adapters_reach_all_ranks() {
    adapters("ranks_adapters", json!(null), options("llama-tiny"));
}

/// First somebody listens, so that the drafts are right then.
#[test]
fn adapters_have_drafts() {
    let seen = Seen::default();
    let drafts = json!({"method": "ngram", "num_speculative_tokens": 3});
    let spy = drafting(Quality::Spy, &seen);
    adapters("ranks_spy", drafts.clone(), spy);
    let served = adapters("ranks_drafts", drafts, drafting(Quality::Perfect, &seen));
    assert!(served.counter.drafts.lock().accepted_tokens > 0);
}

/// The Python backend's recorded texts of two adapters and of none, in the same crowd.
fn adapters(test: &str, drafts: Value, options: EngineOptions) -> Served {
    let folder = Scratch::new(test);
    let list = json!({"sheep": format!("{}/models/llama-lora-a", goldens()),
        "dog": format!("{}/models/llama-lora-b", goldens())});
    std::fs::write(folder.0.join("multi_lora.json"), list.to_string()).unwrap();
    let extra = json!({"device": "cpu", "tensor_parallel_size": 2, "enable_lora": true,
        "max_loras": 2, "max_lora_rank": 8, "speculative_config": drafts});
    let options = EngineOptions { version_dir: folder.0.clone(), ..options };
    let served = serve_with("llama-tiny", &extra, options);

    let mut told = Vec::new();
    for RecordedAdapter { name, prompt, sampling, want } in recorded_adapters() {
        told.push((name, want, served.ask(&prompt, sampling, false)));
    }
    let texts: Vec<&str> = told.iter().map(|(_, want, _)| want.as_str()).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    for (name, want, told) in told {
        assert_eq!(told.answer().outputs[0].text, want, "{name}");
    }
    served
}

/// Unloaded in the middle of a text, with a deadline that ends it.
#[test]
fn ranks_end_with_their_engine() {
    let alive = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok());
        names.filter(|name| name.starts_with("rank") && name.contains(" end-here")).count()
    };
    let extra = json!({"device": "cpu", "tensor_parallel_size": 2});
    let options = EngineOptions { name: "end-here".into(), ..options("llama-tiny") };
    let served = serve_with("llama-tiny", &extra, options);

    // A thread gives itself its name.
    let started = Instant::now();
    while alive() < 2 {
        assert!(started.elapsed() < Duration::from_secs(10), "{} ranks", alive());
        std::thread::sleep(Duration::from_millis(1));
    }

    let sampling = json!({"temperature": 0, "max_tokens": 200, "ignore_eos": true});
    let told = served.ask("a long story", sampling, false);
    let started = Instant::now();
    served.engine.drain(Duration::ZERO);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(alive(), 0);
    assert!(told.outcome().is_err());
}

/// Removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("triton_vllm_{}_{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn sizes_that_do_not_divide_are_refused_at_load() {
    let load = |extra: Value| -> String {
        let (args, _) = EngineArgs::parse(&serve_args("llama-tiny", &extra).to_string()).unwrap();
        Engines::load(&args, vec![options("llama-tiny")])
            .err()
            .expect("refused")
            .message()
            .to_string()
    };
    let text = load(json!({"device": "cpu", "tensor_parallel_size": 4}));
    let want = "Total number of attention heads (2) must be divisible by tensor parallel size (4).";
    assert_eq!(text, want);
    let text = load(json!({"device": "cpu", "pipeline_parallel_size": 2}));
    assert!(text.contains("pipeline_parallel_size 2"), "{text}");
}

/// A rank that fails, and one that panics, fail everybody with one error, at once.
#[test]
fn a_lost_rank_is_one_error_of_the_engine() {
    std::env::set_var("TRITON_VLLM_ALLOW_FAULTS", "1");
    for (fault, text) in [
        (json!({"error_at": 9}), "rank 1 of 2: injected device error in step 9"),
        (json!({"panic_at": 9}), "rank 1 of 2 panicked: injected panic in step 9"),
        (json!({"break_at": 9}), "rank 1 of 2: the device was broken on purpose"),
    ] {
        let faults = json!({"additional_config": {"inject_faults": fault}});
        let served = by_two("llama-tiny", faults);
        let sampling = json!({"temperature": 0, "max_tokens": 40, "ignore_eos": true});
        // On a busy machine the last of them may come when the engine is lost already.
        let told: Vec<_> = (0..3)
            .map(|i| served.submit(&format!("number {i}"), sampling.clone(), false))
            .collect();
        for told in told {
            let error = told.and_then(|told| told.outcome()).expect_err("a lost engine");
            assert!(error.message().contains(text), "{error}");
        }
        let started = Instant::now();
        served.engine.drain(PATIENCE);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}
