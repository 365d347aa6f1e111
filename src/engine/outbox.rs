//! Outbox threads: tokens in, words out. They detokenise, match stop strings and call the clients,
//! so that the engine thread never waits for text or for a slow reader (design law 10).
//!
//! Each request belongs to one outbox thread for its whole life, which keeps its answers in order.
//! The engine sends one batch of events per step and thread. A thread that falls behind drains
//! every batch that waits before it answers: deltas of one request merge, one response per request
//! and round. Nothing here grows without bound: requests are limited at intake, tokens by their
//! `max_tokens`.

use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{unbounded, Receiver, Sender};

use super::command::{Command, Finish};
use super::health::Health;
use super::request::{Answer, Client, FinishReason, Observation, Observer, Output};
use crate::error::{Error, Result};
use crate::ids::{RequestId, TokenId};
use crate::text::TextStream;

/// What the engine tells an outbox thread.
pub(super) enum Event {
    Open(RequestId, Box<Stream>),
    /// One new token of a request; `finish` if the engine's stop rules ended it here.
    Token {
        id: RequestId,
        token: TokenId,
        finish: Option<Finish>,
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

/// An outbox thread's view of a request.
pub(super) struct Stream {
    pub client: Arc<dyn Client>,
    pub text: TextStream,
    pub prompt_tokens: u32,
    pub stream: bool,
    /// Text is wanted as it comes: for deltas, or to find stop strings. Otherwise once, at the end.
    pub eager: bool,
    pub stream_interval: u32,
    pub arrival: Instant,
    pub progress: Progress,
}

/// Counters and pending tokens of a stream; starts at its default.
#[derive(Default)]
pub(super) struct Progress {
    pending: Vec<TokenId>,
    finish: Option<Finish>,
    touched: bool,
    /// Tokens processed, and those already reported to the client.
    tokens: u32,
    reported: u32,
    /// Text not yet reported.
    text: String,
    last_token_at: Option<Instant>,
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
    pub fn start(name: &str, threads: usize, shared: &Shared) -> Result<Outboxes> {
        let mut outboxes = Outboxes { senders: Vec::new(), threads: Vec::new() };
        for i in 0..threads.max(1) {
            let (sender, receiver) = unbounded();
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("outbox{i} {name}"))
                .spawn(move || Outbox { shared, streams: HashMap::new() }.run(receiver))
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
    streams: HashMap<RequestId, Box<Stream>>,
}

impl Outbox {
    fn run(mut self, batches: Receiver<Batch>) {
        let mut touched = Vec::new();
        while let Ok(batch) = batches.recv() {
            let round = catch_unwind(AssertUnwindSafe(|| {
                self.take(batch, &mut touched);
                while let Ok(batch) = batches.try_recv() {
                    self.take(batch, &mut touched);
                }
                for id in touched.drain(..) {
                    self.answer(id);
                }
            }));
            if round.is_err() {
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

    fn take(&mut self, batch: Batch, touched: &mut Vec<RequestId>) {
        for event in batch.events {
            match event {
                Event::Open(id, stream) => {
                    self.streams.insert(id, stream);
                }
                Event::Token { id, token, finish } => {
                    // A request that a stop string ended may still get its surplus token: dropped.
                    let Some(stream) = self.streams.get_mut(&id) else { continue };
                    let progress = &mut stream.progress;
                    progress.pending.push(token);
                    progress.finish = finish;
                    if !progress.touched && (stream.eager || finish.is_some()) {
                        progress.touched = true;
                        touched.push(id);
                    }
                    observe_token(&*self.shared.observer, stream, batch.at);
                }
                Event::Fail { id, error } => self.fail(id, error),
            }
        }
    }

    fn fail(&mut self, id: RequestId, error: Error) {
        let Some(stream) = self.streams.remove(&id) else { return };
        let cancelled = matches!(error, Error::Cancelled(_));
        stream.client.finish(Err(error));
        if cancelled {
            tracing::info!("Successfully cancelled the request");
        }
    }

    /// Turn a request's pending tokens into text and say what is to be said.
    fn answer(&mut self, id: RequestId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut reason = stream.advance();
        if reason.is_none() && stream.due() {
            let answer = stream.take_answer(None);
            stream.client.respond(answer);
            // What had to wait for the first token's answer.
            reason = stream.advance();
        }
        if let Some(reason) = reason {
            let Some(mut stream) = self.streams.remove(&id) else { return };
            if stream.progress.finish.is_none() {
                // A stop string: the engine does not know yet.
                let _ = self.shared.commands.send(Command::Stopped(id));
            }
            self.finished(&stream, reason);
            let answer = stream.take_answer(Some(reason));
            stream.client.finish(Ok(answer));
        } else if stream.due() {
            let answer = stream.take_answer(None);
            stream.client.respond(answer);
        }
    }

    fn finished(&self, stream: &Stream, reason: FinishReason) {
        self.shared.observer.observe(Observation::Finished {
            reason,
            e2e_s: stream.arrival.elapsed().as_secs_f64(),
            prompt_tokens: stream.prompt_tokens,
            output_tokens: stream.progress.tokens,
            n: 1,
        });
    }
}

fn observe_token(observer: &dyn Observer, stream: &mut Stream, at: Instant) {
    observer.observe(match stream.progress.last_token_at {
        None => Observation::FirstToken {
            prompt_tokens: stream.prompt_tokens,
            ttft_s: at.saturating_duration_since(stream.arrival).as_secs_f64(),
        },
        Some(last) => {
            let gap = at.saturating_duration_since(last);
            Observation::InterToken { seconds: gap.as_secs_f64() }
        }
    });
    observer.observe(Observation::Generated { tokens: 1 });
    stream.progress.last_token_at = Some(at);
}

impl Stream {
    /// Detokenise the pending tokens. Some(reason) if the request ends here, by the engine's word
    /// or by a stop string; tokens behind a stop string are dropped and not counted. A stream's
    /// first token is taken alone: it is never late for later ones, and a stream of several tokens
    /// is always several answers, however fast they come.
    fn advance(&mut self) -> Option<FinishReason> {
        let progress = &mut self.progress;
        progress.touched = false;
        let first = self.stream && progress.tokens == 0;
        let take = if first { progress.pending.len().min(1) } else { progress.pending.len() };
        let finish = progress.finish.filter(|_| take == progress.pending.len());
        let last = take.saturating_sub(1);
        for (i, token) in progress.pending.drain(..take).enumerate() {
            progress.tokens += 1;
            let dropped = i == last && finish.is_some_and(|f| f.by_token);
            if self.text.push(token, dropped, &mut progress.text) {
                progress.finish = None;
                return Some(FinishReason::Stop);
            }
        }
        let finish = finish?;
        self.text.finish(&mut progress.text);
        Some(finish.reason)
    }

    /// Is it time for a delta? The first token, then every `stream_interval` tokens.
    fn due(&self) -> bool {
        let new = self.progress.tokens - self.progress.reported;
        self.stream && new > 0 && (self.progress.reported == 0 || new >= self.stream_interval)
    }

    fn take_answer(&mut self, finish_reason: Option<FinishReason>) -> Answer {
        let tokens = self.progress.tokens - self.progress.reported;
        self.progress.reported = self.progress.tokens;
        let text = std::mem::take(&mut self.progress.text);
        let output = Output { text, tokens, finish_reason };
        Answer { prompt_tokens: self.prompt_tokens, outputs: vec![output] }
    }
}
