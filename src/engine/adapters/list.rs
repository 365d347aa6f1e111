//! The names of the adapters that requests may ask for (multi_lora.json), and where each is found.
//! Read by `load`, asked by the threads of `readers`.
//!
//! An adapter lies in a folder (`~` is the home; a relative one is tried against the version's
//! folder, then against the server's working directory), or anything else is its name on a hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::ids::AdapterId;
use crate::json;
use crate::model::gguf::GgufName;
use crate::model::hub::{self, Hub, SnapshotRequest};
use crate::model::Files;
use crate::{internal, invalid};

const FILE: &str = "multi_lora.json";

/// multi_lora.json: names and where each lies, in its order. The n-th is `AdapterId(n + 1)`.
#[derive(Clone)]
pub(crate) struct AdapterList {
    adapters: Vec<(String, String)>,
    version_dir: PathBuf,
    hub: Arc<Hub>,
}

/// Where an adapter is to be found.
#[derive(Debug, PartialEq)]
pub(super) enum AdapterSource {
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

        let entry = |(name, value): (String, Value)| match value {
            Value::String(given) if !given.trim().is_empty() => Ok((name, given)),
            other => Err(invalid!(
                "{shown}: the folder of '{name}' must be a string, got {} (a path, or the name of \
                 an adapter on a hub, org/name)",
                json::shown(&other)
            )),
        };
        Ok(AdapterList {
            adapters: map.into_iter().map(entry).collect::<Result<_>>()?,
            version_dir: version_dir.to_path_buf(),
            hub: Arc::new(hub),
        })
    }

    /// Where an adapter is: looked up anew each time.
    pub(super) fn source(&self, id: AdapterId) -> Result<AdapterSource> {
        let given = self.given(id)?;
        if let Some(rest) = given.strip_prefix('~').filter(|r| r.is_empty() || r.starts_with('/')) {
            let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
            return Ok(AdapterSource::Folder(PathBuf::from(home + rest)));
        }
        if Path::new(given).is_absolute() {
            return Ok(AdapterSource::Folder(given.into()));
        }
        let beside = self.version_dir.join(given);
        let here = std::path::absolute(given).unwrap_or_else(|_| given.into());
        if let Some(folder) = [&beside, &here].into_iter().find(|folder| folder.exists()) {
            return Ok(AdapterSource::Folder(folder.clone()));
        }
        if hub::is_repo(given) {
            return Ok(AdapterSource::Hub(given.into()));
        }
        Err(Error::NotFound(format!(
            "'{given}' is nowhere: neither {} nor {} exists, and it is no name of an adapter on a \
             hub (org/name)",
            beside.display(),
            here.display()
        )))
    }

    /// The folder of an adapter on a hub, downloaded where the cache lacks it.
    pub(super) fn fetched(&self, repo: &str) -> Result<PathBuf> {
        let folder = self.hub.snapshot(&SnapshotRequest {
            repo,
            revision: None,
            ignore: &[],
            weights: Some(Files::Adapter),
            gguf: &GgufName::Only,
        });
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

    pub(super) fn name(&self, id: AdapterId) -> &str {
        self.adapters.get(id.index().wrapping_sub(1)).map_or("", |(name, _)| name)
    }

    /// How many adapters it names.
    pub(super) fn len(&self) -> usize {
        self.adapters.len()
    }

    pub fn names(&self) -> Vec<String> {
        self.adapters.iter().map(|(name, _)| name.clone()).collect()
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
        let place = |n: u16| list.source(AdapterId(n + 1));
        assert_eq!(place(0), Ok(AdapterSource::Folder(home.join("loras/a"))));
        assert_eq!(place(1), Ok(AdapterSource::Folder(home)));
        assert_eq!(place(2), Ok(AdapterSource::Folder("/abs/b".into())), "as it is, there or not");
        assert_eq!(place(3), Ok(AdapterSource::Folder(dir.join("mine/too"))));
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(place(4), Ok(AdapterSource::Folder(here.join("src"))));
        assert_eq!(place(5), Ok(AdapterSource::Hub("org/name".into())));
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
