//! The clients that the engine answers to: of a request with one prompt, and of the rows of a
//! batch. They turn answers into rows of a response; `backend_request` sends it. Called by the
//! engine's outbox threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use super::backend_request::BackendRequest;
use super::request::worded;
use super::response::{AnswerRow, Before};
use super::roles::TextStyle;
use crate::engine::{Answer, Client};
use crate::error::{Error, Result};

/// The client of a request with one prompt.
pub(super) struct Single {
    request: Arc<BackendRequest>,
    /// The prompt, if it is part of the text.
    prompt: Option<String>,
    /// `TextStyle::RunningTotal` of a stream: prompt and text so far of each output.
    totals: Option<Mutex<Vec<String>>>,
}

impl Single {
    pub(super) fn new(
        request: BackendRequest,
        prompt: Option<String>,
        style: TextStyle,
        stream: bool,
    ) -> Self {
        let running = stream && style == TextStyle::RunningTotal;
        let request = Arc::new(request);
        Single { request, prompt, totals: running.then(Mutex::default) }
    }

    /// Call `send` with the row, and add its text to the running totals.
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
        self.request.cancelled()
    }

    fn ready(&self) -> bool {
        self.request.may_send()
    }

    fn respond(&self, answer: Answer) {
        self.with_row(&answer, |row| self.request.respond(&[row]));
    }

    fn finish(&self, outcome: Result<Answer>) {
        match outcome {
            Ok(answer) => self.with_row(&answer, |row| self.request.end(Ok(row), |row| vec![row])),
            Err(error) => self.request.fail(worded(error)),
        }
    }
}

/// The shared part of a batch: one Triton request, several generations.
pub(super) struct BatchedRequest {
    request: Arc<BackendRequest>,
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
    batch: Arc<BatchedRequest>,
    index: usize,
    ended: AtomicBool,
}

impl BatchedRequest {
    /// One client per row, in row order.
    pub(super) fn rows(request: BackendRequest, prompts: Vec<Option<String>>) -> Vec<BatchRow> {
        let missing = prompts.len();
        let rows = prompts.into_iter().map(|prompt| (prompt, None)).collect();
        let state = Mutex::new(BatchState { rows, missing, error: None });
        let request = Arc::new(request);
        let batch = Arc::new(BatchedRequest { request, state, failed: AtomicBool::new(false) });
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
            Some(error) => self.request.fail(error.clone()),
            None => self.request.end(Ok(&state.rows), |rows| {
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
        self.batch.failed.load(Ordering::Acquire) || self.batch.request.cancelled()
    }

    fn ready(&self) -> bool {
        self.batch.request.may_send()
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
