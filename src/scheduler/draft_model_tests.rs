//! A model that drafts: how it catches up with a long prompt, and goes back behind a wrong guess.
//! That it always has what it should `tests/sim/` searches.

use super::tests::{answer, config, request, scheduler, shares};
use super::*;
use crate::ids::{SlotId, TokenId};
use crate::plan::{Feed, Sampled, SlotChange, StepResult};

/// Three drafts, eight tokens of a step.
fn drafting() -> SchedulerConfig {
    let speculation = SpeculationConfig {
        method: DraftMethod::Model(DraftModel { longest: 64, samples: true }),
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
