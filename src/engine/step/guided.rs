//! Grammars on the engine thread: which rows of a step need a mask, and what becomes of sequences
//! whose mask takes long. Part of `step`, whose loop calls it.

use std::time::Instant;

use super::super::command::Finish;
use super::super::guides::{Guided, Guides, Place, MASK_WAIT};
use super::super::request::FinishReason;
use super::{Core, Live};
use crate::error::Result;
use crate::ids::{RequestId, SlotId, TokenId};
use crate::plan::{Late, StepPlan};
use crate::text::Next;

impl Core {
    /// The sampling rows of a new plan that have a grammar. A slow one gets no further row until
    /// its mask is there, so that nobody waits for it.
    pub(super) fn guided(&mut self, plan: &StepPlan) -> Vec<(SlotId, RequestId)> {
        let (mut guided, mut slow) = (Vec::new(), Vec::new());
        for row in plan.rows.iter().filter(|row| row.sample) {
            let id = self.scheduler.id_in(row.slot);
            match self.live.get(&id).and_then(|live| live.guide.as_ref()) {
                Some(Place::Here(guide)) if guide.is_slow() => slow.push(id),
                Some(_) => {}
                None => continue,
            }
            guided.push((row.slot, id));
        }
        for id in slow {
            self.scheduler.hold(id, true);
            if let Some(live) = self.live.get_mut(&id) {
                live.held = true;
            }
        }
        guided
    }

    /// The masks of these rows. Sequences that ended meanwhile have none: what is sampled for them
    /// is dropped. Neither has one whose mask is late: it sits the step out.
    pub(super) fn late(&mut self, guided: Vec<(SlotId, RequestId)>) -> Result<Late> {
        let mut late = Late::default();
        let until = Instant::now() + MASK_WAIT;
        for (slot, id) in guided {
            loop {
                match self.live.get(&id).map(|live| (live.ids, &live.guide)) {
                    Some((_, Some(Place::Away))) => match self.commands.recv_deadline(until) {
                        Ok(command) => self.apply(command)?,
                        Err(_) => {
                            self.sit_out(id);
                            break;
                        }
                    },
                    Some((ids, Some(Place::Here(guide)))) => {
                        match guide.next() {
                            Ok(Next::Mask(mask)) => late.masks.push((slot, mask.clone())),
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
        Ok(late)
    }

    /// The mask of this sequence is not there, and the others of the step are not to wait for it.
    fn sit_out(&mut self, id: RequestId) {
        self.scheduler.sit_out(id);
        if let Some(live) = self.live.get_mut(&id) {
            live.held = true;
            live.late = true;
        }
    }

    /// A guide is back from the token that its sequence sampled.
    pub(super) fn take_guide(&mut self, id: RequestId, mut guided: Box<Guided>) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if std::mem::take(&mut live.late) {
            guided.was_late();
        }
        let over = matches!(guided.next(), Ok(Next::End));
        live.guide = Some(Place::Here(guided));
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

/// Let a sequence's guide take the token, elsewhere. False: the model has no token that ends a
/// text, so that the guide has to say whether this one was the last.
pub(super) fn guide_on(guides: &Guides, id: RequestId, live: &mut Live, token: TokenId) -> bool {
    let Some(Place::Here(guided)) = live.guide.replace(Place::Away) else { return true };
    let has_end = guided.has_end();
    guides.advance(id, &live.client, guided, token);
    has_end
}
