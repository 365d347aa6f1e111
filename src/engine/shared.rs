//! What the threads of one engine have in common: where to say what happened, how to reach the
//! engine thread, and whether the engine still serves.

use std::sync::Arc;

use crossbeam::channel::Sender;

use super::command::Command;
use super::health::Health;
use super::request::Observer;

/// Cloned for each thread that needs it.
#[derive(Clone)]
pub(crate) struct Shared {
    pub observer: Arc<dyn Observer>,
    pub commands: Sender<Command>,
    pub health: Arc<Health>,
}
