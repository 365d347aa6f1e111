//! The engine's observations as Triton metrics, with the names, helps and buckets that dashboards
//! of the Python backend know. Called by `model` at load and by engine and outbox threads after. It
//! counts only.

mod buckets;
mod drafts;
mod engine;
mod info;
mod registry;

use std::sync::OnceLock;

use self::buckets::{E2E_S, N, PER_TOKEN_S, TTFT_S};
use self::drafts::DraftSeries;
use self::engine::EngineSeries;
use self::info::{CacheInfo, LoraInfo};
pub(in crate::triton) use self::registry::close;
use self::registry::{Join, Kind, Labels, Metric};
use super::sys;
use crate::engine::args::HistogramBuckets;
use crate::engine::{DraftStats, EngineArgs, EngineFacts, Observation, Observer};
use crate::error::Result;
use crate::ids::AdapterId;

/// Metrics of one engine, empty until it is loaded and for good if they are switched off.
/// Instances of a model share their series, and so do the old and the new version of one that is
/// loaded again; the series go with the last of them.
pub(super) struct Metrics {
    /// Its number, where an instance has several.
    engine: Option<usize>,
    series: OnceLock<Series>,
}

struct Series {
    prompt_tokens: Metric,
    generation_tokens: Metric,
    running: Metric,
    waiting: Metric,
    kv_usage: Metric,
    _cache: CacheInfo,
    /// None: LoRA is off.
    lora: Option<LoraInfo>,
    /// None on servers without histograms.
    histograms: Option<Histograms>,
    engine: EngineSeries,
    /// None: there are no drafts.
    drafts: Option<DraftSeries>,
}

struct Histograms {
    ttft: Metric,
    per_token: Metric,
    e2e: Metric,
    prompt_tokens: Metric,
    generation_tokens: Metric,
    n: Metric,
}

impl Metrics {
    /// `engine`: its number, where an instance has several; its series have it as a label.
    pub(super) fn new(engine: Option<usize>) -> Metrics {
        Metrics { engine, series: OnceLock::new() }
    }

    /// Register the series. A server without metrics is no error: one line in the log.
    pub(super) fn register(
        &self,
        model: &str,
        version: u64,
        facts: &EngineFacts,
        args: &EngineArgs,
    ) {
        if self.series.get().is_some() {
            return;
        }
        let labels = Labels::new(model, version).of_engine(self.engine);
        match Series::new(&labels, facts, args) {
            Ok(series) => {
                let _ = self.series.set(series);
            }
            Err(e) if e.message().contains("metrics not supported") => {
                tracing::info!("Metrics not supported");
            }
            Err(e) => tracing::error!("custom metrics are off: {e}"),
        }
    }
}

impl Observer for Metrics {
    fn observe(&self, observation: Observation) {
        let Some(series) = self.series.get() else { return };
        let histograms = series.histograms.as_ref();
        series.engine.observe(observation);
        match observation {
            Observation::FirstToken { prompt_tokens, ttft_s } => {
                series.prompt_tokens.add(f64::from(prompt_tokens));
                histograms.inspect(|h| h.ttft.observe(ttft_s));
            }
            Observation::Generated { tokens } => series.generation_tokens.add(f64::from(tokens)),
            Observation::InterToken { seconds } => {
                histograms.inspect(|h| h.per_token.observe(seconds));
            }

            Observation::Finished { e2e_s, prompt_tokens, output_tokens, .. } => {
                let Some(h) = histograms else { return };
                h.e2e.observe(e2e_s);
                h.prompt_tokens.observe(f64::from(prompt_tokens));
                h.generation_tokens.observe(f64::from(output_tokens));
            }
            Observation::Answered { n } => {
                histograms.inspect(|h| h.n.observe(f64::from(n)));
            }
            Observation::Load { running, waiting, kv_usage } => {
                series.running.set(f64::from(running));
                series.waiting.set(f64::from(waiting));
                series.kv_usage.set(kv_usage);
            }
            _ => {}
        }
    }

    fn drafts(&self, new: &DraftStats) {
        if let Some(drafts) = self.series.get().and_then(|series| series.drafts.as_ref()) {
            drafts.add(new);
        }
    }

    fn adapters(&self, running: &[AdapterId], waiting: &[AdapterId]) {
        if let Some(lora) = self.series.get().and_then(|series| series.lora.as_ref()) {
            lora.show(running, waiting);
        }
    }
}

impl Series {
    fn new(labels: &Labels, facts: &EngineFacts, args: &EngineArgs) -> Result<Series> {
        let buckets = &args.operation.buckets;
        let lora = args.lora.as_ref().zip(facts.adapters.as_ref());
        let counter = |name, help| Metric::new(name, help, labels, Kind::Counter);
        let gauge = |name, help, join| Metric::new(name, help, labels, Kind::Gauge(join));

        Ok(Series {
            prompt_tokens: counter(
                c"vllm:prompt_tokens_total",
                c"Number of prefill tokens processed.",
            )?,
            generation_tokens: counter(
                c"vllm:generation_tokens_total",
                c"Number of generation tokens processed.",
            )?,
            running: gauge(
                c"vllm:num_requests_running",
                c"Number of requests in model execution batches.",
                Join::Sum,
            )?,
            waiting: gauge(
                c"vllm:num_requests_waiting",
                c"Number of requests waiting to be processed.",
                Join::Sum,
            )?,
            kv_usage: gauge(
                c"vllm:kv_cache_usage_perc",
                c"KV-cache usage. 1 means 100 percent usage.",
                Join::Most,
            )?,
            _cache: CacheInfo::new(labels, args.block_size, facts.kv_tokens)?,
            lora: lora.map(|(lora, names)| LoraInfo::new(labels, lora.max_loras, names)),
            engine: EngineSeries::new(labels, buckets)?,
            drafts: DraftSeries::new(labels, args)?,
            histograms: Histograms::new(labels, facts.max_model_len, buckets)?,
        })
    }
}

impl Histograms {
    fn new(
        labels: &Labels,
        max_model_len: u32,
        buckets: &HistogramBuckets,
    ) -> Result<Option<Histograms>> {
        if sys::api().is_none_or(|api| api.newer.TRITONSERVER_MetricNewWithArgs.is_err()) {
            tracing::info!("this server has no histograms: only counters and gauges are reported");
            return Ok(None);
        }

        let lengths = one_two_five(max_model_len);
        let lengths = buckets.of("request_tokens", &lengths);

        let histogram =
            |name, help, buckets| Metric::new(name, help, labels, Kind::Histogram(buckets));
        Ok(Some(Histograms {
            ttft: histogram(
                c"vllm:time_to_first_token_seconds",
                c"Histogram of time to first token in seconds.",
                buckets.of("time_to_first_token", TTFT_S),
            )?,
            per_token: histogram(
                c"vllm:time_per_output_token_seconds",
                c"Histogram of time per output token in seconds.",
                buckets.of("inter_token_latency", PER_TOKEN_S),
            )?,
            e2e: histogram(
                c"vllm:e2e_request_latency_seconds",
                c"Histogram of end to end request latency in seconds.",
                buckets.of("request_latency", E2E_S),
            )?,
            prompt_tokens: histogram(
                c"vllm:request_prompt_tokens",
                c"Number of prefill tokens processed.",
                lengths,
            )?,
            generation_tokens: histogram(
                c"vllm:request_generation_tokens",
                c"Number of generation tokens processed.",
                lengths,
            )?,
            n: histogram(
                c"vllm:request_params_n",
                c"Histogram of the n request parameter.",
                buckets.of("request_params_n", N),
            )?,
        }))
    }
}

/// 1, 2, 5, 10, 20, 50, … up to `max`.
fn one_two_five(max: u32) -> Vec<f64> {
    let decades = (0..10).flat_map(|exponent| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(exponent)));
    decades.take_while(|&bucket| bucket <= f64::from(max)).collect()
}

#[cfg(test)]
mod tests {
    use super::one_two_five;

    #[test]
    fn length_buckets_end_at_the_models_limit() {
        assert_eq!(one_two_five(256), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
        assert_eq!(one_two_five(2048).last(), Some(&2000.0));
        assert_eq!(one_two_five(1), [1.0]);
    }
}
