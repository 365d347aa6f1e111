//! Threads for tasks of which some take long: compiling grammars, token masks. A task that runs
//! long gets its thread replaced, so that others do not wait behind it; one that runs longer than
//! the limit, or whose client has left, is told to stop. Used by `intake` and `grammar_matchers`;
//! it knows neither grammars nor tokens.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::request::Client;
use crate::error::{Error, Result};
use crate::text::{Interrupt, StopHandle, STACK_BYTES, TIMEOUT_KEY};
use crate::{internal, invalid, threads};

/// Between two looks at the tasks that run.
const TICK: Duration = Duration::from_millis(10);
/// A task that runs so long has its thread replaced.
const LONG: Duration = Duration::from_millis(20);
/// Replacements at most.
const MAX_EXTRA: usize = 8;

type Run = Box<dyn FnOnce(&Arc<TaskWatch>) + Send>;

/// One thing to do.
pub(crate) struct Task {
    /// For whom: nobody works for a client that has left.
    pub client: Arc<dyn Client>,
    pub run: Run,
}

#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Threads as long as no task takes long.
    pub threads: usize,
    /// What one task may take.
    pub limit: Duration,
    /// Tell clients of tasks that are given up, and refuse what has waited for longer than the
    /// limit. Else the tasks themselves see to it, and each is begun.
    pub answers: bool,
}

/// The threads. They end when this is dropped, once the tasks that wait are done.
pub(crate) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    rules: Rules,
    state: Mutex<State>,
    /// A task has come, or the end.
    work: Condvar,
    /// The first task has come, or a thread has ended.
    tick: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Instant, Task)>,
    running: Vec<Arc<TaskWatch>>,
    threads: usize,
    /// The supervisor waits for a task.
    asleep: bool,
    closed: bool,
}

/// One task that runs, as seen from the supervisor and from the task.
pub(crate) struct TaskWatch {
    client: Arc<dyn Client>,
    began: Instant,
    limit: Duration,
    long: AtomicBool,
    given_up: AtomicBool,
    stop: Mutex<Option<StopHandle>>,
}

impl TaskWatch {
    fn new(client: Arc<dyn Client>, limit: Duration) -> TaskWatch {
        TaskWatch {
            client,
            began: Instant::now(),
            limit,
            long: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            stop: Mutex::default(),
        }
    }

    fn is_long(&self) -> bool {
        self.long.load(Ordering::Acquire)
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        if let Some(stop) = &*self.stop.lock() {
            stop.stop();
        }
    }

    /// Tell the client of the task why it ends, unless that was done when it was given up.
    pub fn refuse(&self, client: &dyn Client, error: Error) {
        if !self.is_given_up() {
            tell(client, error);
        }
    }

    /// Why the task need not go on.
    fn over(&self) -> Option<Error> {
        if self.began.elapsed() > self.limit {
            return Some(invalid!(
                "Grammar error: compiling the grammar takes longer than {} ms, the limit of \
                 --backend-config=vllm,{TIMEOUT_KEY}: use a smaller grammar",
                self.limit.as_millis()
            ));
        }
        self.client.gone()
    }
}

impl Interrupt for TaskWatch {
    fn check(&self) -> Result<()> {
        self.over().map_or(Ok(()), Err)
    }

    fn stop_by(&self, stop: StopHandle) {
        let mut kept = self.stop.lock();
        if self.is_given_up() {
            stop.stop();
        }
        *kept = Some(stop);
    }
}

impl Workers {
    /// The thread to join: it ends after all others.
    pub fn start(name: String, rules: Rules) -> Result<(Workers, JoinHandle<()>)> {
        let shared = Arc::new(Shared {
            name,
            rules,
            state: Mutex::default(),
            work: Condvar::new(),
            tick: Condvar::new(),
        });
        // Ends the threads that were started if a later one cannot be.
        let workers = Workers { shared };
        let shared = &workers.shared;
        let mut started = Vec::new();
        for _ in 0..rules.threads.max(1) {
            started.push(shared.spawn(&mut shared.state.lock())?);
        }
        let supervised = Arc::clone(shared);
        let name = format!("{} watch", shared.name);
        let supervisor = threads::spawn(name, move || supervised.supervise(started))?;
        Ok((workers, supervisor))
    }

    /// Have it done.
    ///
    /// # Errors
    /// Unavailable: every thread is lost in a task that was given up and goes on.
    pub fn send(&self, task: Task) -> Result<()> {
        self.shared.send(task)
    }

    /// A way to send tasks that does not keep the threads from ending: what comes too late is given
    /// back.
    pub fn sender(&self) -> TaskSender {
        TaskSender(Arc::clone(&self.shared))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.tick.notify_all();
    }
}

#[derive(Clone)]
pub(crate) struct TaskSender(Arc<Shared>);

impl TaskSender {
    /// Have it done.
    ///
    /// # Errors
    /// Those of [`Workers::send`]; Unavailable: the threads are ending. The task is dropped on this
    /// one then.
    pub fn send(&self, task: Task) -> Result<()> {
        self.0.send(task)
    }
}

impl Shared {
    fn send(&self, task: Task) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::Unavailable("the model is being unloaded".into()));
        }
        let lost = state.running.iter().filter(|watch| watch.is_given_up()).count();
        if self.rules.answers && lost >= self.rules.threads + MAX_EXTRA {
            return Err(Error::Unavailable(format!(
                "structured_outputs: {lost} grammars that took longer than {} ms (--backend-config=\
                 vllm,{TIMEOUT_KEY}) are still being compiled, as many as may be: retry later",
                self.rules.limit.as_millis()
            )));
        }
        state.queue.push_back((Instant::now(), task));
        if std::mem::take(&mut state.asleep) {
            self.tick.notify_all();
        }
        self.work.notify_one();
        Ok(())
    }

    /// As many as there are to be now.
    fn wanted(&self, state: &State) -> usize {
        let long = state.running.iter().filter(|watch| watch.is_long()).count();
        self.rules.threads.max(1) + long.min(MAX_EXTRA)
    }

    fn spawn(self: &Arc<Self>, state: &mut MutexGuard<State>) -> Result<JoinHandle<()>> {
        let shared = Arc::clone(self);
        let name = self.name.clone();
        let thread = threads::spawn_with_stack(name, STACK_BYTES, move || shared.work())?;
        state.threads += 1;
        Ok(thread)
    }

    /// One thread's life: until the end, or until it has been replaced.
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if state.threads > self.wanted(&state) {
                break;
            }
            let Some((_, task)) = state.queue.pop_front() else {
                if state.closed {
                    break;
                }
                self.work.wait(&mut state);
                continue;
            };
            let watch = Arc::new(TaskWatch::new(task.client, self.rules.limit));
            state.running.push(Arc::clone(&watch));
            drop(state);

            // A parser that panics costs its own request only.
            let run = task.run;
            let outcome = threads::catch(|| run(&watch));
            if outcome.is_err() {
                watch.client.finish(Err(internal!("a fault in the work for this request")));
            }
            state = self.state.lock();
            state.running.retain(|other| !Arc::ptr_eq(other, &watch));
        }
        state.threads -= 1;
        self.tick.notify_all();
    }

    fn supervise(self: &Arc<Self>, mut threads: Vec<JoinHandle<()>>) {
        loop {
            let mut state = self.state.lock();
            let idle = state.queue.is_empty() && state.running.is_empty();
            if state.closed && state.threads == 0 {
                break;
            }
            if idle && !state.closed {
                state.asleep = true;
                self.tick.wait(&mut state);
                continue;
            }
            let over = self.look(&mut state);
            let missing = self.wanted(&state).saturating_sub(state.threads);
            for _ in 0..missing.min(state.queue.len()) {
                match self.spawn(&mut state) {
                    Ok(thread) => threads.push(thread),
                    Err(error) => tracing::error!("{error}"),
                }
            }
            drop(state);

            over.into_iter().for_each(|(client, error)| tell(&*client, error));
            threads = joined(threads);
            self.tick.wait_for(&mut self.state.lock(), TICK);
        }
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// Which tasks run long, which are over. Returns whom to tell what.
    fn look(&self, state: &mut State) -> Vec<(Arc<dyn Client>, Error)> {
        let mut over = Vec::new();
        for watch in &state.running {
            if state.closed && !self.rules.answers {
                // Nobody waits for it any more.
                watch.give_up();
            }
            if watch.began.elapsed() > LONG {
                watch.long.store(true, Ordering::Release);
            }
            if let Some(error) = watch.over().filter(|_| !watch.is_given_up()) {
                watch.give_up();
                over.push((Arc::clone(&watch.client), error));
            }
        }
        if !self.rules.answers {
            return Vec::new();
        }
        let limit = self.rules.limit;
        state.queue.retain(|(since, task)| {
            let late = (since.elapsed() > limit).then(|| {
                Error::Unavailable(format!(
                    "structured_outputs: the grammar has waited for {} ms behind others that take \
                     long to compile: retry later, or raise --backend-config=vllm,{TIMEOUT_KEY}",
                    limit.as_millis()
                ))
            });
            let error = task.client.gone().or(late);
            over.extend(error.clone().map(|error| (Arc::clone(&task.client), error)));
            error.is_none()
        });
        over
    }
}

fn tell(client: &dyn Client, error: Error) {
    if matches!(error, Error::Cancelled(_)) {
        tracing::info!("Cancelling the request");
        tracing::info!("Successfully cancelled the request");
    }
    client.finish(Err(error));
}

/// Those that still run.
fn joined(threads: Vec<JoinHandle<()>>) -> Vec<JoinHandle<()>> {
    let (ended, running): (Vec<_>, Vec<_>) =
        threads.into_iter().partition(|thread| thread.is_finished());
    ended.into_iter().for_each(|thread| drop(thread.join()));
    running
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
