//! A model that drafts: how it catches up with a long prompt, and goes back behind a wrong guess.
//! That it always has what it should `tests/sim/` searches.

use super::tests::{answer, config, request, scheduler, shares};
use super::*;
use crate::ids::{SlotId, TokenId};
use crate::plan::{Feed, Sampled, SlotChange, StepResult};

/// Three drafts, eight tokens of a step.
fn drafting() -> SchedulerConfig {
    let speculation = SpeculationConfig {
        method: DraftMethod::Model(DraftModel { longest: 64, samples: true, head: false }),
        lengths: DraftLengths::constant(3),
        rows: 64,
    };
    SchedulerConfig {
        speculation: Some(speculation),
        max_num_batched_tokens: 8,
        max_model_len: 64,
        pages: 40,
        depth: 1,
        ..config()
    }
}

/// The model says these tokens, one in each step.
fn say(s: &mut Scheduler, plans: &[StepPlan], tokens: &[u32]) {
    let results: Vec<StepResult> =
        plans.iter().zip(tokens).map(|(plan, &token)| answer(plan, token)).collect();
    assert_eq!(results.len(), plans.len());
    s.take_drafts(&results);
}

fn lengths(plan: &StepPlan) -> Vec<u32> {
    let lengths = plan.changes.iter().filter_map(|change| match change {
        SlotChange::Truncate { length, .. } => Some(*length),
        _ => None,
    });
    lengths.collect()
}

fn accept(s: &mut Scheduler, plan: &StepPlan, tokens: &[u32]) {
    let tokens = Ok(tokens.iter().map(|&token| TokenId(token)).collect());
    let samples = vec![Sampled { slot: SlotId(0), tokens, logprobs: Vec::new() }];
    s.commit(&StepResult { step: plan.step, samples, ..StepResult::default() });
}

#[test]
fn it_catches_up_then_guesses_and_goes_back_to_what_was_right() {
    let mut s = scheduler(drafting(), &[request(1, 20, 30)]);
    for _ in 0..3 {
        assert!(s.plan_drafts().is_empty(), "there is no output yet");
        let plan = s.plan().unwrap();
        s.commit(&answer(&plan, 90));
    }

    // 21 tokens, of which it knows none.
    for output in [91, 92] {
        let plans = s.plan_drafts();
        assert_eq!(plans.iter().map(shares).collect::<Vec<_>>(), [[(0, 8, false)]]);
        say(&mut s, &plans, &[0]);
        let plan = s.plan().unwrap();
        assert_eq!(shares(&plan), [(0, 1, true)]);
        s.commit(&answer(&plan, output));
    }

    let plans = s.plan_drafts();
    let steps: Vec<u64> = plans.iter().map(|plan| plan.step).collect();
    assert_eq!(steps, [3, 4, 5]);
    assert_eq!(shares(&plans[0]), [(0, 7, true)]);
    assert!(plans[1..].iter().all(|plan| plan.chunks[0].feed == Feed::LastSampled));
    say(&mut s, &plans, &[1, 2, 3]);
    let plan = s.plan().unwrap();
    assert_eq!(plan.chunk_tokens, [92, 1, 2, 3].map(TokenId));
    accept(&mut s, &plan, &[1, 2, 7]);

    // It has fed 1 and 2, which were right.
    let plans = s.plan_drafts();
    assert_eq!((lengths(&plans[0]), &plans[0].chunk_tokens[..]), (vec![], &[TokenId(7)][..]));
    say(&mut s, &plans, &[4, 5, 6]);
    let plan = s.plan().unwrap();
    accept(&mut s, &plan, &[9]);
    let plans = s.plan_drafts();
    assert_eq!((lengths(&plans[0]), &plans[0].chunk_tokens[..]), (vec![26], &[TokenId(9)][..]));
    say(&mut s, &plans, &[0, 0, 0]);
    s.check();
}

/// The speculation of a head.
fn with_head() -> SchedulerConfig {
    let mut config = drafting();
    if let Some(speculation) = &mut config.speculation {
        speculation.method =
            DraftMethod::Model(DraftModel { longest: 64, samples: true, head: true });
    }
    config
}

fn tokens(range: std::ops::Range<u32>) -> Vec<TokenId> {
    range.map(TokenId).collect()
}

#[test]
fn a_head_is_fed_the_token_behind_each_position_and_all_accepted_ones_anew() {
    let mut s = scheduler(with_head(), &[request(1, 7, 30)]);
    let plan = s.plan().unwrap();
    s.commit(&answer(&plan, 90));

    // Eight tokens are known: the model computed seven positions.
    let plans = s.plan_drafts();
    assert_eq!(
        plans.iter().map(shares).collect::<Vec<_>>()[..],
        [vec![(0, 7, true)], vec![(0, 1, true)], vec![(0, 1, true)]]
    );
    assert_eq!(plans[0].chunk_tokens, [tokens(1001..1007), tokens(90..91)].concat());
    let ahead = plans[0].changes.iter().find_map(|change| match change {
        SlotChange::Open(open) => Some((open.cached_tokens, open.sampler.ahead)),
        _ => None,
    });
    assert_eq!(ahead, Some((0, 1)));
    say(&mut s, &plans, &[1, 2, 3]);
    let plan = s.plan().unwrap();
    assert_eq!(plan.chunk_tokens, [90, 1, 2, 3].map(TokenId));
    accept(&mut s, &plan, &[1, 2, 7]);

    // Two guesses were right, and were made of its own hidden states.
    let plans = s.plan_drafts();
    let fed = &plans[0].chunk_tokens[..];
    assert_eq!((lengths(&plans[0]), fed), (vec![7], &[1, 2, 7].map(TokenId)[..]));
    say(&mut s, &plans, &[4, 5, 6]);
    s.check();
}

/// The last row of a page was made of the token behind the page.
#[test]
fn a_head_has_a_page_again_as_far_as_the_same_token_follows() {
    for (token, cached) in [(1008, 8), (77, 7)] {
        let mut s = scheduler(with_head(), &[request(1, 9, 20)]);
        for _ in 0..2 {
            let plan = s.plan().unwrap();
            s.commit(&answer(&plan, 90));
            let plans = s.plan_drafts();
            say(&mut s, &plans, &vec![1; plans.len()]);
        }
        // Pages of four: two of them are hit, behind which `token` comes.
        let mut other = request(2, 9, 9);
        other.prompt = [tokens(1000..1008), vec![TokenId(token)]].concat().into();
        s.add(other).unwrap();
        let mut opened = None;
        for _ in 0..6 {
            let Some(plan) = s.plan() else { break };
            s.commit(&answer(&plan, 91));
            let plans = s.plan_drafts();
            let changes = plans.iter().flat_map(|plan| &plan.changes);
            opened = opened.or(changes
                .filter_map(|change| match change {
                    SlotChange::Open(open) => Some(open.cached_tokens),
                    _ => None,
                })
                .next_back());
            say(&mut s, &plans, &vec![1; plans.len()]);
        }
        assert_eq!(opened, Some(cached), "behind {token}");
    }
}
