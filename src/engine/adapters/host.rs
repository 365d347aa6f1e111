//! The adapters in host memory, and the sequences that wait for one. Owned by the engine thread;
//! which adapter lies in which adapter slot of the device is decided by the scheduler. It never
//! knows what an adapter does.
//!
//! An adapter is read when the first request asks for it, while all others go on. One that cannot
//! be read fails the requests that wait for it, and nobody else; the next request tries again.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::Sender;

use super::list::AdapterList;
use super::readers::Readers;
use crate::engine::command::Command;
use crate::error::Result;
use crate::ids::{AdapterId, RequestId};
use crate::internal;
use crate::model::{Adapter, ModelSpec};
use crate::scheduler::NewSequence;

enum HostState {
    /// Nobody asked for it, its reading failed, or it was dropped.
    Absent,
    /// Being read, for the sequences that wait for it.
    Reading(Vec<NewSequence>),
    /// In host memory.
    Ready(Arc<Adapter>),
}

struct HostEntry {
    state: HostState,
    /// Number of the request that asked for it last.
    used: u64,
}

/// What the host has of each adapter.
#[derive(Default)]
pub(crate) struct HostAdapters {
    reader: Option<Sender<AdapterId>>,
    entries: Vec<HostEntry>,
    /// Adapters in memory at most, unless requests hold more: `max_cpu_loras`.
    kept: usize,
    /// Requests that asked for an adapter.
    uses: u64,
}

impl HostAdapters {
    /// With the threads that read; they end when the result is dropped. No list: LoRA is off.
    pub fn start(
        name: &str,
        list: Option<AdapterList>,
        spec: &ModelSpec,
        kept: usize,
        commands: &Sender<Command>,
    ) -> Result<(HostAdapters, Vec<JoinHandle<()>>)> {
        let Some(list) = list else { return Ok((HostAdapters::default(), Vec::new())) };
        let absent = |_| HostEntry { state: HostState::Absent, used: 0 };
        let entries = (0..list.len()).map(absent).collect();
        let readers = Readers { list, spec: spec.clone(), commands: commands.clone() };
        let (reader, threads) = readers.start(name)?;
        Ok((HostAdapters { reader: Some(reader), entries, kept, uses: 0 }, threads))
    }

    /// A new sequence: back if it can be scheduled, kept until its adapter is read if not.
    pub fn admit(&mut self, new: NewSequence) -> Result<Option<NewSequence>> {
        if new.adapter == AdapterId(0) {
            return Ok(Some(new));
        }
        self.uses += 1;
        let uses = self.uses;
        let id = new.adapter;
        let entry = self.entry(id)?;
        entry.used = uses;
        match &mut entry.state {
            HostState::Ready(_) => return Ok(Some(new)),
            HostState::Reading(waiting) => {
                waiting.push(new);
                return Ok(None);
            }
            HostState::Absent => entry.state = HostState::Reading(vec![new]),
        }
        let asked = self.reader.as_ref().is_some_and(|reader| reader.send(id).is_ok());
        if !asked {
            return Err(internal!("nobody reads adapter {id}"));
        }
        Ok(None)
    }

    /// The reader is done: the sequences that waited. After an error they are to fail.
    pub fn arrived(&mut self, id: AdapterId, adapter: Option<Adapter>) -> Result<Vec<NewSequence>> {
        let state = match adapter {
            Some(adapter) => HostState::Ready(Arc::new(adapter)),
            None => HostState::Absent,
        };
        match std::mem::replace(&mut self.entry(id)?.state, state) {
            HostState::Reading(waiting) => Ok(waiting),
            HostState::Absent | HostState::Ready(_) => Ok(Vec::new()),
        }
    }

    /// Forget what was used least recently, down to `max_cpu_loras`. Adapters that requests hold
    /// (`in_use`) stay.
    pub fn trim(&mut self, in_use: impl Fn(AdapterId) -> bool) {
        let ready = |entry: &HostEntry| matches!(entry.state, HostState::Ready(_));
        while self.entries.iter().filter(|entry| ready(entry)).count() > self.kept {
            let entries = self.entries.iter_mut().enumerate();
            let idle = entries.filter(|(n, e)| ready(e) && !in_use(AdapterId(*n as u16 + 1)));
            match idle.min_by_key(|(_, entry)| entry.used) {
                Some((_, entry)) => entry.state = HostState::Absent,
                None => return,
            }
        }
    }

    /// An adapter that some request holds.
    ///
    /// # Errors
    /// Internal: it was not read.
    pub fn get(&self, id: AdapterId) -> Result<Arc<Adapter>> {
        match self.entries.get(id.index().wrapping_sub(1)).map(|entry| &entry.state) {
            Some(HostState::Ready(adapter)) => Ok(Arc::clone(adapter)),
            _ => Err(internal!("adapter {id} is not in host memory")),
        }
    }

    /// A sequence that is over before its adapter came.
    pub fn forget(&mut self, request: RequestId) {
        for entry in &mut self.entries {
            if let HostState::Reading(waiting) = &mut entry.state {
                waiting.retain(|new| new.id != request);
            }
        }
    }

    /// The model has adapters.
    pub fn any(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Sequences that wait for their adapter.
    pub fn waiting(&self) -> usize {
        let count = |entry: &HostEntry| match &entry.state {
            HostState::Reading(waiting) => waiting.len(),
            HostState::Absent | HostState::Ready(_) => 0,
        };
        self.entries.iter().map(count).sum()
    }

    fn entry(&mut self, id: AdapterId) -> Result<&mut HostEntry> {
        let entry = self.entries.get_mut(id.index().wrapping_sub(1));
        entry.ok_or_else(|| internal!("adapter {id} does not exist"))
    }
}
