//! The loop of the engine thread: launch step n + 1, then take the results of step n.
//!
//! Steps overlap when the device allows it (`depth` 2): a step is planned and enqueued while the
//! one before it still runs, because plans name tokens by slot and never by value
//! (docs/architecture.md, Laws: Asynchronous steps).

use std::time::{Duration, Instant};

use super::state::{StepInFlight, StepLoop};
use crate::error::Result;
use crate::plan::StepPlan;
use crate::threads;

/// How often cancels are looked for while nothing runs.
const CANCEL_PERIOD: Duration = Duration::from_millis(10);

impl StepLoop {
    /// The thread's body: serves until drained; after a panic or a device error fails everything
    /// that is in flight and that still comes, until drained.
    pub fn run(mut self) {
        let cause = match threads::catch(|| self.serve()) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.message().to_string()),
            Err(panic) => Some(format!("the engine thread panicked: {panic}")),
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
            self.fail_gone_clients();

            // Launch what may be in flight beside the oldest step.
            let mut settled = false;
            while !settled && self.in_flight.len() < self.runner.depth() {
                let Some(plan) = self.scheduler.plan() else { break };
                settled = self.launch(&plan)?;
            }

            // Take the results of the oldest.
            if !settled && !self.in_flight.is_empty() {
                self.collect()?;
                settled = true;
            }

            if settled {
                self.meter.round_ends(self.stats());
                if let Some(drafts) = self.scheduler.draft_stats() {
                    self.meter.drafts(drafts);
                }
                self.report_adapters();
            } else if self.in_flight.is_empty() && !self.active.is_empty() {
                self.wait_for_helpers()?;
            }
            self.flush(Instant::now());
        }
        Ok(())
    }

    /// Enqueue a step. True: the steps before it had to be settled for that.
    fn launch(&mut self, plan: &StepPlan) -> Result<bool> {
        self.install_adapters(plan)?;
        if self.in_flight.is_empty() {
            self.shared.health.step_begins();
        }
        self.meter.planned(plan, self.scheduler.take_admitted());
        let shape = self.scheduler.newest_shape();
        let begun = Instant::now();
        let runner = &mut self.runner;
        self.meter.device(|| runner.forward(plan))?;

        // Token masks depend on the tokens of the step before, which ends first. Rows without one
        // never wait for that.
        let constrained = self.rows_with_grammar(plan);
        let shape = constrained.is_empty().then_some(shape);
        let settled = !constrained.is_empty() && self.collect_all()?;
        let masks = self.token_masks(constrained)?;

        let runner = &mut self.runner;
        self.meter.device(|| runner.sample(&masks))?;
        self.in_flight.push_back(StepInFlight { step: plan.step, shape, begun });
        Ok(settled)
    }

    /// Wait for the oldest step and settle it.
    fn collect(&mut self) -> Result<()> {
        let step = self.in_flight.pop_front();
        let runner = &mut self.runner;
        let result = self.meter.device(|| runner.collect())?;
        self.step_ended()?;
        let Some(step) = step else { panic!("a result, and no step in flight") };
        assert_eq!(result.step, step.step, "the device answered another step");
        self.learn(&step);
        self.settle(result);
        Ok(())
    }

    /// Tell the scheduler what the step took that was just collected: from when it was enqueued, or
    /// the one before it ended.
    fn learn(&mut self, step: &StepInFlight) {
        let now = Instant::now();
        let began = step.begun.max(std::mem::replace(&mut self.collected, now));
        if let Some(shape) = step.shape {
            let took = now.saturating_duration_since(began);
            self.scheduler.learn(shape, took.as_secs_f64() * 1e3);
        }
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

    /// A step that ended too late is worth nothing: the watchdog has failed everyone meanwhile.
    fn step_ended(&self) -> Result<()> {
        if self.in_flight.is_empty() {
            self.shared.health.no_step_runs();
        } else {
            self.shared.health.step_begins();
        }
        self.shared.health.failure().map_or(Ok(()), Err)
    }

    /// Nothing can be planned before a slow mask or an adapter is there.
    fn wait_for_helpers(&mut self) -> Result<()> {
        self.report_load();
        match self.commands.recv_timeout(CANCEL_PERIOD) {
            Ok(command) => self.apply(command),
            Err(_) => Ok(()),
        }
    }
}
