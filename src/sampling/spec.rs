//! What a device needs to choose a token for one slot. Built from `SamplingParams`, sent
//! once when the slot opens. The order of steps on the logits is specified for all devices:
//!
//! 1. token mask of this step (a grammar's): every other token is -inf
//! 2. what `logprobs` and `prompt_logprobs` report is log_softmax of the logits as they are *here*
//! 3. `allowed`: every other token is -inf
//! 4. `bias` is added
//! 5. `min_tokens`: while fewer outputs than that, `masked_until_min` are -inf
//! 6. repetition, frequency, presence penalty
//! 7. `bad_words`: -inf for the last token of each whose other tokens are the newest outputs
//! 8. `temperature` 0: argmax, lowest id wins a tie. Otherwise divide by it, then
//!    min_p, top_k, top_p, then argmax of logit + Gumbel noise keyed by (seed, position of the
//!    chosen token), as [`super::noise`] says; lowest id wins a tie.

use std::sync::Arc;

use crate::ids::TokenId;

/// What a device needs to choose the tokens of one slot.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerSpec {
    /// 0 = greedy. Never in (0, 0.01): validation raises those.
    pub temperature: f32,
    /// Keep the k largest logits, ties with the k-th kept. 0 = off.
    pub top_k: u32,
    /// (0, 1], 1 = off. Over the survivors of min_p and top_k, renormalised: a logit stays if less
    /// than top_p of the probability lies strictly above it. So the largest always stays, ties
    /// together.
    pub top_p: f32,
    /// [0, 1], 0 = off. Drops logits < max + ln(min_p), after temperature.
    pub min_p: f32,
    /// Over prompt and output tokens: logit > 0 is divided by it, else multiplied. 1 = off. Never
    /// outside of [1e-20, 1e20], where finite logits may become infinite.
    pub repetition_penalty: f32,
    /// logit -= frequency_penalty * count in the output. 0 = off.
    pub frequency_penalty: f32,
    /// logit -= presence_penalty if in the output at all. 0 = off.
    pub presence_penalty: f32,
    /// Key of the noise; a request without a seed gets a random one when it is accepted.
    pub seed: u64,
    /// Tokens before the one that is chosen, beyond the positions of the slot: 1 where each row
    /// stands for the token behind its own, as in heads that draft.
    pub ahead: u32,
    /// Outputs before which nothing of `masked_until_min` may be sampled.
    pub min_tokens: u32,
    /// eos and stop ids, which may not be sampled before `min_tokens` outputs.
    pub masked_until_min: Arc<[TokenId]>,
    /// Bit i of word i/32 = token i may be sampled; tokens beyond its end may not. None = all.
    pub allowed: Option<Arc<[u32]>>,
    /// Added to the logits; each token at most once.
    pub bias: Arc<[(TokenId, f32)]>,
    /// Sequences of tokens that the output may not contain; none is empty. The prompt's tokens do
    /// not count as the beginning of one. In the order of [`SamplerSpec::sort_bad_words`], so that
    /// a step looks only at those that its newest output may complete.
    pub bad_words: Arc<[Box<[TokenId]>]>,
    /// Report logprobs with each sampled token.
    pub logprobs: Option<LogprobSpec>,
    /// Report logprobs of the positions that a plan's row scores
    /// ([`crate::plan::Purpose::Report`]).
    pub prompt_logprobs: Option<LogprobSpec>,
}

/// Which logprobs a position reports beside that of its own token.
#[derive(Debug, Clone, PartialEq)]
pub enum LogprobSpec {
    /// Those of the most likely tokens, so many; 0 = none, the vocabulary's size or more = all.
    Top(u32),
    /// Those of these tokens, in this order.
    Tokens(Arc<[TokenId]>),
}

impl SamplerSpec {
    /// Penalties are on, so the device must keep counts of this slot's tokens.
    pub fn needs_counts(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
    }

    /// Ascending by the token before the last one; those of one token first.
    pub fn sort_bad_words(words: &mut [Box<[TokenId]>]) {
        words.sort_by_key(|word| before_last(word));
    }

    /// The bad words whose last token but one is `token`; None: those of one token.
    pub fn bad_words_behind(&self, token: Option<TokenId>) -> &[Box<[TokenId]>] {
        let from = self.bad_words.partition_point(|word| before_last(word) < token);
        let to = self.bad_words.partition_point(|word| before_last(word) <= token);
        &self.bad_words[from..to]
    }

    /// How many of the newest outputs the device must know for `bad_words`.
    pub fn tail_tokens(&self) -> usize {
        self.bad_words.iter().map(|word| word.len().saturating_sub(1)).max().unwrap_or(0)
    }
}

fn before_last(word: &[TokenId]) -> Option<TokenId> {
    word.len().checked_sub(2).map(|at| word[at])
}

impl Default for SamplerSpec {
    fn default() -> Self {
        SamplerSpec {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 0,
            ahead: 0,
            min_tokens: 0,
            masked_until_min: Arc::from([]),
            allowed: None,
            bias: Arc::from([]),
            bad_words: Arc::from([]),
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}
