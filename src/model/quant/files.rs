//! The files beside config.json that may say how a checkpoint is quantised. Called by `recognise`,
//! which knows when they count.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Result;
use crate::files::{self, Kind};
use crate::invalid;
use crate::json;

/// Where ModelOpt writes what it did, if config.json says nothing.
const MODELOPT: &str = "hf_quant_config.json";
/// Entries of a folder that are looked at, as for a model's other files.
const MAX_FILES: usize = 4096;

/// An object, and the path that it came from.
pub type File = (String, Map<String, Value>);

/// ModelOpt's file, if it is there.
///
/// # Errors
/// It cannot be read, or holds no object.
pub fn modelopt(folder: Option<&Path>) -> Result<Option<File>> {
    let Some(folder) = folder else { return Ok(None) };
    let path = folder.join(MODELOPT);
    let object = files::optional(json::read_object(&path, Kind::Config))?;
    Ok(object.map(|object| (path.display().to_string(), object)))
}

/// The one file whose name ends like this, for the method `argument`.
///
/// # Errors
/// InvalidArgument: there is none, or there are several; those of reading it.
pub fn ending(folder: Option<&Path>, ends: &[&str], argument: &str) -> Result<File> {
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    let paths = entries.into_iter().flatten().flatten().take(MAX_FILES).map(|entry| entry.path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ends.iter().any(|end| name.ends_with(end))
    };
    let mut found: Vec<PathBuf> = paths.filter(named).collect();
    found.sort();
    match &found[..] {
        [] => Err(invalid!("Cannot find the config file for {}", json::cut(argument))),
        [path] => Ok((path.display().to_string(), json::read_object(path, Kind::Config)?)),
        many => {
            let names: Vec<String> =
                many.iter().map(|path| format!("'{}'", path.display())).collect();
            Err(invalid!(
                "Found multiple config files for {}: [{}]",
                json::cut(argument),
                names.join(", ")
            ))
        }
    }
}
