//! The rules of a step, one test each, by hand-made workloads. What no single workload shows is
//! searched for by `tests/sim/`.

use std::sync::Arc;

use super::*;
use crate::ids::{AdapterId, RequestId, SlotId, TokenId};
use crate::plan::{Feed, Sampled, SeqChunk, SlotChange, StepResult};
use crate::sampling::{NonFinite, SamplerSpec};

pub(super) fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 16,
        max_model_len: 32,
        page_size: 4,
        pages: 9,
        long_prefill_token_threshold: 0,
        long_prefill_adaptive: false,
        step_ms: 0.0,
        chunked_prefill: true,
        prefix_caching: true,
        state: None,
        pooling: false,
        watermark: 0.0,
        reserve_full_isl: true,
        max_loras: 1,
        depth: 2,
        speculation: None,
        images: None,
    }
}

/// Request `id` whose prompt is `tokens` tokens like no other's.
pub(super) fn request(id: u64, tokens: u32, max_tokens: u32) -> NewSequence {
    NewSequence {
        primary: None,
        skip_cache: false,
        id: RequestId(id),
        prompt: (0..tokens).map(|i| TokenId(1000 * id as u32 + i)).collect(),
        max_tokens,
        sampler: Arc::new(SamplerSpec::default()),
        adapter: AdapterId(0),
        priority: 0,
        drafts: true,
        images: None,
    }
}

pub(super) fn scheduler(config: SchedulerConfig, requests: &[NewSequence]) -> Scheduler {
    let mut scheduler = Scheduler::new(config).unwrap();
    for request in requests {
        scheduler.add(request.clone()).unwrap();
    }
    scheduler
}

/// (slot, tokens fed, samples) of each row.
pub(super) fn shares(plan: &StepPlan) -> Vec<(u32, usize, bool)> {
    let share =
        |(at, chunk): (usize, &SeqChunk)| (chunk.slot.0, chunk.feed.tokens(), plan.samples(at));
    plan.chunks.iter().enumerate().map(share).collect()
}

pub(super) fn answer(plan: &StepPlan, token: u32) -> StepResult {
    let samples = plan.sampled().map(|slot| Sampled {
        slot,
        tokens: Ok(vec![TokenId(token)]),
        logprobs: Vec::new(),
    });
    StepResult { step: plan.step, samples: samples.collect(), ..StepResult::default() }
}

fn arrival(id: u64, token: u32, at_limit: bool) -> Arrival {
    Arrival { id: RequestId(id), token: Ok(TokenId(token)), at_limit, sample: 0 }
}

#[test]
fn what_runs_goes_first_and_the_rest_of_the_budget_feeds_chunks() {
    let mut s = scheduler(config(), &[request(1, 3, 9), request(2, 20, 9)]);
    let first = s.plan().unwrap();
    assert_eq!(shares(&first), [(0, 3, true), (1, 13, false)]);
    assert_eq!(first.tokens(), 16);
    s.commit(&answer(&first, 7));
    let second = s.plan().unwrap();
    assert_eq!(shares(&second), [(0, 1, true), (1, 7, true)]);
    assert_eq!(second.chunks[0].feed, Feed::LastSampled);
    let Feed::Known(range) = &second.chunks[1].feed else { panic!("a known chunk") };
    assert_eq!(second.chunk_tokens[range.clone()], request(2, 20, 9).prompt[13..]);
}

#[test]
fn the_next_step_is_planned_before_tokens_are_known_and_never_past_the_limit() {
    let mut s = scheduler(config(), &[request(1, 3, 2)]);
    let first = s.plan().unwrap();
    let second = s.plan().unwrap();
    assert_eq!(second.chunks, [SeqChunk { slot: SlotId(0), feed: Feed::LastSampled }]);
    assert!(second.samples(0));
    assert_eq!(s.commit(&answer(&first, 7)), [arrival(1, 7, false)]);
    assert!(s.plan().is_none(), "its last token is in flight");
    assert_eq!(s.commit(&answer(&second, 8)), [arrival(1, 8, true)]);
    assert_eq!(s.stats(), SchedulerStats { prefix_queries_tokens: 3, ..Default::default() });
    assert!(!s.finish(RequestId(1)), "it has left by itself");
}

#[test]
fn max_model_len_ends_a_sequence_without_feeding_its_last_token() {
    let mut s = scheduler(SchedulerConfig { max_model_len: 5, ..config() }, &[request(1, 4, 9)]);
    let plan = s.plan().unwrap();
    assert!(s.plan().is_none());
    assert_eq!(s.commit(&answer(&plan, 7)), [arrival(1, 7, true)]);
}

#[test]
fn a_late_token_reaches_neither_the_ended_nor_the_next_in_the_slot() {
    let config = SchedulerConfig { max_num_seqs: 1, ..config() };
    let mut s = scheduler(config, &[request(1, 3, 9), request(2, 3, 9)]);
    let first = s.plan().unwrap();
    let surplus = s.plan().unwrap();
    assert_eq!(s.commit(&answer(&first, 7)), [arrival(1, 7, false)]);
    assert!(s.finish(RequestId(1)));
    let next = s.plan().unwrap();
    assert!(matches!(next.changes[0], SlotChange::Close { slot: SlotId(0) }));
    assert!(matches!(&next.changes[1], SlotChange::Open(open) if open.slot == SlotId(0)));
    assert_eq!(s.commit(&answer(&surplus, 8)), []);
    assert_eq!(s.commit(&answer(&next, 9)), [arrival(2, 9, false)]);
}

#[test]
fn the_last_admitted_is_preempted_waits_at_the_head_and_resumes_with_its_output() {
    // 8 pages: 4 + 4 for the prompts, the first token more needs a ninth.
    let config = SchedulerConfig { max_num_batched_tokens: 32, prefix_caching: false, ..config() };
    let mut s = scheduler(config, &[request(1, 16, 9), request(2, 15, 9), request(3, 1, 9)]);
    let first = s.plan().unwrap();
    assert_eq!(shares(&first), [(0, 16, true), (1, 15, true)], "no page for the third");
    s.commit(&answer(&first, 7));
    let second = s.plan().unwrap();
    assert_eq!(shares(&second), [(0, 1, true)], "no admission in a step that preempted");
    assert_eq!((s.stats().preemptions, s.waiting_len()), (1, 2));
    assert_eq!(s.commit(&answer(&second, 8)), [arrival(1, 8, false)]);
    s.finish(RequestId(1));
    let third = s.plan().unwrap();
    assert_eq!(shares(&third), [(0, 16, true), (1, 1, true)]);
    let open = third.changes.iter().find_map(|change| match change {
        SlotChange::Open(open) => Some(open),
        _ => None,
    });
    let open = open.unwrap();
    assert_eq!((open.tokens.len(), open.prompt_tokens, open.tokens[15]), (16, 15, TokenId(7)));
    s.check();
}

#[test]
fn admission_waits_for_pages_for_the_whole_prompt_unless_told_otherwise() {
    for (reserve_full_isl, rows) in [(true, 1), (false, 2)] {
        let config = SchedulerConfig { reserve_full_isl, ..config() };
        let mut s = scheduler(config, &[request(1, 5, 9), request(2, 31, 1)]);
        assert_eq!(s.plan().unwrap().chunks.len(), rows);
    }
}

#[test]
fn the_watermark_holds_back_admission_only_while_something_runs() {
    let config = SchedulerConfig { watermark: 0.5, max_num_batched_tokens: 64, ..config() };
    let mut s = scheduler(config, &[request(1, 20, 9), request(2, 4, 9)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 20, true)], "3 of 8 pages are free, 1 + 4 asked");
}

#[test]
fn without_chunked_prefill_a_prompt_is_never_cut() {
    let config = SchedulerConfig {
        chunked_prefill: false,
        max_num_batched_tokens: 32,
        long_prefill_token_threshold: 5,
        pages: 99,
        ..config()
    };
    let mut s = scheduler(config, &[request(1, 10, 9), request(2, 20, 9), request(3, 12, 9)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 10, true), (1, 20, true)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 1, true), (1, 1, true), (2, 12, true)]);
}

#[test]
fn the_threshold_cuts_long_prompts() {
    let config = SchedulerConfig { long_prefill_token_threshold: 6, ..config() };
    let mut s = scheduler(config, &[request(1, 13, 9), request(2, 5, 9)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 6, false), (1, 5, true)]);
}

#[test]
fn an_adaptive_threshold_is_a_fair_share_where_that_is_more() {
    let adaptive = SchedulerConfig {
        long_prefill_token_threshold: 6,
        long_prefill_adaptive: true,
        ..config()
    };
    let mut s = scheduler(adaptive.clone(), &[request(1, 13, 9)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 13, true)], "alone it may have the whole step");
    let mut s = scheduler(adaptive.clone(), &[request(1, 13, 9), request(2, 5, 9)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 8, false), (1, 5, true)], "half of 16 each");
    let crowd: Vec<_> = (1..=4).map(|id| request(id, 7, 9)).collect();
    let mut s = scheduler(adaptive, &crowd);
    assert_eq!(shares(&s.plan().unwrap())[..2], [(0, 6, false), (1, 6, false)], "never below 6");
}

#[test]
fn a_prefix_is_hit_from_the_step_after_the_one_that_writes_it() {
    let mut s = scheduler(config(), &[request(1, 9, 9)]);
    let mut twin = request(1, 9, 9);
    twin.id = RequestId(2);
    s.add(twin.clone()).unwrap();
    assert_eq!(shares(&s.plan().unwrap()), [(0, 9, true), (1, 7, false)]);
    twin.id = RequestId(3);
    s.add(twin).unwrap();
    assert_eq!(shares(&s.plan().unwrap()), [(0, 1, true), (1, 2, true), (2, 1, true)]);
    let stats = s.stats();
    assert_eq!((stats.prefix_queries_tokens, stats.prefix_hits_tokens), (27, 8));
    s.check();
}

#[test]
fn what_can_never_run_is_refused_by_name_and_number() {
    let mut s = scheduler(config(), &[]);
    for (new, text) in [
        (
            request(1, 32, 1),
            "The prompt has 32 tokens and needs room for one more, max_model_len is 32",
        ),
        (request(1, 0, 1), "no tokens"),
        (request(1, 1, 0), "max_tokens must be at least 1"),
    ] {
        let message = s.add(new).unwrap_err().to_string();
        assert!(message.contains(text), "{message}");
    }
    assert_eq!(s.waiting_len(), 0);

    for (config, text) in [
        (
            SchedulerConfig { pages: 8, ..config() },
            "28 tokens (7 pages of 4), one request may take 32",
        ),
        (SchedulerConfig { max_num_batched_tokens: 3, ..config() }, "max_num_seqs (4)"),
        (SchedulerConfig { chunked_prefill: false, ..config() }, "max_model_len (32)"),
        (SchedulerConfig { max_num_seqs: 0, ..config() }, "max_num_seqs must be"),
        (SchedulerConfig { watermark: 1.0, ..config() }, "watermark must be in [0, 1)"),
    ] {
        let message = Scheduler::new(config).unwrap_err().to_string();
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn the_urgent_wait_in_front_of_the_patient_and_behind_tnext_equals() {
    let urgency = [5, 9, 5, 1, 9];
    let requests: Vec<NewSequence> =
        (0..5).map(|i| NewSequence { priority: urgency[i as usize], ..request(i, 4, 1) }).collect();
    let mut one = scheduler(SchedulerConfig { max_num_seqs: 1, ..config() }, &requests);
    let mut order = Vec::new();
    while let Some(plan) = one.plan() {
        order.extend(one.commit(&answer(&plan, 7)).into_iter().map(|arrival| arrival.id.0));
    }
    assert_eq!(order, [3, 0, 2, 1, 4]);
}

/// Sequences of one request: the first computes the prompt, the others take its full pages, and
/// whoever came after them is served meanwhile.
#[test]
fn siblings_share_the_prompts_pages() {
    let first = request(1, 10, 8);
    let other = |id| NewSequence { id: RequestId(id), primary: Some(first.id), ..first.clone() };
    let all = [first.clone(), other(2), other(3), request(4, 4, 1)];
    let mut s = scheduler(SchedulerConfig { max_num_batched_tokens: 8, ..config() }, &all);
    assert_eq!((s.waiting_len(), s.stats().waiting), (4, 4));
    let plan = s.plan().unwrap();
    assert_eq!(shares(&plan), [(0, 8, false)], "a part of the prompt: nobody follows yet");
    let plan = s.plan().unwrap();
    assert_eq!(shares(&plan), [(0, 2, true), (1, 4, true)], "the stranger does not wait");
    s.commit(&StepResult { step: 1, ..StepResult::default() });
    let plan = s.plan().unwrap();
    assert_eq!(shares(&plan), [(0, 1, true), (2, 2, true), (3, 2, true)], "two full pages hit");
    // Three pages of the first, one each of the others and the stranger's.
    s.check();
    assert_eq!(s.stats().kv_usage, 6.0 / 8.0);
    assert_eq!(s.stats().prefix_hits_tokens, 16);
}

#[test]
fn siblings_of_whoever_is_over_are_served() {
    let first = request(1, 10, 8);
    let other = |id| NewSequence { id: RequestId(id), primary: Some(first.id), ..first.clone() };
    let all = [first.clone(), other(2), other(3), other(4)];
    let mut s = scheduler(SchedulerConfig { max_num_batched_tokens: 8, ..config() }, &all);
    assert!(s.finish(RequestId(3)) && !s.finish(RequestId(3)), "also while it follows");
    assert!(s.finish(first.id));
    assert_eq!(s.waiting_len(), 2);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 8, false)]);
    // Without the cache there is nothing to wait for.
    let plain = SchedulerConfig { prefix_caching: false, max_num_batched_tokens: 32, ..config() };
    let mut s = scheduler(plain, &[first.clone(), other(2)]);
    assert_eq!(shares(&s.plan().unwrap()), [(0, 10, true), (1, 10, true)]);
}

/// It leaves, and what it wrote is hit by nobody: not by its own kind, and not by who shares its
/// beginning, for NaN may lie before the token that is to blame.
#[test]
fn a_sequence_without_finite_logits_is_over_and_its_pages_forgotten() {
    let alike = |id| NewSequence { id: RequestId(id), ..request(1, 9, 5) };
    let mut s = scheduler(config(), &[alike(1), request(2, 3, 5)]);
    let plan = s.plan().unwrap();
    let mut result = answer(&plan, 7);
    result.samples[0].tokens = Err(NonFinite);
    let broken = Arrival { token: Err(NonFinite), ..arrival(1, 0, false) };
    assert_eq!(s.commit(&result), [broken, Arrival { sample: 1, ..arrival(2, 7, false) }]);
    assert!(!s.finish(RequestId(1)), "it has left");
    s.check();
    s.add(alike(3)).unwrap();
    let plan = s.plan().unwrap();
    assert_eq!(shares(&plan), [(1, 1, true), (0, 9, true)], "all of the prompt is computed");
    assert_eq!(s.stats().prefix_hits_tokens, 0);
    s.commit(&answer(&plan, 7));
    s.add(alike(4)).unwrap();
    assert_eq!(shares(&s.plan().unwrap())[2], (2, 1, true), "and may be hit again");
}

/// Whoever wrote the pages it shares may be to blame: it gets a second chance, alone.
#[test]
fn without_finite_logits_after_a_hit_a_sequence_starts_again_without_the_cache() {
    let alike = |id| NewSequence { id: RequestId(id), ..request(1, 9, 5) };
    let mut s = scheduler(config(), &[alike(1)]);
    let plan = s.plan().unwrap();
    s.commit(&answer(&plan, 7));
    s.add(alike(2)).unwrap();
    let plan = s.plan().unwrap();
    assert_eq!(shares(&plan), [(0, 1, true), (1, 1, true)], "the second hits two pages");
    let mut result = answer(&plan, 7);
    result.samples[1].tokens = Err(NonFinite);
    assert_eq!(s.commit(&result), [arrival(1, 7, false)], "nothing is said of the second");
    s.check();
    let plan = s.plan().unwrap();
    assert_eq!(shares(&plan), [(0, 1, true), (1, 9, true)]);
    let mut result = answer(&plan, 7);
    assert_eq!(s.commit(&result).len(), 2, "this time it goes well");
    let plan = s.plan().unwrap();
    result = answer(&plan, 7);
    result.samples[1].tokens = Err(NonFinite);
    let over = Arrival { token: Err(NonFinite), sample: 1, ..arrival(2, 0, false) };
    assert_eq!(s.commit(&result)[1], over, "it is over: it had no page of others");
    s.check();
}

/// Case 10: with four slots, a request of nine sequences has the first four places in the queue as
/// anybody would; each further one lets one more of those who came later pass.
#[test]
fn a_request_of_many_sequences_lets_others_pass() {
    let first = request(1, 3, 1);
    let other = |id| NewSequence { id: RequestId(id), primary: Some(first.id), ..first.clone() };
    let mut all: Vec<NewSequence> = (2..=9).map(other).collect();
    all.insert(0, first.clone());
    all.extend([request(20, 3, 1), request(21, 3, 1)]);
    // With the cache the others wait for the prompt of the first anyway.
    for (prefix_caching, order) in
        [(true, [1, 20, 21, 2, 3, 4, 5, 6, 7, 8, 9]), (false, [1, 2, 3, 4, 20, 5, 21, 6, 7, 8, 9])]
    {
        let config = SchedulerConfig {
            max_num_seqs: 4,
            pages: 65,
            prefix_caching,
            max_num_batched_tokens: 12,
            ..config()
        };
        let mut s = scheduler(config, &all);
        let mut admitted = Vec::new();
        while let Some(plan) = s.plan() {
            admitted.extend(s.take_admitted().map(|id| id.0));
            s.commit(&answer(&plan, 7));
        }
        assert_eq!(admitted, order, "caching {prefix_caching}");
        s.check();
    }
}

#[test]
fn a_sequence_may_ask_not_to_read_the_cache() {
    let first = request(1, 10, 1);
    for (skip_cache, fed) in [(false, 2), (true, 10)] {
        let mut s = scheduler(config(), std::slice::from_ref(&first));
        let plan = s.plan().unwrap();
        s.commit(&answer(&plan, 7));
        let new = NewSequence { id: RequestId(2), skip_cache, ..first.clone() };
        let sibling = NewSequence { id: RequestId(3), primary: Some(RequestId(2)), ..new.clone() };
        s.add(new).unwrap();
        if skip_cache {
            s.add(sibling).unwrap();
        }
        let fed_now: Vec<usize> =
            s.plan().unwrap().chunks.iter().map(|chunk| chunk.feed.tokens()).collect();
        assert_eq!(fed_now[0], fed);
        assert!(!skip_cache || fed_now[1] == 16 - 10, "it waits for nobody");
    }
}

/// Its mask was late: the token of that step counts nowhere, and the last one is fed once more.
#[test]
fn who_skips_a_step_takes_it_again() {
    let mut s = scheduler(config(), &[request(1, 3, 9), request(2, 3, 9)]);
    let first = s.plan().unwrap();
    s.commit(&answer(&first, 7));
    let second = s.plan().unwrap();
    s.skip_step(RequestId(1));
    s.skip_step(RequestId(99));
    let arrived: Vec<RequestId> = s.commit(&answer(&second, 8)).iter().map(|a| a.id).collect();
    assert_eq!(arrived, [RequestId(2)]);

    let third = s.plan().unwrap();
    assert_eq!(shares(&third), [(1, 1, true)], "held");
    let [SlotChange::Close { .. }, SlotChange::Open(open), SlotChange::Pages { pages, .. }, ..] =
        &third.changes[..]
    else {
        panic!("{:?}", third.changes)
    };
    assert_eq!((open.cached_tokens, open.tokens.len(), pages.len()), (3, 4, 1));

    s.hold(RequestId(1), false);
    let fourth = s.plan().unwrap();
    assert_eq!(shares(&fourth)[0], (0, 1, true));
    let Feed::Known(range) = &fourth.chunks[0].feed else { panic!("a known token") };
    assert_eq!(fourth.chunk_tokens[range.clone()], [TokenId(7)]);
    s.commit(&answer(&third, 9));
    assert!(s.commit(&answer(&fourth, 10)).contains(&arrival(1, 10, false)));
    s.finish(RequestId(1));
    s.finish(RequestId(2));
    s.check();
}

/// A held sequence keeps its place, others go on, and a preemption lets it run again.
#[test]
fn who_is_held_has_no_rows() {
    let mut s = scheduler(config(), &[request(1, 3, 20), request(2, 3, 20)]);
    let first = s.plan().unwrap();
    assert_eq!(s.id_in(first.chunks[1].slot), RequestId(2));
    s.hold(RequestId(1), true);
    s.hold(RequestId(99), true);
    let second = s.plan().unwrap();
    assert_eq!(shares(&second), [(1, 1, true)]);
    s.commit(&answer(&first, 7));
    s.commit(&answer(&second, 7));
    s.hold(RequestId(2), true);
    assert!(s.plan().is_none(), "nobody may run");
    s.hold(RequestId(1), false);
    let third = s.plan().unwrap();
    assert_eq!(shares(&third), [(0, 1, true)]);
    assert_eq!(third.chunks[0].feed, Feed::LastSampled);
    s.preempt_last();
    s.commit(&answer(&third, 7));
    let fourth = s.plan().unwrap();
    assert_eq!(shares(&fourth), [(0, 1, true), (1, 1, true)], "it runs, four tokens are cached");
    assert!(matches!(fourth.chunks[1].feed, Feed::Known(_)));
}
