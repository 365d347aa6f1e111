//! From sampled tokens to answers: text, stop strings, logprobs, and the threads that call clients.
//!
//! | file | what |
//! |---|---|
//! | `event` | what the engine thread tells an outbox |
//! | `outboxes` | the outboxes of an engine |
//! | `outbox` | one of them: events to answers, on its own thread |
//! | `takeover` | gives an outbox another thread when a client's call blocks |
//! | `stream` | one request there: its sequences, their text, its answers |
//! | `logprobs` | logprobs as an answer shows them |
//! | `repetition` | does an output repeat itself? Asked by the engine thread |

mod event;
mod logprobs;
mod outbox;
mod outboxes;
mod repetition;
mod stream;
mod takeover;

pub(crate) use event::Event;
pub(crate) use logprobs::SequenceLogprobs;
pub(crate) use outbox::Backlog;
pub(crate) use outboxes::Outboxes;
pub(crate) use repetition::RepetitionDetector;
pub(crate) use stream::{NewToken, Stream};
