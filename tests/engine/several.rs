//! Several engines behind one handle (`data_parallel_size`): the words of one engine, prompts that
//! go where their beginning was read, and one death for all.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use triton_vllm::engine::{EngineArgs, EngineOptions, Engines, Observation, Observer};
use triton_vllm::scheduler::DraftStats;

use crate::schedules;
use crate::served::{options, serve, serve_args, Counter, Served, PATIENCE};

/// Counts for one engine and for all.
struct Both(Arc<Counter>, Arc<Counter>);

impl Observer for Both {
    fn observe(&self, observation: Observation) {
        self.0.observe(observation);
        self.1.observe(observation);
    }

    fn drafts(&self, new: &DraftStats) {
        self.0.drafts(new);
        self.1.drafts(new);
    }
}

/// So many engines on the CPU, and what each of them counts.
fn several(count: usize, more: Value) -> (Served, Vec<Arc<Counter>>) {
    let mut extra = json!({"device": "cpu", "data_parallel_size": count});
    extra.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let args = serve_args("llama-tiny", &extra);
    let (args, warnings) = EngineArgs::parse(&args.to_string()).expect("valid");
    assert!(warnings.is_empty(), "{warnings:?}");

    let all: Arc<Counter> = Arc::default();
    let counters: Vec<Arc<Counter>> = (0..count).map(|_| Arc::default()).collect();
    let of = |counter: &Arc<Counter>| EngineOptions {
        observer: Arc::new(Both(Arc::clone(counter), Arc::clone(&all))),
        ..options("llama-tiny")
    };
    let engine = Engines::load(&args, counters.iter().map(of).collect()).expect("engines");
    (Served { engine, counter: all }, counters)
}

fn finished(counters: &[Arc<Counter>]) -> Vec<usize> {
    counters.iter().map(|counter| counter.finished.load(Ordering::Acquire)).collect()
}

#[test]
fn several_engines_say_what_one_says() {
    let one = serve("llama-tiny", json!({"device": "cpu"}));
    let tight = json!({"max_num_seqs": 16, "max_num_batched_tokens": 16,
        "num_gpu_blocks_override": 22});
    let (three, counters) = several(3, tight);
    schedules(&one, &three);

    let each = finished(&counters);
    assert_eq!(each.iter().sum::<usize>(), 24);
    assert!(each.iter().all(|&n| n >= 4), "{each:?}");
    assert_eq!(three.engine.in_flight(), 0);
    assert!(three.engine.drain(PATIENCE));
}

#[test]
fn several_engines_have_drafts() {
    let one = serve("llama-tiny", json!({"device": "cpu"}));
    let drafts = json!({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1});
    let (two, counters) = several(2, json!({"speculative_config": drafts}));
    schedules(&one, &two);
    assert!(counters.iter().all(|counter| counter.drafts.lock().drafts > 0));
}

#[test]
fn engines_of_several_ranks() {
    let one = serve("llama-tiny", json!({"device": "cpu"}));
    let (two, _) = several(2, json!({"tensor_parallel_size": 2}));
    schedules(&one, &two);
}

#[test]
fn a_conversation_stays_where_it_began() {
    let (served, counters) = several(2, json!({}));
    let sampling = json!({"temperature": 0, "max_tokens": 2, "ignore_eos": true});
    for conversation in 0..4 {
        let mut text = format!("{conversation}{}", "the cat and the dog and ".repeat(12));
        for _turn in 0..3 {
            text.push_str(&served.text(&text, sampling.clone()));
        }
    }
    // Two each, and every turn but the first finds what was read before.
    assert_eq!(finished(&counters), [6, 6]);
    for counter in &counters {
        let hits = counter.prefix_hits.load(Ordering::Acquire);
        assert!(hits >= 4 * 64, "{hits} tokens of four turns");
    }
}

/// Requests without a seed draw by their number, and no two have the same one.
#[test]
fn engines_do_not_repeat_each_other() {
    let (served, counters) = several(2, json!({}));
    let sampling = json!({"temperature": 1.0, "max_tokens": 12, "ignore_eos": true});
    let texts: Vec<String> = (0..6).map(|_| served.text("Once", sampling.clone())).collect();
    assert_eq!(finished(&counters), [3, 3]);
    for (n, text) in texts.iter().enumerate() {
        assert!(!texts[..n].contains(text), "{texts:?}");
    }
}

#[test]
fn the_death_of_one_is_the_death_of_all() {
    std::env::set_var("TRITON_VLLM_ALLOW_FAULTS", "1");
    let fault = json!({"additional_config": {"inject_faults": {"error_at": 9}}});
    let (served, _) = several(2, fault);
    let sampling = json!({"temperature": 0, "max_tokens": 40, "ignore_eos": true});
    // Two requests, one for each engine: the last engine is the one that fails, so nobody is
    // asked after its death.
    let [spared, lost] = ["number 0", "number 1"].map(|p| served.ask(p, sampling.clone(), false));

    // Those of the other engine end as they would have.
    assert_eq!(spared.answer().outputs[0].tokens, 40);
    let error = lost.outcome().expect_err("a lost engine");
    assert!(error.message().contains("injected device error"), "{error}");

    let error = served.engine.health().expect_err("dead");
    assert!(error.message().contains("injected device error"), "{error}");
    let started = Instant::now();
    served.engine.drain(PATIENCE);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// A load that fails takes back all of it.
#[test]
fn an_engine_that_cannot_be_loaded_fails_the_load() {
    let extra = json!({"device": "cpu", "data_parallel_size": 3, "tensor_parallel_size": 4});
    let (args, _) = EngineArgs::parse(&serve_args("llama-tiny", &extra).to_string()).unwrap();
    let error = Engines::load(&args, vec![options("m"); 3]).err().expect("refused");
    let want = "Total number of attention heads (2) must be divisible by tensor parallel size (4).";
    assert_eq!(error.message(), want);
}
