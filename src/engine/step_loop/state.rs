//! What the engine thread owns: everything that changes of a request between its admission and its
//! last token. The other files of this folder act on it; nobody outside touches it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::Receiver;

use super::runner::Runner;
use crate::engine::adapters::HostAdapters;
use crate::engine::command::Command;
use crate::engine::grammar::{MatcherState, MatcherThreads};
use crate::engine::meter::Meter;
use crate::engine::output::{Event, NewToken, Outboxes, RepetitionDetector};
use crate::engine::request::{Client, Finish, FinishReason, SequenceIds, StopRules};
use crate::engine::shared::Shared;
use crate::ids::{AdapterId, RequestId};
use crate::scheduler::{Scheduler, StepShape};

/// The threads that work for the engine thread.
pub(crate) struct Helpers {
    pub outboxes: Outboxes,
    pub matchers: MatcherThreads,
    pub adapters: HostAdapters,
}

/// The engine thread's state; `StepLoop::run` is the thread's body.
pub(crate) struct StepLoop {
    pub(super) runner: Box<dyn Runner>,
    pub(super) scheduler: Scheduler,
    pub(super) commands: Receiver<Command>,
    pub(super) outboxes: Outboxes,
    pub(super) shared: Shared,
    pub(super) meter: Meter,
    /// The engine's own, for requests without one.
    pub(super) stream_interval: u32,
    pub(super) matchers: MatcherThreads,
    pub(super) adapters: HostAdapters,
    /// Sequences that were admitted and have not ended. The scheduler holds them, or they wait for
    /// their adapter.
    pub(super) active: HashMap<RequestId, ActiveSequence>,
    /// Events of this round, one list per outbox.
    pub(super) outgoing: Vec<Vec<Event>>,
    /// Steps that were enqueued and not collected, oldest first.
    pub(super) in_flight: VecDeque<StepInFlight>,
    /// When the step was collected that was last.
    pub(super) collected: Instant,
    /// When requests in flight fail, once the engine drains.
    pub(super) drain_deadline: Option<Instant>,
}

/// A step that was enqueued.
pub(super) struct StepInFlight {
    pub step: u64,
    /// What it has to do; None: it waited for something besides the device.
    pub shape: Option<StepShape>,
    /// When its enqueuing began.
    pub begun: Instant,
}

/// A sequence on the engine thread.
pub(super) struct ActiveSequence {
    /// All sequences of its request.
    pub ids: SequenceIds,
    /// Which of them it is.
    pub index: usize,
    pub client: Arc<dyn Client>,
    pub adapter: AdapterId,
    pub rules: Arc<StopRules>,
    /// Tokens that came.
    pub outputs: u32,
    pub repetition: Option<RepetitionDetector>,
    /// Number of the outbox that answers its request.
    pub outbox: usize,
    /// None: no grammar.
    pub matcher: Option<Matcher>,
    /// The scheduler plans nothing for it until its matcher is back.
    pub held: bool,
    /// It skipped a step since its matcher went away.
    pub skipped_step: bool,
    /// Told to the client once the matcher is back and says whether it was the last one. For models
    /// without a token that ends a text.
    pub withheld: Option<Box<NewToken>>,
}

/// Where a sequence's matcher is.
pub(super) enum Matcher {
    Here(Box<MatcherState>),
    /// With a thread of [`MatcherThreads`]: it comes back as [`Command::MatcherState`].
    Away,
}

impl StepLoop {
    /// Nothing is active, and nothing in flight.
    pub fn new(
        runner: Box<dyn Runner>,
        scheduler: Scheduler,
        commands: Receiver<Command>,
        helpers: Helpers,
        shared: Shared,
        meter: Meter,
        stream_interval: u32,
    ) -> StepLoop {
        let Helpers { outboxes, matchers, adapters } = helpers;
        let outgoing = (0..outboxes.len()).map(|_| Vec::new()).collect();

        StepLoop {
            runner,
            scheduler,
            commands,
            outboxes,
            shared,
            meter,
            stream_interval,
            matchers,
            adapters,
            active: HashMap::new(),
            outgoing,
            in_flight: VecDeque::new(),
            collected: Instant::now(),
            drain_deadline: None,
        }
    }

    /// Hand a token to its request, and end the sequence if that was its last one.
    pub(super) fn tell(&mut self, id: RequestId, token: NewToken, finish: Option<Finish>) {
        let Some(active) = self.active.get(&id) else { return };
        let request = active.ids.first;
        let index = active.index;
        self.outgoing[active.outbox].push(Event::Token { id: request, index, token, finish });
        if let Some(finish) = finish {
            self.end(id, finish.reason);
        }
    }

    /// A sequence is over: forget it, wherever it is.
    pub(super) fn end(&mut self, id: RequestId, reason: FinishReason) {
        self.active.remove(&id);
        self.scheduler.finish(id);
        self.meter.ended(id, reason);
    }

    /// Hand this round's events to the outboxes.
    pub(super) fn flush(&mut self, at: Instant) {
        for (i, events) in self.outgoing.iter_mut().enumerate() {
            self.outboxes.send(i, at, std::mem::take(events));
        }
    }
}
