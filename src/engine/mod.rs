//! One thread owns what changes of a request while it is served. `triton` calls it through
//! [`Engines`]; it calls `scheduler` for plans, `model` and `device` for tokens, `text` for words.
//! It never knows Triton.
//!
//! The way of a request: `request` (intake) -> `step_loop` -> `output` (outboxes). An engine is
//! made by `load`.
//!
//! | file | what |
//! |---|---|
//! | `options` | what an engine is told beside model.json, and what it tells of itself |
//! | `engines` | the engines of an instance: submit, embed, health, drain |
//! | `prefix_routes` | which of several engines a prompt goes to |
//! | `handle` | a running engine |
//! | `load` | from model.json to a running engine |
//! | `request` | requests and answers, intake, tickets |
//! | `command` | what other threads ask of the engine thread |
//! | `step_loop` | the engine thread: launch step n + 1, then take the results of step n |
//! | `output` | outbox threads: tokens to text to clients; stop strings, logprobs, repetition |
//! | `grammar` | grammars of running sequences: token masks while the device computes |
//! | `adapters` | LoRA adapters on the host, read on threads of their own |
//! | `workers` | threads for tasks that may take long: compiling grammars, token masks |
//! | `shared` | what the threads of one engine have in common |
//! | `health`, `watchdog` | poison and drain, and the thread that sees to both |
//! | `meter`, `draft_meter` | what requests, steps and drafts cost, for metrics and the trace file |

mod adapters;
mod command;
mod draft_meter;
mod engines;
mod grammar;
mod handle;
mod health;
mod load;
mod meter;
mod options;
mod output;
mod prefix_routes;
mod request;
mod shared;
mod step_loop;
mod watchdog;
mod workers;
#[cfg(test)]
mod backlog_tests;
#[cfg(test)]
mod nonfinite_tests;
#[cfg(test)]
mod prepare_tests;
#[cfg(test)]
mod tests;

pub use crate::scheduler::DraftStats;
pub use engines::Engines;
pub use load::args::{self, EngineArgs};
pub use options::{
    EngineFacts, EngineOptions, Gpus, LoadLimits, NewProposer, STEP_TIMEOUT, STEP_TIMEOUT_CPU,
};
pub use request::{
    Answer, Client, EmbedInput, EmbedRequest, FinishReason, GenerateRequest, ImageSource,
    LogprobEntry, Observation, Observer, Output, PoolingParams, Position, RequestOptions, Returns,
    Spent,
};
