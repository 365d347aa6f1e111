//! The rules of drafts: when a step has some, what becomes of those that are rejected, and that
//! they cost nobody anything. That answers stay the same `tests/sim/` searches.

use super::tests::{answer, config, request, scheduler, shares};
use super::*;
use crate::ids::{RequestId, SlotId, TokenId};
use crate::plan::{Feed, Purpose, Sampled, SlotChange, StepResult};

/// Three drafts, of tokens that occurred before.
fn drafting(depth: usize) -> SchedulerConfig {
    let speculation = SpeculationConfig {
        method: DraftMethod::Ngram { least: 1, most: 2 },
        lengths: DraftLengths::constant(3),
        rows: 64,
    };
    SchedulerConfig { speculation: Some(speculation), depth, pages: 40, ..config() }
}

fn prompt(id: u64, tokens: &[u32], max_tokens: u32) -> NewSequence {
    let prompt = tokens.iter().map(|&token| TokenId(token)).collect();
    NewSequence { prompt, ..request(id, 1, max_tokens) }
}

/// These tokens of slot 0.
fn accepted(plan: &StepPlan, tokens: &[u32]) -> StepResult {
    let tokens = Ok(tokens.iter().map(|&token| TokenId(token)).collect());
    let samples = vec![Sampled { slot: SlotId(0), tokens, logprobs: Vec::new() }];
    StepResult { step: plan.step, samples, ..StepResult::default() }
}

fn came(arrivals: &[Arrival]) -> Vec<(u32, bool)> {
    let token = |arrival: &Arrival| (arrival.token.expect("finite").0, arrival.at_limit);
    arrivals.iter().map(token).collect()
}

fn truncated(plan: &StepPlan) -> Vec<(u32, u32)> {
    let lengths = plan.changes.iter().filter_map(|change| match change {
        SlotChange::Truncate { slot, length } => Some((slot.0, *length)),
        _ => None,
    });
    lengths.collect()
}

#[test]
fn drafts_follow_the_newest_token_and_what_is_rejected_is_fed_again() {
    let mut s = scheduler(drafting(1), &[prompt(1, &[5, 6, 7, 8, 9], 20)]);
    let first = s.plan().unwrap();
    assert_eq!(shares(&first), [(0, 5, true)]);
    s.commit(&answer(&first, 6));

    // 6 was followed by 7, 8, 9.
    let second = s.plan().unwrap();
    assert_eq!(second.chunk_tokens, [6, 7, 8, 9].map(TokenId));
    assert_eq!(second.chunks[0].feed, Feed::Known(0..4));
    let purposes: Vec<Purpose> = second.logits.iter().map(|row| row.purpose).collect();
    let verify = |draft| Purpose::Verify { draft: TokenId(draft) };
    assert_eq!(purposes, [verify(7), verify(8), verify(9), Purpose::Sample]);
    assert_eq!(came(&s.commit(&accepted(&second, &[7, 4]))), [(7, false), (4, false)]);

    // 5 + 1 positions, 7 is in its page; 8 and 9 are not. 4 occurred nowhere.
    let third = s.plan().unwrap();
    assert_eq!(truncated(&third), [(0, 7)]);
    assert_eq!(third.chunks[0].feed, Feed::LastSampled);
    assert_eq!(came(&s.commit(&answer(&third, 5))), [(5, false)]);
    let fourth = s.plan().unwrap();
    assert_eq!(truncated(&fourth), []);
    assert_eq!(fourth.chunk_tokens, [5, 6, 7, 8].map(TokenId));
    s.commit(&accepted(&fourth, &[6, 7, 8, 1]));
    assert_eq!(truncated(&s.plan().unwrap()), [], "all were accepted");
    let stats = s.draft_stats().unwrap();
    assert_eq!((stats.drafts, stats.draft_tokens, stats.accepted_tokens), (2, 6, 4));
    assert_eq!(stats.accepted_by_place, [2, 1, 1]);
    s.check();
}

#[test]
fn steps_overlap_unless_something_was_drafted_or_could_be() {
    let mut s = scheduler(drafting(2), &[prompt(1, &[5, 6, 7, 8], 20)]);
    let first = s.plan().unwrap();
    let second = s.plan().expect("nothing is known of outputs yet");
    s.commit(&answer(&first, 1));
    let third = s.plan().expect("1 occurred nowhere");
    s.commit(&answer(&second, 6));
    assert!(s.plan().is_none(), "6 did");
    s.commit(&answer(&third, 7));
    let fourth = s.plan().unwrap();
    assert_eq!(fourth.chunk_tokens, [7, 8, 1, 6].map(TokenId));
    assert!(s.plan().is_none(), "where it goes on depends on what is accepted");
    s.commit(&accepted(&fourth, &[8, 1, 2]));
    assert_eq!(truncated(&s.plan().unwrap()), [(0, 9)]);
}

/// One of nine is too few to stop for.
#[test]
fn few_drafts_are_not_waited_for() {
    let mut all = vec![prompt(1, &[5, 6, 7, 8], 20)];
    all.extend((2..10).map(|id| request(id, 3, 20)));
    let config = SchedulerConfig { max_num_seqs: 9, max_num_batched_tokens: 64, ..drafting(2) };
    let mut s = scheduler(config, &all);
    let first = s.plan().unwrap();
    assert_eq!(first.chunks.len(), 9);
    s.commit(&answer(&first, 6));
    let second = s.plan().unwrap();
    assert!(second.chunks.iter().all(|chunk| chunk.feed == Feed::LastSampled));
    assert!(s.plan().is_some());
}

#[test]
fn drafts_end_in_front_of_the_last_token() {
    for (max_tokens, drafts) in [(2, 0), (3, 1), (4, 2), (9, 3)] {
        let mut s = scheduler(drafting(1), &[prompt(1, &[5, 6, 7, 8, 9], max_tokens)]);
        let first = s.plan().unwrap();
        s.commit(&answer(&first, 6));
        let second = s.plan().unwrap();
        assert_eq!(second.tokens(), 1 + drafts, "max_tokens {max_tokens}");
        if drafts == 2 {
            let told = s.commit(&accepted(&second, &[7, 8, 9]));
            assert_eq!(came(&told), [(7, false), (8, false), (9, true)]);
            assert_eq!(s.running_len(), 0);
        }
    }
    // max_model_len is 32.
    let long: Vec<u32> = (0..29).collect();
    let mut s = scheduler(
        SchedulerConfig { max_num_batched_tokens: 64, ..drafting(1) },
        &[prompt(1, &long, 20)],
    );
    let first = s.plan().unwrap();
    s.commit(&answer(&first, 6));
    assert_eq!(s.plan().unwrap().tokens(), 2);
}

#[test]
fn nobody_waits_or_is_preempted_for_a_draft() {
    // Four tokens of a step for three sequences: one draft.
    let narrow = SchedulerConfig { max_num_batched_tokens: 4, ..drafting(1) };
    let all = [1, 2, 3].map(|id| prompt(id, &[5], 20));
    let mut s = scheduler(narrow, &all);
    let first = s.plan().unwrap();
    s.commit(&answer(&first, 5));
    let second = s.plan().unwrap();
    let rows: Vec<usize> = shares(&second).iter().map(|&(_, rows, _)| rows).collect();
    assert_eq!(rows, [2, 1, 1]);

    // Two pages beside the null page, four tokens each: a fifth token has a page, a ninth has not.
    let tight = SchedulerConfig { pages: 3, max_model_len: 8, ..drafting(1) };
    let mut s = scheduler(tight, &[prompt(1, &[5, 6, 7], 4), prompt(2, &[5, 6, 7], 4)]);
    let first = s.plan().unwrap();
    s.commit(&answer(&first, 5));
    let second = s.plan().unwrap();
    assert_eq!(shares(&second), [(0, 1, true), (1, 1, true)]);
    assert_eq!(s.stats().preemptions, 0);
}

#[test]
fn pages_with_drafts_are_found_once_the_drafts_were_accepted() {
    let mut s = scheduler(drafting(1), &[prompt(1, &[5, 6, 7, 8, 9], 20)]);
    let first = s.plan().unwrap();
    s.commit(&answer(&first, 6));
    let second = s.plan().unwrap();
    // 5 6 7 8 | 9 6 7 8 | 9: the second page is full of what may come to nothing.
    s.add(prompt(2, &[5, 6, 7, 8, 9, 6, 7, 8, 3], 2)).unwrap();
    s.commit(&accepted(&second, &[7, 1]));
    let third = s.plan().unwrap();
    let cached = third.changes.iter().find_map(|change| match change {
        SlotChange::Open(open) => Some(open.cached_tokens),
        _ => None,
    });
    assert_eq!(cached, Some(4));
}

#[test]
fn who_starts_again_forgets_the_drafts_in_flight() {
    let mut s = scheduler(drafting(1), &[prompt(1, &[5, 6, 7, 8, 9], 20)]);
    let first = s.plan().unwrap();
    s.commit(&answer(&first, 6));
    let second = s.plan().unwrap();
    assert_eq!(second.tokens(), 4);
    assert!(s.finish(RequestId(1)));
    assert_eq!(s.commit(&accepted(&second, &[7, 8])), []);
    assert!(s.plan().is_none());
    s.check();
}

#[test]
fn sequences_that_may_not_have_none() {
    let mut new = prompt(1, &[5, 6, 7, 8, 9], 20);
    new.drafts = false;
    let mut s = scheduler(drafting(1), &[new]);
    let first = s.plan().unwrap();
    s.commit(&answer(&first, 6));
    assert_eq!(s.plan().unwrap().tokens(), 1);
}
