//! LoRA adapters on the host: their names (multi_lora.json), the thread that reads them, and the
//! sequences that wait for that. The engine thread owns [`Adapters`]; which adapter lies in which
//! adapter slot of the device is the scheduler's affair. It never knows what an adapter does.
//!
//! An adapter lies in a folder (`~` is the home; a relative one is tried against the version's
//! folder, then against the server's working directory), or anything else is its name on a hub. It
//! is read when the first request asks for it, while all others go on. One that cannot
//! be read fails the requests that wait for it, and nobody else; the next request tries again.

use std::collections::HashMap;
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
use crate::model::folder;
use crate::model::hub::{self, Hub, SnapshotRequest};
use crate::model::{Adapter, Files, ModelSpec};
use crate::scheduler::NewSequence;
use crate::{internal, invalid};

const FILE: &str = "multi_lora.json";

/// multi_lora.json: names and where each lies, in its order. The n-th is `AdapterId(n + 1)`.
#[derive(Clone)]
pub(super) struct AdapterList {
    adapters: Vec<(String, String)>,
    version_dir: PathBuf,
    hub: Arc<Hub>,
}

/// Where an adapter is to be found.
#[derive(Debug, PartialEq)]
enum Place {
    Folder(PathBuf),
    /// `org/name`
    Hub(String),
}

impl AdapterList {
    /// Read `<version>/multi_lora.json`. Whether an adapter is there is seen on first use.
    ///
    /// # Errors
    /// NotFound: no such file. InvalidArgument: it holds anything but names and folders.
    pub fn read(version_dir: &Path, hub: Hub) -> Result<AdapterList> {
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
        let place = |(name, value): (String, Value)| match value {
            Value::String(place) if !place.trim().is_empty() => Ok((name, place)),
            other => Err(invalid!(
                "{shown}: the folder of '{name}' must be a string, got {} (a path, or the name of \
                 an adapter on a hub, org/name)",
                json::shown(&other)
            )),
        };
        Ok(AdapterList {
            adapters: map.into_iter().map(place).collect::<Result<_>>()?,
            version_dir: version_dir.to_path_buf(),
            hub: Arc::new(hub),
        })
    }

    fn place(&self, id: AdapterId) -> Result<Place> {
        let given = self.given(id)?;
        if let Some(rest) = given.strip_prefix('~').filter(|r| r.is_empty() || r.starts_with('/')) {
            let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
            return Ok(Place::Folder(PathBuf::from(home + rest)));
        }
        if Path::new(given).is_absolute() {
            return Ok(Place::Folder(given.into()));
        }
        let beside = self.version_dir.join(given);
        let here = std::path::absolute(given).unwrap_or_else(|_| given.into());
        if let Some(folder) = [&beside, &here].into_iter().find(|folder| folder.exists()) {
            return Ok(Place::Folder(folder.clone()));
        }
        if hub::is_repo(given) {
            return Ok(Place::Hub(given.into()));
        }
        Err(Error::NotFound(format!(
            "'{given}' is nowhere: neither {} nor {} exists, and it is no name of an adapter on a \
             hub (org/name)",
            beside.display(),
            here.display()
        )))
    }

    /// The folder of an adapter on a hub, downloaded where the cache lacks it.
    fn fetched(&self, repo: &str) -> Result<PathBuf> {
        let weights = Some(Files::Adapter);
        let folder =
            self.hub.snapshot(&SnapshotRequest { repo, revision: None, ignore: &[], weights });
        folder.map_err(|e| {
            e.context(&format!(
                "'{repo}' is no folder in {} or in the server's working directory, and on the \
                 hub: ",
                self.version_dir.display()
            ))
        })
    }

    fn given(&self, id: AdapterId) -> Result<&str> {
        let adapter = self.adapters.get(id.index().wrapping_sub(1));
        let (_, given) = adapter.ok_or_else(|| internal!("adapter {id} does not exist"))?;
        Ok(given)
    }

    fn name(&self, id: AdapterId) -> &str {
        self.adapters.get(id.index().wrapping_sub(1)).map_or("", |(name, _)| name)
    }

    pub fn names(&self) -> Vec<String> {
        self.adapters.iter().map(|(name, _)| name.clone()).collect()
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
    /// With the threads that read; they end when the result is dropped. No list: LoRA is off.
    pub fn start(
        name: &str,
        list: Option<AdapterList>,
        spec: &ModelSpec,
        kept: usize,
        commands: &Sender<Command>,
    ) -> Result<(Adapters, Vec<JoinHandle<()>>)> {
        let Some(list) = list else { return Ok((Adapters::default(), Vec::new())) };
        let absent = |_| Entry { state: State::Absent, used: 0 };
        let entries = (0..list.adapters.len()).map(absent).collect();
        let readers = Readers { list, spec: spec.clone(), commands: commands.clone() };
        let (reader, threads) = readers.start(name)?;
        Ok((Adapters { reader: Some(reader), entries, kept, uses: 0 }, threads))
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

/// What the threads that read adapters share.
#[derive(Clone)]
struct Readers {
    list: AdapterList,
    spec: ModelSpec,
    commands: Sender<Command>,
}

impl Readers {
    /// One thread for adapters that lie in a folder, one for those on a hub: a download keeps only
    /// other downloads waiting.
    fn start(self, name: &str) -> Result<(Sender<AdapterId>, Vec<JoinHandle<()>>)> {
        let (reader, wanted) = unbounded::<AdapterId>();
        let (fetcher, remote) = unbounded::<(AdapterId, String)>();
        let other = self.clone();
        let fetch = move || {
            let mut known: HashMap<AdapterId, PathBuf> = HashMap::new();
            for (id, repo) in remote {
                let fetched = known.get(&id).filter(|folder| folder.is_dir());
                let folder = || match fetched {
                    Some(folder) => Ok(folder.clone()),
                    None => other.list.fetched(&repo),
                };
                let Some(folder) = other.answer(id, folder) else { return };
                known.extend(folder.map(|folder| (id, folder)));
            }
        };
        let read = move || {
            for id in wanted {
                let going_on = match self.list.place(id) {
                    Ok(Place::Hub(repo)) => fetcher.send((id, repo)).is_ok(),
                    Ok(Place::Folder(folder)) => {
                        self.answer(id, || folder::snapshot_in(&folder, None)).is_some()
                    }
                    Err(error) => self.answer(id, || Err(error)).is_some(),
                };
                if !going_on {
                    return;
                }
            }
        };
        let thread = |name: String, body: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name).spawn(body);
            thread.map_err(|e| internal!("cannot start a thread: {e}"))
        };
        let threads = vec![
            thread(format!("adapters {name}"), Box::new(read))?,
            thread(format!("hub adapters {name}"), Box::new(fetch))?,
        ];
        Ok((reader, threads))
    }

    /// Read an adapter and tell the engine of it: None if that is gone. The folder, if it was read.
    fn answer(
        &self,
        id: AdapterId,
        folder: impl FnOnce() -> Result<PathBuf>,
    ) -> Option<Option<PathBuf>> {
        let name = self.list.name(id);
        let read = || {
            let folder = folder()?;
            Ok((self.read(id, &folder)?, folder))
        };
        let outcome = catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| Err(internal!("a fault in reading it")))
            .map_err(|e: Error| e.context(&format!("LoRA adapter '{name}': ")).on_one_line())
            .inspect_err(|e| tracing::error!("{e}"));
        let (outcome, folder) = match outcome {
            Ok((adapter, folder)) => (Ok(adapter), Some(folder)),
            Err(error) => (Err(error), None),
        };
        self.commands.send(Command::Adapter { id, outcome }).is_ok().then_some(folder)
    }

    fn read(&self, id: AdapterId, folder: &Path) -> Result<Adapter> {
        let Some(options) = &self.spec.adapters else {
            return Err(internal!("adapter {id} and no room for adapters"));
        };
        let started = std::time::Instant::now();
        let adapter = Adapter::read(folder, &self.spec, options)?;
        let took = started.elapsed();
        let name = self.list.name(id);
        tracing::info!("LoRA adapter '{name}': read {} in {took:.1?}", folder.display());
        Ok(adapter)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::hub::Token;

    fn list(version_dir: &Path, adapters: Value) -> Result<AdapterList> {
        std::fs::write(version_dir.join(FILE), adapters.to_string()).expect("a file");
        AdapterList::read(version_dir, Hub::new(None, &Token::None, |_| None))
    }

    #[test]
    fn case_09_where_an_adapter_is_looked_for() {
        let dir = std::env::temp_dir().join(format!("adapter-places-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("mine/too")).expect("a folder");
        let given = ["~/loras/a", "~", "/abs/b", "mine/too", "src", "org/name", "./no", "a/b/c"];
        let map: serde_json::Map<_, _> =
            given.iter().map(|text| (format!("of {text}"), json!(text))).collect();
        let list = list(&dir, Value::Object(map)).expect("names and places");
        let home = PathBuf::from(std::env::var("HOME").expect("a home"));
        let place = |n: u16| list.place(AdapterId(n + 1));
        assert_eq!(place(0), Ok(Place::Folder(home.join("loras/a"))));
        assert_eq!(place(1), Ok(Place::Folder(home)));
        assert_eq!(place(2), Ok(Place::Folder("/abs/b".into())), "as it is, there or not");
        assert_eq!(place(3), Ok(Place::Folder(dir.join("mine/too"))));
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(place(4), Ok(Place::Folder(here.join("src"))));
        assert_eq!(place(5), Ok(Place::Hub("org/name".into())));
        for n in [6, 7] {
            let error = place(n).expect_err(given[usize::from(n)]).to_string();
            for tried in [dir.display().to_string(), here.display().to_string()] {
                assert!(error.contains(&tried), "{error}");
            }
        }
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn other_values_than_places_are_refused() {
        let dir = std::env::temp_dir().join(format!("adapter-lists-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        for (adapters, words) in [
            (json!({"a": 5}), "the folder of 'a' must be a string, got "),
            (json!({"a": " "}), "the folder of 'a' must be a string, got "),
            (json!({"a": {"path": "/x"}}), "got {\"path\":\"/x\"}"),
            (json!(["a"]), "must hold one JSON object"),
        ] {
            let error = list(&dir, adapters).err().expect(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
