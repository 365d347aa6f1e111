//! Grammars on the engine thread: which rows of a step need a token mask, and what becomes of
//! sequences whose mask takes long. Called by the loop in `step`.

use std::time::{Duration, Instant};

use super::state::{ActiveSequence, Matcher, SkippedStep, StepLoop};
use crate::engine::grammar::MatcherState;
use crate::engine::request::{Finish, FinishReason};
use crate::error::Result;
use crate::ids::{RequestId, SlotId, TokenId};
use crate::plan::{Purpose, StepPlan, TokenMasks};
use crate::text::Next;

/// What a step's rows wait for all of its masks together, once the device is done; a sequence
/// without a mask then skips the step.
const MASK_WAIT: Duration = Duration::from_millis(20);

/// A sequence of a step with a grammar.
pub(super) struct Constrained {
    slot: SlotId,
    id: RequestId,
    /// What it feeds behind its newest token.
    drafts: Vec<TokenId>,
}

impl StepLoop {
    /// The sampling rows of a new plan that have a grammar. The sequence of a slow one is held
    /// until its mask is there, so that nobody waits for it.
    pub(super) fn rows_with_grammar(&mut self, plan: &StepPlan) -> Vec<Constrained> {
        let mut constrained = Vec::new();
        let mut slow = Vec::new();
        let mut drafts = Vec::new();
        for row in &plan.logits {
            match row.purpose {
                Purpose::Verify { draft } => drafts.push(draft),
                Purpose::Report { .. } => {}
                Purpose::Sample => {
                    let drafts = std::mem::take(&mut drafts);
                    let slot = plan.chunks[row.chunk].slot;
                    let id = self.scheduler.id_in(slot);
                    match self.active.get(&id).and_then(|active| active.matcher.as_ref()) {
                        Some(Matcher::Here(matcher)) if matcher.is_slow() => slow.push(id),
                        Some(_) => {}
                        None => continue,
                    }
                    constrained.push(Constrained { slot, id, drafts });
                }
            }
        }

        for id in slow {
            self.scheduler.hold(id, true);
            if let Some(active) = self.active.get_mut(&id) {
                active.held = true;
            }
        }
        constrained
    }

    /// The masks of these rows. Sequences that ended meanwhile have none: what is sampled for them
    /// is dropped. Neither has one whose masks are not there yet: it skips the step.
    pub(super) fn token_masks(&mut self, constrained: Vec<Constrained>) -> Result<TokenMasks> {
        let mut masks = TokenMasks::default();
        let until = Instant::now() + MASK_WAIT;
        // Those with drafts have more to compute, once they know what is before them.
        for Constrained { id, drafts, .. } in &constrained {
            if !drafts.is_empty() && self.wait_for_matcher(*id, until)? {
                self.look_ahead(*id, drafts);
            }
        }

        for Constrained { slot, id, drafts } in constrained {
            let ahead = !drafts.is_empty();
            if !self.wait_for_matcher(id, until)? {
                self.skip_step(id, ahead);
                continue;
            }
            let Some(active) = self.active.get(&id) else { continue };
            let Some(Matcher::Here(matcher)) = &active.matcher else { continue };
            match (matcher.next(), matcher.ahead()) {
                (Ok(Next::Mask(_)), None) if ahead => {
                    self.scheduler.allow_drafts(id, false);
                    self.scheduler.skip_step(id);
                    self.scheduler.hold(id, false);
                }
                (Ok(Next::Mask(mask)), behind) => {
                    let behind = behind.filter(|_| ahead).unwrap_or_default();
                    let all = std::iter::once(mask).chain(behind);
                    masks.by_slot.extend(all.map(|mask| (slot, mask.clone())));
                }
                (Ok(Next::End), _) => {}
                (Err(error), _) => {
                    let error = error.clone();
                    self.fail(active.ids, error);
                }
            }
        }
        Ok(masks)
    }

    /// Let the matcher of this sequence find what may follow its drafts, elsewhere.
    fn look_ahead(&mut self, id: RequestId, drafts: &[TokenId]) {
        let Some(active) = self.active.get_mut(&id) else { return };
        if let Some(Matcher::Here(matcher_state)) = active.matcher.replace(Matcher::Away) {
            self.matchers.look_ahead(id, &active.client, matcher_state, drafts.to_vec());
        }
    }

    /// Obey commands until the matcher of this sequence is back, or the sequence is over. False: it
    /// was not back in time.
    fn wait_for_matcher(&mut self, id: RequestId, until: Instant) -> Result<bool> {
        let away = |active: &ActiveSequence| matches!(active.matcher, Some(Matcher::Away));
        while self.active.get(&id).is_some_and(away) {
            match self.commands.recv_deadline(until) {
                Ok(command) => self.apply(command)?,
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The masks of this sequence are not there, and the others of the step are not to wait for
    /// them. `ahead`: those behind drafts are missing, at least.
    fn skip_step(&mut self, id: RequestId, ahead: bool) {
        self.scheduler.skip_step(id);
        if let Some(active) = self.active.get_mut(&id) {
            active.held = true;
            active.skipped_step = Some(SkippedStep { ahead });
        }
    }

    /// A matcher is back from the tokens that its sequence sampled, or from its drafts.
    pub(super) fn take_matcher(&mut self, id: RequestId, mut matcher_state: Box<MatcherState>) {
        let Some(active) = self.active.get_mut(&id) else { return };
        if let Some(SkippedStep { ahead }) = active.skipped_step.take() {
            matcher_state.has_skipped_step(ahead);
        }
        self.scheduler.allow_drafts(id, matcher_state.sees_ahead());
        let over = matches!(matcher_state.next(), Ok(Next::End));
        active.matcher = Some(Matcher::Here(matcher_state));

        let held = std::mem::take(&mut active.held);
        if let Some(token) = active.withheld.take() {
            let finish = over.then_some(Finish { reason: FinishReason::Stop, by_token: false });
            self.tell(id, *token, finish);
        }
        if held && self.active.contains_key(&id) {
            self.scheduler.hold(id, false);
        }
    }

    /// Let a sequence's matcher take the tokens that came, elsewhere. Not of a sequence that is
    /// over.
    pub(super) fn advance_matcher(&mut self, id: RequestId) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let tokens = std::mem::take(&mut active.unmatched);
        if let Some(Matcher::Here(matcher_state)) = active.matcher.replace(Matcher::Away) {
            self.matchers.advance(id, &active.client, matcher_state, tokens);
        }
    }
}
