//! Plans that fit are flattened as they say; each that does not is refused, whatever is wrong.

use std::sync::Arc;

use super::*;
use crate::device::{KvShape, KvType, StateShape};
use crate::ids::{PageId, TokenId};
use crate::plan::{LogitsRow, SeqChunk};

fn limits() -> DeviceLimits {
    let kv = KvShape::heads(1, 1, 8, KvType::F32);
    DeviceLimits {
        step_tokens: 8,
        slots: 2,
        logits_rows: 6,
        pages: 4,
        page_size: 16,
        max_model_len: 32,
        kv,
        state: Default::default(),
        snapshots: 0,
        spares: 0,
    }
}

fn open(slot: u32, adapter: u16, sampler: SamplerSpec) -> SlotChange {
    SlotChange::Open(Box::new(SlotOpen {
        slot: SlotId(slot),
        adapter: AdapterId(adapter),
        tokens: Arc::from([]),
        prompt_tokens: 0,
        cached_tokens: 3,
        sampler: Arc::new(sampler),
    }))
}

fn pages(slot: u32, pages: &[u32]) -> SlotChange {
    let pages = pages.iter().map(|&page| PageId(page)).collect();
    SlotChange::Pages { slot: SlotId(slot), group: GroupId(0), pages }
}

/// Four tokens of slot 0, with a report on the second and a sample from the last, and the newest
/// token of slot 1.
fn plan() -> StepPlan {
    let reports =
        SamplerSpec { prompt_logprobs: Some(LogprobSpec::Top(2)), ..SamplerSpec::default() };
    let mut plan = StepPlan {
        step: 5,
        changes: vec![
            SlotChange::Adapter { adapter_slot: AdapterSlotId(1), adapter: AdapterId(9) },
            open(0, 0, reports),
            open(1, 9, SamplerSpec::default()),
            pages(0, &[1]),
            pages(1, &[2]),
        ],
        chunk_tokens: (10..15).map(TokenId).collect(),
        ..StepPlan::default()
    };
    let report = Purpose::Report { next: TokenId(12) };
    plan.logits.push(LogitsRow { chunk: 0, token: 1, purpose: report });
    plan.push(SlotId(0), Feed::Known(1..5), true);
    plan.push(SlotId(1), Feed::LastSampled, true);
    plan
}

#[test]
fn a_plan_is_flattened_in_its_order() {
    let mut table = SlotTable::new(&limits());
    let batch = table.begin(&plan()).unwrap();
    assert_eq!((batch.step, batch.rows, batch.adapters, batch.decode), (5, 5, true, false));
    let [first, second] = batch.chunks[..] else { panic!("{batch:?}") };
    assert_eq!((first.rows(), first.position(), first.length, first.known), (0..4, 3, 7, Some(1)));
    assert_eq!((second.rows(), second.position(), second.known), (4..5, 3, None));
    assert_eq!((first.first_logits, first.logits), (0, 2));
    assert_eq!((second.first_logits, second.logits), (2, 1));
    let rows: Vec<usize> = batch.logits.iter().map(|row| row.row).collect();
    assert_eq!(rows, [1, 3, 4]);
    assert_eq!(batch.logits[0].logprobs, Some(LogprobSpec::Top(2)));
    assert_eq!(batch.logits[1].logprobs, None, "its sampler reports on the prompt alone");
    assert!(batch.whole_sequences("pool").is_err(), "both began earlier");
    assert_eq!(table.adapter_slot(SlotId(1)), Some(AdapterSlotId(1)));

    // Steps go on where the last one ended.
    let mut next = StepPlan { step: 6, ..StepPlan::default() };
    next.push(SlotId(1), Feed::LastSampled, true);
    next.push(SlotId(0), Feed::LastSampled, true);
    let batch = table.begin(&next).unwrap();
    assert!(batch.decode);
    assert_eq!(batch.chunks.iter().map(|chunk| chunk.length).collect::<Vec<_>>(), [5, 8]);
}

#[test]
fn whatever_does_not_fit_is_refused() {
    let refused = |what: &str, spoil: &dyn Fn(&mut StepPlan)| {
        let mut spoilt = plan();
        spoil(&mut spoilt);
        let refused = SlotTable::new(&limits()).begin(&spoilt).err();
        assert!(refused.is_some(), "{what}");
    };
    let chunk = |slot, feed| SeqChunk { slot: SlotId(slot), feed };
    refused("a slot that does not exist", &|p| p.chunks[1] = chunk(9, Feed::LastSampled));
    refused("a slot that was closed", &|p| p.changes.push(SlotChange::Close { slot: SlotId(0) }));
    refused("closing twice", &|p| {
        p.changes.push(SlotChange::Close { slot: SlotId(0) });
        p.changes.push(SlotChange::Close { slot: SlotId(0) });
    });
    refused("an adapter that is nowhere", &|p| p.changes.push(open(1, 8, SamplerSpec::default())));
    refused("a page that does not exist", &|p| p.changes.push(pages(0, &[4])));
    refused("more pages than a sequence may have", &|p| p.changes.push(pages(0, &[1, 2])));
    refused("another group of pages", &|p| {
        let group = GroupId(1);
        p.changes.push(SlotChange::Pages { slot: SlotId(0), group, pages: Vec::new() });
    });
    refused("no pages", &|p| drop(p.changes.remove(3)));
    refused("tokens that are not there", &|p| p.chunks[0] = chunk(0, Feed::Known(1..6)));
    refused("no tokens", &|p| p.chunks[0] = chunk(0, Feed::Known(1..1)));
    refused("more tokens than were reserved", &|p| {
        p.chunk_tokens.resize(20, TokenId(0));
        p.chunks[0] = chunk(0, Feed::Known(0..9));
    });
    refused("more positions than pages hold", &|p| {
        p.changes.extend([open(0, 0, SamplerSpec::default())])
    });

    let sample = |chunk, token| LogitsRow { chunk, token, purpose: Purpose::Sample };
    refused("more logits rows than were reserved", &|p| p.logits = vec![p.logits[0].clone(); 7]);
    refused("a logits row twice", &|p| p.logits.insert(1, p.logits[0].clone()));
    refused("logits rows out of order", &|p| p.logits.swap(1, 2));
    refused("logits of a chunk that is not there", &|p| p.logits.push(sample(2, 0)));
    refused("logits of a token that is not there", &|p| p.logits[1] = sample(0, 4));
    refused("a sample within a chunk", &|p| p.logits[1] = sample(0, 2));
    refused("a report that no spec asks for", &|p| p.logits[2].purpose = p.logits[0].purpose);
    assert!(SlotTable::default().begin(&plan()).is_err(), "a step before reserve");
}

/// Slot 0 feeds its newest token, 11, and the drafts 12 and 13; slot 1 one token.
fn drafts() -> StepPlan {
    let mut plan = StepPlan { chunks: Vec::new(), logits: Vec::new(), ..plan() };
    plan.chunk_tokens.clear();
    plan.push(SlotId(1), Feed::LastSampled, true);
    plan.push_drafts(SlotId(0), TokenId(11), &[TokenId(12), TokenId(13)]);
    plan
}

#[test]
fn drafts_have_a_logits_row_each_and_one_more() {
    let mut table = SlotTable::new(&limits());
    let batch = table.begin(&drafts()).unwrap();
    assert!(batch.drafts && batch.decode);
    let stands: Vec<_> =
        batch.logits.iter().map(|row| (row.row, row.drafts.before, row.drafts.behind)).collect();
    assert_eq!(stands, [(0, 0, 0), (1, 0, 2), (2, 1, 1), (3, 2, 0)]);
    assert_eq!((batch.chunks[1].length, batch.chunks[1].logits), (6, 3));

    // One was accepted: the slot goes on behind it.
    let back = |length| SlotChange::Truncate { slot: SlotId(0), length };
    let mut next = StepPlan { changes: vec![back(5)], ..StepPlan::default() };
    next.push(SlotId(0), Feed::LastSampled, true);
    let batch = table.begin(&next).unwrap();
    assert_eq!((batch.chunks[0].position(), batch.drafts, batch.decode), (5, false, true));
    let further = StepPlan { changes: vec![back(7)], ..StepPlan::default() };
    assert!(table.begin(&further).is_err(), "it has 6");
}

/// What may be replayed as a decode step of as many rows.
#[test]
fn few_tokens_with_logits_are_a_decode_step() {
    let step = |tokens: usize, sampled: bool| {
        let mut table = SlotTable::new(&limits());
        let mut next = StepPlan { chunks: Vec::new(), logits: Vec::new(), ..plan() };
        next.push(SlotId(1), Feed::LastSampled, true);
        next.push(SlotId(0), Feed::Known(0..tokens), sampled);
        table.begin(&next).unwrap().decode
    };
    assert!(step(1, true) && step(2, true));
    assert!(!step(3, true), "a chunk of a prompt");
    assert!(!step(1, false) && !step(2, false), "its logits would be computed for nothing");
}

#[test]
fn drafts_that_do_not_fit_are_refused() {
    let refused = |what: &str, spoil: &dyn Fn(&mut StepPlan)| {
        let mut spoilt = drafts();
        spoil(&mut spoilt);
        assert!(SlotTable::new(&limits()).begin(&spoilt).is_err(), "{what}");
    };
    let verify = |chunk, token, draft| LogitsRow {
        chunk,
        token,
        purpose: Purpose::Verify { draft: TokenId(draft) },
    };

    refused("another token than is fed", &|p| p.logits[1] = verify(1, 0, 13));
    refused("a row left out", &|p| {
        p.logits.remove(2);
    });
    refused("the first row left out", &|p| {
        p.logits.remove(1);
    });
    refused("no sample behind them", &|p| p.logits.truncate(3));
    refused("a draft behind the last", &|p| p.logits[3] = verify(1, 2, 13));
    refused("a report among them", &|p| {
        p.logits[2].purpose = Purpose::Report { next: TokenId(13) };
    });
    refused("a draft of what is not known", &|p| p.logits[0] = verify(0, 0, 12));

    let states = StateShape { layers: 1, ..StateShape::default() };
    let limits = DeviceLimits { state: states, ..limits() };
    let mut plan = drafts();
    plan.changes.push(SlotChange::Truncate { slot: SlotId(1), length: 2 });
    let error = SlotTable::new(&limits).begin(&plan).expect_err("a state does not go back");
    assert!(error.to_string().contains("cannot go back from 3 to 2"), "{error}");
}

/// To where a spare of it is, which is copied in the order of the changes.
#[test]
fn a_state_goes_back_as_far_as_there_are_spares() {
    let state = StateShape { layers: 1, ..StateShape::default() };
    let limits = DeviceLimits { state, snapshots: 1, spares: 2, ..limits() };
    let (slot, snapshot) = (SlotId(1), SnapshotId(0));
    let restore = |slot| SlotChange::RestoreState { slot, snapshot };
    let mut plan = drafts();
    plan.changes.extend([restore(SlotId(0)), restore(slot)]);
    let began = || {
        let mut table = SlotTable::new(&limits);
        table.begin(&plan).unwrap();
        table
    };
    let chunk = began().batch.chunks[1];
    assert_eq!((chunk.slot, chunk.position(), chunk.length), (SlotId(0), 3, 6));

    let slot = SlotId(0);
    let back = |length| StepPlan {
        changes: vec![
            SlotChange::Truncate { slot, length },
            SlotChange::SaveState { slot, snapshot },
        ],
        ..StepPlan::default()
    };
    for (length, spare) in [(4, Some(0)), (5, Some(1)), (6, None)] {
        let mut table = began();
        let copies = table.begin(&back(length)).unwrap().state_copies.clone();
        let to = StatePlace::Slot(slot);
        let gone = spare.map(|row| StateCopy { from: StatePlace::Spare(slot, row), to });
        let saved = StateCopy { from: to, to: StatePlace::Snapshot(snapshot) };
        assert_eq!(copies, gone.into_iter().chain([saved]).collect::<Vec<_>>(), "to {length}");
        assert!(table.begin(&StepPlan::default()).unwrap().state_copies.is_empty());
    }
    for length in [3, 7] {
        let error = began().begin(&back(length)).expect_err("no spare");
        assert!(error.to_string().contains("cannot go back from 6"), "{error}");
    }

    // Slots with their spares, then snapshots; none lies where another does.
    let mut places = vec![limits.state_place(StatePlace::Snapshot(snapshot))];
    for slot in [0, 1].map(SlotId) {
        places.push(limits.state_place(StatePlace::Slot(slot)));
        places.extend([0, 1].map(|row| limits.state_place(StatePlace::Spare(slot, row))));
    }
    places.sort();
    assert_eq!((places, limits.states()), ((0..7).collect(), 7));
}
