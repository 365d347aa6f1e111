//! Outbox threads: tokens in, words out. They detokenise, match stop strings and call the clients,
//! so that the engine thread never waits for text or for a slow reader (design law 10).
//!
//! Each request belongs to one outbox thread for its whole life, which keeps its answers in order.
//! The engine sends one batch of events per step and thread. A thread that falls behind drains
//! every batch that waits before it answers: deltas of one request merge. Requests with something
//! to say take turns of limited work, so that one with thousands of sequences does not keep another
//! waiting. Nothing here grows without bound: requests are limited at intake, what waits for a
//! response by [`Backlog`].

use std::collections::{HashMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{unbounded, Receiver, Sender};

use super::command::{Command, Finish};
use super::health::Health;
use super::request::{Observation, Observer};
use super::stream::{NewToken, Stream};
use crate::error::{Error, Result};
use crate::ids::RequestId;

/// What of one request may wait here for its answers; a request with more fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backlog {
    /// Tokens of a stream that were not yet taken up.
    pub tokens: usize,
    /// Reported logprobs.
    pub logprobs: usize,
}

/// What the engine tells an outbox thread.
pub(super) enum Event {
    Open(RequestId, Box<Stream>),
    /// One new token of a request's sequence; `finish` if the engine's stop rules ended it here.
    Token {
        id: RequestId,
        index: usize,
        token: NewToken,
        finish: Option<Finish>,
    },
    /// The pooled vector of a request that embeds, its only answer.
    Vector {
        id: RequestId,
        vector: Vec<f32>,
    },
    /// The request ended without a token: cancelled, drained, poisoned.
    Fail {
        id: RequestId,
        error: Error,
    },
}

/// Events of one step for one thread, with the time when the step's results were read.
pub(super) struct Batch {
    pub at: Instant,
    pub events: Vec<Event>,
}

/// The threads. Dropping the senders ends them.
pub(super) struct Outboxes {
    senders: Vec<Sender<Batch>>,
    threads: Vec<JoinHandle<()>>,
}

/// What every thread shares.
#[derive(Clone)]
pub(super) struct Shared {
    pub observer: Arc<dyn Observer>,
    pub commands: Sender<Command>,
    pub health: Arc<Health>,
}

impl Outboxes {
    pub fn start(
        name: &str,
        threads: usize,
        backlog: Backlog,
        shared: &Shared,
    ) -> Result<Outboxes> {
        let mut outboxes = Outboxes { senders: Vec::new(), threads: Vec::new() };
        for i in 0..threads.max(1) {
            let (sender, receiver) = unbounded();
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("outbox{i} {name}"))
                .spawn(move || Outbox { shared, backlog, streams: HashMap::new() }.run(receiver))
                .map_err(|e| crate::internal!("cannot start an outbox thread: {e}"))?;
            outboxes.senders.push(sender);
            outboxes.threads.push(thread);
        }
        Ok(outboxes)
    }

    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Hand a step's events to thread `index`. A thread that is gone drops them, and with them the
    /// clients, whose own guard still answers.
    pub fn send(&self, index: usize, at: Instant, events: Vec<Event>) {
        if !events.is_empty() {
            let _ = self.senders[index].send(Batch { at, events });
        }
    }

    /// Send what is queued and join.
    pub fn close(self) {
        drop(self.senders);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

struct Outbox {
    shared: Shared,
    backlog: Backlog,
    streams: HashMap<RequestId, Box<Stream>>,
}

impl Outbox {
    fn run(mut self, batches: Receiver<Batch>) {
        let mut turns = VecDeque::new();
        loop {
            // With nobody in turn there is time to wait.
            let first = match turns.is_empty() {
                true => match batches.recv() {
                    Ok(batch) => Some(batch),
                    Err(_) => return,
                },
                false => None,
            };

            let turn = catch_unwind(AssertUnwindSafe(|| {
                for batch in first.into_iter().chain(batches.try_iter()) {
                    self.take(batch, &mut turns);
                }
                if let Some(id) = turns.pop_front().filter(|&id| self.answer(id)) {
                    turns.push_back(id);
                }
            }));
            if turn.is_err() {
                self.panicked();
            }
        }
    }

    /// A panic here is our defect: say so to everyone on this thread and let the engine die with
    /// it.
    fn panicked(&mut self) {
        self.shared.health.poison("an outbox thread panicked");
        self.streams.clear();
        let _ = self.shared.commands.send(Command::Poisoned);
    }

    fn take(&mut self, batch: Batch, turns: &mut VecDeque<RequestId>) {
        for event in batch.events {
            match event {
                Event::Open(id, stream) => {
                    self.streams.insert(id, stream);
                }
                Event::Token { id, index, token, finish } => {
                    // A request that stop strings ended may still get its surplus token: dropped.
                    let Some(stream) = self.streams.get_mut(&id) else { continue };
                    if stream.take(index, token, finish, batch.at, &*self.shared.observer) {
                        turns.push_back(id);
                    }
                    if stream.backlog_tokens() > self.backlog.tokens {
                        self.lags(id);
                    } else if stream.held_logprobs() > self.backlog.logprobs {
                        self.reports_too_much(id);
                    }
                }
                Event::Vector { id, vector } => self.embedded(id, vector, batch.at),
                Event::Fail { id, error } => self.fail(id, error),
            }
        }
    }

    /// The engine sees that the ticket has ended, as with a client that left.
    fn lags(&mut self, id: RequestId) {
        let error = Error::Unavailable(format!(
            "more than {} tokens wait for the responses of this stream: read faster, or raise \
             --backend-config=vllm,max-backlog-tokens",
            self.backlog.tokens
        ));
        self.fail(id, error);
    }

    fn reports_too_much(&mut self, id: RequestId) {
        let error = crate::invalid!(
            "more than {} logprobs (tokens of all n sequences times logprobs) wait for a response \
             of this request: lower n, max_tokens or logprobs, stream it, or raise \
             --backend-config=vllm,max-logprob-entries",
            self.backlog.logprobs
        );
        self.fail(id, error);
    }

    fn fail(&mut self, id: RequestId, error: Error) {
        let Some(stream) = self.streams.remove(&id) else { return };
        let cancelled = matches!(error, Error::Cancelled(_));
        stream.client.finish(Err(error));
        if cancelled {
            tracing::info!("Successfully cancelled the request");
        }
    }

    fn embedded(&mut self, id: RequestId, vector: Vec<f32>, at: Instant) {
        let Some(stream) = self.streams.remove(&id) else { return };
        if let Some(answer) = stream.embedded(vector, at, &*self.shared.observer) {
            stream.client.finish(Ok(answer));
        }
    }

    /// One turn of a request: some of its pending tokens become text, and once all were looked at,
    /// what is to be said is said. True: it wants another turn.
    fn answer(&mut self, id: RequestId) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let turn = stream.advance(&*self.shared.observer);
        for ended in turn.ended.iter().filter(|ended| ended.by_text) {
            let sequence = stream.ids.id(ended.index);
            let _ = self.shared.commands.send(Command::Stopped(sequence));
        }
        if !turn.whole {
            return true;
        }
        if !stream.done() {
            if stream.due() {
                let answer = stream.take_answer();
                stream.client.respond(answer);
            }
            return stream.wants_turn();
        }

        let Some(mut stream) = self.streams.remove(&id) else { return false };
        self.shared.observer.observe(Observation::Answered { n: stream.ids.count });
        let answer = stream.take_answer();
        stream.client.finish(Ok(answer));
        false
    }
}
