//! Checkpoint files: safetensors, one or several, mapped into memory and checked before use. Called
//! by `decoder` while it loads; dropped when the device has its copy. It never knows what a tensor
//! is for.
//!
//! Nothing in a file is believed: header length, JSON, offsets and sizes are checked against the
//! file's length (by the safetensors crate) when it is opened, dtype and shape when a tensor is
//! asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::device::{DType, HostTensor};
use crate::error::{Error, Result};
use crate::invalid;

/// Where weights come from.
pub enum LoadFormat {
    /// `auto`, `safetensors`.
    Files(Checkpoint),
    /// `dummy`: deterministic noise of the right shapes.
    Dummy,
}

/// All tensors of a checkpoint folder, by name.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Entry>,
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

impl Checkpoint {
    /// Open the files that `model.safetensors.index.json` names, else `model.safetensors`, else
    /// every other `*.safetensors` beside it. `consolidated*` (a second copy in another layout) is
    /// left out, subfolders such as `original/` are never looked at.
    ///
    /// # Errors
    /// NotFound: the folder or a file is not there. InvalidArgument: a file is truncated, its
    /// header lies, or two files hold the same tensor. The message starts with the file's path.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        let mut checkpoint =
            Checkpoint { dir: dir.to_path_buf(), files: Vec::new(), tensors: BTreeMap::new() };
        for path in files_of(dir)? {
            checkpoint.add_file(path)?;
        }
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: PathBuf) -> Result<()> {
        let shown = path.display();
        let file = File::open(&path).map_err(|e| io_error(&path, &e))?;
        let length = file.metadata().map_err(|e| io_error(&path, &e))?.len();
        if length < 8 {
            return Err(invalid!("{shown}: {length} bytes are too few for a safetensors file."));
        }
        // SAFETY: the map is read-only and private to this struct. A checkpoint that another
        // process shortens while we load would end the process; safetensors readers all share that
        // limit.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| io_error(&path, &e))?;
        let parsed = SafeTensors::deserialize(&map).map_err(|e| {
            invalid!("{shown}: not a whole safetensors file ({length} bytes): {e}.")
        })?;
        let start = map.as_ptr() as usize;
        for (name, view) in parsed.iter() {
            let offset = view.data().as_ptr() as usize - start;
            let entry = Entry {
                file: self.files.len(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: offset..offset + view.data().len(),
            };
            if let Some(old) = self.tensors.insert(name.to_string(), entry) {
                let other = self.files.get(old.file).map_or(&path, |f| &f.0).display();
                return Err(invalid!("{shown}: tensor '{name}' is also in {other}."));
            }
        }
        self.files.push((path, map));
        Ok(())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The element type of the largest tensor: what the checkpoint "is", if config.json does not
    /// say.
    pub fn stored_dtype(&self) -> Option<DType> {
        let largest = self.tensors.values().max_by_key(|e| e.bytes.len())?;
        dtype_of(largest.dtype)
    }

    /// The tensor of this name, which must have `rows` x `cols` elements (a vector: `cols` = 1).
    ///
    /// # Errors
    /// NotFound: no such tensor. InvalidArgument: another shape, or not a floating type we read.
    pub fn tensor(&self, name: &str, rows: usize, cols: usize) -> Result<HostTensor<'_>> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::NotFound(format!(
                "{}: tensor '{name}' is missing (expected shape {}).",
                self.dir.display(),
                shape_text(rows, cols)
            )));
        };
        let (path, map) = &self.files[entry.file];
        let Some(dtype) = dtype_of(entry.dtype) else {
            return Err(invalid!(
                "{}: tensor '{name}' has dtype {:?}, expected F32, F16 or BF16.",
                path.display(),
                entry.dtype
            ));
        };
        let fits = match entry.shape[..] {
            [r, c] => r == rows && c == cols,
            [n] => cols == 1 && n == rows,
            _ => false,
        };
        if !fits {
            return Err(invalid!(
                "{}: tensor '{name}' has shape {:?}, expected {}.",
                path.display(),
                entry.shape,
                shape_text(rows, cols)
            ));
        }
        Ok(HostTensor { dtype, rows, cols, bytes: &map[entry.bytes.clone()] })
    }
}

fn shape_text(rows: usize, cols: usize) -> String {
    match cols {
        1 => format!("[{rows}]"),
        _ => format!("[{rows}, {cols}]"),
    }
}

fn dtype_of(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

fn io_error(path: &Path, e: &std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound(format!("{} not found.", path.display())),
        _ => invalid!("{}: cannot be read: {e}.", path.display()),
    }
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = dir.join(INDEX);
    if index.exists() {
        return indexed_files(dir, &index);
    }
    if dir.join(SINGLE).exists() {
        return Ok(vec![dir.join(SINGLE)]);
    }
    let mut found = Vec::new();
    let mut other_format = None;
    for entry in std::fs::read_dir(dir).map_err(|e| io_error(dir, &e))? {
        let path = entry.map_err(|e| io_error(dir, &e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") && !name.starts_with("consolidated") {
            found.push(path);
        } else if name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".gguf") {
            other_format = Some(name);
        }
    }
    found.sort();
    match (found.is_empty(), other_format) {
        (false, _) => Ok(found),
        (true, Some(name)) => Err(Error::Unsupported(format!(
            "{}: no safetensors file, only '{name}'; convert the checkpoint to safetensors.",
            dir.display()
        ))),
        (true, None) => Err(Error::NotFound(format!("{}: no {SINGLE} or {INDEX}.", dir.display()))),
    }
}

/// The distinct files of an index, which must be plain names in the same folder.
fn indexed_files(dir: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let shown = index.display();
    let text = std::fs::read(index).map_err(|e| io_error(index, &e))?;
    let json: Value =
        serde_json::from_slice(&text).map_err(|e| invalid!("{shown}: not valid JSON: {e}."))?;
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        return Err(invalid!("{shown}: 'weight_map' must be an object."));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let plain = file.as_str().filter(|f| !f.is_empty() && !f.contains('/') && *f != "..");
        let Some(file) = plain else {
            return Err(invalid!("{shown}: the file of tensor '{tensor}' is not a name: {file}."));
        };
        names.insert(file.to_string());
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}
