//! Prompt tokens of requests that have no token of their own yet, for `max_num_queued_tokens`. A
//! request counts from the moment its prompt is tokenised until its first token or its end, with
//! its whole prompt: what of it was computed or cached is not taken off.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crate::error::{Error, Result};

#[derive(Default)]
pub(super) struct PromptQueue {
    tokens: AtomicUsize,
    /// `max_num_queued_tokens`
    limit: Option<usize>,
}

impl PromptQueue {
    pub fn new(limit: Option<usize>) -> Arc<PromptQueue> {
        Arc::new(PromptQueue { tokens: AtomicUsize::new(0), limit })
    }

    /// # Errors
    /// Unavailable: as many tokens as the limit says are queued.
    pub fn check(&self) -> Result<()> {
        let (tokens, Some(limit)) = (self.tokens.load(Ordering::Relaxed), self.limit) else {
            return Ok(());
        };
        if tokens < limit {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "the prompts that wait for their first token have {tokens} tokens, and {limit} is the \
             limit: retry later, or raise max_num_queued_tokens in model.json"
        )))
    }

    pub fn add(self: &Arc<Self>, tokens: usize) -> Queued {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        Queued { queue: Arc::clone(self), tokens }
    }
}

/// A prompt's tokens in the queue, until it is dropped.
pub(super) struct Queued {
    queue: Arc<PromptQueue>,
    tokens: usize,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.queue.tokens.fetch_sub(self.tokens, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_counts_until_it_is_dropped() {
        let queue = PromptQueue::new(Some(10));
        let first = queue.add(9);
        assert!(queue.check().is_ok(), "one below the limit: another may come, however long");
        let second = queue.add(500);
        let error = queue.check().expect_err("full");
        assert!(matches!(error, Error::Unavailable(_)));
        assert!(error.message().contains("509 tokens, and 10 is the limit"), "{error}");
        drop(second);
        assert!(queue.check().is_ok());
        drop(first);
        assert_eq!(queue.tokens.load(Ordering::Relaxed), 0);
        let open = PromptQueue::new(None);
        let _held = open.add(usize::MAX >> 1);
        assert!(open.check().is_ok());
    }
}
