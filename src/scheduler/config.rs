//! What the scheduler is told once: limits and switches, checked here so that planning need not
//! doubt them, and sequences that could never run. Made by `engine` from the arguments and from the
//! pages that fit; knows neither.

use super::drafts::SpeculationConfig;
use super::images::ImageLimits;
use super::sequence::NewSequence;
use crate::error::Result;
use crate::ids::AdapterId;
use crate::{internal, invalid};

/// What the scheduler knows of a model that keeps a state of each sequence beside pages. A state
/// goes back behind drafts of the newest step and no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateConfig {
    /// Copies that the device keeps, for prefixes to go on from; 0 without the prefix cache.
    pub snapshots: usize,
    /// Tokens from one copy to the next, a multiple of the page size: where prompts are cut.
    pub block: usize,
}

/// The limits and switches. Names are those of the keys in model.json where there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// Sequences that run at the same time; as many slots.
    pub max_num_seqs: usize,
    /// Token rows of one step.
    pub max_num_batched_tokens: usize,
    /// Prompt and output of one sequence at most, in tokens.
    pub max_model_len: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages in the pool, the null page included.
    pub pages: usize,
    /// Tokens that one step feeds of one sequence at most, 0 = no such limit. Has no meaning
    /// without chunked prefill.
    pub long_prefill_token_threshold: usize,
    /// The threshold is at least a step's tokens by the number of sequences that wait and run.
    pub long_prefill_adaptive: bool,
    /// Milliseconds that a step with prompts is to take at most while others generate, as far as
    /// that can be predicted; 0 = no such limit. Has no meaning without chunked prefill.
    pub step_ms: f64,
    /// A prompt may be fed in several steps.
    pub chunked_prefill: bool,
    /// Full pages are found again by their content.
    pub prefix_caching: bool,
    /// The model keeps a state of each sequence.
    pub state: Option<StateConfig>,
    /// Sequences end with their prompt, which may be as long as `max_model_len`: what a step would
    /// sample then is their vector.
    pub pooling: bool,
    /// Share of the pool that an admission leaves free while something is running, [0, 1).
    pub watermark: f64,
    /// Admit a sequence only if pages for all its known tokens are free, not just for its first
    /// chunk.
    pub reserve_full_isl: bool,
    /// Adapters that sequences may run with at the same time; as many adapter slots. 0: none at
    /// all.
    pub max_loras: usize,
    /// Steps that may be planned before the first is committed (`DeviceInfo::depth`).
    pub depth: usize,
    /// Sequences may have drafts.
    pub speculation: Option<SpeculationConfig>,
    /// Prompts may have images.
    pub images: Option<ImageLimits>,
}

impl SchedulerConfig {
    /// # Errors
    /// InvalidArgument with the key to change. What passes here cannot deadlock: each of the limits
    /// lets the first running sequence go on to `max_model_len`, alone if need be.
    pub(super) fn validate(&self) -> Result<()> {
        assert!(self.page_size > 0 && self.depth > 0, "page_size and depth are at least 1");
        let whole =
            |state: StateConfig| state.block > 0 && state.block.is_multiple_of(self.page_size);
        assert!(self.state.is_none_or(whole), "states are kept at ends of pages");
        assert!(self.speculation.is_none() || !self.pooling, "drafts of what generates nothing");

        // What a step takes.
        if self.max_num_seqs == 0 {
            return Err(invalid!("max_num_seqs must be at least 1."));
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            return Err(invalid!(
                "max_num_batched_tokens ({}) must be greater than or equal to max_num_seqs ({}).",
                self.max_num_batched_tokens,
                self.max_num_seqs
            ));
        }
        if !self.chunked_prefill && self.max_num_batched_tokens < self.max_model_len {
            return Err(invalid!(
                "max_num_batched_tokens ({}) is smaller than max_model_len ({}): without chunked \
                 prefill a longer prompt could never run. Increase max_num_batched_tokens, lower \
                 max_model_len, or set enable_chunked_prefill.",
                self.max_num_batched_tokens,
                self.max_model_len
            ));
        }

        if !(self.step_ms >= 0.0 && self.step_ms.is_finite()) {
            return Err(invalid!("a step's time must be 0 or more ms, got {}.", self.step_ms));
        }

        // What the pool takes.
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(invalid!("watermark must be in [0, 1), got {}.", self.watermark));
        }
        let usable_pages = self.pages.saturating_sub(1);
        let needed_pages = self.max_model_len.div_ceil(self.page_size);
        if needed_pages > usable_pages {
            return Err(invalid!(
                "The KV cache has room for {} tokens ({usable_pages} pages of {}), one request may \
                 take {} (max_model_len). Increase gpu_memory_utilization or \
                 num_gpu_blocks_override, or lower max_model_len.",
                usable_pages * self.page_size,
                self.page_size,
                self.max_model_len
            ));
        }
        Ok(())
    }

    /// Can this sequence ever run?
    ///
    /// # Errors
    /// InvalidArgument: an empty prompt, no token to generate, or a prompt that leaves no room for
    /// a token below `max_model_len` (which the pool is known to hold).
    pub(super) fn check(&self, new: &NewSequence) -> Result<()> {
        let prompt_tokens = new.prompt.len();
        if prompt_tokens == 0 {
            return Err(invalid!("The prompt has no tokens."));
        }
        if new.max_tokens == 0 {
            return Err(invalid!("max_tokens must be at least 1, got 0."));
        }
        if prompt_tokens >= self.longest() {
            let max_model_len = self.max_model_len;
            return Err(invalid!(
                "The prompt has {prompt_tokens} tokens and needs room for one more, max_model_len \
                 is {max_model_len} tokens. Shorten the prompt or increase max_model_len."
            ));
        }
        if new.adapter != AdapterId(0) && self.max_loras == 0 {
            return Err(internal!("adapter {} and no adapter slot for it", new.adapter));
        }
        Ok(())
    }

    /// Tokens of a sequence at most, with the one that stands for a vector.
    pub(super) fn longest(&self) -> usize {
        self.max_model_len + usize::from(self.pooling)
    }

    /// Where a chunk from `fed` to `end` of `known` tokens ends, so that the state is kept at as
    /// many borders of blocks as prompts are cut at anyway, and at the last one in front of their
    /// end. `fork` is a border of its own.
    pub(super) fn cut(&self, fed: usize, end: usize, known: usize, fork: Option<usize>) -> usize {
        let Some(state) = self.state.filter(|state| state.snapshots > 0) else { return end };
        // The last token is always fed behind a hit.
        let last = end.min(known.saturating_sub(1));
        let border = last - last % state.block;
        let border = fork.filter(|&fork| fork <= last).map_or(border, |fork| fork.max(border));
        if self.chunked_prefill && border > fed {
            border
        } else {
            end
        }
    }

    /// No chunk ends inside an image.
    pub(super) fn whole_images(&self) -> bool {
        self.images.is_some_and(|limits| limits.whole)
    }

    /// The state is kept behind so many tokens.
    pub(super) fn keeps_state_at(&self, fed: usize, fork: Option<usize>) -> bool {
        let at_border = |state: StateConfig| {
            state.snapshots > 0 && (fed.is_multiple_of(state.block) || fork == Some(fed))
        };
        fed > 0 && self.state.is_some_and(at_border)
    }

    /// How many of `rows` token rows from `fed` on a sequence feeds that has drafts: none beyond a
    /// border of blocks, where the state is to be kept, which it then stands at sooner or later.
    pub(super) fn up_to_border(&self, fed: usize, rows: usize) -> usize {
        match self.state.filter(|state| state.snapshots > 0) {
            Some(state) => rows.min(state.block - fed % state.block),
            None => rows,
        }
    }

    /// How many of `unfed` tokens a sequence may feed in a step, where as many `sequences` wait and
    /// run.
    pub(super) fn share(&self, unfed: usize, sequences: usize) -> usize {
        let fair = if self.long_prefill_adaptive {
            self.max_num_batched_tokens / sequences.max(1)
        } else {
            0
        };
        let threshold = match self.long_prefill_token_threshold {
            0 => usize::MAX,
            _ if !self.chunked_prefill => usize::MAX,
            tokens => tokens.max(fair),
        };
        unfed.min(threshold)
    }
}
