//! An engine in this process with a model of the goldens, and clients that put streams together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, Receiver, Sender};
use serde_json::{json, Value};
use triton_vllm::engine::{
    Answer, Client, EngineArgs, EngineOptions, Engines, GenerateRequest, Gpus, ImageSource,
    Observation, Observer, RequestOptions, Returns,
};
use triton_vllm::error::Result;
use triton_vllm::sampling::{SamplingLimits, SamplingParams};
use triton_vllm::scheduler::DraftStats;

/// `TRITON_VLLM_GOLDENS` names the folder where the checkout is elsewhere.
pub fn goldens() -> String {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens");
    std::env::var("TRITON_VLLM_GOLDENS").unwrap_or_else(|_| here.to_string())
}

/// An answer of the Python backend with an adapter of `llama-tiny`, or with none.
pub struct RecordedAdapter {
    pub name: &'static str,
    pub prompt: String,
    pub sampling: Value,
    pub want: String,
}

/// One without an adapter, and one by each of two.
pub fn recorded_adapters() -> Vec<RecordedAdapter> {
    let text = std::fs::read_to_string(format!("{}/goldens_lora.json", goldens())).unwrap();
    let recorded: Value = serde_json::from_str(&text).unwrap();
    let of = |name: &'static str| {
        let cases = recorded["cases"].as_array().unwrap().iter();
        let mut cases = cases.filter(|case| case["id"] == name && case["transport"] == "generate");
        let case = cases.next().expect("a record");
        RecordedAdapter {
            name,
            prompt: case["inputs"]["text_input"].as_str().unwrap().to_string(),
            sampling: case["params"].clone(),
            want: case["response"]["json"]["text_output"].as_str().unwrap().to_string(),
        }
    };
    ["lora.None", "lora.sheep", "lora.dog"].map(of).into()
}

pub const PATIENCE: Duration = Duration::from_secs(120);

/// `TRITON_VLLM_TEST_DEVICE=auto` runs these tests on a GPU where there is one.
pub fn device() -> String {
    std::env::var("TRITON_VLLM_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_string())
}

/// Counts what the engine says of itself.
#[derive(Default)]
pub struct Counter {
    pub generated: AtomicUsize,
    pub finished: AtomicUsize,
    /// Tokens that were found in the prefix cache.
    pub prefix_hits: AtomicUsize,
    /// Requests that failed for logits that were not finite.
    pub corrupted: AtomicUsize,
    /// What became of drafts.
    pub drafts: parking_lot::Mutex<DraftStats>,
}

impl Observer for Counter {
    fn observe(&self, observation: Observation) {
        match observation {
            Observation::Generated { tokens } => {
                self.generated.fetch_add(tokens as usize, Ordering::AcqRel);
            }
            Observation::Finished { .. } => {
                self.finished.fetch_add(1, Ordering::AcqRel);
            }
            Observation::Cache { hits_tokens, .. } => {
                self.prefix_hits.fetch_add(hits_tokens as usize, Ordering::AcqRel);
            }
            Observation::Corrupted => {
                self.corrupted.fetch_add(1, Ordering::AcqRel);
            }
            _ => {}
        }
    }

    fn drafts(&self, new: &DraftStats) {
        let mut all = self.drafts.lock();
        all.drafts += new.drafts;
        all.draft_tokens += new.draft_tokens;
        all.accepted_tokens += new.accepted_tokens;
        let places = all.accepted_by_place.len().max(new.accepted_by_place.len());
        all.accepted_by_place.resize(places, 0);
        for (all, new) in all.accepted_by_place.iter_mut().zip(&new.accepted_by_place) {
            *all += new;
        }
    }
}

/// Keeps what a stream said and passes on all of it at the end.
struct Listener {
    so_far: parking_lot::Mutex<Option<Answer>>,
    /// Tokens of the first sequence in each response.
    parts: parking_lot::Mutex<Vec<u32>>,
    end: Sender<Result<(Answer, Vec<u32>)>>,
    /// The client has left.
    gone: Arc<AtomicBool>,
}

impl Listener {
    fn joined(&self, next: Answer) -> Answer {
        self.parts.lock().push(next.outputs[0].tokens);
        let Some(mut whole) = self.so_far.lock().take() else { return next };
        assert_eq!(whole.outputs.len(), next.outputs.len(), "an entry per sequence");
        for (all, new) in whole.outputs.iter_mut().zip(next.outputs) {
            all.text.push_str(&new.text);
            all.tokens += new.tokens;
            all.finish_reason = new.finish_reason;
            all.cumulative_logprob = new.cumulative_logprob;
            match (&mut all.logprobs, new.logprobs) {
                (Some(all), Some(new)) => all.extend(new),
                (all, new) => assert!(all.is_none() && new.is_none()),
            }
        }
        whole
    }
}

impl Client for Listener {
    fn cancelled(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    fn respond(&self, answer: Answer) {
        for output in &answer.outputs {
            let positions = output.logprobs.as_ref().map(Vec::len);
            assert!(positions.is_none_or(|n| n == output.tokens as usize), "text and its tokens");
        }
        let whole = self.joined(answer);
        *self.so_far.lock() = Some(whole);
    }

    fn finish(&self, outcome: Result<Answer>) {
        let whole = outcome.map(|answer| self.joined(answer));
        let parts = std::mem::take(&mut *self.parts.lock());
        let _ = self.end.send(whole.map(|answer| (answer, parts)));
    }
}

pub struct Served {
    pub engine: Engines,
    pub counter: Arc<Counter>,
}

/// model.json's keys for a model of the goldens.
pub fn serve_args(model: &str, extra: &Value) -> Value {
    let mut args = json!({
        "model": format!("{}/models/{model}", goldens()),
        "dtype": "float32", "max_model_len": 256, "max_num_seqs": 64, "device": device(),
        "gpu_memory_utilization": 0.05,
    });
    for (key, value) in extra.as_object().expect("an object") {
        args[key] = value.clone();
    }
    args
}

pub fn options(model: &str) -> EngineOptions {
    EngineOptions {
        name: model.into(),
        version_dir: goldens().into(),
        gpus: Gpus::Turn(0),
        observer: Arc::new(Counter::default()),
        max_waiting: 1024,
        max_backlog_tokens: 1 << 20,
        max_logprob_entries: 1 << 20,
        outbox_threads: Some(1),
        step_timeout: None,
        prompt_step: None,
        grammar_timeout: Duration::from_secs(5),
        step_trace: None,
        proposer: None,
    }
}

pub fn serve(model: &str, extra: Value) -> Served {
    serve_with(model, &extra, options(model))
}

pub fn serve_with(model: &str, extra: &Value, options: EngineOptions) -> Served {
    let (args, _) = EngineArgs::parse(&serve_args(model, extra).to_string()).expect("valid");
    let counter = Arc::new(Counter::default());
    let options = EngineOptions { observer: counter.clone(), ..options };
    Served { engine: Engines::load(&args, vec![options]).expect("a model that loads"), counter }
}

/// Why a model does not load.
pub fn refusal(model: &str, extra: &Value) -> String {
    let (args, _) = EngineArgs::parse(&serve_args(model, extra).to_string()).expect("valid");
    match Engines::load(&args, vec![options(model)]) {
        Ok(_) => panic!("{model} loads with {extra}"),
        Err(error) => error.to_string(),
    }
}

/// The whole answer, once it is there.
pub struct Told(Receiver<Result<(Answer, Vec<u32>)>>);

impl Told {
    pub fn answer(self) -> Answer {
        self.in_parts().0
    }

    /// And how many tokens each response had, of the first sequence.
    pub fn in_parts(self) -> (Answer, Vec<u32>) {
        self.outcome().expect("an answer")
    }

    pub fn outcome(self) -> Result<(Answer, Vec<u32>)> {
        self.0.recv_timeout(PATIENCE).expect("an end")
    }
}

impl Served {
    pub fn ask(&self, prompt: &str, sampling: Value, stream: bool) -> Told {
        self.submit(prompt, sampling, stream).expect("room")
    }

    /// With images, each in base64.
    pub fn ask_with(&self, prompt: &str, images: &[String], sampling: Value) -> Result<Told> {
        self.submit_until(prompt, images, sampling, false, Arc::default())
    }

    /// As [`Self::ask`], of an engine that may have died before it is asked.
    pub fn submit(&self, prompt: &str, sampling: Value, stream: bool) -> Result<Told> {
        self.submit_until(prompt, &[], sampling, stream, Arc::default())
    }

    /// As [`Self::ask`], by a client that leaves when `gone` says so.
    pub fn ask_until(&self, prompt: &str, sampling: Value, gone: Arc<AtomicBool>) -> Told {
        self.submit_until(prompt, &[], sampling, true, gone).expect("room")
    }

    fn submit_until(
        &self,
        prompt: &str,
        images: &[String],
        sampling: Value,
        stream: bool,
        gone: Arc<AtomicBool>,
    ) -> Result<Told> {
        let (end, told) = bounded(1);
        let so_far = Default::default();
        let client = Arc::new(Listener { so_far, parts: Default::default(), end, gone });
        let limits = SamplingLimits::new(4096, -1);
        let params = SamplingParams::parse_text(&sampling.to_string(), &limits).expect("valid");
        let prompt = prompt.to_string();
        let arrival = Instant::now();
        let returns = Returns { logprobs: true, cumulative_logprob: true };
        let options = RequestOptions::default();
        let images = images.iter().cloned().map(ImageSource::Text).collect();
        let request =
            GenerateRequest { prompt, images, params, stream, returns, client, arrival, options };
        self.engine.submit(request)?;
        Ok(Told(told))
    }

    pub fn text(&self, prompt: &str, sampling: Value) -> String {
        self.ask(prompt, sampling, false).answer().outputs[0].text.clone()
    }
}
