//! The engine's observations as Triton metrics, with the names, helps and buckets that dashboards
//! of the incumbent know. Called by `model` at load and by engine and outbox threads after. It
//! counts only.

mod engine;

use std::ffi::CStr;
use std::ptr;
use std::sync::OnceLock;

use self::engine::EngineSeries;
use super::error::{c_text, check};
use super::sys::{self, call, *};
use crate::engine::args::HistogramBuckets;
use crate::engine::{Observation, Observer};
use crate::error::{Error, Result};
use crate::internal;

const TTFT_S: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const PER_TOKEN_S: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const E2E_S: &[f64] = &[1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0];
const N: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// Metrics of one model, empty until its first engine is loaded and for good if they are switched
/// off.
#[derive(Default)]
pub(super) struct ModelMetrics {
    series: OnceLock<Series>,
}

struct Series {
    prompt_tokens: Metric,
    generation_tokens: Metric,
    running: Metric,
    waiting: Metric,
    kv_usage: Metric,
    /// None on servers without histograms.
    histograms: Option<Histograms>,
    engine: EngineSeries,
}

struct Histograms {
    ttft: Metric,
    per_token: Metric,
    e2e: Metric,
    prompt_tokens: Metric,
    generation_tokens: Metric,
    n: Metric,
}

impl ModelMetrics {
    /// Register the series. A server without metrics is no error: one line in the log.
    pub(super) fn register(
        &self,
        model: &str,
        version: u64,
        max_model_len: u32,
        buckets: &HistogramBuckets,
    ) {
        if self.series.get().is_some() {
            return;
        }
        match Series::new(model, version, max_model_len, buckets) {
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

impl Observer for ModelMetrics {
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
}

impl Series {
    fn new(
        model: &str,
        version: u64,
        max_model_len: u32,
        buckets: &HistogramBuckets,
    ) -> Result<Series> {
        let labels = Labels::new(model, version)?;
        let counter = |name, help| {
            Metric::new(sys::TRITONSERVER_METRIC_KIND_COUNTER, name, help, &labels, None)
        };
        let gauge = |name, help| {
            Metric::new(sys::TRITONSERVER_METRIC_KIND_GAUGE, name, help, &labels, None)
        };
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
            )?,
            waiting: gauge(
                c"vllm:num_requests_waiting",
                c"Number of requests waiting to be processed.",
            )?,
            kv_usage: gauge(
                c"vllm:kv_cache_usage_perc",
                c"KV-cache usage. 1 means 100 percent usage.",
            )?,
            engine: EngineSeries::new(model, version, &labels, buckets)?,
            histograms: Histograms::new(&labels, max_model_len, buckets)?,
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
        let histogram = |name, help, buckets| {
            Metric::new(sys::TRITONSERVER_METRIC_KIND_HISTOGRAM, name, help, labels, Some(buckets))
        };
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

/// `model`, `version` and what else tells the series of a family apart, as the server's parameters.
struct Labels(Vec<*mut TRITONSERVER_Parameter>);

impl Labels {
    fn new(model: &str, version: u64) -> Result<Labels> {
        Labels::with(model, version, &[])
    }

    fn with(model: &str, version: u64, more: &[(&CStr, &str)]) -> Result<Labels> {
        let Some(api) = sys::api() else { return Err(internal!("metrics without a server")) };
        let make = |name: &CStr, value: &str| {
            let value = c_text(value);
            let kind = sys::TRITONSERVER_PARAMETER_STRING;
            // SAFETY: both texts are NUL-terminated and copied by the server.
            unsafe {
                api.required.TRITONSERVER_ParameterNew(name.as_ptr(), kind, value.as_ptr().cast())
            }
        };
        let mut all = vec![make(c"model", model), make(c"version", &version.to_string())];
        all.extend(more.iter().map(|(name, value)| make(name, value)));
        Ok(Labels(all))
    }
}

impl Drop for Labels {
    fn drop(&mut self) {
        if let Some(api) = sys::api() {
            for label in self.0.drain(..).filter(|label| !label.is_null()) {
                // SAFETY: ParameterNew made it and only we hold it.
                unsafe { api.required.TRITONSERVER_ParameterDelete(label) };
            }
        }
    }
}

/// A series and its family. The family is shared by the server with equal ones.
struct Metric {
    metric: *mut TRITONSERVER_Metric,
    family: *mut TRITONSERVER_MetricFamily,
}

// SAFETY: the server guards metrics against several threads.
unsafe impl Send for Metric {}
unsafe impl Sync for Metric {}

impl Metric {
    fn new(
        kind: TRITONSERVER_MetricKind,
        name: &CStr,
        help: &CStr,
        labels: &Labels,
        buckets: Option<&[f64]>,
    ) -> Result<Metric> {
        let mut made = Metric { metric: ptr::null_mut(), family: ptr::null_mut() };
        let family = &mut made.family;
        call!(TRITONSERVER_MetricFamilyNew(family, kind, name.as_ptr(), help.as_ptr()))?;
        let mut names: Vec<_> = labels.0.iter().map(|label| label.cast_const()).collect();
        let (first, count) = (names.as_mut_ptr(), names.len() as u64);
        match buckets {
            None => {
                call!(TRITONSERVER_MetricNew(&mut made.metric, made.family, first, count))?;
            }
            Some(buckets) => made.with_buckets(first, count, buckets)?,
        }
        Ok(made)
    }

    fn with_buckets(
        &mut self,
        labels: *mut *const TRITONSERVER_Parameter,
        label_count: u64,
        buckets: &[f64],
    ) -> Result<()> {
        let missing = || Error::Unsupported("histograms".into());
        let newer = &sys::api().ok_or_else(missing)?.newer;
        let (Ok(make), Ok(set), Ok(delete), Ok(new)) = (
            &newer.TRITONSERVER_MetricArgsNew,
            &newer.TRITONSERVER_MetricArgsSetHistogram,
            &newer.TRITONSERVER_MetricArgsDelete,
            &newer.TRITONSERVER_MetricNewWithArgs,
        ) else {
            return Err(missing());
        };
        let mut args: *mut TRITONSERVER_MetricArgs = ptr::null_mut();
        // SAFETY: out-parameters are ours, buckets and labels live through the calls that read
        // them, and the arguments are deleted once.
        unsafe {
            check(make(&mut args))?;
            let made = check(set(args, buckets.as_ptr(), buckets.len() as u64)).and_then(|()| {
                check(new(&mut self.metric, self.family, labels, label_count, args))
            });
            check(delete(args))?;
            made
        }
    }

    fn add(&self, by: f64) {
        let _ = call!(TRITONSERVER_MetricIncrement(self.metric, by));
    }

    fn set(&self, value: f64) {
        let _ = call!(TRITONSERVER_MetricSet(self.metric, value));
    }

    fn observe(&self, value: f64) {
        if let Some(Ok(observe)) = sys::api().map(|api| &api.newer.TRITONSERVER_MetricObserve) {
            // SAFETY: the metric is live until Drop.
            let _ = check(unsafe { observe(self.metric, value) });
        }
    }
}

impl Drop for Metric {
    fn drop(&mut self) {
        if !self.metric.is_null() {
            let _ = call!(TRITONSERVER_MetricDelete(self.metric));
        }
        if !self.family.is_null() {
            let _ = call!(TRITONSERVER_MetricFamilyDelete(self.family));
        }
    }
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
