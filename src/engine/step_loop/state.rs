//! What the engine thread owns: everything that changes of a request between its admission and its
//! last token. The other files of this folder act on it; nobody outside touches it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::Receiver;

use super::draft_gain::{DraftGain, StepKind};
use super::runner::Runner;
use crate::engine::adapters::HostAdapters;
use crate::engine::command::Command;
use crate::engine::grammar::{MatcherState, MatcherThreads};
use crate::engine::meter::Meter;
use crate::engine::output::{Event, NewToken, Outboxes, RepetitionDetector};
use crate::engine::request::{Client, Finish, FinishReason, SequenceIds, StopRules};
use crate::engine::shared::Shared;
use crate::ids::{AdapterId, RequestId, TokenId};
use crate::scheduler::Scheduler;

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
    /// Steps that were enqueued and not collected, oldest first: their numbers, and what they are.
    pub(super) in_flight: VecDeque<(u64, StepKind)>,
    /// Whether drafts pay. None where steps do not overlap: on the CPU drafts do not depend on a
    /// clock, so that runs can be repeated.
    pub(super) draft_gain: Option<DraftGain>,
    /// The model that drafts ran in front of the next step.
    pub(super) model_drafted: bool,
    /// When requests in flight fail, once the engine drains.
    pub(super) drain_deadline: Option<Instant>,
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
    pub skipped_step: Option<SkippedStep>,
    /// Tokens that came and that its matcher has not taken.
    pub unmatched: Vec<TokenId>,
    /// Told to the client once the matcher is back and says whether it was the last one. For models
    /// without a token that ends a text.
    pub withheld: Option<Box<NewToken>>,
}

/// A step whose token of a sequence was dropped, since a mask was missing.
pub(super) struct SkippedStep {
    /// Those behind its drafts, at least.
    pub ahead: bool,
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
        let overlaps = runner.depth() > 1;

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
            draft_gain: overlaps.then(DraftGain::default),
            model_drafted: false,
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
