//! A load on a thread of its own, so that who waits for it can leave: at a deadline, when a read
//! hangs, or when the server goes. A thread that is called off ends at its next read; one that
//! hangs in a read is left behind, with what it holds.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{bounded, Receiver, RecvTimeoutError};

use super::args::EngineArgs;
use super::assemble;
use crate::engine::engines::Engines;
use crate::engine::options::{EngineOptions, LoadLimits};
use crate::error::{Error, Result};
use crate::files::Progress;
use crate::internal;
use crate::threads;

/// Between two looks at what the load does.
const PERIOD: Duration = Duration::from_millis(100);
/// For a load that was called off, until its thread is left behind.
const GRACE: Duration = Duration::from_secs(2);
/// What the server's own threads have: parsers recurse.
const STACK_BYTES: usize = 8 << 20;

/// Of the thread that loads, or what it panicked with.
type Outcome = std::result::Result<Result<Engines>, String>;

impl Engines {
    /// Read config, tokenizer and weights, allocate everything, start the threads: of an engine
    /// for each of these options.
    ///
    /// # Errors
    /// One line that names the file or key.
    pub fn load(args: &EngineArgs, options: Vec<EngineOptions>) -> Result<Engines> {
        assemble::load(args, options, &Arc::default())
    }

    /// The same on a thread of its own, within limits.
    ///
    /// # Errors
    /// As [`Engines::load`]; Unavailable: a limit was reached, with the key to raise; those of
    /// `wanted`.
    pub fn load_within(
        args: EngineArgs,
        options: Vec<EngineOptions>,
        limits: &LoadLimits,
    ) -> Result<Engines> {
        let name = options.first().map(|first| first.name.clone()).unwrap_or_default();
        let progress = Arc::new(Progress::default());
        let (send, done) = bounded(1);
        let counted = Arc::clone(&progress);
        let thread = threads::spawn_with_stack(format!("load {name}"), STACK_BYTES, move || {
            let outcome = threads::catch(|| assemble::load(&args, options, &counted));
            // Nobody may be there any more: then the engine ends here.
            drop(send.send(outcome));
        })?;

        let outcome = wait(&done, &progress, limits);
        if let Err(why) = outcome {
            progress.stop();
            match done.recv_timeout(GRACE) {
                Ok(outcome) => drop(outcome),
                Err(_) => tracing::error!(
                    "{name}: the thread that loads it hangs and is left behind with what it holds"
                ),
            }
            return Err(why);
        }

        let _ = thread.join();
        match outcome {
            Ok(Ok(engines)) => engines,
            // It panicked: so does this thread, with the same words.
            Ok(Err(panic)) => resume_unwind(Box::new(panic)),
            Err(why) => Err(why),
        }
    }
}

/// Until the load is done, or why nobody waits any longer.
fn wait(done: &Receiver<Outcome>, progress: &Progress, limits: &LoadLimits) -> Result<Outcome> {
    let started = Instant::now();
    let mut reads = (progress.busy(), started);
    loop {
        match done.recv_timeout(PERIOD) {
            Ok(outcome) => return Ok(outcome),
            Err(RecvTimeoutError::Disconnected) => return Err(internal!("the load lost its way")),
            Err(RecvTimeoutError::Timeout) => {}
        }
        (limits.wanted)()?;

        let late = limits.deadline.filter(|&limit| started.elapsed() > limit);
        if let Some(limit) = late {
            return Err(Error::Unavailable(format!(
                "the load takes longer than {} ms: raise --backend-config=vllm,load-deadline-ms, \
                 or use a faster disk.",
                limit.as_millis()
            )));
        }

        let busy = progress.busy();
        if busy.is_none() || busy != reads.0 {
            reads = (busy, Instant::now());
        }
        let hangs = limits.read_timeout.filter(|&limit| reads.1.elapsed() > limit);
        if let Some(limit) = hangs {
            return Err(Error::Unavailable(format!(
                "a read of the model's files brought nothing for {} ms: look at the file system, \
                 or raise --backend-config=vllm,load-read-timeout-ms.",
                limit.as_millis()
            )));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn limits(deadline_ms: Option<u64>, read_timeout_ms: Option<u64>) -> LoadLimits {
        LoadLimits {
            deadline: deadline_ms.map(Duration::from_millis),
            read_timeout: read_timeout_ms.map(Duration::from_millis),
            wanted: Box::new(|| Ok(())),
        }
    }

    fn why(limits: &LoadLimits, progress: &Progress) -> Error {
        let (_kept, done) = bounded(1);
        wait(&done, progress, limits).err().expect("nothing is loaded")
    }

    #[test]
    fn a_load_is_left_at_its_deadline_or_when_nobody_wants_it() {
        let idle = Progress::default();
        let error = why(&limits(Some(150), None), &idle);
        assert!(error.message().contains("load-deadline-ms"), "{error}");
        let gone = LoadLimits {
            wanted: Box::new(|| Err(Error::Unavailable("Server exiting".into()))),
            ..limits(None, None)
        };
        assert_eq!(why(&gone, &idle).message(), "Server exiting");
        let (send, done) = bounded(1);
        send.send(Ok(Err(internal!("its own")))).unwrap();
        let outcome = wait(&done, &idle, &limits(Some(0), None)).unwrap().unwrap();
        assert_eq!(outcome.err().expect("an error").message(), "its own");
    }

    /// One read that hangs is seen, many that end are not, nor work between them.
    #[test]
    fn a_read_that_hangs_is_left() {
        let (progress, end) = (Progress::default(), AtomicBool::new(false));
        let reading = |pause_ms: u64| {
            while !end.load(Ordering::Relaxed) {
                let read = || {
                    std::thread::sleep(Duration::from_millis(pause_ms));
                    Ok(())
                };
                let _ = progress.count(read);
            }
        };

        std::thread::scope(|scope| {
            scope.spawn(|| reading(20));
            let error = why(&limits(Some(1500), Some(600)), &progress);
            assert!(error.message().contains("load-deadline-ms"), "{error}");
            end.store(true, Ordering::Relaxed);
        });

        let error = why(&limits(Some(900), Some(300)), &progress);
        assert!(error.message().contains("load-deadline-ms"), "no read is under way: {error}");

        std::thread::scope(|scope| {
            scope.spawn(|| {
                progress.count(|| {
                    std::thread::sleep(Duration::from_millis(2500));
                    Ok(())
                })
            });
            let error = why(&limits(Some(60_000), Some(300)), &progress);
            assert!(error.message().contains("load-read-timeout-ms"), "{error}");
        });
    }
}
