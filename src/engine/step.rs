//! The loop of the engine thread: take commands, plan, enqueue, collect, settle. The only place
//! where mutable state of requests lives; everything else talks to it through [`Command`]s.
//!
//! Steps overlap when the device allows it (`depth` 2): a step is planned and enqueued while the
//! one before it still runs, because plans name tokens by slot and never by value (design law 1).

mod adapted;
mod masks;
mod settle;

use std::collections::{HashMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use super::adapters::Adapters;
use super::command::{Accepted, Command, SequenceIds, StopRules};
use super::grammar_matchers::{MatcherThreads, Place};
use super::meter::Meter;
use super::outbox::{Event, Outboxes, Shared};
use super::repetition::RepetitionDetector;
use super::request::{Client, FinishReason};
use super::stream::{NewToken, Stream};
use crate::error::{Error, Result};
use crate::ids::{AdapterId, AdapterSlotId, RequestId};
use crate::model::Adapter;
use crate::plan::{StepPlan, StepResult, TokenMasks};
use crate::scheduler::{NewSequence, Scheduler, SchedulerStats};

/// How often cancels are looked for while nothing runs.
const CANCEL_PERIOD: Duration = Duration::from_millis(10);

/// A device with a net on it, as the loop sees it.
pub(super) trait Runner: Send {
    /// Steps that may be enqueued before the first is collected.
    fn depth(&self) -> usize;
    /// Put an adapter into an adapter slot, for the steps enqueued from now on.
    fn install(&mut self, adapter_slot: AdapterSlotId, adapter: &Adapter) -> Result<()>;
    /// Enqueue a step up to its logits.
    fn forward(&mut self, plan: &StepPlan) -> Result<()>;
    /// End the enqueueing of that step: choose its tokens. Earlier steps may be collected between
    /// the two, so that `masks` can depend on their tokens.
    fn sample(&mut self, masks: &TokenMasks) -> Result<()>;
    /// The result of the oldest step that was not collected; waits for it.
    fn collect(&mut self) -> Result<StepResult>;
    /// For tests: `BreakOnPurpose`.
    fn break_device(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The threads that work for this one.
pub(super) struct Helpers {
    pub outboxes: Outboxes,
    pub matchers: MatcherThreads,
    pub adapters: Adapters,
}

/// The engine thread's state.
pub(super) struct Core {
    pub runner: Box<dyn Runner>,
    pub scheduler: Scheduler,
    pub commands: Receiver<Command>,
    pub outboxes: Outboxes,
    pub shared: Shared,
    pub meter: Meter,
    pub stream_interval: u32,
    pub matchers: MatcherThreads,
    pub adapters: Adapters,
    live: HashMap<RequestId, Live>,
    /// Events of this round, one list per outbox thread.
    outgoing: Vec<Vec<Event>>,
    in_flight: VecDeque<u64>,
    draining: Option<Instant>,
}

/// A sequence that the scheduler holds.
struct Live {
    /// All sequences of its request, and which of them it is.
    ids: SequenceIds,
    index: usize,
    client: Arc<dyn Client>,
    adapter: AdapterId,
    rules: Arc<StopRules>,
    outputs: u32,
    repetition: Option<RepetitionDetector>,
    outbox: usize,
    /// None: no grammar.
    matcher: Option<Place>,
    /// The scheduler leaves it out until its matcher is back.
    held: bool,
    /// It left a step since its matcher went away.
    skips_step: bool,
    /// Told to the client once the matcher is back and says whether it was the last one. For models
    /// without a token that ends a text.
    unsaid: Option<Box<NewToken>>,
}

impl Core {
    pub fn new(
        runner: Box<dyn Runner>,
        scheduler: Scheduler,
        commands: Receiver<Command>,
        helpers: Helpers,
        shared: Shared,
        meter: Meter,
        stream_interval: u32,
    ) -> Core {
        let Helpers { outboxes, matchers, adapters } = helpers;
        let outgoing = (0..outboxes.len()).map(|_| Vec::new()).collect();
        Core {
            runner,
            scheduler,
            commands,
            outboxes,
            shared,
            meter,
            stream_interval,
            matchers,
            adapters,
            live: HashMap::new(),
            outgoing,
            in_flight: VecDeque::new(),
            draining: None,
        }
    }

    /// The thread's body: serves until drained; after a panic or a device error fails everything
    /// that is in flight and that still comes, until drained.
    pub fn run(mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let cause = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.message().to_string()),
            Err(panic) => Some(panic_text(&*panic)),
        };
        if let Some(cause) = cause {
            self.shared.health.poison(&cause);
            self.wait_for_drain();
        }
        self.flush(Instant::now());
        self.outboxes.close();
        // Submits that raced with the drain: answered, not dropped.
        self.shared.health.unloaded();
    }

    fn serve(&mut self) -> Result<()> {
        while self.take_commands()? {
            self.meter.round_begins();
            self.poll_cancels();
            let mut settled = false;
            while !settled && self.in_flight.len() < self.runner.depth() {
                let Some(plan) = self.scheduler.plan() else { break };
                self.install(&plan)?;
                if self.in_flight.is_empty() {
                    self.shared.health.step_begins();
                }
                self.meter.planned(&plan, self.scheduler.take_admitted());
                let runner = &mut self.runner;
                self.meter.device(|| runner.forward(&plan))?;
                let constrained = self.rows_with_grammar(&plan);
                if !constrained.is_empty() {
                    // Their masks depend on the tokens of the step before, which ends first.
                    settled = self.collect_all()?;
                }
                let masks = self.token_masks(constrained)?;
                let runner = &mut self.runner;
                self.meter.device(|| runner.sample(&masks))?;
                self.in_flight.push_back(plan.step);
            }
            if !settled && !self.in_flight.is_empty() {
                self.collect()?;
                settled = true;
            }
            if settled {
                self.meter.round_ends(self.stats());
            } else if self.in_flight.is_empty() && !self.live.is_empty() {
                self.wait_for_helpers()?;
            }
            self.flush(Instant::now());
        }
        Ok(())
    }

    /// Wait for the oldest step and settle it.
    fn collect(&mut self) -> Result<()> {
        let step = self.in_flight.pop_front();
        let runner = &mut self.runner;
        let result = self.meter.device(|| runner.collect())?;
        self.step_ended()?;
        assert_eq!(Some(result.step), step, "the device answered another step");
        self.settle(result);
        Ok(())
    }

    /// Settle the steps in flight before the one that is being enqueued. False: there were none.
    fn collect_all(&mut self) -> Result<bool> {
        if self.in_flight.is_empty() {
            return Ok(false);
        }
        while !self.in_flight.is_empty() {
            self.collect()?;
        }
        self.shared.health.step_begins();
        self.flush(Instant::now());
        Ok(true)
    }

    /// Nothing can be planned before a slow mask or an adapter is there.
    fn wait_for_helpers(&mut self) -> Result<()> {
        self.meter.load(&self.stats());
        match self.commands.recv_timeout(CANCEL_PERIOD) {
            Ok(command) => self.apply(command),
            Err(_) => Ok(()),
        }
    }

    /// A step that ended too late is worth nothing: the watchdog has failed everyone meanwhile.
    fn step_ended(&self) -> Result<()> {
        match self.in_flight.is_empty() {
            true => self.shared.health.no_step_runs(),
            false => self.shared.health.step_begins(),
        }
        self.shared.health.failure().map_or(Ok(()), Err)
    }

    /// Apply what other threads asked for; sleeps while there is nothing to do. False when drained.
    fn take_commands(&mut self) -> Result<bool> {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.apply(command)?;
            }
            if let Some(deadline) = self.draining {
                if self.live.is_empty() && self.in_flight.is_empty() {
                    return Ok(false);
                }
                if Instant::now() >= deadline {
                    self.fail_all(&Error::Unavailable(
                        "the model was unloaded before this request was finished".into(),
                    ));
                    return Ok(false);
                }
            }
            if !self.live.is_empty() || !self.in_flight.is_empty() {
                return Ok(true);
            }
            // What was refused since the last step is not to wait for the next one.
            self.flush(Instant::now());
            match self.commands.recv() {
                Ok(command) => self.apply(command)?,
                // Every handle is gone without a drain: nobody can ask anything any more.
                Err(_) => return Ok(false),
            }
        }
    }

    fn apply(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Submit(accepted) => self.admit(*accepted),
            Command::Stopped(id) => {
                self.live.remove(&id);
                self.scheduler.finish(id);
                self.meter.ended(id, FinishReason::Stop);
            }
            Command::MatcherState(id, matcher_state) => self.take_matcher(id, matcher_state),
            Command::Poisoned => {
                return Err(self.shared.health.check().err().unwrap_or_else(|| {
                    crate::internal!("an outbox thread reported a failure without a cause")
                }));
            }
            Command::Adapter { id, outcome } => self.take_adapter(id, outcome)?,
            Command::Drain { deadline } => self.draining = Some(deadline),
        }
        Ok(())
    }

    fn admit(&mut self, mut accepted: Accepted) {
        let (ids, adapter) = (accepted.ids, accepted.adapter);
        let outbox = ids.first.0 as usize % self.outgoing.len();
        let mut added = Ok(());
        for (index, sequence) in accepted.sequences.iter_mut().enumerate() {
            let new = NewSequence {
                id: ids.id(index),
                primary: (index > 0).then_some(ids.first),
                adapter,
                max_tokens: accepted.limits.max_tokens,
                sampler: sequence.sampler.clone(),
                skip_cache: accepted.skip_cache,
                prompt: accepted.prompt.clone(),
                priority: accepted.priority,
            };
            added = added.and_then(|()| match self.adapters.admit(new)? {
                Some(new) => self.scheduler.add(new),
                None => Ok(()),
            });
            let (client, rules) = (accepted.client.clone(), accepted.limits.clone());
            let repetition =
                rules.repetition.as_ref().map(|r| RepetitionDetector::new(r, rules.max_tokens));
            let matcher = sequence.matcher_state.take().map(Place::Here);
            let live = Live {
                ids,
                index,
                client,
                adapter,
                rules,
                outputs: 0,
                repetition,
                outbox,
                matcher,
                held: false,
                skips_step: false,
                unsaid: None,
            };
            self.meter.arrived(ids.id(index), accepted.arrival);
            self.live.insert(ids.id(index), live);
        }
        let stream = Box::new(Stream::new(accepted, self.stream_interval));
        self.outgoing[outbox].push(Event::Open(ids.first, stream));
        if let Err(error) = added {
            self.fail(ids, error);
        }
    }

    /// Clients that went away or whose time is up, running or waiting: seen within a step.
    fn poll_cancels(&mut self) {
        let gone = self.live.iter().filter_map(|(&id, live)| Some((id, live.client.gone()?)));
        let gone: Vec<(RequestId, Error)> = gone.collect();
        for (id, error) in gone {
            // Not there any more if another sequence of the request was in the list.
            let Some(live) = self.live.get(&id) else { continue };
            if matches!(error, Error::Cancelled(_)) {
                tracing::info!("Cancelling the request");
            }
            self.fail(live.ids, error);
        }
    }

    /// End a request, with all of its sequences that still run.
    fn fail(&mut self, request: SequenceIds, error: Error) {
        let cancelled = matches!(error, Error::Cancelled(_));
        let reason = if cancelled { FinishReason::Abort } else { FinishReason::Error };
        let mut outbox = None;
        // Backwards, so that what waits behind the first sequence is gone before it.
        for id in request.ids().rev() {
            if let Some(live) = self.live.remove(&id) {
                if !self.scheduler.finish(id) {
                    self.adapters.forget(id);
                }
                self.meter.ended(id, reason);
                outbox = Some(live.outbox);
            }
        }
        if let Some(outbox) = outbox {
            self.outgoing[outbox].push(Event::Fail { id: request.first, error });
        }
    }

    fn fail_all(&mut self, error: &Error) {
        while let Some(live) = self.live.values().next() {
            self.fail(live.ids, error.clone());
        }
    }

    fn flush(&mut self, at: Instant) {
        for (i, events) in self.outgoing.iter_mut().enumerate() {
            self.outboxes.send(i, at, std::mem::take(events));
        }
    }

    /// After poison, which has answered everyone. The scheduler is not asked any more: it may be
    /// what panicked. Outboxes forget their streams.
    fn wait_for_drain(&mut self) {
        let error = Error::Unavailable("the engine failed".into());
        for (id, live) in std::mem::take(&mut self.live) {
            self.meter.ended(id, FinishReason::Error);
            // Once per sequence: the outbox forgets at the first.
            let fail = Event::Fail { id: live.ids.first, error: error.clone() };
            self.outgoing[live.outbox].push(fail);
        }
        self.meter.load(&SchedulerStats::default());
        self.flush(Instant::now());
        while let Ok(command) = self.commands.recv() {
            if matches!(command, Command::Drain { .. }) {
                return;
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the engine thread panicked: {}", text.unwrap_or("no message"))
}
