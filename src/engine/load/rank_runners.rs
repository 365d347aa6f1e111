//! Several devices with a model on them, as the loop runs one: a thread for each rank takes the
//! same commands in the same order. Results are those of rank 0, and of all others. A rank that
//! fails or panics is one error, told where the loop waits next, and ends the waiting of all
//! others. Made by `assemble`; it knows no device.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{unbounded, Receiver, Sender};

use crate::device::{Rank, RankGroup};
use crate::engine::step_loop::Runner;
use crate::error::{Error, Result};
use crate::ids::AdapterSlotId;
use crate::internal;
use crate::model::Adapter;
use crate::plan::{Sampled, StepPlan, StepResult, TokenMasks};
use crate::threads;

/// What a rank is to do.
#[derive(Clone)]
enum Command {
    Install(AdapterSlotId, Arc<Adapter>),
    Forward(Arc<StepPlan>),
    Sample(TokenMasks),
    /// Answered, whatever happened since the last one.
    Collect,
    /// Answered as well.
    Draft(Arc<[StepPlan]>),
    Break,
}

/// A rank's thread, which runs its device.
struct RankThread {
    commands: Sender<Command>,
    results: Receiver<Result<Vec<StepResult>>>,
    thread: JoinHandle<()>,
}

/// All ranks.
pub(super) struct RankRunners {
    threads: Vec<RankThread>,
    group: Arc<dyn RankGroup>,
    depth: usize,
}

impl RankRunners {
    /// A thread for each of these, in the order of ranks.
    ///
    /// # Errors
    /// Internal: the operating system refuses a thread.
    pub fn start(
        runners: Vec<Box<dyn Runner>>,
        group: Arc<dyn RankGroup>,
        name: &str,
    ) -> Result<RankRunners> {
        let depth = runners.iter().map(|runner| runner.depth()).min().unwrap_or(1);
        // Dropped half-way, it lets go of those that run.
        let mut ranks = RankRunners { threads: Vec::new(), group, depth };
        for (rank, runner) in Rank::all(runners.len()).zip(runners) {
            let (commands, inbox) = unbounded();
            let (outbox, results) = unbounded();
            let mut rank_loop = RankLoop { rank, runner, group: Arc::clone(&ranks.group) };
            let thread_name = format!("rank{} {name}", rank.index);
            let thread = threads::spawn(thread_name, move || rank_loop.run(&inbox, &outbox))?;
            ranks.threads.push(RankThread { commands, results, thread });
        }
        Ok(ranks)
    }

    fn tell(&self, command: &Command) -> Result<()> {
        for (index, rank) in self.threads.iter().enumerate() {
            self.tell_one(index, rank, command.clone())?;
        }
        Ok(())
    }

    fn tell_one(&self, index: usize, rank: &RankThread, command: Command) -> Result<()> {
        rank.commands.send(command).map_err(|_| self.gone(index))
    }

    fn gone(&self, index: usize) -> Error {
        let failure = self.group.failure();
        failure.unwrap_or_else(|| internal!("the thread of rank {index} has ended"))
    }
}

impl RankRunners {
    /// What all ranks answer to the last command that is answered.
    fn answers(&self) -> Result<Vec<StepResult>> {
        let answers = self.threads.iter().enumerate();
        let answers =
            answers.map(|(n, rank)| rank.results.recv().unwrap_or_else(|_| Err(self.gone(n))));
        let answers: Vec<Result<Vec<StepResult>>> = answers.collect();
        if let Some(failure) = self.group.failure() {
            return Err(failure);
        }

        let mut results = answers.into_iter().collect::<Result<Vec<_>>>()?.into_iter();
        let Some(first) = results.next() else { return Err(internal!("no ranks")) };
        for (n, other) in results.enumerate() {
            let other = other.iter().map(Some).chain(std::iter::repeat(None));
            if let Some((one, _)) = first.iter().zip(other).find(|(a, b)| !agree(a, *b)) {
                let (rank, step) = (n + 1, one.step);
                return Err(internal!(
                    "rank {rank} sampled other tokens than rank 0 in step {step}"
                ));
            }
        }
        Ok(first)
    }
}

impl Runner for RankRunners {
    fn depth(&self) -> usize {
        self.depth
    }

    fn install(&mut self, adapter_slot: AdapterSlotId, adapter: &Arc<Adapter>) -> Result<()> {
        self.tell(&Command::Install(adapter_slot, Arc::clone(adapter)))
    }

    fn forward(&mut self, plan: &StepPlan) -> Result<()> {
        self.tell(&Command::Forward(Arc::new(plan.clone())))
    }

    fn sample(&mut self, masks: &TokenMasks) -> Result<()> {
        self.tell(&Command::Sample(masks.clone()))
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.tell(&Command::Collect)?;
        self.answers()?.pop().ok_or_else(|| internal!("no result of a step"))
    }

    fn draft(&mut self, plans: &[StepPlan]) -> Result<Vec<StepResult>> {
        self.tell(&Command::Draft(plans.into()))?;
        self.answers()
    }

    fn break_device(&mut self) -> Result<()> {
        match self.threads.iter().enumerate().next_back() {
            Some((index, last)) => self.tell_one(index, last, Command::Break),
            None => Ok(()),
        }
    }
}

impl Drop for RankRunners {
    fn drop(&mut self) {
        // One may have been told what another will not hear of any more.
        self.group.fail(Error::Unavailable("the model was unloaded".into()));
        for RankThread { commands, results, thread } in self.threads.drain(..) {
            drop((commands, results));
            // It catches panics, and has said so.
            let _ = thread.join();
        }
    }
}

fn agree(one: &StepResult, other: Option<&StepResult>) -> bool {
    let Some(other) = other else { return false };
    let same = |a: &Sampled, b: &Sampled| (a.slot, &a.tokens) == (b.slot, &b.tokens);
    one.step == other.step
        && one.samples.len() == other.samples.len()
        && one.samples.iter().zip(&other.samples).all(|(a, b)| same(a, b))
}

/// What runs on a rank's thread.
struct RankLoop {
    rank: Rank,
    runner: Box<dyn Runner>,
    group: Arc<dyn RankGroup>,
}

impl RankLoop {
    /// Until nobody commands any more. Once a rank is lost nothing is run.
    fn run(&mut self, commands: &Receiver<Command>, results: &Sender<Result<Vec<StepResult>>>) {
        for command in commands {
            let answered = matches!(command, Command::Collect | Command::Draft(_));
            let result = match self.group.failure() {
                Some(failure) => Err(failure),
                None => self.run_one(command),
            };
            // Nobody may be there any more.
            if answered {
                let _ = results.send(result);
            }
        }
    }

    fn run_one(&mut self, command: Command) -> Result<Vec<StepResult>> {
        let Rank { index, of } = self.rank;
        let outcome = match threads::catch(|| self.obey(command)) {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(error)) => error.context(&format!("rank {index} of {of}: ")),
            Err(panic) => internal!("rank {index} of {of} panicked: {panic}"),
        };
        // Another's failure comes back here from whoever waited: the first one is told.
        self.group.fail(outcome.clone());
        Err(self.group.failure().unwrap_or(outcome))
    }

    fn obey(&mut self, command: Command) -> Result<Vec<StepResult>> {
        match command {
            Command::Install(slot, adapter) => self.runner.install(slot, &adapter)?,
            Command::Forward(plan) => self.runner.forward(&plan)?,
            Command::Sample(masks) => self.runner.sample(&masks)?,
            Command::Break => self.runner.break_device()?,
            Command::Collect => return self.runner.collect().map(|result| vec![result]),
            Command::Draft(plans) => return self.runner.draft(&plans),
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
#[path = "rank_runners_tests.rs"]
mod tests;
