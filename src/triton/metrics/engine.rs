//! Series that the Python backend lacks, under the names that vLLM's own server gives them, and a
//! few of the engine thread that are ours: `engine_healthy`, `engine_step_time`,
//! `engine_host_time`. Called by `metrics`; it counts only.

use super::buckets::{PER_TOKEN_S, PHASE_S, SLOW_TOKEN_S, STEP_S, STEP_TOKENS};
use super::registry::{Join, Kind, Labels, Metric};
use crate::engine::args::HistogramBuckets;
use crate::engine::{FinishReason, Observation};
use crate::error::Result;
use crate::triton::sys;

/// Each has a series of its own.
const REASONS: [FinishReason; 5] = [
    FinishReason::Stop,
    FinishReason::Length,
    FinishReason::Abort,
    FinishReason::Error,
    FinishReason::Repetition,
];

/// The series of one instance.
pub(super) struct EngineSeries {
    healthy: Metric,
    prefix_queries: Metric,
    prefix_hits: Metric,
    preemptions: Metric,
    corrupted: Metric,
    host_time: Metric,
    /// By finish reason, in the order of `REASONS`.
    success: Vec<Metric>,
    histograms: Option<Histograms>,
}

struct Histograms {
    inter_token: Metric,
    per_token: Metric,
    queue: Metric,
    prefill: Metric,
    decode: Metric,
    inference: Metric,
    step_time: Metric,
    step_tokens: Metric,
}

impl EngineSeries {
    pub(super) fn new(labels: &Labels, buckets: &HistogramBuckets) -> Result<EngineSeries> {
        let counter = |name, help| Metric::new(name, help, labels, Kind::Counter);
        let success = |reason: &FinishReason| {
            let labels = labels.with(c"finished_reason", reason.as_str());
            let help = c"Count of successfully processed requests.";
            Metric::new(c"vllm:request_success_total", help, &labels, Kind::Counter)
        };
        let healthy = Metric::new(
            c"vllm:engine_healthy",
            c"1 while the engine can serve, 0 once it is dead or while it is loaded again.",
            labels,
            Kind::Gauge(Join::Least),
        )?;
        healthy.set(1.0);

        Ok(EngineSeries {
            healthy,
            prefix_queries: counter(
                c"vllm:prefix_cache_queries_total",
                c"Prefix cache queries, in terms of number of queried tokens.",
            )?,
            prefix_hits: counter(
                c"vllm:prefix_cache_hits_total",
                c"Prefix cache hits, in terms of number of cached tokens.",
            )?,
            preemptions: counter(
                c"vllm:num_preemptions_total",
                c"Cumulative number of preemption from the engine.",
            )?,
            corrupted: counter(
                c"vllm:corrupted_requests_total",
                c"Requests that failed because their logits were not finite (NaN or infinity).",
            )?,
            host_time: counter(
                c"vllm:engine_host_time_seconds_total",
                c"Time of the engine thread outside the device's calls, in seconds.",
            )?,
            success: REASONS.iter().map(success).collect::<Result<_>>()?,
            histograms: Histograms::new(labels, buckets)?,
        })
    }

    pub(super) fn observe(&self, observation: Observation) {
        let histograms = self.histograms.as_ref();
        match observation {
            Observation::InterToken { seconds } => {
                histograms.inspect(|h| h.inter_token.observe(seconds));
            }
            Observation::Queued { seconds } => {
                histograms.inspect(|h| h.queue.observe(seconds));
            }
            Observation::Prefill { seconds } => {
                histograms.inspect(|h| h.prefill.observe(seconds));
            }
            Observation::Ended { reason, spent } => {
                let known = self.success.iter().zip(REASONS).filter(|(_, r)| *r == reason);
                known.for_each(|(series, _)| series.add(1.0));
                if let (Some(spent), Some(h)) = (spent, histograms) {
                    h.decode.observe(spent.decode_s);
                    h.inference.observe(spent.inference_s);
                    // One token has no gaps: 0, as in vLLM.
                    let gaps = spent.output_tokens.saturating_sub(1).max(1);
                    h.per_token.observe(spent.decode_s / f64::from(gaps));
                }
            }
            Observation::Step { seconds, host_s, tokens } => {
                self.host_time.add(host_s);
                let Some(h) = histograms else { return };
                h.step_time.observe(seconds);
                h.step_tokens.observe(f64::from(tokens));
            }
            Observation::Cache { queries_tokens, hits_tokens, preemptions } => {
                let grown = [
                    (&self.prefix_queries, queries_tokens),
                    (&self.prefix_hits, hits_tokens),
                    (&self.preemptions, preemptions),
                ];
                for (series, by) in grown.into_iter().filter(|(_, by)| *by > 0) {
                    series.add(by as f64);
                }
            }
            Observation::Corrupted => self.corrupted.add(1.0),
            Observation::Healthy(healthy) => self.healthy.set(f64::from(u8::from(healthy))),
            _ => {}
        }
    }
}

impl Histograms {
    fn new(labels: &Labels, buckets: &HistogramBuckets) -> Result<Option<Histograms>> {
        if sys::api().is_none_or(|api| api.newer.TRITONSERVER_MetricNewWithArgs.is_err()) {
            return Ok(None);
        }
        let token_s = [PER_TOKEN_S, SLOW_TOKEN_S].concat();
        let token_s = buckets.of("inter_token_latency", &token_s);
        let phase_s = buckets.of("request_latency", PHASE_S);
        let histogram =
            |name, help, buckets| Metric::new(name, help, labels, Kind::Histogram(buckets));

        Ok(Some(Histograms {
            inter_token: histogram(
                c"vllm:inter_token_latency_seconds",
                c"Histogram of inter-token latency in seconds.",
                token_s,
            )?,
            per_token: histogram(
                c"vllm:request_time_per_output_token_seconds",
                c"Histogram of time_per_output_token_seconds per request.",
                token_s,
            )?,
            queue: histogram(
                c"vllm:request_queue_time_seconds",
                c"Histogram of time spent in WAITING phase for request.",
                phase_s,
            )?,
            prefill: histogram(
                c"vllm:request_prefill_time_seconds",
                c"Histogram of time spent in PREFILL phase for request.",
                phase_s,
            )?,
            decode: histogram(
                c"vllm:request_decode_time_seconds",
                c"Histogram of time spent in DECODE phase for request.",
                phase_s,
            )?,
            inference: histogram(
                c"vllm:request_inference_time_seconds",
                c"Histogram of time spent in RUNNING phase for request.",
                phase_s,
            )?,
            step_time: histogram(
                c"vllm:engine_step_time_seconds",
                c"Histogram of the length of an engine step in seconds.",
                STEP_S,
            )?,
            step_tokens: histogram(
                c"vllm:iteration_tokens_total",
                c"Histogram of number of tokens per engine_step.",
                buckets.of("iteration_tokens", STEP_TOKENS),
            )?,
        }))
    }
}
