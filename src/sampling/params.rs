//! Validated sampling parameters of one request. The engine reads the fields and makes the device's
//! [`SamplerSpec`] from them. What a client may write is read and judged in `parse`, `raw` and
//! `verify`; nothing here can be wrong any more.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{LogprobSpec, SamplerSpec, StructuredOutputs};
use crate::ids::TokenId;

/// Every value is inside its range: nothing downstream checks again.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Sequences to generate, at least 1.
    pub n: u32,
    /// [-2, 2]
    pub presence_penalty: f64,
    /// [-2, 2]
    pub frequency_penalty: f64,
    /// [1e-20, 1e20]: validation brings others there.
    pub repetition_penalty: f64,
    /// 0 (greedy) or [0.01, 2].
    pub temperature: f64,
    /// (0, 1]
    pub top_p: f64,
    /// 0 = off.
    pub top_k: u32,
    /// [0, 1]
    pub min_p: f64,
    /// Of the random numbers; None = one is drawn for the request.
    pub seed: Option<i64>,
    /// At least 1; None = as many as the model's length leaves.
    pub max_tokens: Option<u32>,
    /// No stop before so many output tokens; not above `max_tokens`.
    pub min_tokens: u32,
    /// The tokenizer's end token ends nothing.
    pub ignore_eos: bool,
    /// No text is empty, their order is the client's.
    pub stop: Vec<String>,
    /// In the client's order, each once.
    pub stop_token_ids: Vec<TokenId>,
    /// A stop string that was found is part of the text.
    pub include_stop_str_in_output: bool,
    /// False: no text at all, tokens only.
    pub detokenize: bool,
    /// Special tokens are no text.
    pub skip_special_tokens: bool,
    /// False, and they are text: consecutive added tokens are not set apart.
    pub spaces_between_special_tokens: bool,
    /// How many of the most likely tokens are reported; -1 = the whole vocabulary.
    pub logprobs: Option<i64>,
    /// Checked and then without effect: no output tensor carries them.
    pub prompt_logprobs: Option<i64>,
    /// Clamped to [-100, 100].
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Nothing else is sampled; not empty.
    pub allowed_token_ids: Option<Vec<TokenId>>,
    /// Report these tokens in place of the most likely ones.
    pub logprob_token_ids: Option<Vec<TokenId>>,
    /// Texts that the output may not contain; none is empty.
    pub bad_words: Vec<String>,
    /// What the output must look like.
    pub structured_outputs: Option<StructuredOutputs>,
    /// When an output that repeats itself ends.
    pub repetition_detection: Option<RepetitionRule>,
    /// Compute the whole prompt, whatever of it is cached.
    pub skip_reading_prefix_cache: bool,
    /// The adapter to use. Whether it exists is the caller's question.
    pub lora_name: Option<String>,
    /// Tokens between two responses of a stream, at least 1; None = as the engine argument says.
    pub stream_interval: Option<u32>,
}

/// The output ends when its newest tokens are one pattern of `sizes` tokens, `count` times in a
/// row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepetitionRule {
    /// From 1 on, not empty.
    pub sizes: RangeInclusive<u32>,
    /// At least 2.
    pub count: u32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            n: 1,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: None,
            max_tokens: Some(16),
            min_tokens: 0,
            ignore_eos: false,

            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            include_stop_str_in_output: false,
            detokenize: true,
            skip_special_tokens: true,
            spaces_between_special_tokens: true,
            logprobs: None,
            prompt_logprobs: None,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            logprob_token_ids: None,
            bad_words: Vec::new(),
            structured_outputs: None,
            repetition_detection: None,
            skip_reading_prefix_cache: false,
            lora_name: None,
            stream_interval: None,
        }
    }
}

impl SamplingParams {
    /// Logprobs of sampled tokens are to be reported.
    pub fn wants_logprobs(&self) -> bool {
        self.logprobs.is_some() || self.logprob_token_ids.is_some()
    }

    /// What a device needs. `eos`: the tokenizer's eos and all of generation_config; they are
    /// masked with the stop ids until `min_tokens`, even when `ignore_eos`. `fallback_seed` is used
    /// without a seed. `bad_words` are those of the parameters as tokens, which only a tokenizer
    /// can tell.
    pub fn sampler(
        &self,
        eos: &[TokenId],
        fallback_seed: u64,
        mut bad_words: Vec<Box<[TokenId]>>,
    ) -> SamplerSpec {
        SamplerSpec::sort_bad_words(&mut bad_words);
        let greedy = self.temperature == 0.0;
        let mut masked = Vec::new();
        if self.min_tokens > 0 {
            masked.extend(eos.iter().chain(&self.stop_token_ids));
            masked.sort_unstable();
            masked.dedup();
        }
        SamplerSpec {
            temperature: self.temperature as f32,
            top_k: if greedy { 0 } else { self.top_k },
            // As f32 a tiny top_p could become 0, which keeps nothing.
            top_p: if greedy { 1.0 } else { (self.top_p as f32).max(f32::MIN_POSITIVE) },
            min_p: if greedy { 0.0 } else { self.min_p as f32 },
            repetition_penalty: self.repetition_penalty as f32,
            frequency_penalty: self.frequency_penalty as f32,
            presence_penalty: self.presence_penalty as f32,
            seed: self.seed.map_or(fallback_seed, |seed| seed as u64),
            ahead: 0,
            min_tokens: self.min_tokens,
            masked_until_min: Arc::from(masked),
            allowed: self.allowed_token_ids.as_deref().map(mask_of),
            bias: Arc::from(&*self.logit_bias),
            bad_words: Arc::from(bad_words),
            logprobs: match &self.logprob_token_ids {
                Some(tokens) => Some(LogprobSpec::Tokens(Arc::from(&**tokens))),
                None => self.logprobs.map(top_logprobs),
            },
            prompt_logprobs: self.prompt_logprobs.map(top_logprobs),
        }
    }
}

/// Bit i of word i/32 = token i is in the list.
fn mask_of(tokens: &[TokenId]) -> Arc<[u32]> {
    let words = tokens.iter().map(|t| t.index() / 32 + 1).max().unwrap_or(0);
    let mut mask = vec![0; words];
    tokens.iter().for_each(|t| mask[t.index() / 32] |= 1 << (t.0 % 32));
    Arc::from(mask)
}

/// -1 = the whole vocabulary.
fn top_logprobs(count: i64) -> LogprobSpec {
    LogprobSpec::Top(u32::try_from(count).unwrap_or(u32::MAX))
}
