//! What other threads ask of the engine thread: sent by intake, outboxes, matcher threads and
//! readers of adapters, obeyed by `step_loop`.

use std::time::Instant;

use super::grammar::MatcherState;
use super::request::Accepted;
use crate::error::Result;
use crate::ids::{AdapterId, RequestId};
use crate::model::Adapter;

/// What other threads ask of the engine thread.
pub(crate) enum Command {
    /// A request that passed intake.
    Submit(Box<Accepted>),
    /// An outbox found a stop string: the sequence is over, only its slot is still taken.
    Stopped(RequestId),
    /// A sequence's matcher took its token and knows what may follow.
    MatcherState(RequestId, Box<MatcherState>),
    /// An outbox died; `Health` has the cause.
    Poisoned,
    /// The reader of adapters is done with one.
    Adapter { id: AdapterId, outcome: Result<Adapter> },
    /// Finish what is in flight, and fail what is not finished by then.
    Drain { deadline: Instant },
}
