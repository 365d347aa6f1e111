//! The CPU device's threads: they help the caller with work that is worth it, sleep else, and are
//! joined when the device goes, so that the library may be unmapped after it. They know no work by
//! name.

use std::thread::JoinHandle;

use crate::error::Result;
use crate::internal;
use crate::threads;

/// Threads that help the caller with a product.
pub struct Workers {
    /// None only while dropping.
    pool: Option<rayon::ThreadPool>,
    handles: Vec<JoinHandle<()>>,
    threads: usize,
}

/// Threads that run at the same time.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Workers {
    /// `threads` in all, the caller's included; 0 means one per core. They are named
    /// `<name>-<number>`.
    ///
    /// # Errors
    /// Internal: the operating system refuses a thread.
    pub fn new(threads: usize, name: &str) -> Result<Workers> {
        let threads = if threads == 0 { cores() } else { threads };
        let mut handles = Vec::new();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .spawn_handler(|thread| {
                let name = format!("{name}-{}", thread.index());
                handles.push(threads::try_spawn(name, || thread.run())?);
                Ok(())
            })
            .build();
        // A pool that failed half-way ends its threads by itself.
        let pool = pool.map_err(|e| internal!("cannot start {threads} CPU threads: {e}"))?;
        Ok(Workers { pool: Some(pool), handles, threads })
    }

    /// How many work, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Run `work` on the caller's thread and, if it is worth it, on all others at the same time. It
    /// shares itself out: each call takes pieces until none is left.
    pub fn share(&self, worth_it: bool, work: &(impl Fn() + Sync)) {
        let Some(pool) = self.pool.as_ref().filter(|_| worth_it && self.threads > 1) else {
            return work();
        };
        pool.in_place_scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(|_| work());
            }
            work();
        });
    }

    /// Run `work` where rayon's parallel iterators use these threads.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pool = None;
        for handle in self.handles.drain(..) {
            // A worker that panicked has told its caller already.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn alive(name: &str) -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok());
        names.filter(|comm| comm.starts_with(name)).count()
    }

    #[test]
    fn threads_end_with_the_device() {
        let workers = Workers::new(3, "drop-me").unwrap();
        let calls = AtomicUsize::new(0);
        let work = || {
            calls.fetch_add(1, Ordering::SeqCst);
        };
        workers.share(true, &work);
        assert_eq!(calls.load(Ordering::SeqCst), 3);
        workers.share(false, &work);
        assert_eq!(calls.load(Ordering::SeqCst), 4);
        assert!(alive("drop-me") > 0);
        drop(workers);
        assert_eq!(alive("drop-me"), 0);
    }
}
