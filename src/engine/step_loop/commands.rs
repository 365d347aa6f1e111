//! What other threads ask of the engine thread: requests to admit, stop strings that were found,
//! matchers and adapters that are ready, a drain. Called by the loop in `step` between two steps.

use std::time::{Duration, Instant};

use crossbeam::channel::RecvTimeoutError;

use super::state::{ActiveSequence, Matcher, StepLoop};
use crate::engine::command::Command;
use crate::engine::output::{Event, RepetitionDetector, Stream};
use crate::engine::request::{Accepted, FinishReason};
use crate::error::{Error, Result};
use crate::internal;
use crate::scheduler::NewSequence;

/// How often a drain looks whether anybody is left while no sequence runs.
const DRAIN_PERIOD: Duration = Duration::from_millis(5);

impl StepLoop {
    /// Apply what other threads asked for; sleeps while there is nothing to do. False when drained.
    pub(super) fn take_commands(&mut self) -> Result<bool> {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.apply(command)?;
            }

            let idle = self.active.is_empty() && self.in_flight.is_empty();
            if let Some(deadline) = self.drain_deadline {
                // Also those that are still being prepared, or being answered.
                if idle && self.shared.health.tickets.len() == 0 {
                    return Ok(false);
                }
                if Instant::now() >= deadline {
                    self.fail_all(&Error::Unavailable(
                        "the model was unloaded before this request was finished".into(),
                    ));
                    return Ok(false);
                }
            }
            if !idle {
                return Ok(true);
            }

            // What was refused since the last step is not to wait for the next one. Nor are gauges
            // to show, for as long as nobody asks, what left without a step.
            self.report_load();
            self.flush(Instant::now());
            let command = match self.drain_deadline {
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                // A request that is refused where it is prepared sends nothing.
                Some(_) => self.commands.recv_timeout(DRAIN_PERIOD),
            };
            match command {
                Ok(command) => self.apply(command)?,
                Err(RecvTimeoutError::Timeout) => {}
                // Every handle is gone without a drain: nobody can ask anything any more.
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
    }

    pub(super) fn apply(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Submit(accepted) => self.admit(*accepted),
            Command::Stopped(id) => self.end(id, FinishReason::Stop),
            Command::MatcherState(id, matcher_state) => self.take_matcher(id, matcher_state),
            Command::Poisoned => {
                return Err(self.shared.health.check().err().unwrap_or_else(|| {
                    internal!("an outbox thread reported a failure without a cause")
                }));
            }
            Command::Adapter { id, outcome } => self.take_adapter(id, outcome)?,
            Command::Drain { deadline } => self.drain_deadline = Some(deadline),
        }
        Ok(())
    }

    /// Give the sequences of a request to the scheduler, or keep them until their adapter is read.
    fn admit(&mut self, mut accepted: Accepted) {
        let ids = accepted.ids;
        let outbox = ids.first.0 as usize % self.outgoing.len();
        let mut added = Ok(());
        for index in 0..accepted.sequences.len() {
            let new = new_sequence(&accepted, index);
            added = added.and_then(|()| match self.adapters.admit(new)? {
                Some(new) => self.scheduler.add(new),
                None => Ok(()),
            });

            let id = ids.id(index);
            let matcher = accepted.sequences[index].matcher_state.take().map(Matcher::Here);
            self.meter.arrived(id, accepted.arrival);
            self.active.insert(id, active_sequence(&accepted, index, outbox, matcher));
        }

        let stream = Box::new(Stream::new(accepted, self.stream_interval));
        self.outgoing[outbox].push(Event::Open(ids.first, stream));
        if let Err(error) = added {
            self.fail(ids, error);
        }
    }
}

/// What the scheduler is told of a sequence. All but the first wait for the first one's prompt.
fn new_sequence(accepted: &Accepted, index: usize) -> NewSequence {
    NewSequence {
        id: accepted.ids.id(index),
        primary: (index > 0).then_some(accepted.ids.first),
        adapter: accepted.adapter,
        max_tokens: accepted.limits.max_tokens,
        sampler: accepted.sequences[index].sampler.clone(),
        skip_cache: accepted.skip_cache,
        prompt: accepted.prompt.clone(),
        priority: accepted.priority,
        drafts: accepted.sequences[index].matcher_state.as_ref().is_none_or(|m| m.sees_ahead()),
        images: accepted.images.clone(),
    }
}

fn active_sequence(
    accepted: &Accepted,
    index: usize,
    outbox: usize,
    matcher: Option<Matcher>,
) -> ActiveSequence {
    let rules = &accepted.limits;
    let repetition = rules.repetition.as_ref();
    ActiveSequence {
        ids: accepted.ids,
        index,
        client: accepted.client.clone(),
        adapter: accepted.adapter,
        rules: rules.clone(),
        outputs: 0,
        repetition: repetition.map(|rule| RepetitionDetector::new(rule, rules.max_tokens)),
        outbox,
        matcher,
        held: false,
        skipped_step: None,
        unmatched: Vec::new(),
        withheld: None,
    }
}
