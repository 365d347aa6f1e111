//! The threads that read adapters: from a folder, or from a hub. Started by `host`; what they read
//! comes to the engine thread as a command.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{unbounded, Receiver, Sender};

use super::list::{AdapterList, AdapterSource};
use crate::engine::command::Command;
use crate::error::{Error, Result};
use crate::ids::AdapterId;
use crate::model::{folder, Adapter, ModelSpec};
use crate::{internal, threads};

/// What both threads share.
#[derive(Clone)]
pub(super) struct Readers {
    pub list: AdapterList,
    pub spec: ModelSpec,
    pub commands: Sender<Command>,
}

/// The engine thread has ended: nobody wants an adapter any more.
struct EngineGone;

impl Readers {
    /// One thread for adapters that lie in a folder, one for those on a hub: a download keeps only
    /// other downloads waiting. They end when the sender is dropped.
    pub fn start(self, name: &str) -> Result<(Sender<AdapterId>, Vec<JoinHandle<()>>)> {
        let (reader, wanted) = unbounded::<AdapterId>();
        let (fetcher, remote) = unbounded::<(AdapterId, String)>();
        let other = self.clone();
        let threads = vec![
            threads::spawn(format!("adapters {name}"), move || {
                let _ = self.read_folders(&wanted, &fetcher);
            })?,
            threads::spawn(format!("hub adapters {name}"), move || {
                let _ = other.read_hubs(&remote);
            })?,
        ];
        Ok((reader, threads))
    }

    /// Read what lies in a folder, pass on what is on a hub.
    fn read_folders(
        &self,
        wanted: &Receiver<AdapterId>,
        fetcher: &Sender<(AdapterId, String)>,
    ) -> std::result::Result<(), EngineGone> {
        for id in wanted {
            match self.list.source(id) {
                Ok(AdapterSource::Hub(repo)) => {
                    fetcher.send((id, repo)).map_err(|_| EngineGone)?;
                }
                Ok(AdapterSource::Folder(folder)) => {
                    self.answer(id, || folder::snapshot_in(&folder, None))?;
                }
                Err(error) => {
                    self.answer(id, || Err(error))?;
                }
            }
        }
        Ok(())
    }

    /// Download what is not in the cache, and read it.
    fn read_hubs(
        &self,
        remote: &Receiver<(AdapterId, String)>,
    ) -> std::result::Result<(), EngineGone> {
        let mut known: HashMap<AdapterId, PathBuf> = HashMap::new();
        for (id, repo) in remote {
            let fetched = known.get(&id).filter(|folder| folder.is_dir()).cloned();
            let folder =
                self.answer(id, || fetched.map_or_else(|| self.list.fetched(&repo), Ok))?;
            known.extend(folder.map(|folder| (id, folder)));
        }
        Ok(())
    }

    /// Read an adapter and tell the engine of it, or why it cannot be read. The folder, if it was
    /// read.
    fn answer(
        &self,
        id: AdapterId,
        folder: impl FnOnce() -> Result<PathBuf>,
    ) -> std::result::Result<Option<PathBuf>, EngineGone> {
        let read = || {
            let folder = folder()?;
            Ok((self.read(id, &folder)?, folder))
        };
        let name = self.list.name(id);
        let outcome = threads::catch(read)
            .unwrap_or_else(|_| Err(internal!("a fault in reading it")))
            .map_err(|e: Error| e.context(&format!("LoRA adapter '{name}': ")).on_one_line())
            .inspect_err(|e| tracing::error!("{e}"));

        let (outcome, folder) = match outcome {
            Ok((adapter, folder)) => (Ok(adapter), Some(folder)),
            Err(error) => (Err(error), None),
        };
        self.commands.send(Command::Adapter { id, outcome }).map_err(|_| EngineGone)?;
        Ok(folder)
    }

    fn read(&self, id: AdapterId, folder: &Path) -> Result<Adapter> {
        let Some(options) = &self.spec.adapters else {
            return Err(internal!("adapter {id} and no room for adapters"));
        };
        let started = Instant::now();
        let adapter = Adapter::read(folder, &self.spec, options)?;
        let took = started.elapsed();
        let name = self.list.name(id);
        tracing::info!("LoRA adapter '{name}': read {} in {took:.1?}", folder.display());
        Ok(adapter)
    }
}
