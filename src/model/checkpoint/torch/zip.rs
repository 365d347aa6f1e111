//! The directory of a zip archive whose entries are stored, not compressed: names and where their
//! bytes lie. Written for the archives of `torch.save`; called by its parent only. Each number
//! from the file is checked against the file's length before it is used.
//!
//! Layout from PKWARE's APPNOTE: the end record (4.3.16, with its 64-bit form 4.3.14 and 4.3.15),
//! central headers (4.3.12), local headers (4.3.7), 64-bit sizes in extra field 1 (4.5.3).

use std::collections::BTreeMap;
use std::ops::Range;

use crate::device::Bytes;
use crate::error::{Error, Result};
use crate::invalid;

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// The end record without its comment, which has up to 65535 bytes.
const END_BYTES: usize = 22;
const END_64_BYTES: usize = 56;
const LOCATOR_BYTES: usize = 20;
/// A local header without name and extra field.
const LOCAL_BYTES: usize = 30;
/// What is read to find the end record and its locator.
const TAIL_BYTES: usize = LOCATOR_BYTES + END_BYTES + u16::MAX as usize;
/// A hundred bytes for each tensor.
const DIRECTORY_BYTES_MAX: usize = 128 << 20;

pub(super) struct Archive {
    entries: BTreeMap<String, Range<usize>>,
}

impl Archive {
    /// # Errors
    /// InvalidArgument: no zip archive, cut short, compressed, or its numbers contradict each
    /// other.
    pub fn open(file: &Bytes) -> Result<Archive> {
        if part(file, 0, 2)?.as_deref() != Some(b"PK") {
            return Err(invalid!(
                "not a zip archive, as torch.save writes since 1.6 ({} bytes): save it again with \
                 a newer PyTorch, or convert it to safetensors.",
                file.len()
            ));
        }

        let tail_bytes = TAIL_BYTES.min(file.len());
        let tail = file.slice(file.len() - tail_bytes..file.len()).load()?;
        let end = find_end(&tail).ok_or_else(|| {
            invalid!("truncated: {} bytes without the end of a zip archive.", file.len())
        })?;
        let place = directory(file, &tail, end)?.ok_or_else(|| broken("its end record"))?;
        if place.len() > DIRECTORY_BYTES_MAX {
            let bytes = place.len();
            return Err(invalid!(
                "the zip archive has a directory of {bytes} bytes, at most {DIRECTORY_BYTES_MAX} \
                 are read."
            ));
        }

        let directory = file.slice(place.clone()).load()?;
        let mut entries = BTreeMap::new();
        let mut at = 0;
        while at < directory.len() {
            let entry = CentralHeader::read(&directory, at).filter(|e| e.next <= directory.len());
            let entry = entry.ok_or_else(|| broken("its directory"))?;
            at = entry.next;
            if entry.compressed {
                return Err(invalid!("'{}' in the zip archive is compressed.", entry.name));
            }
            let bytes = entry.bytes(file, place.start)?;
            let bytes = bytes.ok_or_else(|| broken(&format!("its entry '{}'", entry.name)))?;
            if entries.insert(entry.name.clone(), bytes).is_some() {
                return Err(invalid!("'{}' is twice in the zip archive.", entry.name));
            }
        }
        Ok(Archive { entries })
    }

    /// Where an entry's bytes lie in the file.
    pub fn get(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name).cloned()
    }

    /// The first entry whose name ends so.
    pub fn single(&self, suffix: &str) -> Option<(&str, Range<usize>)> {
        let found = self.entries.iter().find(|(name, _)| name.ends_with(suffix));
        found.map(|(name, bytes)| (name.as_str(), bytes.clone()))
    }
}

fn broken(what: &str) -> Error {
    invalid!("the zip archive is broken or truncated: {what} does not fit the file.")
}

/// `length` bytes from `at` on, if the file has them.
fn part(file: &Bytes, at: usize, length: usize) -> Result<Option<Vec<u8>>> {
    match at.checked_add(length).filter(|&end| end <= file.len()) {
        Some(end) => Ok(Some(file.slice(at..end).load()?.into_owned())),
        None => Ok(None),
    }
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    let bytes = file.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    let bytes = file.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(file: &[u8], at: usize) -> Option<u64> {
    let bytes = file.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn find_end(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(END_BYTES)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|&at| {
        let comment = u16_at(file, at + 20).map(usize::from);
        u32_at(file, at) == Some(END) && comment == Some(last - at)
    })
}

/// Where the central directory lies, which ends before the end record, at `end` of the file's
/// `tail`.
fn directory(file: &Bytes, tail: &[u8], end: usize) -> Result<Option<Range<usize>>> {
    let locator = end.checked_sub(20).filter(|&at| u32_at(tail, at) == Some(LOCATOR_64));
    let numbers = match locator {
        None => u32_at(tail, end + 12).map(u64::from).zip(u32_at(tail, end + 16).map(u64::from)),
        Some(locator) => {
            let at = u64_at(tail, locator + 8).and_then(|at| usize::try_from(at).ok());
            let record = part(file, at.unwrap_or(usize::MAX), END_64_BYTES)?;
            let record = record.filter(|record| u32_at(record, 0) == Some(END_64));
            record.and_then(|record| u64_at(&record, 40).zip(u64_at(&record, 48)))
        }
    };
    let end = file.len() - tail.len() + end;
    let range = |(size, start): (u64, u64)| {
        let start = usize::try_from(start).ok()?;
        let stop = start.checked_add(usize::try_from(size).ok()?)?;
        (stop <= end).then_some(start..stop)
    };
    Ok(numbers.and_then(range))
}

struct CentralHeader {
    name: String,
    compressed: bool,
    size: u64,
    local: u64,
    next: usize,
}

impl CentralHeader {
    fn read(file: &[u8], at: usize) -> Option<CentralHeader> {
        if u32_at(file, at)? != CENTRAL {
            return None;
        }
        let length = |field: usize| Some(usize::from(u16_at(file, at + field)?));
        let name_end = at + 46 + length(28)?;
        let extra = length(30)?;
        let comment = length(32)?;
        let name = String::from_utf8_lossy(file.get(at + 46..name_end)?).into_owned();
        let (packed, size) = (u32_at(file, at + 20)?, u32_at(file, at + 24)?);
        let mut entry = CentralHeader {
            name,
            compressed: u16_at(file, at + 10)? != 0 || u16_at(file, at + 8)? & 1 != 0,
            size: u64::from(size),
            local: u64::from(u32_at(file, at + 42)?),
            next: name_end + extra + comment,
        };
        entry.wide_numbers(file.get(name_end..name_end + extra)?, packed, size)?;
        Some(entry)
    }

    /// Numbers that do not fit 32 bits stand in extra field 1, in this order, if the short one is
    /// all ones.
    fn wide_numbers(&mut self, extra: &[u8], packed: u32, size: u32) -> Option<()> {
        let short_local = self.local == u64::from(u32::MAX);
        if packed != u32::MAX && size != u32::MAX && !short_local {
            return Some(());
        }
        let mut at = 0;
        while u16_at(extra, at)? != 1 {
            at += 4 + usize::from(u16_at(extra, at + 2)?);
        }
        at += 4;
        if size == u32::MAX {
            self.size = u64_at(extra, at)?;
            at += 8;
        }
        if packed == u32::MAX {
            at += 8;
        }
        if short_local {
            self.local = u64_at(extra, at)?;
        }
        Some(())
    }

    /// The local header repeats name and extra field, with lengths of its own.
    fn bytes(&self, file: &Bytes, directory: usize) -> Result<Option<Range<usize>>> {
        let local = usize::try_from(self.local).unwrap_or(usize::MAX);
        let header = part(file, local, LOCAL_BYTES)?;
        let range = |header: &[u8]| {
            if u32_at(header, 0)? != LOCAL {
                return None;
            }
            let name = usize::from(u16_at(header, 26)?);
            let extra = usize::from(u16_at(header, 28)?);
            let start = local.checked_add(LOCAL_BYTES + name + extra)?;
            let end = start.checked_add(usize::try_from(self.size).ok()?)?;
            (end <= directory).then_some(start..end)
        };
        Ok(header.as_deref().and_then(range))
    }
}
