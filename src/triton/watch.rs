//! Supervises the engines of an instance, which live and die together: loads them again after a
//! failure if the operator wants that, tells the server of a death it cannot see, and notices that
//! the server is unloading the model. No entry point says so: the server waits, without limit,
//! until every request in flight is done, and only then calls our finaliser. So a thread looks now
//! and then. Called by `model`; one per instance, joined on unload.
//!
//! The server hears of a death before any client does: whoever loads the model again
//! because of an error must find it on its way out, or the load does nothing, answers 200, and the
//! unload that comes after it takes the model away.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, Receiver, RecvTimeoutError, Sender, TryRecvError};
use parking_lot::{Mutex, RwLock};

use super::handles::ServerHandle;
use super::versions::LoadedVersion;
use crate::engine::{EngineArgs, EngineOptions, Engines, LoadLimits, Observation, Observer};
use crate::error::{Error, Result};
use crate::ids::AdapterId;
use crate::threads;

const PERIOD: Duration = Duration::from_millis(500);
/// Restarts are counted over this time.
const RESTARTS_WITHIN: Duration = Duration::from_secs(3600);
/// After a reload that failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Answers that are on their way out when the process leaves.
const EXIT_DELAY: Duration = Duration::from_secs(1);
/// Clients of a dead engine wait so long for the server to take the model out; it needs
/// milliseconds, unless it is busy with its repositories.
const UNLOAD_WAIT: Duration = Duration::from_millis(300);
/// A server that asked for an instance's readiness within this time will ask again, and knows of a
/// death by itself.
const ASKED_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks into the server's list, which has it read its repositories.
const LIST_PERIOD: Duration = Duration::from_secs(10);

/// What is watched, and what to do about its death.
pub(super) struct Watched {
    pub server: ServerHandle,
    /// Its name in the server.
    pub model: String,
    pub version: u64,
    pub args: EngineArgs,
    /// One for each engine.
    pub engines: Vec<EngineOptions>,
    /// Time for requests in flight, counted from when the unload is noticed.
    pub drain_deadline: Duration,
    /// Of a load, in all.
    pub load_deadline: Option<Duration>,
    /// Of a load's reads, while they bring nothing.
    pub load_read_timeout: Option<Duration>,
    /// Times per hour that a dead engine is loaded again.
    pub restarts: usize,
    /// A dead engine that is not loaded again ends the process.
    pub exit_when_dead: bool,
    /// The next request says that the engine is dead, in the Python backend's words, and only then
    /// to the server.
    pub health_check: bool,
    pub loaded: Arc<LoadedVersion>,
}

impl Watched {
    /// An engine, unless that takes too long. A load that hangs keeps the server from ending, and
    /// nothing says so: the server joins the thread that waits for the load before it says
    /// that it goes. `stopped`: nor if this says that nobody waits any more.
    fn load(&self, stopped: Option<Receiver<()>>) -> Result<Engines> {
        let left = |stopped: &Receiver<()>| stopped.try_recv() == Err(TryRecvError::Disconnected);
        let limits = LoadLimits {
            deadline: self.load_deadline,
            read_timeout: self.load_read_timeout,
            wanted: Box::new(move || {
                if stopped.as_ref().is_some_and(left) {
                    Err(Error::Unavailable("the model is being unloaded".into()))
                } else {
                    Ok(())
                }
            }),
        };
        Engines::load_within(self.args.clone(), self.engines.clone(), &limits)
    }
}

/// The engine, and the thread that watches it.
pub(super) struct Supervisor {
    supervised: Arc<Supervised>,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// The engine while it lives, and what is known of it.
struct Supervised {
    watched: Watched,
    /// None while the engine is loaded anew.
    engine: RwLock<Option<Arc<Engines>>>,
    unloading: AtomicBool,
    /// When the engine was loaded again within `RESTARTS_WITHIN`.
    restarts: Mutex<VecDeque<Instant>>,
    /// When the server last asked whether the instance is ready.
    asked: Mutex<Option<Instant>>,
}

/// Passes a death on to the supervisor, and everything else to the metrics.
struct EngineObserver {
    observer: Arc<dyn Observer>,
    supervised: OnceLock<Weak<Supervised>>,
}

impl Observer for EngineObserver {
    fn observe(&self, observation: Observation) {
        self.observer.observe(observation);
    }

    fn adapters(&self, running: &[AdapterId], waiting: &[AdapterId]) {
        self.observer.adapters(running, waiting);
    }

    fn dying(&self) {
        if let Some(supervised) = self.supervised.get().and_then(Weak::upgrade) {
            supervised.dying();
        }
    }
}

impl Supervisor {
    /// Load the engine and start to watch it.
    pub(super) fn start(mut watched: Watched) -> Result<Supervisor> {
        let mut observers = Vec::new();
        for options in &mut watched.engines {
            let observer = Arc::clone(&options.observer);
            let observer = Arc::new(EngineObserver { observer, supervised: OnceLock::new() });
            options.observer = Arc::clone(&observer) as _;
            observers.push(observer);
        }
        let engine = watched.load(None)?;

        let name = format!("watch {}", watched.model);
        let supervised = Arc::new(Supervised {
            watched,
            engine: RwLock::new(Some(Arc::new(engine))),
            unloading: AtomicBool::new(false),
            restarts: Mutex::default(),
            asked: Mutex::default(),
        });
        for observer in observers {
            let _ = observer.supervised.set(Arc::downgrade(&supervised));
        }

        let (stop, stopped) = bounded(0);
        let watching = Arc::clone(&supervised);
        let thread = threads::spawn(name, move || watching.watch(&stopped))?;
        Ok(Supervisor { supervised, stop, thread })
    }

    /// The engine, if it can serve.
    ///
    /// # Errors
    /// Unavailable: why not.
    pub(super) fn engine(&self) -> Result<Arc<Engines>> {
        let engine = self.supervised.engine.read().clone();
        let Some(engine) = engine else {
            return Err(Error::Unavailable(
                "the engine failed and is being loaded again: retry later".into(),
            ));
        };
        engine.health().map(|()| engine)
    }

    /// The server lets go of the model, so that an engine which refuses is not a dead one.
    pub(super) fn unloading(&self) -> bool {
        self.supervised.unloading.load(Ordering::Acquire)
    }

    /// The engine is dead: have the server take the model out.
    pub(super) fn ask_unload(&self) {
        self.supervised.ask_unload();
    }

    /// The server asks whether the instance is ready.
    pub(super) fn readiness_asked(&self) {
        *self.supervised.asked.lock() = Some(Instant::now());
    }

    /// End the thread and the engine. To be called when no request is left.
    pub(super) fn unload(self) {
        drop(self.stop);
        let _ = self.thread.join();
        if let Some(engine) = self.supervised.take() {
            engine.drain(self.supervised.watched.drain_deadline);
        }
    }
}

/// End the process at once, without the server's exit handlers, so that somebody restarts it.
fn leave_process() -> ! {
    // SAFETY: nothing of this process runs after it.
    unsafe { libc::_exit(1) }
}

impl Supervised {
    fn watch(&self, stopped: &Receiver<()>) {
        let mut was_ready = false;
        let mut listed = None;
        let mut dead = false;
        let mut period = PERIOD;
        while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
            if self.unloading.load(Ordering::Acquire) {
                continue;
            }
            if dead {
                self.have_it_unloaded();
                continue;
            }
            let engine = self.engine.read().clone();
            let Some(engine) = engine.filter(|engine| engine.health().is_ok()) else {
                (dead, period) = match self.revive(stopped) {
                    Some(period) => (false, period),
                    None => (true, PERIOD),
                };
                if dead {
                    self.dead();
                }
                continue;
            };

            let ready = self.ready(&mut listed);
            if was_ready && !ready {
                let Watched { model, drain_deadline, .. } = &self.watched;
                tracing::info!(
                    "{model} is being unloaded: requests in flight have {drain_deadline:?}"
                );
                self.unloading.store(true, Ordering::Release);
                engine.begin_drain(*drain_deadline);
            }
            was_ready = ready;
        }
    }

    /// Whether new requests still reach this version: false once it is being unloaded, or the
    /// server ends. A name that the server does not find may be one that several namespaces have;
    /// then nobody can tell which of them goes, and it counts as ready as long as one is.
    /// `listed`: when the server's list last said so.
    fn ready(&self, listed: &mut Option<Instant>) -> bool {
        let Watched { server, model, version, .. } = &self.watched;
        if server.stays().is_err() {
            return false;
        }
        if server.finds(model, *version) {
            return true;
        }
        if listed.is_some_and(|at| at.elapsed() < LIST_PERIOD) {
            return true;
        }
        *listed = server.lists(model, *version).unwrap_or(false).then(Instant::now);
        listed.is_some()
    }

    /// Restarts within the last hour.
    fn restarted(&self) -> usize {
        let mut restarts = self.restarts.lock();
        while restarts.front().is_some_and(|at| at.elapsed() > RESTARTS_WITHIN) {
            restarts.pop_front();
        }
        restarts.len()
    }

    /// Load a dead engine again: when to look at it next. None: it is dead for good.
    fn revive(&self, stopped: &Receiver<()>) -> Option<Duration> {
        let Watched { model, restarts: limit, .. } = &self.watched;
        let count = self.restarted() + 1;
        if count > *limit {
            return None;
        }
        self.restarts.lock().push_back(Instant::now());
        self.observe(false);
        // Its memory must be free before the next engine takes its share.
        let freed = self.take().is_none_or(|engine| engine.drain(Duration::ZERO));
        if !freed {
            tracing::error!(
                "{model}: a thread of the dead engine hangs, so it is not loaded again"
            );
            return None;
        }
        tracing::warn!("{model}: the engine is dead and is loaded again, {count} of {limit} times");
        let started = Instant::now();
        match self.watched.load(Some(stopped.clone())) {
            Ok(engine) => {
                *self.engine.write() = Some(Arc::new(engine));
                tracing::warn!("{model}: serves again after {:.1?}", started.elapsed());
                self.observe(true);
                Some(PERIOD)
            }
            Err(error) => {
                tracing::error!("{model}: the engine could not be loaded again: {error}");
                Some(RETRY_AFTER)
            }
        }
    }

    fn observe(&self, healthy: bool) {
        for options in &self.watched.engines {
            options.observer.observe(Observation::Healthy(healthy));
        }
    }

    /// The engine died and no client knows. If nothing brings it back, the server lets go of the
    /// model before anyone can react.
    fn dying(&self) {
        let Watched { restarts, exit_when_dead, health_check, .. } = &self.watched;
        let revived = self.restarted() < *restarts;
        if !revived && !*exit_when_dead && !*health_check && !self.server_asks() {
            if let Some(asked) = self.ask_unload() {
                let _ = asked.recv_timeout(UNLOAD_WAIT);
            }
        }
    }

    /// Nobody brings the engine back.
    fn dead(&self) {
        self.observe(false);
        let Watched { model, exit_when_dead, .. } = &self.watched;
        if *exit_when_dead {
            tracing::error!("{model} is dead: the process leaves, as exit-when-dead asks");
            std::thread::sleep(EXIT_DELAY);
            leave_process();
        }
        if self.server_asks() {
            tracing::error!(
                "{model} is dead, and readiness probes say so: unload it and load it again (a load \
                 alone does nothing)"
            );
        }
        self.have_it_unloaded();
    }

    /// Have the server take a dead model out, unless it knows by itself: once, and not a newer
    /// object of the same name.
    fn have_it_unloaded(&self) {
        if !self.server_asks() {
            self.ask_unload();
        }
    }

    fn server_asks(&self) -> bool {
        self.asked.lock().is_some_and(|at| at.elapsed() < ASKED_WITHIN)
    }

    /// From a detached thread, because the unload ends in our own finalisers. The receiver hears
    /// when the server has let go of the model or has refused.
    fn ask_unload(&self) -> Option<Receiver<()>> {
        if !self.watched.loaded.may_ask() {
            return None;
        }
        let server = self.watched.server;
        let name = self.watched.model.clone();
        let (done, asked) = bounded(1);
        let thread = threads::try_spawn("vllm-unload".into(), move || {
            if let Err(e) = server.unload(&name) {
                tracing::error!(
                    "{name} is dead but stays listed as ready: {e}; restart the server"
                );
            }
            let _ = done.send(());
        });
        if let Err(e) = thread {
            tracing::error!("{} is dead and cannot be unloaded: {e}", self.watched.model);
        }
        Some(asked)
    }

    /// The engine itself, once nobody submits to it any more.
    fn take(&self) -> Option<Engines> {
        let mut engine = self.engine.write().take()?;
        loop {
            match Arc::try_unwrap(engine) {
                Ok(engine) => return Some(engine),
                // A submit holds it for microseconds.
                Err(shared) => engine = shared,
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
