//! A sequence's grammar matcher with what it allows next. Made by intake, owned by the engine
//! thread or by one of the matcher threads, freed by the latter. It never sees a grammar's text.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::request::{Answer, Client};
use crate::engine::workers::{Task, TaskSender};
use crate::error::Result;
use crate::ids::TokenId;
use crate::text::{GrammarMatcher, Next, StopHandle};

/// A mask that takes longer is not waited for while a step's other rows are ready: its sequence is
/// held until the mask is there.
const SLOW: Duration = Duration::from_millis(2);
/// A sequence that skipped so many steps counts as slow for good.
const MAX_SKIPPED_STEPS: u32 = 3;

/// One sequence's matcher, what it allows next, and the rules that choose among that.
pub(crate) struct MatcherState {
    /// Taken when this is dropped: what frees much memory does it where nobody waits.
    matcher: Option<Box<GrammarMatcher>>,
    freed_by: DropThread,
    next: Result<Next>,
    /// The last mask took long.
    slow: bool,
    /// What may follow each of the drafts that it was asked about, as far as they are allowed;
    /// None: it was not asked since it took a token.
    ahead: Option<Vec<Arc<[u32]>>>,
    /// It could not say what follows an allowed draft. It is not asked again.
    blind: bool,
    skipped_steps: u32,
    outputs: u32,
    min_tokens: u32,
    /// Ids that may not be sampled before `min_tokens` as long as the grammar has others.
    avoid: Arc<[TokenId]>,
}

impl MatcherState {
    /// Before the first token.
    pub fn new(
        matcher: GrammarMatcher,
        min_tokens: u32,
        avoid: Arc<[TokenId]>,
        freed_by: DropThread,
    ) -> MatcherState {
        let mut matcher_state = MatcherState {
            matcher: Some(Box::new(matcher)),
            freed_by,
            next: Ok(Next::End),
            slow: false,
            ahead: None,
            blind: false,
            skipped_steps: 0,
            outputs: 0,
            min_tokens,
            avoid,
        };
        matcher_state.find_next();
        matcher_state
    }

    /// The same for another sequence of the request, before the first token.
    pub fn fork(&self) -> MatcherState {
        MatcherState {
            matcher: self.matcher.as_ref().map(|matcher| Box::new(matcher.fork())),
            freed_by: self.freed_by.clone(),
            next: self.next.clone(),
            ahead: None,
            avoid: self.avoid.clone(),
            ..*self
        }
    }

    /// What may follow the tokens that it took.
    pub fn next(&self) -> &Result<Next> {
        &self.next
    }

    /// The model has a token that says the end.
    pub fn has_end(&self) -> bool {
        self.matcher.as_ref().is_some_and(|matcher| matcher.has_end())
    }

    /// Its next mask may take long.
    pub fn is_slow(&self) -> bool {
        self.slow || self.skipped_steps >= MAX_SKIPPED_STEPS
    }

    /// What may follow drafts of its sequence can be asked.
    pub fn sees_ahead(&self) -> bool {
        self.has_end() && !self.is_slow() && !self.blind
    }

    /// Behind what may come next, what may follow each draft; void where one in front of it is not
    /// allowed. None: it does not know, or was not asked. See [`MatcherState::look_ahead`].
    pub fn ahead(&self) -> Option<&[Arc<[u32]>]> {
        self.ahead.as_deref().filter(|_| !self.blind)
    }

    /// Its sequence had to skip a step. `ahead`: for want of what follows drafts, which are more
    /// masks than one.
    pub fn has_skipped_step(&mut self, ahead: bool) {
        self.blind |= ahead;
        self.skipped_steps = self.skipped_steps.saturating_add(u32::from(!ahead));
    }

    /// Ends what the matcher computes, from another thread.
    pub fn stop(&self) -> Option<StopHandle> {
        self.matcher.as_ref().map(|matcher| matcher.stop_handle())
    }

    /// Tokens that it has taken.
    #[cfg(test)]
    pub fn outputs(&self) -> u32 {
        self.outputs
    }

    /// Take the tokens that were sampled, each under the mask of its row, and compute what may
    /// follow.
    pub fn advance(&mut self, tokens: &[TokenId]) {
        self.outputs += tokens.len() as u32;
        self.ahead = None;
        let Some(matcher) = &mut self.matcher else { return };
        match tokens.iter().try_for_each(|&token| matcher.accept(token)) {
            Ok(()) => self.find_next(),
            Err(error) => self.next = Err(error),
        }
    }

    /// Compute what may follow these drafts, without taking them. `watch` is told what stops it.
    pub fn look_ahead(&mut self, drafts: &[TokenId], watch: impl FnOnce(StopHandle)) {
        self.ahead = Some(self.behind(drafts, watch));
    }

    fn behind(&mut self, drafts: &[TokenId], watch: impl FnOnce(StopHandle)) -> Vec<Arc<[u32]>> {
        let mut ahead = Vec::new();
        let (Some(matcher), Ok(Next::Mask(mask))) = (&self.matcher, &self.next) else {
            return ahead;
        };
        let mut fork = matcher.fork();
        watch(fork.stop_handle());

        let mut mask = mask.clone();
        for (nth, &draft) in drafts.iter().enumerate() {
            if !allows(&mask, draft) {
                break;
            }
            let outputs = self.outputs + nth as u32 + 1;
            let next = fork.accept(draft).and_then(|()| fork.next(self.avoided(outputs)));
            let Ok(Next::Mask(next)) = next else {
                self.blind = true;
                break;
            };
            mask = next.clone();
            ahead.push(next);
        }
        if let Some(matcher) = &mut self.matcher {
            matcher.count_fork(&fork);
        }
        ahead
    }

    fn find_next(&mut self) {
        let start = Instant::now();
        let avoid = if self.outputs < self.min_tokens { &self.avoid[..] } else { &[] };
        if let Some(matcher) = &mut self.matcher {
            self.next = matcher.next(avoid);
        }
        self.slow = start.elapsed() > SLOW;
    }

    /// What may not follow so many outputs as long as there is something else.
    fn avoided(&self, outputs: u32) -> &[TokenId] {
        if outputs < self.min_tokens {
            &self.avoid
        } else {
            &[]
        }
    }
}

fn allows(mask: &[u32], token: TokenId) -> bool {
    mask.get(token.index() / 32).is_some_and(|word| word >> (token.0 % 32) & 1 == 1)
}

impl Drop for MatcherState {
    fn drop(&mut self) {
        if let Some(matcher) = self.matcher.take() {
            self.freed_by.free(matcher);
        }
    }
}

/// Frees matchers on another thread: a large one takes longer than a step may.
#[derive(Clone)]
pub(crate) struct DropThread {
    tasks: TaskSender,
}

impl DropThread {
    pub fn new(tasks: TaskSender) -> DropThread {
        DropThread { tasks }
    }

    fn free(&self, matcher: Box<GrammarMatcher>) {
        let client: Arc<dyn Client> = Arc::new(NoClient);
        // Too late, it is dropped here.
        let _ = self.tasks.send(Task { client, run: Box::new(move |_| drop(matcher)) });
    }
}

/// The client of work that is done for the engine itself.
struct NoClient;

impl Client for NoClient {
    fn cancelled(&self) -> bool {
        false
    }

    fn respond(&self, _: Answer) {}

    fn finish(&self, _: Result<Answer>) {}
}

#[cfg(test)]
#[path = "matcher_state_tests.rs"]
mod tests;
