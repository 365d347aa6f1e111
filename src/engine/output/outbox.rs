//! One outbox: tokens in, text out. Its thread detokenises, matches stop strings and calls the
//! clients, so that the engine thread never waits for text or for a slow reader
//! (docs/architecture.md, Laws: The engine never waits for a client).
//!
//! Each request belongs to one outbox thread for its whole life, which keeps its answers in
//! order. The engine sends one batch of events per step and thread. A thread that falls behind
//! drains every batch that waits before it answers: deltas of one request merge. Requests with
//! something to say take turns of limited work, so that one with thousands of sequences does
//! not keep another waiting. Nothing here grows without bound: requests are limited at intake,
//! what waits for a response by [`Backlog`].
//!
//! A client's call may block inside the server. Then only that client waits: an outbox's state
//! is its own, not its thread's, and `takeover` lets another thread go on with it. The thread
//! that comes back from such a call puts the request back and ends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use parking_lot::{Mutex, MutexGuard};

use super::event::{Event, StepEvents};
use super::stream::Stream;
use crate::engine::command::Command;
use crate::engine::request::Observation;
use crate::engine::shared::Shared;
use crate::error::{Error, Result};
use crate::ids::RequestId;
use crate::threads;

/// What of one request may wait here for its answers; a request with more fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backlog {
    /// Tokens of a stream that were not yet taken up.
    pub tokens: usize,
    /// Reported logprobs.
    pub logprobs: usize,
}

/// Between two tries of requests whose clients could take no response.
const HELD_PERIOD: Duration = Duration::from_micros(500);
/// While threads are in calls that block: what they bring back is taken up so soon.
const RETURN_PERIOD: Duration = Duration::from_millis(5);

pub(super) struct Outbox {
    name: String,
    shared: Shared,
    backlog: Backlog,
    batches: Receiver<StepEvents>,
    state: Mutex<State>,
    /// One that works, and those that may still be in a client's call.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    streams: HashMap<RequestId, Entry>,
    /// Events that were taken from the channel.
    incoming: VecDeque<(Instant, Event)>,
    /// Requests with something to say.
    turns: VecDeque<RequestId>,
    /// Requests whose clients cannot take a response right now, and since when nobody tried.
    held: Vec<RequestId>,
    held_at: Option<Instant>,
    /// Number of the thread that works.
    worker: u64,
    /// Since when it is in a client's call.
    calling: Option<Instant>,
    /// Threads that were relieved and have not come back.
    blocked: usize,
}

/// A request here.
enum Entry {
    /// Nobody calls its client.
    Idle(Box<Stream>),
    /// A thread calls its client; what came meanwhile.
    InCall(Vec<(Instant, Event)>),
}

/// What a thread does next.
enum Next {
    /// Work, with a batch more.
    Take(StepEvents),
    Work,
    End,
}

/// The state, locked by the thread with this number.
struct LockedState<'a> {
    state: MutexGuard<'a, State>,
    me: u64,
}

impl LockedState<'_> {
    /// Call a client without the state. False: another thread took over meanwhile.
    fn call(&mut self, call: impl FnOnce()) -> bool {
        self.state.calling = Some(Instant::now());
        MutexGuard::unlocked(&mut self.state, call);
        self.still_mine()
    }

    fn still_mine(&mut self) -> bool {
        let mine = self.state.worker == self.me;
        if mine {
            self.state.calling = None;
        }
        mine
    }
}

impl Outbox {
    /// With its first thread. It ends, once all is sent, when the sender of `batches` is gone.
    pub fn start(
        name: String,
        backlog: Backlog,
        batches: Receiver<StepEvents>,
        shared: &Shared,
    ) -> Result<Arc<Outbox>> {
        let outbox = Arc::new(Outbox {
            name,
            shared: shared.clone(),
            backlog,
            batches,
            state: Mutex::default(),
            threads: Mutex::default(),
        });
        outbox.spawn(0)?;
        Ok(outbox)
    }

    fn spawn(self: &Arc<Self>, number: u64) -> Result<()> {
        let outbox = Arc::clone(self);
        let thread = threads::spawn(self.name.clone(), move || outbox.run(number))?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Wait until all is sent. Called once the senders are gone.
    pub fn join(&self) {
        loop {
            // Not while it is joined: takeover may add one.
            let thread = self.threads.lock().pop();
            match thread {
                Some(thread) => drop(thread.join()),
                None => break,
            }
        }
        // Requests that nobody ended do so by their own guard.
        let left = std::mem::take(&mut self.state.lock().streams);
        drop(left);
    }

    /// Whether a call may begin to block soon.
    pub fn busy(&self) -> bool {
        let state = self.state.lock();
        !state.streams.is_empty() || state.calling.is_some() || !self.batches.is_empty()
    }

    /// Let another thread work if the present one is in a call for longer than `limit`, unless
    /// `most` threads are.
    pub fn relieve(self: &Arc<Self>, limit: Duration, most: usize) {
        let mut state = self.state.lock();
        let late = state.calling.is_some_and(|since| since.elapsed() > limit);
        if !late || state.blocked >= most {
            return;
        }
        if self.spawn(state.worker + 1).is_ok() {
            state.worker += 1;
            state.calling = None;
            state.blocked += 1;
        }
    }

    fn run(self: Arc<Self>, me: u64) {
        loop {
            let first = match self.next() {
                Next::Take(batch) => Some(batch),
                Next::Work => None,
                Next::End => return,
            };
            let worked = threads::catch(|| {
                let mut locked = LockedState { state: self.state.lock(), me };
                for StepEvents { at, events } in first.into_iter().chain(self.batches.try_iter()) {
                    locked.state.incoming.extend(events.into_iter().map(|event| (at, event)));
                }
                self.work(&mut locked)
            });
            let mine = worked.unwrap_or_else(|_| {
                self.panicked();
                LockedState { state: self.state.lock(), me }.still_mine()
            });
            if !mine {
                self.state.lock().blocked -= 1;
                return;
            }
        }
    }

    /// Wait for something to do.
    fn next(&self) -> Next {
        let mut state = self.state.lock();
        if state.held_at.is_some_and(|at| at.elapsed() >= HELD_PERIOD) {
            let state = &mut *state;
            state.held_at = None;
            state.turns.extend(state.held.drain(..));
        }
        if !state.turns.is_empty() || !state.incoming.is_empty() {
            return Next::Work;
        }
        let pause = match (state.held.is_empty(), state.blocked) {
            (false, _) => Some(HELD_PERIOD),
            (true, 0) => None,
            (true, _) => Some(RETURN_PERIOD),
        };
        drop(state);

        let Some(pause) = pause else {
            return self.batches.recv().map_or(Next::End, Next::Take);
        };
        match self.batches.recv_timeout(pause) {
            Ok(batch) => return Next::Take(batch),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(pause),
        }
        Next::Work
    }

    /// All events, then one turn. False: another thread took over.
    fn work(&self, locked: &mut LockedState) -> bool {
        while let Some((at, event)) = locked.state.incoming.pop_front() {
            if !self.take(locked, at, event) {
                return false;
            }
        }
        match locked.state.turns.pop_front() {
            Some(id) => self.answer(locked, id),
            None => true,
        }
    }

    /// A panic here is our defect: say so to everyone on this thread and let the engine die with
    /// it.
    fn panicked(&self) {
        self.shared.health.poison("an outbox thread panicked");
        let streams = std::mem::take(&mut self.state.lock().streams);
        drop(streams);
        let _ = self.shared.commands.send(Command::Poisoned);
    }

    fn take(&self, locked: &mut LockedState, at: Instant, event: Event) -> bool {
        let id = event.id();
        let (wants_turn, tokens, logprobs) = match (locked.state.streams.get_mut(&id), event) {
            (None, Event::Open(id, stream)) => {
                locked.state.streams.insert(id, Entry::Idle(stream));
                return true;
            }
            // A request that stop strings ended may still get its surplus token: dropped.
            (None, _) => return true,
            (Some(Entry::InCall(events)), event) => {
                self.queue(id, events, at, event);
                return true;
            }
            (Some(Entry::Idle(_)), Event::Vector { vector, .. }) => {
                return self.embedded(locked, id, vector, at);
            }
            (Some(Entry::Idle(_)), Event::Fail { error, .. }) => {
                return self.fail(locked, id, error)
            }
            (Some(Entry::Idle(_)), Event::Open(..)) => return true,
            (Some(Entry::Idle(stream)), Event::Token { index, token, finish, .. }) => {
                let wants = stream.take(index, token, finish, at, &*self.shared.observer);
                (wants, stream.backlog_tokens(), stream.held_logprobs())
            }
        };

        if wants_turn {
            locked.state.turns.push_back(id);
        }
        if tokens > self.backlog.tokens {
            return self.fail(locked, id, self.lags());
        }
        if logprobs > self.backlog.logprobs {
            return self.fail(locked, id, self.reports_too_much());
        }
        true
    }

    /// For a request whose client is being called. More than its backlog becomes its failure.
    fn queue(&self, id: RequestId, events: &mut Vec<(Instant, Event)>, at: Instant, event: Event) {
        if events.last().is_some_and(|(_, event)| matches!(event, Event::Fail { .. })) {
            return;
        }
        if events.len() > self.backlog.tokens {
            events.clear();
            events.push((at, Event::Fail { id, error: self.lags() }));
            return;
        }
        events.push((at, event));
    }

    /// Of a stream that is read too slowly. The engine sees that the ticket has ended, as with a
    /// client that left.
    fn lags(&self) -> Error {
        Error::Unavailable(format!(
            "more than {} tokens wait for the responses of this stream: read faster, or raise \
             --backend-config=vllm,max-backlog-tokens",
            self.backlog.tokens
        ))
    }

    fn reports_too_much(&self) -> Error {
        crate::invalid!(
            "more than {} logprobs (tokens of all n sequences times logprobs) wait for a response \
             of this request: lower n, max_tokens or logprobs, stream it, or raise \
             --backend-config=vllm,max-logprob-entries",
            self.backlog.logprobs
        )
    }

    fn fail(&self, locked: &mut LockedState, id: RequestId, error: Error) -> bool {
        let Some(Entry::Idle(stream)) = locked.state.streams.remove(&id) else { return true };
        let cancelled = matches!(error, Error::Cancelled(_));
        let mine = locked.call(|| stream.client.finish(Err(error)));
        if cancelled {
            tracing::info!("Successfully cancelled the request");
        }
        mine
    }

    fn embedded(
        &self,
        locked: &mut LockedState,
        id: RequestId,
        vector: Vec<f32>,
        at: Instant,
    ) -> bool {
        let Some(Entry::Idle(stream)) = locked.state.streams.remove(&id) else { return true };
        // A classifier's head takes its time: nobody waits for the lock meanwhile.
        locked.call(|| {
            if let Some(answer) = stream.embedded(vector, at, &*self.shared.observer) {
                stream.client.finish(Ok(answer));
            }
        })
    }

    /// One turn of a request: some of its pending tokens become text, and once all were looked at,
    /// what is to be said is said.
    fn answer(&self, locked: &mut LockedState, id: RequestId) -> bool {
        let state = &mut *locked.state;
        let Some(Entry::Idle(stream)) = state.streams.get_mut(&id) else { return true };
        if !stream.client.ready() {
            state.held.push(id);
            state.held_at.get_or_insert_with(Instant::now);
            return true;
        }

        let turn = stream.advance(&*self.shared.observer);
        for ended in turn.ended.iter().filter(|ended| ended.by_text) {
            let sequence = stream.ids.id(ended.index);
            let _ = self.shared.commands.send(Command::Stopped(sequence));
        }

        if let Some(error) = turn.failed {
            return self.fail(locked, id, error);
        }
        if !turn.whole {
            state.turns.push_back(id);
            return true;
        }
        if stream.done() {
            return self.finish(locked, id);
        }
        if stream.due() {
            return self.respond(locked, id);
        }
        if stream.wants_turn() {
            state.turns.push_back(id);
        }
        true
    }

    fn finish(&self, locked: &mut LockedState, id: RequestId) -> bool {
        let Some(Entry::Idle(mut stream)) = locked.state.streams.remove(&id) else { return true };
        self.shared.observer.observe(Observation::Answered { n: stream.ids.count });
        let answer = stream.take_answer();
        locked.call(|| stream.client.finish(Ok(answer)))
    }

    fn respond(&self, locked: &mut LockedState, id: RequestId) -> bool {
        let Some(entry) = locked.state.streams.get_mut(&id) else { return true };
        let Entry::Idle(mut stream) = std::mem::replace(entry, Entry::InCall(Vec::new())) else {
            return true;
        };
        let answer = stream.take_answer();
        let mine = locked.call(|| stream.client.respond(answer));

        // Gone if a thread panicked meanwhile: then the stream ends by its own guard.
        let state = &mut *locked.state;
        let Some(entry) = state.streams.get_mut(&id) else { return mine };
        if stream.wants_turn() {
            state.turns.push_back(id);
        }
        if let Entry::InCall(events) = std::mem::replace(entry, Entry::Idle(stream)) {
            for event in events.into_iter().rev() {
                state.incoming.push_front(event);
            }
        }
        mine
    }
}
