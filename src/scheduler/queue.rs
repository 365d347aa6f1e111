//! The waiting queue: who is next, who waits behind whom, who may overtake whom. Used by the
//! scheduler only; it knows no page and no budget.
//!
//! - **Order.** By priority, then by arrival. A request with more sequences than half of the slots
//!   has no right to all of them: each further one lets one more later arrival pass. A preempted
//!   sequence waits at the head.
//! - **Siblings.** With `n` > 1 a request's further sequences are not in the queue until their
//!   primary's prompt is fed (or the primary is over), so that they find the prompt's pages in the
//!   prefix cache. Meanwhile they hold up nobody.
//! - **Overtaking.** Nobody overtakes, but for those whose adapter is in an adapter slot, or who
//!   need none, past those who wait for an adapter slot. After `max_num_seqs` overtakers with an
//!   adapter no more of them pass, so that the adapter slots empty and the first who waits for one
//!   gets it.

use std::collections::{HashMap, VecDeque};

use super::adapter_slots::AdapterSlots;
use super::sequence::{NewSequence, Sequence};
use crate::ids::{AdapterId, RequestId};

#[derive(Debug)]
pub(super) struct WaitingQueue {
    waiting: VecDeque<Box<Sequence>>,
    /// By primary, wherever that is: the sequences that wait behind it, with their order.
    siblings: HashMap<RequestId, Vec<(u64, NewSequence)>>,
    /// Of all in `waiting` together.
    tokens: usize,
    /// How many there are in `siblings`.
    siblings_len: usize,
    /// Requests that came.
    arrivals: u64,
    /// The newest of them, and its order.
    newest: Option<(RequestId, u64)>,
    /// Sequences with an adapter that were admitted past the first one that waits for an adapter
    /// slot.
    overtakers: usize,
    max_num_seqs: usize,
    /// Tokens of a sequence at most.
    longest: usize,
}

impl WaitingQueue {
    pub(super) fn new(max_num_seqs: usize, longest: usize) -> WaitingQueue {
        WaitingQueue {
            waiting: VecDeque::new(),
            tokens: 0,
            siblings: HashMap::new(),
            siblings_len: 0,
            arrivals: 0,
            newest: None,
            overtakers: 0,
            max_num_seqs,
            longest,
        }
    }

    /// All that wait, siblings too.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.siblings_len
    }

    /// Tokens of all that wait, but for siblings, whether the prefix cache has them or not.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Put a sequence where its priority and its arrival say.
    pub(super) fn add(&mut self, new: NewSequence) {
        let order = self.order_of(&new);
        self.insert(order, new);
    }

    /// Let a sequence wait until [`WaitingQueue::release_siblings`] is called for `primary`.
    pub(super) fn add_behind(&mut self, primary: RequestId, new: NewSequence) {
        let order = self.order_of(&new);
        self.siblings.entry(primary).or_default().push((order, new));
        self.siblings_len += 1;
    }

    /// The siblings need their primary no longer: they go to their places in the queue.
    pub(super) fn release_siblings(&mut self, primary: RequestId) {
        if self.siblings.is_empty() {
            return;
        }
        let siblings = self.siblings.remove(&primary).unwrap_or_default();
        self.siblings_len -= siblings.len();
        for (order, sibling) in siblings {
            self.insert(order, sibling);
        }
    }

    /// A preempted sequence: it has waited before.
    pub(super) fn push_front(&mut self, sequence: Box<Sequence>) {
        self.tokens += sequence.tokens.len();
        self.waiting.push_front(sequence);
    }

    /// The sequence is over. Its siblings, if it has any, wait for it no longer. False: it does not
    /// wait here.
    pub(super) fn remove(&mut self, id: RequestId) -> bool {
        if let Some(at) = self.waiting.iter().position(|sequence| sequence.id == id) {
            self.tokens -= self.waiting[at].tokens.len();
            self.waiting.remove(at);
            self.release_siblings(id);
            return true;
        }
        for siblings in self.siblings.values_mut() {
            if let Some(at) = siblings.iter().position(|(_, sibling)| sibling.id == id) {
                siblings.remove(at);
                self.siblings_len -= 1;
                return true;
            }
        }
        false
    }

    /// A sequence in the queue; siblings are not.
    pub(super) fn find(&self, id: RequestId) -> Option<&Sequence> {
        self.waiting.iter().map(|sequence| &**sequence).find(|sequence| sequence.id == id)
    }

    /// The place of the first sequence at `from` or behind it that finds an adapter slot or needs
    /// none. Those before it wait for one.
    pub(super) fn next_admissible(
        &self,
        from: usize,
        adapter_slots: &AdapterSlots,
    ) -> Option<usize> {
        let admissible = |at: usize, sequence: &Sequence| {
            let in_turn = at == 0 || self.overtakers < self.max_num_seqs;
            sequence.adapter == AdapterId(0) || in_turn && adapter_slots.has_room(sequence.adapter)
        };
        (from..self.waiting.len()).find(|&at| admissible(at, &self.waiting[at]))
    }

    pub(super) fn at(&self, place: usize) -> &Sequence {
        &self.waiting[place]
    }

    pub(super) fn at_mut(&mut self, place: usize) -> &mut Sequence {
        &mut self.waiting[place]
    }

    /// A sequence in the queue, to be changed; siblings are not.
    pub(super) fn find_mut(&mut self, id: RequestId) -> Option<&mut Sequence> {
        self.waiting.iter_mut().map(|sequence| &mut **sequence).find(|sequence| sequence.id == id)
    }

    /// Others wait for this one's prompt.
    pub(super) fn has_siblings(&self, primary: RequestId) -> bool {
        self.siblings.contains_key(&primary)
    }

    /// The sequence at this place is admitted.
    pub(super) fn take(&mut self, place: usize) -> Box<Sequence> {
        let Some(sequence) = self.waiting.remove(place) else {
            panic!("place {place} of a queue of {}", self.waiting.len())
        };
        self.tokens -= sequence.tokens.len();
        if sequence.adapter != AdapterId(0) {
            self.overtakers = if place == 0 { 0 } else { self.overtakers + 1 };
        }
        sequence
    }

    /// Its place among those of the same priority. The sequences of a request come one after the
    /// other, so only the newest request is remembered.
    fn order_of(&mut self, new: &NewSequence) -> u64 {
        if let Some((primary, order)) = self.newest.filter(|(id, _)| Some(*id) == new.primary) {
            let others = new.id.0.saturating_sub(primary.0);
            return order + others.saturating_sub(self.max_num_seqs as u64 / 2);
        }
        self.arrivals += 1;
        self.newest = Some((new.id, self.arrivals));
        self.arrivals
    }

    fn insert(&mut self, order: u64, new: NewSequence) {
        let place = (new.priority, order);
        let behind = self.waiting.iter().rev().take_while(|w| (w.priority, w.order) > place);
        let at = self.waiting.len() - behind.count();
        self.tokens += new.prompt.len();
        self.waiting.insert(at, Box::new(Sequence::new(new, order, self.longest)));
    }
}
