//! Limits of the queue and of a step that vLLM has had since 0.26, beside `max_num_seqs`
//! and `max_num_batched_tokens`, which size the device's buffers. Called by `args`.

use super::values::Reader;
use crate::error::Result;
use crate::invalid;

/// `None` = not set: no limit of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitArgs {
    /// Sequences that run or wait; one more is refused with UNAVAILABLE. Wins over `max-waiting`.
    pub max_num_queued_reqs: Option<usize>,
    /// Prompt tokens of requests without a first token yet; once as many are there, the next
    /// request is refused with UNAVAILABLE.
    pub max_num_queued_tokens: Option<usize>,
    /// Tokens that a step computes, at most `max_num_batched_tokens`.
    pub max_num_scheduled_tokens: Option<usize>,
    /// Sequences that run at the same time, at most `max_num_seqs`.
    pub max_num_active_seqs: Option<usize>,
    /// `long_prefill_token_threshold_adaptive`. True: raise the threshold to a fair share of a
    /// step's tokens, and cut prompts by predicted time; false: neither. None: by time unless there
    /// is a threshold.
    pub long_prefill_adaptive: Option<bool>,
}

impl LimitArgs {
    /// # Errors
    /// InvalidArgument: more than what it is part of.
    pub(super) fn check(&self, batched_tokens: Option<u32>, seqs: Option<u32>) -> Result<()> {
        let within = [
            (
                ("max_num_scheduled_tokens", self.max_num_scheduled_tokens),
                ("max_num_batched_tokens", batched_tokens),
            ),
            (("max_num_active_seqs", self.max_num_active_seqs), ("max_num_seqs", seqs)),
        ];
        for ((key, value), (bound_key, bound)) in within {
            let (Some(value), Some(bound)) = (value, bound) else { continue };
            if value > bound as usize {
                return Err(invalid!(
                    "{key} ({value}) cannot be greater than {bound_key} ({bound})."
                ));
            }
        }
        Ok(())
    }
}

/// # Errors
/// InvalidArgument: a value out of range.
pub(super) fn read(read: &mut Reader) -> Result<LimitArgs> {
    Ok(LimitArgs {
        max_num_queued_reqs: read.at_least("max_num_queued_reqs", 0)?,
        max_num_queued_tokens: read.at_least("max_num_queued_tokens", 0)?,
        max_num_scheduled_tokens: read.at_least("max_num_scheduled_tokens", 1)?,
        max_num_active_seqs: read.at_least("max_num_active_seqs", 1)?,
        long_prefill_adaptive: read.boolean("long_prefill_token_threshold_adaptive")?,
    })
}
