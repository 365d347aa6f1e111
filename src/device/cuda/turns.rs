//! Whose step is enqueued: groups of ranks that share a GPU take turns. `ranks` gives each group a
//! place, `step` takes and gives back turns; it knows no GPU but by its number.
//!
//! Kernels of a rank wait for those of other ranks, and a GPU may run what was enqueued later only
//! behind what was enqueued before it (streams share a few queues). Were the steps of two groups
//! enqueued in one order on one GPU and in the other order on another, each could wait for the
//! other for ever. With turns, all of a step is enqueued on all GPUs before anything of the next
//! group's: of the steps that are not done, the first then waits for nobody but its own ranks.
//! Only enqueuing takes turns; steps still run side by side.

use parking_lot::{Condvar, Mutex};

/// Places of all groups of this process.
static QUEUE: Queue = Queue { state: Mutex::new(State::EMPTY), changed: Condvar::new() };

struct Queue {
    state: Mutex<State>,
    /// A turn was given back, or a place closed.
    changed: Condvar,
}

struct State {
    places: Vec<Place>,
    /// Numbers given to places and to those who wait.
    numbers: u64,
}

impl State {
    const EMPTY: State = State { places: Vec::new(), numbers: 0 };

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A place is only looked for while its [`Turns`] lives.
    fn place(&mut self, id: u64) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.id == id)
    }

    /// No group with a GPU of this one has the turn, or has waited for longer.
    fn may_begin(&self, of: &Place) -> bool {
        self.places.iter().filter(|other| other.id != of.id && other.meets(of)).all(|other| {
            let first = other.waits_since.is_some_and(|n| of.waits_since.is_none_or(|own| n < own));
            !other.has_turn && !first
        })
    }
}

struct Place {
    id: u64,
    gpus: Vec<i32>,
    has_turn: bool,
    waits_since: Option<u64>,
    /// Steps that each rank has begun to enqueue, and enqueued.
    begun: Vec<u64>,
    ended: Vec<u64>,
    /// A rank was lost: nobody takes turns here any more.
    closed: bool,
}

impl Place {
    fn meets(&self, other: &Place) -> bool {
        self.gpus.iter().any(|gpu| other.gpus.contains(gpu))
    }

    /// All ranks have enqueued what one of them has begun.
    fn is_complete(&self) -> bool {
        let most = self.begun.iter().max();
        self.ended.iter().all(|ended| Some(ended) == most)
    }
}

/// A group's place.
pub struct Turns {
    id: u64,
}

impl Turns {
    /// Of a group with these GPUs, one for each rank.
    pub fn new(gpus: Vec<i32>) -> Turns {
        let ranks = gpus.len();
        let mut state = QUEUE.state.lock();
        let id = state.next_number();
        state.places.push(Place {
            id,
            gpus,
            has_turn: false,
            waits_since: None,
            begun: vec![0; ranks],
            ended: vec![0; ranks],
            closed: false,
        });
        Turns { id }
    }

    /// This rank begins to enqueue a step. Waits while another group has the turn.
    pub fn begin(&self, rank: usize) {
        let mut state = QUEUE.state.lock();
        loop {
            let number = state.next_number();
            let Some(at) = state.places.iter().position(|place| place.id == self.id) else {
                return;
            };
            let place = &state.places[at];
            if place.closed {
                return;
            }
            if place.has_turn || state.may_begin(place) {
                let place = &mut state.places[at];
                place.has_turn = true;
                place.waits_since = None;
                place.begun[rank] += 1;
                return;
            }
            state.places[at].waits_since.get_or_insert(number);
            QUEUE.changed.wait(&mut state);
        }
    }

    /// No other group has a GPU of this one.
    pub fn is_alone(&self) -> bool {
        let state = QUEUE.state.lock();
        let (mut own, mut others) = (state.places.iter(), state.places.iter());
        own.find(|place| place.id == self.id)
            .is_some_and(|own| others.all(|other| other.id == own.id || !other.meets(own)))
    }

    /// This rank has enqueued it.
    pub fn end(&self, rank: usize) {
        let mut state = QUEUE.state.lock();
        let Some(place) = state.place(self.id).filter(|place| !place.closed) else {
            return;
        };
        place.ended[rank] += 1;
        if place.is_complete() {
            place.has_turn = false;
            QUEUE.changed.notify_all();
        }
    }

    /// A rank is lost: the others' turns are over.
    pub fn close(&self) {
        let mut state = QUEUE.state.lock();
        if let Some(place) = state.place(self.id) {
            place.closed = true;
            place.has_turn = false;
            place.waits_since = None;
        }
        QUEUE.changed.notify_all();
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        QUEUE.state.lock().places.retain(|place| place.id != self.id);
        QUEUE.changed.notify_all();
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
