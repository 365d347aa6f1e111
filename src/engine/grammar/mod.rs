//! Grammars of running sequences: their matchers, which compute token masks beside the device.
//!
//! | file | what |
//! |---|---|
//! | `matcher_state` | one sequence's matcher, with what it allows next |
//! | `matcher_threads` | the threads on which matchers take tokens and compute masks |

mod matcher_state;
mod matcher_threads;

pub(crate) use matcher_state::{DropThread, MatcherState};
pub(crate) use matcher_threads::MatcherThreads;
