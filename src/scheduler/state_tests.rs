//! The rules of models that keep a state: where chunks end, when states are copied, and who goes
//! on from which copy. That all of it is right in any workload `tests/sim/` searches.

use super::tests::{answer, config, request, scheduler, shares};
use super::*;
use crate::ids::{RequestId, SlotId, SnapshotId, TokenId};
use crate::plan::SlotChange;

/// Copies each 8 tokens, two pages.
fn stateful() -> SchedulerConfig {
    let state = Some(StateConfig { snapshots: 4, block: 8 });
    SchedulerConfig { state, pages: 40, max_num_batched_tokens: 20, ..config() }
}

/// Slots and copies of the plan's saves, and of its restores.
fn copies(plan: &StepPlan) -> [Vec<(u32, u32)>; 2] {
    let mut found = [Vec::new(), Vec::new()];
    for change in &plan.changes {
        match change {
            SlotChange::SaveState { slot, snapshot } => found[0].push((slot.0, snapshot.0)),
            SlotChange::RestoreState { slot, snapshot } => found[1].push((slot.0, snapshot.0)),
            _ => {}
        }
    }
    found
}

#[test]
fn prompts_are_cut_at_borders_and_their_states_kept() {
    let mut s = scheduler(stateful(), &[request(1, 27, 4)]);
    // As far as the budget reaches a border; then the last one; then the rest.
    let first = s.plan().unwrap();
    assert_eq!((shares(&first), copies(&first)), (vec![(0, 16, false)], [vec![], vec![]]));
    s.commit(&answer(&first, 7));
    let second = s.plan().unwrap();
    assert_eq!((shares(&second), copies(&second)[0].clone()), (vec![(0, 8, false)], vec![(0, 0)]));
    s.commit(&answer(&second, 7));
    let third = s.plan().unwrap();
    assert_eq!((shares(&third), copies(&third)[0].clone()), (vec![(0, 3, true)], vec![(0, 1)]));
    s.commit(&answer(&third, 7));
    s.check();

    // A prompt that ends at a border goes on from the one before: its last token is fed.
    let again = NewSequence { id: RequestId(9), ..request(1, 24, 4) };
    s.add(again).unwrap();
    let plan = s.plan().unwrap();
    assert_eq!((shares(&plan)[1], copies(&plan)[1].clone()), ((1, 8, true), vec![(1, 0)]));
}

#[test]
fn without_copies_prompts_are_not_cut() {
    let state = Some(StateConfig { snapshots: 0, block: 8 });
    let config = SchedulerConfig { state, prefix_caching: false, ..stateful() };
    let mut s = scheduler(config, &[request(1, 19, 4)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 19, true)]);
}

#[test]
fn siblings_go_on_from_the_last_page_of_their_prompt() {
    let one = request(1, 15, 4);
    let sibling = NewSequence { id: RequestId(2), primary: Some(one.id), ..one.clone() };
    let mut s = scheduler(stateful(), &[one, sibling]);
    let first = s.plan().unwrap();
    assert_eq!(shares(&first), [(0, 12, false)]);
    s.commit(&answer(&first, 7));
    let second = s.plan().unwrap();
    assert_eq!((shares(&second), copies(&second)[0].clone()), (vec![(0, 3, true)], vec![(0, 0)]));
    s.commit(&answer(&second, 7));
    let third = s.plan().unwrap();
    assert_eq!(shares(&third), [(0, 1, true), (1, 3, true)]);
    assert_eq!(copies(&third)[1], [(1, 0)]);
}

/// Drafts end at a border; what is kept there is the state behind what was accepted.
#[test]
fn drafts_stop_at_borders_where_states_are_kept() {
    let speculation = SpeculationConfig {
        method: DraftMethod::Ngram { least: 1, most: 1 },
        lengths: DraftLengths::constant(4),
        rows: 4,
    };
    let config = SchedulerConfig { speculation: Some(speculation), depth: 1, ..stateful() };
    let sevens = NewSequence { prompt: [TokenId(7); 12].into(), ..request(1, 12, 20) };
    let mut s = scheduler(config, &[sevens]);
    for (rows, saved) in [(8, vec![]), (4, vec![(0, 0)])] {
        let plan = s.plan().unwrap();
        assert_eq!((plan.tokens(), copies(&plan)[0].clone()), (rows, saved));
        s.commit(&answer(&plan, 7));
    }

    // At 12, and the border is 16: three drafts, of which the first is right.
    let plan = s.plan().unwrap();
    assert_eq!((plan.tokens(), copies(&plan)[0].clone()), (4, vec![]));
    let said = |plan: &StepPlan, tokens: &[u32]| {
        let mut result = answer(plan, 7);
        result.samples[0].tokens = Ok(tokens.iter().map(|&token| TokenId(token)).collect());
        result
    };
    s.commit(&said(&plan, &[7, 7]));
    let plan = s.plan().unwrap();
    assert_eq!((plan.tokens(), copies(&plan)[0].clone()), (2, vec![]));
    assert!(matches!(plan.changes[0], SlotChange::Truncate { length: 14, .. }));

    // All are right, up to the border: only now the state is one to keep.
    s.commit(&said(&plan, &[7, 7]));
    let plan = s.plan().unwrap();
    assert_eq!((plan.tokens(), copies(&plan)[0].clone()), (5, vec![(0, 1)]));
    s.commit(&said(&plan, &[7, 3]));
    s.check();
}

/// A state cannot be moved back by the token whose mask came late.
#[test]
fn who_skips_a_step_is_computed_again_when_it_may_go_on() {
    let mut s = scheduler(stateful(), &[request(1, 9, 4), request(2, 3, 4)]);
    let first = s.plan().unwrap();
    s.commit(&answer(&first, 7));
    let second = s.plan().unwrap();
    s.skip_step(RequestId(1));
    assert_eq!((s.running_len(), s.waiting_len()), (1, 1));
    assert!(s.commit(&answer(&second, 8)).iter().all(|arrival| arrival.id == RequestId(2)));
    let third = s.plan().unwrap();
    assert_eq!(shares(&third).len(), 1, "it is held as it waits");
    s.commit(&answer(&third, 8));

    s.hold(RequestId(1), false);
    let fourth = s.plan().unwrap();
    let opened = fourth.changes.iter().find_map(|change| match change {
        SlotChange::Open(open) => Some((open.cached_tokens, open.tokens.to_vec())),
        _ => None,
    });
    let (cached, tokens) = opened.expect("it has a slot again");
    assert_eq!((cached, tokens[0], SlotId(0)), (8, TokenId(1000), fourth.chunks[1].slot));
    let restored = SlotChange::RestoreState { slot: SlotId(0), snapshot: SnapshotId(0) };
    let found = fourth.changes.iter().any(|c| format!("{c:?}") == format!("{restored:?}"));
    assert!(found, "{:?}", fourth.changes);
    s.check();
}
