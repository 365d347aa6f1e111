//! The engine thread: the only owner of what changes of a request while it is served. Everything
//! else talks to it by [`Command`](super::command::Command)s. (`loop` is a word of Rust's.)
//!
//! | file | what |
//! |---|---|
//! | `step` | the loop: launch step n + 1, then take the results of step n |
//! | `state` | what the engine thread owns |
//! | `runner` | the device with a model on it, as the loop sees it |
//! | `commands` | what other threads ask for: new requests, matchers, adapters, a drain |
//! | `masks` | which rows need a token mask, and sequences whose mask takes long |
//! | `draft_gain` | whether drafts pay, by the clock |
//! | `settle` | a step's results, to their requests; stop rules |
//! | `adapters` | adapters into adapter slots, and the sequences that waited for one |
//! | `failures` | requests that end without their last token |

mod adapters;
mod commands;
mod draft_gain;
mod failures;
mod masks;
mod runner;
mod settle;
mod state;
mod step;

pub(crate) use runner::Runner;
pub(crate) use state::{Helpers, StepLoop};
