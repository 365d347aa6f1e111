//! Who waits for whose pages, by hand-made workloads; what that gains is shown by `tests/sim`.

use super::super::tests::{config, request, scheduler, shares};
use super::super::{NewSequence, SchedulerConfig, StateConfig, StepShape};
use super::WORTH_A_STEP;
use crate::ids::{RequestId, TokenId};

const SHARED: u32 = 400;

/// Room for all.
fn roomy() -> SchedulerConfig {
    SchedulerConfig {
        max_num_batched_tokens: 2000,
        max_model_len: 1000,
        pages: 2000,
        max_num_seqs: 8,
        ..config()
    }
}

/// `shared` tokens that all of these begin with, and 10 of its own.
fn chat(id: u64, shared: u32) -> NewSequence {
    let head = (0..shared).map(TokenId);
    let tail = (0..10).map(|n| TokenId(10_000 * id as u32 + n));
    NewSequence { prompt: head.chain(tail).collect(), ..request(id, 1, 9) }
}

#[test]
fn chats_that_come_together_read_their_head_once() {
    let chats: Vec<_> = (1..=4).map(|id| chat(id, SHARED)).collect();
    let mut s = scheduler(roomy(), &chats);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 410, true)]);
    let rest = [(0, 1, true), (1, 10, true), (2, 10, true), (3, 10, true)];
    assert_eq!(shares(&s.plan().unwrap()), rest);
}

#[test]
fn nobody_overtakes_who_waits_for_pages() {
    let mut s = scheduler(roomy(), &[chat(1, SHARED), chat(2, SHARED), request(3, 20, 9)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 410, true)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 1, true), (1, 10, true), (2, 20, true)]);
}

#[test]
fn a_short_head_is_not_worth_a_step() {
    let short = WORTH_A_STEP as u32 - 4;
    let mut s = scheduler(roomy(), &[chat(1, short), chat(2, short)]);
    assert_eq!(s.plan().unwrap().chunks.len(), 2);

    // Short steps do not say what many tokens cost.
    let mut s = scheduler(roomy(), &[chat(1, SHARED), chat(2, SHARED)]);
    (1..9).for_each(|rows| s.learn(StepShape { rows, ..StepShape::default() }, 5.0));
    assert_eq!(s.plan().unwrap().chunks.len(), 1);

    // Where a step's fixed part is small, it is; where it is large, a longer one is not either.
    for (fixed, waits) in [(1.0, true), (1000.0, false)] {
        let shared = if waits { short } else { SHARED };
        let mut s = scheduler(roomy(), &[chat(1, shared), chat(2, shared)]);
        for rows in [1, 8, 64, 512, 1, 8, 64, 512] {
            let shape = StepShape { rows, ..StepShape::default() };
            s.learn(shape, fixed + rows as f64);
        }
        assert_eq!(s.plan().unwrap().chunks.len() == 1, waits, "{fixed} ms of each step");
    }
}

/// Only what this step fills is waited for: else others would stand behind a prompt that takes
/// many steps.
#[test]
fn a_prefix_that_is_only_begun_is_not_waited_for() {
    let config = SchedulerConfig { long_prefill_token_threshold: 300, ..roomy() };
    let mut s = scheduler(config, &[chat(1, SHARED), chat(2, SHARED)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 300, false), (1, 300, false)]);
}

#[test]
fn some_wait_for_nobody() {
    let anew = NewSequence { skip_cache: true, ..chat(2, SHARED) };
    let mut s = scheduler(roomy(), &[chat(1, SHARED), anew]);
    assert_eq!(s.plan().unwrap().chunks.len(), 2);

    let config = SchedulerConfig { prefix_caching: false, ..roomy() };
    let mut s = scheduler(config, &[chat(1, SHARED), chat(2, SHARED)]);
    assert_eq!(s.plan().unwrap().chunks.len(), 2);

    // A copy of the state may be kept elsewhere than where the prompts part.
    let state = Some(StateConfig { snapshots: 4, block: 4 });
    let config = SchedulerConfig { state, ..roomy() };
    let mut s = scheduler(config, &[chat(1, SHARED), chat(2, SHARED)]);
    assert_eq!(s.plan().unwrap().chunks.len(), 2);
}

/// The one that is waited for may end at once: then there is nothing to wait for.
#[test]
fn a_prefix_whose_writer_is_gone_is_read_or_hit() {
    let mut s = scheduler(roomy(), &[chat(1, SHARED), chat(2, SHARED)]);
    assert_eq!(s.plan().unwrap().chunks.len(), 1);
    assert!(s.finish(RequestId(1)));
    assert_eq!(shares(&s.plan().unwrap()), [(0, 10, true)], "its pages are there");
}
