//! Checkpoint files: safetensors or `pytorch_model.bin`, one or several, checked before use and
//! read by whoever needs a tensor's bytes. Called by `decoder` while it loads; dropped when the
//! device has its copy. It never knows what a tensor is for.
//!
//! Nothing in a file is believed: header length, JSON, offsets and sizes are checked against the
//! file's length (by the safetensors crate and by `torch`) when it is opened, dtype and
//! shape when a tensor is asked for; and that it is still the same file, when all was read.

mod index;
mod raw;
mod shard;
mod torch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::Dtype;

use super::foreign_formats::other_format;
use super::gguf::Tensors;
use super::mistral;
use crate::device::{Bytes, DType, HostTensor, QuantForm, QuantPart};
use crate::error::{Error, Result};
use crate::files::Progress;
use crate::invalid;
pub(super) use index::indexed_files;
pub use raw::{RawTensor, StoredType};
pub(super) use shard::Shard;

/// Where weights come from.
pub enum WeightSource {
    /// `auto`, `safetensors`, `pt`.
    Files(Checkpoint),
    /// `dummy`: deterministic noise of the right shapes.
    Dummy,
}

/// All tensors of a checkpoint folder, by name.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<Arc<Shard>>,
    tensors: BTreeMap<String, Entry>,
    /// Instead of all that.
    gguf: Option<Tensors>,
    /// Rope turns neighbours of a head, whatever the family says.
    turns_neighbours: bool,
}

#[derive(Clone)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// False: the elements lie in another order (a saved transpose), `bytes` is empty.
    contiguous: bool,
    bytes: Range<usize>,
}

/// Which files of a folder count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Mistral's own if there are any with its configuration, else as `HuggingFace`.
    Any,
    /// safetensors if there are any, else PyTorch's.
    HuggingFace,
    /// `consolidated*.safetensors`, in Mistral's own format.
    Mistral,
    /// `*.safetensors` only.
    Safetensors,
    /// `pytorch_model.bin` only.
    Torch,
    /// GGUF only, which is no checkpoint of a folder's.
    Gguf,
    /// An adapter's, which is no checkpoint of its own.
    Adapter,
}

/// As the safetensors crate has it.
const HEADER_BYTES_MAX: u64 = 100_000_000;

pub(super) const ADAPTER_FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";
const TORCH_SINGLE: &str = "pytorch_model.bin";

impl Checkpoint {
    /// Open the files that `model.safetensors.index.json` names, else `model.safetensors`, else
    /// every other `*.safetensors` beside it, else `pytorch_model.bin` with or without an index. A
    /// folder in Mistral's own format goes before that; `consolidated*` in other folders is left
    /// out, subfolders such as `original/` are never looked at.
    ///
    /// # Errors
    /// NotFound: the folder or a file is not there. InvalidArgument: a file is truncated, its
    /// header lies, its pickle asks for more than tensors, or two files hold the same tensor. The
    /// message starts with the file's path.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        Checkpoint::open_only(dir, Files::Any)
    }

    /// The same with files of one format only.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_only(dir: &Path, files: Files) -> Result<Checkpoint> {
        Checkpoint::open_counted(dir, files, &Arc::default())
    }

    /// The same where `progress` counts each read of the files, and may call them off.
    ///
    /// # Errors
    /// As `open`; Cancelled.
    pub fn open_counted(dir: &Path, files: Files, progress: &Arc<Progress>) -> Result<Checkpoint> {
        let own = match files {
            Files::Any => mistral::is_own_folder(dir),
            other => other == Files::Mistral,
        };
        if own {
            return Checkpoint::of_mistral(dir, progress).map_err(Error::on_one_line);
        }
        let paths = files_of(dir, files).map_err(Error::on_one_line)?;
        Checkpoint::of_files(dir, paths, progress).map_err(Error::on_one_line)
    }

    /// Mistral's own files, by Hugging Face's names.
    fn of_mistral(dir: &Path, progress: &Arc<Progress>) -> Result<Checkpoint> {
        let paths = mistral_files(dir)?;
        let mut checkpoint = Checkpoint::of_files(dir, paths, progress)?;
        let tensors = std::mem::take(&mut checkpoint.tensors).into_iter();
        checkpoint.tensors =
            tensors.map(|(name, entry)| (mistral::name_of(&name), entry)).collect();
        checkpoint.turns_neighbours = true;
        Ok(checkpoint)
    }

    fn of_files(dir: &Path, paths: Vec<PathBuf>, progress: &Arc<Progress>) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::without_files(dir);
        for path in paths {
            checkpoint.add_file(Shard::open(path, progress)?)?;
        }
        Ok(checkpoint)
    }

    /// The tensors of a GGUF model.
    pub fn of_gguf(tensors: Tensors) -> Checkpoint {
        Checkpoint { gguf: Some(tensors), ..Checkpoint::without_files(Path::new("")) }
    }

    fn without_files(dir: &Path) -> Checkpoint {
        let dir = dir.to_path_buf();
        Checkpoint {
            dir,
            files: Vec::new(),
            tensors: BTreeMap::new(),
            gguf: None,
            turns_neighbours: false,
        }
    }

    /// Whether the files are still those that were opened, so that what was read of them is of one
    /// piece. To be asked after the last read.
    ///
    /// # Errors
    /// InvalidArgument: one was written to, shortened or replaced.
    pub fn unchanged(&self) -> Result<()> {
        let files = self.files.iter().try_for_each(|file| file.unchanged());
        let gguf = self.gguf.as_ref().map_or(Ok(()), Tensors::unchanged);
        files.and(gguf).map_err(Error::on_one_line)
    }

    /// The tensors of a PEFT folder: `adapter_model.safetensors`, else `adapter_model.bin`.
    ///
    /// # Errors
    /// As `open`.
    pub fn adapter(dir: &Path) -> Result<Checkpoint> {
        let path = ADAPTER_FILES.iter().map(|name| dir.join(name)).find(|path| path.exists());
        let [one, other] = ADAPTER_FILES;
        let path = path.ok_or_else(|| {
            Error::NotFound(format!("{}: neither {one} nor {other}.", dir.display()))
        })?;
        Checkpoint::of_files(dir, vec![path], &Arc::default()).map_err(Error::on_one_line)
    }

    fn add_file(&mut self, shard: Shard) -> Result<()> {
        let shown = shard.path().display();
        let bytes = shard.bytes();
        if bytes.len() < 8 {
            let length = bytes.len();
            return Err(invalid!("{shown}: {length} bytes are too few for a checkpoint."));
        }
        let entries = if shard.path().extension().is_some_and(|e| e == "safetensors") {
            safetensors_entries(&bytes, self.files.len())
        } else {
            torch_entries(&bytes, self.files.len())
        };
        // A file that is being written makes no sense for a reason that is worth more than how.
        let entries = entries.map_err(|e| match shard.unchanged() {
            Ok(()) => e.context(&format!("{shown}: ")),
            Err(changed) => changed,
        })?;
        for (name, entry) in entries {
            if let Some(old) = self.tensors.get(&name) {
                let other =
                    self.files.get(old.file).map_or(&shard, |file| &**file).path().display();
                return Err(invalid!("{shown}: tensor '{name}' is also in {other}."));
            }
            self.tensors.insert(name, entry);
        }
        self.files.push(Arc::new(shard));
        Ok(())
    }

    /// The same tensors by other names; without those for which there is none.
    pub fn renamed(mut self, rename: impl Fn(&str) -> Option<String>) -> Checkpoint {
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors.filter_map(|(name, entry)| Some((rename(&name)?, entry))).collect();
        self
    }

    /// Another view of the same files, without what GGUF holds.
    pub fn shared(&self) -> Checkpoint {
        Checkpoint {
            files: self.files.clone(),
            tensors: self.tensors.clone(),
            turns_neighbours: self.turns_neighbours,
            ..Checkpoint::without_files(&self.dir)
        }
    }

    /// Also have a tensor of another checkpoint, by a name that is free. False: it has none such.
    pub fn borrow(&mut self, other: &Checkpoint, name: &str, here: &str) -> bool {
        let Some(entry) = other.tensors.get(name) else { return false };
        let file = self.files.len();
        self.files.push(Arc::clone(&other.files[entry.file]));
        self.tensors.entry(here.into()).or_insert(Entry { file, ..entry.clone() });
        true
    }

    /// Whether both checkpoints have such a tensor, of the same type, shape and bytes.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn same_tensor(&self, name: &str, other: &Checkpoint, other_name: &str) -> Result<bool> {
        let both = (self.tensors.get(name), other.tensors.get(other_name));
        let (Some(ours), Some(theirs)) = both else { return Ok(false) };
        let (file, other_file) = (&self.files[ours.file], &other.files[theirs.file]);
        let form = |entry: &Entry| (entry.dtype, entry.contiguous, entry.shape.clone());
        if form(ours) != form(theirs) || !ours.contiguous {
            return Ok(false);
        }
        if Arc::ptr_eq(file, other_file) && ours.bytes == theirs.bytes {
            return Ok(true);
        }
        let ours = file.bytes().slice(ours.bytes.clone());
        ours.equal(&other_file.bytes().slice(theirs.bytes.clone()))
    }

    /// Of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let gguf = self.gguf.iter().flat_map(Tensors::names);
        self.tensors.keys().map(String::as_str).chain(gguf)
    }

    /// Whether rope turns dimensions 2i and 2i + 1 of a head together, whatever the family says.
    pub fn turns_neighbours(&self) -> bool {
        self.turns_neighbours
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        let in_gguf = self.gguf.as_ref().is_some_and(|gguf| gguf.contains(name));
        in_gguf || self.tensors.contains_key(name)
    }

    /// The element type of the largest tensor: what the checkpoint "is", if config.json does not
    /// say.
    pub fn stored_dtype(&self) -> Option<DType> {
        if let Some(gguf) = &self.gguf {
            return gguf.stored_dtype();
        }
        let largest = self.tensors.values().max_by_key(|e| e.bytes.len())?;
        StoredType::of(largest.dtype)?.plain()
    }

    /// The element type of a tensor, if there is one of this name and of a type that is read.
    pub fn type_of(&self, name: &str) -> Option<StoredType> {
        StoredType::of(self.tensors.get(name)?.dtype)
    }

    /// The shape of a tensor, if there is one of this name.
    pub fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| &entry.shape[..])
    }

    /// The tensor of this name, which must have `rows` x `cols` elements (a vector: `cols` = 1).
    ///
    /// # Errors
    /// NotFound: no such tensor. InvalidArgument: another shape, or not a floating type we read.
    pub fn tensor(&self, name: &str, rows: usize, cols: usize) -> Result<HostTensor<'_>> {
        if let Some(gguf) = &self.gguf {
            return gguf.tensor(name, rows, cols).map_err(Error::on_one_line);
        }
        let shape = if cols == 1 { &[rows][..] } else { &[rows, cols] };
        self.shaped(name, shape, &[rows, cols])
    }

    /// Tensors that are stacked along the outputs, as codes of one form, if the files hold codes
    /// that need no scheme to be read: GGUF's. The rows of each are its `outputs`.
    ///
    /// # Errors
    /// As `tensor`; the file cannot be read.
    pub fn codes(
        &self,
        names: &[String],
        outputs: &[usize],
        inputs: usize,
    ) -> Result<Option<(QuantForm, Vec<QuantPart<'_>>)>> {
        let Some(gguf) = &self.gguf else { return Ok(None) };
        gguf.codes(names, outputs, inputs).map_err(Error::on_one_line)
    }

    /// The form that `codes` would give them.
    pub fn code_form(&self, names: &[String]) -> Option<QuantForm> {
        self.gguf.as_ref()?.code_form(names)
    }

    /// `count` matrices of `rows` x `cols` in one tensor, as one that is `count * rows` x `cols`.
    ///
    /// # Errors
    /// As `tensor`.
    pub fn stack(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<HostTensor<'_>> {
        let shape = [count, rows, cols];
        self.shaped(name, &shape, &shape)
    }

    /// A convolution's kernel of this shape, as a row for each output.
    ///
    /// # Errors
    /// As `tensor`.
    pub fn convolution(&self, name: &str, shape: &[usize]) -> Result<HostTensor<'_>> {
        let outputs = shape.first().copied().unwrap_or(0);
        let inputs = shape.iter().skip(1).product();
        self.shaped(name, shape, &[outputs, inputs])
    }

    /// The tensor of this name as it is stored, of one of these types and shapes.
    ///
    /// # Errors
    /// NotFound: no such tensor. InvalidArgument: another type or shape, or stored with gaps.
    pub fn raw(
        &self,
        name: &str,
        types: &[StoredType],
        shapes: &[&[usize]],
    ) -> Result<RawTensor<'_>> {
        let expected = || alternatives(shapes.iter().map(|shape| format!("{shape:?}")).collect());
        let Some((name, entry)) = self.tensors.get_key_value(name) else {
            return Err(Error::NotFound(format!(
                "{}: tensor '{name}' is missing (expected shape {}).",
                self.dir.display(),
                expected()
            )));
        };

        let shard = &self.files[entry.file];
        let file = shard.path();
        let Some(dtype) = StoredType::of(entry.dtype).filter(|dtype| types.contains(dtype)) else {
            return Err(invalid!(
                "{}: tensor '{name}' has dtype {:?}, expected {}.",
                file.display(),
                entry.dtype,
                alternatives(types.iter().map(StoredType::to_string).collect())
            ));
        };
        if !entry.contiguous {
            return Err(invalid!(
                "{}: tensor '{name}' is stored transposed or with gaps: save it with \
                 .contiguous().",
                file.display()
            ));
        }
        if !shapes.contains(&&entry.shape[..]) {
            return Err(invalid!(
                "{}: tensor '{name}' has shape {:?}, expected {}.",
                file.display(),
                entry.shape,
                expected()
            ));
        }
        let bytes = shard.bytes().slice(entry.bytes.clone());
        Ok(RawTensor { dtype, shape: &entry.shape, bytes, name, file })
    }

    /// A plain tensor if it has one of two shapes, with all dimensions but the last in one.
    fn shaped(&self, name: &str, shape: &[usize], or: &[usize]) -> Result<HostTensor<'_>> {
        let shapes = if shape == or { &[shape][..] } else { &[shape, or] };
        let raw = self.raw(name, &StoredType::PLAIN, shapes)?;
        let dtype = raw.dtype.plain().ok_or_else(|| raw.wrong("is of no plain type"))?;
        let cols = or.last().copied().unwrap_or(1);
        let rows = or.iter().product::<usize>() / cols.max(1);
        Ok(HostTensor { dtype, rows, cols, bytes: raw.bytes })
    }
}

/// `a`, `a or b`, `a, b or c`.
fn alternatives(mut of: Vec<String>) -> String {
    match (of.pop(), of.is_empty()) {
        (None, _) => String::new(),
        (Some(last), true) => last,
        (Some(last), false) => format!("{} or {last}", of.join(", ")),
    }
}

/// The header is the length of a JSON text in 8 bytes, and that text. `Metadata` checks that the
/// tensors lie behind each other without gaps, with as many bytes as their shapes say.
fn safetensors_entries(bytes: &Bytes, file: usize) -> Result<Vec<(String, Entry)>> {
    let total = bytes.len() as u64;
    let wrong =
        |why: &dyn Display| invalid!("not a whole safetensors file ({total} bytes): {why}.");
    let mut length = [0; 8];
    bytes.read(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX || length > total - 8 {
        return Err(wrong(&format!("its header has {length} bytes")));
    }

    let start = 8 + length as usize;
    let header = bytes.slice(8..start).load()?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(&e))?;
    let end = (header.data_len() as u64).saturating_add(start as u64);
    if end != total {
        let cut =
            if end > total { "; a copy or download was cut short: fetch it again" } else { "" };
        return Err(wrong(&format!("its header is of a file of {end} bytes{cut}")));
    }

    let entry = |(name, info): (String, &TensorInfo)| {
        let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
        let dtype = info.dtype;
        let shape = info.shape.clone();
        (name, Entry { file, dtype, shape, contiguous: true, bytes })
    };
    Ok(header.tensors().into_iter().map(entry).collect())
}

fn torch_entries(bytes: &Bytes, file: usize) -> Result<Vec<(String, Entry)>> {
    let entry = |t: torch::Located| {
        let torch::Located { name, dtype, shape, contiguous, bytes } = t;
        (name, Entry { file, dtype, shape, contiguous, bytes })
    };
    Ok(torch::tensors(bytes)?.into_iter().map(entry).collect())
}

fn io_error(path: &Path, e: &std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound(format!("{} not found.", path.display())),
        _ => invalid!("{}: cannot be read: {e}.", path.display()),
    }
}

fn files_of(dir: &Path, files: Files) -> Result<Vec<PathBuf>> {
    let pairs = [(INDEX, SINGLE), (TORCH_INDEX, TORCH_SINGLE)];
    let mut found = Vec::new();
    let mut others = BTreeSet::new();
    for (n, (index, single)) in pairs.into_iter().enumerate() {
        let own = if n == 0 { Files::Safetensors } else { Files::Torch };
        let wanted = matches!(files, Files::Any | Files::HuggingFace) || files == own;
        if !wanted {
            continue;
        }

        let index = dir.join(index);
        if index.exists() {
            return indexed_files(dir, &index);
        }
        if dir.join(single).exists() {
            return Ok(vec![dir.join(single)]);
        }

        for entry in std::fs::read_dir(dir).map_err(|e| io_error(dir, &e))? {
            let path = entry.map_err(|e| io_error(dir, &e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if n == 0 && name.ends_with(".safetensors") && !name.starts_with("consolidated") {
                found.push(path);
            } else {
                others.insert(name);
            }
        }
        if !found.is_empty() {
            found.sort();
            return Ok(found);
        }
    }

    let shown = dir.display();
    let pickled = |name: &&String| [".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end));
    Err(match (other_format(others.iter().map(String::as_str)), others.iter().find(pickled)) {
        (Some(format), _) => Error::Unsupported(format!(
            "{shown}: no safetensors file and no {TORCH_SINGLE}: {format}."
        )),
        (None, Some(name)) => Error::Unsupported(format!(
            "{shown}: no safetensors file and no {TORCH_SINGLE}, only '{name}'; convert the \
             checkpoint to safetensors."
        )),
        (None, None) => Error::NotFound(format!(
            "{shown}: no {SINGLE} or {INDEX}, no {TORCH_SINGLE} or {TORCH_INDEX}."
        )),
    })
}

fn mistral_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = dir.join(mistral::INDEX);
    if index.exists() {
        return indexed_files(dir, &index);
    }
    let entries = std::fs::read_dir(dir).map_err(|e| io_error(dir, &e))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found: Vec<PathBuf> = paths.filter(|path| mistral::is_weights(&name(path))).collect();
    found.sort();
    if found.is_empty() {
        let shown = dir.display();
        return Err(Error::NotFound(format!("{shown}: no consolidated*.safetensors.")));
    }
    Ok(found)
}
