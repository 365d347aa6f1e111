//! Reads large requests on threads of their own: megabytes of JSON, long lists and books are parsed
//! beside the thread on which the server hands over requests, so that the next question does not
//! wait for them. Called by the entry points in `mod`; what a request means is `model`'s affair.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{bounded, Receiver, Sender};

use super::handles::{InstanceHandle, Request};
use super::model::{Instance, Model, Since};
use crate::error::Result;
use crate::threads;

/// What is read at once: a fraction of a millisecond.
const INLINE_BYTES: u64 = 64 << 10;
const THREADS: usize = 2;
/// Large requests that wait to be read. With more of them the server's thread helps, and thereby
/// waits.
const WAITING: usize = 64;

/// An instance with its readers.
pub(super) struct Served {
    instance: Arc<Instance>,
    large: Sender<(Request, Since)>,
    threads: Vec<JoinHandle<()>>,
}

impl Served {
    pub(super) fn load(model: Arc<Model>, handle: InstanceHandle) -> Result<Served> {
        let (large, inbox) = bounded(WAITING);
        let instance = Arc::new(Instance::load(model, handle)?);
        let mut served = Served { instance, large, threads: Vec::new() };
        for i in 0..THREADS {
            let (instance, inbox) = (Arc::clone(&served.instance), inbox.clone());
            let name = format!("reader{i} {}", instance.name());
            served.threads.push(threads::spawn(name, move || read(&instance, &inbox))?);
        }
        Ok(served)
    }

    /// Take a request: it will be answered, whatever comes. Returns without waiting for an engine.
    pub(super) fn take(&self, request: Request) {
        let since = Since::now();
        let here = match request.bytes().is_ok_and(|bytes| bytes > INLINE_BYTES) {
            false => Some((request, since)),
            true => self.large.try_send((request, since)).err().map(|full| full.into_inner()),
        };
        if let Some((request, since)) = here {
            serve(&self.instance, request, since);
        }
    }

    pub(super) fn ready(&self) -> Result<()> {
        self.instance.ready()
    }

    /// The server calls it when no request is left, so no reader holds one.
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

fn read(instance: &Instance, inbox: &Receiver<(Request, Since)>) {
    for (request, since) in inbox {
        serve(instance, request, since);
    }
}

fn serve(instance: &Instance, request: Request, since: Since) {
    if threads::catch(|| instance.serve(request, since)).is_err() {
        // The request answered with an error when its client unwound.
        tracing::error!("a fault in serving a request");
    }
}
