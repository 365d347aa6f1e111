//! What a device found out by trying, in a file, so that the next start need not try again: a few
//! words for each key, both of the device's own meaning. `cuda` keeps its ways to multiply here; a
//! cache that may vanish at any time, be another's or be damaged, and knows no shape and no card.
//!
//! # The file
//! Lines of text: what this is, the title (what the choices depend on beside their keys: card,
//! versions of libraries and of this product), a line for each key, and a SHA-256 of all of that.
//! It is named by its title, so that several cards and versions have a file each. A file is
//! replaced as a whole, and what others added meanwhile in this process is never lost; two
//! processes that write at the same moment may lose one's choices, which are then made again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use ring::digest::{digest, SHA256};

use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::invalid;

/// What was chosen for a key.
pub type Choice = [u64; 8];
/// By key: words of ASCII, without a colon and without a line's end.
pub type Choices = BTreeMap<String, Choice>;

const FIRST_LINE: &str = "triton_vllm choices 1";
const SEAL: &str = "sha256 ";
/// More than several hundred models need; a file with more starts anew.
const ENTRIES_MAX: usize = 16_384;

/// One of this process writes at a time: ranks and models share a file.
static WRITING: Mutex<()> = Mutex::new(());

/// Where choices are kept.
#[derive(Debug)]
pub struct ChoicesFile {
    path: PathBuf,
    title: String,
}

impl ChoicesFile {
    /// In this folder, which need not be there; `title` says what choices depend on beside their
    /// keys.
    pub fn new(folder: &Path, title: &str) -> ChoicesFile {
        let title = title.replace(['\n', '\r'], " ");
        let name = hex(digest(&SHA256, title.as_bytes()).as_ref());
        ChoicesFile { path: folder.join(format!("choices-{}.txt", &name[..16])), title }
    }

    /// All that is kept. A file that is not there, is another's or is damaged holds nothing; the
    /// last two are said in the log.
    pub fn read(&self) -> Choices {
        let text = files::optional(files::read_text(&self.path, Kind::Choices));
        let parsed = text.and_then(|text| match text {
            Some(text) => self.parse(&text),
            None => Ok(Choices::new()),
        });
        parsed.unwrap_or_else(|error| {
            tracing::warn!("{error} It is ignored: what it is to hold is found out again.");
            Choices::new()
        })
    }

    /// Keep these too, in place of what was kept for the same keys.
    ///
    /// # Errors
    /// InvalidArgument: the folder cannot be made, or the file not be written; one line.
    pub fn add(&self, new: &Choices) -> Result<()> {
        let _turn = WRITING.lock();
        let mut all = self.read();
        if all.len() + new.len() > ENTRIES_MAX {
            all.clear();
        }
        all.extend(new.iter().map(|(key, &choice)| (key.clone(), choice)));
        self.write(&self.text(&all)).map_err(|e| self.wrong(&format!("cannot be written: {e}")))
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Renamed when it is whole, so nobody reads half of it.
        let new = self.path.with_extension(format!("{}.new", std::process::id()));
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.path));
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written
    }

    fn text(&self, choices: &Choices) -> String {
        let mut text = format!("{FIRST_LINE}\n{}\n", self.title);
        for (key, choice) in choices {
            let words = choice.map(|word| format!("{word:016x}")).join(" ");
            text += &format!("{key}: {words}\n");
        }
        let seal = hex(digest(&SHA256, text.as_bytes()).as_ref());
        text + SEAL + &seal + "\n"
    }

    fn parse(&self, text: &str) -> Result<Choices> {
        let (body, seal) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once(SEAL))
            .ok_or_else(|| self.wrong("is not whole."))?;
        if seal != hex(digest(&SHA256, body.as_bytes()).as_ref()) {
            return Err(self.wrong("is damaged: its SHA-256 is another."));
        }
        let mut lines = body.lines();
        if lines.next() != Some(FIRST_LINE) || lines.next() != Some(&self.title) {
            return Err(self.wrong("is another's: its first lines say what it holds."));
        }
        let choices = lines.map(entry).collect::<Option<Choices>>();
        let choices = choices.filter(|choices| choices.len() <= ENTRIES_MAX);
        choices.ok_or_else(|| self.wrong("has a line that is no choice, or too many."))
    }

    fn wrong(&self, what: &str) -> Error {
        invalid!("{} {what}", self.path.display()).on_one_line()
    }
}

fn entry(line: &str) -> Option<(String, Choice)> {
    let (key, text) = line.split_once(": ")?;
    let words = text.split(' ').map(|word| u64::from_str_radix(word, 16));
    let words = words.collect::<std::result::Result<Vec<u64>, _>>().ok()?;
    Some((key.to_string(), Choice::try_from(words).ok()?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "choices_tests.rs"]
mod tests;
