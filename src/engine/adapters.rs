//! LoRA adapters on the host: their names (multi_lora.json), the thread that reads them, and the
//! sequences that wait for that. The engine thread owns [`Adapters`]; which adapter lies in which
//! bank of the device is the scheduler's affair. It never knows what an adapter does.
//!
//! An adapter is read when the first request asks for it, while all others go on. One that cannot
//! be read fails the requests that wait for it, and nobody else; the next request tries again.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{unbounded, Sender};
use serde_json::Value;

use super::command::Command;
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::ids::{AdapterId, RequestId};
use crate::json;
use crate::model::{Adapter, ModelSpec};
use crate::scheduler::NewSequence;
use crate::{internal, invalid};

const FILE: &str = "multi_lora.json";

/// multi_lora.json: names and folders, in its order. The n-th is `AdapterId(n + 1)`.
#[derive(Debug, Clone, Default)]
pub(super) struct AdapterList(Vec<(String, PathBuf)>);

impl AdapterList {
    /// Read `<version>/multi_lora.json`. A relative folder is tried against the version's folder
    /// first, then against the server's working directory; whether it is there is seen on first
    /// use.
    ///
    /// # Errors
    /// NotFound: no such file. InvalidArgument: it holds anything but names and folders.
    pub fn read(version_dir: &Path) -> Result<AdapterList> {
        let path = version_dir.join(FILE);
        let shown = path.display();
        let text = files::read_text(&path, Kind::Arguments).map_err(|e| match e {
            Error::NotFound(_) => Error::NotFound(format!("Triton backend cannot find {shown}.")),
            other => other,
        })?;
        let value =
            json::parse(text.as_bytes()).map_err(|e| invalid!("{shown} is not valid JSON: {e}"))?;
        let Value::Object(map) = value else {
            return Err(invalid!("{shown} must hold one JSON object, name -> folder."));
        };
        if map.len() >= usize::from(u16::MAX) {
            return Err(invalid!("{shown} names {} adapters, at most 65534.", map.len()));
        }
        let folder = |(name, value): (String, Value)| match value {
            Value::String(folder) => {
                let beside = version_dir.join(&folder);
                let folder = if beside.is_dir() { beside } else { PathBuf::from(folder) };
                Ok((name, folder))
            }
            other => Err(invalid!("{shown}: the folder of '{name}' must be a string, got {other}")),
        };
        Ok(AdapterList(map.into_iter().map(folder).collect::<Result<_>>()?))
    }

    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }
}

enum State {
    Absent,
    /// Sequences that wait for it.
    Reading(Vec<NewSequence>),
    Ready(Arc<Adapter>),
}

struct Entry {
    state: State,
    /// Number of the request that asked for it last.
    used: u64,
}

/// What the host has of each adapter.
#[derive(Default)]
pub(super) struct Adapters {
    reader: Option<Sender<AdapterId>>,
    entries: Vec<Entry>,
    /// `max_cpu_loras`
    kept: usize,
    uses: u64,
}

impl Adapters {
    /// With the thread that reads; it ends when the result is dropped. No list: LoRA is off.
    pub fn start(
        name: &str,
        list: Option<AdapterList>,
        spec: &ModelSpec,
        kept: usize,
        commands: &Sender<Command>,
    ) -> Result<(Adapters, Option<JoinHandle<()>>)> {
        let Some(list) = list else { return Ok((Adapters::default(), None)) };
        let (spec, commands) = (spec.clone(), commands.clone());
        let (reader, wanted) = unbounded::<AdapterId>();
        let absent = |_| Entry { state: State::Absent, used: 0 };
        let entries = (0..list.0.len()).map(absent).collect();
        let body = move || {
            for id in wanted {
                let read = || read(&list, id, &spec);
                let outcome = catch_unwind(AssertUnwindSafe(read))
                    .unwrap_or_else(|_| Err(internal!("a fault in reading adapter {id}")));
                if commands.send(Command::Adapter { id, outcome }).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("adapters {name}")).spawn(body);
        let thread = thread.map_err(|e| internal!("cannot start a thread: {e}"))?;
        Ok((Adapters { reader: Some(reader), entries, kept, uses: 0 }, Some(thread)))
    }

    /// A new sequence: back if it can be scheduled, kept until its adapter is read if not.
    pub fn admit(&mut self, new: NewSequence) -> Result<Option<NewSequence>> {
        if new.adapter == AdapterId(0) {
            return Ok(Some(new));
        }
        self.uses += 1;
        let (uses, id) = (self.uses, new.adapter);
        let entry = self.entry(id)?;
        entry.used = uses;
        match &mut entry.state {
            State::Ready(_) => return Ok(Some(new)),
            State::Reading(parked) => {
                parked.push(new);
                return Ok(None);
            }
            State::Absent => entry.state = State::Reading(vec![new]),
        }
        let asked = self.reader.as_ref().is_some_and(|reader| reader.send(id).is_ok());
        match asked {
            true => Ok(None),
            false => Err(internal!("nobody reads adapter {id}")),
        }
    }

    /// The reader is done: the sequences that waited. After an error they are to fail.
    pub fn arrived(&mut self, id: AdapterId, adapter: Option<Adapter>) -> Result<Vec<NewSequence>> {
        let state = match adapter {
            Some(adapter) => State::Ready(Arc::new(adapter)),
            None => State::Absent,
        };
        match std::mem::replace(&mut self.entry(id)?.state, state) {
            State::Reading(parked) => Ok(parked),
            State::Absent | State::Ready(_) => Ok(Vec::new()),
        }
    }

    /// Forget what was used least recently, down to `max_cpu_loras`. Adapters that requests hold
    /// (`in_use`) stay.
    pub fn trim(&mut self, in_use: impl Fn(AdapterId) -> bool) {
        let ready = |entry: &Entry| matches!(entry.state, State::Ready(_));
        while self.entries.iter().filter(|entry| ready(entry)).count() > self.kept {
            let entries = self.entries.iter_mut().enumerate();
            let idle = entries.filter(|(n, e)| ready(e) && !in_use(AdapterId(*n as u16 + 1)));
            match idle.min_by_key(|(_, entry)| entry.used) {
                Some((_, entry)) => entry.state = State::Absent,
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
            Some(State::Ready(adapter)) => Ok(Arc::clone(adapter)),
            _ => Err(internal!("adapter {id} is not in host memory")),
        }
    }

    /// A sequence that is over before its adapter came.
    pub fn forget(&mut self, request: RequestId) {
        for entry in &mut self.entries {
            if let State::Reading(parked) = &mut entry.state {
                parked.retain(|new| new.id != request);
            }
        }
    }

    /// Sequences that wait for their adapter.
    pub fn parked(&self) -> usize {
        let count = |entry: &Entry| match &entry.state {
            State::Reading(parked) => parked.len(),
            State::Absent | State::Ready(_) => 0,
        };
        self.entries.iter().map(count).sum()
    }

    fn entry(&mut self, id: AdapterId) -> Result<&mut Entry> {
        let entry = self.entries.get_mut(id.index().wrapping_sub(1));
        entry.ok_or_else(|| internal!("adapter {id} does not exist"))
    }
}

fn read(list: &AdapterList, id: AdapterId, spec: &ModelSpec) -> Result<Adapter> {
    let (Some((name, folder)), Some(options)) =
        (list.0.get(id.index().wrapping_sub(1)), &spec.adapters)
    else {
        return Err(internal!("adapter {id} does not exist"));
    };
    let started = std::time::Instant::now();
    let adapter = Adapter::read(folder, spec, options)
        .map_err(|e| e.context(&format!("LoRA adapter '{name}': ")))
        .inspect_err(|e| tracing::error!("{e}"))?;
    let took = started.elapsed();
    tracing::info!("LoRA adapter '{name}': read {} in {took:.1?}", folder.display());
    Ok(adapter)
}
