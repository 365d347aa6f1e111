//! The other end of a request, and what it is given: answers with their outputs and logprobs.
//! `triton` implements [`Client`]; nothing here knows Triton.

use crate::error::{Error, Result};
use crate::ids::TokenId;

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
    /// The end: exactly once per accepted request. For a stream the answer is the last delta,
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

/// One sequence's part of an [`Answer`].
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

/// The logprob of one token at one position.
#[derive(Debug, Clone, PartialEq)]
pub struct LogprobEntry {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm; may be -inf.
    pub logprob: f32,
    /// 1 = the most likely.
    pub rank: u32,
    /// What the token adds to the text; None without detokenisation.
    pub text: Option<String>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// eos, a stop id or a stop string.
    Stop,
    /// max_tokens or the model's length.
    Length,
    /// The output repeats itself (`repetition_detection`).
    Repetition,
    /// Cancelled.
    Abort,
    /// The request failed.
    Error,
}

impl FinishReason {
    /// As answers and metrics spell it.
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
