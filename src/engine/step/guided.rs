//! Sequences with a grammar on the engine thread: which rows of a plan need a mask, and the masks
//! once they are there. Part of `step`, whose loop calls it.

use super::Core;
use crate::engine::guides::Place;
use crate::error::Result;
use crate::ids::{RequestId, SlotId};
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
    /// is dropped.
    pub(super) fn late(&mut self, guided: Vec<(SlotId, RequestId)>) -> Result<Late> {
        let mut late = Late::default();
        for (slot, id) in guided {
            loop {
                match self.live.get(&id).map(|live| (live.ids, &live.guide)) {
                    Some((_, Some(Place::Away))) => {
                        let command = self.commands.recv();
                        self.apply(command.map_err(|_| crate::internal!("no thread is left"))?)?;
                    }
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
}
