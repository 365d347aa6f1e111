//! Requests, from what `triton` submits to what the engine thread takes, and the other way their
//! answers.
//!
//! | file | what |
//! |---|---|
//! | `types` | requests as they are submitted, and what they ask of the engine |
//! | `client` | who gets the answer, and the answers |
//! | `observer` | what the engine tells of itself, for metrics |
//! | `ticket` | the promise of exactly one end to each accepted request |
//! | `queued_prompts` | counts the prompt tokens that wait for a first token |
//! | `intake` | text to tokens, limits, refusals, on the caller's thread |
//! | `images` | images, from a client's texts to what a plan carries |
//! | `image_texts` | texts that stand for images in prompts, and those within one |
//! | `prepare_threads` | the threads that do so for long prompts and for grammars |
//! | `embedding` | from a pooled vector to the answer of a request that embeds or classifies |
//! | `accepted` | a request as the engine thread takes it, with the rules that end it |

mod accepted;
mod client;
mod embedding;
mod image_texts;
mod images;
mod intake;
mod observer;
mod prepare_threads;
mod queued_prompts;
mod ticket;
mod types;

pub use client::{Answer, Client, FinishReason, LogprobEntry, Output, Position};
pub use observer::{Observation, Observer, Spent};
pub use types::{
    EmbedInput, EmbedRequest, GenerateRequest, ImageSource, PoolingParams, RequestOptions, Returns,
};

pub(crate) use accepted::{Accepted, Finish, NewOutput, SequenceIds, StopRules};
pub(crate) use embedding::{EmbedOptions, Embedder};
pub(crate) use images::ImageIntake;
pub(crate) use intake::{Intake, RequestIds};
pub(crate) use prepare_threads::PrepareThreads;
pub(crate) use queued_prompts::{QueuedPrompt, QueuedPrompts};
pub(crate) use ticket::{QueueLimit, Tickets};
pub(crate) use types::NewRequest;
