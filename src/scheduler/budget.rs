//! What is left of a step while it is planned: token rows, and time for prompts. Used by `plan`; it
//! decides how long a chunk of a prompt may be, never whose turn it is.
//!
//! Streams get a token a step, so a step that reads a long prompt is a pause for all of them. Once
//! it is known what steps cost, prompts get so many tokens of a step that it takes
//! `step_ms` at most, as predicted; or four times what it would take without prompts, if that
//! is more, so that prompts have three quarters of the time even where a step takes long. A prompt
//! that is read while nobody generates stalls nobody and may fill the step, but no further one
//! joins it past `step_ms`: the first would wait for the last. What has the turn always gets a
//! few tokens on. An image costs its vision tower beside its tokens, all of it in the step that
//! feeds the first of them.

use super::config::SchedulerConfig;
use super::cost::{StepCost, StepShape};

/// What a prompt in turn gets in any case.
const LEAST: usize = 16;
/// Longer chunks are multiples, for products in whole tiles.
const TILE: usize = 64;
/// How many times the step without prompts.
const TIMES_DECODE: f64 = 4.0;

/// Of one step.
#[derive(Debug)]
pub(super) struct StepBudget {
    /// Token rows that are left.
    tokens: usize,
    /// Sequences that are to get a token each and have not yet.
    decodes: usize,
    /// None: prompts are not cut by time.
    time: Option<Time>,
    shape: StepShape,
}

#[derive(Debug)]
struct Time {
    cost: StepCost,
    /// For chunks of prompts.
    left_ms: f64,
    /// Somebody generates.
    stalls: bool,
    /// No prompt had its chunk yet.
    first: bool,
}

impl StepBudget {
    /// Of a step whose single tokens have the shape `decodes`.
    pub(super) fn new(
        config: &SchedulerConfig,
        cost: Option<&StepCost>,
        decodes: &StepShape,
    ) -> StepBudget {
        let by_time = config.step_ms > 0.0 && config.chunked_prefill;
        let time = cost.filter(|_| by_time).map(|cost| {
            let decode_ms = cost.ms(decodes);
            let most = config.step_ms.max(TIMES_DECODE * decode_ms);
            let left_ms = most - decode_ms;
            Time { cost: *cost, left_ms, stalls: decodes.rows > 0, first: true }
        });
        let tokens = config.max_num_batched_tokens;
        StepBudget { tokens, decodes: decodes.rows, time, shape: StepShape::default() }
    }

    /// Token rows that are left.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Token rows that a chunk may have: those behind it are to have their token.
    pub(super) fn tokens_for(&self, wanted: usize) -> usize {
        if wanted <= 1 {
            return self.tokens.min(wanted);
        }
        wanted.min(self.tokens.saturating_sub(self.decodes).max(1)).min(self.tokens)
    }

    /// Of `wanted` tokens behind `fed` positions, how many there is time for.
    pub(super) fn in_time(&self, wanted: usize, fed: usize) -> usize {
        self.in_time_with(wanted, fed, &StepShape::default())
    }

    /// The same with these images to encode. What is in turn gets a few tokens whatever they take:
    /// an image cannot be encoded by parts.
    pub(super) fn in_time_with(&self, wanted: usize, fed: usize, images: &StepShape) -> usize {
        let alone = wanted <= 1 && images.patches == 0;
        let Some(time) = self.time.as_ref().filter(|_| !alone) else { return wanted };
        if time.first && !time.stalls {
            return wanted;
        }

        let left_ms = time.left_ms - time.cost.images_ms(images);
        let fits = time.cost.tokens_within(left_ms, fed);
        // A prompt's short rest is not worth a step of its own.
        if wanted <= fits.saturating_add(fits / 8) {
            return wanted;
        }
        if time.first {
            whole_tiles(fits).max(LEAST).min(wanted)
        } else if fits < LEAST {
            0
        } else {
            whole_tiles(fits)
        }
    }

    /// A chunk is planned.
    pub(super) fn take(&mut self, tokens: usize, fed: usize) {
        self.tokens -= tokens;
        self.shape = self.shape.with_chunk(tokens, fed);
        if tokens == 1 {
            self.decodes = self.decodes.saturating_sub(1);
        } else if let Some(time) = &mut self.time {
            time.left_ms -= time.cost.chunk_ms(tokens, fed);
            time.first = false;
        }
    }

    /// Images that are encoded for the chunk that was planned last.
    pub(super) fn take_images(&mut self, images: &StepShape) {
        self.shape = self.shape.with_images_of(images);
        if let Some(time) = &mut self.time {
            time.left_ms -= time.cost.images_ms(images);
        }
    }

    /// A token and its drafts are planned: they look back on the same positions.
    pub(super) fn take_drafts(&mut self, rows: usize, fed: usize) {
        self.tokens -= rows;
        self.decodes = self.decodes.saturating_sub(1);
        self.shape.rows += rows;
        self.shape.decode_context += fed as u64 + 1;
    }

    /// What was planned.
    pub(super) fn shape(&self) -> StepShape {
        self.shape
    }
}

/// At most so many tokens.
fn whole_tiles(tokens: usize) -> usize {
    if tokens > 2 * TILE {
        tokens - tokens % TILE
    } else {
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    const COST: StepCost = StepCost {
        fixed: 4.0,
        per_row: 0.02,
        per_context: 0.0,
        per_pair: 0.0,
        per_patch: 0.01,
        per_patch_pair: 0.0,
    };

    fn budget(step_ms: f64, decodes: usize) -> StepBudget {
        let config = SchedulerConfig { step_ms, max_num_batched_tokens: 8192, ..config() };
        let decodes = (0..decodes).fold(StepShape::default(), |shape, _| shape.with_chunk(1, 9));
        StepBudget::new(&config, Some(&COST), &decodes)
    }

    #[test]
    fn prompts_have_the_time_that_streams_leave() {
        // 50 ms less 4 and 10 x 0.02.
        let mut budget = budget(50.0, 10);
        assert_eq!(budget.in_time(8000, 0), 2240, "2290 in whole tiles");
        assert_eq!(budget.in_time(2400, 0), 2400, "a short rest is taken too");
        assert_eq!(budget.in_time(1, 500), 1);
        budget.take(2000, 0);
        assert_eq!(budget.in_time(8000, 0), 256);
        budget.take(282, 0);
        assert_eq!(budget.in_time(8000, 0), 0, "8 tokens are no chunk");
        assert_eq!(budget.in_time(1, 0), 1);
        assert_eq!(budget.shape().rows, 2282);
    }

    #[test]
    fn slow_steps_leave_prompts_three_quarters() {
        let budget = budget(1.0, 300);
        // Four times 4 + 300 x 0.02, less that: 30 ms.
        assert_eq!(budget.in_time(8000, 0), 1472);
    }

    #[test]
    fn what_has_the_turn_always_goes_on() {
        let cost = StepCost { per_row: 1e6, ..COST };
        let config = SchedulerConfig { step_ms: 50.0, ..config() };
        let decodes = StepShape::default().with_chunk(1, 9);
        let mut budget = StepBudget::new(&config, Some(&cost), &decodes);
        assert_eq!(budget.in_time(100, 0), LEAST);
        budget.take(LEAST, 0);
        assert_eq!(budget.in_time(100, 0), 0, "the next waits for its turn");
    }

    #[test]
    fn images_take_time_from_tokens() {
        let mut budget = budget(50.0, 10);
        let image = |patches| StepShape::default().with_image(patches);
        // 45.8 ms less 30: 790 tokens.
        assert_eq!(budget.in_time_with(8000, 0, &image(3000)), 768);
        assert_eq!(budget.in_time_with(8000, 0, &image(9000)), LEAST, "it has the turn");
        budget.take(500, 0);
        budget.take_images(&image(3000));
        assert_eq!(budget.in_time(8000, 0), 256, "5.8 ms are left");
        assert_eq!(budget.in_time_with(8000, 0, &image(1000)), 0, "the next one waits");
        assert_eq!(budget.in_time_with(1, 0, &image(1000)), 0, "also with a single token");
        assert_eq!(budget.shape().patches, 3000);
        assert_eq!(budget.shape().patch_pairs, 9_000_000);
    }

    #[test]
    fn nobody_is_stalled_where_nobody_generates() {
        let mut budget = budget(50.0, 0);
        assert_eq!(budget.in_time(8000, 0), 8000);
        budget.take(2200, 0);
        assert_eq!(budget.in_time(500, 0), 100, "but others do not join for long");
        budget.take(100, 0);
        assert_eq!(budget.in_time(500, 0), 0);
    }

    #[test]
    fn rows_are_kept_for_those_behind() {
        let mut budget = budget(0.0, 5);
        assert_eq!(budget.tokens_for(9000), 8187);
        budget.take(1, 9);
        budget.take(8000, 0);
        assert_eq!(budget.tokens_for(9000), 187);
        assert_eq!(budget.tokens_for(1), 1);
        assert_eq!(budget.in_time(9000, 0), 9000, "time is no limit");
    }
}
