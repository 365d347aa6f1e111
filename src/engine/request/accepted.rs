//! A request as intake hands it to the engine thread: tokenised, checked, with the rules that end
//! it. Plain data, but for [`StopRules::check`].

use std::sync::Arc;
use std::time::Instant;

use super::client::{Client, FinishReason};
use super::embedding::EmbedOptions;
use super::queued_prompts::QueuedPrompt;
use crate::engine::grammar::MatcherState;
use crate::engine::output::SequenceLogprobs;
use crate::ids::{AdapterId, RequestId, TokenId};
use crate::plan::PromptImages;
use crate::sampling::{RepetitionRule, SamplerSpec};
use crate::text::TextStream;

/// A request on its way to the scheduler. It goes by the id of its first sequence.
pub(crate) struct Accepted {
    pub ids: SequenceIds,
    pub adapter: AdapterId,
    pub prompt: Arc<[TokenId]>,
    /// What some of its tokens stand for.
    pub images: Option<Arc<PromptImages>>,
    /// Counts the prompt as queued, until there is a first token.
    pub queued: QueuedPrompt,
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
pub(crate) struct NewOutput {
    pub sampler: Arc<SamplerSpec>,
    pub text: TextStream,
    /// None: nobody reads logprobs.
    pub logprobs: Option<SequenceLogprobs>,
    /// None: any token may be sampled.
    pub matcher_state: Option<Box<MatcherState>>,
}

/// The ids of a request's sequences: `count` (the request's `n`) in a row.
#[derive(Clone, Copy)]
pub(crate) struct SequenceIds {
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

/// When the engine thread ends a request by its tokens (stop strings are found by the outbox).
pub(crate) struct StopRules {
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
pub(crate) struct Finish {
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
        if outputs >= self.max_tokens {
            return Some(Finish { reason: FinishReason::Length, by_token: false });
        }
        repetition.then_some(Finish { reason: FinishReason::Repetition, by_token: false })
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
