//! `pytorch_model.bin`: what `torch.save` writes since 1.6, a zip archive of one pickle and the
//! bytes of each storage. Called by `checkpoint`, of whose file it reads directory and pickle only.
//! It never runs anything: [`pickle`] can build tensors and nothing else, [`zip`] reads stored
//! entries only.

mod pickle;
mod zip;

use std::ops::Range;

use safetensors::Dtype;

use crate::device::Bytes;
use crate::error::Result;
use crate::invalid;
use pickle::Tensor;
use zip::Archive;

/// A tensor and where it lies in the file.
pub struct Located {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Rows one after the other, as everything that reads a checkpoint expects. If not (a saved
    /// transpose), `bytes` is empty.
    pub contiguous: bool,
    /// In the file.
    pub bytes: Range<usize>,
}

/// Names and shapes of tensors: a hundred bytes each.
const PICKLE_BYTES_MAX: usize = 128 << 20;

/// All tensors of a file.
///
/// # Errors
/// InvalidArgument, one line without the path: not such a file, truncated, a pickle that asks for
/// anything but tensors, or a tensor that reaches beyond its storage.
pub fn tensors(file: &Bytes) -> Result<Vec<Located>> {
    let archive = Archive::open(file)?;
    let Some((pickle_name, pickle)) = archive.single("/data.pkl") else {
        return Err(invalid!("the zip archive holds no data.pkl, so it is no PyTorch checkpoint."));
    };
    let root = pickle_name.strip_suffix("data.pkl").unwrap_or_default().to_string();
    if let Some(order) = archive.get(&format!("{root}byteorder")) {
        // The longer of two words is enough to tell them apart.
        let word = file.slice(order.start..order.end.min(order.start + 8)).load()?;
        if word[..] != b"little"[..] {
            return Err(invalid!("the checkpoint was saved on a big-endian machine."));
        }
    }
    if pickle.len() > PICKLE_BYTES_MAX {
        let bytes = pickle.len();
        return Err(invalid!("data.pkl has {bytes} bytes, at most {PICKLE_BYTES_MAX} are read."));
    }
    let pickle = file.slice(pickle).load()?;
    let read = pickle::read(&pickle).map_err(|e| e.context("data.pkl: "))?;
    read.into_iter().map(|(name, tensor)| locate(&archive, &root, name, &tensor)).collect()
}

fn locate(archive: &Archive, root: &str, name: &str, tensor: &Tensor) -> Result<Located> {
    let storage = &tensor.storage;
    let Some(whole) = archive.get(&format!("{root}data/{}", storage.key)) else {
        return Err(invalid!("tensor '{name}': its storage '{}' is not in the file.", storage.key));
    };
    let size = storage.element_bytes() as u64;
    let says = storage.elements.checked_mul(size);
    if says != Some(whole.len() as u64) {
        return Err(invalid!(
            "tensor '{name}': storage '{}' has {} bytes, expected {} elements of {size}.",
            storage.key,
            whole.len(),
            storage.elements
        ));
    }
    let beyond = || {
        invalid!(
            "tensor '{name}': shape {:?}, strides {:?} and offset {} reach beyond its storage of \
             {} elements.",
            tensor.shape,
            tensor.strides,
            tensor.offset,
            storage.elements
        )
    };
    // One past the last element that any index reaches; a tensor without elements reaches none.
    let end = tensor.end().filter(|&end| end <= storage.elements).ok_or_else(beyond)?;
    let contiguous = tensor.is_contiguous();
    let bytes = if contiguous && !tensor.is_empty() {
        let at = |element: u64| whole.start + (element * size) as usize;
        at(tensor.offset)..at(end)
    } else {
        whole.start..whole.start
    };
    let shape = tensor.shape.iter().map(|&n| n as usize).collect();
    Ok(Located { name: name.to_string(), dtype: storage.dtype, shape, contiguous, bytes })
}

#[cfg(test)]
mod tests;
