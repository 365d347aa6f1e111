//! The beginning of a GGUF file: its keys, and where each tensor lies. Nothing in it is believed:
//! every length is held against what is left of the file before anything is kept, every tensor
//! against the end of the file. Called by `files`; it knows no architecture.

use std::collections::{BTreeMap, BTreeSet};

use super::block_types::{self, BlockType};
use super::value::{kind, width, Array, Keys, Value};
use crate::device::Bytes;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::cut;

/// Keys, names and places of tensors: the largest published ones stay below a tenth.
const HEADER_BYTES_MAX: u64 = 256 << 20;
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 20;
/// Of a key or a tensor.
const NAME_BYTES_MAX: u64 = 1 << 10;
const DIMENSIONS_MAX: u32 = 4;
/// Arrays in arrays.
const DEPTH_MAX: usize = 4;
const ALIGNMENT: &str = "general.alignment";
const ALIGNMENT_MAX: u64 = 1 << 20;
const CHUNK_BYTES: usize = 1 << 20;

/// What a file says of itself.
pub(super) struct Header {
    pub keys: Keys,
    pub tensors: Vec<Stored>,
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub name: String,
    pub kind: &'static BlockType,
    /// All dimensions but the last in one.
    pub rows: usize,
    /// Elements of a row: whole blocks.
    pub cols: usize,
    /// As a checkpoint of Hugging Face's has them: the one that lies together comes last.
    pub shape: Vec<usize>,
    /// From the beginning of the file.
    pub at: u64,
}

impl Stored {
    /// Of a row.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.kind.elements * self.kind.bytes
    }

    /// Of all of it.
    pub fn bytes(&self) -> usize {
        self.rows * self.row_bytes()
    }
}

impl Header {
    /// # Errors
    /// InvalidArgument: no GGUF file, or one that contradicts itself. Unsupported: another version
    /// of the format, a type of tensors that is not read. One line without the path.
    pub fn read(file: &Bytes) -> Result<Header> {
        let mut from = Cursor::new(file);
        let magic: [u8; 4] = from.array("the file's type")?;
        if magic != *b"GGUF" {
            return Err(invalid!("it does not begin with 'GGUF', so it is no GGUF file."));
        }
        let version = from.u32("the version")?;
        if !matches!(version, 2 | 3) {
            let order = if version.swap_bytes() < 16 { " (of another byte order)" } else { "" };
            return Err(Error::Unsupported(format!(
                "it is of version {version}{order} of GGUF; versions 2 and 3 are read: convert the \
                 model again."
            )));
        }

        let tensors = from.counted("tensors", TENSORS_MAX, 24)?;
        let keys = from.counted("keys", KEYS_MAX, 13)?;
        let keys = Keys(read_keys(&mut from, keys)?);
        let alignment = alignment(&keys)?;
        let mut listed = Vec::new();
        for _ in 0..tensors {
            listed.push(Listed::read(&mut from)?);
        }

        let data = from.position().next_multiple_of(alignment);
        let tensors = place(listed, data, alignment, file.len() as u64)?;
        Ok(Header { keys, tensors })
    }
}

fn read_keys(from: &mut Cursor, count: u64) -> Result<BTreeMap<String, Value>> {
    let mut keys = BTreeMap::new();
    for _ in 0..count {
        let name = from.name("a key")?;
        let what = format!("key '{}'", cut(&name));
        let kind = from.u32(&what)?;
        let value = from.value(kind, &what)?;
        if keys.insert(name, value).is_some() {
            return Err(invalid!("{what} is there twice."));
        }
    }
    Ok(keys)
}

fn alignment(keys: &Keys) -> Result<u64> {
    let alignment = keys.count(ALIGNMENT)?.unwrap_or(32);
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        return Err(invalid!(
            "'{ALIGNMENT}' must be a power of two up to {ALIGNMENT_MAX}, got {alignment}."
        ));
    }
    Ok(alignment)
}

/// A tensor as it is listed, not yet held against the file.
struct Listed {
    name: String,
    /// The first lies together.
    dimensions: Vec<u64>,
    kind: &'static BlockType,
    offset: u64,
}

impl Listed {
    fn read(from: &mut Cursor) -> Result<Listed> {
        let name = from.name("a tensor")?;
        let what = format!("tensor '{}'", cut(&name));
        let count = from.u32(&what)?;
        if !(1..=DIMENSIONS_MAX).contains(&count) {
            return Err(invalid!("{what} has {count} dimensions, expected 1 to {DIMENSIONS_MAX}."));
        }
        let mut dimensions = Vec::new();
        for _ in 0..count {
            dimensions.push(from.u64(&what)?);
        }
        let kind = block_types::find(from.u32(&what)?, &name)?;
        Ok(Listed { name, dimensions, kind, offset: from.u64(&what)? })
    }

    /// Bytes of its data.
    ///
    /// # Errors
    /// Dimensions that are none, or a row of broken blocks.
    fn bytes(&self) -> Result<u64> {
        let what = format!("tensor '{}' of {:?}", cut(&self.name), self.dimensions);
        let cols = self.dimensions.first().copied().unwrap_or(0);
        let BlockType { name, elements, bytes, .. } = *self.kind;
        if self.dimensions.contains(&0) {
            return Err(invalid!("{what} has no elements."));
        }
        if !cols.is_multiple_of(elements as u64) {
            return Err(invalid!("{what}: rows of {name} must be multiples of {elements}."));
        }
        let all = self.dimensions.iter().try_fold(1u64, |all, &n| all.checked_mul(n));
        let all = all.and_then(|all| (all / elements as u64).checked_mul(bytes as u64));
        all.ok_or_else(|| invalid!("{what} is larger than any file."))
    }
}

/// Hold each tensor against the file and the others.
fn place(listed: Vec<Listed>, data: u64, alignment: u64, end: u64) -> Result<Vec<Stored>> {
    let mut names = BTreeSet::new();
    let mut tensors = Vec::new();
    for tensor in &listed {
        let what = || format!("tensor '{}'", cut(&tensor.name));
        if !names.insert(tensor.name.as_str()) {
            return Err(invalid!("{} is there twice.", what()));
        }
        let bytes = tensor.bytes()?;
        let offset = tensor.offset;
        if !offset.is_multiple_of(alignment) {
            return Err(invalid!("{} begins at {offset}, no multiple of {alignment}.", what()));
        }
        let at = data.checked_add(offset);
        let until = at.and_then(|at| at.checked_add(bytes));
        let (Some(at), Some(_)) = (at, until.filter(|&until| until <= end)) else {
            return Err(invalid!(
                "{} has {bytes} bytes from {offset} on behind the header of {data}, and the file \
                 ends at {end}: a copy or download was cut short; fetch it again.",
                what()
            ));
        };

        let shape: Vec<usize> = tensor.dimensions.iter().rev().map(|&n| n as usize).collect();
        let cols = tensor.dimensions.first().map_or(1, |&n| n as usize);
        let rows = shape.iter().product::<usize>() / cols.max(1);
        let (name, kind) = (tensor.name.clone(), tensor.kind);
        tensors.push(Stored { name, kind, rows, cols, shape, at });
    }

    let mut by_place: Vec<&Stored> = tensors.iter().collect();
    by_place.sort_by_key(|tensor| tensor.at);
    for pair in by_place.windows(2) {
        if let [first, second] = pair {
            if first.at + first.bytes() as u64 > second.at {
                let (first, second) = (cut(&first.name), cut(&second.name));
                return Err(invalid!("tensors '{first}' and '{second}' lie over each other."));
            }
        }
    }
    Ok(tensors)
}

/// Reads from the beginning on, some of the file at a time.
struct Cursor<'a> {
    file: &'a Bytes<'a>,
    /// What was read of it but not yet taken.
    buffer: Vec<u8>,
    next: usize,
    /// Of the file, behind the buffer.
    end: u64,
}

impl<'a> Cursor<'a> {
    fn new(file: &'a Bytes<'a>) -> Cursor<'a> {
        Cursor { file, buffer: Vec::new(), next: 0, end: 0 }
    }

    /// Bytes that were taken.
    fn position(&self) -> u64 {
        self.end - (self.buffer.len() - self.next) as u64
    }

    /// Bytes that may still be taken.
    fn left(&self) -> u64 {
        (self.file.len() as u64).min(HEADER_BYTES_MAX).saturating_sub(self.position())
    }

    /// # Errors
    /// There are not so many left.
    fn needs(&self, bytes: u64, what: &str) -> Result<()> {
        let at = self.position();
        if bytes <= self.left() {
            return Ok(());
        }
        if at.saturating_add(bytes) <= self.file.len() as u64 {
            return Err(invalid!(
                "{what} takes {bytes} bytes from byte {at} on, and at most {HEADER_BYTES_MAX} are \
                 read of a file's keys and names."
            ));
        }
        Err(invalid!(
            "{what} takes {bytes} bytes from byte {at} on, and the file ends at {}: a copy or \
             download was cut short, or it is no whole GGUF file.",
            self.file.len()
        ))
    }

    fn take(&mut self, bytes: u64, what: &str) -> Result<&[u8]> {
        self.needs(bytes, what)?;
        let wanted = bytes as usize;
        if self.buffer.len() - self.next < wanted {
            self.buffer.drain(..self.next);
            self.next = 0;
            let have = self.buffer.len();
            let more = (wanted - have).max(CHUNK_BYTES);
            let more = more.min(self.file.len() - self.end as usize);
            self.buffer.resize(have + more, 0);
            self.file.read(self.end as usize, &mut self.buffer[have..])?;
            self.end += more as u64;
        }
        let taken = self.next..self.next + wanted;
        self.next = taken.end;
        Ok(&self.buffer[taken])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// How many things follow, each of `least` bytes at least.
    fn counted(&mut self, what: &str, most: u64, least: u64) -> Result<u64> {
        let count = self.u64(what)?;
        if count > most {
            return Err(invalid!("it says that it has {count} {what}, at most {most} are read."));
        }
        self.needs(count * least, &format!("a list of {count} {what}"))?;
        Ok(count)
    }

    fn text(&mut self, most: u64, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        if length > most {
            return Err(invalid!("{what}: a text of {length} bytes, at most {most} are read."));
        }
        let text = std::str::from_utf8(self.take(length, what)?);
        Ok(text.map_err(|_| invalid!("{what}: a text is not UTF-8."))?.to_string())
    }

    fn name(&mut self, what: &str) -> Result<String> {
        self.text(NAME_BYTES_MAX, &format!("the name of {what}"))
    }

    fn value(&mut self, kind: u32, what: &str) -> Result<Value> {
        match kind {
            kind::TEXT => self.text(HEADER_BYTES_MAX, what).map(Value::Text),
            kind::ARRAY => self.elements(what, 0).map(Value::Array),
            _ => {
                let width = width(kind).ok_or_else(|| no_kind(kind, what))?;
                let bytes = self.take(width as u64, what)?;
                Value::of(kind, bytes).ok_or_else(|| no_kind(kind, what))
            }
        }
    }

    fn elements(&mut self, what: &str, depth: usize) -> Result<Array> {
        let kind = self.u32(what)?;
        let count = self.u64(what)?;
        // Of texts and arrays, their lengths.
        let least = match kind {
            kind::TEXT => 8,
            kind::ARRAY => 12,
            _ => width(kind).ok_or_else(|| no_kind(kind, what))? as u64,
        };
        let bytes = count.saturating_mul(least);
        self.needs(bytes, &format!("{what}, an array of {count} values,"))?;
        if depth == DEPTH_MAX {
            return Err(invalid!("{what}: arrays in arrays in arrays."));
        }

        let mut kept = Vec::new();
        match kind {
            kind::ARRAY => {
                for _ in 0..count {
                    self.elements(what, depth + 1)?;
                }
            }
            kind::TEXT => {
                for _ in 0..count {
                    let length = self.u64(what)?;
                    kept.extend(length.to_le_bytes());
                    kept.extend_from_slice(self.take(length, what)?);
                }
            }
            _ => kept.extend_from_slice(self.take(bytes, what)?),
        }
        Ok(Array { kind, count: count as usize, bytes: kept })
    }
}

fn no_kind(kind: u32, what: &str) -> Error {
    invalid!("{what} has a value of kind {kind}, which GGUF does not have.")
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
