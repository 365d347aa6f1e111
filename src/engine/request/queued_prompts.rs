//! Prompt tokens of requests that have no token of their own yet, for `max_num_queued_tokens`.
//! Asked by `handle`, counted by `intake`; the outbox lets go of them. A
//! request counts from the moment its prompt is tokenised until its first token or its end, with
//! its whole prompt: what of it was computed or cached is not taken off.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crate::error::{Error, Result};

/// The prompts that wait for their first token.
#[derive(Default)]
pub(crate) struct QueuedPrompts {
    tokens: AtomicUsize,
    /// `max_num_queued_tokens`
    limit: Option<usize>,
}

impl QueuedPrompts {
    /// `limit`: tokens, see [`QueuedPrompts::check`]; None = no limit.
    pub fn new(limit: Option<usize>) -> Arc<QueuedPrompts> {
        Arc::new(QueuedPrompts { tokens: AtomicUsize::new(0), limit })
    }

    /// May one more request come, however long its prompt?
    ///
    /// # Errors
    /// Unavailable: as many tokens as the limit says are queued.
    pub fn check(&self) -> Result<()> {
        let Some(limit) = self.limit else { return Ok(()) };
        let tokens = self.tokens.load(Ordering::Relaxed);
        if tokens < limit {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "the prompts that wait for their first token have {tokens} tokens, and {limit} is the \
             limit: retry later, or raise max_num_queued_tokens in model.json"
        )))
    }

    /// A prompt of so many tokens waits from now on.
    pub fn add(self: &Arc<Self>, tokens: usize) -> QueuedPrompt {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        QueuedPrompt { queue: Arc::clone(self), tokens }
    }
}

/// The prompt of one request, counted until this is dropped.
pub(crate) struct QueuedPrompt {
    queue: Arc<QueuedPrompts>,
    tokens: usize,
}

impl Drop for QueuedPrompt {
    fn drop(&mut self) {
        self.queue.tokens.fetch_sub(self.tokens, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_counts_until_it_is_dropped() {
        let queue = QueuedPrompts::new(Some(10));
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
        let open = QueuedPrompts::new(None);
        let _held = open.add(usize::MAX >> 1);
        assert!(open.check().is_ok());
    }
}
