//! Prompts that begin alike and come at the same time: the first is read, the others wait for its
//! pages. Called by `plan` before it admits a sequence.
//!
//! Pages can be hit from the step behind the one that fills them. So of sixteen requests with one
//! system prompt that came together, all that fit the step would read it anew. Instead a sequence
//! waits one step where the step that is being planned fills pages that it could hit, and reading
//! those itself is predicted to take longer than the step that it waits for: its tokens' time
//! against the fixed part of a step. It waits at its place and nobody overtakes it, and never
//! longer than that one step for a prefix, since nobody waits for a prefix that is only begun.

use super::sequence::Sequence;
use super::state::Scheduler;
use crate::ids::PageId;
use crate::plan::{Feed, StepPlan};

/// Tokens that are worth a step as long as nobody knows what so many cost.
const WORTH_A_STEP: usize = 256;

impl Scheduler {
    /// The sequence, which has `hits` now, does better to be admitted in the next step.
    pub(super) fn waits_for_pages(
        &self,
        sequence: &Sequence,
        hits: &[PageId],
        plan: &StepPlan,
    ) -> bool {
        // A state is hit where a copy of it is kept, and that may be elsewhere.
        if sequence.skip_cache || self.config.state.is_some() {
            return false;
        }

        let size = self.config.page_size;
        let filled = plan.chunks.iter().filter(|chunk| match &chunk.feed {
            Feed::Known(range) => range.len() > 1,
            Feed::LastSampled => false,
        });
        let shared = filled.map(|chunk| {
            let other = &self.slots[chunk.slot];
            let pages = sequence.table.shared_pages(&other.table);
            if other.fed >= pages * size {
                pages
            } else {
                0
            }
        });
        let saved = shared.max().unwrap_or(0).saturating_sub(hits.len()) * size;
        self.is_worth_a_step(saved, hits.len() * size)
    }

    /// So many tokens behind `fed` positions take longer than what each step takes.
    fn is_worth_a_step(&self, tokens: usize, fed: usize) -> bool {
        match self.costs.cost().filter(|_| self.costs.has_seen(tokens)) {
            _ if tokens == 0 => false,
            Some(cost) => cost.chunk_ms(tokens, fed) > cost.fixed,
            None => tokens >= WORTH_A_STEP,
        }
    }
}

#[cfg(test)]
#[path = "shared_prefix_tests.rs"]
mod tests;
