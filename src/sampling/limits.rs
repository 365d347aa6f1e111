//! What the rules of sampling parameters need to know of the model and of the operator. Made by
//! `triton` at load, read by `verify`.

use super::ListLimits;
use crate::error::Result;
use crate::invalid;

/// What validation needs to know of the model.
#[derive(Debug, Clone)]
pub struct SamplingLimits {
    /// Ids from here on are no tokens.
    pub vocab_size: u32,
    /// Engine argument `max_logprobs`; -1 = the whole vocabulary.
    pub max_logprobs: i64,
    /// Sequences that one request may ask for.
    pub max_sequences: u32,
    /// Of the lists that one request brings.
    pub lists: ListLimits,
}

impl SamplingLimits {
    /// The Python backend's own limit of `n`.
    const MAX_SEQUENCES: u32 = 16_384;

    /// The limits of a model whose operator has set nothing.
    pub const fn new(vocab_size: u32, max_logprobs: i64) -> SamplingLimits {
        SamplingLimits {
            vocab_size,
            max_logprobs,
            max_sequences: SamplingLimits::MAX_SEQUENCES,
            lists: ListLimits::DEFAULT,
        }
    }

    /// What `VLLM_MAX_N_SEQUENCES` says, if it is set.
    ///
    /// # Errors
    /// InvalidArgument: not a number from 1 on.
    pub fn with_max_sequences(mut self, said: Option<&str>) -> Result<SamplingLimits> {
        if let Some(text) = said {
            self.max_sequences = text.trim().parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                invalid!("VLLM_MAX_N_SEQUENCES must be a number from 1 on, got {text:?}")
            })?;
        }
        Ok(self)
    }
}
