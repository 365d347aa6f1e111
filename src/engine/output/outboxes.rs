//! The outboxes of an engine, by number. Started by `load`, fed by `step_loop`, which gives each
//! request to one of them for its whole life.

use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{unbounded, Sender};

use super::event::{Event, StepEvents};
use super::outbox::{Backlog, Outbox};
use super::takeover::Takeover;
use crate::engine::shared::Shared;
use crate::error::Result;

/// The outboxes and their threads. Dropping the senders ends them.
pub(crate) struct Outboxes {
    senders: Vec<Sender<StepEvents>>,
    outboxes: Vec<Arc<Outbox>>,
    takeover: Takeover,
}

impl Outboxes {
    /// `threads` outboxes, at least one.
    pub fn start(
        name: &str,
        threads: usize,
        backlog: Backlog,
        shared: &Shared,
    ) -> Result<Outboxes> {
        let mut senders = Vec::new();
        let mut outboxes = Vec::new();
        for i in 0..threads.max(1) {
            let (sender, batches) = unbounded();
            outboxes.push(Outbox::start(format!("outbox{i} {name}"), backlog, batches, shared)?);
            senders.push(sender);
        }
        let takeover = Takeover::start(name, outboxes.clone())?;
        Ok(Outboxes { senders, outboxes, takeover })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Hand a step's events to outbox `index`. One that is gone drops them, and with them the
    /// clients, whose own guard still answers.
    pub fn send(&self, index: usize, at: Instant, events: Vec<Event>) {
        if !events.is_empty() {
            let _ = self.senders[index].send(StepEvents { at, events });
            self.takeover.wake();
        }
    }

    /// Send what is queued and join.
    pub fn close(self) {
        drop(self.senders);
        for outbox in self.outboxes {
            outbox.join();
        }
        self.takeover.stop();
    }
}
