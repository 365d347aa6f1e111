//! Who gets an adapter slot for an adapter, who waits for one, and for how long.

use super::tests::{answer, config, request, scheduler, shares};
use super::*;
use crate::ids::{AdapterId, RequestId};
use crate::plan::SlotChange;

fn with_adapter(id: u64, adapter: u16, max_tokens: u32) -> NewSequence {
    NewSequence { adapter: AdapterId(adapter), ..request(id, 3, max_tokens) }
}

fn adapter_slots_taken(plan: &StepPlan) -> Vec<(u16, u16)> {
    let taken = plan.changes.iter().filter_map(|change| match change {
        SlotChange::Adapter { adapter_slot, adapter } => Some((adapter_slot.0, adapter.0)),
        _ => None,
    });
    taken.collect()
}

#[test]
fn who_finds_no_adapter_slot_waits_and_the_others_go_on() {
    let requests = [
        with_adapter(1, 1, 1),
        with_adapter(2, 2, 1),
        with_adapter(3, 1, 1),
        with_adapter(4, 0, 1),
        with_adapter(5, 3, 1),
    ];
    let mut s = scheduler(SchedulerConfig { pages: 40, ..config() }, &requests);
    let plan = s.plan().unwrap();
    assert_eq!((adapter_slots_taken(&plan), shares(&plan).len()), (vec![(0, 1)], 3), "1, 3 and 4");
    assert_eq!(s.running_adapters().collect::<Vec<_>>(), [(AdapterId(1), 2)]);
    let came: Vec<u64> = s.commit(&answer(&plan, 7)).iter().map(|a| a.id.0).collect();
    assert_eq!(came, [1, 3, 4]);
    assert_eq!(s.running_adapters().count(), 0, "the adapter stays in its slot, but nobody runs");
    // Nobody runs with adapter 1 any more: the first in line takes its adapter slot.
    let plan = s.plan().unwrap();
    assert_eq!((adapter_slots_taken(&plan), shares(&plan).len()), (vec![(0, 2)], 1));
    s.commit(&answer(&plan, 7));
    let plan = s.plan().unwrap();
    assert_eq!((adapter_slots_taken(&plan), s.waiting_len()), (vec![(0, 3)], 0));
}

#[test]
fn the_adapter_slot_that_was_idle_for_longest_is_taken() {
    let two = SchedulerConfig { max_loras: 2, pages: 40, ..config() };
    let mut s = scheduler(two, &[]);
    let mut taken = Vec::new();
    for (id, adapter) in [(1, 1), (2, 2), (3, 1), (4, 3), (5, 1), (6, 2)] {
        s.add(with_adapter(id, adapter, 1)).unwrap();
        let plan = s.plan().unwrap();
        taken.extend(adapter_slots_taken(&plan));
        s.commit(&answer(&plan, 7));
    }
    assert_eq!(taken, [(0, 1), (1, 2), (1, 3), (1, 2)], "adapter 1 was used again and stays");
}

/// However many requests keep an adapter slot busy, one for another adapter gets its turn.
#[test]
fn nobody_is_overtaken_for_ever() {
    let mut s = scheduler(SchedulerConfig { pages: 40, ..config() }, &[with_adapter(1, 1, 9)]);
    s.add(with_adapter(2, 2, 1)).unwrap();
    for id in 3..200 {
        s.add(with_adapter(id, 1, 9)).unwrap();
        let plan = s.plan().unwrap();
        if s.commit(&answer(&plan, 7)).iter().any(|a| a.id == RequestId(2)) {
            assert!(id < 60, "after {id} requests");
            return;
        }
    }
    panic!("request 2 starves");
}
