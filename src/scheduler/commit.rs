//! The results of steps: tokens to their sequences, and what becomes of those whose logits were not
//! finite. Called by `engine`, in the order in which steps were planned.

use super::report::Arrival;
use super::state::Scheduler;
use crate::ids::{SlotId, TokenId};
use crate::plan::{SlotChange, StepResult};
use crate::sampling::NonFinite;

impl Scheduler {
    /// Take the result of the oldest planned step: append its tokens to their sequences and say
    /// whose they are. Drops tokens of sequences that are over or were preempted since. A sequence
    /// whose logits were not finite is over, or starts again without the cache if pages of others
    /// may be to blame.
    pub fn commit(&mut self, result: &StepResult) -> Vec<Arrival> {
        let mut arrivals = Vec::with_capacity(result.samples.len());
        for (sample, (planned, sampled)) in self.in_flight.pop(result).enumerate() {
            let slot = planned.slot;
            let Some(sequence) = self.slots.get(slot, planned.generation) else { continue };
            let id = sequence.id;
            let tokens = match &sampled.tokens {
                Ok(tokens) => tokens,
                Err(NonFinite) if self.restart(slot) => continue,
                Err(error) => {
                    self.finish(id);
                    let token = Err(*error);
                    arrivals.push(Arrival { id, token, at_limit: false, sample });
                    continue;
                }
            };

            let ended = self.append(slot, tokens);
            if ended {
                self.finish(id);
            }
            arrivals.extend(tokens.iter().enumerate().map(|(nth, &token)| {
                let at_limit = ended && nth + 1 == tokens.len();
                Arrival { id, token: Ok(token), at_limit, sample }
            }));
        }
        arrivals
    }

    /// True: the newest of these is the last token that the sequence may have.
    fn append(&mut self, slot: SlotId, tokens: &[TokenId]) -> bool {
        let sequence = &mut self.slots[slot];
        let drafts = sequence.arrive(tokens);
        // Only now: pages with a draft in them may hold what comes to nothing.
        self.kv.register(&mut sequence.table, &sequence.tokens, sequence.fed);
        if tokens.len() <= drafts {
            let length = sequence.fed as u32;
            self.changes.push(SlotChange::Truncate { slot, length });
        }
        if drafts > 0 {
            self.keep_state(slot);
        }
        let sequence = &self.slots[slot];
        let ended = sequence.tokens.len() >= sequence.limit;
        if let Some(speculation) = &mut self.speculation {
            speculation.count(drafts, tokens.len() - 1);
            if drafts > 0 && speculation.asks_a_model() {
                self.slots[slot].drafts.pause_as_others(self.step);
            }
        }
        ended
    }

    /// A sequence without finite logits waits again, to compute everything anew and without the
    /// cache, if it has pages of others: they may be to blame. False: it has none.
    fn restart(&mut self, slot: SlotId) -> bool {
        let sequence = &mut self.slots[slot];
        // NaN may lie in its pages, in those before the token that is to blame too (0 * NaN): who
        // shares only its beginning must not get them.
        self.kv.forget(&sequence.table);
        if sequence.hits == 0 {
            return false;
        }
        sequence.skip_cache = true;
        self.preempt(slot);
        true
    }
}
