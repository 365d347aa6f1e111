//! Temporary echo engine, replaced at the merge.

pub mod args;
mod request;

pub use args::EngineArgs;
pub use request::{Answer, Client, FinishReason, GenerateRequest, Observation, Observer, Output};

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};

/// What the door knows beside model.json.
pub struct EngineOptions {
    pub name: String,
    pub version_dir: std::path::PathBuf,
    pub gpu: Option<u32>,
    pub observer: Arc<dyn Observer>,
    pub max_waiting: usize,
    pub outbox_threads: Option<usize>,
}

#[derive(Debug, Clone)]
pub struct EngineFacts {
    pub device: String,
    pub dtype: String,
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    pub kv_tokens: u64,
    pub vocab_size: u32,
}

pub struct Engine {
    facts: EngineFacts,
    dead: std::path::PathBuf,
    tx: Vec<crossbeam::channel::Sender<GenerateRequest>>,
    next: std::sync::atomic::AtomicUsize,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Engine {
    pub fn load(_args: EngineArgs, o: EngineOptions) -> Result<Engine> {
        let facts = EngineFacts {
            device: "echo".into(),
            dtype: "f32".into(),
            max_model_len: 256,
            max_num_seqs: 64,
            max_num_batched_tokens: 2048,
            kv_tokens: 0,
            vocab_size: 4096,
        };
        let mut tx = vec![];
        let mut threads = vec![];
        for i in 0..2 {
            let (t, r) = crossbeam::channel::bounded::<GenerateRequest>(o.max_waiting);
            tx.push(t);
            let obs = o.observer.clone();
            threads.push(
                std::thread::Builder::new()
                    .name(format!("echo-{i}"))
                    .spawn(move || run(r, obs))
                    .map_err(|e| crate::internal!("{e}"))?,
            );
        }
        Ok(Engine {
            facts,
            dead: o.version_dir.join("dead"),
            tx,
            next: Default::default(),
            threads,
        })
    }
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }
    pub fn submit(&self, r: GenerateRequest) -> Result<()> {
        if r.prompt == "panic" {
            panic!("echo panics");
        }
        if r.prompt.len() > 5000 {
            return Err(crate::invalid!("too long"));
        }
        let i = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.tx.len();
        self.tx[i].try_send(r).map_err(|_| Error::Unavailable("full".into()))
    }
    pub fn health(&self) -> Result<()> {
        if self.dead.exists() {
            return Err(Error::Unavailable("dead".into()));
        }
        Ok(())
    }
    pub fn drain(mut self, _: Duration) {
        self.tx.clear();
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}

fn run(r: crossbeam::channel::Receiver<GenerateRequest>, obs: Arc<dyn Observer>) {
    let mut live: Vec<(GenerateRequest, u32)> = vec![];
    loop {
        if live.is_empty() {
            match r.recv() {
                Ok(x) => live.push((x, 0)),
                Err(_) => return,
            }
        }
        while live.len() < 512 {
            match r.try_recv() {
                Ok(x) => live.push((x, 0)),
                Err(_) => break,
            }
        }
        let slow = live.iter().any(|(r, _)| r.prompt.starts_with("slow"));
        if slow {
            std::thread::sleep(Duration::from_millis(20));
        }
        live.retain_mut(|(r, k)| {
            if r.client.cancelled() {
                tracing::info!("Cancelling the request");
                r.client.finish(Err(Error::Cancelled("x".into())));
                tracing::info!("Successfully cancelled the request");
                return false;
            }
            *k += 1;
            let last = Some(*k) >= r.params.max_tokens;
            let reason = last.then_some(FinishReason::Length);
            if *k == 1 {
                obs.observe(Observation::FirstToken { prompt_tokens: 3, ttft_s: 0.01 });
            } else {
                obs.observe(Observation::InterToken { seconds: 0.01 });
            }
            obs.observe(Observation::Generated { tokens: 1 });
            if r.stream {
                let out = Output { text: format!(" {k}"), tokens: 1, finish_reason: reason };
                let a = Answer { prompt_tokens: 3, outputs: vec![out; r.params.n as usize] };
                if last {
                    r.client.finish(Ok(a))
                } else {
                    r.client.respond(a)
                }
            } else if last {
                let text = (1..=*k).map(|k| format!(" {k}")).collect();
                let out = Output { text, tokens: *k, finish_reason: reason };
                r.client.finish(Ok(Answer {
                    prompt_tokens: 3,
                    outputs: vec![out; r.params.n as usize],
                }));
            }
            if last {
                obs.observe(Observation::Finished {
                    reason: FinishReason::Length,
                    e2e_s: 0.1,
                    prompt_tokens: 3,
                    output_tokens: *k,
                    n: 1,
                });
            }
            !last
        });
        obs.observe(Observation::Load { running: live.len() as u32, waiting: 0, kv_usage: 0.1 });
    }
}
