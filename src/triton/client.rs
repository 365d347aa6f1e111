//! The other end of a request: turns the engine's answers into Triton responses, and makes sure
//! that there is exactly one FINAL, whatever happens. Called by the engine's outbox threads; it
//! never knows what an engine does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use super::backpressure::HttpPair;
use super::delayed_cancel::{self, DelayedEndSender};
use super::handles::{Factory, InstanceHandle, Request, Response};
use super::request::{worded, Parsed};
use super::response::{AnswerRow, Before, Layout, Wanted};
use super::roles::{Roles, TextStyle};
use crate::engine::{Answer, Client};
use crate::error::{Error, Result};

/// One Triton request in flight.
pub(super) struct BackendRequest {
    factory: Arc<Factory>,
    /// Kept for the statistics at the end, then given back.
    request: Mutex<Option<Request>>,
    instance: InstanceHandle,
    start_ns: u64,
    /// The FINAL response is on its way.
    ended: AtomicBool,
    layout: Layout,
    /// Rows of the batch; 1 without one.
    rows: u64,
    decoupled: bool,
    delayed: DelayedEndSender,
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
    ) -> BackendRequest {
        let (text_name, wanted) = (c"", Wanted::default());
        let layout = Layout { text_name, wanted, batched: false, embedding: false };
        let (request, ended) = (Mutex::new(Some(request)), AtomicBool::new(false));
        let factory = Arc::new(factory);
        let rows = 1;
        let pair = HttpPair::default();
        BackendRequest {
            factory,
            request,
            instance,
            start_ns,
            ended,
            layout,
            rows,
            decoupled,
            delayed,
            pair,
        }
    }

    /// Learn how answers are laid out.
    pub(super) fn expect(&mut self, parsed: &Parsed, roles: &Roles, batched: bool) -> Result<()> {
        let mut wanted = parsed.wanted;
        if let Some(request) = self.request.lock().as_ref() {
            wanted.only_requested(request, roles.output)?;
        }
        let embedding = !parsed.embeddings.is_empty();
        self.layout = Layout { text_name: roles.output, wanted, batched, embedding };
        self.rows = parsed.rows.len().max(parsed.embeddings.len()) as u64;
        Ok(())
    }

    /// Answer with an error and nothing else. The text is sent as it is.
    pub(super) fn refuse(&self, error: &Error) {
        self.end(Err::<(), _>(error), |()| Vec::new());
    }

    /// The request failed.
    fn fail(self: &Arc<Self>, error: Error) {
        match error {
            Error::Cancelled(_) => delayed_cancel::cancel(&self.delayed, Arc::clone(self), error),
            error => self.refuse(&error),
        }
    }

    /// The client gave up, or heard of a failure already.
    fn cancelled(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.factory.cancelled()
    }

    /// One response of a stream. If it cannot be made the request fails with it.
    fn respond(&self, rows: &[AnswerRow]) {
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
    fn end<'a, T>(
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
        if let Err(error) = self.pair.send(|| response.send(true, outcome.err().as_ref())) {
            self.last_resort(&error);
        }
    }

    /// The FINAL flag is owed: as an error, or alone where even that is impossible.
    fn last_resort(&self, error: &Error) {
        tracing::error!("the last response could not be sent: {error}");
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

/// The client of a request with one prompt.
pub(super) struct Single {
    call: Arc<BackendRequest>,
    /// The prompt, if it is part of the text.
    prompt: Option<String>,
    /// `TextStyle::RunningTotal` of a stream: prompt and text so far of each output.
    totals: Option<Mutex<Vec<String>>>,
}

impl Single {
    pub(super) fn new(
        call: BackendRequest,
        prompt: Option<String>,
        style: TextStyle,
        stream: bool,
    ) -> Self {
        let running = stream && style == TextStyle::RunningTotal;
        let call = Arc::new(call);
        Single { call, prompt, totals: running.then(Mutex::default) }
    }

    /// BackendRequest `send` with the row, and add its text to the running totals.
    fn with_row<T>(&self, answer: &Answer, send: impl FnOnce(AnswerRow) -> T) -> T {
        let Some(totals) = &self.totals else {
            let before = self.prompt.as_deref().map_or(Before::Nothing, Before::Prompt);
            return send(AnswerRow { answer, before });
        };
        let mut totals = totals.lock();
        let prompt = self.prompt.as_deref().unwrap_or_default();
        totals.resize_with(answer.outputs.len(), || prompt.to_owned());
        let sent = send(AnswerRow { answer, before: Before::Each(&totals) });
        for (total, output) in totals.iter_mut().zip(&answer.outputs) {
            total.push_str(&output.text);
        }
        sent
    }
}

impl Client for Single {
    fn cancelled(&self) -> bool {
        self.call.cancelled()
    }

    fn ready(&self) -> bool {
        self.call.pair.clear()
    }

    fn respond(&self, answer: Answer) {
        self.with_row(&answer, |row| self.call.respond(&[row]));
    }

    fn finish(&self, outcome: Result<Answer>) {
        match outcome {
            Ok(answer) => self.with_row(&answer, |row| self.call.end(Ok(row), |row| vec![row])),
            Err(error) => self.call.fail(worded(error)),
        }
    }
}

/// The shared part of a batch: one Triton request, several generations.
pub(super) struct Batch {
    call: Arc<BackendRequest>,
    state: Mutex<BatchState>,
    /// A row failed: the others need not go on.
    failed: AtomicBool,
}

struct BatchState {
    /// Prompt (if it is part of the text) and answer of each row.
    rows: Vec<(Option<String>, Option<Answer>)>,
    missing: usize,
    error: Option<Error>,
}

/// One row of a batch. Never streams.
pub(super) struct BatchRow {
    batch: Arc<Batch>,
    index: usize,
    ended: AtomicBool,
}

impl Batch {
    /// One client per row, in row order.
    pub(super) fn rows(call: BackendRequest, prompts: Vec<Option<String>>) -> Vec<BatchRow> {
        let missing = prompts.len();
        let rows = prompts.into_iter().map(|prompt| (prompt, None)).collect();
        let state = Mutex::new(BatchState { rows, missing, error: None });
        let call = Arc::new(call);
        let batch = Arc::new(Batch { call, state, failed: AtomicBool::new(false) });
        let row =
            |index| BatchRow { batch: Arc::clone(&batch), index, ended: AtomicBool::new(false) };
        (0..missing).map(row).collect()
    }

    fn row_ended(&self, index: usize, outcome: Result<Answer>) {
        let mut state = self.state.lock();
        match outcome {
            Ok(answer) => {
                if let Some(row) = state.rows.get_mut(index) {
                    row.1 = Some(answer);
                }
            }
            Err(error) => {
                self.failed.store(true, Ordering::Release);
                // The first error is the cause; later ones are rows that were cancelled for it.
                state.error.get_or_insert(worded(error));
            }
        }
        state.missing = state.missing.saturating_sub(1);
        if state.missing > 0 {
            return;
        }
        match &state.error {
            Some(error) => self.call.fail(error.clone()),
            None => self.call.end(Ok(&state.rows), |rows| {
                rows.iter().filter_map(|(prompt, answer)| answer_row(prompt, answer)).collect()
            }),
        }
    }
}

fn answer_row<'a>(prompt: &'a Option<String>, answer: &'a Option<Answer>) -> Option<AnswerRow<'a>> {
    let before = prompt.as_deref().map_or(Before::Nothing, Before::Prompt);
    answer.as_ref().map(|answer| AnswerRow { answer, before })
}

impl Client for BatchRow {
    fn cancelled(&self) -> bool {
        self.batch.failed.load(Ordering::Acquire) || self.batch.call.cancelled()
    }

    fn ready(&self) -> bool {
        self.batch.call.pair.clear()
    }

    fn respond(&self, _: Answer) {
        // A batch never streams: request.rs refuses it.
    }

    fn finish(&self, outcome: Result<Answer>) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            self.batch.row_ended(self.index, outcome);
        }
    }
}

impl Drop for BatchRow {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Acquire) {
            self.finish(Err(Error::Unavailable("the engine gave this request up".into())));
        }
    }
}
