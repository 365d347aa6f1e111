//! What other threads ask of the engine thread, and what a request carries to it. Sent by `intake`
//! and `outbox`, obeyed by `step`; it does nothing itself but tell when tokens end a request.

use std::sync::Arc;
use std::time::Instant;

use super::grammar_matchers::MatcherState;
use super::pooling::EmbedOptions;
use super::queued::Queued;
use super::request::{Client, FinishReason};
use super::scores::Scores;
use crate::error::Result;
use crate::ids::{AdapterId, RequestId, TokenId};
use crate::model::Adapter;
use crate::sampling::{RepetitionRule, SamplerSpec};
use crate::text::TextStream;

/// What other threads ask of the engine thread.
pub(super) enum Command {
    Submit(Box<Accepted>),
    /// An outbox found a stop string: the sequence is over, only its slot is still taken.
    Stopped(RequestId),
    /// A sequence's matcher took its token and knows what may follow.
    MatcherState(RequestId, Box<MatcherState>),
    /// An outbox died; `Health` has the cause.
    Poisoned,
    /// The reader of adapters is done with one.
    Adapter {
        id: AdapterId,
        outcome: Result<Adapter>,
    },
    Drain {
        deadline: Instant,
    },
}

/// A request on its way to the scheduler. It goes by the id of its first sequence.
pub(super) struct Accepted {
    pub ids: SequenceIds,
    pub adapter: AdapterId,
    pub prompt: Arc<[TokenId]>,
    /// The prompt's place in the queue, until there is a first token.
    pub queued: Queued,
    /// `ids.count` of them, in index order.
    pub sequences: Vec<NewOutput>,
    pub limits: Arc<StopRules>,
    pub client: Arc<dyn Client>,
    pub stream: bool,
    /// The request's own; None = the engine's.
    pub stream_interval: Option<u32>,
    /// Text is wanted as it comes: for deltas, or to find stop strings.
    pub eager: bool,
    pub arrival: Instant,
    /// Compute the whole prompt, whatever of it is cached.
    pub skip_cache: bool,
    pub priority: u64,
    /// The prompt is embedded and nothing is generated.
    pub embedding: Option<EmbedOptions>,
}

/// What is a sequence's own.
pub(super) struct NewOutput {
    pub sampler: Arc<SamplerSpec>,
    pub text: TextStream,
    /// None: nobody reads logprobs.
    pub scores: Option<Scores>,
    /// None: any token may be sampled.
    pub matcher_state: Option<Box<MatcherState>>,
}

/// The ids of a request's sequences: `count` (the request's `n`) in a row.
#[derive(Clone, Copy)]
pub(super) struct SequenceIds {
    pub first: RequestId,
    pub count: u32,
}

impl SequenceIds {
    /// The sequence with this index.
    pub fn id(&self, index: usize) -> RequestId {
        RequestId(self.first.0 + index as u64)
    }

    pub fn ids(self) -> impl DoubleEndedIterator<Item = RequestId> {
        (0..self.count as usize).map(move |index| self.id(index))
    }
}

/// When the engine thread ends a request by its tokens (stop strings are the outbox's affair).
pub(super) struct StopRules {
    /// Output tokens at most; already cut to the room that the prompt leaves.
    pub max_tokens: u32,
    /// Before that many outputs nothing stops.
    pub min_tokens: u32,
    /// Ascending: looked up at each token.
    pub stop_ids: Vec<TokenId>,
    pub repetition: Option<RepetitionRule>,
}

/// Why the engine ended a request.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    pub reason: FinishReason,
    /// The last token is an eos or stop id: its text is not part of the answer.
    pub by_token: bool,
}

impl StopRules {
    /// After the `outputs`-th token, which closed a repetition or not: does the request end here?
    pub fn check(&self, outputs: u32, token: TokenId, repetition: bool) -> Option<Finish> {
        if outputs < self.min_tokens {
            return None;
        }
        if self.stop_ids.binary_search(&token).is_ok() {
            return Some(Finish { reason: FinishReason::Stop, by_token: true });
        }
        let reason = match outputs >= self.max_tokens {
            true => FinishReason::Length,
            false => FinishReason::Repetition,
        };
        let over = outputs >= self.max_tokens || repetition;
        over.then_some(Finish { reason, by_token: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_rules_follow_the_order_of_the_specification() {
        let stop_ids = vec![TokenId(1), TokenId(2), TokenId(9)];
        let rules = StopRules { max_tokens: 5, min_tokens: 3, stop_ids, repetition: None };
        assert!(rules.check(2, TokenId(2), true).is_none(), "before min_tokens nothing stops");
        let stop = rules.check(3, TokenId(2), true).expect("active at min_tokens");
        assert!(stop.by_token && stop.reason == FinishReason::Stop);
        assert!(rules.check(4, TokenId(7), false).is_none());
        let repetition = rules.check(4, TokenId(7), true).expect("a repetition");
        assert!(!repetition.by_token && repetition.reason == FinishReason::Repetition);
        let length = rules.check(5, TokenId(7), true).expect("max_tokens");
        assert!(!length.by_token && length.reason == FinishReason::Length);
        let both = rules.check(5, TokenId(2), false).expect("a stop id on the last token");
        assert_eq!(both.reason, FinishReason::Stop);
    }
}
