//! The results of steps: tokens to their sequences, and what becomes of those whose logits were not
//! finite. Called by `engine`, in the order in which steps were planned.

use super::report::Arrival;
use super::state::Scheduler;
use crate::ids::{SlotId, TokenId};
use crate::plan::StepResult;
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
            let token = sampled.tokens.as_ref().map_err(|&error| error).map(|tokens| {
                let [token] = tokens[..] else { panic!("slot {slot} sampled not one token") };
                token
            });

            let at_limit = match token {
                Ok(token) => self.append(slot, token),
                Err(NonFinite) if self.restart(slot) => continue,
                Err(NonFinite) => false,
            };
            if at_limit || token.is_err() {
                self.finish(id);
            }
            arrivals.push(Arrival { id, token, at_limit, sample });
        }
        arrivals
    }

    /// True: this is the last token that the sequence may have.
    fn append(&mut self, slot: SlotId, token: TokenId) -> bool {
        let sequence = &mut self.slots[slot];
        sequence.arrive(token);
        self.kv.register(&mut sequence.table, &sequence.tokens, sequence.fed);
        sequence.tokens.len() >= sequence.limit
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
