//! Guides of running sequences: the threads that take a sampled token into a grammar and compute
//! the next token mask, while the device runs a forward pass. `step` sends a sequence's guide away
//! with its token and gets it back, with the mask, as a command. It never sees a grammar's text.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{unbounded, Receiver, Sender};

use super::command::Command;
use crate::error::Result;
use crate::ids::{RequestId, TokenId};
use crate::text::{Guide, Next, STACK_BYTES};

/// A mask that takes longer is not waited for while a step's other rows are ready: its sequence
/// sits out steps until the mask is there.
const SLOW: Duration = Duration::from_millis(2);

/// One sequence's guide, what it allows next, and the rules that choose among that.
pub(super) struct Guided {
    guide: Guide,
    next: Result<Next>,
    slow: bool,
    outputs: u32,
    min_tokens: u32,
    /// Ids that may not be sampled before `min_tokens` as long as the grammar has others.
    avoid: Arc<[TokenId]>,
}

impl Guided {
    /// Before the first token.
    pub fn new(guide: Guide, min_tokens: u32, avoid: Arc<[TokenId]>) -> Guided {
        let next = Ok(Next::End);
        let mut guided = Guided { guide, next, slow: false, outputs: 0, min_tokens, avoid };
        guided.look();
        guided
    }

    /// The same for another sequence of the request, before the first token.
    pub fn fork(&self) -> Guided {
        Guided {
            guide: self.guide.fork(),
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
        self.guide.has_end()
    }

    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// Take the token that was sampled under the last mask, and look what may follow.
    pub fn advance(&mut self, token: TokenId) {
        self.outputs += 1;
        match self.guide.accept(token) {
            Ok(()) => self.look(),
            Err(error) => self.next = Err(error),
        }
    }

    fn look(&mut self) {
        let start = Instant::now();
        let avoid = if self.outputs < self.min_tokens { &self.avoid[..] } else { &[] };
        self.next = self.guide.next(avoid);
        self.slow = start.elapsed() > SLOW;
    }
}

/// Where a sequence's guide is.
pub(super) enum Place {
    Here(Box<Guided>),
    /// With a thread of [`Guides`]: it comes back as [`Command::Guided`].
    Away,
}

struct Job {
    id: RequestId,
    guided: Box<Guided>,
    token: TokenId,
}

/// The threads. Joined when dropped.
pub(super) struct Guides {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Guides {
    /// `back`: where guides are sent back to.
    pub fn start(name: &str, threads: usize, back: &Sender<Command>) -> Result<Guides> {
        let (jobs, inbox) = unbounded();
        let mut guides = Guides { jobs: Some(jobs), threads: Vec::new() };
        for i in 0..threads.max(1) {
            let (inbox, back) = (inbox.clone(), back.clone());
            let thread = std::thread::Builder::new()
                .name(format!("guide{i} {name}"))
                .stack_size(STACK_BYTES)
                .spawn(move || work(&inbox, &back))
                .map_err(|e| crate::internal!("cannot start a thread: {e}"))?;
            guides.threads.push(thread);
        }
        Ok(guides)
    }

    /// Let the guide of sequence `id` take a token, on another thread.
    pub fn advance(&self, id: RequestId, guided: Box<Guided>, token: TokenId) {
        if let Some(jobs) = &self.jobs {
            // The threads end only when the sender is gone.
            let _ = jobs.send(Job { id, guided, token });
        }
    }
}

impl Drop for Guides {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(inbox: &Receiver<Job>, back: &Sender<Command>) {
    for Job { id, mut guided, token } in inbox {
        if catch_unwind(AssertUnwindSafe(|| guided.advance(token))).is_err() {
            guided.next = Err(crate::internal!("the grammar engine panicked"));
        }
        let _ = back.send(Command::Guided(id, guided));
    }
}

#[cfg(test)]
#[path = "guides_tests.rs"]
mod tests;
