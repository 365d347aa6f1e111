//! One Triton request in flight: makes its responses, and sends exactly one FINAL, whatever happens
//! (docs/architecture.md, Laws: exactly one final response). Called by `model` for refusals and by
//! `client` for answers; it never knows what an engine does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use super::backpressure::HttpPair;
use super::delayed_cancel::{self, DelayedEndSender};
use super::handles::{Factory, InstanceHandle, Request, Response};
use super::request::Parsed;
use super::response::{AnswerRow, Layout, RequestedOutputs};
use super::roles::Roles;
use super::warm_up::WarmUp;
use crate::error::{Error, Result};

/// One Triton request in flight.
pub(super) struct BackendRequest {
    factory: Arc<Factory>,
    /// Kept for the statistics at the end, then given back.
    request: Mutex<Option<Request>>,
    instance: InstanceHandle,
    start_ns: u64,
    /// The FINAL response is on its way: whoever sets this sends it.
    ended: AtomicBool,
    layout: Layout,
    /// Rows of the batch; 1 without one.
    rows: u64,
    decoupled: bool,
    delayed: DelayedEndSender,
    /// Of whose warm-up it is a part.
    warm_up: Option<Arc<WarmUp>>,
    pair: HttpPair,
}

impl BackendRequest {
    pub(super) fn new(
        request: Request,
        factory: Factory,
        instance: InstanceHandle,
        start_ns: u64,
        decoupled: bool,
        delayed: DelayedEndSender,
        warm_up: Option<Arc<WarmUp>>,
    ) -> BackendRequest {
        let outputs = RequestedOutputs::default();
        BackendRequest {
            factory: Arc::new(factory),
            request: Mutex::new(Some(request)),
            instance,
            start_ns,
            ended: AtomicBool::new(false),
            layout: Layout { text_name: c"", outputs, batched: false, embedding: false },
            rows: 1,
            decoupled,
            delayed,
            warm_up,
            pair: HttpPair::default(),
        }
    }

    /// Learn how answers are laid out.
    pub(super) fn set_layout(
        &mut self,
        parsed: &Parsed,
        roles: &Roles,
        batched: bool,
    ) -> Result<()> {
        let mut outputs = parsed.outputs;
        if let Some(request) = self.request.lock().as_ref() {
            outputs.only_listed(request, roles.output)?;
        }
        let embedding = !parsed.embeddings.is_empty();
        self.layout = Layout { text_name: roles.output, outputs, batched, embedding };
        self.rows = parsed.rows.len().max(parsed.embeddings.len()) as u64;
        Ok(())
    }

    /// Answer with an error and nothing else. The text is sent as it is.
    pub(super) fn refuse(&self, error: &Error) {
        self.end(Err::<(), _>(error), |()| Vec::new());
    }

    /// The request failed.
    pub(super) fn fail(self: &Arc<Self>, error: Error) {
        match error {
            Error::Cancelled(_) => {
                let request = Arc::clone(self);
                delayed_cancel::delay(&self.delayed, move || request.refuse(&error));
            }
            error => self.refuse(&error),
        }
    }

    /// The client gave up, or heard of a failure already.
    pub(super) fn cancelled(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.factory.cancelled()
    }

    /// A response may go out without waiting.
    pub(super) fn may_send(&self) -> bool {
        self.pair.clear()
    }

    /// One response of a stream. If it cannot be made the request fails with it.
    pub(super) fn respond(&self, rows: &[AnswerRow]) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        let mut response = match self.factory.response() {
            Ok(response) => response,
            Err(error) => return self.refuse(&error),
        };
        if let Err(error) = self.layout.fill(&mut response, rows) {
            if !self.ended.swap(true, Ordering::AcqRel) {
                self.last(response, Err(error));
            }
            return;
        }
        if let Err(error) = self.pair.send(|| response.send(false, None)) {
            self.refuse(&error);
        }
    }

    /// The last response of the request, unless it had one.
    pub(super) fn end<'a, T>(
        &self,
        outcome: std::result::Result<T, &Error>,
        rows: impl FnOnce(T) -> Vec<AnswerRow<'a>>,
    ) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut response = match self.factory.response() {
            Ok(response) => response,
            Err(error) => return self.last_resort(&error),
        };
        let filled = match outcome {
            Ok(answer) => self.layout.fill(&mut response, &rows(answer)),
            Err(error) => Err(error.clone()),
        };
        self.last(response, filled);
    }

    /// The statistics, then this response with the FINAL flag, then the request goes back. An error
    /// takes the place of what could not be filled in: on the same response, because the front end
    /// may deliver no later one before it.
    fn last(&self, response: Response, outcome: Result<()>) {
        let request = self.request.lock().take();
        if let Some(request) = &request {
            self.instance.report(request, outcome.is_ok(), self.rows, self.start_ns);
        }
        delayed_cancel::hold(&self.delayed, Arc::clone(&self.factory));
        if let Some(warm_up) = &self.warm_up {
            warm_up.ends_one(outcome.is_err());
        }
        if let Err(error) = self.pair.send(|| response.send(true, outcome.err().as_ref())) {
            self.last_resort(&error);
        }
    }

    /// The FINAL flag is owed: as an error, or alone where even that is impossible.
    fn last_resort(&self, error: &Error) {
        tracing::error!("the last response could not be sent: {error}");
        if let Some(warm_up) = &self.warm_up {
            warm_up.ends_one(true);
        }
        let sent = self.factory.response().and_then(|last| last.send(true, Some(error)));
        if sent.is_err() && self.decoupled {
            let _ = self.factory.send_final();
        }
        drop(self.request.lock().take());
    }
}

impl Drop for BackendRequest {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Acquire) {
            tracing::error!("a request was dropped without an answer");
            self.refuse(&Error::Unavailable("the engine gave this request up".into()));
        }
    }
}
