//! Which folder or file a model's name means, and whether a folder holds a model, in Hugging Face's
//! format or as GGUF: what is missing is said, and whose format it is where it is another's. Called
//! by `engine` before anything is read, and by `hub` before weights are fetched. It reads names of
//! files only.

use std::path::{Path, PathBuf};

use super::foreign_formats::other_format;
use super::gguf::{self, GgufName};
use super::hub;
use super::mistral;
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::invalid;
use crate::json::cut;

/// Names of files that a message lists.
const LISTED: usize = 8;

/// What a name means.
#[derive(Debug, PartialEq)]
pub enum Location {
    /// A folder of this machine, and which of its GGUF files is meant if there are any.
    Folder(PathBuf, GgufName),
    /// A GGUF file of this machine.
    Gguf(PathBuf),
    /// A name on a hub, and which GGUF file of it.
    Repo(String, GgufName),
}

/// What a folder holds.
#[derive(Debug, PartialEq)]
pub enum Holds {
    /// A model in Hugging Face's format, or in Mistral's own.
    Model,
    /// One in GGUF: its first file.
    Gguf(PathBuf),
}

/// A local folder wins, or a GGUF file: `~` is the home, a relative path is tried against the
/// version's folder first, then against the server's working directory. The folder of a model in a
/// hub's cache means the snapshot of the revision in it. What is no folder may be a model on a hub.
/// Behind a colon a folder's or repository's GGUF file is named by its type, `org/name:Q4_K_M`; a
/// repository's also as `org/name/file.gguf`.
///
/// # Errors
/// NotFound, with the paths that were tried; InvalidArgument: another file, or a URL.
pub fn find(name: &str, version_dir: &Path, revision: Option<&str>) -> Result<Location> {
    if name.trim().is_empty() {
        return Err(invalid!(
            "'model' is empty: it names a folder or a model on a hub (org/name)."
        ));
    }

    let tried = candidates(name, version_dir);
    let folder_in = |tried: &[PathBuf], which: GgufName| {
        let folder = tried.iter().find(|path| path.is_dir())?;
        let folder = snapshot_in(folder, revision).map_err(Error::on_one_line);
        Some(folder.map(|folder| Location::Folder(folder, which)))
    };
    if let Some(found) = folder_in(&tried, GgufName::Only) {
        return found;
    }
    let file = tried.iter().find(|path| path.exists());
    if let Some(file) = file.filter(|_| gguf::is_gguf(name)) {
        return Ok(Location::Gguf(file.clone()));
    }
    let with_type = gguf::with_type(name);
    if let Some((place, which)) = with_type.clone() {
        if let Some(found) = folder_in(&candidates(place, version_dir), which) {
            return found;
        }
    }

    let shown = cut(name);
    if let Some(file) = tried.iter().find(|path| path.exists()) {
        return Err(invalid!(
            "{} is a file: a model is named by the folder that holds its config.json, or by its \
             GGUF file.",
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
    if let Some((repo, which)) = on_hub(name, with_type) {
        return Ok(Location::Repo(repo, which));
    }
    let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
    let what = if gguf::is_gguf(name) { "GGUF file" } else { "folder" };
    Err(Error::NotFound(format!(
        "'{shown}' is no {what} (tried: {}) and no name of a model on a hub (org/name).",
        tried.join(", ")
    ))
    .on_one_line())
}

/// A repository, by itself, with a type, or with a file of it.
fn on_hub(name: &str, with_type: Option<(&str, GgufName)>) -> Option<(String, GgufName)> {
    let repo = |name: &str| hub::is_repo(name).then(|| name.to_string());
    if let Some((place, which)) = with_type {
        return Some((repo(place)?, which));
    }
    if !gguf::is_gguf(name) {
        return Some((repo(name)?, GgufName::Only));
    }
    // org/name/file.gguf, or one folder further down.
    let (at, _) = name.match_indices('/').nth(1)?;
    Some((repo(&name[..at])?, GgufName::File(name[at + 1..].into())))
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

/// Whether the folder holds a model: config.json, or Mistral's own files, with weights that are not
/// GGUF, or without any; or a GGUF file.
///
/// # Errors
/// NotFound or Unsupported: it holds none, with what it holds. InvalidArgument: several GGUF files,
/// and no word on which.
pub fn judge(folder: &Path, which: &GgufName) -> Result<Holds> {
    let has_config = folder.join("config.json").exists() || mistral::is_own_folder(folder);
    let asked = *which != GgufName::Only;
    let names = gguf_names_in(folder);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if asked || !has_config || (!names.is_empty() && !has_weights(folder)) {
        let at = |e: Error| e.context(&format!("{}: ", folder.display())).on_one_line();
        let chosen = gguf::choose(&names, which).map_err(at)?;
        if let Some(first) = chosen.as_ref().and_then(|files| files.first()) {
            return Ok(Holds::Gguf(folder.join(first)));
        }
        if asked {
            let text = format!("{}: it holds no GGUF file.", folder.display());
            return Err(Error::NotFound(text).on_one_line());
        }
    }
    if has_config {
        return Ok(Holds::Model);
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

/// GGUF files of a folder and of the folders in it, by their paths from it.
fn gguf_names_in(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names_in(folder) {
        if gguf::is_gguf(&name) {
            found.push(name);
        } else if !name.starts_with('.') && folder.join(&name).is_dir() {
            let inside = names_in(&folder.join(&name)).into_iter();
            found
                .extend(inside.filter(|own| gguf::is_gguf(own)).map(|own| format!("{name}/{own}")));
        }
    }
    found
}

/// Whether there are weights in Hugging Face's format.
fn has_weights(folder: &Path) -> bool {
    names_in(folder).iter().any(|name| {
        let torch = name.starts_with("pytorch_model") && name.ends_with(".bin");
        name.ends_with(".safetensors") || torch || name.ends_with(".index.json")
    })
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
