//! Which versions of one model live side by side, of one that was loaded again. The server knows
//! models by name: an unload that an old one asks for because its engine is dead takes the new one
//! out, which was loaded in the meantime with success. So one asks only while it is the newest of
//! its name, and all its instances together ask once. Called by `model` and
//! `watch`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Numbers of those that live, by name and version; later ones are larger.
static LOADED: Mutex<LoadedVersions> =
    Mutex::new(LoadedVersions { numbers: BTreeMap::new(), next: 0 });

struct LoadedVersions {
    numbers: BTreeMap<(String, u64), Vec<u64>>,
    next: u64,
}

/// One loaded version of a model, as long as it lives.
pub(super) struct LoadedVersion {
    key: (String, u64),
    number: u64,
    asked: AtomicBool,
}

impl LoadedVersion {
    pub(super) fn new(model: &str, version: u64) -> LoadedVersion {
        let key = (model.to_string(), version);
        let mut loaded = LOADED.lock();
        let number = loaded.next;
        loaded.next += 1;
        loaded.numbers.entry(key.clone()).or_default().push(number);
        LoadedVersion { key, number, asked: AtomicBool::new(false) }
    }

    /// Another object of the same name was made later and lives: the model was loaded again, or is
    /// being loaded, or another namespace has one too.
    fn superseded(&self) -> bool {
        let loaded = LOADED.lock();
        let numbers = loaded.numbers.get(&self.key);
        numbers.is_some_and(|numbers| numbers.iter().any(|&number| number > self.number))
    }

    /// Whether to ask the server for an unload now. True once.
    pub(super) fn may_ask(&self) -> bool {
        !self.superseded() && !self.asked.swap(true, Ordering::AcqRel)
    }
}

impl Drop for LoadedVersion {
    fn drop(&mut self) {
        let mut loaded = LOADED.lock();
        if let Some(numbers) = loaded.numbers.get_mut(&self.key) {
            numbers.retain(|&number| number != self.number);
            if numbers.is_empty() {
                loaded.numbers.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_asks_once() {
        let old = LoadedVersion::new("object-test", 1);
        let other = LoadedVersion::new("object-test", 2);
        let new = LoadedVersion::new("object-test", 1);
        assert!(!old.may_ask() && other.may_ask() && new.may_ask());
        assert!(!new.may_ask());
    }

    #[test]
    fn a_load_that_failed_leaves_the_word_to_the_one_before() {
        let old = LoadedVersion::new("object-test-failed", 1);
        drop(LoadedVersion::new("object-test-failed", 1));
        assert!(old.may_ask());
    }
}
