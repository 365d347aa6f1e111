//! What is left of a step while it is planned: token rows, and time for prompts. Used by `plan`; it
//! decides how long a chunk of a prompt may be, never whose turn it is.
//!
//! Streams get a token a step, so a step that reads a long prompt is a pause for all of them. And
//! reading the weights takes as long for one row as for some hundreds, so prompts are read for the
//! least where every step of the streams has some of their rows. Streams that began together would
//! also end together, and their successors' prompts would come at once, again and again, between
//! long times without any. So, once it is known what steps cost, prompts get
//!
//! - one and a half times what the step takes without prompts ([`LEAST_SHARE`]);
//! - or the time of an eighth of what waits to be read ([`SOON_STEPS`]), up to two and a half times
//!   the step ([`MORE_SHARE`]), where more comes than the least reads;
//! - or of a 32nd of what waits ([`EVEN_STEPS`]), so that a burst is not kept waiting for long;
//! - in rows that make the step's whole tiles of products ([`TILE_ROWS`]);
//! - `step_ms` at most, as predicted, or four times what the step takes without prompts, if that is
//!   more, so that prompts have three quarters of the time even where a step takes long.
//!
//! A prompt that is read while nobody generates stalls nobody and may fill the step, but others
//! join it as above only: the first would wait for the last. What has the turn always gets a few
//! tokens on. An image costs its vision tower beside its tokens, all of it in the step that feeds
//! the first of them. Models without outputs have no streams: `step_ms` alone cuts there.

use super::config::SchedulerConfig;
use super::cost::{StepCost, StepShape};

/// What a prompt in turn gets in any case.
const LEAST: usize = 16;
/// Longer chunks are multiples, for products in whole tiles.
const TILE: usize = 64;
/// The same of all rows of a step that has at least twice as many: products multiply so many at a
/// time.
const TILE_ROWS: usize = 128;
/// What prompts have at least, in times of the step without them, and what they have where what
/// waits takes more than so many steps: by the clock of tests/sim and on an H200
/// (ci/runs/2026-11-30-h200-sixth.md).
const LEAST_SHARE: f64 = 1.5;
const MORE_SHARE: f64 = 2.5;
const SOON_STEPS: f64 = 8.0;
/// In so many steps a burst is read.
const EVEN_STEPS: f64 = 32.0;
/// Positions that a chunk looks back on may make it so much slower before it gets fewer tokens.
const SLACK: f64 = 1.25;
/// How many times the step without prompts.
const TIMES_DECODE: f64 = 4.0;

/// What is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Demand {
    /// Of single tokens, in the step that is planned.
    pub(super) decodes: StepShape,
    /// Tokens of prompts that are still to be fed, those that wait for a slot too; prefix hits
    /// count as well.
    pub(super) prompt_tokens: usize,
}

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
    /// Left for chunks of prompts.
    left_ms: f64,
    left_rows: usize,
    /// Somebody generates.
    stalls: bool,
    /// No prompt had its chunk yet.
    first: bool,
}

impl StepBudget {
    /// Of a step that is planned for this demand; time is no limit while nobody knows a cost.
    pub(super) fn new(
        config: &SchedulerConfig,
        cost: Option<&StepCost>,
        demand: &Demand,
    ) -> StepBudget {
        let by_time = config.step_ms > 0.0 && config.chunked_prefill;
        let time = cost.filter(|_| by_time).map(|cost| Time::new(config, cost, demand));
        let tokens = config.max_num_batched_tokens;
        let decodes = demand.decodes.rows;
        StepBudget { tokens, decodes, time, shape: StepShape::default() }
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
        if fits >= time.left_rows {
            return if time.left_rows >= LEAST { wanted.min(time.left_rows) } else { 0 };
        }
        // A prompt's short rest is not worth a step of its own.
        if wanted <= fits.saturating_add(fits / 8) {
            return wanted;
        }
        if time.first {
            self.whole_tiles(fits).max(LEAST).min(wanted)
        } else if fits < LEAST {
            0
        } else {
            self.whole_tiles(fits)
        }
    }

    /// At most so many tokens, with which chunk or step are whole tiles.
    fn whole_tiles(&self, tokens: usize) -> usize {
        let others = self.shape.rows + self.decodes;
        let rows = others.saturating_add(tokens);
        let whole = rows - rows % tile_rows(rows);
        if whole >= (2 * TILE_ROWS).max(others + LEAST) {
            whole - others
        } else if tokens > 2 * TILE {
            tokens - tokens % TILE
        } else {
            tokens
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
            time.left_rows = time.left_rows.saturating_sub(tokens);
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

impl Time {
    fn new(config: &SchedulerConfig, cost: &StepCost, demand: &Demand) -> Time {
        let decodes = &demand.decodes;
        let decode_ms = cost.ms(decodes);
        let most_ms = config.step_ms.max(TIMES_DECODE * decode_ms) - decode_ms;
        let mut time = Time {
            cost: *cost,
            left_ms: most_ms,
            left_rows: usize::MAX,
            stalls: decodes.rows > 0,
            first: true,
        };
        if config.pooling {
            return time;
        }

        let waits_ms = cost.per_row * demand.prompt_tokens as f64;
        let share_ms = (waits_ms / SOON_STEPS)
            .clamp(LEAST_SHARE * decode_ms, MORE_SHARE * decode_ms)
            .max(waits_ms / EVEN_STEPS);
        let tokens = cost.tokens_within(share_ms.min(most_ms), 0);
        if let Some(rows) = whole_rows(decodes.rows, tokens) {
            time.left_rows = rows - decodes.rows;
            time.left_ms = most_ms.min(SLACK * cost.chunk_ms(time.left_rows, 0));
        } else {
            time.left_ms = most_ms.min(share_ms);
        }
        time
    }
}

/// Rows of which a step of about so many has multiples: whole tiles, and sizes for which the
/// algorithms of products are chosen, eight for each doubling at most.
fn tile_rows(rows: usize) -> usize {
    (rows.checked_next_power_of_two().unwrap_or(rows) / 8).max(TILE_ROWS)
}

/// The whole tiles that are nearest to rows that stand and about so many tokens beside them. None:
/// fewer than two tiles, or as many as one likes.
fn whole_rows(stand: usize, tokens: usize) -> Option<usize> {
    let rows = stand.checked_add(tokens)?;
    let tile = tile_rows(rows);
    let nearest = rows.checked_add(tile / 2)? / tile * tile;
    let least = (stand + LEAST).next_multiple_of(tile);
    (nearest >= 2 * TILE_ROWS).then_some(nearest.max(least))
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

    /// Where so many tokens of prompts wait.
    fn waiting(step_ms: f64, decodes: usize, prompt_tokens: usize) -> StepBudget {
        let config = SchedulerConfig { step_ms, max_num_batched_tokens: 8192, ..config() };
        let decodes = (0..decodes).fold(StepShape::default(), |shape, _| shape.with_chunk(1, 9));
        StepBudget::new(&config, Some(&COST), &Demand { decodes, prompt_tokens })
    }

    /// Where more wait than there is time for.
    fn budget(step_ms: f64, decodes: usize) -> StepBudget {
        waiting(step_ms, decodes, 1 << 20)
    }

    #[test]
    fn prompts_have_the_time_that_streams_leave() {
        // 20 ms less 4 and 10 x 0.02.
        let mut budget = budget(20.0, 10);
        assert_eq!(budget.in_time(8000, 0), 758, "790, with 10 others in whole tiles");
        assert_eq!(budget.in_time(1, 500), 1);
        budget.take(500, 0);
        assert_eq!(budget.in_time(8000, 0), 258);
        budget.take(250, 0);
        assert_eq!(budget.in_time(8000, 0), 0, "8 tokens are no chunk");
        assert_eq!(budget.in_time(1, 0), 1);
        assert_eq!(budget.shape().rows, 750);
    }

    #[test]
    fn what_waits_is_spread_over_steps() {
        // Of 655 ms a 32nd are 1024 tokens. An eighth of 205 ms is more than two and a half times
        // 4 + 64 x 0.02, of 82 ms less than that, of 10 ms less than one and a half times.
        let rows = [(32_768, 1024), (10_240, 768), (4096, 640), (512, 512)];
        for (prompt_tokens, rows) in rows {
            let mut budget = waiting(250.0, 64, prompt_tokens);
            assert_eq!(budget.in_time(8000, 0), rows - 64, "the nearest whole tiles");
            assert_eq!(budget.in_time(8000, 1 << 20), rows - 64, "no pair has a price");
            budget.take(300, 0);
            assert_eq!(budget.in_time(8000, 0), rows - 364, "of the step, not of each prompt");
            budget.take(rows - 370, 0);
            assert_eq!(budget.in_time(8000, 0), 0, "6 rows are no chunk");
        }
        assert_eq!(waiting(250.0, 250, 32).in_time(8000, 0), 646, "of 896");
        assert_eq!(waiting(250.0, 0, 32_768).in_time(8000, 0), 8000, "nobody generates");
        let pooling = SchedulerConfig { step_ms: 250.0, pooling: true, ..config() };
        let demand = Demand { decodes: StepShape::default().with_chunk(1, 9), prompt_tokens: 512 };
        let budget = StepBudget::new(&pooling, Some(&COST), &demand);
        assert_eq!(budget.in_time(8000, 0), 8000, "nobody ever does");
    }

    /// Few rows, as on a CPU, are not made tiles.
    #[test]
    fn dear_rows_are_given_by_time() {
        let cost = StepCost { fixed: 40.0, per_row: 2.0, ..COST };
        let config = SchedulerConfig { step_ms: 250.0, ..config() };
        let decodes = StepShape::default().with_chunk(1, 9);
        let budget = StepBudget::new(&config, Some(&cost), &Demand { decodes, prompt_tokens: 600 });
        // Two and a half times 42 ms.
        assert_eq!(budget.in_time(600, 0), 52);
        assert_eq!(budget.in_time(57, 0), 57, "a short rest is taken too");
    }

    /// What a chunk looks back on takes rows from it, in whole tiles too.
    #[test]
    fn long_contexts_get_fewer_rows() {
        let cost = StepCost { per_pair: 1e-6, ..COST };
        let config = SchedulerConfig { step_ms: 250.0, ..config() };
        let decodes = StepShape::default().with_chunk(1, 9);
        let budget =
            StepBudget::new(&config, Some(&cost), &Demand { decodes, prompt_tokens: 3200 });
        assert_eq!(budget.in_time(9000, 0), 383);
        assert_eq!(budget.in_time(9000, 4000), 383, "a fifth dearer");
        assert_eq!(budget.in_time(9000, 12_000), 255);
    }

    #[test]
    fn slow_steps_leave_prompts_three_quarters() {
        let budget = budget(1.0, 300);
        // Four times 4 + 300 x 0.02, less that: 30 ms.
        assert_eq!(budget.in_time(8000, 0), 1492, "1500, with 300 others in whole tiles");
    }

    #[test]
    fn what_has_the_turn_always_goes_on() {
        let cost = StepCost { per_row: 1e6, ..COST };
        let config = SchedulerConfig { step_ms: 50.0, ..config() };
        let decodes = StepShape::default().with_chunk(1, 9);
        let demand = Demand { decodes, prompt_tokens: 1000 };
        let mut budget = StepBudget::new(&config, Some(&cost), &demand);
        assert_eq!(budget.in_time(100, 0), LEAST);
        budget.take(LEAST, 0);
        assert_eq!(budget.in_time(100, 0), 0, "the next waits for its turn");
    }

    #[test]
    fn images_take_time_from_tokens() {
        let mut budget = budget(50.0, 10);
        let image = |patches| StepShape::default().with_image(patches);
        // 45.8 ms less 30: 790 tokens, with 10 others in whole tiles.
        assert_eq!(budget.in_time_with(8000, 0, &image(3000)), 758);
        assert_eq!(budget.in_time_with(8000, 0, &image(9000)), LEAST, "it has the turn");
        budget.take(500, 0);
        budget.take_images(&image(3000));
        assert_eq!(budget.in_time(8000, 0), 258, "5.8 ms are left");
        assert_eq!(budget.in_time_with(8000, 0, &image(1000)), 0, "the next one waits");
        assert_eq!(budget.in_time_with(1, 0, &image(1000)), 0, "also with a single token");
        assert_eq!(budget.shape().patches, 3000);
        assert_eq!(budget.shape().patch_pairs, 9_000_000);
    }

    #[test]
    fn nobody_is_stalled_where_nobody_generates() {
        let mut budget = budget(50.0, 0);
        assert_eq!(budget.in_time(8000, 0), 8000);
        budget.take(1948, 0);
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
