//! What the engine tells whoever counts: latencies, tokens, queues, health. `triton` implements
//! [`Observer`] for its metrics; nothing here knows how they are shown.

use super::client::FinishReason;

/// Sees what happens, for metrics. Called from outbox and engine threads; must not block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn observe(&self, observation: Observation);

    /// The engine is dead, and no client was told yet: all wait until this returns.
    fn dying(&self) {}
}

/// Facts worth counting. Times in seconds of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Observation {
    /// A sequence's first token left the engine.
    FirstToken { prompt_tokens: u32, ttft_s: f64 },
    /// `tokens` new tokens of one sequence in one step (1 without drafts).
    Generated { tokens: u32 },
    /// Time between two steps of one sequence that each gave tokens.
    InterToken { seconds: f64 },
    /// A sequence ended by itself (not by cancel or error). A request has `n` of them.
    Finished { reason: FinishReason, e2e_s: f64, prompt_tokens: u32, output_tokens: u32 },
    /// All sequences of a request ended by themselves.
    Answered { n: u32 },
    /// After a step: lengths of the queues, and the share of pages in use, 0..=1.
    Load { running: u32, waiting: u32, kv_usage: f64 },
    /// A request got its first slot: how long it waited since it arrived.
    Queued { seconds: f64 },
    /// A request's first token was read: time since its first slot.
    Prefill { seconds: f64 },
    /// The engine is done with a request, whatever the reason.
    Ended { reason: FinishReason, spent: Option<Spent> },
    /// A round of the engine thread: its length, its part outside the device's calls, token rows.
    Step { seconds: f64, host_s: f64, tokens: u32 },
    /// In that round: tokens asked of the prefix cache and found there, sequences preempted.
    Cache { queries_tokens: u64, hits_tokens: u64, preemptions: u64 },
    /// A request failed because its logits, or its vector, were not finite.
    Corrupted,
    /// The engine can serve, or cannot any more.
    Healthy(bool),
}

/// Where an ended request's time went, if it ever got a token. Seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spent {
    /// First token to last.
    pub decode_s: f64,
    /// First slot to last token.
    pub inference_s: f64,
    /// Tokens that were sampled for it.
    pub output_tokens: u32,
}
