//! Grammars on the engine thread: which rows of a step need a mask, and what becomes of sequences
//! whose mask takes long. Part of `step`, whose loop calls it.

use std::time::Instant;

use super::super::command::Finish;
use super::super::grammar_matchers::{MatcherState, MatcherThreads, Place, MASK_WAIT};
use super::super::request::FinishReason;
use super::{Core, Live};
use crate::error::Result;
use crate::ids::{RequestId, SlotId, TokenId};
use crate::plan::{StepPlan, TokenMasks};
use crate::text::Next;

impl Core {
    /// The sampling rows of a new plan that have a grammar. A slow one gets no further row until
    /// its mask is there, so that nobody waits for it.
    pub(super) fn rows_with_grammar(&mut self, plan: &StepPlan) -> Vec<(SlotId, RequestId)> {
        let (mut constrained, mut slow) = (Vec::new(), Vec::new());
        for slot in plan.sampled() {
            let id = self.scheduler.id_in(slot);
            match self.live.get(&id).and_then(|live| live.matcher.as_ref()) {
                Some(Place::Here(matcher)) if matcher.is_slow() => slow.push(id),
                Some(_) => {}
                None => continue,
            }
            constrained.push((slot, id));
        }
        for id in slow {
            self.scheduler.hold(id, true);
            if let Some(live) = self.live.get_mut(&id) {
                live.held = true;
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
            loop {
                match self.live.get(&id).map(|live| (live.ids, &live.matcher)) {
                    Some((_, Some(Place::Away))) => match self.commands.recv_deadline(until) {
                        Ok(command) => self.apply(command)?,
                        Err(_) => {
                            self.skip_step(id);
                            break;
                        }
                    },
                    Some((ids, Some(Place::Here(matcher)))) => {
                        match matcher.next() {
                            Ok(Next::Mask(mask)) => masks.by_slot.push((slot, mask.clone())),
                            Ok(Next::End) => {}
                            Err(error) => {
                                let error = error.clone();
                                self.fail(ids, error);
                            }
                        }
                        break;
                    }
                    _ => break,
                }
            }
        }
        Ok(masks)
    }

    /// The mask of this sequence is not there, and the others of the step are not to wait for it.
    fn skip_step(&mut self, id: RequestId) {
        self.scheduler.skip_step(id);
        if let Some(live) = self.live.get_mut(&id) {
            live.held = true;
            live.skips_step = true;
        }
    }

    /// A matcher is back from the token that its sequence sampled.
    pub(super) fn take_matcher(&mut self, id: RequestId, mut matcher_state: Box<MatcherState>) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if std::mem::take(&mut live.skips_step) {
            matcher_state.has_skipped_step();
        }
        let over = matches!(matcher_state.next(), Ok(Next::End));
        live.matcher = Some(Place::Here(matcher_state));
        let held = std::mem::take(&mut live.held);
        if let Some(token) = live.unsaid.take() {
            let finish = over.then_some(Finish { reason: FinishReason::Stop, by_token: false });
            self.tell(id, *token, finish);
        }
        if held && self.live.contains_key(&id) {
            self.scheduler.hold(id, false);
        }
    }
}

/// Let a sequence's matcher take the token, elsewhere. False: the model has no token that ends a
/// text, so that the matcher has to say whether this one was the last.
pub(super) fn advance_matcher(
    matchers: &MatcherThreads,
    id: RequestId,
    live: &mut Live,
    token: TokenId,
) -> bool {
    let Some(Place::Here(matcher_state)) = live.matcher.replace(Place::Away) else { return true };
    let has_end = matcher_state.has_end();
    matchers.advance(id, &live.client, matcher_state, token);
    has_end
}
