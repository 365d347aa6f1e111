//! Grammar matchers of running sequences: the threads that take a sampled token into a grammar and
//! compute the next token mask, while the device runs a forward pass. `step` sends a sequence's
//! matcher away with its token and gets it back, with the mask, as a command. It never sees a
//! grammar's text.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use super::command::Command;
use super::request::{Answer, Client};
use super::workers::{Job, JobSender, Rules, Workers};
use crate::error::Result;
use crate::ids::{RequestId, TokenId};
use crate::text::{GrammarMatcher, Interrupt, Next};

/// A mask that takes longer is not waited for while a step's other rows are ready: its sequence
/// sits out steps until the mask is there.
const SLOW: Duration = Duration::from_millis(2);
/// What a step's rows wait for all of its masks together, once the device is done; a sequence
/// without a mask then leaves the step.
pub(super) const MASK_WAIT: Duration = Duration::from_millis(20);
/// A sequence that left so many steps counts as slow for good.
const MAX_SKIPPED_STEPS: u32 = 3;

/// One sequence's matcher, what it allows next, and the rules that choose among that.
pub(super) struct MatcherState {
    /// Taken when this is dropped: what frees much memory does it where nobody waits.
    matcher: Option<Box<GrammarMatcher>>,
    freed_by: DropThread,
    next: Result<Next>,
    slow: bool,
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
            skipped_steps: 0,
            outputs: 0,
            min_tokens,
            avoid,
        };
        matcher_state.look();
        matcher_state
    }

    /// The same for another sequence of the request, before the first token.
    pub fn fork(&self) -> MatcherState {
        MatcherState {
            matcher: self.matcher.as_ref().map(|matcher| Box::new(matcher.fork())),
            freed_by: self.freed_by.clone(),
            next: self.next.clone(),
            avoid: self.avoid.clone(),
            ..*self
        }
    }

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

    /// Its sequence had to leave a step.
    pub fn has_skipped_step(&mut self) {
        self.skipped_steps = self.skipped_steps.saturating_add(1);
    }

    /// Take the token that was sampled under the last mask, and look what may follow.
    fn advance(&mut self, token: TokenId) {
        self.outputs += 1;
        let Some(matcher) = &mut self.matcher else { return };
        match matcher.accept(token) {
            Ok(()) => self.look(),
            Err(error) => self.next = Err(error),
        }
    }

    fn look(&mut self) {
        let start = Instant::now();
        let avoid = if self.outputs < self.min_tokens { &self.avoid[..] } else { &[] };
        if let Some(matcher) = &mut self.matcher {
            self.next = matcher.next(avoid);
        }
        self.slow = start.elapsed() > SLOW;
    }
}

impl Drop for MatcherState {
    fn drop(&mut self) {
        if let Some(matcher) = self.matcher.take() {
            self.freed_by.free(matcher);
        }
    }
}

/// Where matchers are freed: a large one takes longer than a step may.
#[derive(Clone)]
pub(super) struct DropThread {
    jobs: JobSender,
}

impl DropThread {
    fn free(&self, matcher: Box<GrammarMatcher>) {
        let client: Arc<dyn Client> = Arc::new(Nobody);
        self.jobs.send(Job { client, run: Box::new(move |_| drop(matcher)) });
    }
}

/// The client of work that is done for the engine itself.
struct Nobody;

impl Client for Nobody {
    fn cancelled(&self) -> bool {
        false
    }

    fn respond(&self, _: Answer) {}

    fn finish(&self, _: Result<Answer>) {}
}

/// Where a sequence's matcher is.
pub(super) enum Place {
    Here(Box<MatcherState>),
    /// With a thread of [`MatcherThreads`]: it comes back as [`Command::MatcherState`].
    Away,
}

/// The threads. Joined when dropped.
pub(super) struct MatcherThreads {
    workers: Option<Workers>,
    supervisor: Option<JoinHandle<()>>,
    back: Sender<Command>,
    drop_thread: DropThread,
    /// Milliseconds that every third mask takes longer.
    #[cfg(test)]
    pub delay_ms: Arc<std::sync::atomic::AtomicU64>,
}

impl MatcherThreads {
    /// `back`: where matchers are sent back to. `limit`: what one mask may take.
    pub fn start(
        name: &str,
        threads: usize,
        limit: Duration,
        back: &Sender<Command>,
    ) -> Result<MatcherThreads> {
        let rules = Rules { threads, limit, answers: false };
        let (workers, supervisor) = Workers::start(format!("grammar {name}"), rules)?;
        let drop_thread = DropThread { jobs: workers.sender() };
        let back = back.clone();
        Ok(MatcherThreads {
            workers: Some(workers),
            supervisor: Some(supervisor),
            back,
            drop_thread,
            #[cfg(test)]
            delay_ms: Arc::default(),
        })
    }

    /// For those who make matchers.
    pub fn drop_thread(&self) -> DropThread {
        self.drop_thread.clone()
    }

    /// Let the matcher of sequence `id` take a token, on another thread.
    pub fn advance(
        &self,
        id: RequestId,
        client: &Arc<dyn Client>,
        mut matcher_state: Box<MatcherState>,
        token: TokenId,
    ) {
        let back = self.back.clone();
        #[cfg(test)]
        let delay_ms = self.delay_ms.load(std::sync::atomic::Ordering::Acquire);
        let job = Job {
            client: Arc::clone(client),
            run: Box::new(move |watch| {
                if let Some(matcher) = &matcher_state.matcher {
                    watch.stop_by(matcher.stop_handle());
                }
                matcher_state.advance(token);
                #[cfg(test)]
                if matcher_state.outputs.is_multiple_of(3) {
                    std::thread::sleep(Duration::from_millis(delay_ms));
                }
                let _ = back.send(Command::MatcherState(id, matcher_state));
            }),
        };
        if let Some(workers) = &self.workers {
            // They take everything until they are dropped.
            let _ = workers.send(job);
        }
    }
}

impl Drop for MatcherThreads {
    fn drop(&mut self) {
        self.workers = None;
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

#[cfg(test)]
#[path = "grammar_matchers_tests.rs"]
mod tests;
