//! What the engine thread tells an outbox: new requests, their tokens, vectors and failures. Plain
//! data.

use std::time::Instant;

use super::stream::{NewToken, Stream};
use crate::engine::request::Finish;
use crate::error::Error;
use crate::ids::RequestId;

/// What the engine tells an outbox thread.
pub(crate) enum Event {
    /// A request was admitted.
    Open(RequestId, Box<Stream>),
    /// One new token of a request's sequence; `finish` if the engine's stop rules ended it here.
    Token { id: RequestId, index: usize, token: NewToken, finish: Option<Finish> },
    /// The pooled vector of a request that embeds, its only answer.
    Vector { id: RequestId, vector: Vec<f32> },
    /// The request ended without a token: cancelled, drained, poisoned.
    Fail { id: RequestId, error: Error },
}

impl Event {
    /// Whose event it is: the id of the request's first sequence.
    pub(super) fn id(&self) -> RequestId {
        match self {
            Event::Open(id, _) => *id,
            Event::Token { id, .. } | Event::Vector { id, .. } | Event::Fail { id, .. } => *id,
        }
    }
}

/// Events of one step for one thread, with the time when the step's results were read.
pub(super) struct StepEvents {
    pub at: Instant,
    pub events: Vec<Event>,
}
