//! One sequence's way through its grammar: which tokens may come next, and the one that came. Made
//! by [`super::Grammars`], owned by `engine`.

use std::sync::Arc;
use std::time::Duration;

use llguidance::Matcher;

use super::bounds::{self, refusal};
use super::interrupt::StopHandle;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::invalid;

/// The operator's key for what compiling a grammar, and each mask of it, may take.
pub const TIMEOUT_KEY: &str = "grammar-timeout-ms";

/// What may come next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Bit i of word i/32: token i may be sampled. At least one may.
    Mask(Arc<[u32]>),
    /// The grammar is complete and the model has no token to say so.
    End,
}

/// One sequence's way through its grammar.
pub struct GrammarMatcher {
    inner: Matcher,
    /// Steps of building the lexer, which forks share, since this matcher was made.
    spent_steps: u64,
    ends: Arc<[TokenId]>,
    /// Length of a mask.
    words: usize,
    timeout: Duration,
}

impl GrammarMatcher {
    /// Before the first token of a text that one of `ends` may end; `vocab_size` ids can be
    /// sampled. `timeout` is named in refusals.
    pub(super) fn new(
        inner: Matcher,
        ends: Arc<[TokenId]>,
        vocab_size: u32,
        timeout: Duration,
    ) -> GrammarMatcher {
        let words = vocab_size.div_ceil(32) as usize;
        GrammarMatcher { inner, spent_steps: 0, ends, words, timeout }
    }

    /// The tokens that may be sampled now, without those of `avoid` as long as there are others.
    /// Where a text may end, the model's ends are among them; where it must, nothing else is.
    ///
    /// # Errors
    /// InvalidArgument: no token leads on, or the mask costs more than the limits allow.
    pub fn next(&mut self, avoid: &[TokenId]) -> Result<Next> {
        if self.inner.is_stopped() && self.ends.is_empty() && !self.inner.is_cancelled() {
            return Ok(Next::End);
        }
        let mask =
            self.inner.compute_mask_or_eos().map_err(|error| self.failed(&error.to_string()))?;
        let mut mask: Vec<u32> = mask.as_slice().to_vec();
        mask.resize(self.words, 0);
        self.spend()?;

        let mut without = mask.clone();
        for id in avoid {
            if let Some(word) = without.get_mut(id.index() / 32) {
                *word &= !(1 << (id.0 % 32));
            }
        }
        let kept = if without.iter().any(|word| *word != 0) { without } else { mask };
        if kept.iter().any(|word| *word != 0) {
            Ok(Next::Mask(kept.into()))
        } else {
            // Complete, and a longer text was possible only with tokens that the model has not.
            Ok(Next::End)
        }
    }

    /// Count what the last mask has cost: the lexer keeps all that it built.
    fn spend(&mut self) -> Result<()> {
        let cost = self.inner.last_step_stats().map_or(0, |stats| stats.lexer_cost);
        self.spent_steps = self.spent_steps.saturating_add(cost);
        if self.spent_steps <= bounds::MAX_STEPS {
            return Ok(());
        }
        Err(invalid!(
            "Grammar error: the texts so far took more than the limit of {} steps in this \
             grammar's lexer: use smaller values of multipleOf or simpler patterns",
            bounds::MAX_STEPS
        ))
    }

    /// The token that was sampled under the last mask.
    ///
    /// # Errors
    /// InvalidArgument: the mask forbade it. Other parameters must have left no token that it
    /// allowed.
    pub fn accept(&mut self, token: TokenId) -> Result<()> {
        if self.inner.is_stopped() && self.ends.contains(&token) {
            return Ok(());
        }
        let Err(error) = self.inner.consume_token(token.0) else { return Ok(()) };
        let text = error.to_string();
        if !text.contains("doesn't satisfy the grammar") {
            return Err(self.failed(&text));
        }
        let text = text.trim_end_matches("\n<non-verbose/>");
        Err(invalid!(
            "structured_outputs: token {token} was sampled, which the grammar forbids here: \
             allowed_token_ids, bad_words or logit_bias leave no token that it allows ({text})"
        ))
    }

    /// A fork has computed so much more: what its lexer has built is here too.
    pub fn count_fork(&mut self, fork: &GrammarMatcher) {
        self.spent_steps = self.spent_steps.max(fork.spent_steps);
    }

    fn failed(&self, error: &str) -> Error {
        if self.inner.is_cancelled() {
            return invalid!(
                "Grammar error: a token mask of this grammar takes longer than {} ms, the limit of \
                 --backend-config=vllm,{TIMEOUT_KEY}: use a smaller grammar",
                self.timeout.as_millis()
            );
        }
        match error {
            "NoExtensionBias" | "NoExtensionBias\n<non-verbose/>" => {
                invalid!("Grammar error: no token of this model can go on in the grammar")
            }
            other => refusal(other),
        }
    }

    /// What ends this matcher's computation.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle::new(self.inner.cancellation_handle().unwrap_or_default())
    }

    /// The model has a token for the end of a text.
    pub fn has_end(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Another one that goes its own way from here. What the lexer has built is shared.
    pub fn fork(&self) -> GrammarMatcher {
        GrammarMatcher { inner: self.inner.clone(), ends: self.ends.clone(), ..*self }
    }
}
