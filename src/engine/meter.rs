//! Measures the engine thread: how long requests wait, are fed and generate, what steps cost, what
//! the prefix cache gives. Called by `step_loop` as things happen; tells the observer, and the
//! trace file if there is one. It decides nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::draft_meter::DraftMeter;
use super::request::{FinishReason, Observation, Observer, Spent};
use crate::error::{Error, Result};
use crate::ids::{AdapterId, RequestId};
use crate::invalid;
use crate::plan::StepPlan;
use crate::scheduler::{DraftStats, SchedulerStats};

pub(crate) struct Meter {
    observer: Arc<dyn Observer>,
    trace: Option<StepTrace>,
    times: HashMap<RequestId, Times>,
    last: SchedulerStats,
    drafts: DraftMeter,
    /// Adapters with sequences that run, and that wait, as they were told.
    adapters: (Vec<AdapterId>, Vec<AdapterId>),
    /// This round of the loop.
    round: Round,
}

struct Round {
    began: Instant,
    /// Inside the device's calls.
    device: Duration,
    tokens: usize,
    rows: usize,
    /// The step enqueued last.
    step: u64,
}

/// One request's moments on the engine thread.
struct Times {
    arrival: Instant,
    scheduled: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    tokens: u32,
}

impl Meter {
    pub fn new(observer: Arc<dyn Observer>, trace: Option<StepTrace>) -> Meter {
        let round =
            Round { began: Instant::now(), device: Duration::ZERO, tokens: 0, rows: 0, step: 0 };
        Meter {
            observer,
            trace,
            times: HashMap::new(),
            last: SchedulerStats::default(),
            drafts: DraftMeter::new(false),
            adapters: Default::default(),
            round,
        }
    }

    /// Lines in the log say how drafts fare.
    pub fn log_drafts(self) -> Meter {
        Meter { drafts: DraftMeter::new(true), ..self }
    }

    pub fn arrived(&mut self, id: RequestId, arrival: Instant) {
        let times =
            Times { arrival, scheduled: None, first_token: None, last_token: None, tokens: 0 };
        self.times.insert(id, times);
    }

    /// The loop has something to do.
    pub fn round_begins(&mut self) {
        let step = self.round.step;
        self.round =
            Round { began: Instant::now(), device: Duration::ZERO, tokens: 0, rows: 0, step };
    }

    /// A plan was made; `admitted` got their first slot in it.
    pub fn planned(&mut self, plan: &StepPlan, admitted: impl Iterator<Item = RequestId>) {
        self.round.tokens += plan.tokens();
        self.round.rows += plan.chunks.len();
        self.round.step = plan.step;
        let now = Instant::now();
        for id in admitted {
            let Some(times) = self.times.get_mut(&id) else { continue };
            times.scheduled = Some(now);
            let seconds = seconds(times.arrival, now);
            self.observer.observe(Observation::Queued { seconds });
        }
    }

    /// Run a call of the device on the clock.
    pub fn device<T>(&mut self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let outcome = call();
        self.round.device += began.elapsed();
        outcome
    }

    /// A request got a token in the step that was collected at `at`.
    pub fn token(&mut self, id: RequestId, at: Instant) {
        let Some(times) = self.times.get_mut(&id) else { return };
        times.tokens += 1;
        times.last_token = Some(at);
        if times.first_token.is_none() {
            times.first_token = Some(at);
            let seconds = seconds(times.scheduled.unwrap_or(at), at);
            self.observer.observe(Observation::Prefill { seconds });
        }
    }

    /// A request is over.
    pub fn ended(&mut self, id: RequestId, reason: FinishReason) {
        let Some(times) = self.times.remove(&id) else { return };
        let spent = times.last_token.map(|last| Spent {
            decode_s: seconds(times.first_token.unwrap_or(last), last),
            inference_s: seconds(times.scheduled.unwrap_or(last), last),
            output_tokens: times.tokens,
        });
        self.observer.observe(Observation::Ended { reason, spent });
    }

    /// A request fails because its logits are not finite.
    pub fn corrupted(&self) {
        self.observer.observe(Observation::Corrupted);
    }

    /// Where things stand, when no step is going to say so.
    pub fn load(&self, stats: &SchedulerStats) {
        self.observer.observe(Observation::Load {
            running: stats.running as u32,
            waiting: stats.waiting as u32,
            kv_usage: stats.kv_usage,
        });
    }

    /// Adapters that sequences run with, and that they wait for or with. Says so if it is news.
    pub fn adapters(&mut self, running: Vec<AdapterId>, waiting: Vec<AdapterId>) {
        let adapters = (running, waiting);
        if self.adapters != adapters {
            self.observer.adapters(&adapters.0, &adapters.1);
            self.adapters = adapters;
        }
    }

    /// What became of drafts since the start, after a round.
    pub fn drafts(&mut self, stats: &DraftStats) {
        if let Some(news) = self.drafts.news(stats) {
            self.observer.drafts(&news);
        }
        if let Some(line) = self.drafts.line(Instant::now()) {
            tracing::info!("{line}");
        }
    }

    /// The loop has done what it had to: a step was collected, or only requests ended.
    pub fn round_ends(&mut self, stats: SchedulerStats) {
        let last = std::mem::replace(&mut self.last, stats);
        let round = &self.round;
        self.load(&stats);
        self.observer.observe(Observation::Cache {
            queries_tokens: stats.prefix_queries_tokens - last.prefix_queries_tokens,
            hits_tokens: stats.prefix_hits_tokens - last.prefix_hits_tokens,
            preemptions: stats.preemptions - last.preemptions,
        });
        let took = round.began.elapsed();
        self.observer.observe(Observation::Step {
            seconds: took.as_secs_f64(),
            host_s: took.saturating_sub(round.device).as_secs_f64(),
            tokens: round.tokens as u32,
        });
        if let Some(trace) = &mut self.trace {
            trace.write(round, took, &stats);
        }
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

/// Rounds of the engine as Chrome's trace events (chrome://tracing, Perfetto): one complete event
/// each, with an inner one for the device's part.
pub(crate) struct StepTrace {
    file: BufWriter<File>,
    epoch: Instant,
    events: u32,
}

/// About 300 MB. The file ends there, the engine goes on.
const EVENTS_MAX: u32 = 1_000_000;
const FLUSH_EVERY: u32 = 512;

impl StepTrace {
    /// # Errors
    /// InvalidArgument: the file cannot be written.
    pub fn create(path: &Path) -> Result<StepTrace> {
        let wrong = |e: std::io::Error| -> Error {
            invalid!("--backend-config=vllm,step-trace-dir: {}: {e}", path.display())
        };
        let mut file = BufWriter::new(File::create(path).map_err(wrong)?);
        file.write_all(b"[\n").and_then(|()| file.flush()).map_err(wrong)?;
        Ok(StepTrace { file, epoch: Instant::now(), events: 0 })
    }

    fn write(&mut self, round: &Round, took: Duration, stats: &SchedulerStats) {
        if self.events >= EVENTS_MAX {
            return;
        }
        let ts = round.began.saturating_duration_since(self.epoch).as_micros();
        let event = serde_json::json!({
            "name": "step", "ph": "X", "pid": 1, "tid": 1,
            "ts": ts as u64,
            "dur": took.as_micros() as u64,
            "args": {
                "step": round.step, "rows": round.rows, "tokens": round.tokens,
                "running": stats.running, "waiting": stats.waiting, "kv_usage": stats.kv_usage,
                "device_us": round.device.as_micros() as u64,
            },
        });
        // What cannot be written is not worth a request.
        let _ = writeln!(self.file, "{event},");
        self.events += 1;
        if self.events.is_multiple_of(FLUSH_EVERY) {
            let _ = self.file.flush();
        }
        if self.events == EVENTS_MAX {
            tracing::warn!("the step trace is full after {EVENTS_MAX} steps");
        }
    }
}

impl Drop for StepTrace {
    /// The last event has no comma behind it: the file is whole JSON.
    fn drop(&mut self) {
        let ts = self.epoch.elapsed().as_micros();
        let last = r#"{"name":"end","ph":"i","s":"g","pid":1,"tid":1,"ts":"#;
        let _ = writeln!(self.file, "{last}{ts}}}\n]").and_then(|()| self.file.flush());
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::ids::SlotId;
    use crate::plan::Feed;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Observation>>, Mutex<Vec<(Vec<AdapterId>, Vec<AdapterId>)>>);

    impl Observer for Heard {
        fn observe(&self, observation: Observation) {
            self.0.lock().push(observation);
        }

        fn adapters(&self, running: &[AdapterId], waiting: &[AdapterId]) {
            self.1.lock().push((running.to_vec(), waiting.to_vec()));
        }
    }

    #[test]
    fn adapters_are_told_when_they_change() {
        let heard = Arc::new(Heard::default());
        let mut meter = Meter::new(heard.clone(), None);
        let (one, both) = (vec![AdapterId(1)], vec![AdapterId(1), AdapterId(2)]);
        meter.adapters(Vec::new(), Vec::new());
        for _ in 0..3 {
            meter.adapters(one.clone(), both.clone());
        }
        meter.adapters(both.clone(), one.clone());
        assert_eq!(*heard.1.lock(), [(one.clone(), both.clone()), (both, one)]);
    }

    #[test]
    fn a_requests_phases_add_up_and_a_step_is_written() {
        let path = std::env::temp_dir().join(format!("meter-{}.json", std::process::id()));
        let heard = Arc::new(Heard::default());
        let trace = StepTrace::create(&path).unwrap();
        let mut meter = Meter::new(heard.clone(), Some(trace));
        let (id, lost) = (RequestId(1), RequestId(2));
        meter.arrived(id, Instant::now());
        meter.arrived(lost, Instant::now());
        meter.round_begins();
        let mut plan = StepPlan { step: 5, ..StepPlan::default() };
        plan.push(SlotId(0), Feed::Known(0..7), true);
        meter.planned(&plan, [id].into_iter());
        let pause = Duration::from_millis(20);
        let slept = || {
            std::thread::sleep(pause);
            Ok(())
        };
        meter.device(slept).unwrap();
        meter.token(id, Instant::now());
        let stats = SchedulerStats { preemptions: 2, ..SchedulerStats::default() };
        meter.round_ends(stats);
        meter.token(id, Instant::now() + pause);
        meter.ended(id, FinishReason::Length);
        meter.ended(lost, FinishReason::Abort);
        drop(meter);

        let heard = heard.0.lock();
        let step = heard.iter().find_map(|o| match o {
            Observation::Step { seconds, host_s, tokens: 7 } => Some((*seconds, *host_s)),
            _ => None,
        });
        let (took_s, host_s) = step.expect("a step of 7 tokens");
        assert!(took_s >= 0.02 && host_s < took_s - 0.019, "{took_s} {host_s}");
        assert!(heard.iter().any(|o| matches!(o, Observation::Cache { preemptions: 2, .. })));
        assert!(heard
            .iter()
            .any(|o| matches!(o, Observation::Prefill { seconds } if *seconds >= 0.02)));
        let Some(Observation::Ended { spent: Some(spent), reason: FinishReason::Length }) =
            heard.iter().find(|o| matches!(o, Observation::Ended { spent: Some(_), .. }))
        else {
            panic!("{heard:?}")
        };
        assert!(spent.output_tokens == 2 && spent.inference_s >= spent.decode_s + 0.02);
        let aborted = Observation::Ended { reason: FinishReason::Abort, spent: None };
        assert!(heard.contains(&aborted));

        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let events: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(events[0]["args"]["step"], 5);
        assert!(events[0]["dur"].as_u64().unwrap() >= 20_000, "{events}");
        assert_eq!(events[1]["name"], "end");
    }
}
