//! The files of a GGUF model: one, or shards that belong together, opened and their headers read.
//! What its keys mean and what its tensors become is known to `config`, `tokenizer` and `tensors`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::{Header, Stored};
use super::tensor::{Order, Tensor};
use super::value::Keys;
use crate::error::{Error, Result};
use crate::files::{Kind, Progress};
use crate::invalid;
use crate::json::cut;
use crate::model::checkpoint::Shard;

/// Files of a model at most.
const SHARDS_MAX: usize = 10_000;
/// Elements of a tensor that is read for the configuration: factors of a rope.
const FACTORS_MAX: usize = 1 << 16;

/// A GGUF model's files.
pub struct Gguf {
    path: PathBuf,
    /// Of the first file.
    pub(super) keys: Keys,
    pub(super) shards: Vec<Arc<Shard>>,
    /// By their names: which file, and where in it.
    by_name: BTreeMap<String, (usize, Stored)>,
}

impl Gguf {
    /// Open the file and, if its name ends in `-00001-of-0000n.gguf`, all that belong to it.
    ///
    /// # Errors
    /// NotFound: a file is not there. InvalidArgument: a header lies, or files do not belong
    /// together. Unsupported: a version or a type that is not read. One line that begins with the
    /// file's path.
    pub fn open(path: &Path, progress: &Arc<Progress>) -> Result<Gguf> {
        Gguf::open_all(path, progress).map_err(Error::on_one_line)
    }

    fn open_all(path: &Path, progress: &Arc<Progress>) -> Result<Gguf> {
        let paths = shards_of(path)?;
        let mut gguf = Gguf {
            path: paths.first().cloned().unwrap_or_else(|| path.to_path_buf()),
            keys: Keys::default(),
            shards: Vec::new(),
            by_name: BTreeMap::new(),
        };
        let mut said = None;
        for (n, path) in paths.iter().enumerate() {
            let at = |e: Error| e.context(&format!("{}: ", path.display()));
            let shard = Shard::open_as(path.clone(), Kind::Gguf, progress)?;
            let header = Header::read(&shard.bytes()).map_err(|e| match shard.unchanged() {
                Ok(()) => at(e),
                Err(changed) => changed,
            })?;
            judge_split(&header.keys, n, paths.len()).map_err(at)?;
            for stored in header.tensors {
                let name = stored.name.clone();
                if gguf.by_name.insert(name, (n, stored.clone())).is_some() {
                    let name = cut(&stored.name);
                    return Err(at(invalid!("tensor '{name}' is also in another of its files.")));
                }
            }
            if n == 0 {
                said = header.keys.count("split.tensors.count").map_err(at)?;
                gguf.keys = header.keys;
            }
            gguf.shards.push(Arc::new(shard));
        }

        let found = gguf.by_name.len() as u64;
        match said.filter(|&said| said != found && paths.len() > 1) {
            Some(said) => Err(invalid!(
                "{}: 'split.tensors.count' is {said}, and its {} files hold {found} tensors.",
                path.display(),
                paths.len()
            )),
            None => Ok(gguf),
        }
    }

    /// The first file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same error with the path in front.
    pub(super) fn at(&self, error: Error) -> Error {
        error.context(&format!("{}: ", self.path.display())).on_one_line()
    }

    /// Of all files.
    pub(super) fn stored(&self) -> impl Iterator<Item = (usize, &Stored)> {
        self.by_name.values().map(|(shard, stored)| (*shard, stored))
    }

    /// The tensor of a name of GGUF's.
    pub(super) fn find(&self, name: &str) -> Option<&Stored> {
        self.by_name.get(name).map(|(_, stored)| stored)
    }

    /// The values of a small tensor.
    ///
    /// # Errors
    /// InvalidArgument: it is not small. The file cannot be read.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some((shard, stored)) = self.by_name.get(name) else { return Ok(None) };
        let count = stored.rows * stored.cols;
        if count > FACTORS_MAX {
            let most = FACTORS_MAX;
            return Err(invalid!("tensor '{name}' has {count} elements, at most {most} are read."));
        }
        let Some(shard) = self.shards.get(*shard) else { return Ok(None) };
        let (stored, shard) = (stored.clone(), Arc::clone(shard));
        let tensor = Tensor { stored, shard, order: Order::AsStored, less: 0.0 };
        tensor.floats().map(Some)
    }
}

/// Files of a split model say which of how many they are.
fn judge_split(keys: &Keys, n: usize, files: usize) -> Result<()> {
    let count = keys.count("split.count")?.filter(|&count| count > 0);
    if let Some(count) = count.filter(|&count| count != files as u64) {
        return Err(invalid!(
            "'split.count' is {count}, and by its name it is one of {files}: files of a split \
             model end in -00001-of-{count:05}.gguf."
        ));
    }
    match keys.count("split.no")?.filter(|&no| no != n as u64) {
        Some(no) => Err(invalid!("'split.no' is {no}, and by its name it is number {n}.")),
        None => Ok(()),
    }
}

/// The file itself, or all files of the model of which its name says that it is one.
fn shards_of(path: &Path) -> Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((stem, _, count)) = split_name(&name) else { return Ok(vec![path.to_path_buf()]) };
    if count > SHARDS_MAX {
        return Err(invalid!(
            "{}: by its name one of {count} files, at most {SHARDS_MAX} are read.",
            path.display()
        ));
    }
    let nth = |n: usize| path.with_file_name(format!("{stem}-{n:05}-of-{count:05}.gguf"));
    Ok((1..=count).map(nth).collect())
}

/// `stem-00002-of-00003.gguf`: the stem, 2 and 3.
pub(super) fn split_name(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| {
        let plain = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    let (number, count) = (digits(number)?, digits(count)?);
    (1..=count).contains(&number).then_some((stem, number, count))
}
