//! What the scheduler tells `engine`: tokens that came, and where things stand. Plain data.

use crate::ids::{RequestId, TokenId};
use crate::sampling::NonFinite;

/// A new token of a request. A request's tokens come oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Of the sequence.
    pub id: RequestId,
    /// `NonFinite`: there is none, and the sequence is over.
    pub token: Result<TokenId, NonFinite>,
    /// `max_tokens` or `max_model_len` is reached: this was the last, the sequence is over.
    pub at_limit: bool,
    /// Which of the result's samples it is.
    pub sample: usize,
}

/// Where things stand, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SchedulerStats {
    /// Sequences that have a slot.
    pub running: usize,
    /// Sequences that wait for one.
    pub waiting: usize,
    /// Share of the pool in use, 0..=1.
    pub kv_usage: f64,
    /// Tokens that were looked up in the prefix cache, since the start.
    pub prefix_queries_tokens: u64,
    /// Tokens of those that were found there.
    pub prefix_hits_tokens: u64,
    /// Sequences that gave their pages back to be computed again, since the start.
    pub preemptions: u64,
}
