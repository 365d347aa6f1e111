//! How much memory this process may still take: what the machine has available, and what the
//! control groups around the process leave, whichever is less. And who was promised some of it: an
//! engine takes its memory as it touches it, so that two of them would both find the same bytes
//! free. `engine` asks before it loads.
//!
//! The layouts are those of the kernel's documents on control groups, version 1 and 2, proc(5) and
//! proc_pid_mountinfo(5).

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::error::Result;

/// Memory in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine, or the lowest limit around the process.
    pub total_bytes: u64,
    /// That can be taken; files in the page cache give way.
    pub free_bytes: u64,
    /// Which limit leaves the least, for messages: "the machine" or a control group.
    pub of: String,
}

/// Taken by none, but promised.
struct Promises {
    /// To engines that live.
    bytes: u64,
    /// Of the process before the first of them.
    base_bytes: u64,
}

static PROMISES: Mutex<Promises> = Mutex::new(Promises { bytes: 0, base_bytes: 0 });

/// A promise of memory, which ends when this is dropped.
#[derive(Debug)]
pub struct Promise(u64);

impl Drop for Promise {
    fn drop(&mut self) {
        let mut promises = PROMISES.lock();
        promises.bytes = promises.bytes.saturating_sub(self.0);
    }
}

/// Promise as many bytes as `judge` answers for the memory that is free, less what others were
/// promised and have not touched yet. One judge at a time.
///
/// # Errors
/// Those of `judge`.
pub fn promise<T>(judge: impl FnOnce(&Memory) -> Result<(T, u64)>) -> Result<(T, Promise)> {
    let mut promises = PROMISES.lock();
    let own_bytes = anonymous_bytes(&text(Path::new("/proc/self/status")));
    if promises.bytes == 0 {
        promises.base_bytes = own_bytes;
    }
    let touched = own_bytes.saturating_sub(promises.base_bytes);
    let mut memory = Memory::read();
    memory.free_bytes = memory.free_bytes.saturating_sub(promises.bytes.saturating_sub(touched));
    let (value, bytes) = judge(&memory)?;
    promises.bytes = promises.bytes.saturating_add(bytes);
    Ok((value, Promise(bytes)))
}

/// Memory of the process that is no file's, in or out of swap.
fn anonymous_bytes(status: &str) -> u64 {
    let kib = |name: &str| number_after(status, name).unwrap_or(0);
    (kib("RssAnon:") + kib("VmSwap:")) << 10
}

impl Memory {
    /// As it is now.
    pub fn read() -> Memory {
        Memory::under(Path::new("/"))
    }

    /// The same where `root` stands for `/`.
    fn under(root: &Path) -> Memory {
        let info = text(&root.join("proc/meminfo"));
        let kib = |name: &str| Some(number_after(&info, name)? << 10);
        let total_bytes = kib("MemTotal:").unwrap_or(0);
        let free_bytes = kib("MemAvailable:").unwrap_or(total_bytes);
        let mut memory = Memory { total_bytes, free_bytes, of: "the machine".into() };
        for group in groups(root) {
            let Some((limit, free)) = group.room() else { continue };
            memory.total_bytes = memory.total_bytes.min(limit);
            if free < memory.free_bytes {
                memory.free_bytes = free;
                memory.of = format!("control group {}", group.shown.display());
            }
        }
        memory
    }
}

#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

/// A control group that the process is in, itself or by one below it.
struct Group {
    version: Version,
    folder: PathBuf,
    /// Its folder, without the root of tests.
    shown: PathBuf,
}

impl Group {
    /// Its limit and what is left of it, if it has one.
    fn room(&self) -> Option<(u64, u64)> {
        let ([limit, used], cache): ([&str; 2], [&str; 2]) = match self.version {
            Version::One => (
                ["memory.limit_in_bytes", "memory.usage_in_bytes"],
                ["total_inactive_file", "total_active_file"],
            ),
            Version::Two => (["memory.max", "memory.current"], ["inactive_file", "active_file"]),
        };
        let number = |name: &str| text(&self.folder.join(name)).trim().parse::<u64>().ok();
        let (limit, used) = (number(limit)?, number(used)?);
        let stat = text(&self.folder.join("memory.stat"));
        // Pages of files that are not locked are given up before the limit kills.
        let cache: u64 = cache.iter().filter_map(|name| number_after(&stat, name)).sum();
        Some((limit, limit.saturating_sub(used.saturating_sub(cache))))
    }
}

/// The groups of the process, innermost first: of a nested one, each limit above it counts too.
fn groups(root: &Path) -> Vec<Group> {
    let own = text(&root.join("proc/self/cgroup"));
    let mounts = text(&root.join("proc/self/mountinfo"));
    let mut found = Vec::new();
    for line in own.lines() {
        // hierarchy:controllers:path
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = match controllers {
            "" => Version::Two,
            list if list.split(',').any(|name| name == "memory") => Version::One,
            _ => continue,
        };
        for mount in mounts.lines().filter_map(|line| Mount::read(line, version)) {
            // The mount may show a part of the hierarchy only, e.g. a container's.
            let inside = path.strip_prefix(&mount.root).unwrap_or_default();
            let plain = inside.split('/').all(|part| part != "..");
            let inside = Path::new(if plain { inside.trim_start_matches('/') } else { "" });
            found.extend(inside.ancestors().map(|part| {
                // The join of nothing would end in a slash.
                let shown: PathBuf = Path::new(&mount.point).join(part).components().collect();
                let below_root = shown.strip_prefix("/").unwrap_or(&shown);
                Group { version, folder: root.join(below_root), shown: shown.clone() }
            }));
        }
    }
    found
}

/// Where a hierarchy is mounted that limits memory.
struct Mount {
    /// Which of its groups the mount point is; "" for the topmost.
    root: String,
    point: String,
}

impl Mount {
    /// `id parent device root point options fields - type source options`
    fn read(line: &str, version: Version) -> Option<Mount> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let ours = match version {
            Version::One => kind == "cgroup" && options.split(',').any(|name| name == "memory"),
            Version::Two => kind == "cgroup2",
        };
        let root = if root == "/" { "" } else { root };
        ours.then(|| Mount { root: root.into(), point: point.replace("\\040", " ") })
    }
}

/// Of the kernel's files, which are short and always there; "" for one that is not.
fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The number behind a name at the start of a line.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok()).flatten()
    };
    text.lines().find_map(of)
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
