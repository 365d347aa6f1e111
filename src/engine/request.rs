//! What enters and leaves the heart: a request with its client on one side, answers on the other.
//! The door implements [`Client`] and [`Observer`]; nothing here knows Triton.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::meter::Spent;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::sampling::SamplingParams;

/// A request that passed validation. `Engine::submit` takes it or refuses it at once.
pub struct GenerateRequest {
    /// The prompt as sent. Tokenised with the tokenizer's own special tokens (BOS).
    pub prompt: String,
    pub params: SamplingParams,
    /// Deltas as they come, or one answer at the end.
    pub stream: bool,
    pub returns: Returns,
    pub client: Arc<dyn Client>,
    /// When the door saw it: TTFT and latency count from here.
    pub arrival: Instant,
    pub options: RequestOptions,
}

/// What a request asks of its serving, beside its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOptions {
    /// From acceptance to the end; what is unfinished then fails. None = for ever.
    pub timeout: Option<Duration>,
    /// Among waiting requests a smaller number goes first; equal ones in order of arrival.
    pub priority: u64,
}

impl Default for RequestOptions {
    /// Patient, and behind those who name a priority.
    fn default() -> Self {
        RequestOptions { timeout: None, priority: u64::MAX }
    }
}

/// What of an [`Output`] the client reads, where making it costs something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Returns {
    /// If the parameters ask for logprobs at all.
    pub logprobs: bool,
    pub cumulative_logprob: bool,
}

/// The other end of a request. Called from outbox threads; from the engine thread only to ask
/// whether it is gone, and when the engine dies.
pub trait Client: Send + Sync {
    /// The client went away. Polled once a step, also while the request waits; must be cheap.
    fn cancelled(&self) -> bool;
    /// Why the request need not go on. Polled like `cancelled`.
    fn gone(&self) -> Option<Error> {
        self.cancelled().then(|| Error::Cancelled("Request was cancelled".into()))
    }
    /// A response could be taken now. If not, a thread that has others to answer comes back to this
    /// one; `respond` and `finish` may be called nevertheless, and wait.
    fn ready(&self) -> bool {
        true
    }
    /// A delta of a streaming request that is not the last one.
    fn respond(&self, answer: Answer);
    /// The last word: exactly once per accepted request. For a stream the answer is the last delta,
    /// for a non-stream the whole. After `Err(Cancelled)` nobody listens, but the response is still
    /// owed.
    fn finish(&self, outcome: Result<Answer>);
}

/// Deltas since the previous answer (for a stream) or everything (otherwise).
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Tokens of the prompt, special tokens included.
    pub prompt_tokens: u32,
    /// One per requested sequence (`n`), in index order.
    pub outputs: Vec<Output>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// New text; may be empty (held back, half a character, nothing new).
    pub text: String,
    /// New tokens.
    pub tokens: u32,
    /// None while running. A sequence that ended before others of its request keeps its reason in
    /// their answers.
    pub finish_reason: Option<FinishReason>,
    /// Sum of the logprobs of all its tokens so far; NaN if it was not asked for.
    pub cumulative_logprob: f32,
    /// One per new token; None if they were not asked for.
    pub logprobs: Option<Vec<Position>>,
}

/// The logprobs at one position: its own token first, then others, no token twice.
pub type Position = Vec<LogprobEntry>;

#[derive(Debug, Clone, PartialEq)]
pub struct LogprobEntry {
    pub token: TokenId,
    /// Natural logarithm; may be -inf.
    pub logprob: f32,
    /// 1 = the most likely.
    pub rank: u32,
    /// What the token adds to the text; None without detokenisation.
    pub text: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// eos, a stop id or a stop string.
    Stop,
    /// max_tokens or the model's length.
    Length,
    /// The output went round in a circle.
    Repetition,
    Abort,
    Error,
}

impl FinishReason {
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Repetition => "repetition",
            FinishReason::Abort => "abort",
            FinishReason::Error => "error",
        }
    }
}

/// Sees what happens, for metrics. Called from outbox and engine threads; must not block.
pub trait Observer: Send + Sync {
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
