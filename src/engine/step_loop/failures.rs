//! Requests that end without their last token: clients that left, timeouts, a drain's deadline, a
//! dead engine. Called by the loop in `step` and by the other files beside it.

use std::time::Instant;

use super::state::StepLoop;
use crate::engine::command::Command;
use crate::engine::output::Event;
use crate::engine::request::{FinishReason, SequenceIds};
use crate::error::Error;
use crate::ids::RequestId;
use crate::scheduler::SchedulerStats;

impl StepLoop {
    /// Clients that went away or whose time is up, running or waiting: seen within a step.
    pub(super) fn fail_gone_clients(&mut self) {
        let gone = self.active.iter().filter_map(|(&id, active)| Some((id, active.client.gone()?)));
        let gone: Vec<(RequestId, Error)> = gone.collect();
        for (id, error) in gone {
            // Not there any more if another sequence of the request was in the list.
            let Some(active) = self.active.get(&id) else { continue };
            if matches!(error, Error::Cancelled(_)) {
                tracing::info!("Cancelling the request");
            }
            self.fail(active.ids, error);
        }
    }

    /// End a request, with all of its sequences that still run.
    pub(super) fn fail(&mut self, request: SequenceIds, error: Error) {
        let cancelled = matches!(error, Error::Cancelled(_));
        let reason = if cancelled { FinishReason::Abort } else { FinishReason::Error };
        let mut outbox = None;
        // Backwards, so that what waits behind the first sequence is gone before it.
        for id in request.ids().rev() {
            if let Some(active) = self.active.remove(&id) {
                if !self.scheduler.finish(id) {
                    self.adapters.forget(id);
                }
                self.meter.ended(id, reason);
                outbox = Some(active.outbox);
            }
        }
        if let Some(outbox) = outbox {
            self.outgoing[outbox].push(Event::Fail { id: request.first, error });
        }
    }

    pub(super) fn fail_all(&mut self, error: &Error) {
        while let Some(active) = self.active.values().next() {
            self.fail(active.ids, error.clone());
        }
    }

    /// After poison, which has answered everyone. The scheduler is not asked any more: it may be
    /// what panicked. Outboxes forget their streams.
    pub(super) fn wait_for_drain(&mut self) {
        let error = Error::Unavailable("the engine failed".into());
        for (id, active) in std::mem::take(&mut self.active) {
            self.meter.ended(id, FinishReason::Error);
            // Once per sequence: the outbox forgets at the first.
            let fail = Event::Fail { id: active.ids.first, error: error.clone() };
            self.outgoing[active.outbox].push(fail);
        }
        self.meter.load(&SchedulerStats::default());
        self.meter.adapters(Vec::new(), Vec::new());
        self.flush(Instant::now());

        while let Ok(command) = self.commands.recv() {
            if matches!(command, Command::Drain { .. }) {
                return;
            }
        }
    }
}
