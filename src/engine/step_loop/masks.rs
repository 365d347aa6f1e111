//! Grammars on the engine thread: which rows of a step need a token mask, and what becomes of
//! sequences whose mask takes long. Called by the loop in `step`.

use std::time::{Duration, Instant};

use super::state::{ActiveSequence, Matcher, StepLoop};
use crate::engine::grammar::{MatcherState, MatcherThreads};
use crate::engine::request::{Finish, FinishReason};
use crate::error::Result;
use crate::ids::{RequestId, SlotId, TokenId};
use crate::plan::{StepPlan, TokenMasks};
use crate::text::Next;

/// What a step's rows wait for all of its masks together, once the device is done; a sequence
/// without a mask then skips the step.
const MASK_WAIT: Duration = Duration::from_millis(20);

impl StepLoop {
    /// The sampling rows of a new plan that have a grammar. The sequence of a slow one is held
    /// until its mask is there, so that nobody waits for it.
    pub(super) fn rows_with_grammar(&mut self, plan: &StepPlan) -> Vec<(SlotId, RequestId)> {
        let mut constrained = Vec::new();
        let mut slow = Vec::new();
        for slot in plan.sampled() {
            let id = self.scheduler.id_in(slot);
            match self.active.get(&id).and_then(|active| active.matcher.as_ref()) {
                Some(Matcher::Here(matcher)) if matcher.is_slow() => slow.push(id),
                Some(_) => {}
                None => continue,
            }
            constrained.push((slot, id));
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
    /// is dropped. Neither has one whose mask is not there yet: it skips the step.
    pub(super) fn token_masks(
        &mut self,
        constrained: Vec<(SlotId, RequestId)>,
    ) -> Result<TokenMasks> {
        let mut masks = TokenMasks::default();
        let until = Instant::now() + MASK_WAIT;
        for (slot, id) in constrained {
            if !self.wait_for_matcher(id, until)? {
                self.skip_step(id);
                continue;
            }
            let Some(active) = self.active.get(&id) else { continue };
            let Some(Matcher::Here(matcher)) = &active.matcher else { continue };
            match matcher.next() {
                Ok(Next::Mask(mask)) => masks.by_slot.push((slot, mask.clone())),
                Ok(Next::End) => {}
                Err(error) => {
                    let error = error.clone();
                    self.fail(active.ids, error);
                }
            }
        }
        Ok(masks)
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

    /// The mask of this sequence is not there, and the others of the step are not to wait for it.
    fn skip_step(&mut self, id: RequestId) {
        self.scheduler.skip_step(id);
        if let Some(active) = self.active.get_mut(&id) {
            active.held = true;
            active.skipped_step = true;
        }
    }

    /// A matcher is back from the token that its sequence sampled.
    pub(super) fn take_matcher(&mut self, id: RequestId, mut matcher_state: Box<MatcherState>) {
        let Some(active) = self.active.get_mut(&id) else { return };
        if std::mem::take(&mut active.skipped_step) {
            matcher_state.has_skipped_step();
        }
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
}

/// Let a sequence's matcher take the token, elsewhere. False: the model has no token that ends a
/// text, so that the matcher has to say whether this one was the last.
pub(super) fn advance_matcher(
    matchers: &MatcherThreads,
    id: RequestId,
    active: &mut ActiveSequence,
    token: TokenId,
) -> bool {
    let Some(Matcher::Here(matcher_state)) = active.matcher.replace(Matcher::Away) else {
        return true;
    };
    let has_end = matcher_state.has_end();
    matchers.advance(id, &active.client, matcher_state, token);
    has_end
}
