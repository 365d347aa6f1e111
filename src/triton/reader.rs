//! Reads large requests on threads of their own: megabytes of JSON, long lists and books are parsed
//! beside the thread on which the server hands over requests, so that the next question does not
//! wait for them. Called by the entry points in `mod`; what a request means is not known here, but
//! in `model`.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{bounded, Receiver, Sender};

use super::handles::{InstanceHandle, Request};
use super::model::{ArrivalTime, Instance, Model};
use crate::error::Result;
use crate::threads;

/// What is read at once: a fraction of a millisecond.
const INLINE_BYTES: u64 = 64 << 10;
const THREADS: usize = 2;
/// Large requests that wait to be read. With more of them the server's thread helps, and thereby
/// waits.
const WAITING: usize = 64;

/// What the server holds for one instance: the instance with its readers.
pub(super) struct InstanceState {
    instance: Arc<Instance>,
    large: Sender<(Request, ArrivalTime)>,
    threads: Vec<JoinHandle<()>>,
}

impl InstanceState {
    /// Load an instance and start its readers.
    pub(super) fn load(model: Arc<Model>, handle: InstanceHandle) -> Result<InstanceState> {
        let (large, inbox) = bounded(WAITING);
        let instance = Arc::new(Instance::load(model, handle)?);
        let mut served = InstanceState { instance, large, threads: Vec::new() };
        for i in 0..THREADS {
            let instance = Arc::clone(&served.instance);
            let inbox = inbox.clone();
            let name = format!("reader{i} {}", instance.name());
            served.threads.push(threads::spawn(name, move || read(&instance, &inbox))?);
        }
        Ok(served)
    }

    /// Take a request: it will be answered, whatever comes. Returns without waiting for an engine.
    pub(super) fn take(&self, request: Request) {
        let arrived = ArrivalTime::now();
        let here = if request.bytes().is_ok_and(|bytes| bytes > INLINE_BYTES) {
            self.large.try_send((request, arrived)).err().map(|full| full.into_inner())
        } else {
            Some((request, arrived))
        };
        if let Some((request, arrived)) = here {
            serve(&self.instance, request, arrived);
        }
    }

    /// Whether it can serve.
    ///
    /// # Errors
    /// Unavailable: why not.
    pub(super) fn ready(&self) -> Result<()> {
        self.instance.ready()
    }

    /// Unload: the server calls it when no request is left, so no reader holds one.
    pub(super) fn unload(self) {
        drop(self.large);
        for thread in self.threads {
            let _ = thread.join();
        }
        if let Some(instance) = Arc::into_inner(self.instance) {
            instance.unload();
        }
    }
}

fn read(instance: &Instance, inbox: &Receiver<(Request, ArrivalTime)>) {
    for (request, arrived) in inbox {
        serve(instance, request, arrived);
    }
}

fn serve(instance: &Instance, request: Request, arrived: ArrivalTime) {
    if threads::catch(|| instance.serve(request, arrived)).is_err() {
        // The request answered with an error when its client unwound.
        tracing::error!("a fault in serving a request");
    }
}
