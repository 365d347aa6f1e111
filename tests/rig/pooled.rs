//! Engines of models that pool, asked from Rust: for the tests of embeddings and of scores.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, Receiver, Sender};
use serde_json::{json, Value};
use triton_vllm::engine::{
    Answer, Client, EmbedInput, EmbedRequest, EngineArgs, EngineOptions, Engines, Gpus,
    Observation, Observer, PoolingParams, RequestOptions,
};
use triton_vllm::error::Result;
use triton_vllm::ids::TokenId;

struct Quiet;

impl Observer for Quiet {
    fn observe(&self, _: Observation) {}
}

struct Listener {
    gone: bool,
    end: Sender<Result<Answer>>,
}

impl Client for Listener {
    fn cancelled(&self) -> bool {
        self.gone
    }

    fn respond(&self, _: Answer) {
        panic!("a pooled vector is one answer");
    }

    fn finish(&self, outcome: Result<Answer>) {
        self.end.send(outcome).expect("one end, and somebody who waits for it");
    }
}

pub fn load(model: &Path, extra: Value) -> Result<Engines> {
    let mut args = json!({"model": model, "dtype": "float32", "device": "cpu", "max_num_seqs": 16});
    args.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let (args, _) = EngineArgs::parse(&args.to_string())?;
    let options = EngineOptions {
        name: "pooled".into(),
        version_dir: model.into(),
        gpus: Gpus::Turn(0),
        observer: Arc::new(Quiet),
        max_waiting: 1024,
        max_backlog_tokens: 1 << 20,
        max_logprob_entries: 1 << 20,
        outbox_threads: Some(1),
        step_timeout: None,
        prompt_step: None,
        grammar_timeout: Duration::from_secs(5),
        step_trace: None,
        proposer: None,
    };
    Engines::load(&args, vec![options])
}

pub fn ask(
    engine: &Engines,
    input: EmbedInput,
    params: PoolingParams,
    gone: bool,
) -> Receiver<Result<Answer>> {
    let (end, told) = bounded(1);
    let client = Arc::new(Listener { gone, end });
    let arrival = Instant::now();
    let options = RequestOptions::default();
    let request = EmbedRequest { input, params, client: client.clone(), arrival, options };
    if let Err(error) = engine.embed(request) {
        client.finish(Err(error));
    }
    told
}

pub fn answer(told: Receiver<Result<Answer>>) -> Result<Answer> {
    told.recv_timeout(Duration::from_secs(60)).expect("an end")
}

pub fn tokens(ids: &[u32]) -> EmbedInput {
    EmbedInput::Tokens(ids.iter().map(|&id| TokenId(id)).collect())
}
