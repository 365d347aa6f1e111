//! Which folder a model's name means, and whether it holds a model in Hugging Face's format: what
//! is missing is said, and whose format it is where it is another's. Called by `engine` before
//! anything is read, and by `hub` before weights are fetched. It reads names of files only.

use std::path::{Path, PathBuf};

use super::foreign_formats::other_format;
use super::hub;
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::invalid;
use crate::json::cut;

/// Names of files that a message lists.
const LISTED: usize = 8;

/// What a name means.
#[derive(Debug, PartialEq)]
pub enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A name on a hub.
    Repo,
}

/// A local folder wins: `~` is the home, a relative path is tried against the version's folder
/// first, then against the server's working directory. The folder of a model in a hub's cache means
/// the snapshot of the revision in it. What is no folder may be a model on a hub.
///
/// # Errors
/// NotFound, with the paths that were tried; Unsupported: a GGUF file; InvalidArgument: another
/// file, or a URL.
pub fn find(name: &str, version_dir: &Path, revision: Option<&str>) -> Result<Location> {
    if name.trim().is_empty() {
        return Err(invalid!(
            "'model' is empty: it names a folder or a model on a hub (org/name)."
        ));
    }
    let tried = candidates(name, version_dir);
    let is_gguf = |text: &str| text.to_ascii_lowercase().ends_with(".gguf");
    if let Some(folder) = tried.iter().find(|path| path.is_dir()) {
        return snapshot_in(folder, revision).map(Location::Folder).map_err(Error::on_one_line);
    }
    let shown = cut(name);
    // vLLM's names of quantisations in a repository: org/name:Q4_K_M.
    let quantised = name.to_ascii_lowercase().contains("gguf:");
    if is_gguf(name) || quantised {
        return Err(Error::Unsupported(format!(
            "'{shown}' is a GGUF file, and GGUF is not read yet: name the folder or the hub's name \
             of the same model in safetensors (config.json, model.safetensors, tokenizer.json)."
        )));
    }
    if let Some(file) = tried.iter().find(|path| path.exists()) {
        return Err(invalid!(
            "{} is a file: a model is named by the folder that holds its config.json.",
            file.display()
        )
        .on_one_line());
    }
    if name.contains("://") {
        return Err(invalid!(
            "'{shown}' is a URL: a model is named by a local folder or by its name on a hub \
             (org/name)."
        ));
    }
    if hub::is_repo(name) {
        return Ok(Location::Repo);
    }
    let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
    Err(Error::NotFound(format!(
        "'{shown}' is no folder (tried: {}) and no name of a model on a hub (org/name).",
        tried.join(", ")
    ))
    .on_one_line())
}

fn candidates(name: &str, version_dir: &Path) -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    if let Some(rest) = name.strip_prefix("~/") {
        return home().into_iter().map(|home| home.join(rest)).collect();
    }
    let here = std::env::current_dir().unwrap_or_default();
    let mut paths = vec![version_dir.join(name), here.join(name)];
    paths.dedup();
    paths
}

/// The folder itself, or the snapshot in it if it is a model's folder in a hub's cache.
///
/// # Errors
/// NotFound: a cache's folder without that snapshot.
pub fn snapshot_in(folder: &Path, revision: Option<&str>) -> Result<PathBuf> {
    let snapshots = folder.join("snapshots");
    if folder.join("config.json").exists() || !snapshots.is_dir() {
        return Ok(folder.to_path_buf());
    }
    let revision = revision.unwrap_or("main");
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let inside = revision.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let read_ref = || files::read_text(&folder.join("refs").join(revision), Kind::Line).ok();
    let commit = inside.then(read_ref).flatten();
    let commit = commit.map_or_else(|| revision.to_string(), |text| text.trim().to_string());
    let named = snapshots.join(&commit);
    if plain(&commit) && named.is_dir() {
        return Ok(named);
    }
    let all = names_in(&snapshots);
    Err(Error::NotFound(format!(
        "{} is a folder of a hub's cache without a snapshot of '{}'; it has {}. Name one of them \
         as 'revision', or download the model again.",
        folder.display(),
        cut(revision),
        list(&all, "no snapshot")
    )))
}

/// Whether the folder holds the config.json of a model.
///
/// # Errors
/// NotFound or Unsupported: it does not, with what it holds.
pub fn judge(folder: &Path) -> Result<()> {
    if folder.join("config.json").exists() {
        return Ok(());
    }
    let shown = folder.display();
    let names = names_in(folder);
    let error = match other_format(names.iter().map(String::as_str)) {
        Some(format) => Error::Unsupported(format!("{shown} is not read: {format}.")),
        None if names.is_empty() => Error::NotFound(format!(
            "{shown} is an empty folder: copy the model's files into it (config.json, \
             *.safetensors, tokenizer.json)."
        )),
        None => Error::NotFound(format!(
            "{shown}: config.json is missing, so it is no model in Hugging Face's format; the \
             folder holds {}.",
            list(&names, "nothing")
        )),
    };
    Err(error.on_one_line())
}

/// Names of what is in a folder, in alphabetical order; at most a thousand.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(1000);
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn list(names: &[String], none: &str) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| cut(name)).collect();
    match names.len() {
        0 => none.into(),
        n if n > LISTED => format!("{} and {} more", shown.join(", "), n - LISTED),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
