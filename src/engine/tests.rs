//! The engine against a scripted device: what every client is owed whatever the device does. Tokens
//! come from a rule, faults from a script; scheduler, outboxes and text are the real ones.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, unbounded, Receiver, Sender};

use super::adapters::HostAdapters;
use super::grammar::MatcherThreads;
use super::handle::Engine;
use super::health::Health;
use super::meter::Meter;
use super::output::{Backlog, Outboxes};
use super::request::*;
use super::shared::Shared;
use super::step_loop::{Helpers, Runner, StepLoop};
use super::watchdog::Watchdog;
use super::EngineFacts;
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::ids::{AdapterSlotId, TokenId};
use crate::model::Adapter;
use crate::plan::{Sampled, StepPlan, StepResult, TokenMasks};
use crate::sampling::{NonFinite, SamplingLimits, SamplingParams};
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::text::{Grammars, Tokenizer};

pub(super) const TOKENIZER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/models/opt-tiny");
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Far above what a scripted step takes.
const STEP_LIMIT: Duration = Duration::from_secs(2);
const GRAMMAR_LIMIT: Duration = Duration::from_secs(5);

/// What the device does in step n.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fault {
    None,
    Error(u64),
    Panic(u64),
    /// Waits at step n until the test opens the gate.
    Gate(u64),
    /// The first row of step n has no finite logits.
    NonFinite(u64),
}

struct Scripted {
    depth: usize,
    fault: Fault,
    gate: Receiver<()>,
    queue: std::collections::VecDeque<StepResult>,
}

impl Runner for Scripted {
    fn depth(&self) -> usize {
        self.depth
    }

    fn install(&mut self, _: AdapterSlotId, _: &Arc<Adapter>) -> Result<()> {
        Ok(())
    }

    /// Ordinary words of the tokenizer, five in turn, unless a mask chooses.
    fn forward(&mut self, plan: &StepPlan) -> Result<()> {
        match self.fault {
            Fault::Error(n) if plan.step == n => return Err(Error::Internal("scripted".into())),
            Fault::Panic(n) if plan.step == n => panic!("scripted panic"),
            Fault::Gate(n) if plan.step == n => {
                let _ = self.gate.recv();
            }
            _ => {}
        }
        let tokens = Ok(vec![TokenId(300 + (plan.step % 5) as u32)]);
        let samples = plan.sampled().map(|slot| Sampled {
            slot,
            tokens: tokens.clone(),
            logprobs: Vec::new(),
        });
        let mut samples: Vec<Sampled> = samples.collect();
        if self.fault == Fault::NonFinite(plan.step) {
            samples[0].tokens = Err(NonFinite);
        }
        let step = plan.step;
        self.queue.push_back(StepResult { step, samples, ..StepResult::default() });
        Ok(())
    }

    /// One of the five lowest that a mask allows, in turn.
    fn sample(&mut self, masks: &TokenMasks) -> Result<()> {
        let step = self.queue.back_mut().expect("sample follows forward");
        for (slot, mask) in &masks.by_slot {
            let sample = step.samples.iter_mut().find(|sample| sample.slot == *slot);
            let bit = |id: &u32| mask[*id as usize / 32] >> (id % 32) & 1 == 1;
            let allowed: Vec<u32> = (0..4096).filter(bit).take(5).collect();
            let id = allowed[step.step as usize % allowed.len()];
            sample.expect("a mask is for a row that samples").tokens = Ok(vec![TokenId(id)]);
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<StepResult> {
        Ok(self.queue.pop_front().expect("collect follows forward"))
    }
}

struct Ignore;

impl Observer for Ignore {
    fn observe(&self, _: Observation) {}
}

/// Counts what it is told and passes the outcome to the test.
pub(super) struct Probe {
    pub gone: AtomicBool,
    finals: AtomicUsize,
    pub deltas: AtomicUsize,
    pub answers: parking_lot::Mutex<Vec<Answer>>,
    outcome: Sender<Result<Answer>>,
}

impl Client for Probe {
    fn cancelled(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    fn respond(&self, answer: Answer) {
        assert_eq!(self.finals.load(Ordering::Acquire), 0, "a delta after the final");
        assert!(answer.outputs.iter().any(|output| output.finish_reason.is_none()));
        self.deltas.fetch_add(answer.outputs[0].tokens as usize, Ordering::AcqRel);
        self.answers.lock().push(answer);
    }

    fn finish(&self, outcome: Result<Answer>) {
        assert_eq!(self.finals.fetch_add(1, Ordering::AcqRel), 0, "a second final");
        let _ = self.outcome.send(outcome);
    }
}

pub(super) struct Bench {
    pub engine: Engine,
    pub gate: Sender<()>,
    /// See [`MatcherThreads`].
    pub mask_delay_ms: Arc<AtomicU64>,
}

pub(super) fn bench(fault: Fault, depth: usize, max_num_seqs: usize, max_waiting: usize) -> Bench {
    // No test but one asks for a limit of what a client lags behind.
    let backlog = Backlog { tokens: usize::MAX, logprobs: usize::MAX };
    bench_with(fault, depth, max_num_seqs, max_waiting, backlog, true)
}

/// `ends`: the model has a token that ends a text.
pub(super) fn bench_with(
    fault: Fault,
    depth: usize,
    max_num_seqs: usize,
    max_waiting: usize,
    backlog: Backlog,
    ends: bool,
) -> Bench {
    let tokenizer = Arc::new(Tokenizer::load(Path::new(TOKENIZER)).expect("fixture"));
    let scheduler = Scheduler::new(SchedulerConfig {
        max_num_seqs,
        max_num_batched_tokens: 64,
        max_model_len: 256,
        page_size: 16,
        pages: 64,
        depth,
        long_prefill_token_threshold: 0,
        long_prefill_adaptive: false,
        step_ms: 0.0,
        chunked_prefill: true,
        prefix_caching: true,
        state: None,
        pooling: false,
        watermark: 0.0,
        reserve_full_isl: true,
        max_loras: 1,
        speculation: None,
        images: None,
    })
    .expect("a valid config");

    let (commands, inbox) = unbounded();
    let health = Arc::new(Health::new(QueueLimit::new(max_num_seqs + max_waiting)));
    let shared =
        Shared { observer: Arc::new(Ignore), commands: commands.clone(), health: health.clone() };
    let watchdog = Watchdog::start("test", health.clone(), Some(STEP_LIMIT)).expect("a thread");
    let outboxes = Outboxes::start("test", 2, backlog, &shared).expect("threads");

    let (gate, wait) = bounded(16);
    let runner = Scripted { depth, fault, gate: wait, queue: Default::default() };
    let matchers = MatcherThreads::start("test", 1, GRAMMAR_LIMIT, &commands).expect("threads");
    let (drop_thread, mask_delay_ms) = (matchers.drop_thread(), matchers.delay_ms.clone());
    let helpers = Helpers { outboxes, matchers, adapters: HostAdapters::default() };
    let meter = Meter::new(Arc::new(Ignore), None);
    let core = StepLoop::new(Box::new(runner), scheduler, inbox, helpers, shared, meter, 1);
    let thread = std::thread::spawn(move || core.run());

    let eos: Vec<TokenId> = tokenizer.eos().into_iter().filter(|_| ends).collect();
    let intake = Arc::new(Intake {
        queued_prompts: QueuedPrompts::new(None),
        adapters: Vec::new(),
        grammars: Grammars::new(tokenizer.clone(), 4096, &eos, Default::default(), GRAMMAR_LIMIT),
        eos,
        tokenizer,
        max_model_len: 256,
        vocab_size: 4096,
        seed: 0,
        log_requests: false,
        commands: commands.clone(),
        drop_thread,
        ids: Arc::default(),
        embedder: None,
        images: None,
    });

    let (prepare, mut threads) =
        PrepareThreads::start("test", &intake, GRAMMAR_LIMIT).expect("threads");
    threads.push(thread);

    let facts = EngineFacts {
        device_kind: DeviceKind::Cpu,
        device: "scripted".into(),
        dtype: "float32".into(),
        kv_dtype: "float32".into(),
        max_model_len: 256,
        max_num_seqs: max_num_seqs as u32,
        max_num_batched_tokens: 64,
        kv_tokens: 1024,
        vocab_size: 4096,
        embeds: false,
        adapters: None,
        images: false,
    };

    let engine = Engine {
        facts,
        health,
        intake,
        commands,
        prepare: Some(prepare),
        threads,
        watchdog: Some(watchdog),
    };
    Bench { engine, gate, mask_delay_ms }
}

/// What this client asks for.
pub(super) fn request(
    client: Arc<dyn Client>,
    stream: bool,
    sampling: &str,
) -> Result<GenerateRequest> {
    Ok(GenerateRequest {
        prompt: "The most dangerous animal is".into(),
        images: Vec::new(),
        params: SamplingParams::parse_text(sampling, &SamplingLimits::new(4096, 20))?,
        stream,
        returns: Returns::default(),
        client,
        arrival: Instant::now(),
        options: RequestOptions::default(),
    })
}

impl Bench {
    pub(super) fn submit(
        &self,
        stream: bool,
        sampling: &str,
    ) -> Result<(Arc<Probe>, Receiver<Result<Answer>>)> {
        self.submit_with(stream, sampling, RequestOptions::default())
    }

    pub(super) fn submit_with(
        &self,
        stream: bool,
        sampling: &str,
        options: RequestOptions,
    ) -> Result<(Arc<Probe>, Receiver<Result<Answer>>)> {
        let (outcome, told) = bounded(4);
        let client = Arc::new(Probe {
            gone: AtomicBool::new(false),
            finals: AtomicUsize::new(0),
            deltas: AtomicUsize::new(0),
            answers: Default::default(),
            outcome,
        });

        let request = request(client.clone(), stream, sampling)?;
        self.engine.submit(GenerateRequest { options, ..request })?;
        Ok((client, told))
    }
}

pub(super) const GREEDY: &str = r#"{"temperature": 0, "max_tokens": 12, "ignore_eos": true}"#;
pub(super) const LONG: &str = r#"{"temperature": 0, "max_tokens": 200, "ignore_eos": true}"#;

#[test]
fn every_request_gets_all_its_tokens_and_one_final() {
    for depth in [1, 2] {
        let bench = bench(Fault::None, depth, 4, 64);
        let all: Vec<_> =
            (0..40).map(|i| bench.submit(i % 2 == 0, GREEDY).expect("room")).collect();
        for (i, (client, told)) in all.iter().enumerate() {
            let answer = told.recv_timeout(PATIENCE).expect("a final").expect("an answer");
            let last = &answer.outputs[0];
            assert_eq!(last.finish_reason, Some(FinishReason::Length));
            let total = client.deltas.load(Ordering::Acquire) + last.tokens as usize;
            assert_eq!(total, 12, "request {i}, depth {depth}");
            assert_eq!(answer.prompt_tokens, 11);
        }
        assert_eq!(bench.engine.in_flight(), 0);
        bench.engine.drain(PATIENCE);
    }
}

#[test]
fn a_client_that_leaves_is_answered_and_frees_its_place() {
    let bench = bench(Fault::Gate(3), 1, 1, 8);
    let (running, told) = bench.submit(true, LONG).expect("room");
    let (waiting, told_waiting) = bench.submit(true, LONG).expect("room");
    running.gone.store(true, Ordering::Release);
    waiting.gone.store(true, Ordering::Release);
    bench.gate.send(()).expect("engine lives");
    for told in [told, told_waiting] {
        let outcome = told.recv_timeout(PATIENCE).expect("a final");
        assert!(matches!(outcome, Err(Error::Cancelled(_))), "{outcome:?}");
    }
    let (_, told) = bench.submit(false, GREEDY).expect("room again");
    assert!(told.recv_timeout(PATIENCE).expect("a final").is_ok());
    bench.engine.drain(PATIENCE);
}

#[test]
fn a_device_error_or_panic_fails_all_now_and_later() {
    for fault in [Fault::Error(4), Fault::Panic(4)] {
        let bench = bench(fault, 2, 2, 8);
        let all: Vec<_> = (0..6).filter_map(|_| bench.submit(true, LONG).ok()).collect();
        assert!(!all.is_empty());
        for (_, told) in &all {
            let outcome = told.recv_timeout(PATIENCE).expect("a final");
            assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
        }
        assert!(matches!(bench.engine.health(), Err(Error::Unavailable(_))));
        let refused = bench.submit(true, GREEDY).err().expect("refused at once");
        assert!(refused.message().contains("scripted"), "{refused}");
        bench.engine.drain(PATIENCE);
    }
}

#[test]
fn a_drain_waits_until_its_deadline_and_then_fails_the_rest() {
    let patient = bench(Fault::None, 2, 4, 8);
    let (_, told) = patient.submit(false, LONG).expect("room");
    patient.engine.drain(PATIENCE);
    assert!(told.recv_timeout(PATIENCE).expect("a final").is_ok(), "it had the time");

    let hasty = bench(Fault::Gate(2), 1, 1, 8);
    let all: Vec<_> = (0..3).map(|_| hasty.submit(true, LONG).expect("room")).collect();
    let gate = hasty.gate.clone();
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        let _ = gate.send(());
    });
    hasty.engine.drain(Duration::ZERO);
    opener.join().expect("opened");
    for (_, told) in all {
        let outcome = told.recv_timeout(PATIENCE).expect("a final");
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    }
}

#[test]
fn a_stop_string_ends_the_request_and_frees_the_engine() {
    let bench = bench(Fault::None, 2, 1, 8);
    let (_, told) = bench.submit(false, LONG).expect("room");
    let whole = told.recv_timeout(PATIENCE).expect("a final").expect("an answer");
    let text = &whole.outputs[0].text;
    let stop: String = text.chars().skip(8).take(4).collect();
    let sampling = serde_json::json!({"temperature": 0, "max_tokens": 200, "stop": [stop]});
    let (client, told) = bench.submit(true, &sampling.to_string()).expect("room");
    let answer = told.recv_timeout(PATIENCE).expect("a final").expect("an answer");
    assert_eq!(answer.outputs[0].finish_reason, Some(FinishReason::Stop));
    assert!(client.deltas.load(Ordering::Acquire) < 200);
    let (_, told) = bench.submit(false, GREEDY).expect("room");
    assert!(told.recv_timeout(PATIENCE).expect("a final").is_ok(), "the only slot is free again");
    bench.engine.drain(PATIENCE);
}

#[test]
fn a_stuck_step_fails_all_while_it_is_still_stuck() {
    let bench = bench(Fault::Gate(3), 1, 2, 8);
    let all: Vec<_> = (0..5).map(|_| bench.submit(true, LONG).expect("room")).collect();
    for (_, told) in &all {
        let error = told.recv_timeout(PATIENCE).expect("a final").expect_err("it is stuck");
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert!(error.message().contains("step-timeout-ms"), "{error}");
    }
    assert_eq!(bench.engine.in_flight(), 0);
    assert!(bench.submit(true, GREEDY).is_err_and(|e| matches!(e, Error::Unavailable(_))));
    // The step ends after all: its tokens go to nobody, and the threads can be joined.
    bench.gate.send(()).expect("the engine thread waits");
    bench.engine.drain(PATIENCE);
    for (client, told) in &all {
        assert!(told.try_recv().is_err() && client.finals.load(Ordering::Acquire) == 1);
    }
}

#[test]
fn an_unload_ends_although_the_engine_thread_hangs() {
    let bench = bench(Fault::Gate(2), 1, 1, 8);
    let (_, told) = bench.submit(true, LONG).expect("room");
    let gate = bench.gate.clone();
    bench.engine.drain(Duration::ZERO);
    let outcome = told.try_recv().expect("answered before the unload was over");
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    drop(gate);
}

#[test]
fn a_timeout_ends_a_request_and_no_other() {
    let bench = bench(Fault::Gate(2), 1, 1, 8);
    let (_, running) = bench.submit(true, GREEDY).expect("room");
    let hasty =
        RequestOptions { timeout: Some(Duration::from_millis(5)), ..RequestOptions::default() };
    let (_, waiting) = bench.submit_with(false, GREEDY, hasty).expect("room");
    std::thread::sleep(Duration::from_millis(10));
    bench.gate.send(()).expect("engine lives");
    let error = waiting.recv_timeout(PATIENCE).expect("a final").expect_err("too late");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(error.message().contains("5000 us"), "{error}");
    assert!(running.recv_timeout(PATIENCE).expect("a final").is_ok());
    bench.engine.drain(PATIENCE);
}

const THREE: &str = r#"{"n": 3, "seed": 5, "max_tokens": 12, "ignore_eos": true}"#;

/// Whole answers and deltas alike: an entry per sequence, in index order, and a reason stays.
#[test]
fn all_sequences_of_a_request_come_in_one_answer() {
    for (depth, stream) in [(1, false), (2, false), (1, true), (2, true)] {
        // Two slots for three sequences: they end at different times.
        let bench = bench(Fault::None, depth, 2, 64);
        let (client, told) = bench.submit(stream, THREE).expect("room");
        let last = told.recv_timeout(PATIENCE).expect("a final").expect("an answer");
        let mut answers = std::mem::take(&mut *client.answers.lock());
        assert_eq!(stream, !answers.is_empty(), "depth {depth}");
        answers.push(last);
        let mut ended = [None; 3];
        for answer in &answers {
            assert_eq!(answer.outputs.len(), 3);
            for (output, ended) in answer.outputs.iter().zip(&mut ended) {
                assert!(ended.is_none() || (output.tokens == 0 && output.finish_reason == *ended));
                *ended = output.finish_reason;
            }
        }
        assert_eq!(ended, [Some(FinishReason::Length); 3]);
        for index in 0..3 {
            let tokens: u32 = answers.iter().map(|a| a.outputs[index].tokens).sum();
            let text: String = answers.iter().map(|a| &*a.outputs[index].text).collect();
            assert_eq!(tokens, 12, "sequence {index}, depth {depth}, stream {stream}");
            assert!(text.len() > 12);
        }
        assert_eq!(bench.engine.in_flight(), 0);
        bench.engine.drain(PATIENCE);
    }
}

#[test]
fn a_cancel_ends_all_sequences_with_one_final() {
    let bench = bench(Fault::Gate(3), 1, 2, 8);
    let long = r#"{"n": 5, "max_tokens": 200, "ignore_eos": true}"#;
    let (client, told) = bench.submit(true, long).expect("room");
    client.gone.store(true, Ordering::Release);
    bench.gate.send(()).expect("engine lives");
    let outcome = told.recv_timeout(PATIENCE).expect("a final");
    assert!(matches!(outcome, Err(Error::Cancelled(_))), "{outcome:?}");
    let (_, told) = bench.submit(false, THREE).expect("room again");
    assert!(told.recv_timeout(PATIENCE).expect("a final").is_ok());
    assert_eq!(bench.engine.in_flight(), 0);
    bench.engine.drain(PATIENCE);
}

#[test]
fn a_stop_string_ends_one_sequence_and_not_the_others() {
    let bench = bench(Fault::None, 1, 4, 8);
    // Step 1 says " '", then " b", " if", " p", "it" follow in turn. The first sequence is one step
    // ahead of the other, which sees no quote before its last token.
    let sampling = r#"{"n": 2, "max_tokens": 5, "ignore_eos": true, "stop": "' b"}"#;
    let (_, told) = bench.submit(false, sampling).expect("room");
    let answer = told.recv_timeout(PATIENCE).expect("a final").expect("an answer");
    let [ahead, behind] = &answer.outputs[..] else { panic!("two sequences: {answer:?}") };
    assert_eq!((&*ahead.text, ahead.tokens), (" ", 2));
    assert_eq!(ahead.finish_reason, Some(FinishReason::Stop));
    assert_eq!((&*behind.text, behind.tokens), (" b if pit '", 5));
    assert_eq!(behind.finish_reason, Some(FinishReason::Length));
    bench.engine.drain(PATIENCE);
}

#[test]
fn sequences_count_in_the_limit() {
    let bench = bench(Fault::Gate(1), 1, 2, 4);
    let refused = bench.submit(false, r#"{"n": 7}"#).err().expect("more than ever fits");
    assert!(matches!(refused, Error::InvalidArgument(_)), "{refused}");
    assert!(refused.message().starts_with("n is 7, but at most 6 sequences"), "{refused}");
    let (_, told) = bench.submit(false, r#"{"n": 4, "max_tokens": 2}"#).expect("room");
    let refused = bench.submit(false, THREE).err().expect("no room now");
    assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
    bench.gate.send(()).expect("engine lives");
    assert!(told.recv_timeout(PATIENCE).expect("a final").is_ok());
    assert_eq!(bench.engine.in_flight(), 0);
    bench.engine.drain(PATIENCE);
}
