//! What the scheduler tells `engine`: tokens that came, and where things stand. Plain data.

use crate::ids::{RequestId, TokenId};

/// New tokens of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub id: RequestId,
    /// Oldest first, at least one.
    pub tokens: Vec<TokenId>,
    /// `max_tokens` or `max_model_len` is reached: these were the last, the sequence has left.
    pub at_limit: bool,
}

/// Where things stand, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SchedulerStats {
    pub running: usize,
    pub waiting: usize,
    /// Share of the pool in use, 0..=1.
    pub kv_usage: f64,
    /// Since the start: tokens looked up in the prefix cache, and found there.
    pub prefix_queries_tokens: u64,
    pub prefix_hits_tokens: u64,
    /// Since the start.
    pub preemptions: u64,
}
