//! Guides of running sequences: the threads that take a sampled token into a grammar and compute
//! the next token mask, while the device runs a forward pass. `step` sends a sequence's guide away
//! with its token and gets it back, with the mask, as a command. It never sees a grammar's text.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use super::command::Command;
use super::request::{Answer, Client};
use super::workers::{Job, JobSender, Rules, Workers};
use crate::error::Result;
use crate::ids::{RequestId, TokenId};
use crate::text::{Guide, Next, Patience};

/// A mask that takes longer is not waited for while a step's other rows are ready: its sequence
/// sits out steps until the mask is there.
const SLOW: Duration = Duration::from_millis(2);
/// What a step's rows wait for all of its masks together, once the device is done; a sequence
/// without a mask then leaves the step.
pub(super) const MASK_WAIT: Duration = Duration::from_millis(20);
/// A sequence that left so many steps counts as slow for good.
const MAX_LATE: u32 = 3;

/// One sequence's guide, what it allows next, and the rules that choose among that.
pub(super) struct Guided {
    /// Taken when this is dropped: what frees much memory does it where nobody waits.
    guide: Option<Box<Guide>>,
    freed_by: Freeing,
    next: Result<Next>,
    slow: bool,
    late: u32,
    outputs: u32,
    min_tokens: u32,
    /// Ids that may not be sampled before `min_tokens` as long as the grammar has others.
    avoid: Arc<[TokenId]>,
}

impl Guided {
    /// Before the first token.
    pub fn new(guide: Guide, min_tokens: u32, avoid: Arc<[TokenId]>, freed_by: Freeing) -> Guided {
        let mut guided = Guided {
            guide: Some(Box::new(guide)),
            freed_by,
            next: Ok(Next::End),
            slow: false,
            late: 0,
            outputs: 0,
            min_tokens,
            avoid,
        };
        guided.look();
        guided
    }

    /// The same for another sequence of the request, before the first token.
    pub fn fork(&self) -> Guided {
        Guided {
            guide: self.guide.as_ref().map(|guide| Box::new(guide.fork())),
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
        self.guide.as_ref().is_some_and(|guide| guide.has_end())
    }

    /// Its next mask may take long.
    pub fn is_slow(&self) -> bool {
        self.slow || self.late >= MAX_LATE
    }

    /// Its sequence had to leave a step.
    pub fn was_late(&mut self) {
        self.late = self.late.saturating_add(1);
    }

    /// Take the token that was sampled under the last mask, and look what may follow.
    fn advance(&mut self, token: TokenId) {
        self.outputs += 1;
        let Some(guide) = &mut self.guide else { return };
        match guide.accept(token) {
            Ok(()) => self.look(),
            Err(error) => self.next = Err(error),
        }
    }

    fn look(&mut self) {
        let start = Instant::now();
        let avoid = if self.outputs < self.min_tokens { &self.avoid[..] } else { &[] };
        if let Some(guide) = &mut self.guide {
            self.next = guide.next(avoid);
        }
        self.slow = start.elapsed() > SLOW;
    }
}

impl Drop for Guided {
    fn drop(&mut self) {
        if let Some(guide) = self.guide.take() {
            self.freed_by.free(guide);
        }
    }
}

/// Where guides are freed: a large one takes longer than a step may.
#[derive(Clone)]
pub(super) struct Freeing {
    jobs: JobSender,
}

impl Freeing {
    fn free(&self, guide: Box<Guide>) {
        let client: Arc<dyn Client> = Arc::new(Nobody);
        self.jobs.send(Job { client, run: Box::new(move |_| drop(guide)) });
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

/// Where a sequence's guide is.
pub(super) enum Place {
    Here(Box<Guided>),
    /// With a thread of [`Guides`]: it comes back as [`Command::Guided`].
    Away,
}

/// The threads. Joined when dropped.
pub(super) struct Guides {
    workers: Option<Workers>,
    supervisor: Option<JoinHandle<()>>,
    back: Sender<Command>,
    freeing: Freeing,
    /// Milliseconds that every third mask takes longer.
    #[cfg(test)]
    pub delay_ms: Arc<std::sync::atomic::AtomicU64>,
}

impl Guides {
    /// `back`: where guides are sent back to. `limit`: what one mask may take.
    pub fn start(
        name: &str,
        threads: usize,
        limit: Duration,
        back: &Sender<Command>,
    ) -> Result<Guides> {
        let rules = Rules { threads, limit, answers: false };
        let (workers, supervisor) = Workers::start(format!("guide {name}"), rules)?;
        let freeing = Freeing { jobs: workers.sender() };
        let back = back.clone();
        Ok(Guides {
            workers: Some(workers),
            supervisor: Some(supervisor),
            back,
            freeing,
            #[cfg(test)]
            delay_ms: Arc::default(),
        })
    }

    /// For those who make guides.
    pub fn freeing(&self) -> Freeing {
        self.freeing.clone()
    }

    /// Let the guide of sequence `id` take a token, on another thread.
    pub fn advance(
        &self,
        id: RequestId,
        client: &Arc<dyn Client>,
        mut guided: Box<Guided>,
        token: TokenId,
    ) {
        let back = self.back.clone();
        #[cfg(test)]
        let delay_ms = self.delay_ms.load(std::sync::atomic::Ordering::Acquire);
        let job = Job {
            client: Arc::clone(client),
            run: Box::new(move |watch| {
                if let Some(guide) = &guided.guide {
                    watch.stop_by(guide.stop());
                }
                guided.advance(token);
                #[cfg(test)]
                if guided.outputs.is_multiple_of(3) {
                    std::thread::sleep(Duration::from_millis(delay_ms));
                }
                let _ = back.send(Command::Guided(id, guided));
            }),
        };
        if let Some(workers) = &self.workers {
            // They take everything until they are dropped.
            let _ = workers.send(job);
        }
    }
}

impl Drop for Guides {
    fn drop(&mut self) {
        self.workers = None;
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

#[cfg(test)]
#[path = "guides_tests.rs"]
mod tests;
