//! What the engine tells of itself: latencies, tokens, queues, health. `triton` implements
//! [`Observer`] for its metrics; nothing here knows how they are shown.

use super::client::FinishReason;
use crate::ids::AdapterId;
use crate::scheduler::DraftStats;

/// Sees what happens, for metrics. Called from outbox and engine threads; must not block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn observe(&self, observation: Observation);

    /// Other adapters than before have sequences that run, or that wait. Each list is in order.
    fn adapters(&self, _running: &[AdapterId], _waiting: &[AdapterId]) {}

    /// A round verified drafts: what became of them.
    fn drafts(&self, _new: &DraftStats) {}

    /// The engine is dead, and no client was told yet: all wait until this returns.
    fn dying(&self) {}
}

/// Facts worth counting. Times in seconds of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Observation {
    /// A sequence's first token left the engine.
    FirstToken {
        /// Tokens of its prompt.
        prompt_tokens: u32,
        /// Since the request came from the server.
        ttft_s: f64,
    },
    /// A step gave tokens to a sequence.
    Generated {
        /// New tokens of that sequence.
        tokens: u32,
    },
    /// A step gave tokens to a sequence that had some already.
    InterToken {
        /// Since the step that gave it the ones before.
        seconds: f64,
    },
    /// A sequence ended by itself (not by cancel or error). A request has `n` of them.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// Since the request came from the server.
        e2e_s: f64,
        /// Tokens of its prompt.
        prompt_tokens: u32,
        /// Tokens that it generated.
        output_tokens: u32,
    },
    /// All sequences of a request ended by themselves.
    Answered {
        /// How many they are.
        n: u32,
    },
    /// The state of the queues, after a step.
    Load {
        /// Sequences that have a slot.
        running: u32,
        /// Sequences that wait for one.
        waiting: u32,
        /// Share of pages in use, 0..=1.
        kv_usage: f64,
    },
    /// A sequence got its first slot.
    Queued {
        /// How long it waited since it arrived.
        seconds: f64,
    },
    /// A sequence's first token was read.
    Prefill {
        /// Since its first slot.
        seconds: f64,
    },
    /// The engine is done with a sequence, whatever the reason.
    Ended {
        /// Why it ended.
        reason: FinishReason,
        /// None: it never got a token.
        spent: Option<Spent>,
    },
    /// A round of the engine thread.
    Step {
        /// Its length.
        seconds: f64,
        /// The part of it outside the device's calls.
        host_s: f64,
        /// Token rows of the steps that were planned in it.
        tokens: u32,
    },
    /// What a round did to the KV cache.
    Cache {
        /// Tokens that were looked up in the prefix cache.
        queries_tokens: u64,
        /// Tokens of those that were found there.
        hits_tokens: u64,
        /// Sequences that were preempted.
        preemptions: u64,
    },
    /// A request failed because its logits, or its vector, were not finite.
    Corrupted,
    /// The engine can serve, or cannot any more.
    Healthy(bool),
}

/// Where an ended sequence's time went, if it ever got a token. Seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spent {
    /// First token to last.
    pub decode_s: f64,
    /// First slot to last token.
    pub inference_s: f64,
    /// Tokens that were sampled for it.
    pub output_tokens: u32,
}
