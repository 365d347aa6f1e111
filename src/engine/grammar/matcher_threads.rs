//! The threads that take sampled tokens into a sequence's grammar and compute its next token mask,
//! and the masks behind drafts, while the device runs a forward pass. `step_loop` sends a matcher
//! away with the tokens and gets it back, with the masks, as a command.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::Sender;

use super::matcher_state::{DropThread, MatcherState};
use crate::engine::command::Command;
use crate::engine::request::Client;
use crate::engine::workers::{Rules, Task, TaskWatch, Workers};
use crate::error::Result;
use crate::ids::{RequestId, TokenId};
use crate::text::Interrupt;

/// The threads. Joined when dropped.
pub(crate) struct MatcherThreads {
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
        let drop_thread = DropThread::new(workers.sender());
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

    /// Let the matcher of sequence `id` take tokens, on another thread.
    pub fn advance(
        &self,
        id: RequestId,
        client: &Arc<dyn Client>,
        matcher_state: Box<MatcherState>,
        tokens: Vec<TokenId>,
    ) {
        #[cfg(test)]
        let delay_ms = self.delay_ms.load(std::sync::atomic::Ordering::Acquire);
        self.send(id, client, matcher_state, move |matcher_state, watch| {
            if let Some(stop) = matcher_state.stop() {
                watch.stop_by(stop);
            }
            matcher_state.advance(&tokens);
            #[cfg(test)]
            if matcher_state.outputs().is_multiple_of(3) {
                std::thread::sleep(Duration::from_millis(delay_ms));
            }
        });
    }

    /// Let the matcher of sequence `id` look behind drafts, on another thread.
    pub fn look_ahead(
        &self,
        id: RequestId,
        client: &Arc<dyn Client>,
        matcher_state: Box<MatcherState>,
        drafts: Vec<TokenId>,
    ) {
        self.send(id, client, matcher_state, move |matcher_state, watch| {
            matcher_state.look_ahead(&drafts, |stop| watch.stop_by(stop));
        });
    }

    /// Let a matcher work, and send it back.
    fn send(
        &self,
        id: RequestId,
        client: &Arc<dyn Client>,
        mut matcher_state: Box<MatcherState>,
        work: impl FnOnce(&mut MatcherState, &TaskWatch) + Send + 'static,
    ) {
        let back = self.back.clone();
        let task = Task {
            client: Arc::clone(client),
            run: Box::new(move |watch| {
                work(&mut matcher_state, watch);
                let _ = back.send(Command::MatcherState(id, matcher_state));
            }),
        };
        if let Some(workers) = &self.workers {
            // They take everything until they are dropped.
            let _ = workers.send(task);
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
#[path = "matcher_threads_tests.rs"]
mod tests;
