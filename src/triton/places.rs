//! Which place an instance has among those of its model, so that each takes GPUs of its own: the
//! lowest that is free. The server makes instances at the same time, and takes and adds some while
//! others serve. Used by `model`.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// Those that are taken.
#[derive(Default)]
pub(super) struct Places(Mutex<BTreeSet<usize>>);

/// Taken until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    /// From 0 on.
    pub(super) number: usize,
}

impl Places {
    pub(super) fn take(self: &Arc<Self>) -> Place {
        let mut taken = self.0.lock();
        // One of so many numbers is not among them.
        let free = (0..=taken.len()).find(|number| !taken.contains(number));
        let number = free.unwrap_or(taken.len());
        taken.insert(number);
        Place { places: Arc::clone(self), number }
    }

    pub(super) fn are_taken(&self) -> bool {
        !self.0.lock().is_empty()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_place_is_taken() {
        let places = Arc::new(Places::default());
        let mut held: Vec<Place> = (0..3).map(|_| places.take()).collect();
        assert_eq!(held.iter().map(|place| place.number).collect::<Vec<_>>(), [0, 1, 2]);
        drop(held.remove(1));
        let again = places.take();
        assert_eq!((again.number, places.take().number), (1, 3));
    }
}
