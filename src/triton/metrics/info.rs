//! Gauges that say something in their labels, for gateways that choose between servers: how large
//! the KV cache is, and which LoRA adapters are in use. Names, labels and helps are those of
//! vLLM's own server. Called by `metrics`; it counts nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::registry::{Join, Kind, Labels, Metric};
use crate::error::Result;
use crate::ids::AdapterId;

/// The size of the KV cache. Always 1.
pub(super) struct CacheInfo {
    _series: Metric,
}

impl CacheInfo {
    pub(super) fn new(labels: &Labels, block_size: u32, kv_tokens: u64) -> Result<CacheInfo> {
        let labels = labels
            .with(c"block_size", &block_size.to_string())
            .with(c"num_gpu_blocks", &blocks(block_size, kv_tokens).to_string());
        let series = Metric::new(
            c"vllm:cache_config_info",
            c"Information of the LLMEngine CacheConfig",
            &labels,
            Kind::Gauge(Join::Most),
        )?;
        series.set(1.0);
        Ok(CacheInfo { _series: series })
    }
}

/// As vLLM counts them: with the one that holds nothing.
fn blocks(block_size: u32, kv_tokens: u64) -> u64 {
    match kv_tokens {
        0 => 0,
        tokens => tokens / u64::from(block_size) + 1,
    }
}

/// The adapters of requests that run and that wait. Each time they change there is another series,
/// and the one before goes: its value is the time, by which a reader finds the newest of several
/// instances.
pub(super) struct LoraInfo {
    labels: Labels,
    /// By `AdapterId`, from 1.
    names: Vec<String>,
    shown: Mutex<Option<Metric>>,
}

impl LoraInfo {
    pub(super) fn new(labels: &Labels, max_loras: usize, names: &[String]) -> LoraInfo {
        let labels = labels.with(c"max_lora", &max_loras.to_string());
        let info = LoraInfo { labels, names: names.to_vec(), shown: Mutex::default() };
        info.show(&[], &[]);
        info
    }

    pub(super) fn show(&self, running: &[AdapterId], waiting: &[AdapterId]) {
        let labels = self
            .labels
            .with(c"running_lora_adapters", &self.names_of(running))
            .with(c"waiting_lora_adapters", &self.names_of(waiting));
        let series = Metric::new(
            c"vllm:lora_requests_info",
            c"Running stats on lora requests.",
            &labels,
            Kind::Gauge(Join::Most),
        );
        // A series that the server does not make is not worth a request.
        let Ok(series) = series else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        series.set(now.as_secs_f64());
        // The one before goes only now: a reader always finds one.
        *self.shown.lock() = Some(series);
    }

    fn names_of(&self, adapters: &[AdapterId]) -> String {
        let name = |id: &AdapterId| self.names.get(id.index().wrapping_sub(1)).map(String::as_str);
        adapters.iter().filter_map(name).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn the_null_page_is_counted_as_vllm_does() {
        assert_eq!(blocks(16, 21 * 16), 22);
        assert_eq!(blocks(16, 0), 0, "a model without a KV cache");
    }
}
